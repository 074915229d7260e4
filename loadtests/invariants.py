"""What must hold once the shoppers are gone, whatever they did."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson

from cartsvc.backlog import Backlog
from cartsvc.cart_hash import cart_of
from cartsvc.keys import Bucket
from cartsvc.model import Cart
from cartsvc.verify import Verifier
from loadtests import stores

CATCH_UP_S = 30.0
PAUSE_S = 0.5
"""Between two looks at what seems wrong."""

NOTHING_OVERSOLD = "nothing oversold"
NO_CART_OVER_ITS_CAP = "no cart over its cap"
CAUGHT_UP = "PostgreSQL caught up"
VERIFIED = "cartsvc verify finds nothing"

_POLL_S = 0.1

Books = dict[str, int]
"""Units by counter."""


async def checked(
    redis_url: str, database_url: str, bucket: Bucket, max_lines: int
) -> dict[str, list[str]]:
    """By rule, a sentence for each time it is broken: none, if it holds."""
    async with stores.connected(redis_url, database_url) as (runner, ledger):
        backlog = Backlog(runner)
        behind = await _behind(backlog, bucket)
        received, *parts = await _books(runner.redis, bucket)
        oversold, over_cap = _wrong_books(received, *parts), []
        async for cart in _carts(runner.redis, bucket):
            oversold += await _shortages(runner.redis, bucket, received, cart)
            if len(cart.lines) > max_lines:
                lines = f"{len(cart.lines)} lines, and {max_lines} are allowed"
                over_cap.append(f"cart {cart.id} has {lines}")
        verifier = Verifier(backlog, ledger, bucket, max_lines=max_lines, pause_s=PAUSE_S)
        verdict = await verifier.run()
    return {
        NOTHING_OVERSOLD: oversold,
        NO_CART_OVER_ITS_CAP: over_cap,
        CAUGHT_UP: behind,
        VERIFIED: [f"{finding.what} {finding.detail}" for finding in verdict.findings],
    }


async def _behind(backlog: Backlog, bucket: Bucket) -> list[str]:
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while await backlog.count(bucket):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        left = await backlog.count(bucket)
        return [f"{left} carts and price changes wait after {CATCH_UP_S:g} s"]
    return []


def _wrong_books(received: Books, *parts: Books) -> list[str]:
    """Counters below zero, and those whose units do not add up."""
    found = []
    for counter, units in received.items():
        levels = [part.get(counter, 0) for part in parts]
        if min(levels) < 0 or sum(levels) != units:
            free, held, sold = levels
            told = f"{free} free, {held} held and {sold} sold"
            found.append(f"counter {counter} has {told} of {units} received")
    return found


async def _books(redis: Any, bucket: Bucket) -> list[Books]:
    """What counters have received, and have free, held and sold, at one instant."""
    pipeline = redis.pipeline(transaction=True)
    for key in (bucket.received, bucket.stock, bucket.held, bucket.sold):
        pipeline.hgetall(key)
    return [
        {counter.decode(): int(units) for counter, units in found.items()}
        for found in await pipeline.execute()
    ]


async def _carts(redis: Any, bucket: Bucket) -> AsyncIterator[Cart]:
    async for _, key in redis.hscan_iter(bucket.carts, count=1000):
        yield cart_of(bucket.owner(key.decode()), await redis.hgetall(key))


async def _shortages(redis: Any, bucket: Bucket, received: Books, cart: Cart) -> list[str]:
    """What a cart wants more of than there ever was; others may have bought what it could have."""
    wanted: Counter[str] = Counter()
    for line in cart.in_order:
        record = await redis.hget(bucket.catalogue, line.sku)
        # Like the script: a variant that left the catalogue draws on its product's counter.
        counter = orjson.loads(record)["counter"] if record else line.product_id
        if line.held_until_ms is None:
            wanted[counter] += line.quantity
    return [
        f"cart {cart.id} wants {units} of {counter}, of which {received[counter]} were"
        for counter, units in wanted.items()
        if units > received.get(counter, units)
    ]
