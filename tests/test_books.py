"""What PostgreSQL keeps of stock: received, sold and adjusted, in step with what Redis counts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from cartsvc import flush
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import NoCounter, Rebuilt, RowsRefused
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.stock import Stock
from tests import carts
from tests.carts import BOB, books, close
from tests.mutants import mutant_query, turns_red
from tests.shop import ANN, LAMP, MUG, Shop
from tests.wait import wait_until


async def record(shop: Shop, ledger: Ledger, units: int = 10, policy: str | None = None) -> Stock:
    """A product of which both servers know the stock."""
    await shop.sell(LAMP, stock_policy=policy)
    await shop.shelf.set_stock(shop.bucket, LAMP, units)
    query = "INSERT INTO stock (tenant, sku, received) VALUES ('default', $1, $2)"
    await ledger.pool.execute(query, LAMP, units)
    return Stock(ledger, shop.shelf, shop.bucket)


async def recorded(ledger: Ledger) -> tuple[int, int, int]:
    """(received, sold, adjusted) of the lamp."""
    [row] = await ledger.pool.fetch("SELECT * FROM stock WHERE sku = $1", LAMP)
    return row["received"], row["sold"], row["adjusted"]


async def write(shop: Shop, ledger: Ledger) -> None:
    await flush.carts(Backlog(shop.runner), ledger, shop.bucket, 100)


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_a_conversion_is_in_the_books(open_shop: Shop, ledger: Ledger, policy: str) -> None:
    await record(open_shop, ledger, policy=policy)
    await open_shop.add(3)
    await close(open_shop)
    await write(open_shop, ledger)
    assert await recorded(ledger) == (10, 3, 0)
    assert await books(open_shop) == (7, 0, 3)


async def test_a_conversion_is_counted_once(open_shop: Shop, ledger: Ledger) -> None:
    await record(open_shop, ledger)
    await open_shop.add(3)
    cart = await close(open_shop)
    backlog = Backlog(open_shop.runner)
    for _ in range(3):
        await flush.closed(backlog, ledger, open_shop.bucket, cart, epoch=0)
    await write(open_shop, ledger)
    assert await recorded(ledger) == (10, 3, 0)


async def test_what_is_not_sold_is_not_counted(open_shop: Shop, ledger: Ledger) -> None:
    await record(open_shop, ledger)
    await open_shop.sell(MUG, price="12.50", stock_policy="untracked")
    await open_shop.add(3)
    await write(open_shop, ledger)
    await close(open_shop, "ABANDONED")
    await open_shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 5), owner=BOB)
    await carts.save(open_shop, LAMP, BOB)
    await close(open_shop, owner=BOB)
    await write(open_shop, ledger)
    assert await recorded(ledger) == (10, 0, 0)


async def test_variants_count_where_their_units_were_taken(open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.sell("tee", stock=5, variants=[("s", 2), ("m", None)])
    query = "INSERT INTO stock (tenant, sku, received) VALUES ('default', $1, $2)"
    for sku, units in (("tee", 5), ("tee/s", 2)):
        await ledger.pool.execute(query, sku, units)
    await open_shop.add_lines(LineRequest("tee", 2, "s"), LineRequest("tee", 1, "m"))
    cart = await close(open_shop)
    assert [line.sold_from for line in cart.lines] == ["tee/s", "tee"]
    await write(open_shop, ledger)
    rows = await ledger.pool.fetch("SELECT sku, sold FROM stock WHERE sold > 0 ORDER BY sku")
    assert [tuple(row) for row in rows] == [("tee", 1), ("tee/s", 2)]
    assert await ledger.cart("default", cart.id) == cart


async def test_no_more_is_sold_than_was_received(open_shop: Shop, ledger: Ledger) -> None:
    """A Redis that came back older counts units as free that are sold already."""
    await record(open_shop, ledger, 4)
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=5)
    await archive.close(open_shop.bucket, await open_shop.add(3), "CONVERTED")
    await open_shop.redis.hset(open_shop.bucket.stock, LAMP, 4)
    cart = await carts.add(open_shop, BOB, 2)
    with pytest.raises(RowsRefused, match="stock_not_oversold"):
        await archive.close(open_shop.bucket, cart, "CONVERTED")
    assert await recorded(ledger) == (4, 3, 0)
    assert await ledger.status("default", cart.id) != "CONVERTED"
    await write(open_shop, ledger)
    [letter] = await ledger.letters("default")
    assert (letter.cart_id, "stock_not_oversold" in letter.reason) == (cart.id, True)


async def test_conversions_at_once_add_up(open_shop: Shop, ledger: Ledger) -> None:
    await record(open_shop, ledger, 100)
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=30)
    owners = [Owner("session", str(number)) for number in range(40)]
    found = [await carts.add(open_shop, owner, 2) for owner in owners]
    bucket = open_shop.bucket
    await asyncio.gather(*(archive.close(bucket, cart, "CONVERTED") for cart in found))
    assert await recorded(ledger) == (100, 80, 0)
    assert await books(open_shop) == (20, 0, 80)


async def test_deliveries_and_corrections_are_told_apart(open_shop: Shop, ledger: Ledger) -> None:
    stock = await record(open_shop, ledger)
    await stock.add(LAMP, 5)
    assert await recorded(ledger) == (15, 0, 0)
    await stock.add(LAMP, -2)
    assert await recorded(ledger) == (13, 0, -2)
    await stock.set(LAMP, 20)
    assert await recorded(ledger) == (20, 0, 5)
    await stock.set(LAMP, 1)
    assert await recorded(ledger) == (1, 0, -14)


async def test_units_are_received_before_they_can_be_sold(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody buys them the moment that Redis has them, before the command is done."""
    stock = await record(open_shop, ledger, 0)
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=5)

    async def bought(name: str, units: int) -> None:
        script = getattr(open_shop.shelf, name)

        async def and_buy(*arguments: object) -> object:
            done = await script(*arguments)
            cart = await open_shop.add(units)
            await archive.close(open_shop.bucket, cart, "CONVERTED")
            return done

        monkeypatch.setattr(open_shop.shelf, name, and_buy)

    await bought("add_stock", 5)
    await stock.add(LAMP, 5)
    assert await recorded(ledger) == (5, 5, 0)
    await bought("set_stocks", 7)
    await stock.set(LAMP, 7)
    assert await recorded(ledger) == (12, 12, 7)


