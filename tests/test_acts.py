"""What operators do: each act leaves one row in the audit trail, and is done once."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from asyncpg import InsufficientPrivilegeError

from cartsvc import act_row
from cartsvc.acts import Acts, Audited, Desk
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import (
    CartClosed,
    CartError,
    Invalid,
    KeyReused,
    LedgerAway,
    NoCart,
    NoRight,
    NotRecorded,
    OutcomeUnknown,
    OutOfStock,
    StockHeld,
    TooManyWatched,
    UnknownProduct,
    UnknownSku,
    UnknownTenant,
    VerifyRunning,
    VerifyTooLong,
)
from cartsvc.findings import Finding
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import MAX_QUANTITY, Once, Owner, StockLevel
from cartsvc.repair import Repaired
from cartsvc.shelf import MAX_WATCHED
from cartsvc.stock import Recorded, Stock
from cartsvc.trail import Actor, Entry, Trail
from cartsvc.verify import Verdict, Verifier
from tests.shop import ANN, LAMP, MUG, Mutant, Shop
from tests.test_dead_letter import worker_of

ACTOR = Actor("root@host", "cli", "a-request")
NOWHERE = "postgresql://postgres@127.0.0.1:1/cartsvc"


def _unheard(_: str) -> None:
    """What the trail lacks, where a test does not ask."""


def desk_of(shop: Shop, ledger: Ledger, **more: Any) -> Desk:
    archive = Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)
    return Desk(archive, **{"pause_s": 0.01, "timeout_s": 5, "verify_s": 5, **more})


def acts_of(shop: Shop, ledger: Ledger, **more: Any) -> Acts:
    return Acts(desk_of(shop, ledger, **more), shop.bucket, ACTOR, _unheard)


@pytest.fixture
async def acts(shop: Shop, ledger: Ledger) -> Acts:
    """On a shop that sells a lamp whose units are held, and a mug."""
    await ledger.open_bucket(shop.bucket)
    held = await shop.sell(LAMP, price="29.99", stock=100, stock_policy="hold")
    await shop.record(ledger, held, await shop.sell(MUG, price="12.50", stock=5))
    return acts_of(shop, ledger)


async def rows(ledger: Ledger) -> list[Entry]:
    """The oldest first."""
    return (await Trail(ledger).newest(None, 100))[::-1]


def facts(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def counted(free: int, held: int = 0, sold: int = 0) -> dict[str, int]:
    return {"free": free, "held": held, "sold": sold, "received": free + held + sold}


# What there is of an act in the trail: action, subject, before and after.
Told = tuple[str, str, Any, Any]
STATE = {"paused": True, "reason": "why"}
GOES = {"paused": False}


def cart(version: int, **held: int) -> dict[str, Any]:
    return {"id": 256, "version": version, "status": "ACTIVE", "held": held}


ACTS: dict[str, tuple[Callable[[Acts], Awaitable[Any]], Told]] = {
    "get": (lambda acts: acts.stock_get(LAMP), ("stock.get", LAMP, None, counted(98, 2))),
    "set": (
        lambda acts: acts.stock_set(LAMP, 50),
        ("stock.set", LAMP, counted(98, 2), counted(48, 2)),
    ),
    "add": (
        lambda acts: acts.stock_add(LAMP, 5),
        ("stock.add", LAMP, counted(98, 2), counted(103, 2)),
    ),
    "watch": (
        lambda acts: acts.watch([LAMP]),
        ("stock.watch", LAMP, {"watched": []}, {"watched": [LAMP]}),
    ),
    "watch several": (
        lambda acts: acts.watch([MUG, LAMP], "only"),
        ("stock.watch", "", {"watched": []}, {"watched": [LAMP, MUG]}),
    ),
    "watched": (lambda acts: acts.watched(), ("stock.watched", "", None, {"watched": []})),
    "pause": (lambda acts: acts.sale_pause("why"), ("sale.pause", "", GOES, STATE)),
    "resume": (lambda acts: acts.sale_resume(), ("sale.resume", "", GOES, GOES)),
    "state": (lambda acts: acts.sale_state(), ("sale.state", "", None, GOES)),
    "show": (
        lambda acts: acts.cart_show(256),
        ("cart.show", "256", None, cart(1, **{LAMP: 2})),
    ),
    "release": (
        lambda acts: acts.cart_release(256),
        ("cart.release", "256", cart(1, **{LAMP: 2}), cart(2)),
    ),
    "price": (lambda acts: acts.price_get(MUG), ("price.get", MUG, None, {"price": "12.50"})),
    "set price": (
        lambda acts: acts.price_set(MUG, 999),
        ("price.set", MUG, {"price": "12.50"}, {"price": "9.99"}),
    ),
}


@pytest.mark.parametrize("name", ACTS)
async def test_an_act_leaves_a_row(acts: Acts, shop: Shop, ledger: Ledger, name: str) -> None:
    do, told = ACTS[name]
    await shop.add(2)
    await do(acts)
    [row] = await rows(ledger)
    assert (row.action, row.subject, facts(row.before), facts(row.after)) == told
    assert (row.tenant, row.actor, row.via, row.request_id) == ("default", *ACTOR[:3])
    assert (row.outcome, acts.unrecorded) == ("done", "")
    now_ms = await ledger.pool.fetchval("SELECT extract(epoch FROM now()) * 1000")
    assert now_ms - 60_000 < row.at_ms <= now_ms


async def test_an_audit_of_the_data_leaves_a_row(acts: Acts, shop: Shop, ledger: Ledger) -> None:
    await shop.redis.hincrby(shop.bucket.stock, LAMP, -1)
    verdict, repaired = await acts.verify(repair=False)
    assert ([one.what for one in verdict.findings], repaired) == ([f"counter {LAMP}"], None)
    _, repaired = await acts.verify(repair=True)
    assert repaired is not None
    assert repaired.left == []
    first, second = await rows(ledger)
    assert (first.action, facts(first.after)["wrong"]) == ("verify", 1)
    assert facts(first.after)["looked_at"]["counters"] == 2
    told = facts(second.after)
    assert (second.action, told["mended"], told["wrong"]) == ("verify.repair", 1, 0)


def test_an_audit_is_well_if_nothing_is_wrong_and_all_was_looked_at() -> None:
    wrong = Finding("books", LAMP, f"counter {LAMP}", "is off")
    well, broken_off = Verdict(), Verdict(broken_off=["counters"])
    found = Verdict(findings=[wrong])
    assert [Audited(one, None).is_well for one in (well, broken_off, found)] == [True, False, False]
    mended, left = Repaired([wrong], []), Repaired([], [wrong])
    assert [Audited(found, one).is_well for one in (mended, left)] == [True, False]
    assert (Audited(found, mended).mended, Audited(found, None).mended) == ([wrong], [])


REFUSED: dict[str, tuple[Callable[[Acts], Awaitable[Any]], type[CartError], str]] = {
    "held": (lambda acts: acts.stock_set(LAMP, 1), StockHeld, f"StockHeld(sku='{LAMP}', held=2)"),
    "short": (
        lambda acts: acts.stock_add(LAMP, -99),
        OutOfStock,
        f"OutOfStock(sku='{LAMP}', free=98, in_cart=0)",
    ),
    "too many": (
        lambda acts: acts.stock_add(LAMP, MAX_QUANTITY),
        Invalid,
        f"Invalid(field='units', problem='must leave at most {MAX_QUANTITY} on hand')",
    ),
    "sku": (lambda acts: acts.stock_get("none"), UnknownSku, "UnknownSku(sku='none')"),
    "watch": (lambda acts: acts.watch(["none"]), UnknownSku, "UnknownSku(sku='none')"),
    "price": (
        lambda acts: acts.price_set("none", 1),
        UnknownProduct,
        "UnknownProduct(product_id='none')",
    ),
    "cart": (lambda acts: acts.cart_show(512), NoCart, "NoCart()"),
    "release": (lambda acts: acts.cart_release(512), NoCart, "NoCart()"),
    "reason": (
        lambda acts: acts.sale_pause("a" * 201),
        Invalid,
        "Invalid(field='reason', problem='must be at most 200 characters that can be printed')",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_act_leaves_the_refusal_and_changes_nothing(
    acts: Acts, shop: Shop, ledger: Ledger, name: str
) -> None:
    do, kind, told = REFUSED[name]
    await shop.add(2)
    before = await shop.everything()
    with pytest.raises(kind):
        await do(acts)
    [row] = await rows(ledger)
    assert (row.outcome, row.after) == (f"refused: {told}", None)
    assert await shop.everything() == before
    assert await ledger.pool.fetchval("SELECT sum(received) FROM stock") == 105


async def test_a_right_that_postgresql_does_not_give_is_told(
    acts: Acts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forbidden(*_: Any) -> Recorded:
        raise InsufficientPrivilegeError("permission denied for table stock")

    monkeypatch.setattr(Stock, "set", forbidden)
    with pytest.raises(NoRight, match="permission denied for table stock"):
        await acts.stock_set(LAMP, 1)
    [row] = await rows(ledger)
    assert row.outcome.startswith("refused: NoRight(")


@pytest.mark.parametrize(
    "name", ["", "a b", "\0", "\ud800", "a/b/c", "a/", "{default:0}", "a" * 99]
)
async def test_what_is_no_sku_is_none(acts: Acts, ledger: Ledger, name: str) -> None:
    for do in (acts.stock_get, acts.price_get, lambda sku: acts.watch([sku])):
        with pytest.raises((UnknownSku, UnknownProduct)):
            await do(name)
    assert await rows(ledger) == []


async def test_an_object_id_may_be_in_capitals(acts: Acts, ledger: Ledger) -> None:
    assert (await acts.stock_get(LAMP.upper())).sku == LAMP
    [row] = await rows(ledger)
    assert row.subject == LAMP


class TestBrokenOff:
    """An act that nobody saw the end of."""

    @pytest.mark.parametrize("error", [OutcomeUnknown("gone"), LedgerAway("gone"), ValueError()])
    async def test_leaves_its_row_as_it_was_begun(
        self, acts: Acts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def broken(*_: Any) -> Recorded:
            raise error

        monkeypatch.setattr(Stock, "set", broken)
        with pytest.raises(type(error)):
            await acts.stock_set(LAMP, 1)
        [row] = await rows(ledger)
        assert (row.outcome, facts(row.before), row.after) == ("begun", counted(100), None)

    async def test_as_one_that_takes_too_long(self, acts: Acts, shop: Shop, ledger: Ledger) -> None:
        acts = acts_of(shop, ledger, timeout_s=0.2)
        async with ledger.catalogue_change("default"):
            with pytest.raises(LedgerAway, match="TimeoutError"):
                await acts.stock_set(LAMP, 1)
        [row] = await rows(ledger)
        assert row.outcome == "begun"
        assert await shop.redis.hget(shop.bucket.stock, LAMP) == b"100"


@pytest.mark.usefixtures("acts")
class TestWithoutPostgresql:
    @pytest.fixture
    async def away(self, shop: Shop) -> AsyncIterator[Acts]:
        ledger = await Ledger.connect(NOWHERE)
        yield acts_of(shop, ledger)
        await ledger.close()

    @pytest.mark.parametrize(
        "name", [name for name in ACTS if name not in ("pause", "resume", "state")]
    )
    async def test_nothing_is_done(self, away: Acts, shop: Shop, name: str) -> None:
        do, _ = ACTS[name]
        await shop.add(2)
        before = await shop.everything()
        with pytest.raises(NotRecorded):
            await do(away)
        assert await shop.everything() == before

    async def test_or_slow_nothing_is_done(
        self, acts: Acts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(act_row, "RECORD_S", 0.1)
        async with ledger.pool.acquire() as other, other.transaction():
            await other.execute("LOCK TABLE audit")
            async with asyncio.timeout(5):
                with pytest.raises(NotRecorded, match="TimeoutError"):
                    await acts.stock_set(LAMP, 1)
        assert await rows(ledger) == []

    async def test_a_sale_is_paused_all_the_same(self, away: Acts, shop: Shop) -> None:
        told: list[str] = []
        away.tell = told.append
        change = await away.sale_pause("at night")
        assert change.before is None
        assert change.now is not None
        assert (change.now.reason, change.now.by) == ("at night", "root@host")
        assert await shop.redis.exists(shop.bucket.paused)
        assert len(told) == 1
        assert away.unrecorded == told[0]
        assert (await away.sale_state()) == change.now
        change = await away.sale_resume()
        assert change.now is None
        assert await shop.redis.exists(shop.bucket.paused) == 0
        assert len(told) == 1

    async def test_one_that_leaves_in_the_midst_is_told(
        self, acts: Acts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The act is done; its row says only that it was begun."""

        async def broken(*_: Any) -> None:
            raise ConnectionRefusedError

        told: list[str] = []
        acts.tell = told.append
        monkeypatch.setattr(Trail, "finish", broken)
        assert (await acts.stock_set(LAMP, 7)).received == 7
        [row] = await rows(ledger)
        assert (row.outcome, facts(row.before)) == ("begun", counted(100))
        assert told == [acts.unrecorded] == ["ConnectionRefusedError"]


