"""Rows that PostgreSQL refuses, on real servers: set aside whole, and nobody waits for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from cartsvc import flush
from cartsvc import ledger as ledger_module
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog, DirtyCarts
from cartsvc.errors import CartClosed
from cartsvc.flush_rows import Flush, Written
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, Letter, LineRequest, Owner, PriceChange
from cartsvc.worker import Pass, Worker
from tests.carts import BOB
from tests.mutants import mutant, mutant_query, turns_red
from tests.shop import ANN, LAMP, MUG, Mutant, Shop

NUL = "Aurora\\u0000Lamp"
NUL_REASON = "UntranslatableCharacterError (22P05)"


def worker_of(shop: Shop, ledger: Ledger, batch: int = 100) -> Worker:
    return Worker(shop.store, Backlog(shop.runner), ledger, batch=batch, interval_s=60)


async def fill(shop: Shop, number: int) -> list[Owner]:
    """Carts of so many sessions, the first the longest dirty; whose they are."""
    owners = [Owner("session", f"s{session}") for session in range(number)]
    for owner in owners:
        await shop.add_lines(LineRequest(LAMP, 1), owner=owner)
        shop.clock.ms += 1
    return owners


async def poison(shop: Shop, owner: Owner = ANN, name: str = NUL) -> None:
    """Give the lamp in an owner's cart a name that PostgreSQL does not take (as in JSON)."""
    facts = f'{{"line":1,"price":2999,"added":{shop.clock.ms},"name":"{name}"}}'
    await shop.redis.hset(shop.bucket.cart(owner), f"l:{LAMP}", facts)


async def owners_written(ledger: Ledger) -> list[str]:
    rows = await ledger.pool.fetch("SELECT owner_id FROM carts ORDER BY id")
    return [row["owner_id"] for row in rows]


async def cart_at(shop: Shop, owner: Owner = ANN) -> Cart:
    [cart] = (await Backlog(shop.runner).carts(shop.bucket, [shop.bucket.cart(owner)])).carts
    return cart


async def body(ledger: Ledger, letter: Letter) -> Cart | PriceChange | None:
    async with ledger.write(Bucket(letter.tenant, letter.bucket)) as writing:
        return await writing.letter(letter.number)


async def dirty(shop: Shop) -> int:
    return int(await shop.redis.zcard(shop.bucket.dirty))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


