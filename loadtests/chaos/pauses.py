"""What must hold while the sale is paused, by when requests began and when they were answered."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Told = Literal["ok", "failed", "unknown", "paused"]


class Asked(NamedTuple):
    """A request, and what its shopper was told. `is_more` says that it would put units into a cart.

    It began when what was carried out was sent first, at the earliest.
    """

    begun_s: float
    ended_s: float
    is_more: bool
    told: Told


class Pause(NamedTuple):
    """When the operator asked for it, and was told that it is; and the same of its end."""

    asked_s: float
    told_s: float
    end_asked_s: float
    end_told_s: float

    def covers(self, one: Asked) -> bool:
        return self.told_s <= one.begun_s and one.ended_s <= self.end_asked_s

    def touches(self, one: Asked) -> bool:
        return self.asked_s <= one.ended_s and one.begun_s <= self.end_told_s


def covered(asked: Iterable[Asked], pauses: Sequence[Pause]) -> list[Asked]:
    """What was asked and answered while the sale was surely paused."""
    return [one for one in asked if any(pause.covers(one) for pause in pauses)]


def wrong(asked: Sequence[Asked], pauses: Sequence[Pause]) -> list[str]:
    """Units that came in although the sale was paused, and who was refused although it was not."""
    let_in = [
        f"more was granted that was asked for {_after(one, pauses):.3f} s into a pause"
        for one in covered(asked, pauses)
        if one.is_more and one.told == "ok"
    ]
    kept_out = [
        "refused for a pause, and there was none"
        for one in asked
        if one.told == "paused" and not any(pause.touches(one) for pause in pauses)
    ]
    return let_in + kept_out


def _after(one: Asked, pauses: Sequence[Pause]) -> float:
    return min(one.begun_s - pause.told_s for pause in pauses if pause.covers(one))