async def test_a_delivery_for_no_counter_is_not_recorded(open_shop: Shop, ledger: Ledger) -> None:
    stock = await record(open_shop, ledger)
    await open_shop.redis.hdel(open_shop.bucket.stock, LAMP)
    with pytest.raises(NoCounter):
        await stock.add(LAMP, 5)
    assert await recorded(ledger) == (10, 0, 0)


async def test_what_was_read_before_a_rebuild_is_not_written(
    open_shop: Shop, ledger: Ledger
) -> None:
    await record(open_shop, ledger)
    await open_shop.add(3)
    cart, epoch = await close(open_shop), await ledger.epoch(open_shop.bucket)
    async with ledger.catalogue_change("default") as change:
        await change.begin_epoch(open_shop.bucket)
    with pytest.raises(Rebuilt):
        await flush.closed(Backlog(open_shop.runner), ledger, open_shop.bucket, cart, epoch=epoch)
    assert await recorded(ledger) == (10, 0, 0)
    assert await ledger.status("default", cart.id) is None


async def test_a_batch_that_was_read_before_a_rebuild_is_not_written(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(open_shop, ledger)
    await open_shop.add(3)
    await close(open_shop)
    read = Backlog.dirty_carts

    async def then_lost(*arguments: Any, **named: Any) -> Any:
        found = await read(*arguments, **named)
        async with ledger.catalogue_change("default") as change:
            await change.begin_epoch(open_shop.bucket)
        return found

    with monkeypatch.context() as losing:
        losing.setattr(Backlog, "dirty_carts", then_lost)
        with pytest.raises(Rebuilt):
            await write(open_shop, ledger)
    assert await recorded(ledger) == (10, 0, 0)


async def test_a_rebuild_waits_for_what_is_being_written(open_shop: Shop, ledger: Ledger) -> None:
    async def begin() -> None:
        async with ledger.catalogue_change("default") as change:
            await change.begin_epoch(open_shop.bucket)

    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with ledger.write(open_shop.bucket, epoch=0) as writing:
        beginning = asyncio.create_task(begin())
        await wait_until(lambda: ledger.pool.fetchval(waiting), 1)
        assert not beginning.done()
        await writing.write_carts([])
    await beginning
    assert await ledger.epoch(open_shop.bucket) == 1


# A Redis that came back older than what PostgreSQL has.


async def go_back(shop: Shop, before: dict[bytes, bytes]) -> None:
    """The cart as it was, as after a failover, and not dirty."""
    key = shop.bucket.cart(ANN)
    await shop.redis.delete(key, shop.bucket.dirty)
    await shop.redis.hset(key, mapping=before)


async def changed_since(shop: Shop, ledger: Ledger) -> dict[bytes, bytes]:
    """What Redis had before two changes that were written."""
    await shop.add(1)
    await write(shop, ledger)
    before: dict[bytes, bytes] = await shop.redis.hgetall(shop.bucket.cart(ANN))
    shop.clock.ms += 1_000
    await carts.put(shop, 8)
    await carts.put(shop, 9)
    await write(shop, ledger)
    return before


@pytest.mark.parametrize("changes", [1, 2, 3])
async def test_what_is_changed_then_is_written(
    open_shop: Shop, ledger: Ledger, changes: int
) -> None:
    """Its version is below that of the row, the same, or above."""
    await go_back(open_shop, await changed_since(open_shop, ledger))
    open_shop.clock.ms += 1_000
    for number in range(changes):
        cart = await carts.put(open_shop, 3 + number)
    for _ in range(2):
        await write(open_shop, ledger)
    row = await ledger.cart("default", cart.id)
    assert row is not None
    assert row.lines == cart.lines
    assert await open_shop.redis.zcard(open_shop.bucket.dirty) == 0
    found = await carts.read(open_shop)
    assert (found.version, found.lines) == (row.version, cart.lines)


async def test_a_conversion_then_is_written_at_once(open_shop: Shop, ledger: Ledger) -> None:
    await record(open_shop, ledger)
    await go_back(open_shop, await changed_since(open_shop, ledger))
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=5)
    cart = await carts.read(open_shop)
    await archive.close(open_shop.bucket, cart, "CONVERTED")
    assert await ledger.status("default", cart.id) == "CONVERTED"
    assert await recorded(ledger) == (10, 1, 0)
    assert not await open_shop.redis.keys("closed:*")


