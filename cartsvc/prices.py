"""Prices as an operator changes them: PostgreSQL records one, Redis takes it, and carts follow."""

from cartsvc import money
from cartsvc.catalog import Product
from cartsvc.errors import Invalid, NotWarm, UnknownSku
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.shelf import Shelf
from cartsvc.skus import stored_sku


class Prices:
    """The prices of one bucket, in minor units. A variant has its own, whatever its counter.

    Changes of one tenant's catalogue come one after the other. One that was broken off between
    PostgreSQL and Redis is mended by doing it again.
    """

    def __init__(self, ledger: Ledger, shelf: Shelf, bucket: Bucket) -> None:
        self.ledger = ledger
        self.shelf = shelf
        self.bucket = bucket

    async def get(self, sku: str) -> int:
        """The price that PostgreSQL records.

        Raises:
            UnknownSku: the catalogue does not have it.
        """
        name = stored_sku(sku)
        return _price(await self.ledger.product(self.bucket.tenant, name), name)

    async def set(self, sku: str, price_minor: int) -> int:
        """Change the price of this SKU alone; the worker takes it to the carts that have it.

        Returns the price that was recorded before.

        Raises:
            Invalid: the catalogue has no such prices.
            UnknownSku: the catalogue does not have it.
            NotWarm: Redis does not have the bucket.
        """
        if not 0 <= price_minor <= money.MAX_PRICE_MINOR:
            most = money.text(money.MAX_PRICE_MINOR)
            raise Invalid("price", f"must be between 0 and {most}")
        name = stored_sku(sku)
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            if not await self.shelf.is_warm(self.bucket):
                raise NotWarm
            before = _price(await change.product(name), name)
            await change.set_price(name, price_minor)
            product = await change.product(name)
            # Also where nothing changed: Redis may lack what PostgreSQL has.
            await self.shelf.put(self.bucket, [product], await change.counters([*product.skus()]))
        await self.shelf.synced()
        return before


def _price(product: Product, sku: str) -> int:
    price = product.prices().get(sku)
    if price is None:
        raise UnknownSku(sku)
    return price
