"""What the worker does for carts beside the flush, in batches that block Redis only shortly."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from cartsvc.keys import Bucket
from cartsvc.store import Store

RELEASE_CARTS = 25
"""Carts whose holds one script is asked to release."""

REPRICE_CARTS = 25
"""Carts whose lines one script gives a new price."""


@contextlib.asynccontextmanager
async def _half_of_the_time() -> AsyncIterator[None]:
    """Leave Redis to the shoppers for as long again as the work in the context took."""
    begun = time.monotonic()
    yield
    await asyncio.sleep(time.monotonic() - begun)


async def release(store: Store, bucket: Bucket) -> int:
    """Release every hold whose deadline has passed; returns how many lines left their carts."""
    redis = store.runner.redis
    released = 0
    while True:
        due: Any = await redis.zrange(
            bucket.holds, "-inf", store.clock_ms(), byscore=True, offset=0, num=RELEASE_CARTS
        )
        if not due:
            return released
        async with _half_of_the_time():
            lines = await store.release(bucket, [key.decode() for key in due])
        if not lines:
            return released
        released += lines


async def reprice(store: Store, bucket: Bucket) -> int:
    """Take every price change to the carts that hold the SKU; returns how many lines changed.

    Broken off anywhere, it goes on there: the walk's place is kept in Redis, by the script that
    changes the lines.
    """
    changed = 0
    walks: Any
    _, walks = await store.runner.redis.hscan(bucket.repricing, count=100)
    for name, done in walks.items():
        changed += await _walk(store, bucket, name.decode(), done.decode())
    return changed


async def _walk(store: Store, bucket: Bucket, sku: str, done: str) -> int:
    changed = 0
    while True:
        start = f"({sku} {done}" if done else f"[{sku} "
        # '!' is the character behind the space.
        names: Any = await store.runner.redis.zrange(
            bucket.holders, start, f"({sku}!", bylex=True, offset=0, num=REPRICE_CARTS
        )
        carts = [name.decode()[len(sku) + 1 :] for name in names]
        next_done = carts[-1] if len(carts) == REPRICE_CARTS else ""
        async with _half_of_the_time():
            changed += await store.reprice(bucket, sku, carts, done=done, next_done=next_done)
        if not next_done:
            return changed
        done = next_done
