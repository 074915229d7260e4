"""What the worker does for carts beside the flush: a batch a call, which blocks Redis only shortly.

Each call returns how much it found to do; there may be more until that is nothing.
"""

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


async def release(store: Store, bucket: Bucket) -> int:
    """Release holds whose deadline has passed, the oldest first; returns how many lines."""
    now_ms = await store.now_ms()
    due: Any = await store.runner.redis.zrange(
        bucket.holds, "-inf", now_ms, byscore=True, offset=0, num=RELEASE_CARTS
    )
    if not due:
        return 0
    async with _half_of_the_time():
        return await store.release(bucket, due)


async def reprice(store: Store, bucket: Bucket) -> int:
    """Take price changes to the next carts that hold the SKU, of every SKU; returns how many carts.

    Broken off anywhere, the walk goes on there: its place is kept in Redis, by the script that
    changes the lines.
    """
    walks: Any
    _, walks = await store.runner.redis.hscan(bucket.repricing, count=100)
    return sum([await _step(store, bucket, sku, done) for sku, done in walks.items()])


async def _step(store: Store, bucket: Bucket, sku: bytes, done: bytes) -> int:
    start = b"(%b %b" % (sku, done) if done else b"[%b " % sku
    # '!' is the character behind the space.
    names: Any = await store.runner.redis.zrange(
        bucket.holders, start, b"(%b!" % sku, bylex=True, offset=0, num=REPRICE_CARTS
    )
    carts = [name[len(sku) + 1 :] for name in names]
    next_done = carts[-1] if len(carts) == REPRICE_CARTS else b""
    async with _half_of_the_time():
        await store.reprice(bucket, sku, carts, done=done, next_done=next_done)
    return len(carts)


@contextlib.asynccontextmanager
async def _half_of_the_time() -> AsyncIterator[None]:
    """Leave Redis to the shoppers for as long again as the work in the context took."""
    begun = time.monotonic()
    yield
    await asyncio.sleep(time.monotonic() - begun)
