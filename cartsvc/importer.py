"""Bringing a catalogue file into PostgreSQL, and from there what an add needs into Redis."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from cartsvc import catalog, stock
from cartsvc.catalog import Product
from cartsvc.errors import NotWarm, StockHeld
from cartsvc.keys import Bucket
from cartsvc.ledger import CatalogueChange, Ledger
from cartsvc.rows import Row
from cartsvc.shelf import Shelf

BATCH = 500
"""Products a transaction."""


@dataclass(slots=True)
class Imported:
    products: int = 0
    counters: int = 0
    bad_rows: int = 0


class Importer:
    """Imports files of one bucket. Running one again mends what a broken run left half done."""

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket, currency: str) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket
        self.currency = currency

    async def run(
        self,
        rows: Iterable[Row],
        *,
        set_stock: bool = False,
        on_bad_row: Callable[[int, str], None] = lambda _line, _problem: None,
        on_batch: Callable[[int], None] = lambda _products: None,
    ) -> Imported:
        """Import all good rows, telling `on_bad_row` of the others.

        Stock counts for SKUs that have no counter yet, or with `set_stock` for all that are named.

        Raises:
            NotWarm: PostgreSQL knows this bucket, but Redis does not have it.
        """
        await self._open()
        done = Imported()

        def refuse(line: int, problem: str) -> None:
            done.bad_rows += 1
            on_bad_row(line, problem)

        products = self._products(rows, refuse)
        while batch := list(islice(products, BATCH)):
            # Two rows with one id: the later one counts.
            last = {product.id: (line, product) for line, product in batch}
            async with self.ledger.catalogue_change(self.bucket.tenant) as change:
                chosen = [product for _, product in last.values()]
                counters = await change.put_products(self.currency, chosen)
                if set_stock:
                    done.counters += await self._set_stock(change, last.values(), refuse)
                done.counters += await self.shelf.put(self.bucket, chosen, counters)
            done.products += len(last)
            on_batch(len(last))
        await self.shelf.synced()
        return done

    async def _set_stock(
        self,
        change: CatalogueChange,
        products: Iterable[tuple[int, Product]],
        refuse: Callable[[int, str], None],
    ) -> int:
        """Set the stock that products name; returns how many counters' could be set."""
        named = {
            sku: (units, line) for line, product in products for sku, units in product.stock_of()
        }
        stocks = [(sku, units) for sku, (units, _) in named.items()]
        results = await stock.correct(change, self.shelf, self.bucket, stocks)
        held = [result for result in results if isinstance(result, StockHeld)]
        for result in held:
            units, line = named[result.sku]
            refuse(line, f"stock {units} of {result.sku} is less than carts hold, {result.held}")
        return len(results) - len(held)

    async def _open(self) -> None:
        """Make a new bucket warm; one that PostgreSQL knows has to be, or Redis has lost it."""
        if await self.ledger.has_bucket(self.bucket):
            if not await self.shelf.is_warm(self.bucket):
                raise NotWarm
            return
        # Redis first: broken off in between, the next import finds a bucket that is still new.
        await self.shelf.open(self.bucket)
        await self.ledger.open_bucket(self.bucket)

    def _products(
        self, rows: Iterable[Row], refuse: Callable[[int, str], None]
    ) -> Iterator[tuple[int, Product]]:
        """Good rows' products, each with its line."""
        for line, row, problem in rows:
            if row is None:
                refuse(line, problem)
                continue
            try:
                yield line, catalog.product(row, self.currency)
            except ValueError as error:
                refuse(line, str(error))