async def test_a_tenant_that_there_is_not(acts: Acts, shop: Shop, ledger: Ledger) -> None:
    before = await shop.everything()
    nobodys = Acts(acts.desk, Bucket("nobody"), ACTOR, _unheard)
    for do in (lambda: nobodys.sale_pause("why"), lambda: nobodys.cart_show(256)):
        with pytest.raises(UnknownTenant):
            await do()
    assert await shop.everything() == before
    assert [row.outcome for row in await rows(ledger)] == [
        "refused: UnknownTenant(tenant='nobody')"
    ] * 2


class TestOnce:
    """A delivery with an idempotency key."""

    @staticmethod
    def once(key: str = "a key", fingerprint: str = "ab" * 16) -> Once:
        return Once(Owner("service", "backoffice"), key, fingerprint)

    async def books(self, shop: Shop, ledger: Ledger) -> tuple[int, int, int]:
        """Units free; received and adjusted, as PostgreSQL has them."""
        free = int(await shop.redis.hget(shop.bucket.stock, LAMP))
        [row] = await ledger.pool.fetch("SELECT * FROM stock WHERE sku = $1", LAMP)
        return free, row["received"], row["adjusted"]

    async def test_comes_in_once(self, acts: Acts, shop: Shop, ledger: Ledger) -> None:
        first = await acts.stock_add(LAMP, 5, self.once())
        await acts.stock_add(LAMP, 1)
        again = self.once()
        assert await acts.stock_add(LAMP, 5, again) == first
        assert again.is_replay
        assert await self.books(shop, ledger) == (106, 106, 0)
        assert [facts(row.after).get("again") for row in await rows(ledger)] == [None, None, True]

    async def test_comes_in_once_of_many_at_the_same_time(
        self, acts: Acts, shop: Shop, ledger: Ledger
    ) -> None:
        some = [acts.stock_add(LAMP, 5, self.once()) for _ in range(10)]
        found = await asyncio.gather(*some)
        assert found == [Recorded(LAMP, 105, StockLevel(LAMP, 105, 0, 0))] * 10
        assert await self.books(shop, ledger) == (105, 105, 0)

    async def test_a_refusal_is_its_outcome_too(
        self, acts: Acts, shop: Shop, ledger: Ledger
    ) -> None:
        for _ in range(2):
            with pytest.raises(OutOfStock) as refusal:
                await acts.stock_add(LAMP, -101, self.once())
            assert refusal.value.free == 100
            await acts.stock_add(LAMP, 50)
        assert (await self.books(shop, ledger))[0] == 200

    async def test_a_key_is_for_one_request(self, acts: Acts, shop: Shop, ledger: Ledger) -> None:
        await acts.stock_add(LAMP, 5, self.once())
        with pytest.raises(KeyReused):
            await acts.stock_add(LAMP, 6, self.once(fingerprint="cd" * 16))
        assert await self.books(shop, ledger) == (105, 105, 0)

    async def test_one_whose_record_was_lost_is_recorded_when_it_comes_again(
        self, acts: Acts, shop: Shop, ledger: Ledger
    ) -> None:
        """Broken off between Redis and PostgreSQL, on the way out."""
        await acts.stock_add(LAMP, -5, self.once())
        await ledger.pool.execute("UPDATE stock SET received = 100, adjusted = 0")
        assert (await acts.stock_add(LAMP, -5, self.once())).received == 95
        assert await self.books(shop, ledger) == (95, 95, -5)


