"""What a process remembers for a moment: SKUs of which no unit is free, all held by carts.

Sold out is what a sale answers most, so it is to be the cheapest answer. A script that found a SKU
sold out says when the first of the holds on it runs out; until then, and for at most `memory_ms`,
the process says so by itself. Whatever it does itself that may free units ends that; what others
free is found a moment later.
"""

from collections.abc import Callable, Iterable

from cartsvc.errors import SoldOut
from cartsvc.keys import Bucket

_MOST = 10_000
"""SKUs that are remembered of a bucket, and buckets, which may be no more than names that somebody
made up; past it, what is known is dropped."""


class SoldOutSkus:
    """`memory_ms` 0 remembers nothing."""

    def __init__(self, memory_ms: int, clock_ms: Callable[[], int]) -> None:
        self.memory_ms = memory_ms
        self.clock_ms = clock_ms
        self._buckets: dict[tuple[str, int], dict[str, int]] = {}

    def of(self, bucket: Bucket) -> dict[str, int]:
        """What is known of a bucket now, SKU -> until when (ms): for `refuse`, and `remember`."""
        place = (bucket.tenant, bucket.number)
        known = self._buckets.get(place)
        if known is None:
            if len(self._buckets) >= _MOST:
                self._buckets.clear()
            known = self._buckets[place] = {}
        return known

    def refuse(self, known: dict[str, int], skus: Iterable[str]) -> None:
        """Raise SoldOut if one of the SKUs is known to be."""
        for sku in skus:
            until_ms = known.get(sku)
            # Never for longer, whatever the clock does.
            if until_ms is not None and 0 < until_ms - self.clock_ms() <= self.memory_ms:
                raise SoldOut(sku, until_ms)

    def remember(self, known: dict[str, int], error: SoldOut) -> None:
        """Note what a script said; `known` is what was known when it was asked.

        If the bucket was forgotten meanwhile, that is in vain, as it should be.
        """
        if len(known) >= _MOST:
            known.clear()
        until_ms = self.clock_ms() + self.memory_ms
        known[error.sku] = min(until_ms, error.until_ms or until_ms)

    def forget(self, bucket: Bucket) -> None:
        """Units of the bucket may come free by what is going to be asked."""
        self._buckets.pop((bucket.tenant, bucket.number), None)
