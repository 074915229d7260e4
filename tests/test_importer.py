"""Importing a catalogue, and changing stock, with a real PostgreSQL and a real Redis."""

import asyncio
import io
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from cartsvc import demo, rows, scripts
from cartsvc.errors import (
    Invalid,
    NoCounter,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    StockHeld,
    UnknownSku,
)
from cartsvc.importer import BATCH, Imported, Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import MAX_QUANTITY, LineRequest, StockLevel
from cartsvc.rows import Row
from cartsvc.scripts import Runner
from cartsvc.shelf import Shelf
from cartsvc.stock import Recorded, Stock
from tests.shop import LAMP, MUG, Mutant, Shop

BUCKET = Bucket("default")


def row(id_: str = LAMP, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "name": "Aurora Desk Lamp", "price": 29.99, "stock": 100, **fields}


def unstocked(id_: str = LAMP, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "name": "Aurora Desk Lamp", "price": 29.99, **fields}


def file(*products: dict[str, Any]) -> Iterator[Row]:
    return rows.read(io.BytesIO("\n".join(json.dumps(one) for one in products).encode()))


@pytest.fixture
def importer(ledger: Ledger, runner: Runner) -> Importer:
    return Importer(ledger, Shelf(runner), BUCKET, "USD")


@pytest.fixture
def stock(importer: Importer) -> Stock:
    return Stock(importer.ledger, importer.shelf, BUCKET)


async def in_redis(importer: Importer) -> dict[bytes, Any]:
    return await Shop(importer.shelf.runner).everything()