class TestVerify:
    async def test_one_at_a_time(
        self, acts: Acts, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()
        run = Verifier.run

        async def held_up(self: Verifier) -> Any:
            arrived.set()
            await go_on.wait()
            return await run(self)

        monkeypatch.setattr(Verifier, "run", held_up)
        first = asyncio.create_task(acts.verify(repair=False))
        await arrived.wait()
        with pytest.raises(VerifyRunning):
            await Acts(acts.desk, shop.bucket, ACTOR, _unheard).verify(repair=False)
        go_on.set()
        await first
        await acts.verify(repair=False)

    async def test_not_for_ever(
        self, acts: Acts, shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def for_ever(_: Verifier) -> None:
            await asyncio.Event().wait()

        acts = acts_of(shop, ledger, verify_s=0.1)
        monkeypatch.setattr(Verifier, "run", for_ever)
        for _ in range(2):
            with pytest.raises(VerifyTooLong):
                await acts.verify(repair=False)
        row, _ = await rows(ledger)
        assert row.outcome == "refused: VerifyTooLong(most_s=0.1)"


class TestWatched:
    async def test_in_order_with_levels(self, acts: Acts, shop: Shop) -> None:
        assert await acts.watch([MUG, LAMP, MUG]) == [
            StockLevel(LAMP, 100, 0, 0),
            StockLevel(MUG, 5, 0, 0),
        ]
        assert await shop.shelf.watched(shop.bucket) == [LAMP, MUG]
        assert [level.sku for level in await acts.watch([LAMP, "none"], "off")] == [MUG]
        assert [level.sku for level in await acts.watch([LAMP], "only")] == [LAMP]
        assert await acts.watch([], "only") == []

    async def test_at_most_fifty(self, acts: Acts, shop: Shop) -> None:
        names = [f"p{number:02}" for number in range(MAX_WATCHED + 1)]
        for name in names:
            await shop.sell(name)
        for how in ("on", "only"):
            with pytest.raises(TooManyWatched):
                await acts.watch(names, how)
        assert len(await acts.watch(names[:-1])) == MAX_WATCHED
        # One that is watched already is none more.
        assert len(await acts.watch(names[:1])) == MAX_WATCHED
        with pytest.raises(TooManyWatched):
            await acts.watch(names[-1:])
        assert len(await acts.watch(names[1:], "only")) == MAX_WATCHED

    async def test_the_cap_is_the_scripts(self, shop: Shop) -> None:
        mutant = Shop(Mutant(shop.runner, "stock_watch.lua", "> most", "> most + 1"))
        names = [f"p{number:02}" for number in range(MAX_WATCHED + 1)]
        for name in names:
            await shop.sell(name)
        await mutant.shelf.watch(shop.bucket, names)
        assert len(await shop.shelf.watched(shop.bucket)) == MAX_WATCHED + 1

    async def test_a_counter_that_is_gone_is_left_out(self, acts: Acts, shop: Shop) -> None:
        await acts.watch([LAMP, MUG])
        await shop.redis.hdel(shop.bucket.stock, LAMP)
        assert [level.sku for level in await acts.watched()] == [MUG]


class TestCarts:
    async def test_where_it_is(self, acts: Acts, shop: Shop, ledger: Ledger) -> None:
        cart = await shop.add(2)
        shown = await acts.cart_show(cart.id)
        assert (shown.where, shown.dirty_since_ms) == ("redis", cart.updated_ms)
        assert shown.cart.lines[0].held_until_ms is not None
        await worker_of(shop, ledger).run_once()
        shown = await acts.cart_show(cart.id)
        assert (shown.where, shown.dirty_since_ms) == ("both", None)
        await shop.store.close(shop.bucket, ANN, "CONVERTED")
        await worker_of(shop, ledger).run_once()
        shown = await acts.cart_show(cart.id)
        assert (shown.where, shown.dirty_since_ms) == ("postgresql", None)
        assert shown.cart.status == "CONVERTED"
        with pytest.raises(CartClosed):
            await acts.cart_release(cart.id)

    async def test_a_release_frees_what_is_held(self, acts: Acts, shop: Shop) -> None:
        cart = await shop.add(2)
        await shop.add(1, MUG)
        shown = await acts.cart_release(cart.id)
        assert [line.sku for line in shown.cart.lines] == [MUG]
        assert (await acts.stock_get(LAMP)).level == StockLevel(LAMP, 100, 0, 0)
        told = (await shop.store.read(shop.bucket, ANN)).notices
        assert [(one.sku, one.quantity, one.reason) for one in told] == [(LAMP, 2, "released")]

    async def test_a_release_of_nothing_changes_nothing(self, acts: Acts, shop: Shop) -> None:
        cart = await shop.add(1, MUG)
        assert (await acts.cart_release(cart.id)).cart == cart


async def test_the_trail_is_a_tenants(acts: Acts, shop: Shop, ledger: Ledger) -> None:
    others = Acts(acts.desk, Bucket("acme"), ACTOR._replace(name="ann"), _unheard)
    with pytest.raises(UnknownSku):
        await others.stock_get(LAMP)
    await acts.stock_get(LAMP)
    await acts.stock_get(MUG)
    assert [row.subject for row in await acts.entries(10)] == [MUG, LAMP]
    assert [row.subject for row in await acts.entries(1)] == [MUG]
    assert [row.actor for row in await others.entries(10)] == ["ann"]
    assert len(await rows(ledger)) == 3
