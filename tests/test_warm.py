"""A tenant that Redis lost, rebuilt from what PostgreSQL has."""

import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartsvc import flush, replay, rows, upkeep
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import (
    BuyerLimit,
    CartClosed,
    NoCart,
    NoCounter,
    NotEmpty,
    NotWarm,
    OrderLimit,
    OutOfStock,
    SalePaused,
    UnknownTenant,
)
from cartsvc.importer import Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.recovery import Recovery
from cartsvc.sale import Sale
from cartsvc.warm import LOST_CARTS, Warmed, warm
from tests import carts
from tests.carts import BOB, books, refused, sound
from tests.mutants import mutant_query, turns_red
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop

KATE, EVE = Owner("customer", "kate"), Owner("customer", "7:eve")
SOON, LATER = "2025-11-20T00:00:00Z", "2027-01-01T00:00:00Z"

CATALOGUE: list[dict[str, Any]] = [
    {"id": LAMP, "name": "Lamp", "price": 29.99, "stock": 10, "stock_policy": "hold"},
    {"id": MUG, "name": "Mug", "price": 12.5, "stock": 50, "images": ["https://a/b.jpg"]},
    {
        "id": "tee",
        "name": "Tee \u00e9",
        "price": 10,
        "stock": 5,
        "max_per_buyer": 3,
        "max_per_order": 3,
        "min_per_order": 1,
        "sale_starts_at": SOON,
        "sale_ends_at": LATER,
        "variants": [{"id": "s", "stock": 4, "price": 11}, {"id": "m", "name": "Medium"}],
    },
    {"id": "pin", "name": "Pin", "price": 1, "stock": 9, "max_per_buyer": 2, "active": False},
    {"id": "gift", "name": "Gift", "price": 0, "stock_policy": "untracked"},
]


class Lost:
    """A shop whose Redis a test takes away, and has rebuilt."""

    def __init__(self, shop: Shop, ledger: Ledger) -> None:
        self.shop, self.ledger, self.bucket = shop, ledger, shop.bucket
        self.backlog = Backlog(shop.runner)
        self.archive = Archive(shop.store, self.backlog, ledger, timeout_s=5)

    async def file(self, *products: dict[str, Any]) -> None:
        text = "\n".join(json.dumps(product) for product in products)
        importer = Importer(self.ledger, self.shop.shelf, self.bucket, "USD")
        done = await importer.run(rows.read(io.BytesIO(text.encode())))
        assert done.bad_rows == 0

    async def flush(self) -> None:
        await flush.carts(self.backlog, self.ledger, self.bucket, 100, batches=10)
        await flush.prices(self.backlog, self.ledger, self.bucket, 100)

    async def lose(self) -> None:
        await self.shop.redis.flushall()

    async def warm(self) -> Warmed | None:
        return await warm(self.ledger, self.archive, self.shop.shelf, self.bucket)


@pytest.fixture
async def lost(shop: Shop, ledger: Ledger) -> Lost:
    """Nothing is there yet: neither server knows the tenant."""
    await shop.redis.flushall()
    found = Lost(shop, ledger)
    await found.file(*CATALOGUE)
    return found


async def add(lost: Lost, owner: Owner, *lines: tuple[str, int]) -> Any:
    asked = []
    for sku, units in lines:
        product, _, variant = sku.partition("/")
        asked.append(LineRequest(product, units, variant or None))
    return await lost.shop.add_lines(*asked, owner=owner)


async def a_sale(lost: Lost) -> None:
    """Carts in every state."""
    await add(lost, ANN, (LAMP, 2), (MUG, 3))
    await add(lost, BOB, (MUG, 1), ("tee/m", 1), ("gift", 2))
    await add(lost, KATE, ("tee/s", 2), (LAMP, 1))
    await lost.archive.close(lost.bucket, await carts.read(lost.shop, KATE), "CONVERTED")
    await add(lost, EVE, ("tee/s", 1), ("tee", 1))
    await lost.archive.close(lost.bucket, await carts.read(lost.shop, EVE), "CONVERTED")
    await add(lost, KATE, (MUG, 4))
    await carts.save(lost.shop, MUG, KATE)
    await add(lost, Owner("device", "gone"), (LAMP, 3))
    await carts.close(lost.shop, "ABANDONED", Owner("device", "gone"))
    await lost.flush()


