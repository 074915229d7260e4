"""The lines that hold units of a counter, however many they are, and what they hold in all."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from cartsvc.findings import number_of, text_of
from cartsvc.keys import Bucket

_AT_ONCE = 1_000
"""Lines that are read in one round trip, which takes Redis a millisecond or two."""


class HeldLine(NamedTuple):
    """A line as the counter's index names it, and the key of its cart."""

    sku: str
    key: str


class HeldLines:
    """Reads of one bucket."""

    def __init__(self, redis: Any, bucket: Bucket) -> None:
        self.redis = redis
        self.bucket = bucket

    async def of(self, counter: str, most: int | None = None) -> list[HeldLine]:
        """Lines of a counter, at most so many."""
        found: list[HeldLine] = []
        async for some in self._pages(counter):
            found += some
            if most is not None and len(found) >= most:
                return found[:most]
        return found

    async def _pages(self, counter: str) -> AsyncIterator[list[HeldLine]]:
        start, end = f"[{counter} ".encode(), f"({counter}!".encode()
        while True:
            names = await self.redis.zrange(
                self.bucket.holds_by_sku, start, end, bylex=True, offset=0, num=_AT_ONCE
            )
            yield [_held_line(text_of(name)) for name in names]
            if len(names) < _AT_ONCE:
                return
            start = b"(" + names[-1]

    async def units_at_rest(self, counter: str) -> tuple[list[bytes | None], int] | None:
        """The counter's units free, held, sold and received, and those in carts, at one instant.

        None where a cart came, went or changed while all were read.
        """
        bucket = self.bucket
        lines = await self.of(counter)
        before = await self._states(lines)
        async with self.redis.pipeline(transaction=True) as instant:
            for key in (bucket.stock, bucket.held, bucket.sold, bucket.received):
                instant.hget(key, counter)
            instant.zlexcount(bucket.holds_by_sku, f"[{counter} ", f"({counter}!")
            *units, count = await instant.execute()
        if count != len(lines) or before != await self._states(lines):
            return None
        return units, sum(_held(counter, state) for state in before.values())

    async def _states(self, lines: Sequence[HeldLine]) -> dict[HeldLine, list[bytes | None]]:
        """Of each line its cart's version, what it holds, and its units.

        What can't be read is an error, which is never the same twice.
        """
        states: dict[HeldLine, list[bytes | None]] = {}
        for start in range(0, len(lines), _AT_ONCE):
            some = lines[start : start + _AT_ONCE]
            asked = self.redis.pipeline(transaction=False)
            for sku, key in some:
                asked.hmget(key, "version", f"h:{sku}", f"q:{sku}")
            states |= zip(some, await asked.execute(raise_on_error=False), strict=True)
        return states


def _held(counter: str, state: Sequence[bytes | None]) -> int:
    _, hold, units = state
    if hold is None or text_of(hold).partition(" ")[2] != counter:
        return 0
    return number_of(units) or 0


def _held_line(name: str) -> HeldLine:
    # Somebody else's hand may have written it.
    _, _, sku, key = (*name.split(" ", 3), "", "", "")[:4]
    return HeldLine(sku, key)
