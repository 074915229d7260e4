"""What Redis keeps of catalogue and stock: the records that an add reads, and the counters."""

from collections.abc import Mapping, Sequence

from cartsvc.catalog import Product, record
from cartsvc.keys import Bucket
from cartsvc.scripts import Argument, Runner


class Shelf:
    """Records and counters of every bucket.

    What runs a script raises the `Refused` or `Unavailable` error that its reply stands for, what
    only reads raises the client's own.
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
        counters: Mapping[str, int],
        *,
        set_stock: bool,
    ) -> int:
        """Write products, each in one script; `counters` has the stock of SKUs with a counter.

        Returns how many counters were given their stock: the ones that Redis did not have, or
        with `set_stock` all whose stock the product names.
        """
        calls = [self._put(bucket, product, counters, set_stock) for product in products]
        return sum(await self.runner.run_many("product_put", calls))

    @staticmethod
    def _put(
        bucket: Bucket, product: Product, counters: Mapping[str, int], set_stock: bool
    ) -> tuple[list[str], list[Argument]]:
        named = dict(product.stock_of()) if set_stock else {}
        own = [sku for sku in product.skus() if sku in counters]
        arguments: list[Argument] = [len(own)]
        for sku in own:
            arguments += (sku, counters[sku], "set" if sku in named else "new")
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