async def test_all_is_as_it_was(lost: Lost) -> None:
    await a_sale(lost)
    before = await lost.shop.everything()
    owners = (ANN, BOB, KATE)
    found = [await carts.read(lost.shop, owner) for owner in owners]
    await lost.lose()
    await refused(lost.shop, NotWarm, lost.shop.add())
    await refused(lost.shop, NotWarm, carts.read(lost.shop))
    done = await lost.warm()
    assert done == Warmed(products=5, counters=6, cold_carts=2, holding_carts=1)
    assert [await carts.read(lost.shop, owner) for owner in owners] == found
    after = await lost.shop.everything()
    for name in (lost.bucket.catalogue, lost.bucket.buyers, lost.bucket.received):
        assert after[name.encode()] == before[name.encode()], name
    counters = [lost.bucket.stock, lost.bucket.held, lost.bucket.sold]
    for name in counters:
        units = {sku: n for sku, n in before[name.encode()].items() if n != b"0"}
        assert {sku: n for sku, n in after[name.encode()].items() if n != b"0"} == units
    assert after.keys() - before.keys() == set()
    await sound(lost.shop)


async def test_versions_and_ids_go_on(lost: Lost) -> None:
    await a_sale(lost)
    cart = await carts.read(lost.shop)
    lost_cart = await add(lost, Owner("session", "lost"), (MUG, 1))
    await lost.lose()
    await lost.warm()
    changed = await carts.put(lost.shop, 1, MUG)
    assert changed.version == cart.version + 1
    new = await add(lost, Owner("session", "new"), (MUG, 1))
    assert new.id > lost_cart.id + (LOST_CARTS - 2) * 256
    assert new.id % 256 == 0
    await lost.flush()
    row = await lost.ledger.cart("default", cart.id)
    assert row is not None
    assert row.lines == changed.lines


async def test_what_is_closed_stays_closed(lost: Lost) -> None:
    await a_sale(lost)
    [kates, *_], _ = await lost.ledger.carts("default", KATE, limit=9, offset=0)
    assert kates.status == "CONVERTED"
    await lost.lose()
    await lost.warm()
    with pytest.raises(CartClosed):
        await lost.archive.open(lost.bucket, kates)
    assert (await carts.read(lost.shop, KATE)).id != kates.id


async def test_nothing_is_sold_twice(lost: Lost) -> None:
    await a_sale(lost)
    await lost.lose()
    await lost.warm()
    # Of ten lamps one is sold, and two are held.
    assert await books(lost.shop) == (7, 2, 1)
    await carts.read(lost.shop, BOB)
    error = await refused(lost.shop, OutOfStock, add(lost, BOB, (LAMP, 8)))
    assert error.free == 7
    await add(lost, BOB, (LAMP, 7))
    await lost.archive.close(lost.bucket, await carts.read(lost.shop), "CONVERTED")
    await sound(lost.shop)


async def test_what_buyers_ordered_counts(lost: Lost) -> None:
    await a_sale(lost)
    await lost.lose()
    await lost.warm()
    error = await refused(lost.shop, BuyerLimit, add(lost, EVE, ("tee/m", 2)))
    assert (error.max_units, error.has) == (3, 2)
    await add(lost, EVE, ("tee/m", 1))


async def test_a_hold_that_ended_meanwhile_is_over(lost: Lost) -> None:
    await a_sale(lost)
    await lost.lose()
    lost.shop.clock.ms += 600_000
    done = await lost.warm()
    assert done is not None
    assert (done.cold_carts, done.holding_carts) == (3, 0)
    cart = await carts.read(lost.shop)
    assert (carts.units(cart), len(cart.notices)) == ({MUG: 3}, 1)
    assert await books(lost.shop) == (9, 0, 1)
    await sound(lost.shop)


