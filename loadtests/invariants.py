"""What must hold once the shoppers are gone, whatever they did."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson

from cartsvc import scripts
from cartsvc.backlog import Backlog
from cartsvc.cart_hash import cart_of
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart
from cartsvc.scripts import Runner
from cartsvc.verify import Verifier

CATCH_UP_S = 30.0
PAUSE_S = 0.5
"""Between two looks at what seems wrong."""

_POLL_S = 0.1
_REDIS_S = 5.0


async def violations(
    redis_url: str, database_url: str, bucket: Bucket, max_lines: int
) -> list[str]:
    """A sentence for each rule that is broken; none means that all is well."""
    runner = Runner(scripts.connect(redis_url, timeout_s=_REDIS_S), timeout_s=_REDIS_S)
    ledger = await Ledger.connect(database_url)
    backlog = Backlog(runner)
    try:
        found = []
        if not await _caught_up(backlog, bucket):
            found.append(f"PostgreSQL has not caught up within {CATCH_UP_S:g} s")
        verifier = Verifier(backlog, ledger, bucket, max_lines=max_lines, pause_s=PAUSE_S)
        verdict = await verifier.run()
        found += [f"{finding.what} {finding.detail}" for finding in verdict.findings]
        async for cart in _carts(runner.redis, bucket):
            found += await _shortages(runner.redis, bucket, cart)
        return found
    finally:
        await ledger.close()
        await runner.aclose()


async def _caught_up(backlog: Backlog, bucket: Bucket) -> bool:
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while await backlog.count(bucket):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True


async def _carts(redis: Any, bucket: Bucket) -> AsyncIterator[Cart]:
    async for _, key in redis.hscan_iter(bucket.carts, count=1000):
        yield cart_of(bucket.owner(key.decode()), await redis.hgetall(key))


async def _shortages(redis: Any, bucket: Bucket, cart: Cart) -> list[str]:
    """What a cart wants more of than there is."""
    wanted: Counter[str] = Counter()
    for line in cart.in_order:
        record = await redis.hget(bucket.catalogue, line.sku)
        # Like the script: a variant that left the catalogue draws on its product's counter.
        counter = orjson.loads(record)["counter"] if record else line.product_id
        if line.held_until_ms is None:
            wanted[counter] += line.quantity
    found = []
    for counter, units in wanted.items():
        free = await redis.hget(bucket.stock, counter)
        if free is not None and units > int(free):
            found.append(f"cart {cart.id} wants {units} of {counter}, of which {int(free)} are")
    return found
