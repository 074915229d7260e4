"""How long shoppers waited for their answers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Window = tuple[float, float]
"""From when to before when, in seconds of the performance counter."""

Windows = Sequence[Window]

_GRANTED = range(200, 300)


class Wait(NamedTuple):
    """A request: when it was due, and when it was answered."""

    begun_s: float
    ended_s: float
    status: int


class Waits(list[Wait]):
    """Of all requests, in the order of their answers."""

    def within(self, *windows: Window) -> list[Wait]:
        """Those that were due in one of the windows."""
        return [one for one in self if any(first <= one.begun_s < last for first, last in windows)]

    def p99_s(self, windows: Windows) -> float:
        """How long all but a hundredth waited, of those who were granted what they asked for; where
        nobody was, without an end."""
        took = sorted(
            one.ended_s - one.begun_s for one in self.within(*windows) if one.status in _GRANTED
        )
        return took[int(len(took) * 0.99)] if took else math.inf
