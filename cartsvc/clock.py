"""The clock: Redis's time, carried on by the monotonic clock of this process.

Processes that ask one Redis agree within a round trip, whatever their own clocks say, and a wall
clock that is set while a process runs changes nothing.
"""

import time
from collections.abc import Callable
from typing import Any

from cartsvc.errors import OutcomeUnknown


def wall_ms() -> int:
    """The process's own time: for what it tells by itself, never for what is kept in Redis."""
    return time.time_ns() // 1_000_000


class Clock:
    """Tells Redis's time from the first reply to TIME on; `is_known` says whether there was one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.is_known = False
        self.monotonic = monotonic
        self._offset_s = 0.0

    def ms(self) -> int:
        """Now.

        Raises:
            OutcomeUnknown: Redis has not told it yet.
        """
        if not self.is_known:
            raise OutcomeUnknown("Redis has not told its time yet")
        return int((self._offset_s + self.monotonic()) * 1000)

    def set(self, reply: Any, asked_s: float) -> None:
        """Take the reply to a TIME that was asked for at `asked_s`, on the monotonic clock.

        Redis read its clock somewhere within the round trip: in the middle, it is said at first.
        Later the time moves only as far as it has to. So it follows a Redis whose clock was set,
        back too, and a reply that was long under way does not disturb it.

        Raises:
            OutcomeUnknown: it is no time.
        """
        match reply:
            case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
                told_s = int(seconds) + int(micros) / 1_000_000
            case _:
                raise OutcomeUnknown(f"Redis does not tell its time but {reply!r}")
        least, most = told_s - self.monotonic(), told_s - asked_s
        if self.is_known:
            self._offset_s = min(max(self._offset_s, least), most)
        else:
            self._offset_s = (least + most) / 2
            self.is_known = True