async def in_postgres(importer: Importer) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables that an import writes, with the times of their changes."""
    queries = {
        "products": "SELECT * FROM products ORDER BY tenant, id",
        "product_variants": "SELECT * FROM product_variants ORDER BY tenant, product_id, position",
        "stock": "SELECT * FROM stock ORDER BY tenant, sku",
    }
    fetch = importer.ledger.pool.fetch
    return {table: [tuple(row) for row in await fetch(query)] for table, query in queries.items()}


async def levels(importer: Importer) -> dict[str, tuple[int, int]]:
    """SKU -> (received, free), for the counters of both."""
    received = {sku: units for _, sku, units, *_ in (await in_postgres(importer))["stock"]}
    redis: Any = importer.shelf.runner.redis
    counters = await redis.hgetall(BUCKET.stock)
    free = {sku.decode(): int(units) for sku, units in counters.items()}
    assert received.keys() == free.keys()
    return {sku: (received[sku], free[sku]) for sku in received}


async def test_new_products_are_in_postgres_and_in_redis(importer: Importer) -> None:
    variants = [{"id": "s", "name": "Small", "price": 19.5, "stock": 2}, {"id": "m"}]
    tee = row("tee", name="Heavy Tee", image_url="front", images=["back"], variants=variants)
    done = await importer.run(file(row(LAMP.upper()), tee))
    assert done == Imported(products=2, counters=3, bad_rows=0)
    fetch = importer.ledger.pool.fetch
    query = "SELECT tenant, id, name, price_minor, currency, images, active FROM products"
    assert [tuple(product) for product in await fetch(query)] == [
        ("default", LAMP, "Aurora Desk Lamp", 2999, "USD", [], True),
        ("default", "tee", "Heavy Tee", 2999, "USD", ["front", "back"], True),
    ]
    assert (await in_postgres(importer))["product_variants"] == [
        ("default", "tee", "s", "Small", 1950, 0),
        ("default", "tee", "m", "m", 2999, 1),
    ]
    assert await levels(importer) == {LAMP: (100, 100), "tee": (100, 100), "tee/s": (2, 2)}
    stocks = {LAMP.encode(): b"100", b"tee": b"100", b"tee/s": b"2"}
    assert await in_redis(importer) == {
        BUCKET.seq.encode(): b"0",
        BUCKET.stock.encode(): stocks,
        BUCKET.received.encode(): stocks,
        BUCKET.catalogue.encode(): {
            LAMP.encode(): b'{"price":2999,"active":1,"policy":"","counter":"%b","several":0,'
            b'"rules":{},"variants":[],"about":{"name":"Aurora Desk Lamp"}}' % LAMP.encode(),
            b"tee": b'{"price":2999,"active":1,"policy":"","counter":"tee","several":1,"rules":{},'
            b'"variants":["s","m"],"about":{"name":"Heavy Tee","images":["front","back"]}}',
            b"tee/s": b'{"price":1950,"active":1,"policy":"","counter":"tee/s","several":1,'
            b'"rules":{},"variants":[],'
            b'"about":{"name":"Heavy Tee","variant":"Small","images":["front","back"]}}',
            b"tee/m": b'{"price":2999,"active":1,"policy":"","counter":"tee","several":1,'
            b'"rules":{},"variants":[],'
            b'"about":{"name":"Heavy Tee","variant":"m","images":["front","back"]}}',
        },
    }


async def test_importing_again_updates_in_place(importer: Importer) -> None:
    old = row("tee", image_url="old", variants=[{"id": "s"}, {"id": "m"}])
    await importer.run(file(old, row(MUG)))
    fetch = importer.ledger.pool.fetch
    [created, mug] = await fetch("SELECT * FROM products ORDER BY id DESC")
    new = row("tee", name="Light Tee", price=24.5, active=False, variants=[{"id": "l"}])
    assert await importer.run(file(new)) == Imported(products=1)
    [updated, same] = await fetch("SELECT * FROM products ORDER BY id DESC")
    assert (updated["name"], updated["price_minor"]) == ("Light Tee", 2450)
    assert (updated["images"], updated["active"]) == ([], False)
    assert updated["created_at"] == created["created_at"] < updated["updated_at"]
    assert same == mug
    variants = (await in_postgres(importer))["product_variants"]
    assert variants == [("default", "tee", "l", "l", 2450, 0)]
    catalogue = (await in_redis(importer))[BUCKET.catalogue.encode()]
    assert catalogue.keys() == {b"tee", b"tee/l", MUG.encode()}
    assert catalogue[b"tee"] == (
        b'{"price":2450,"active":0,"policy":"","counter":"tee","several":1,"rules":{},'
        b'"variants":["l"],"about":{"name":"Light Tee"}}'
    )


async def test_a_product_of_several_skus_stays_one(importer: Importer) -> None:
    """Carts may hold lines of variants that have left."""
    await importer.run(file(row("tee", variants=[{"id": "s"}])))
    await importer.run(file(row("tee")))
    catalogue = (await in_redis(importer))[BUCKET.catalogue.encode()]
    assert catalogue.keys() == {b"tee"}
    assert b'"several":1' in catalogue[b"tee"]


async def test_counters_are_counted_once(importer: Importer) -> None:
    done = await importer.run(file(row(LAMP), unstocked(MUG)), set_stock=True)
    assert done == Imported(products=2, counters=2)
    assert await levels(importer) == {LAMP: (100, 100), MUG: (0, 0)}


async def test_rules_of_a_sale_are_recorded(importer: Importer) -> None:
    window = {"sale_starts_at": "2026-11-27T09:00:00+01:00", "sale_ends_at": "2026-11-27T08:30:00Z"}
    limits: dict[str, Any] = {"max_per_buyer": 2, "max_per_order": 5, "min_per_order": 1}
    await importer.run(file(row(stock_policy="hold", hold_ttl_s=60, **limits, **window), row(MUG)))
    query = """SELECT stock_policy, hold_ttl_s, max_per_buyer, max_per_order, min_per_order,
        extract(epoch FROM sale_starts_at), extract(epoch FROM sale_ends_at)
        FROM products ORDER BY id"""
    lamp, mug = await importer.ledger.pool.fetch(query)
    assert tuple(lamp) == ("hold", 60, 2, 5, 1, 1_795_766_400, 1_795_768_200)
    assert set(mug) == {None}


async def test_a_changed_price_reaches_the_next_add(importer: Importer) -> None:
    shop = Shop(importer.shelf.runner)
    await importer.run(file(row(price=29.99)))
    assert (await shop.add()).lines[0].price_minor == 2999
    await importer.run(file(row(price=24.50)))
    assert (await shop.add()).lines[0].price_minor == 2450


async def test_stock_counts_only_for_new_skus(importer: Importer) -> None:
    await importer.run(file(row("tee", stock=10, variants=[{"id": "s", "stock": 4}])))
    await importer.shelf.set_stock(BUCKET, "tee", 7)
    variants = [{"id": "s", "stock": 40}, {"id": "m", "stock": 5}]
    done = await importer.run(file(row("tee", stock=50, variants=variants)))
    assert done.counters == 1
    assert await levels(importer) == {"tee": (10, 7), "tee/s": (4, 4), "tee/m": (5, 5)}


async def test_set_stock_counts_for_skus_that_name_it(importer: Importer) -> None:
    sizes = [{"id": "s", "stock": 4}, {"id": "m", "stock": 5}]
    await importer.run(file(row("tee", stock=10, variants=sizes), row(LAMP), row(MUG)))
    for sku in ("tee", "tee/s", "tee/m", LAMP, MUG):
        await importer.shelf.set_stock(BUCKET, sku, 1)
    tee = unstocked("tee", variants=[{"id": "s", "stock": 40}, {"id": "m"}])
    done = await importer.run(file(tee, unstocked(LAMP), row(MUG, stock=0)), set_stock=True)
    assert done.counters == 2
    assert await levels(importer) == {
        "tee": (10, 1),
        "tee/s": (40, 40),
        "tee/m": (5, 1),
        LAMP: (100, 1),
        MUG: (0, 0),
    }


async def test_a_new_product_without_stock_has_none_to_sell(importer: Importer) -> None:
    await importer.run(file(unstocked()), set_stock=True)
    assert await levels(importer) == {LAMP: (0, 0)}
    with pytest.raises(OutOfStock):
        await Shop(importer.shelf.runner).add()


async def test_a_variant_whose_row_names_no_stock_any_more_keeps_its_counter(
    importer: Importer,
) -> None:
    await importer.run(file(row("tee", variants=[{"id": "s", "stock": 4}])))
    await importer.run(file(row("tee", variants=[{"id": "s"}])))
    with pytest.raises(OutOfStock) as refused:
        await Shop(importer.shelf.runner).add(5, "tee", "s")
    assert (refused.value.sku, refused.value.free) == ("tee/s", 4)


async def test_bad_rows_are_reported_and_others_imported(importer: Importer) -> None:
    bad: list[int] = []
    problems: list[str] = []

    def on_bad_row(line: int, problem: str) -> None:
        bad.append(line)
        problems.append(problem)

    good, foreign, nameless = row(LAMP), row("hat", currency="EUR"), {"id": "cap", "price": 1}
    done = await importer.run(
        file(good, foreign, nameless, row("a:b"), row(MUG)), on_bad_row=on_bad_row
    )
    assert done == Imported(products=2, counters=2, bad_rows=3)
    assert bad == [2, 3, 4]
    for problem, word in zip(problems, ("currency 'EUR'", "name", "id 'a:b'"), strict=True):
        assert word in problem
    assert (await levels(importer)).keys() == {LAMP, MUG}


async def test_of_rows_with_one_id_the_later_counts(importer: Importer) -> None:
    twice = file(
        row("A" * 24, price=1, stock=1, variants=[{"id": "s"}]),
        row(MUG),
        row("a" * 24, price=2, stock=2, variants=[{"id": "m"}]),
    )
    assert await importer.run(twice) == Imported(products=2, counters=2)
    recorded = await in_postgres(importer)
    assert [variant[:5] for variant in recorded["product_variants"]] == [
        ("default", "a" * 24, "m", "m", 200)
    ]
    catalogue = (await in_redis(importer))[BUCKET.catalogue.encode()]
    assert catalogue.keys() == {MUG.encode(), b"a" * 24, b"a" * 24 + b"/m"}
    assert catalogue[b"a" * 24].startswith(b'{"price":200,')
    assert (await levels(importer))["a" * 24] == (2, 2)


async def test_a_file_may_be_longer_than_a_transaction(importer: Importer) -> None:
    batches: list[int] = []
    many = [row(f"p{number}", stock=number) for number in range(BATCH)]
    again = row("p0", price=1)
    done = await importer.run(file(*many, again, row(MUG)), on_batch=batches.append)
    assert (batches, done.counters) == ([BATCH, 2], BATCH + 1)
    found = await levels(importer)
    assert len(found) == BATCH + 1
    assert found["p499"] == (499, 499)
    # The later row counts in the next transaction too.
    catalogue = (await in_redis(importer))[BUCKET.catalogue.encode()]
    assert catalogue[b"p0"].startswith(b'{"price":100,')


async def test_an_import_broken_off_before_redis_is_mended_by_another(importer: Importer) -> None:
    await importer.run(file(row(LAMP, price=1)))
    broken = Mutant(
        importer.shelf.runner,
        "product_put.lua",
        "local before =",
        "error('broken off') local before =",
    )
    new = [row(LAMP, price=2), row("tee", variants=[{"id": "s", "stock": 4}])]
    with pytest.raises(OutcomeUnknown, match="broken off"):
        await Importer(importer.ledger, Shelf(broken), BUCKET, "USD").run(file(*new))
    recorded = await in_postgres(importer)
    assert [product[1] for product in recorded["products"]] == [LAMP, "tee"]
    assert await importer.shelf.runner.redis.hexists(BUCKET.catalogue, "tee") == 0

    assert await importer.run(file(*new)) == Imported(products=2, counters=2)
    shop = Shop(importer.shelf.runner)
    assert (await shop.add(1, LAMP)).lines[0].price_minor == 200
    assert (await shop.add(4, "tee", "s")).total_quantity == 5
    assert await levels(importer) == {LAMP: (100, 100), "tee": (100, 100), "tee/s": (4, 4)}


async def test_a_first_import_that_found_no_redis_is_mended_by_another(importer: Importer) -> None:
    nowhere = scripts.connect("redis://127.0.0.1:1/0", timeout_s=1)
    away = Importer(importer.ledger, Shelf(Runner(nowhere, timeout_s=1)), BUCKET, "USD")
    with pytest.raises(OutcomeUnknown):
        await away.run(file(row()))
    await nowhere.aclose()
    assert await importer.run(file(row())) == Imported(products=1, counters=1)


async def test_nothing_is_changed_in_a_bucket_that_redis_lost(importer: Importer) -> None:
    await importer.run(file(row()))
    await importer.shelf.runner.redis.flushall()
    before = await in_postgres(importer)
    with pytest.raises(NotWarm):
        await importer.run(file(row(price=1), row(MUG)), set_stock=True)
    assert await in_postgres(importer) == before
    assert await in_redis(importer) == {}


async def test_tenants_have_a_catalogue_each(importer: Importer) -> None:
    await importer.run(file(row(stock=1)))
    acme = Importer(importer.ledger, importer.shelf, Bucket("acme"), "EUR")
    await acme.run(file(row(price=5, stock=2, currency="EUR")))
    assert await importer.shelf.stock(BUCKET, LAMP) == StockLevel(LAMP, 1, 0, 0)
    assert await importer.shelf.stock(acme.bucket, LAMP) == StockLevel(LAMP, 2, 0, 0)
    products = (await in_postgres(importer))["products"]
    assert {(product[0], product[3]) for product in products} == {("default", 2999), ("acme", 500)}


async def test_demo_catalogue_has_every_kind_of_product(importer: Importer) -> None:
    with demo.FILE.open("rb") as catalogue:
        done = await importer.run(rows.read(catalogue))
    assert done.bad_rows == 0
    fetch = importer.ledger.pool.fetch
    active = {r["id"]: r["active"] for r in await fetch("SELECT id, active FROM products")}
    assert len(active) == done.products
    forms = ["[0-9a-f]{24}", "[1-9][0-9]{0,5}", "c[a-z0-9]{17,30}"]
    kinds = [{id_ for id_ in active if re.fullmatch(form, id_)} for form in forms]
    assert all(len(kind) > 1 for kind in kinds)
    assert set.union(*kinds) == active.keys()
    assert list(active.values()).count(False) == 1
    found = await levels(importer)
    assert active[demo.FIRST_PRODUCT]
    assert found[demo.FIRST_PRODUCT][1] > 100
    # Some variants have stock of their own, some draw on their product's.
    variants = await fetch("SELECT product_id || '/' || id AS sku FROM product_variants")
    assert {variant["sku"] in found for variant in variants} == {True, False}
    policies = await fetch("SELECT stock_policy FROM products WHERE stock_policy IS NOT NULL")
    assert [row["stock_policy"] for row in policies] == ["hold"]
    assert any(0 < free <= 5 for sku, (_, free) in found.items() if active.get(sku))


def recorded(sku: str, received: int, free: int | None) -> Recorded:
    level = None if free is None else StockLevel(sku, free, 0, 0)
    return Recorded(sku, received, level)


@pytest.fixture
async def stocked(importer: Importer) -> None:
    """A lamp of which PostgreSQL has 10 and Redis 4, a mug, and a tee whose variants share."""
    await importer.run(
        file(row(LAMP, stock=10), row(MUG, stock=1), row("tee", variants=[{"id": "s"}]))
    )
    await importer.shelf.set_stock(BUCKET, LAMP, 4)


@pytest.mark.usefixtures("stocked")
class TestStock:
    async def test_get_tells_both(self, stock: Stock) -> None:
        assert await stock.get(LAMP) == recorded(LAMP, received=10, free=4)

    async def test_set_makes_both_the_same(self, stock: Stock, importer: Importer) -> None:
        assert await stock.set(LAMP, 7) == recorded(LAMP, received=7, free=7)
        assert await levels(importer) == {LAMP: (7, 7), MUG: (1, 1), "tee": (100, 100)}

    async def test_add_moves_both_and_mends_the_record(
        self, stock: Stock, importer: Importer
    ) -> None:
        assert await stock.add(LAMP, 5) == recorded(LAMP, received=9, free=9)
        assert await stock.add(LAMP, -9) == recorded(LAMP, received=0, free=0)
        assert await levels(importer) == {LAMP: (0, 0), MUG: (1, 1), "tee": (100, 100)}

    async def test_what_was_changed_can_be_bought(self, stock: Stock, runner: Runner) -> None:
        await stock.set(MUG, 0)
        with pytest.raises(OutOfStock):
            await Shop(runner).add(1, MUG)
        await stock.add(MUG, 3)
        assert (await Shop(runner).add(3, MUG)).total_quantity == 3

    async def test_takes_out_no_more_than_are_free(self, stock: Stock, importer: Importer) -> None:
        before = await levels(importer)
        with pytest.raises(OutOfStock) as refused:
            await stock.add(LAMP, -5)
        assert (refused.value.sku, refused.value.free) == (LAMP, 4)
        assert await levels(importer) == before

    # A variant that shares its product's counter has none to change.
    @pytest.mark.parametrize("sku", ["nothing", "tee/s", ""])
    async def test_a_sku_without_a_counter_is_unknown(
        self, stock: Stock, importer: Importer, sku: str
    ) -> None:
        before = await levels(importer)
        for change in (stock.get(sku), stock.set(sku, 1), stock.add(sku, 1)):
            with pytest.raises(UnknownSku) as unknown:
                await change
            assert unknown.value.sku == sku
        assert await levels(importer) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda stock: stock.set(LAMP, MAX_QUANTITY + 1),
            lambda stock: stock.add(LAMP, MAX_QUANTITY),
            lambda stock: stock.set(LAMP, -1),
        ],
        ids=["set", "add", "set below zero"],
    )
    async def test_what_redis_refuses_is_not_recorded(
        self,
        stock: Stock,
        importer: Importer,
        change: Callable[[Stock], Coroutine[Any, Any, Recorded]],
    ) -> None:
        before = await in_postgres(importer)
        # What is added is told at once: an operator may have mistyped it.
        with pytest.raises((OutcomeUnknown, Invalid), match="999999999"):
            await change(stock)
        assert await in_postgres(importer) == before
        assert await importer.shelf.stock(BUCKET, LAMP) == StockLevel(LAMP, 4, 0, 0)

    async def test_nothing_is_recorded_while_redis_is_not_warm(
        self, stock: Stock, importer: Importer
    ) -> None:
        await importer.shelf.runner.redis.delete(BUCKET.seq)
        before = await in_postgres(importer)
        for change in (stock.set(LAMP, 1), stock.add(LAMP, 1)):
            with pytest.raises(NotWarm):
                await change
        assert await in_postgres(importer) == before

    async def test_set_mends_a_counter_that_redis_lost(
        self, stock: Stock, importer: Importer
    ) -> None:
        await importer.shelf.runner.redis.hdel(BUCKET.stock, LAMP)
        assert await stock.get(LAMP) == recorded(LAMP, received=10, free=None)
        with pytest.raises(NoCounter):
            await stock.add(LAMP, 1)
        assert await stock.get(LAMP) == recorded(LAMP, received=10, free=None)
        assert await stock.set(LAMP, 6) == recorded(LAMP, received=6, free=6)

    async def test_an_import_does_not_guess_a_counter_that_redis_lost(
        self, stock: Stock, importer: Importer
    ) -> None:
        await importer.shelf.runner.redis.hdel(BUCKET.stock, LAMP)
        await importer.run(file(row(LAMP, stock=10)))
        assert await stock.get(LAMP) == recorded(LAMP, received=10, free=None)

    async def test_operators_change_a_counter_one_after_the_other(
        self, stock: Stock, importer: Importer
    ) -> None:
        await asyncio.gather(*(stock.add(LAMP, 1) for _ in range(20)))
        assert (await levels(importer))[LAMP] == (24, 24)

    async def test_what_carts_hold_is_not_set_away(self, stock: Stock, importer: Importer) -> None:
        await importer.run(file(row(LAMP, stock_policy="hold")))
        await Shop(importer.shelf.runner).add(3, LAMP)
        before = await in_postgres(importer)
        with pytest.raises(StockHeld) as refused:
            await stock.set(LAMP, 2)
        assert (refused.value.sku, refused.value.held) == (LAMP, 3)
        assert await in_postgres(importer) == before
        assert await stock.set(LAMP, 50) == Recorded(LAMP, 50, StockLevel(LAMP, 47, 3, 0))


async def test_an_import_tells_which_stock_can_not_be_set(importer: Importer) -> None:
    await importer.run(file(row(LAMP, stock_policy="hold"), row(MUG)))
    await Shop(importer.shelf.runner).add_lines(LineRequest(LAMP, 3))
    told: list[tuple[int, str]] = []
    done = await importer.run(
        file(row(MUG, stock=1), row(LAMP, price=1, stock=2)),
        set_stock=True,
        on_bad_row=lambda line, problem: told.append((line, problem)),
    )
    assert done == Imported(products=2, counters=1, bad_rows=1)
    [(line, problem)] = told
    assert line == 2
    assert re.search(f"2 of {LAMP} .* 3$", problem)
    assert await levels(importer) == {LAMP: (100, 97), MUG: (1, 1)}
