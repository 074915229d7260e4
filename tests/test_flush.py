"""The flush on real servers: what is acknowledged reaches PostgreSQL, once."""

import asyncio
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

from cartsvc import flush as flush_module
from cartsvc.backlog import Backlog, DirtyCarts
from cartsvc.errors import NoCart, OutcomeUnknown
from cartsvc.flush_rows import Flush, Written
from cartsvc.ledger import Ledger
from cartsvc.link import ReplyError
from cartsvc.model import ClosedStatus, LineRequest, Owner
from cartsvc.scripts import Runner
from tests.shop import ANN, LAMP, MUG, Shop

ITEMS = "SELECT * FROM cart_items ORDER BY cart_id, id"
CARTS = "SELECT * FROM carts ORDER BY id"
PRICES = "SELECT * FROM price_history ORDER BY cart_item_id, cart_version"


@pytest.fixture
def flush() -> ModuleType:
    return flush_module


async def rows(ledger: Ledger, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await ledger.pool.fetch(query)]


async def carts(flush: ModuleType, shop: Shop, ledger: Ledger, limit: int = 100) -> int:
    """How many rows were behind; none is refused."""
    done = await flush.carts(Backlog(shop.runner), ledger, shop.bucket, limit)
    assert done.refused == 0
    return int(done.written)


async def prices(flush: ModuleType, shop: Shop, ledger: Ledger, limit: int = 100) -> int:
    done = await flush.prices(Backlog(shop.runner), ledger, shop.bucket, limit)
    assert done.refused == 0
    return int(done.written)


async def change_price(shop: Shop, *new_prices: str) -> None:
    for price in new_prices:
        await shop.sell(LAMP, price=price)
        await shop.add()


