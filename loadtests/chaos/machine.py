"""Whatever is done in whatever order, to Redis too, carts are what the rules make of them."""

import asyncio
import io
import json
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cartsvc import flush, rows, upkeep
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.cart_hash import cart_of, fields_of
from cartsvc.embedded import Valkey
from cartsvc.errors import CartError, NotWarm, OutOfStock
from cartsvc.importer import Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, Owner
from cartsvc.prices import Prices
from cartsvc.sale import Sale
from cartsvc.scripts import Runner, connect
from cartsvc.shelf import Shelf
from cartsvc.store import Store
from cartsvc.warm import warm
from loadtests.chaos import checker
from loadtests.chaos.journal import Journal
from loadtests.chaos.plain import Item, Items, PlainShop, Rules, outcome

SALE = {
    "lamp": Rules("hold", 6, ttl_s=60),
    "pen": Rules("hold", 4, ttl_s=600),
    "mug": Rules("check", 6),
    "gift": Rules("untracked", 0),
}
SESSIONS = [Owner("session", "ann"), Owner("session", "bob")]
USERS = [Owner("user", "7"), Owner("user", "8")]
OWNERS = [*SESSIONS, *USERS]
MAX_LINES = 3
PRICE = 9
STEPS = 50

_BEGUN_MS = 1_763_640_000_000
_TIMEOUT_S = 10.0
_RUNS_AT_ONCE = 10
"""Runs of one seed. Hypothesis follows more of them with look-alikes."""

owners = st.sampled_from(OWNERS)
skus = st.sampled_from(list(SALE))
units = st.integers(1, 4)
picks = st.integers(0, 11)
if_carts = precondition(lambda self: bool(self.plain.carts))


class Service:
    """A tenant's store and archive, on connections of their own."""

    def __init__(self, valkey: Valkey, ledger: Ledger, bucket: Bucket, clock: "Clock") -> None:
        redis = connect(valkey.url, timeout_s=_TIMEOUT_S)
        self.runner = Runner(redis, timeout_s=_TIMEOUT_S)
        self.redis: Any = redis
        self.ledger, self.bucket = ledger, bucket
        self.store = Store(self.runner, max_lines=MAX_LINES, clock_ms=clock)
        self.backlog = Backlog(self.runner)
        self.shelf = Shelf(self.runner)
        self.archive = Archive(self.store, self.backlog, ledger, timeout_s=_TIMEOUT_S)
        self.sale = Sale(self.runner)
        self.prices = Prices(ledger, self.shelf, bucket)

    async def sell(self) -> None:
        """Put the sale into both stores, which know nothing of the tenant yet."""
        await self.redis.flushall()
        products = "\n".join(
            json.dumps(
                {"id": sku, "name": sku, "price": PRICE, "stock_policy": one.policy}
                | ({} if one.policy == "untracked" else {"stock": one.stock})
                | ({"hold_ttl_s": one.ttl_s} if one.ttl_s else {})
            )
            for sku, one in SALE.items()
        )
        importer = Importer(self.ledger, self.shelf, self.bucket, "USD")
        done = await importer.run(rows.read(io.BytesIO(products.encode())))
        assert done.bad_rows == 0

    async def close_cart(self, owner: Owner, status: Any) -> Cart:
        cart = await self.archive.active(self.bucket, owner)
        return await self.archive.close(self.bucket, cart, status)

    async def set_price(self, sku: str, price_minor: int) -> None:
        """In the catalogue, and in every cart that has it."""
        await self.prices.set(sku, price_minor)
        while await upkeep.reprice(self.store, self.bucket):
            pass

    async def flush(self) -> None:
        await flush.carts(self.backlog, self.ledger, self.bucket, 100, batches=10)
        await flush.prices(self.backlog, self.ledger, self.bucket, 100)

    async def cool(self, owner: Owner, cart_id: int) -> None:
        """Let the cart leave Redis, if it may."""
        versions = await self.ledger.active_versions(self.bucket.tenant, [cart_id])
        carts = {self.bucket.cart(owner): one for one in versions.items()}
        if carts:
            await self.store.cool(self.bucket, carts)

    async def lose(self) -> None:
        await self.redis.flushall()
        try:
            await self.store.add(self.bucket, OWNERS[0], [LineRequest("gift", 1)])
        except NotWarm:
            pass
        else:
            raise AssertionError("an empty Redis takes changes")
        done = await warm(self.ledger, self.archive, self.shelf, self.bucket)
        assert done is not None
        assert not done.oversold

    async def hot_carts(self) -> dict[Owner, Cart]:
        pipeline = self.redis.pipeline(transaction=False)
        for owner in OWNERS:
            pipeline.hgetall(self.bucket.cart(owner))
        found = zip(OWNERS, await pipeline.execute(), strict=True)
        flat = {owner: [part for pair in one.items() for part in pair] for owner, one in found}
        return {owner: cart_of(owner, fields_of(one)) for owner, one in flat.items() if one}


