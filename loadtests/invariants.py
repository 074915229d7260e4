"""What must hold once the shoppers are gone, whatever they did."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from redis.asyncio import Redis

from cartsvc.keys import Bucket
from cartsvc.model import Cart
from cartsvc.store import cart_of

CATCH_UP_S = 30.0
_POLL_S = 0.1


async def violations(
    redis_url: str, database_url: str, bucket: Bucket, max_lines: int
) -> list[str]:
    """A sentence for each rule that a cart breaks; none means that all is well."""
    redis: Any = Redis.from_url(redis_url)
    database = await asyncpg.connect(database_url)
    try:
        found = []
        if not await _caught_up(redis, bucket):
            found.append(f"PostgreSQL has not caught up within {CATCH_UP_S:g} s")
        stock = {
            key.decode(): int(units) for key, units in (await redis.hgetall(bucket.stock)).items()
        }
        rows = await _rows(database, bucket)
        async for cart in _carts(redis, bucket):
            found += await _cart_violations(redis, bucket, cart, stock, max_lines)
            if rows.get(cart.id) != _content(cart):
                found.append(f"cart {cart.id}: PostgreSQL has {rows.get(cart.id)}")
        return found
    finally:
        await database.close()
        await redis.aclose()


async def _caught_up(redis: Any, bucket: Bucket) -> bool:
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while await redis.zcard(bucket.dirty) or await redis.xlen(bucket.prices):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True


async def _carts(redis: Any, bucket: Bucket) -> AsyncIterator[Cart]:
    async for _, key in redis.hscan_iter(bucket.carts, count=1000):
        yield cart_of(bucket.owner(key.decode()), await redis.hgetall(key))


async def _cart_violations(
    redis: Any, bucket: Bucket, cart: Cart, stock: dict[str, int], max_lines: int
) -> list[str]:
    found = []
    if len(cart.lines) > max_lines:
        found.append(f"cart {cart.id} has {len(cart.lines)} lines")
    held: Counter[str] = Counter()
    for line in cart.lines:
        field = f"stock:{line.variant_id}" if line.variant_id else "stock"
        counter = await redis.hget(bucket.product(line.product_id), field)
        # Like the script: a variant that left the catalogue draws on its product's counter.
        held[counter.decode() if counter else line.product_id] += line.quantity
    for counter, units in held.items():
        if units > stock[counter]:
            found.append(
                f"cart {cart.id} holds {units} of {counter}, of which {stock[counter]} are"
            )
    return found


def _content(cart: Cart) -> tuple[int, dict[tuple[str, str | None], int]]:
    return cart.version, {(line.product_id, line.variant_id): line.quantity for line in cart.lines}


async def _rows(
    database: Any, bucket: Bucket
) -> dict[int, tuple[int, dict[tuple[str, str | None], int]]]:
    carts = await database.fetch("SELECT id, version FROM carts WHERE tenant = $1", bucket.tenant)
    items = await database.fetch(
        "SELECT cart_id, product_id, variant_id, quantity FROM cart_items WHERE tenant = $1",
        bucket.tenant,
    )
    rows: dict[int, tuple[int, dict[tuple[str, str | None], int]]] = {
        row["id"]: (row["version"], {}) for row in carts
    }
    for item in items:
        rows[item["cart_id"]][1][item["product_id"], item["variant_id"]] = item["quantity"]
    return rows
