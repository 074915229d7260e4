"""Stock as an operator changes it: PostgreSQL records what was received, Redis keeps the books."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import StockLevel
from cartsvc.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Recorded:
    """`received` is what PostgreSQL records, `level` what Redis counts, None if it does not."""

    sku: str
    received: int
    level: StockLevel | None


class Stock:
    """The counters of one bucket.

    Redis decides a change, and PostgreSQL records what was received after it. Changes of one
    tenant's stock, and imports, come one after the other. A crash between the two leaves Redis
    ahead of the record, which `get` shows and the next change mends.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket

    async def get(self, sku: str) -> Recorded:
        received = await self.ledger.recorded_stock(self.bucket.tenant, sku)
        return Recorded(sku, received, await self.shelf.stock(self.bucket, sku))

    async def set(self, sku: str, units: int) -> Recorded:
        """Set the units on hand, free and held.

        Raises:
            StockHeld: carts hold more than that.
        """
        return await self._change(sku, units, self.shelf.set_stock)

    async def add(self, sku: str, units: int) -> Recorded:
        """Take units in, or out as far as they are free."""
        return await self._change(sku, units, self.shelf.add_stock)

    async def _change(
        self, sku: str, units: int, script: Callable[[Bucket, str, int], Awaitable[StockLevel]]
    ) -> Recorded:
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            await change.recorded_stock(sku)
            level = await script(self.bucket, sku, units)
            await self.shelf.synced()
            await change.record_stock([level])
        return Recorded(sku, level.received, level)
