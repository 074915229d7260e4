"""Stock as an operator changes it: PostgreSQL records what was received, Redis keeps the books.

Units that come in are recorded before carts may take them, units that go out are taken out of Redis
first: a cart is only ever written with units sold that PostgreSQL has received.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cartsvc.errors import StockHeld
from cartsvc.keys import Bucket
from cartsvc.ledger import CatalogueChange, Ledger
from cartsvc.model import MAX_QUANTITY, StockLevel
from cartsvc.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Recorded:
    """`received` is what PostgreSQL records, `level` what Redis counts, None if it does not."""

    sku: str
    received: int
    level: StockLevel | None


class Stock:
    """The counters of one bucket.

    Changes of one tenant's stock, and imports, come one after the other. A crash in the midst of
    one may leave the record above what Redis counts, which `get` shows and the next change mends.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket

    async def get(self, sku: str) -> Recorded:
        received = await self.ledger.recorded_stock(self.bucket.tenant, sku)
        return Recorded(sku, received, await self.shelf.stock(self.bucket, sku))

    async def set(self, sku: str, units: int) -> Recorded:
        """Correct the units on hand, free and held.

        Raises:
            StockHeld: carts hold more than that.
        """
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            await change.recorded_stock(sku)
            [level] = await correct(change, self.shelf, self.bucket, [(sku, units)])
        if isinstance(level, StockHeld):
            raise level
        await self.shelf.synced()
        return Recorded(sku, level.received, level)

    async def add(self, sku: str, units: int) -> Recorded:
        """Take a delivery in; or, as a correction, units out as far as they are free."""
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            await change.recorded_stock(sku)
            before = await self.shelf.stock(self.bucket, sku)
            # What can't be taken in, the script refuses; nobody else brings more meanwhile.
            if before and units > 0 and before.on_hand + units <= MAX_QUANTITY:
                await change.receive([(sku, units)])
            level = await self.shelf.add_stock(self.bucket, sku, units)
            await change.record_stock([level])
        await self.shelf.synced()
        return Recorded(sku, level.received, level)


async def correct(
    change: CatalogueChange, shelf: Shelf, bucket: Bucket, stocks: Sequence[tuple[str, int]]
) -> list[StockLevel | StockHeld]:
    """Set the units on hand of counters, (SKU, units) each; a refusal is returned in place."""
    before = await shelf.stocks(bucket, [sku for sku, _ in stocks])
    on_hand = [level.on_hand if level else 0 for level in before]
    rises = [
        (sku, units - had)
        for (sku, units), had in zip(stocks, on_hand, strict=True)
        if had < units <= MAX_QUANTITY
    ]
    await change.receive(rises, corrected=True)
    results = await shelf.set_stocks(bucket, stocks)
    await change.record_stock([level for level in results if isinstance(level, StockLevel)])
    return results