async def test_a_rebuild_that_was_broken_off_begins_anew(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_sale(lost)
    await lost.lose()

    def broken(*_: object) -> None:
        raise ConnectionResetError

    for step in ("last_cart_id", "active_carts", "orders", "counters"):
        with monkeypatch.context() as breaking:
            breaking.setattr(Recovery, step, broken)
            with pytest.raises(ConnectionResetError):
                await lost.warm()
        await refused(lost.shop, NotWarm, lost.shop.add())
    await lost.ledger.pool.execute("UPDATE stock SET received = 60 WHERE sku = $1", MUG)
    assert await lost.warm()
    assert await lost.shop.redis.hget(lost.bucket.stock, MUG) == b"60"
    assert not await lost.shop.redis.exists(lost.bucket.warming)
    await sound(lost.shop)


async def test_a_tenant_that_was_rebuilt_is_not_paused(lost: Lost) -> None:
    await Sale(lost.shop.runner).pause(lost.bucket, "stocktaking", "eve")
    await lost.lose()
    await lost.warm()
    await lost.shop.add()


async def test_a_tenant_that_was_rebuilt_is_not_paused_unless_somebody_has_paused_it(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, before or during the rebuild: only that can be so early."""
    await lost.lose()
    await lost.shop.redis.set(lost.bucket.paused, "until it is looked at")
    with monkeypatch.context() as breaking:
        breaking.setattr(Recovery, "orders", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await lost.warm()
    assert await lost.warm()
    error = await refused(lost.shop, SalePaused, lost.shop.add())
    assert error.reason == "until it is looked at"


async def test_a_tenant_that_is_there_is_left_alone(lost: Lost) -> None:
    await a_sale(lost)
    before = await lost.shop.everything()
    assert await lost.warm() is None
    assert await lost.shop.everything() == before


async def test_nothing_is_rebuilt_over_what_is_there(lost: Lost) -> None:
    await a_sale(lost)
    await lost.shop.redis.delete(lost.bucket.seq)
    await refused(lost.shop, NotEmpty, lost.warm())


async def test_a_tenant_that_postgresql_does_not_know(lost: Lost) -> None:
    lost.bucket = Bucket("unknown")
    await refused(lost.shop, UnknownTenant, lost.warm())


async def test_prices_go_on_behind_what_was_written(lost: Lost) -> None:
    """Whatever Redis's clock says: here it was an hour ahead before."""
    await a_sale(lost)
    offset = f"{(NOW_MS + 10**12)}-7"
    await lost.ledger.pool.execute("UPDATE buckets SET prices_offset = $1", offset)
    await lost.lose()
    await lost.warm()
    await lost.file({**CATALOGUE[1], "price": 20})
    await carts.read(lost.shop)
    await upkeep.reprice(lost.shop.store, lost.bucket)
    await lost.flush()
    [event] = await lost.ledger.pool.fetch("SELECT * FROM price_history")
    assert (event["old_price_minor"], event["new_price_minor"]) == (1250, 2000)
    assert await lost.shop.redis.xlen(lost.bucket.prices) == 0


async def test_prices_that_were_written_before_their_cart_are_not_repeated(lost: Lost) -> None:
    """Redis lost the cart in between: it goes on behind the event."""
    await a_sale(lost)
    cart = await carts.read(lost.shop)
    await lost.file({**CATALOGUE[1], "price": 20})
    await upkeep.reprice(lost.shop.store, lost.bucket)
    await flush.prices(lost.backlog, lost.ledger, lost.bucket, 100)
    await lost.lose()
    await lost.warm()
    found = await carts.read(lost.shop)
    assert found.version > cart.version + 1
    await lost.file({**CATALOGUE[1], "price": 30})
    await upkeep.reprice(lost.shop.store, lost.bucket)
    await lost.flush()
    [line] = [line for line in cart.lines if line.sku == MUG]
    query = "SELECT new_price_minor FROM price_history WHERE cart_id = $1 ORDER BY cart_version"
    prices = [row["new_price_minor"] for row in await lost.ledger.pool.fetch(query, cart.id)]
    assert prices == [2000, 3000]
    assert line.price_minor == 1250
    row = await lost.ledger.cart("default", cart.id)
    assert row is not None
    assert {one.sku: one.price_minor for one in row.lines}[MUG] == 3000


async def test_lines_of_variants_that_left_still_count(lost: Lost) -> None:
    await add(lost, ANN, ("tee/m", 2))
    tee = {**CATALOGUE[2], "variants": []}
    await lost.file(tee)
    await lost.flush()
    await lost.lose()
    await lost.warm()
    await carts.read(lost.shop)
    error = await refused(lost.shop, OrderLimit, add(lost, ANN, ("tee", 2)))
    assert error.in_cart == 2


async def test_more_sold_than_received_is_not_guessed(lost: Lost) -> None:
    await a_sale(lost)
    await lost.ledger.pool.execute("ALTER TABLE stock DROP CONSTRAINT stock_not_oversold")
    await lost.ledger.pool.execute("UPDATE stock SET sold = received + 1 WHERE sku = $1", MUG)
    await lost.lose()
    done = await lost.warm()
    assert done is not None
    assert (done.oversold, done.counters) == ([MUG], 5)
    await carts.read(lost.shop, BOB)
    await refused(lost.shop, NoCounter, add(lost, BOB, (MUG, 1)))
    await add(lost, BOB, (LAMP, 1))


async def test_what_refused_orders_sold_is_sold(lost: Lost) -> None:
    """PostgreSQL did not take the order; it is set aside, and its units are nobody else's."""
    await lost.ledger.pool.execute("ALTER TABLE carts ADD CHECK (status <> 'CONVERTED')")
    await add(lost, ANN, (LAMP, 4))
    await carts.close(lost.shop)
    await lost.flush()
    assert len(await lost.ledger.letters("default")) == 1
    await lost.lose()
    await lost.warm()
    assert await books(lost.shop) == (6, 0, 4)


REFUSE = "ALTER TABLE cart_items ADD CONSTRAINT few CHECK (quantity < 5)"


async def refuse(lost: Lost, *, closed: bool) -> Any:
    """Ann's cart, whose last change PostgreSQL refuses, and Bob's, of which it has no row."""
    await add(lost, ANN, (LAMP, 2), (MUG, 1))
    await lost.flush()
    await lost.ledger.pool.execute(REFUSE)
    cart = await add(lost, ANN, (LAMP, 4))
    await add(lost, BOB, (MUG, 6))
    if closed:
        await carts.close(lost.shop)
    await lost.flush()
    assert len(await lost.ledger.letters("default")) == 2
    await lost.lose()
    await lost.warm()
    return cart


async def test_a_refused_cart_comes_back_as_it_was_refused(lost: Lost) -> None:
    """With its last change, which was acknowledged; whether it had a row or not."""
    before = await refuse(lost, closed=False)
    assert await books(lost.shop) == (4, 6, 0)
    cart, bobs = await carts.read(lost.shop), await carts.read(lost.shop, BOB)
    assert (cart.lines, cart.id) == (before.lines, before.id)
    assert [line.quantity for line in bobs.lines] == [6]
    await lost.ledger.pool.execute("ALTER TABLE cart_items DROP CONSTRAINT few")
    await lost.flush()
    assert await lost.ledger.letters("default") == []
    row = await lost.ledger.active_cart("default", ANN)
    assert row is not None
    assert row.lines == before.lines
    await sound(lost.shop)


async def test_a_refused_order_does_not_come_back_as_a_cart(lost: Lost) -> None:
    order = await refuse(lost, closed=True)
    assert await books(lost.shop) == (4, 0, 6)
    await refused(lost.shop, NoCart, carts.read(lost.shop))
    begun = await add(lost, ANN, (LAMP, 1))
    assert begun.id != order.id
    await lost.ledger.pool.execute("ALTER TABLE cart_items DROP CONSTRAINT few")
    letters = await lost.ledger.letters("default")
    await replay.run(lost.ledger, lost.backlog, letters)
    await lost.flush()
    assert await lost.ledger.status("default", order.id) == "CONVERTED"
    assert await books(lost.shop) == (3, 1, 6)
    await sound(lost.shop)


@pytest.mark.parametrize("lines", [[(LAMP, 1)], [(MUG, 2)]])
async def test_who_has_another_cart_keeps_it(lost: Lost, lines: list[tuple[str, int]]) -> None:
    """The one that was refused was abandoned, and Redis lost before that was written."""
    await lost.ledger.pool.execute(REFUSE)
    await add(lost, ANN, (MUG, 6))
    await lost.flush()
    await carts.close(lost.shop, "ABANDONED")
    cart = await add(lost, ANN, *lines)
    await flush.these(lost.backlog, lost.ledger, lost.bucket, [lost.bucket.cart(ANN)])
    await lost.lose()
    await lost.warm()
    assert (await carts.read(lost.shop)).id == cart.id
    await sound(lost.shop)


async def test_a_thousand_carts_of_each_kind(lost: Lost) -> None:
    await lost.file(
        {**CATALOGUE[0], "id": "many", "stock": 5_000},
        {**CATALOGUE[1], "id": "lots", "stock": 5_000},
    )
    for number in range(1_100):
        await add(lost, Owner("session", f"{number}"), ("many" if number % 2 else "lots", 1))
    await flush.carts(lost.backlog, lost.ledger, lost.bucket, 500, batches=10)
    await lost.lose()
    done = await lost.warm()
    assert done is not None
    assert (done.cold_carts, done.holding_carts) == (550, 550)
    assert await lost.shop.redis.hget(lost.bucket.held, "many") == b"550"
    await sound(lost.shop)


Case = Callable[[Lost], Awaitable[None]]

GUARDS: list[tuple[str, str, str, Case]] = [
    ("active_carts", "status = 'ACTIVE' AND ", "", test_all_is_as_it_was),
    ("books", "received, sold", "received, 0 AS sold", test_nothing_is_sold_twice),
    (
        "active_carts",
        "held_until > to_timestamp($4::bigint / 1000.0)",
        "held_until > to_timestamp($4::bigint)",
        test_all_is_as_it_was,
    ),
    (
        "orders_of_buyers",
        "status = 'CONVERTED'",
        "status = 'ABANDONED'",
        test_what_buyers_ordered_counts,
    ),
    (
        "later_prices",
        "cart_version AS version",
        "0 AS version",
        test_prices_that_were_written_before_their_cart_are_not_repeated,
    ),
    (
        "later_prices",
        "new_price_minor AS",
        "old_price_minor AS",
        test_prices_that_were_written_before_their_cart_are_not_repeated,
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "case"), GUARDS)
async def test_guards(lost: Lost, name: str, old: str, new: str, case: Case) -> None:
    with mutant_query(name, old, new):
        await turns_red(case(lost))
