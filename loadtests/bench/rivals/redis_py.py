"""Starlette with redis-py, the way its documentation has it: one client, which opens as many
connections as are used at once, and a registered script, which is cartsvc's own."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.responses import Response

from cartsvc import scripts
from cartsvc.keys import Bucket
from cartsvc.model import Owner
from loadtests.bench.rivals import contract
from loadtests.bench.rivals.contract import MAX_LINES, Line, Refused

_NO_CART_KNOWN = "-"
_NO_IDEMPOTENCY_KEY = ""
_LINES = 1
_TERMS = (MAX_LINES, "check", 600_000, _NO_CART_KNOWN, _NO_IDEMPOTENCY_KEY, _LINES)


class _Fixed(msgspec.Struct):
    """What a line fixed when it was added; the price in cents."""

    line: int
    price: int
    name: str


_fixed = msgspec.json.Decoder(_Fixed).decode


def create_app() -> Starlette:
    # A command whose reply was lost may have been done: the client must not repeat it.
    redis = Redis.from_url(os.environ["REDIS_URL"], retry=Retry(NoBackoff(), 0))
    cart_add = redis.register_script(scripts.load("cart_add").source)
    bucket = Bucket(os.environ["TENANT"])

    async def add(session_id: str, product_id: str, quantity: int) -> Response:
        keys = [*bucket.shared, bucket.cart(Owner("session", session_id))]
        arguments: list[str | int] = [contract.now_ms(), *_TERMS, product_id, quantity]
        try:
            replies: list[Any] = await cart_add(keys=keys, args=arguments)
        except RedisError:
            raise contract.unavailable() from None
        # Of many carts, one each.
        [reply] = replies[1]
        if reply[0] != b"OK":
            raise _refusal(*reply)
        flat = iter(reply[1])
        fields = dict(zip(flat, flat, strict=True))
        return contract.added(session_id, _lines(fields), int(fields[b"updated"]))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    return contract.app(add, lifespan)


def _lines(fields: dict[bytes, bytes]) -> Iterator[Line]:
    """The lines of a cart's hash, in the order in which they were added."""
    found = [
        (_fixed(value), name[2:].decode())
        for name, value in fields.items()
        if name.startswith(b"l:")
    ]
    found.sort(key=lambda line: line[0].line)
    for fixed, sku in found:
        yield Line(sku, fixed.name, fixed.price, int(fields[b"q:" + sku.encode()]))


def _refusal(code: bytes, *facts: Any) -> Refused:
    match code:
        case b"UNKNOWN_PRODUCT" | b"INACTIVE_PRODUCT":
            return contract.not_found()
        case b"OUT_OF_STOCK":
            return contract.out_of_stock(int(facts[1]), int(facts[2]))
        case b"CART_FULL":
            return contract.cart_full()
        case b"NOT_WARM" | b"NO_COUNTER" | b"HOLDS_DUE" | b"SALE_PAUSED" | b"FAILED":
            return contract.unavailable()
        case _:
            return Refused(400, code.decode().lower(), "The product can't be added")
