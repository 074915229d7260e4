"""What Redis keeps of catalogue and stock: the records that an add reads, and the counters."""

from collections.abc import Mapping, Sequence

from cartsvc.catalog import Product, records
from cartsvc.errors import CartError, NoCounter, StockHeld
from cartsvc.keys import Bucket
from cartsvc.model import StockLevel
from cartsvc.scripts import Argument, Runner


class Shelf:
    """Records and counters of every bucket.

    Every method raises the `Refused` or `Unavailable` error that a script's reply stands for, or
    `OutcomeUnknown`.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    async def open(self, bucket: Bucket) -> None:
        """Make a new bucket warm: its first cart takes the id after its number."""
        await self.runner.run("bucket_open", [bucket.seq], [bucket.number])

    async def synced(self) -> None:
        """Wait for the disk, if what was changed is to be there before it is acknowledged."""
        await self.runner.synced()

    async def is_warm(self, bucket: Bucket) -> bool:
        return await self.runner.value(bucket.seq) is not None

    async def put(
        self, bucket: Bucket, products: Sequence[Product], counters: Mapping[str, int]
    ) -> int:
        """Write products, each in one script; `counters` has the stock of SKUs with a counter.

        A counter that Redis does not know takes its stock from there; returns how many did. Of a
        SKU whose price changed, the carts that hold it are marked for the worker to visit.
        """
        calls = [self._put(bucket, product, counters) for product in products]
        return sum(await self.runner.run_many("product_put", calls))

    @staticmethod
    def _put(
        bucket: Bucket, product: Product, counters: Mapping[str, int]
    ) -> tuple[list[str], list[Argument]]:
        about = records(product, counters)
        arguments: list[Argument] = [product.id, len(about)]
        for record in about.items():
            arguments += record
        for sku in product.skus():
            if sku in counters:
                arguments += (sku, counters[sku])
        keys = [bucket.seq, bucket.catalogue, bucket.stock, bucket.received]
        return [*keys, bucket.holders, bucket.repricing], arguments

    async def set_stock(self, bucket: Bucket, sku: str, units: int) -> StockLevel:
        """Set the units on hand, free and held; a counter that is missing is made.

        Raises:
            StockHeld: carts hold more than that.
        """
        return await self._count("stock_set", bucket, sku, units)

    async def set_stocks(
        self, bucket: Bucket, stocks: Sequence[tuple[str, int]]
    ) -> list[StockLevel | StockHeld]:
        """As `set_stock` for many counters, (SKU, units) each; a refusal is returned in place."""
        calls = [self._counting(bucket, sku, units) for sku, units in stocks]
        results = await self.runner.try_many("stock_set", calls)
        for result in results:
            if isinstance(result, CartError) and not isinstance(result, StockHeld):
                raise result
        return [
            result if isinstance(result, StockHeld) else StockLevel(sku, *result)
            for (sku, _), result in zip(stocks, results, strict=True)
        ]

    async def add_stock(self, bucket: Bucket, sku: str, units: int) -> StockLevel:
        """Take units in, or out as far as they are free."""
        return await self._count("stock_add", bucket, sku, units)

    async def stock(self, bucket: Bucket, sku: str) -> StockLevel | None:
        """A counter's units, or None where there is no counter."""
        try:
            return await self._count("stock_get", bucket, sku)
        except NoCounter:
            return None

    async def stocks(self, bucket: Bucket, skus: Sequence[str]) -> list[StockLevel | None]:
        """As `stock`, of many counters."""
        calls = [self._counting(bucket, sku) for sku in skus]
        found = await self.runner.try_many("stock_get", calls)
        for level in found:
            if isinstance(level, CartError) and not isinstance(level, NoCounter):
                raise level
        return [
            None if isinstance(level, NoCounter) else StockLevel(sku, *level)
            for sku, level in zip(skus, found, strict=True)
        ]

    async def _count(
        self, script: str, bucket: Bucket, sku: str, *arguments: Argument
    ) -> StockLevel:
        counted = await self.runner.run(script, *self._counting(bucket, sku, *arguments))
        return StockLevel(sku, *counted)

    @staticmethod
    def _counting(
        bucket: Bucket, sku: str, *arguments: Argument
    ) -> tuple[list[str], list[Argument]]:
        keys = [bucket.seq, bucket.stock, bucket.held, bucket.sold, bucket.received]
        return keys, [sku, *arguments]
