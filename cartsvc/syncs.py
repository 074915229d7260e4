"""Syncs: a change is acknowledged once Redis's append-only file, which has it, is on the disk.

WAITAOF waits for what its own connection wrote, and lets nothing else through meanwhile. So it has
a connection for itself, and a write of its own goes before it: that stands in the file behind all
that Redis executed until then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cartsvc.errors import Busy, OutcomeUnknown, Refused
from cartsvc.link import Link, ReplyError, pack

T = TypeVar("T")

TIMEOUT_S = 3.0
"""Longest wait of a change for the disk. With `appendfsync everysec` a sync takes up to a second,
and a change that comes while one is under way takes the next."""


class Syncs:
    """One sync at a time, for all who wait when it begins; who comes meanwhile takes the next.

    `key` is what is written. At most `in_flight` changes are under way.
    """

    def __init__(self, link: Link, key: str, *, in_flight: int) -> None:
        self.link = link
        self.in_flight = in_flight
        self._requests = requests(key, round(TIMEOUT_S * 1000))
        self._under_way = 0
        self._current: asyncio.Task[str] | None = None
        self._next: asyncio.Task[str] | None = None

    async def aclose(self) -> None:
        for sync in (self._current, self._next):
            if sync is not None:
                sync.cancel()
        await self.link.aclose()

    async def after(self, change: Callable[[], Awaitable[T]]) -> T:
        """What a change gives, or is refused with, once that is on the disk.

        Raises:
            Busy: too many are under way; the change was not begun.
            OutcomeUnknown: it may not be on the disk.
        """
        if self._under_way >= self.in_flight:
            raise Busy(self.in_flight)
        self._under_way += 1
        try:
            try:
                outcome = await change()
            except Refused:
                # A refusal may have been written down, too.
                await self.synced()
                raise
            await self.synced()
            return outcome
        finally:
            self._under_way -= 1

    async def synced(self) -> None:
        """Return once all that Redis has executed so far is on its disk.

        Raises:
            OutcomeUnknown: it may not be.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._sync(self._current))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                # Whoever leaves before it is done leaves the others waiting.
                failure = await asyncio.shield(self._next)
        except TimeoutError:
            failure = f"its file was not synced within {TIMEOUT_S} s"
        if failure:
            raise OutcomeUnknown(failure)

    async def _sync(self, before: "asyncio.Task[str] | None") -> str:
        """One sync, after the one before; returns why it failed, if it did."""
        if before is not None:
            await before
        # From here on, whoever comes takes the next.
        self._current, self._next = self._next, None
        try:
            _, (local, _) = await asyncio.gather(*map(self.link.send, self._requests))
        except (ReplyError, OutcomeUnknown, Busy) as error:
            return f"its file may not be synced: {error}"
        return "" if local else f"its file was not synced within {TIMEOUT_S} s"


def requests(key: str, timeout_ms: int) -> tuple[bytes, bytes]:
    """A sync as it is sent: its replies are any, and how many files on disk have it, here and on
    replicas."""
    return pack(("SET", key, "")), pack(("WAITAOF", 1, 0, timeout_ms))
