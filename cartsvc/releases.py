"""Making way: holds that have run out are released for those who want the units now."""

import asyncio
from collections.abc import Awaitable, Callable

from cartsvc.keys import Bucket

Find = Callable[[Bucket, str], Awaitable[list[bytes]]]
Release = Callable[[Bucket, list[bytes]], Awaitable[int]]


class Releases:
    """At most one release a counter at a time in a process: whoever comes meanwhile waits for it.

    In a rush everybody finds the same holds in the way; released by each, they would cost
    everybody's time and serve a few.
    """

    def __init__(self, find: Find, release: Release) -> None:
        self.find = find
        self.release = release
        self._under_way: dict[tuple[str, str], _UnderWay] = {}

    async def make_way(self, bucket: Bucket, counter: str) -> bool:
        """Release a hold on the counter for everybody who waits, as far as there are.

        Returns False if one that has run out is not to be released.
        """
        name = (bucket.holds_by_sku, counter)
        under_way = self._under_way.get(name)
        if under_way is None:
            under_way = self._under_way[name] = _UnderWay()
            under_way.task = asyncio.create_task(self._work(bucket, counter, under_way))
            under_way.task.add_done_callback(lambda task: self._done(name, task))
        under_way.waiting += 1
        # Whoever leaves before it is done leaves the others waiting.
        return await asyncio.shield(under_way.task)

    async def _work(self, bucket: Bucket, counter: str, under_way: "_UnderWay") -> bool:
        total = released = 0
        carts: list[bytes] = []
        while total < under_way.waiting:
            before, carts = carts, await self.find(bucket, counter)
            if carts and carts == before and not released:
                return False
            if not carts:
                break
            released = await self.release(bucket, carts)
            total += released
        return True

    def _done(self, name: tuple[str, str], task: "asyncio.Task[bool]") -> None:
        del self._under_way[name]
        if not task.cancelled():
            # Known to those who wait; if they all have left, to nobody.
            task.exception()


class _UnderWay:
    task: "asyncio.Task[bool]"
    waiting = 0
