"""Changing a price: PostgreSQL has it, Redis takes it, and the carts follow."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cartsvc import upkeep
from cartsvc.errors import Invalid, NotWarm, OutcomeUnknown, UnknownSku
from cartsvc.keys import Bucket
from cartsvc.ledger import CatalogueChange
from cartsvc.model import LineRequest
from cartsvc.prices import Prices
from cartsvc.shelf import Shelf
from tests.carts import read
from tests.mutants import mutant_query, turns_red
from tests.shop import LAMP, MUG
from tests.test_syncs import Counting
from tests.test_upkeep import finish
from tests.test_warm import Lost
from tests.test_warm import lost as lost
from tests.wait import wait_until

Case = Callable[..., Awaitable[None]]

MOST = 1_000_000_000


@pytest.fixture
def prices(lost: Lost) -> Prices:
    return Prices(lost.ledger, lost.shop.shelf, lost.bucket)


async def recorded(lost: Lost) -> dict[str, Any]:
    """All that PostgreSQL has of the catalogue and the stock, but for when it was changed."""
    tables = {
        "products": "SELECT * FROM products ORDER BY id",
        "variants": "SELECT * FROM product_variants ORDER BY product_id, position",
        "stock": "SELECT * FROM stock ORDER BY sku",
    }
    return {
        table: [
            {name: value for name, value in row.items() if name != "updated_at"}
            for row in await lost.ledger.pool.fetch(query)
        ]
        for table, query in tables.items()
    }


async def in_redis(lost: Lost) -> dict[bytes, bytes]:
    """Every SKU's record, without its price."""
    found = await lost.shop.redis.hgetall(lost.bucket.catalogue)
    return {sku: record.partition(b",")[2] for sku, record in found.items()}


async def price_in_redis(lost: Lost, sku: str) -> int:
    record = await lost.shop.redis.hget(lost.bucket.catalogue, sku)
    return int(record.partition(b",")[0].removeprefix(b'{"price":'))


@pytest.mark.parametrize(
    ("sku", "price"), [(LAMP, 2999), ("tee", 1000), ("tee/s", 1100), ("tee/m", 1000), ("gift", 0)]
)
async def test_a_sku_has_the_price_that_postgresql_records(
    prices: Prices, sku: str, price: int
) -> None:
    assert await prices.get(sku) == price


@pytest.mark.parametrize("sku", [LAMP, "tee", "tee/s", "tee/m", "pin", "gift"])
async def test_only_the_price_of_this_sku_changes(lost: Lost, prices: Prices, sku: str) -> None:
    skus = [LAMP, MUG, "tee", "tee/s", "tee/m", "pin", "gift"]
    before = {one: await prices.get(one) for one in skus}
    rows, records = await recorded(lost), await in_redis(lost)
    books = {one: await lost.shop.shelf.stock(lost.bucket, one) for one in skus}
    assert await prices.set(sku, 1234) == before[sku]
    wanted = before | {sku: 1234}
    assert {one: await prices.get(one) for one in skus} == wanted
    assert {one: await price_in_redis(lost, one) for one in skus} == wanted
    assert await in_redis(lost) == records
    assert {one: await lost.shop.shelf.stock(lost.bucket, one) for one in skus} == books
    for row in [*rows["products"], *rows["variants"]]:
        own = row["id"] if "product_id" not in row else f"{row['product_id']}/{row['id']}"
        row["price_minor"] = wanted[own]
    assert await recorded(lost) == rows


async def test_carts_get_it_by_the_worker(lost: Lost, prices: Prices) -> None:
    shop = lost.shop
    await shop.add_lines(LineRequest("tee", 1), LineRequest("tee", 1, "s"), LineRequest(MUG, 1))
    assert await prices.set("tee/s", 900) == 1100
    assert await shop.redis.hgetall(lost.bucket.repricing) == {b"tee/s": b""}
    assert await finish(upkeep.reprice, shop) == 1
    lines = {line.sku: line.price_minor for line in (await read(shop)).lines}
    assert lines == {"tee": 1000, "tee/s": 900, MUG: 1250}
    await lost.flush()
    changes = await lost.ledger.pool.fetch("SELECT * FROM price_history")
    assert [(row["old_price_minor"], row["new_price_minor"]) for row in changes] == [(1100, 900)]


async def test_what_is_added_has_it_at_once(lost: Lost, prices: Prices) -> None:
    await prices.set(LAMP, 1)
    assert (await lost.shop.add()).total_minor == 1


async def test_an_import_sets_it_back(lost: Lost, prices: Prices) -> None:
    await prices.set("tee/s", 900)
    variants = [{"id": "s", "stock": 4, "price": 11}, {"id": "m", "name": "Medium"}]
    await lost.file({"id": "tee", "name": "Tee", "price": 10, "variants": variants})
    assert await prices.get("tee/s") == await price_in_redis(lost, "tee/s") == 1100


async def test_it_outlives_redis(lost: Lost, prices: Prices) -> None:
    await prices.set("tee/s", 900)
    await lost.lose()
    await lost.warm()
    assert await price_in_redis(lost, "tee/s") == 900


async def test_a_product_of_several_skus_stays_one(lost: Lost, prices: Prices) -> None:
    """Carts may hold a variant that has left the catalogue."""
    await lost.file({"id": "tee", "name": "Tee", "price": 10})
    await prices.set("tee", 900)
    assert b'"several":1' in await lost.shop.redis.hget(lost.bucket.catalogue, "tee")


async def test_two_spellings_of_an_object_id_are_one(lost: Lost, prices: Prices) -> None:
    assert await prices.set(LAMP.upper(), 5) == 2999
    assert await prices.get(LAMP) == await prices.get(LAMP.upper()) == 5