async def test_a_cart_becomes_rows(flush: ModuleType, open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.sell("tee", variants=[("navy", None)])
    await open_shop.add_lines(LineRequest(LAMP, 2), LineRequest("tee", 1, "navy"))
    assert await carts(flush, open_shop, ledger) == 1
    [cart] = await rows(ledger, CARTS)
    assert (cart["tenant"], cart["id"], cart["version"], cart["status"]) == (
        "default",
        256,
        1,
        "ACTIVE",
    )
    assert (cart["owner_kind"], cart["owner_id"]) == ("session", "ann")
    assert cart["created_at"].timestamp() * 1000 == open_shop.clock.ms
    lamp, tee = await rows(ledger, ITEMS)
    assert (lamp["cart_id"], lamp["id"]) == (256, 256 << 12 | 1)
    assert (lamp["product_id"], lamp["variant_id"]) == (LAMP, None)
    assert (lamp["quantity"], lamp["price_minor"]) == (2, 2999)
    assert (lamp["name"], *lamp["images"]) == (
        "Aurora Desk Lamp",
        "https://cdn.example.com/lamp.jpg",
    )
    assert (tee["product_id"], tee["variant_id"], tee["variant_name"]) == ("tee", "navy", "navy")
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0


async def test_a_changed_cart_is_written_again(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    await carts(flush, open_shop, ledger)
    open_shop.clock.ms += 1_000
    await open_shop.add(2)
    await open_shop.add(1, MUG)
    assert await carts(flush, open_shop, ledger) == 1
    [cart] = await rows(ledger, CARTS)
    assert (cart["version"], cart["updated_at"].timestamp() * 1000) == (3, open_shop.clock.ms)
    assert [row["quantity"] for row in await rows(ledger, ITEMS)] == [3, 1]


async def test_lines_that_left_the_cart_leave_the_table(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 1))
    await carts(flush, open_shop, ledger)
    key = "cart:{default:0}:session:ann"
    await open_shop.redis.hdel(key, f"q:{LAMP}", f"l:{LAMP}")
    await open_shop.add(1, MUG)
    await carts(flush, open_shop, ledger)
    assert [row["product_id"] for row in await rows(ledger, ITEMS)] == [MUG]


async def test_an_older_version_changes_nothing(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    """A worker that was held up writes what it read before another wrote something newer."""
    backlog = Backlog(open_shop.runner)
    await open_shop.add(1)
    old = await backlog.dirty_carts(open_shop.bucket, 10)
    await open_shop.add(1)
    await carts(flush, open_shop, ledger)
    before = await rows(ledger, CARTS), await rows(ledger, ITEMS)
    async with ledger.flush(open_shop.bucket) as late:
        assert late is not None
        assert (await late.write_carts(old.carts)).behind == 0
    assert (await rows(ledger, CARTS), await rows(ledger, ITEMS)) == before


async def test_a_cart_that_changes_meanwhile_stays_dirty(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    backlog = Backlog(open_shop.runner)
    await open_shop.add(1)
    dirty = await backlog.dirty_carts(open_shop.bucket, 10)
    await open_shop.add(1)
    await backlog.flushed(open_shop.bucket, dirty)
    marks = await open_shop.redis.zrange("dirty:{default:0}", 0, -1, withscores=True)
    # What is unflushed now came after the reading.
    assert marks == [(b"cart:{default:0}:session:ann", dirty.read_ms)]
    await carts(flush, open_shop, ledger)
    assert [row["quantity"] for row in await rows(ledger, ITEMS)] == [2]


class NoCommit(Exception):
    pass


async def test_nothing_is_cleared_that_is_not_committed(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    await change_price(open_shop, "24.50")
    await ledger.pool.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(0.1); RAISE EXCEPTION 'no commit'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON carts
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON price_history
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    for write in (carts, prices):
        with pytest.raises(Exception, match="no commit"):
            await write(flush, open_shop, ledger)
    assert await open_shop.redis.zcard("dirty:{default:0}") == 1
    assert await open_shop.redis.xlen("prices:{default:0}") == 1
    await ledger.pool.execute("DROP FUNCTION refuse CASCADE")
    assert await carts(flush, open_shop, ledger) == 1
    assert await prices(flush, open_shop, ledger) == 1


async def test_a_crash_after_the_commit_changes_nothing_the_second_time(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise NoCommit

    await open_shop.add()
    await change_price(open_shop, "24.50")
    with monkeypatch.context() as crashing:
        crashing.setattr(Backlog, "flushed", crash)
        crashing.setattr(Backlog, "trim_prices", crash)
        for write in (carts, prices):
            with pytest.raises(NoCommit):
                await write(flush, open_shop, ledger)
    before = [await rows(ledger, query) for query in (CARTS, ITEMS, PRICES)]
    assert [len(table) for table in before] == [1, 1, 1]
    assert await carts(flush, open_shop, ledger) == 0
    assert await prices(flush, open_shop, ledger) == 0
    assert [await rows(ledger, query) for query in (CARTS, ITEMS, PRICES)] == before
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0
    assert await open_shop.redis.xlen("prices:{default:0}") == 0


async def test_price_changes_become_rows_in_order(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    await change_price(open_shop, "24.50", "19.99", "24.50")
    assert await prices(flush, open_shop, ledger, limit=2) == 2
    assert await prices(flush, open_shop, ledger, limit=2) == 1
    assert await prices(flush, open_shop, ledger, limit=2) == 0
    history = await rows(ledger, PRICES)
    changes = [(row["old_price_minor"], row["new_price_minor"]) for row in history]
    assert changes == [(2999, 2450), (2450, 1999), (1999, 2450)]
    assert {row["cart_item_id"] for row in history} == {256 << 12 | 1}
    assert [row["cart_version"] for row in history] == [2, 3, 4]
    assert await open_shop.redis.xlen("prices:{default:0}") == 0


async def test_a_price_change_that_is_there_already_is_no_second_row(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    """Redis came back with an older append-only file and the stream has an event once more."""
    await open_shop.add()
    await change_price(open_shop, "24.50")
    [(_, event)] = await open_shop.redis.xrange("prices:{default:0}")
    await prices(flush, open_shop, ledger)
    await open_shop.redis.xadd("prices:{default:0}", event)
    await prices(flush, open_shop, ledger)
    assert len(await rows(ledger, PRICES)) == 1
    assert await open_shop.redis.xlen("prices:{default:0}") == 0


@pytest.mark.parametrize("junk", [{"a": "b"}, {"cart": "one"}])
async def test_what_is_no_price_change_keeps_none_waiting(
    flush: ModuleType,
    open_shop: Shop,
    ledger: Ledger,
    junk: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody put it into the stream by hand: it is in the log, then."""
    await open_shop.add()
    await open_shop.redis.xadd("prices:{default:0}", junk)
    await change_price(open_shop, "24.50")
    await open_shop.redis.xadd("prices:{default:0}", junk)
    assert await prices(flush, open_shop, ledger) == 1
    assert await open_shop.redis.xlen("prices:{default:0}") == 0
    [told, _] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told.startswith("prices:{default:0} ")
    assert all(part in told for part in (*junk, *junk.values()))


async def test_a_bucket_is_flushed_by_one_worker_at_a_time(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    async with ledger.flush(open_shop.bucket) as first:
        assert first is not None
        assert await carts(flush, open_shop, ledger) == 0
        assert await prices(flush, open_shop, ledger) == 0
        assert await open_shop.redis.zcard("dirty:{default:0}") == 1
    assert await carts(flush, open_shop, ledger) == 1


async def test_two_workers_without_the_lock_agree(open_shop: Shop, ledger: Ledger) -> None:
    """The lock is thrift; the versions are what keeps two workers right."""
    backlog = Backlog(open_shop.runner)

    async def write(dirty: DirtyCarts) -> None:
        async with ledger.pool.acquire() as connection, connection.transaction():
            await Flush(connection, open_shop.bucket).write_carts(dirty.carts)
        await backlog.flushed(open_shop.bucket, dirty)

    owners = [Owner("session", f"s{number}") for number in range(20)]
    readings = []
    for _ in range(4):
        for owner in owners:
            await open_shop.add_lines(LineRequest(LAMP, 1), owner=owner)
        readings.append(await backlog.dirty_carts(open_shop.bucket, 100))
    await asyncio.gather(*(write(dirty) for dirty in reversed(readings)))
    assert {row["version"] for row in await rows(ledger, CARTS)} == {4}
    assert {row["quantity"] for row in await rows(ledger, ITEMS)} == {4}
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0


async def test_a_mark_without_a_cart_does_not_stay(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await open_shop.add()
    await open_shop.redis.zadd("dirty:{default:0}", {"cart:{default:0}:session:gone": 1})
    assert await carts(flush, open_shop, ledger) == 1
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0
    assert "cart:{default:0}:session:gone is marked dirty but is not there" in caplog.text


async def test_an_unreadable_cart_keeps_none_waiting(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await open_shop.add()
    await open_shop.redis.hset("cart:{default:0}:session:ann", f"l:{LAMP}", "{}")
    await open_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "bob"))
    assert await carts(flush, open_shop, ledger) == 1
    assert [row["owner_id"] for row in await rows(ledger, CARTS)] == ["bob"]
    # Its mark stays: it is not in PostgreSQL.
    assert await open_shop.redis.zcard("dirty:{default:0}") == 1
    assert "cart:{default:0}:session:ann is not readable as a cart" in caplog.text


async def test_what_is_no_cart_at_all_keeps_none_waiting(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await open_shop.add()
    await open_shop.redis.set("cart:{default:0}:session:text", "x")
    strange = {b"cart:{default:0}:session:\xff": 1, b"cart:{default:0}:session:text": 2}
    await open_shop.redis.zadd("dirty:{default:0}", strange)
    assert await carts(flush, open_shop, ledger) == 1
    assert await open_shop.redis.zcard("dirty:{default:0}") == 2
    assert "dirty:{default:0} has a member that is no text" in caplog.text
    assert "cart:{default:0}:session:text is not readable as a cart: " in caplog.text


async def test_a_redis_that_refuses_to_tell_makes_the_flush_wait(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: bytes) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.set_exception(ReplyError("LOADING Redis is loading the dataset in memory"))
        return reply

    await open_shop.add()
    with monkeypatch.context() as loading:
        loading.setattr(open_shop.runner.link, "send", refused)
        with pytest.raises(OutcomeUnknown, match="LOADING"):
            await carts(flush, open_shop, ledger)
    assert await carts(flush, open_shop, ledger) == 1


@pytest.mark.parametrize("field", ["", "x"])
async def test_a_field_that_is_no_part_of_a_cart_keeps_none_waiting(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, field: str
) -> None:
    await open_shop.add()
    await open_shop.redis.hset("cart:{default:0}:session:ann", field, "1")
    assert await carts(flush, open_shop, ledger) == 1


async def test_the_longest_dirty_are_written_first(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    for name in ("first", "second", "third"):
        await open_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", name))
        open_shop.clock.ms += 1
    assert await carts(flush, open_shop, ledger, limit=2) == 2
    assert [row["owner_id"] for row in await rows(ledger, CARTS)] == ["first", "second"]


async def fill(shop: Shop, number: int) -> None:
    """Carts of so many sessions, the first the longest dirty."""
    for session in range(number):
        await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", f"s{session}"))
        shop.clock.ms += 1


async def test_each_batch_is_of_other_carts(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await fill(open_shop, 7)
    backlog = Backlog(open_shop.runner)
    assert await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=3) == (6, 0)
    assert await open_shop.redis.zcard("dirty:{default:0}") == 1
    assert await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=3) == (1, 0)
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0
    assert len(await rows(ledger, CARTS)) == 7


async def test_a_batch_is_read_while_another_is_written(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_shop, 4)
    readings = 0
    both_read = asyncio.Event()
    read, write = Backlog.dirty_carts, Flush.write_rows

    async def counted(*arguments: Any, **named: Any) -> DirtyCarts:
        nonlocal readings
        found = await read(*arguments, **named)
        readings += 1
        if readings == 2:
            both_read.set()
        return found

    async def held_up(*arguments: Any) -> Written:
        await both_read.wait()
        return await write(*arguments)

    monkeypatch.setattr(Backlog, "dirty_carts", counted)
    monkeypatch.setattr(Flush, "write_rows", held_up)
    backlog = Backlog(open_shop.runner)
    async with asyncio.timeout(5):
        assert await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=2) == (4, 0)
    # None is read that is not going to be written.
    assert readings == 2


async def test_a_batch_that_fails_ends_what_goes_on_beside_it(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_shop, 4)
    read, reading = Backlog.dirty_carts, asyncio.Event()

    async def hangs(*arguments: Any, besides: Any = ()) -> DirtyCarts:
        if besides:
            reading.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # A client takes a moment to let go.
        return await read(*arguments)

    async def fails(*_: object) -> int:
        await reading.wait()
        raise NoCommit

    backlog = Backlog(open_shop.runner)
    others = asyncio.all_tasks()
    with monkeypatch.context() as failing:
        failing.setattr(Backlog, "dirty_carts", hangs)
        failing.setattr(Flush, "write_rows", fails)
        work = flush.carts(backlog, ledger, open_shop.bucket, 2, batches=2)
        flushing = asyncio.create_task(work)
        await asyncio.wait([flushing], timeout=2)
        left = asyncio.all_tasks() - others
        for task in left:
            task.cancel()
        assert not left
        assert isinstance(flushing.exception(), NoCommit)
    assert await open_shop.redis.zcard("dirty:{default:0}") == 4
    assert await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=2) == (4, 0)


async def test_a_reading_that_fails_loses_nothing(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_shop, 4)
    read = Backlog.dirty_carts

    async def fails(*arguments: Any, besides: Any = ()) -> DirtyCarts:
        if besides:
            raise OutcomeUnknown("Redis is away")
        return await read(*arguments)

    backlog = Backlog(open_shop.runner)
    with monkeypatch.context() as failing:
        failing.setattr(Backlog, "dirty_carts", fails)
        with pytest.raises(OutcomeUnknown):
            await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=2)
    # Written, but not known to be: that is done once more.
    assert len(await rows(ledger, CARTS)) == 2
    assert await open_shop.redis.zcard("dirty:{default:0}") == 4
    assert await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=2) == (2, 0)
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0


async def test_redis_is_not_held_up_by_a_large_batch(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(open_shop, 7)
    run, told = Runner.run, []

    async def noted(runner: Runner, name: str, keys: Any, arguments: Any) -> Any:
        told.append(len(keys) - 2)
        return await run(runner, name, keys, arguments)

    monkeypatch.setattr(Runner, "run", noted)
    monkeypatch.setattr("cartsvc.backlog._CLEARED_AT_ONCE", 3)
    assert await carts(flush, open_shop, ledger) == 7
    assert told == [3, 3, 1]
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0
    assert len(await rows(ledger, CARTS)) == 7


async def test_a_line_that_did_not_change_is_left_alone(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 1))
    await carts(flush, open_shop, ledger)
    places = "SELECT ctid FROM cart_items ORDER BY id"
    lamp, mug = await rows(ledger, places)
    await open_shop.add(1, MUG)
    await carts(flush, open_shop, ledger)
    assert (await rows(ledger, places))[0] == lamp
    assert (await rows(ledger, places))[1] != mug


async def test_whatever_changes_of_a_line_is_written(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    cart = await open_shop.add(1)
    await carts(flush, open_shop, ledger)
    changes: list[dict[str, Any]] = [
        {"quantity": 2},
        {"price_minor": 1},
        {"saved": True},
        {"held_until_ms": cart.updated_ms + 1},
        {"held_until_ms": None},
        {"updated_ms": cart.updated_ms + 1},
        {"name": 'A "lamp", {or} \\two'},
        {"images": ()},
        {"images": ("https://a.example/{1},2.jpg", 'https://b.example/"\\.jpg')},
        {"fixed_price": True},
    ]
    for change in changes:
        [line] = cart.lines
        cart = replace(cart, version=cart.version + 1, lines=[replace(line, **change)])
        async with ledger.write(open_shop.bucket) as writing:
            assert (await writing.write_carts([cart])).behind == 1
        assert await ledger.cart("default", cart.id) == cart, change


async def test_a_cart_comes_back_as_it_was_flushed(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    shop = open_shop
    await shop.sell("tee", stock=9, variants=[("navy", None)], stock_policy="hold")
    await shop.add_lines(LineRequest(LAMP, 2), LineRequest(MUG, 1), LineRequest("tee", 3, "navy"))
    shop.clock.ms += 1
    await shop.store.save_for_later(shop.bucket, ANN, LAMP)
    await shop.store.remove(shop.bucket, ANN, MUG)
    cart = await shop.add(1, MUG)
    assert await carts(flush, shop, ledger) == 1
    assert await ledger.active_cart("default", ANN) == cart
    before = await shop.everything()
    # As if it had been cooled: the hash and what leads to it are gone, the units are free again.
    await shop.redis.delete(shop.bucket.cart(ANN), shop.bucket.holds, shop.bucket.holds_by_sku)
    await shop.redis.delete(shop.bucket.carts, shop.bucket.holders)
    await shop.redis.hincrby(shop.bucket.stock, "tee", 3)
    await shop.redis.hincrby(shop.bucket.held, "tee", -3)
    assert await shop.store.restore(shop.bucket, cart) == cart
    assert await shop.everything() == before
    assert await ledger.active_cart("default", Owner("user", "ann")) is None


@pytest.mark.parametrize("status", ["CONVERTED", "ABANDONED", "REMOVED"])
async def test_a_closed_cart_is_written_and_leaves_redis(
    flush: ModuleType, open_shop: Shop, ledger: Ledger, status: ClosedStatus
) -> None:
    shop = open_shop
    cart = await shop.add(2)
    await carts(flush, shop, ledger)
    closed = await shop.store.close(shop.bucket, ANN, status)
    assert await shop.store.find(shop.bucket, cart.id) == closed
    await carts(flush, shop, ledger)
    [row] = await rows(ledger, CARTS)
    assert (row["id"], row["status"], row["version"]) == (cart.id, status, 2)
    assert [line["quantity"] for line in await rows(ledger, ITEMS)] == [2]
    assert await ledger.active_cart("default", ANN) is None
    with pytest.raises(NoCart):
        await shop.store.find(shop.bucket, cart.id)
    assert not await shop.redis.keys("c*:{default:0}:*")
    assert await shop.redis.exists(shop.bucket.carts, shop.bucket.dirty) == 0


async def test_a_new_cart_at_the_same_version_stays_dirty(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    """Closed while its first version was being written, and the next cart has that version too."""
    shop = open_shop
    await shop.add(1)
    backlog = Backlog(shop.runner)
    read = await backlog.dirty_carts(shop.bucket, 10)
    await shop.store.close(shop.bucket, ANN, "ABANDONED")
    second = await shop.add(2)
    assert second.version == read.carts[0].version
    await backlog.flushed(shop.bucket, read)
    assert await backlog.dirty_count(shop.bucket) == 2
    await carts(flush, shop, ledger)
    assert [(row["id"], row["status"]) for row in await rows(ledger, CARTS)] == [
        (read.carts[0].id, "ABANDONED"),
        (second.id, "ACTIVE"),
    ]


async def test_a_closed_cart_that_was_read_before_stays_closed(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    shop = open_shop
    await shop.add(1)
    read = await Backlog(shop.runner).dirty_carts(shop.bucket, 10)
    await shop.store.close(shop.bucket, ANN, "CONVERTED")
    await carts(flush, shop, ledger)
    async with ledger.flush(shop.bucket) as late:
        assert late
        assert (await late.write_carts(read.carts)).behind == 0
    [row] = await rows(ledger, CARTS)
    assert row["status"] == "CONVERTED"


async def test_a_closed_cart_is_not_opened_by_a_redis_that_came_back_older(
    flush: ModuleType, open_shop: Shop, ledger: Ledger
) -> None:
    shop = open_shop
    await shop.add(1)
    before = {key: await shop.redis.dump(key) for key in await shop.redis.keys("*")}
    await shop.store.close(shop.bucket, ANN, "CONVERTED")
    await carts(flush, shop, ledger)
    written = await rows(ledger, CARTS)
    await shop.redis.flushall()
    for key, value in before.items():
        await shop.redis.restore(key, 0, value)
    for _ in range(3):
        await shop.add(1)
    assert await carts(flush, shop, ledger) == 0
    assert await rows(ledger, CARTS) == written
