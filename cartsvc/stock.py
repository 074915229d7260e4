"""Stock as an operator changes it: PostgreSQL records what was received, Redis keeps the books.

Units that come in are recorded before carts may take them, units that go out are taken out of Redis
first: a cart is only ever written with units sold that PostgreSQL has received.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cartsvc.errors import Invalid, StockHeld
from cartsvc.keys import Bucket
from cartsvc.ledger import CatalogueChange, Ledger
from cartsvc.model import MAX_QUANTITY, Once, StockLevel
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

    async def add(self, sku: str, units: int, once: Once | None = None) -> Recorded:
        """Take a delivery in; or, as a correction, units out as far as they are free.

        A request with an idempotency key is carried out once, and gives the same again.
        """
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            await change.recorded_stock(sku)
            level = await self._added_before(change, sku, once)
            if level is None:
                level = await self._add(change, sku, units, once)
        await self.shelf.synced()
        return Recorded(sku, level.received, level)

    async def _add(
        self, change: CatalogueChange, sku: str, units: int, once: Once | None
    ) -> StockLevel:
        before = await self.shelf.stock(self.bucket, sku)
        # Nobody else brings more meanwhile; what else stands against it, the script says.
        if before and before.on_hand + units > MAX_QUANTITY:
            raise Invalid("units", f"must leave at most {MAX_QUANTITY} on hand")
        if before and units > 0:
            await change.receive([(sku, units)])
        level = await self.shelf.add_stock(self.bucket, sku, units, once)
        await change.record_stock([level])
        return level

    async def _added_before(
        self, change: CatalogueChange, sku: str, once: Once | None
    ) -> StockLevel | None:
        """The counter as it was when the request came first; None if it comes first now.

        Looked up before PostgreSQL records a delivery that does not come twice. It may lack the
        first one, if that was broken off behind the script: so it is told what Redis counts.
        """
        if once is None:
            return None
        level = await self.shelf.added_before(self.bucket, sku, once)
        now = await self.shelf.stock(self.bucket, sku) if level else None
        if now is not None:
            await change.record_stock([now])
        return level


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
