"""Stock as an operator changes it: PostgreSQL records it, Redis counts it."""

from dataclasses import dataclass

from cartsvc.errors import OutOfStock
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.shelf import Shelf


@dataclass(frozen=True, slots=True)
class StockLevel:
    """`received` is what PostgreSQL records, `free` what Redis counts."""

    sku: str
    received: int
    free: int | None


class Stock:
    """The counters of one bucket.

    A change runs inside the transaction that records it: refused by Redis, it is not recorded
    either. Changes of one tenant's stock, and imports, come one after the other. A crash between
    the two leaves Redis ahead of the record, which `get` shows and `set` mends.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket

    async def get(self, sku: str) -> StockLevel:
        received = await self.ledger.recorded_stock(self.bucket.tenant, sku)
        return StockLevel(sku, received, await self.shelf.stock(self.bucket, sku))

    async def set(self, sku: str, units: int) -> StockLevel:
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            await change.recorded_stock(sku)
            async with change.recording_stock(sku, units):
                free = await self.shelf.set_stock(self.bucket, sku, units)
        return StockLevel(sku, units, free)

    async def add(self, sku: str, units: int) -> StockLevel:
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            received = await change.recorded_stock(sku) + units
            if received < 0:
                raise OutOfStock(sku, received - units, 0)
            async with change.recording_stock(sku, received):
                free = await self.shelf.add_stock(self.bucket, sku, units)
        return StockLevel(sku, received, free)