async def test_one_poison_cart_among_a_thousand_keeps_none_waiting(
    open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    owners = await fill(open_shop, 1_000)
    await poison(open_shop, owners[321])
    worker = worker_of(open_shop, ledger, batch=500)
    assert await worker.run_once() == Pass(carts=999, refused=1)
    assert set(await owners_written(ledger)) == {one.id for one in owners} - {owners[321].id}
    cart = await cart_at(open_shop, owners[321])
    [letter] = await ledger.letters(None)
    found = (letter.tenant, letter.bucket, letter.kind, letter.cart_id, letter.version)
    assert found == ("default", 0, "cart", cart.id, 1)
    assert letter.reason == NUL_REASON
    assert await body(ledger, letter) == cart
    assert await dirty(open_shop) == 0
    about = f"cart {cart.id} of default at version 1 is set aside as dead letter {letter.number}"
    assert told(caplog) == [f"{about}: {NUL_REASON}"]
    assert await worker.run_once() == Pass()
    assert len(told(caplog)) == 1


async def test_a_row_that_is_set_aside_can_be_read_in_psql(open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.add()
    await poison(open_shop)
    await worker_of(open_shop, ledger).run_once()
    shown = await ledger.pool.fetchval("SELECT convert_from(body, 'UTF8') FROM dead_letter")
    assert '"quantity":1,' in shown
    assert NUL in shown


FACTS = '{"line":%s,"price":%s,"added":1763640000000,"name":"Lamp"}'

POISONS: dict[str, tuple[dict[str, str], str]] = {
    "NUL": ({f"l:{LAMP}": FACTS.replace("Lamp", NUL) % (1, 1)}, NUL_REASON),
    "quantity": ({f"q:{LAMP}": str(2**31)}, "NumericValueOutOfRangeError (22003)"),
    "none": (
        {f"q:{LAMP}": "0"},
        "CheckViolationError (23514): cart_items_quantity_check",
    ),
    "price": ({f"l:{LAMP}": FACTS % (1, 2**63)}, "NumericValueOutOfRangeError (22003)"),
    "line number": (
        {f"l:{LAMP}": FACTS % (2**63, 1)},
        "DataError (22000): value out of int64 range",
    ),
    "line twice": (
        {"q:mug": "1", "l:mug": FACTS % (1, 1)},
        "CardinalityViolationError (21000)",
    ),
    "id": ({"id": "9" * 4_000}, "DataError (22000): value out of int64 range"),
    "version": ({"version": str(10**400)}, "DataError (22000): value out of int64 range"),
    "last line": ({"last_line": str(2**31)}, "DataError (22000): value out of int32 range"),
    "time": ({"updated": str(2**62)}, "DatetimeFieldOverflowError (22008)"),
    "status": ({"status": "ACTIVE\0"}, "CharacterNotInRepertoireError (22021)"),
}


@pytest.mark.parametrize("name", POISONS)
async def test_whatever_is_refused_is_set_aside_whole(
    open_shop: Shop, ledger: Ledger, name: str
) -> None:
    fields, reason = POISONS[name]
    await open_shop.add()
    await open_shop.add_lines(LineRequest(LAMP, 1), owner=BOB)
    await open_shop.redis.hset(open_shop.bucket.cart(ANN), mapping=fields)
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=1, refused=1)
    assert await owners_written(ledger) == ["bob"]
    [letter] = await ledger.letters(None)
    assert letter.reason == reason
    cart = await cart_at(open_shop)
    assert (letter.cart_id, letter.version) == (cart.id, cart.version)
    assert await body(ledger, letter) == cart
    assert await dirty(open_shop) == 0


async def test_an_owner_too_long_for_its_index_is_set_aside(
    open_shop: Shop, ledger: Ledger
) -> None:
    # Of characters that PostgreSQL can't compress.
    owner = Owner("session", "".join(chr(0x4E00 + number * 37 % 20_000) for number in range(5_000)))
    await open_shop.add_lines(LineRequest(LAMP, 1), owner=owner)
    assert await worker_of(open_shop, ledger).run_once() == Pass(refused=1)
    [letter] = await ledger.letters(None)
    assert letter.reason == "ProgramLimitExceededError (54000)"


async def test_no_reason_tells_what_a_cart_holds(
    open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner("session", "a-secret-session")
    await open_shop.add_lines(LineRequest(LAMP, 1), owner=owner)
    key = open_shop.bucket.cart(owner)
    # PostgreSQL names the failing row, the driver the argument, and the number is quoted.
    for field, value in (
        (f"q:{LAMP}", "0"),
        ("last_line", str(2**31)),
        (f"q:{LAMP}", "77777777777"),
    ):
        await open_shop.redis.hset(key, field, value)
        await open_shop.redis.hincrby(key, "version", 1)
        await open_shop.redis.zadd(open_shop.bucket.dirty, {key: 1})
        assert await worker_of(open_shop, ledger).run_once() == Pass(refused=1)
        [letter] = await ledger.letters(None)
        for secret in ("secret", "77777", "Lamp", LAMP, str(2**31)):
            assert secret not in letter.reason
            assert secret not in caplog.text
    assert len(told(caplog)) == 3


async def test_two_poison_carts_in_one_batch(open_shop: Shop, ledger: Ledger) -> None:
    owners = await fill(open_shop, 9)
    for bad in (owners[0], owners[8]):
        await poison(open_shop, bad)
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=7, refused=2)
    assert await owners_written(ledger) == [f"s{number}" for number in range(1, 8)]
    assert {one.cart_id for one in await ledger.letters(None)} == {256, 9 * 256}
    assert await dirty(open_shop) == 0


async def test_a_batch_of_nothing_but_poison(open_shop: Shop, ledger: Ledger) -> None:
    for owner in await fill(open_shop, 5):
        await poison(open_shop, owner)
    assert await worker_of(open_shop, ledger).run_once() == Pass(refused=5)
    assert await dirty(open_shop) == 0


async def test_poison_in_the_second_of_overlapping_batches(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = await fill(open_shop, 7)
    await poison(open_shop, owners[3])
    cleared, clear = [], Backlog.flushed

    async def noted(backlog: Backlog, bucket: Bucket, written: DirtyCarts) -> None:
        # Whatever loses its mark is in PostgreSQL by then, committed.
        there = await ledger.pool.fetch(
            "SELECT id FROM carts UNION SELECT cart_id FROM dead_letter"
        )
        assert {cart.id for cart in written.carts} <= {int(row["id"]) for row in there}
        cleared.append(len(written.carts))
        await clear(backlog, bucket, written)

    monkeypatch.setattr(Backlog, "flushed", noted)
    backlog = Backlog(open_shop.runner)
    done = await flush.carts(backlog, ledger, open_shop.bucket, 2, batches=4)
    assert done == (6, 1)
    assert cleared == [0, 2, 2, 2, 1]
    assert await dirty(open_shop) == 0
    assert [one.cart_id for one in await ledger.letters(None)] == [4 * 256]


async def test_the_steps_are_few(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a transaction of its own: 64 carts, then two halves, of which one is good; ..."""
    owners = await fill(open_shop, 64)
    await poison(open_shop, owners[40])
    write, sizes = Flush.write_rows, []

    async def noted(self: Flush, rows: Any) -> Written:
        sizes.append(len(rows.carts[0]))
        assert await self.connection.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
        return await write(self, rows)

    monkeypatch.setattr(Flush, "write_rows", noted)
    await worker_of(open_shop, ledger).run_once()
    assert sorted(sizes, reverse=True) == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]


AWAY: dict[str, Callable[[], Exception]] = {
    "reset": ConnectionResetError,
    "timeout": TimeoutError,
    "connection": lambda: asyncpg.ConnectionDoesNotExistError("gone"),
    "shutdown": lambda: asyncpg.AdminShutdownError("bye"),
    "cancelled": lambda: asyncpg.QueryCanceledError("statement timeout"),
    "deadlock": lambda: asyncpg.DeadlockDetectedError("deadlock"),
    "serialization": lambda: asyncpg.SerializationError("again"),
    "full": lambda: asyncpg.DiskFullError("full"),
    "closed": lambda: asyncpg.InterfaceError("connection is closed"),
    "good-bye": lambda: asyncpg.InternalClientError("another operation (2) is in progress"),
    "a fault of ours": lambda: asyncpg.UndefinedColumnError("no such"),
}


@pytest.mark.parametrize("name", AWAY)
@pytest.mark.parametrize("step", ["write_rows", "set_aside"])
async def test_what_is_no_refusal_sets_nothing_aside(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    owners = await fill(open_shop, 8)
    await poison(open_shop, owners[0])
    calls, real = 0, getattr(Flush, step)

    async def fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        # In the midst of the bisection: one cart alone, or what is refused of two.
        if calls == {"write_rows": 4, "set_aside": 1}[step]:
            raise AWAY[name]()
        return await real(*arguments)

    error = type(AWAY[name]())
    with monkeypatch.context() as failing:
        failing.setattr(Flush, step, fails)
        with pytest.raises(error):
            await worker_of(open_shop, ledger).run_once()
    assert await ledger.letters(None) == []
    assert await dirty(open_shop) == 8
    done = await worker_of(open_shop, ledger).run_once()
    assert (done.refused, len(await owners_written(ledger)), await dirty(open_shop)) == (1, 7, 0)


async def test_a_server_that_ends_the_connection_refuses_nothing(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in await fill(open_shop, 2):
        await poison(open_shop, owner)
    write, calls = Flush.write_rows, 0

    async def ended(self: Flush, rows: Any) -> Written:
        nonlocal calls
        calls += 1
        if calls == 2:
            own = await self.connection.fetchval("SELECT pg_backend_pid()")
            await ledger.pool.execute("SELECT pg_terminate_backend($1)", own)
        return await write(self, rows)

    with monkeypatch.context() as ending:
        ending.setattr(Flush, "write_rows", ended)
        with pytest.raises(ledger_module.AWAY):
            await worker_of(open_shop, ledger).run_once()
    assert await ledger.letters(None) == []
    assert await worker_of(open_shop, ledger).run_once() == Pass(refused=2)


_FATAL = b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


async def test_a_server_that_says_good_bye_before_the_commit_is_away(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its word arrives before the end of the connection does; the driver has no error for that."""
    await open_shop.add()
    stop = asyncio.Event()
    write = Flush.write_rows

    async def ended(self: Flush, rows: Any) -> Written:
        stop.set()
        written = await write(self, rows)
        said = b"E" + (4 + len(_FATAL)).to_bytes(4, "big") + _FATAL
        self.connection._protocol.data_received(said)
        return written

    with monkeypatch.context() as ending:
        ending.setattr(Flush, "write_rows", ended)
        with pytest.raises(ledger_module.AWAY):
            await worker_of(open_shop, ledger).run_once()
        stop.clear()
        assert await worker_of(open_shop, ledger).run_forever(stop) is False
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=1)


async def test_a_missing_table_is_no_refusal(open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.add()
    await ledger.pool.execute("ALTER TABLE cart_items RENAME TO elsewhere")
    with pytest.raises(asyncpg.UndefinedTableError):
        await worker_of(open_shop, ledger).run_once()
    assert await ledger.letters(None) == []
    assert await dirty(open_shop) == 1


async def test_what_is_refused_at_the_commit_is_set_aside(open_shop: Shop, ledger: Ledger) -> None:
    await ledger.pool.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'not s1' USING ERRCODE = 'check_violation', CONSTRAINT = 'not_s1';
        END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON carts DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.owner_id = 's1') EXECUTE FUNCTION refuse();
    """)
    await fill(open_shop, 3)
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=2, refused=1)
    assert await owners_written(ledger) == ["s0", "s2"]
    [letter] = await ledger.letters(None)
    assert letter.reason == "CheckViolationError (23514): not_s1"


async def test_the_worker_drains_in_spite_of_poison(open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.add()
    await poison(open_shop)
    stop = asyncio.Event()
    stop.set()
    assert await worker_of(open_shop, ledger).run_forever(stop) is True


async def test_another_flush_takes_over_in_the_midst(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps of a bisection another worker may have the bucket."""
    owners = await fill(open_shop, 4)
    await poison(open_shop, owners[3])
    claim, steps = Ledger.flush, 0

    @contextlib.asynccontextmanager
    async def third_is_late(
        self: Ledger, bucket: Bucket, *, epoch: int | None = None, wait: bool = False
    ) -> AsyncIterator[Flush | None]:
        nonlocal steps
        steps += 1
        async with contextlib.AsyncExitStack() as stack:
            if steps == 3:
                await stack.enter_async_context(claim(self, bucket))
            yield await stack.enter_async_context(claim(self, bucket, wait=wait))

    backlog = Backlog(open_shop.runner)
    with monkeypatch.context() as crossing:
        crossing.setattr(Ledger, "flush", third_is_late)
        assert await flush.carts(backlog, ledger, open_shop.bucket, 10) == (0, 0)
    # Written, but not known to be: the other flush clears what it finds written.
    assert (len(await owners_written(ledger)), await dirty(open_shop)) == (2, 4)
    assert await flush.carts(backlog, ledger, open_shop.bucket, 10) == (1, 1)
    assert await dirty(open_shop) == 0


class Crash(Exception):
    pass


async def crash(*_: object) -> None:
    raise Crash


async def test_a_crash_before_the_marks_are_cleared_changes_nothing_the_second_time(
    open_shop: Shop,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owners = await fill(open_shop, 3)
    await poison(open_shop, owners[1])
    worker = worker_of(open_shop, ledger)
    with monkeypatch.context() as crashing:
        crashing.setattr(Backlog, "flushed", lambda *args: crash() if args[2].seen else done())
        with pytest.raises(Crash):
            await worker.run_once()
    before = await ledger.pool.fetch("SELECT * FROM dead_letter")
    assert (len(before), await dirty(open_shop)) == (1, 3)
    assert await worker.run_once() == Pass(refused=1)
    assert await ledger.pool.fetch("SELECT * FROM dead_letter") == before
    assert await dirty(open_shop) == 0
    assert len(told(caplog)) == 1


async def done() -> None:
    pass


async def test_a_cart_that_is_good_again_is_written_and_its_letter_is_gone(
    open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    await poison(open_shop)
    worker = worker_of(open_shop, ledger)
    await worker.run_once()
    await poison(open_shop, name="Lamp")
    cart = await open_shop.add(2)
    assert await worker.run_once() == Pass(carts=1)
    assert await ledger.cart("default", cart.id) == cart
    assert await ledger.letters(None) == []


async def test_a_cart_that_is_refused_again_has_one_letter(
    open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await open_shop.add()
    await poison(open_shop)
    worker = worker_of(open_shop, ledger)
    await worker.run_once()
    [first] = await ledger.letters(None)
    cart = await open_shop.add(2, MUG)
    await open_shop.redis.hset(open_shop.bucket.cart(ANN), f"q:{LAMP}", "0")
    await poison(open_shop, name="Lamp")
    assert await worker.run_once() == Pass(refused=1)
    [second] = await ledger.letters(None)
    assert (second.number, second.version) == (first.number, cart.version)
    assert second.reason != first.reason
    assert second.set_aside_ms > first.set_aside_ms
    assert await body(ledger, second) == await cart_at(open_shop)
    assert len(told(caplog)) == 2


async def test_an_older_version_does_not_take_a_letters_place(
    open_shop: Shop, ledger: Ledger
) -> None:
    """Redis came back with an older file."""
    await open_shop.add(2)
    older = await open_shop.redis.dump(open_shop.bucket.cart(ANN))
    await open_shop.add(2)
    await poison(open_shop)
    worker = worker_of(open_shop, ledger)
    await worker.run_once()
    before = await ledger.letters(None)
    await open_shop.redis.restore(open_shop.bucket.cart(ANN), 0, older, replace=True)
    await poison(open_shop)
    await open_shop.redis.zadd(open_shop.bucket.dirty, {open_shop.bucket.cart(ANN): 1})
    assert await worker.run_once() == Pass(refused=1)
    assert await ledger.letters(None) == before
    # Nor is it gone when an older version turns out to be good.
    await poison(open_shop, name="Lamp")
    await open_shop.redis.zadd(open_shop.bucket.dirty, {open_shop.bucket.cart(ANN): 1})
    assert await worker.run_once() == Pass(carts=1)
    assert await ledger.letters(None) == before


async def test_a_cart_that_changes_while_it_is_set_aside_stays_dirty(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_shop.add()
    await poison(open_shop)
    aside = Flush.set_aside

    async def late(*arguments: Any) -> int | None:
        number = await aside(*arguments)
        await open_shop.add()
        return number

    with monkeypatch.context() as changing:
        changing.setattr(Flush, "set_aside", late)
        await worker_of(open_shop, ledger).run_once()
    assert await dirty(open_shop) == 1
    await poison(open_shop, name="Lamp")
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=1)
    assert await dirty(open_shop) == 0


async def test_a_new_cart_at_the_version_that_was_set_aside_stays_dirty(
    open_shop: Shop, ledger: Ledger
) -> None:
    await open_shop.add()
    await poison(open_shop)
    backlog = Backlog(open_shop.runner)
    read = await backlog.dirty_carts(open_shop.bucket, 10)
    await open_shop.store.close(open_shop.bucket, ANN, "ABANDONED")
    second = await open_shop.add()
    refused = frozenset([read.carts[0].id])
    aside = DirtyCarts(read.read_ms, read.carts, read.seen, refused)
    await backlog.flushed(open_shop.bucket, aside)
    assert second.version == read.carts[0].version
    assert await dirty(open_shop) == 2
    # What is unflushed of it came after the reading.
    since = await open_shop.redis.zscore(open_shop.bucket.dirty, open_shop.bucket.cart(ANN))
    assert since == read.read_ms


async def test_a_closed_cart_that_is_set_aside_stays_closed(
    open_shop: Shop, ledger: Ledger
) -> None:
    """PostgreSQL has it as active: if Redis forgot it, it could be converted once more."""
    shop = open_shop
    cart = await shop.add(2)
    worker = worker_of(shop, ledger)
    await worker.run_once()
    await poison(shop)
    closed = await shop.store.close(shop.bucket, ANN, "CONVERTED")
    assert await worker.run_once() == Pass(refused=1)
    assert await dirty(shop) == 0
    recorded = await ledger.cart("default", cart.id)
    assert recorded
    assert recorded.status == "ACTIVE"
    archive = Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)
    assert await archive.find(shop.bucket, cart.id) == closed
    with pytest.raises(CartClosed):
        await archive.open(shop.bucket, cart)
    [letter] = await ledger.letters(None)
    assert await body(ledger, letter) == closed


PRICES = "SELECT new_price_minor FROM price_history ORDER BY cart_item_id, cart_version"


async def change_prices(shop: Shop, *new: int) -> None:
    """Price changes of the lamp in Ann's cart, the first of its first version."""
    for version, price in enumerate(new, 1):
        event = {"cart": 256, "line": 1, "version": version, "sku": LAMP}
        about = {"old": 1, "new": price, "at": shop.clock.ms}
        await shop.redis.xadd(shop.bucket.prices, {**event, **about})


async def prices_written(ledger: Ledger) -> list[int]:
    return [row["new_price_minor"] for row in await ledger.pool.fetch(PRICES)]


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
async def test_a_poison_price_change_is_set_aside_and_the_others_are_written_once(
    open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture, batch: int
) -> None:
    await change_prices(open_shop, 1, 2, 3, 4, 2**63, 6, 7, 8, 2**70)
    worker = worker_of(open_shop, ledger, batch=batch)
    assert await worker.run_once() == Pass(price_changes=7, refused=2)
    assert await prices_written(ledger) == [1, 2, 3, 4, 6, 7, 8]
    assert await open_shop.redis.xlen(open_shop.bucket.prices) == 0
    first, second = await ledger.letters(None)
    assert (first.kind, first.cart_id, first.version) == ("price", 256, 5)
    assert first.reason == "DataError (22000): value out of int64 range"
    at = open_shop.clock.ms
    assert await body(ledger, first) == PriceChange(256, 1, 5, LAMP, 1, 2**63, at)
    assert second.version == 9
    about = "price change of cart 256 of default at version 5 is set aside as dead letter"
    assert told(caplog)[0] == f"{about} {first.number}: {first.reason}"
    assert len(told(caplog)) == 2
    assert await worker.run_once() == Pass()


async def test_a_crash_before_the_stream_is_trimmed_sets_nothing_aside_twice(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change_prices(open_shop, 2**63, 2)
    worker = worker_of(open_shop, ledger)
    with monkeypatch.context() as crashing:
        crashing.setattr(Backlog, "trim_prices", crash)
        with pytest.raises(Crash):
            await worker.run_once()
    assert len(await ledger.letters(None)) == 1
    assert await worker.run_once() == Pass(price_changes=1)
    assert len(await ledger.letters(None)) == 1
    assert await prices_written(ledger) == [2]


async def test_a_price_change_that_another_flush_has_set_aside_is_left_to_it(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change_prices(open_shop, 2**63, 2, 3)
    backlog, claim, steps = Backlog(open_shop.runner), Ledger.flush, 0

    @contextlib.asynccontextmanager
    async def another_is_faster(
        self: Ledger, bucket: Bucket, *, epoch: int | None = None, wait: bool = False
    ) -> AsyncIterator[Flush | None]:
        nonlocal steps
        steps += 1
        if steps == 2:  # The change was refused alone, and is about to be set aside.
            assert await flush.prices(backlog, self, bucket, 1) == (0, 1)
        async with claim(self, bucket, wait=wait) as flushing:
            yield flushing

    with monkeypatch.context() as crossing:
        crossing.setattr(Ledger, "flush", another_is_faster)
        assert await flush.prices(backlog, ledger, open_shop.bucket, 1) == (0, 0)
    assert await flush.prices(backlog, ledger, open_shop.bucket, 100) == (2, 0)
    assert await prices_written(ledger) == [2, 3]
    assert len(await ledger.letters(None)) == 1


@pytest.mark.parametrize("name", AWAY)
async def test_what_is_no_refusal_sets_no_price_change_aside(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await change_prices(open_shop, 1, 2, 2**63, 4)
    write, calls = Flush.write_prices, 0

    async def fails(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise AWAY[name]()
        return await write(*arguments)

    with monkeypatch.context() as failing:
        failing.setattr(Flush, "write_prices", fails)
        with pytest.raises(type(AWAY[name]())):
            await worker_of(open_shop, ledger).run_once()
    assert await ledger.letters(None) == []
    # The first half had been written by then.
    assert await worker_of(open_shop, ledger).run_once() == Pass(price_changes=1, refused=1)
    assert await prices_written(ledger) == [1, 2, 4]


Case = Callable[..., Any]

QUERIES: list[tuple[str, str, str, Case]] = [
    (
        "set_aside",
        "WHERE dead_letter.version < excluded.version",
        "",
        test_an_older_version_does_not_take_a_letters_place,
    ),
    (
        "remove_outdated",
        "WHERE tenant = $1 AND kind",
        "WHERE false AND tenant = $1 AND kind",
        test_a_cart_that_is_good_again_is_written_and_its_letter_is_gone,
    ),
    (
        "remove_outdated",
        "AND version <= (SELECT version",
        "AND 0 <= (SELECT version",
        test_an_older_version_does_not_take_a_letters_place,
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "case"), QUERIES, ids=["older", "gone", "newer"])
async def test_guards_of_the_queries(
    open_shop: Shop, ledger: Ledger, name: str, old: str, new: str, case: Case
) -> None:
    with mutant_query(name, old, new):
        await turns_red(case(open_shop, ledger))


MARKS: list[tuple[str, str, Case]] = [
    (
        "facts[1] == cart_id and ",
        "",
        test_a_new_cart_at_the_version_that_was_set_aside_stays_dirty,
    ),
]


@pytest.mark.parametrize(("old", "new", "case"), MARKS)
async def test_guards_of_the_mark(
    open_shop: Shop, ledger: Ledger, old: str, new: str, case: Case
) -> None:
    lax = Shop(Mutant(open_shop.runner, "cart_set_aside.lua", old, new))
    await turns_red(case(lax, ledger))


async def test_guard_of_the_mark_of_a_later_version(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = Shop(Mutant(open_shop.runner, "cart_set_aside.lua", "facts[2] == version", "true"))
    case = test_a_cart_that_changes_while_it_is_set_aside_stays_dirty
    await turns_red(case(lax, ledger, monkeypatch))


async def test_guard_of_another_flush_of_prices(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = mutant(
        flush, "flush is None or await flush.prices_offset() != batch.offset", "flush is None"
    )
    monkeypatch.setitem(globals(), "flush", lax)
    case = test_a_price_change_that_another_flush_has_set_aside_is_left_to_it
    await turns_red(case(open_shop, ledger, monkeypatch))


async def test_guard_of_closed_carts(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if they were written: with what is refused told as such to nobody."""
    lax = mutant(flush, "refused=done.refused, ahead", "ahead")
    monkeypatch.setattr("cartsvc.worker.flush", lax)
    await turns_red(test_a_closed_cart_that_is_set_aside_stays_closed(open_shop, ledger))
