"""A shop over one Redis: the store, the shelf and a bucket, with short names for what tests do."""

import time
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from itertools import chain
from typing import Any

import hiredis
from redis.exceptions import NoScriptError, RedisError

from cartsvc import catalog, clock, scripts
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.catalog import Product, ProductRow, VariantRow
from cartsvc.core import Core
from cartsvc.identity import Verifier
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.link import ReplyError
from cartsvc.model import Cart, LineRequest, Owner
from cartsvc.scripts import Runner, Script
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf
from cartsvc.store import Store

LAMP = "507f1f77bcf86cd799439011"
MUG = "507f1f77bcf86cd799439012"
SECRET = "a secret of thirty-two characters or more"
"""What tokens for the service in tests are signed with."""

NOW_MS = 1_763_640_000_000
ANN = Owner("session", "ann")


class Clock:
    """Milliseconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


class Shop:
    def __init__(self, runner: Runner, *, max_lines: int = 50) -> None:
        self.runner = runner
        self.redis: Any = runner.redis
        self.clock = Clock()
        self.store = Store(runner, max_lines=max_lines, clock_ms=self.clock)
        self.shelf = Shelf(runner)
        self.bucket = Bucket("default")

    async def open(self) -> "Shop":
        await self.shelf.open(self.bucket)
        return self

    async def sell(
        self,
        product_id: str = LAMP,
        *,
        name: str = "Aurora Desk Lamp",
        price: str = "29.99",
        stock: int | None = 100,
        active: bool = True,
        variants: Iterable[tuple[str, int | None]] = (),
        **rules: Any,
    ) -> Product:
        """Put a product on the shelf; `variants` are (id, stock of its own or None).

        `rules` are the row's other fields: `stock_policy="hold"`, `max_per_buyer=2` and so on.
        """
        row = ProductRow(
            id=product_id,
            name=name,
            price=Decimal(price),
            image_url="https://cdn.example.com/lamp.jpg",
            active=active,
            stock=stock,
            variants=[VariantRow(id=id_, stock=units) for id_, units in variants],
            **rules,
        )
        product = catalog.product(row, "USD")
        await self.shelf.put(self.bucket, [product], product.counters())
        return product

    async def record(self, ledger: Ledger, *products: Product) -> None:
        """Let PostgreSQL have products too, as an import does."""
        async with ledger.catalogue_change(self.bucket.tenant) as change:
            await change.put_products("USD", products)

    async def add(
        self, quantity: int = 1, product_id: str = LAMP, variant_id: str | None = None
    ) -> Cart:
        return await self.add_lines(LineRequest(product_id, quantity, variant_id))

    async def add_lines(self, *lines: LineRequest, owner: Owner = ANN) -> Cart:
        return await self.store.add(self.bucket, owner, lines)

    async def everything(self) -> dict[bytes, Any]:
        """All keys and their values: what must be the same when nothing was changed."""
        keys = sorted(await self.redis.keys("*"))
        kinds, values = (self.redis.pipeline(transaction=False) for _ in range(2))
        for key in keys:
            kinds.type(key)
        for key, kind in zip(keys, await kinds.execute(), strict=True):
            _ask_for(values, key, kind)
        return dict(zip(keys, await values.execute(), strict=True))


def _ask_for(pipeline: Any, key: bytes, kind: bytes) -> None:
    match kind:
        case b"hash":
            pipeline.hgetall(key)
        case b"zset":
            pipeline.zrange(key, 0, -1, withscores=True)
        case b"set":
            pipeline.smembers(key)
        case b"stream":
            pipeline.xrange(key)
        case _:
            pipeline.get(key)


class Mutant(Runner):
    """Runs scripts in whose file, in `lua/`, `old` is replaced by `new`: a guard is missing."""

    def __init__(self, runner: Runner, file: str, old: str, new: str) -> None:
        super().__init__(runner.redis, timeout_s=runner.timeout_s)
        self.link = runner.link
        source = scripts.read(file)
        assert source.count(old) == 1, f"{file} has {old!r} {source.count(old)} times"
        self.file = file
        self.text = source.replace(old, new)
        self.known: dict[str, Script] = {}

    def script(self, name: str) -> Script:
        if name not in self.known:
            self.known[name] = scripts.compiled(name, self._read)
        return self.known[name]

    def _read(self, file: str) -> str:
        return self.text if file == self.file else scripts.read(file)


class FakeLink:
    """Sends what a link would send to fakeredis, whose time it knows."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.clock = clock.Clock()
        self.clock.set([b"%d" % time.time(), b"0"], self.clock.monotonic())

    async def send(self, request: bytes) -> Any:
        reader = hiredis.Reader()
        reader.feed(request)
        try:
            reply = await self.redis.execute_command(*reader.gets())
            # The client turns a hash into a dictionary.
            return [*chain(*reply.items())] if isinstance(reply, dict) else reply
        except NoScriptError:
            raise ReplyError("NOSCRIPT") from None
        except RedisError as error:
            raise ReplyError(str(error)) from error


class FakeRunner(Runner):
    """For fakeredis, which does not take the scripts' first line, `#!lua`."""

    def __init__(self, redis: Any, *, timeout_s: float) -> None:
        super().__init__(redis, timeout_s=timeout_s)
        self.link = FakeLink(redis)  # type: ignore[assignment]

    def script(self, name: str) -> Script:
        script = super().script(name)
        return replace(script, source=script.source.removeprefix("#!lua"))


def core_of(shop: Shop) -> Core:
    """What a contract stands on, in this process, without a PostgreSQL."""
    ledger = Ledger("postgresql://nowhere")
    archive = Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)
    return Core(shop.store, archive, Verifier(Settings(jwt_secret=SECRET)), shop.bucket)