class Clock:
    """Milliseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.ms = _BEGUN_MS

    def __call__(self) -> int:
        return self.ms


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to the service and to the plain shop, which have to agree."""

    def __init__(
        self,
        loop: asyncio.Runner,
        valkey: Valkey,
        ledger: Ledger,
        number: int,
        journal: Journal,
    ) -> None:
        super().__init__()
        self.loop, self.valkey, self.ledger, self.journal = loop, valkey, ledger, journal
        self.clock = Clock()
        self.bucket = Bucket(f"run-{number}")
        self.service = self.begin()
        prices = dict.fromkeys(SALE, 100 * PRICE)
        self.plain = PlainShop(SALE, MAX_LINES, self.clock.ms, prices)
        self.steps_paused = 0
        self.versions: dict[int, int] = {}
        self.restarts = 0
        self.run(self.service.sell())

    def begin(self) -> Service:
        async def made() -> Service:
            return Service(self.valkey, self.ledger, self.bucket, self.clock)

        return self.loop.run(made())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    @property
    def store(self) -> Store:
        return self.service.store

    # What shoppers do.

    @rule(owner=owners, sku=skus, units=units)
    def add(self, owner: Owner, sku: str, units: int) -> None:
        lines = [LineRequest(sku, units)]
        self.same(
            self.store.add(self.bucket, owner, lines), lambda: self.plain.add(owner, sku, units)
        )

    @rule(pick=picks, units=units)
    @if_carts
    def add_more(self, pick: int, units: int) -> None:
        owner, sku = self.line(pick)
        self.add(owner, sku, units)

    @rule(owner=owners, sku=skus)
    def add_one(self, owner: Owner, sku: str) -> None:
        self.add(owner, sku, 1)

    @rule(pick=picks, units=units)
    @if_carts
    def set_quantity(self, pick: int, units: int) -> None:
        owner, sku = self.line(pick)
        self.same(
            self.store.set_quantity(self.bucket, owner, sku, units),
            lambda: self.plain.set(owner, sku, units),
        )

    @rule(pick=picks)
    @if_carts
    def remove(self, pick: int) -> None:
        owner, sku = self.line(pick)
        self.same(self.store.remove(self.bucket, owner, sku), lambda: self.plain.remove(owner, sku))

    @rule(pick=picks)
    @if_carts
    def save_for_later(self, pick: int) -> None:
        owner, sku = self.line(pick)
        self.same(
            self.store.save_for_later(self.bucket, owner, sku), lambda: self.plain.save(owner, sku)
        )

    @rule(pick=picks)
    @if_carts
    def take_back(self, pick: int) -> None:
        owner, sku = self.line(pick)
        self.same(
            self.store.take_back(self.bucket, owner, sku), lambda: self.plain.take_back(owner, sku)
        )

    @rule(owner=owners)
    @if_carts
    def read(self, owner: Owner) -> None:
        self.same(self.store.read(self.bucket, owner), lambda: self.plain.read(owner))

    @rule(guest=st.sampled_from(SESSIONS), user=st.sampled_from(USERS))
    @if_carts
    def merge(self, guest: Owner, user: Owner) -> None:
        async def merged() -> Cart:
            return (await self.store.merge(self.bucket, guest, user)).cart

        self.same(merged(), lambda: self.plain.merge(guest, user))

    @rule(pick=picks)
    @if_carts
    def convert(self, pick: int) -> None:
        owner, _ = self.line(pick)
        work = self.service.close_cart(owner, "CONVERTED")
        self.same(work, lambda: self.plain.convert(owner))

    @rule(pick=picks, status=st.sampled_from(["ABANDONED", "DELETED"]))
    @if_carts
    def abandon(self, pick: int, status: str) -> None:
        owner, _ = self.line(pick)
        self.same(self.service.close_cart(owner, status), lambda: self.plain.abandon(owner))

    # What operators do.

    @rule(steps=st.integers(2, 8))
    @if_carts
    def pause(self, steps: int) -> None:
        """For a few steps: what is played meanwhile finds little else."""
        self.steps_paused = steps
        before = self.run(self.service.sale.pause(self.bucket, "a wrong price", "eve"))
        assert (before is not None) == self.plain.is_paused
        self.plain.is_paused = True

    @precondition(lambda self: self.plain.is_paused)
    @rule()
    def resume(self) -> None:
        assert self.run(self.service.sale.resume(self.bucket)) is not None
        self.plain.is_paused = False

    @rule(pick=picks)
    @if_carts
    def release(self, pick: int) -> None:
        owner, _ = self.line(pick)
        self.same(self.store.release_held(self.bucket, owner), lambda: self.plain.release(owner))

    @rule(sku=skus, price_minor=st.integers(900, 902))
    @if_carts
    def set_price(self, sku: str, price_minor: int) -> None:
        self.run(self.service.set_price(sku, price_minor))
        self.plain.prices[sku] = price_minor

    # What time and the service do.

    @rule(seconds=st.sampled_from([1, 30, 60, 600]))
    def expire(self, seconds: int) -> None:
        self.plain.expire(seconds)
        self.clock.ms = self.plain.now_ms
        while self.run(upkeep.release(self.store, self.bucket)):
            pass

    @rule()
    @if_carts
    def flush(self) -> None:
        self.run(self.service.flush())
        self.plain.flush()
        self.compare_stores()

    @rule(pick=picks)
    @if_carts
    def cool(self, pick: int) -> None:
        owner, _ = self.line(pick)
        if owner in self.plain.ids:
            self.run(self.service.cool(owner, self.plain.ids[owner]))

    @rule()
    @if_carts
    def warm(self) -> None:
        if self.run(self.service.redis.xlen(self.bucket.prices)):
            # A cart that was closed has its row already: its price changes, if lost, are missing.
            self.flush()
        self.run(self.service.lose())
        self.plain.lose()
        self.versions.clear()

    @rule()
    @if_carts
    def script_flush(self) -> None:
        self.run(self.service.redis.script_flush())

    @rule()
    @if_carts
    def restart(self) -> None:
        """The service; and Redis, once a run."""
        self.run(self.service.runner.aclose())
        self.restarts += 1
        if self.restarts == 1:
            self.valkey.stop()
            self.valkey.start()
        self.service = self.begin()

    # After every step, and in the end.

    @invariant()
    def a_pause_ends(self) -> None:
        self.steps_paused -= 1
        if self.plain.is_paused and self.steps_paused < 0:
            self.resume()

    @invariant()
    def carts_in_redis_are_as_they_should_be(self) -> None:
        for owner, cart in self.run(self.service.hot_carts()).items():
            expected = self.plain.carts.get(owner)
            assert expected is not None, f"{owner} has a cart"
            assert _items(cart) == expected, f"{owner} has {_items(cart)} instead of {expected}"
            for line in cart.lines:
                assert line.price_minor == self.plain.prices[line.sku], f"{owner}'s {line.sku}"
            self.plain.ids[owner] = cart.id
            assert cart.version >= self.versions.get(cart.id, 0), owner
            self.versions[cart.id] = cart.version

    def teardown(self) -> None:
        try:
            self.run(self.service.flush())
            self.plain.flush()
            self.compare_stores()
            for owner in OWNERS:
                self.read(owner)
        finally:
            self.run(self.service.runner.aclose())

    def compare_stores(self) -> None:
        url = self.valkey.url
        verdict = self.run(checker.check(url, self.ledger, self.bucket, Journal()))
        assert not verdict.broken, verdict.told()

    def line(self, pick: int) -> tuple[Owner, str]:
        """A line of somebody's cart, mostly."""
        lines = [(owner, sku) for owner, cart in self.plain.carts.items() for sku in cart]
        if pick == 0 or not lines:
            lines = [(owner, sku) for owner in OWNERS for sku in SALE]
        return lines[pick % len(lines)]

    def same(self, work: Coroutine[Any, Any, Cart], predicted: Callable[[], Items]) -> None:
        """What the service answered must be what the rules say."""
        expected = outcome(predicted)
        try:
            answered: Items | str = _items(self.run(work))
        except OutOfStock:
            answered = "OutOfStock"
        except CartError as error:
            answered = type(error).__name__
        self.journal.outcomes["failed" if isinstance(answered, str) else "ok"] += 1
        assert answered == expected, f"{answered} instead of {expected}"


def _items(cart: Cart) -> Items:
    return {line.sku: Item(line.quantity, line.saved, line.held_until_ms) for line in cart.lines}


def play(valkey: Valkey, database_url: str, runs: int, journal: Journal) -> int:
    """Play so many games or a few more, the same every time; how many there were.

    Raises:
        AssertionError: the service did not do what the rules say.
    """
    played = 0

    class Here(Machine):
        def __init__(self) -> None:
            nonlocal played
            played += 1
            super().__init__(loop, valkey, ledger, played, journal)

    how = settings(
        max_examples=_RUNS_AT_ONCE,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with asyncio.Runner() as loop:
        ledger = loop.run(Ledger.connect(database_url))
        try:
            while played < runs:
                run_state_machine_as_test(seed(played)(Here), settings=how)
        finally:
            loop.run(ledger.close())
    return played
