"""Carts that nobody touches: they leave Redis for PostgreSQL, and a guest's is given up one day.

Both are walks over all carts, a few a step, so that neither server notices. A walk begins anew when
the process does, and what it finds is decided again where the cart is.
"""

import asyncio
import contextlib
from typing import Any

from cartsvc.archive import ACTIVE, Archive
from cartsvc.errors import CartClosed, CartExists, NoCart
from cartsvc.findings import number_of, text_of
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.store import Store

GUESTS = ("session", "device")
"""Kinds of owners who may never come back."""

_LOOKED_AT = 100
"""Carts of Redis that a step looks at, some more or fewer; a script cools as many at most."""

_ROWS = 1_000
"""Carts of PostgreSQL that a step looks at."""

_PAUSE_S = 0.1
"""Pause between two steps."""


class IdleCarts:
    """A worker's walks. Each call is a step of one, and says whether there is more to look at.

    Carts are cooled when they were not changed for `cool_after_s`, guests' abandoned when for
    `abandon_after_s`; 0: never.
    """

    def __init__(
        self, archive: Archive, ledger: Ledger, *, cool_after_s: int, abandon_after_s: int
    ) -> None:
        self.archive = archive
        self.ledger = ledger
        self.cool_after_s = cool_after_s
        self.abandon_after_s = abandon_after_s
        self._places: dict[tuple[str, str], int] = {}

    async def cool(self, store: Store, bucket: Bucket) -> bool:
        """Let go of idle carts in Redis that PostgreSQL has as they are."""
        if not self.cool_after_s:
            return False
        redis, before_ms = store.runner.redis, await store.now_ms() - self.cool_after_s * 1000
        found: Any
        place = self._places.get(("cool", repr(bucket)), 0)
        place, found = await redis.hscan(bucket.carts, place, count=_LOOKED_AT)
        # What somebody else's hand has written is let be; it must not end the worker.
        named = {number_of(cart_id): text_of(key) for cart_id, key in found.items()}
        keys = {cart_id: key for cart_id, key in named.items() if cart_id is not None}
        changed = redis.pipeline(transaction=False)
        for key in keys.values():
            changed.hget(key, "updated")
        times = [number_of(updated) for updated in await changed.execute()]
        idle = [
            cart_id
            for cart_id, updated_ms in zip(keys, times, strict=True)
            if updated_ms is not None and updated_ms <= before_ms
        ]
        flushed = await self.ledger.active_versions(bucket.tenant, idle) if idle else {}
        if flushed:
            carts = {keys[cart_id]: (cart_id, version) for cart_id, version in flushed.items()}
            await store.cool(bucket, carts)
        return await self._walked("cool", bucket, place)

    async def abandon(self, store: Store, bucket: Bucket) -> bool:
        """Close idle guests' carts, wherever they are."""
        if not self.abandon_after_s:
            return False
        before_ms = await store.now_ms() - self.abandon_after_s * 1000
        place = self._places.get(("abandon", repr(bucket)), 0)
        ids, last = await self.ledger.idle_carts(
            bucket.tenant, GUESTS, before_ms, after=place, limit=_ROWS
        )
        for cart_id in ids:
            # One that was changed since it was written, or is closed meanwhile, is let be; and one
            # whose owner has another cart, since Redis once came back older.
            with contextlib.suppress(NoCart, CartClosed, CartExists):
                cart = await self.archive.find(bucket, cart_id)
                if cart.status == ACTIVE and cart.updated_ms <= before_ms:
                    await self.archive.close(bucket, cart, "ABANDONED", version=cart.version)
        return await self._walked("abandon", bucket, last or 0)

    async def _walked(self, walk: str, bucket: Bucket, place: int) -> bool:
        self._places[walk, repr(bucket)] = place
        await asyncio.sleep(_PAUSE_S)
        return place > 0
