"""What Redis keeps of catalogue and stock: the records that an add reads, and the counters."""

from collections.abc import Collection, Sequence

from cartsvc.catalog import Product, record
from cartsvc.keys import Bucket
from cartsvc.scripts import Argument, Runner


class Shelf:
    """Records and counters of every bucket.

    Methods raise the `Refused` or `Unavailable` error that their script's reply stands for.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    async def open(self, bucket: Bucket) -> None:
        """Make a new bucket warm: its first cart takes the id after its number."""
        await self.runner.run("bucket_open", [bucket.seq], [bucket.number])

    async def is_warm(self, bucket: Bucket) -> bool:
        return bool(await self.runner.redis.exists(bucket.seq))

    async def put(
        self,
        bucket: Bucket,
        products: Sequence[Product],
        counters: Collection[str],
        *,
        set_stock: bool,
    ) -> int:
        """Write products, each in one script; `counters` are the SKUs that have a counter.

        Returns how many counters were given their stock: the new ones, or with `set_stock` all
        whose stock is named.
        """
        calls = [self._put(bucket, product, counters, set_stock) for product in products]
        return sum(await self.runner.run_many("product_put", calls))

    @staticmethod
    def _put(
        bucket: Bucket, product: Product, counters: Collection[str], set_stock: bool
    ) -> tuple[list[str], list[Argument]]:
        stock = product.counters()
        named = dict(product.stock_of()) if set_stock else {}
        arguments: list[Argument] = [len(stock)]
        for sku, units in stock.items():
            arguments += (sku, units, "set" if sku in named else "new")
        arguments += record(product, counters)
        return [bucket.product(product.id), bucket.seq, bucket.stock], arguments

    async def set_stock(self, bucket: Bucket, sku: str, units: int) -> int:
        """Set the units free of a counter, which is made if it is missing."""
        keys = [bucket.stock, bucket.seq]
        free: int = await self.runner.run("stock_set", keys, [sku, units])
        return free

    async def add_stock(self, bucket: Bucket, sku: str, units: int) -> int:
        """Take units in, or out as far as they are free; returns the units free afterwards."""
        keys = [bucket.stock, bucket.seq]
        free: int = await self.runner.run("stock_add", keys, [sku, units])
        return free

    async def stock(self, bucket: Bucket, sku: str) -> int | None:
        """Units free, or None where there is no counter."""
        free = await self.runner.redis.hget(bucket.stock, sku)
        return None if free is None else int(free)