async def test_a_cart_that_changed_meanwhile_is_not_taken_for_an_older_one(
    open_shop: Shop, ledger: Ledger
) -> None:
    """Another worker wrote it first, at a later version."""
    await open_shop.add(1)
    backlog = Backlog(open_shop.runner)
    read = await backlog.dirty_carts(open_shop.bucket, 10)
    open_shop.clock.ms += 1_000
    cart = await open_shop.add(1)
    await write(open_shop, ledger)
    async with ledger.write(open_shop.bucket) as late:
        written = await late.write_carts(read.carts)
    assert written.ahead == {cart.id: (cart.version, cart.updated_ms)}
    read = type(read)(read.read_ms, read.carts, read.seen, ahead=written.ahead)
    await backlog.flushed(open_shop.bucket, read)
    assert await carts.read(open_shop) == cart


Case = Callable[[Shop, Ledger], Awaitable[None]]

GUARDS: list[tuple[str, str, str, Case]] = [
    (
        "upsert_carts",
        "AND (carts.version < excluded.version OR excluded.status <> 'ACTIVE')",
        "AND carts.version < excluded.version",
        test_a_conversion_then_is_written_at_once,
    ),
    ("sell", "sold = sold + units", "sold = sold", test_conversions_at_once_add_up),
]


@pytest.mark.parametrize(("name", "old", "new", "case"), GUARDS)
async def test_guards_of_the_queries(
    open_shop: Shop, ledger: Ledger, name: str, old: str, new: str, case: Case
) -> None:
    with mutant_query(name, old, new):
        await turns_red(case(open_shop, ledger))


async def test_guard_of_what_was_received(open_shop: Shop, ledger: Ledger) -> None:
    """The constraint is the guard: without it, more is sold than there was."""
    await ledger.pool.execute("ALTER TABLE stock DROP CONSTRAINT stock_not_oversold")
    await turns_red(test_no_more_is_sold_than_was_received(open_shop, ledger))


async def test_guard_of_the_epoch(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mutant_query("epoch", "SELECT epoch", "SELECT 0"):
        await turns_red(test_what_was_read_before_a_rebuild_is_not_written(open_shop, ledger))


async def test_the_books_can_not_be_overdrawn_by_hand(open_shop: Shop, ledger: Ledger) -> None:
    await record(open_shop, ledger)
    with pytest.raises(asyncpg.CheckViolationError):
        await ledger.pool.execute("UPDATE stock SET sold = 11")
