"""What must hold once the shoppers are gone, whatever they did."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import orjson
from redis.asyncio import Redis

from cartsvc.cart_hash import cart_of
from cartsvc.keys import Bucket
from cartsvc.model import Cart

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
        books = await _books(redis, bucket)
        rows = await _rows(database, bucket)
        held: Counter[str] = Counter()
        async for cart in _carts(redis, bucket):
            held += await _held(redis, bucket, cart)
            found += await _cart_violations(redis, bucket, cart, books, max_lines)
            if rows.get(cart.id) != _content(cart):
                found.append(f"cart {cart.id}: PostgreSQL has {rows.get(cart.id)}")
        return found + _book_violations(books, held)
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


class Book(NamedTuple):
    """Units of a counter."""

    free: int
    held: int
    sold: int
    received: int


async def _books(redis: Any, bucket: Bucket) -> dict[str, Book]:
    pipeline = redis.pipeline(transaction=True)
    for key in (bucket.stock, bucket.held, bucket.sold, bucket.received):
        pipeline.hgetall(key)
    columns = await pipeline.execute()
    counters = {counter for column in columns for counter in column}
    return {
        counter.decode(): Book(*(int(column.get(counter, 0)) for column in columns))
        for counter in counters
    }


def _book_violations(books: dict[str, Book], held: Counter[str]) -> list[str]:
    found = []
    for counter, book in books.items():
        if book.free + book.held + book.sold != book.received or min(book) < 0:
            found.append(f"the books of {counter} are wrong: {book}")
        if book.held != held[counter]:
            found.append(f"carts hold {held[counter]} of {counter}, the books say {book.held}")
    return found


async def _held(redis: Any, bucket: Bucket, cart: Cart) -> Counter[str]:
    """Counter -> units that the cart holds."""
    held: Counter[str] = Counter()
    for line in cart.in_order:
        if line.held_until_ms is not None:
            hold = await redis.hget(bucket.cart(cart.owner), f"h:{line.sku}")
            held[hold.decode().partition(" ")[2]] += line.quantity
    return held


async def _cart_violations(
    redis: Any, bucket: Bucket, cart: Cart, books: dict[str, Book], max_lines: int
) -> list[str]:
    found = []
    if len(cart.lines) > max_lines:
        found.append(f"cart {cart.id} has {len(cart.lines)} lines")
    wanted: Counter[str] = Counter()
    for line in cart.in_order:
        record = await redis.hget(bucket.catalogue, line.sku)
        # Like the script: a variant that left the catalogue draws on its product's counter.
        counter = orjson.loads(record)["counter"] if record else line.product_id
        if line.held_until_ms is None:
            wanted[counter] += line.quantity
    for counter, units in wanted.items():
        if units > books[counter].free:
            found.append(
                f"cart {cart.id} wants {units} of {counter}, of which {books[counter].free} are"
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
