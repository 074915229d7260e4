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

    A change runs inside the transaction that locks its row: refused by Redis, it is not recorded
    either, and two operators change a counter one after the other. A crash between the two leaves
    Redis ahead of the record, which `get` shows and `set` mends.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket

    async def get(self, sku: str) -> StockLevel:
        async with self.ledger.stock_change(self.bucket.tenant, sku) as change:
            return StockLevel(sku, change.received, await self.shelf.stock(self.bucket, sku))

    async def set(self, sku: str, units: int) -> StockLevel:
        async with self.ledger.stock_change(self.bucket.tenant, sku) as change:
            await change.record(units)
            return StockLevel(sku, units, await self.shelf.set_stock(self.bucket, sku, units))

    async def add(self, sku: str, units: int) -> StockLevel:
        async with self.ledger.stock_change(self.bucket.tenant, sku) as change:
            received = change.received + units
            if received < 0:
                raise OutOfStock(sku, change.received, 0)
            await change.record(received)
            return StockLevel(sku, received, await self.shelf.add_stock(self.bucket, sku, units))
