"""The common pattern: a cart is one JSON string in Redis, which the application reads, changes and
writes back with a time to live. Two adds that cross lose one of them."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.responses import Response

from cartsvc.keys import Bucket
from loadtests.bench.rivals import contract
from loadtests.bench.rivals.contract import MAX_LINES, Line

TTL_S = 86_400


class _Stored(msgspec.Struct):
    """A line in a cart; the price in cents."""

    product_id: str
    name: str
    price: int
    quantity: int


class _Cart(msgspec.Struct):
    lines: list[_Stored] = []
    updated: int = 0


class _About(msgspec.Struct):
    name: str


class _Product(msgspec.Struct):
    """What of a catalogue's record an add needs."""

    price: int
    active: int
    about: _About


_cart = msgspec.json.Decoder(_Cart).decode
_product = msgspec.json.Decoder(_Product).decode
_encode = msgspec.json.Encoder().encode


def _prefix(tenant: str) -> str:
    return f"blob:{{{tenant}:0}}:session:"


async def units(redis: Any, tenant: str) -> int:
    """Units in all carts of the tenant."""
    found = 0
    batch: list[bytes] = []
    async for key in redis.scan_iter(match=f"{_prefix(tenant)}*", count=1_000):
        batch.append(key)
        if len(batch) == 1_000:
            found += await _units(redis, batch)
            batch.clear()
    return found + await _units(redis, batch)


async def _units(redis: Any, keys: list[bytes]) -> int:
    carts = await redis.mget(keys) if keys else []
    return sum(line.quantity for cart in carts if cart for line in _cart(cart).lines)


def create_app() -> Starlette:
    redis: Any = Redis.from_url(os.environ["REDIS_URL"], retry=Retry(NoBackoff(), 0))
    tenant = os.environ["TENANT"]
    bucket = Bucket(tenant)
    prefix = _prefix(tenant)

    async def add(session_id: str, product_id: str, quantity: int) -> Response:
        key = prefix + session_id
        try:
            pipeline = redis.pipeline(transaction=False)
            pipeline.get(key).hget(bucket.catalogue, product_id).hget(bucket.stock, product_id)
            blob, record, free = await pipeline.execute()
            cart = _cart(blob) if blob else _Cart()
            _put(cart, product_id, quantity, record, free)
            await redis.setex(key, TTL_S, _encode(cart))
        except RedisError:
            raise contract.unavailable() from None
        lines = (Line(one.product_id, one.name, one.price, one.quantity) for one in cart.lines)
        return contract.added(session_id, lines, cart.updated)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    return contract.app(add, lifespan)


def _put(
    cart: _Cart, product_id: str, quantity: int, record: bytes | None, free: bytes | None
) -> None:
    """Change the cart.

    Raises:
        Refused: the product, its stock or the cap do not allow it.
    """
    product = _product(record) if record else None
    if product is None or not product.active:
        raise contract.not_found()
    line = next((one for one in cart.lines if one.product_id == product_id), None)
    in_cart = line.quantity if line else 0
    if in_cart + quantity > int(free or 0):
        raise contract.out_of_stock(int(free or 0), in_cart)
    if line is None:
        if len(cart.lines) >= MAX_LINES:
            raise contract.cart_full()
        line = _Stored(product_id, product.about.name, product.price, 0)
        cart.lines.append(line)
    line.quantity += quantity
    line.price = product.price
    cart.updated = contract.now_ms()
