"""Many carts, fast: the add script itself, pipelined on one connection."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import redis

from cartsvc import scripts
from cartsvc.app import store_of
from cartsvc.errors import OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.link import pack
from cartsvc.model import LineRequest, Owner
from cartsvc.scripts import Argument, Key, Runner
from cartsvc.settings import Settings
from loadtests.bench.site import Site

Call = tuple[Argument, ...]

_CALLS = 500
"""Script calls in a batch; while Redis works on one, the next is packed."""


class _Heard(Runner):
    """Notes the call that it is to make, and makes none."""

    def __init__(self) -> None:
        super().__init__(scripts.connect("redis://nowhere", timeout_s=1), timeout_s=1)
        self.call: Call = ()
        self.clock.set([b"%d" % time.time(), b"0"], time.monotonic())

    async def run(self, name: str, keys: Sequence[Key], arguments: Sequence[Argument]) -> Any:
        self.call = ("EVALSHA", self.script(name).sha, len(keys), *keys, *arguments)
        raise OutcomeUnknown("nothing was called")


def call(tenant: str, session_id: str, products: Sequence[str]) -> Call:
    """The call that the service makes to add one unit of each product to a session's cart."""
    words: dict[Argument, str] = {_cart_key(tenant, ""): _cart_key(tenant, session_id)}
    words |= {_placeholder(place): product for place, product in enumerate(products)}
    return tuple(words.get(word, word) for word in _example(tenant, len(products)))


@cache
def _example(tenant: str, lines: int) -> Call:
    """A call with placeholders for the session and the products, and the time of now."""
    heard = _Heard()
    wanted = [LineRequest(_placeholder(place), 1) for place in range(lines)]

    async def add() -> None:
        with contextlib.suppress(OutcomeUnknown):
            await store_of(Settings(), heard).add(Bucket(tenant), Owner("session", ""), wanted)

    asyncio.run(add())
    return heard.call


def _placeholder(place: int) -> str:
    return f"product {place}"


def _cart_key(tenant: str, session_id: str) -> str:
    return Bucket(tenant).cart(Owner("session", session_id))


def add(site: Site, tenant: str, carts: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Add one unit of each product to the session's cart, for all `carts`.

    Not to be called where an event loop runs.

    Raises:
        RuntimeError: the script refused.
    """
    with redis.Redis.from_url(site.redis_url) as client:
        client.script_load(scripts.load("cart_add").source)
        connection: Any = client.connection_pool.get_connection()
        each = iter(carts)
        waiting = 0
        while batch := list(itertools.islice(each, _CALLS)):
            packed = [pack(call(tenant, *cart)) for cart in batch]
            connection.send_packed_command([b"".join(packed)])
            _accept(connection, waiting)
            waiting = len(batch)
        _accept(connection, waiting)
        client.connection_pool.release(connection)


def used_memory(site: Site) -> int:
    """Bytes that Redis has allocated."""
    with redis.Redis.from_url(site.redis_url) as client:
        info: Any = client.info("memory")
    return int(info["used_memory"])


def _accept(connection: Any, replies: int) -> None:
    for _ in range(replies):
        reply = connection.read_response()
        if any(code != b"OK" for code in _codes(reply)):
            raise RuntimeError(f"a cart could not be filled: {reply}")


def _codes(reply: Any) -> Iterator[bytes]:
    """The reply's code, and those of the replies in it."""
    code, *rest = reply
    yield code
    for content in rest:
        for part in content:
            if isinstance(part, list):
                yield from _codes(part)
