"""The phases of a sale, and how many shoppers are there at any time of it."""

from collections.abc import Sequence
from typing import NamedTuple


class Phase(NamedTuple):
    """`share` is of the time of all phases, `begins` and `ends` of the most shoppers there are."""

    name: str
    share: float
    begins: float
    ends: float


OPENING_NAME = "opening"

SALE = (
    Phase("quiet", 0.20, 0.1, 0.1),
    Phase("minute before", 0.20, 0.1, 0.4),
    Phase(OPENING_NAME, 0.25, 1.0, 1.0),
    Phase("tail", 0.35, 0.5, 0.1),
)
"""At its opening ten times as many shoppers as on a quiet day."""

OPENING = (Phase(OPENING_NAME, 0.6, 1.0, 1.0), Phase("tail", 0.4, 0.5, 0.1))
"""From nothing to everything: what a service that was just started has to stand."""

BY_NAME = {"Sale": SALE, "Opening": OPENING}


def users_at(phases: Sequence[Phase], at_s: float, *, seconds: float, users: int) -> int | None:
    """Shoppers at a time of a sale of `seconds`, `users` at the most; None once it is over."""
    begin_s = 0.0
    for phase in phases:
        length_s = phase.share * seconds
        if at_s < begin_s + length_s:
            passed = max(at_s - begin_s, 0.0) / length_s
            return max(1, round(users * (phase.begins + passed * (phase.ends - phase.begins))))
        begin_s += length_s
    return None


def begins(phases: Sequence[Phase], seconds: float) -> dict[str, float]:
    """When each phase begins, in seconds."""
    found, begin_s = {}, 0.0
    for phase in phases:
        found[phase.name] = begin_s
        begin_s += phase.share * seconds
    return found