@pytest.mark.parametrize(
    "sku",
    ["", "/", "no", "no/s", "tee/", "tee/no", "tee/s/m", "/s", "tee s", "\0", "\ud800", "x" * 999],
)
async def test_what_the_catalogue_does_not_have(lost: Lost, prices: Prices, sku: str) -> None:
    before = await recorded(lost), await lost.shop.everything()
    for call in (prices.get(sku), prices.set(sku, 1)):
        with pytest.raises(UnknownSku) as error:
            await call
        assert error.value.sku == sku
    assert (await recorded(lost), await lost.shop.everything()) == before


async def test_another_tenants_is_not_there(lost: Lost, prices: Prices) -> None:
    acme = Prices(prices.ledger, prices.shelf, Bucket("acme"))
    await lost.shop.shelf.open(acme.bucket)
    with pytest.raises(UnknownSku):
        await acme.set(LAMP, 1)


@pytest.mark.parametrize("price", [-1, MOST + 1, 10**30])
async def test_a_price_that_none_has(lost: Lost, prices: Prices, price: int) -> None:
    before = await recorded(lost), await lost.shop.everything()
    with pytest.raises(Invalid) as error:
        await prices.set(LAMP, price)
    assert (error.value.field, error.value.problem) == (
        "price",
        "must be between 0 and 10000000.00",
    )
    assert (await recorded(lost), await lost.shop.everything()) == before


@pytest.mark.parametrize("price", [0, MOST])
async def test_prices_at_the_bounds(lost: Lost, prices: Prices, price: int) -> None:
    await prices.set("tee/s", price)
    assert await prices.get("tee/s") == await price_in_redis(lost, "tee/s") == price


async def test_nothing_is_changed_of_what_redis_lost(lost: Lost, prices: Prices) -> None:
    await lost.lose()
    before = await recorded(lost)
    with pytest.raises(NotWarm):
        await prices.set(LAMP, 1)
    assert await recorded(lost) == before


async def test_broken_off_it_is_mended_by_doing_it_again(
    lost: Lost, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lost.shop.add()

    async def broken(*_: object) -> None:
        raise OutcomeUnknown("connection lost")

    with monkeypatch.context() as breaking:
        breaking.setattr(Shelf, "put", broken)
        with pytest.raises(OutcomeUnknown):
            await prices.set(LAMP, 1)
    assert (await prices.get(LAMP), await price_in_redis(lost, LAMP)) == (1, 2999)
    assert await prices.set(LAMP, 1) == 1
    assert await price_in_redis(lost, LAMP) == 1
    assert await finish(upkeep.reprice, lost.shop) == 1


async def test_the_same_price_again_asks_for_no_walk(lost: Lost, prices: Prices) -> None:
    await lost.shop.add()
    before = await lost.shop.everything()
    assert await prices.set(LAMP, 2999) == 2999
    assert await lost.shop.everything() == before


async def test_it_and_an_import_do_not_cross(
    lost: Lost, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in PostgreSQL and not yet in Redis when an import sets another."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    counters = CatalogueChange.counters

    async def held_up(*arguments: Any) -> Any:
        if not arrived.is_set():
            arrived.set()
            await go_on.wait()
        return await counters(*arguments)

    monkeypatch.setattr(CatalogueChange, "counters", held_up)
    setting = asyncio.create_task(prices.set(LAMP, 1))
    await arrived.wait()
    importing = asyncio.create_task(lost.file({"id": LAMP, "name": "Lamp", "price": 7}))

    async def settled() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return importing.done() or await lost.ledger.pool.fetchval(waiting) == 1

    await wait_until(settled)
    go_on.set()
    await asyncio.gather(setting, importing)
    assert await prices.get(LAMP) == await price_in_redis(lost, LAMP) == 700


async def test_many_at_once_leave_one_price(lost: Lost, prices: Prices) -> None:
    told = await asyncio.gather(*(prices.set(LAMP, price) for price in range(1, 21)))
    # Each is told what the one before it left.
    assert sorted([*told, await prices.get(LAMP)]) == sorted([2999, *range(1, 21)])
    assert await prices.get(LAMP) == await price_in_redis(lost, LAMP)


async def test_it_is_told_once_it_is_on_the_disk(lost: Lost, prices: Prices) -> None:
    lost.shop.runner.syncs = counting = Counting()  # type: ignore[assignment]
    await prices.get(LAMP)
    assert counting.waited == 0
    await prices.set(LAMP, 1)
    assert counting.waited == 1
    lost.shop.runner.syncs = None


@pytest.mark.parametrize(
    ("query", "old", "new", "case"),
    [
        (
            "set_price",
            "id = $3",
            "(true OR id = $3)",
            partial(test_only_the_price_of_this_sku_changes, sku="tee"),
        ),
        (
            "set_variant_price",
            "id = $4",
            "(true OR id = $4)",
            partial(test_only_the_price_of_this_sku_changes, sku="tee/s"),
        ),
        ("products_by_id", "tenant = $1 AND id", "id", test_another_tenants_is_not_there),
    ],
)
async def test_guards_of_the_queries(
    lost: Lost, prices: Prices, query: str, old: str, new: str, case: Case
) -> None:
    with mutant_query(query, old, new):
        await turns_red(case(lost, prices))


async def test_guard_of_changes_that_cross(
    lost: Lost, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mutant_query("lock_catalogue", "pg_advisory_lock(", "abs("):
        await turns_red(test_it_and_an_import_do_not_cross(lost, prices, monkeypatch))
