"""Rebuilding a tenant in a Redis that came back empty, from what PostgreSQL has.

While it goes on the bucket has no sequence, so that every script refuses to change anything; that
comes last. Broken off, it begins anew.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cartsvc.archive import ACTIVE, Archive
from cartsvc.backlog import START
from cartsvc.catalog import records
from cartsvc.errors import NoCart, NotEmpty, UnknownTenant
from cartsvc.findings import text_of
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import CART_ID_STEP, Cart
from cartsvc.recovery import Recovery, units_sold
from cartsvc.shelf import Shelf

LOST_CARTS = 1_000_000
"""Carts that Redis may have lost before they were written: their ids are not given again."""

_FIELDS_AT_ONCE = 500


@dataclass(slots=True)
class Warmed:
    """What was put into Redis.

    `oversold` are counters (SKUs) that are left out, since carts took more than was received.
    """

    products: int = 0
    counters: int = 0
    cold_carts: int = 0
    holding_carts: int = 0
    oversold: list[str] = field(default_factory=list)


async def warm(ledger: Ledger, archive: Archive, shelf: Shelf, bucket: Bucket) -> Warmed | None:
    """Rebuild the bucket; None where it is warm already. Nobody may change its stock meanwhile.

    Raises:
        UnknownTenant: PostgreSQL does not know the bucket.
        NotEmpty: Redis has keys of it, though not its sequence.
        RowsRefused: an order is set aside that can't be read.
    """
    async with ledger.catalogue_change(bucket.tenant) as change:
        if await shelf.is_warm(bucket):
            return None
        if not await ledger.has_bucket(bucket):
            raise UnknownTenant(bucket.tenant)
        rebuild = _Rebuild(ledger, archive, shelf, bucket)
        await rebuild.dead_letters()
        await rebuild.make_room()
        # From here on nothing is written that was read from the Redis before.
        prices_offset = await change.begin_epoch(bucket)
        await rebuild.catalogue()
        await rebuild.stock()
        await rebuild.orders()
        await rebuild.price_stream(prices_offset)
        await rebuild.carts()
        await rebuild.refused_carts()
        await rebuild.open()
        await shelf.synced()
    return rebuild.done


class _Rebuild:
    """The steps, in their order."""

    def __init__(self, ledger: Ledger, archive: Archive, shelf: Shelf, bucket: Bucket) -> None:
        self.recovery = Recovery(ledger, bucket.tenant)
        self.archive = archive
        self.redis = shelf.runner.redis
        self.bucket = bucket
        self.done = Warmed()
        self.set_aside: list[Cart] = []

    async def dead_letters(self) -> None:
        """Carts that PostgreSQL refused count as they were then, not as their rows have them."""
        self.set_aside = await self.recovery.set_aside()

    async def make_room(self) -> None:
        """Take away what a rebuild that was broken off left, and let this one be known."""
        bucket = self.bucket
        # Whether the sale is paused is for an operator to say, also before a rebuild.
        rebuilt = [key for key in bucket.shared if key != bucket.paused] + [bucket.received]
        if await self.redis.exists(bucket.warming):
            keys = [text_of(key) async for _, key in self.redis.hscan_iter(bucket.carts)]
            await self.redis.delete(*rebuilt, bucket.repricing, *keys)
        for key in rebuilt:
            if await self.redis.exists(key):
                raise NotEmpty(key)
        await self.redis.set(bucket.warming, 1)

    async def catalogue(self) -> None:
        in_variants = await self.recovery.products_in_variants()
        self.counters = {one.sku: one for one in await self.recovery.counters()}
        async for products in self.recovery.products():
            found: dict[str, str] = {}
            for product in products:
                found |= records(product, self.counters, several=product.id in in_variants)
            await self._set_fields(self.bucket.catalogue, found)
            self.done.products += len(products)

    async def stock(self) -> None:
        """All that is not sold is free, until carts that hold units come back."""
        refused = units_sold(line for cart in self.set_aside for line in cart.lines)
        sold = {sku: one.sold + refused[sku] for sku, one in self.counters.items()}
        received = {sku: one.received for sku, one in self.counters.items()}
        free = {sku: units - sold[sku] for sku, units in received.items()}
        # Their units are not guessed: a missing counter is 503.
        self.done.oversold = [sku for sku, units in free.items() if units < 0]
        free = {sku: units for sku, units in free.items() if units >= 0}
        await self._set_fields(self.bucket.stock, free)
        await self._set_fields(self.bucket.sold, {sku: n for sku, n in sold.items() if n})
        await self._set_fields(self.bucket.received, received)
        self.done.counters = len(free)

    async def orders(self) -> None:
        found = {
            f"{one.product_id} {one.starts_ms} {self.bucket.marked(one.owner)}": one.units
            for one in await self.recovery.orders()
        }
        await self._set_fields(self.bucket.buyers, found)

    async def price_stream(self, offset: str) -> None:
        """Let the stream go on behind what was written of it, whatever Redis's clock says."""
        if offset != START:
            await self.redis.xadd(self.bucket.prices, {"": ""}, id=offset)
            await self.redis.xdel(self.bucket.prices, offset)

    async def carts(self) -> None:
        """Carts that hold units come back, so that these are theirs; of the others, a marker."""
        now_ms = await self.archive.store.now_ms()
        refused = {cart.id for cart in self.set_aside}
        async for found in self.recovery.active_carts(now_ms):
            carts = [cart for cart in found if cart.id not in refused]
            cold = {self.bucket.marked(cart.owner): cart.id for cart in carts if not cart.holds}
            holding = [cart.id for cart in carts if cart.holds]
            await self._set_fields(self.bucket.cold, cold)
            await self.archive.put_back(self.bucket, holding)
            self.done.cold_carts += len(cold)
            self.done.holding_carts += len(holding)

    async def refused_carts(self) -> None:
        """Active ones come back, to be written once PostgreSQL takes them; if their owners have no
        others by now. Closed ones wait for a replay."""
        for cart in self.set_aside:
            if cart.status == ACTIVE:
                with contextlib.suppress(NoCart):
                    await self.archive.store.restore(
                        self.bucket, cart, is_as_flushed=False, warming=True
                    )

    async def open(self) -> None:
        last = await self.recovery.last_cart_id()
        last -= last % CART_ID_STEP
        first = last + LOST_CARTS * CART_ID_STEP + self.bucket.number
        async with self.redis.pipeline(transaction=True) as both:
            both.delete(self.bucket.warming)
            both.set(self.bucket.seq, first)
            await both.execute()

    async def _set_fields(self, key: str, fields: Mapping[str, str | int]) -> None:
        items = list(fields.items())
        for start in range(0, len(items), _FIELDS_AT_ONCE):
            await self.redis.hset(key, mapping=dict(items[start : start + _FIELDS_AT_ONCE]))
