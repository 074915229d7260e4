"""Dead letters for operators: what `cartsvc dead-letter` prints, writes and refuses."""

import asyncio
from subprocess import CompletedProcess
from typing import Any

import pytest

from cartsvc import embedded, replay
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import OutcomeUnknown, UnknownLetter
from cartsvc.flush_rows import Flush, Written
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, Owner
from cartsvc.replay import Replayed
from cartsvc.worker import Pass
from tests import command
from tests.carts import BOB, add, close
from tests.mutants import mutant_query, turns_red
from tests.shop import ANN, LAMP, Shop
from tests.test_dead_letter import (
    NUL,
    NUL_REASON,
    change_prices,
    dirty,
    poison,
    prices_written,
    worker_of,
)

NONE = "CheckViolationError (23514): cart_items_quantity_check"


async def take_all(ledger: Ledger) -> None:
    """What is refused for its quantity is refused no more."""
    await ledger.pool.execute("ALTER TABLE cart_items DROP CONSTRAINT cart_items_quantity_check")


async def empty_line(shop: Shop, owner: Owner = ANN) -> Cart:
    """A cart with a line of no units, which PostgreSQL refuses."""
    cart = await add(shop, owner)
    await shop.redis.hset(shop.bucket.cart(owner), f"q:{LAMP}", "0")
    return cart


async def again(shop: Shop, ledger: Ledger, *numbers: int) -> Replayed:
    letters = await ledger.letters(None, numbers)
    return await replay.run(ledger, Backlog(shop.runner), letters)


@pytest.fixture
def servers(valkey: embedded.Valkey, database_url: str) -> dict[str, str]:
    return {"CARTSVC_REDIS_URL": valkey.url, "CARTSVC_DATABASE_URL": database_url}


async def run(servers: dict[str, str], *arguments: str) -> "CompletedProcess[str]":
    return await asyncio.to_thread(command.run, "dead-letter", *arguments, **servers)


async def test_list_prints_a_line_each(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    assert (await run(servers, "list")).stdout == ""
    cart = await open_shop.add()
    await poison(open_shop)
    await change_prices(open_shop, 2**63)
    await worker_of(open_shop, ledger).run_once()
    await ledger.pool.execute("UPDATE dead_letter SET set_aside_at = '2026-11-21 03:23:33Z'")
    first, second = await ledger.letters(None)
    assert (await run(servers, "list")).stdout.splitlines() == [
        f"{first.number}  default  cart  {cart.id}  1  2026-11-21T03:23:33Z  {NUL_REASON}",
        f"{second.number}  default  price  {cart.id}  1  2026-11-21T03:23:33Z  "
        "DataError (22000): value out of int64 range",
    ]


async def test_list_breaks_no_terminal_and_tells_no_secret(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    await add(open_shop, Owner("session", "a-secret"))
    await poison(open_shop, Owner("session", "a-secret"))
    await worker_of(open_shop, ledger).run_once()
    await ledger.pool.execute("UPDATE dead_letter SET reason = E'\\x1b[2J[red]\\n\\u009bé :heart:'")
    [line] = (await run(servers, "list")).stdout.splitlines()
    assert line.endswith("Z  \\x1b[2J[red]\\n\\x9bé :heart:")
    assert "secret" not in line


async def test_list_and_replay_of_one_tenant(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    other = Shop(open_shop.runner)
    other.bucket = Bucket("acme")
    await other.open()
    await ledger.open_bucket(other.bucket)
    await other.sell()
    for shop in (open_shop, other):
        await empty_line(shop)
    await worker_of(open_shop, ledger).run_once()
    [acme] = await ledger.letters("acme")
    [default] = await ledger.letters("default")
    [line] = (await run(servers, "list", "--tenant", "acme")).stdout.splitlines()
    assert line.startswith(f"{acme.number}  acme  cart  ")
    await take_all(ledger)
    foreign = await run(servers, "replay", str(default.number), "--tenant", "acme")
    assert foreign.returncode == 1
    done = await run(servers, "replay", "--tenant", "acme")
    assert (done.returncode, done.stdout) == (0, "1 written, 0 superseded, 0 still refused\n")
    assert await ledger.letters(None) == [default]


async def test_replay_writes_what_is_taken_by_now(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    first, second = await empty_line(open_shop), await empty_line(open_shop, BOB)
    await poison(open_shop, BOB)
    await worker_of(open_shop, ledger).run_once()
    await take_all(ledger)
    done = await run(servers, "replay")
    assert done.returncode == 1
    assert done.stdout == "1 written, 0 superseded, 1 still refused\n"
    [letter] = await ledger.letters(None)
    assert letter.cart_id == second.id
    assert done.stderr == f"number {letter.number}: {NUL_REASON}\n"
    written = await ledger.cart("default", first.id)
    assert written
    assert (written.version, written.lines[0].quantity) == (first.version, 0)
    assert await ledger.cart("default", second.id) is None


async def test_replay_of_some(open_shop: Shop, ledger: Ledger, servers: dict[str, str]) -> None:
    for owner in (ANN, BOB):
        await empty_line(open_shop, owner)
    await worker_of(open_shop, ledger).run_once()
    first, second = await ledger.letters(None)
    refused = await run(servers, "replay", str(first.number))
    assert (refused.returncode, refused.stderr) == (1, f"number {first.number}: {NONE}\n")
    assert await ledger.letters(None) == [first, second]
    await take_all(ledger)
    done = await run(servers, "replay", str(second.number), str(second.number))
    assert (done.returncode, done.stdout) == (0, "1 written, 0 superseded, 0 still refused\n")
    assert await ledger.letters(None) == [first]


async def test_an_unknown_number_replays_nothing(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    await empty_line(open_shop)
    await worker_of(open_shop, ledger).run_once()
    await take_all(ledger)
    [letter] = await ledger.letters(None)
    done = await run(servers, "replay", str(letter.number), "77")
    assert done.returncode == 1
    assert done.stderr == "cartsvc: nothing is set aside under number 77\n"
    assert await ledger.letters(None) == [letter]
    for number in ("0", "many", str(2**63)):
        assert (await run(servers, "replay", number)).returncode == 2


async def test_a_cart_that_is_there_as_it_is_or_newer_is_only_removed(
    open_shop: Shop, ledger: Ledger
) -> None:
    older = await empty_line(open_shop)
    await worker_of(open_shop, ledger).run_once()
    [letter] = await ledger.letters(None)
    await open_shop.redis.hset(open_shop.bucket.cart(ANN), f"q:{LAMP}", "1")
    newer = await open_shop.add(4)
    async with ledger.write(open_shop.bucket) as writing:
        await writing.write_carts([newer])
        # What a flush that was held up sets aside after that.
        await writing.set_aside(older, NONE)
    [late] = await ledger.letters(None)
    assert late.number != letter.number
    assert await again(open_shop, ledger) == Replayed(superseded=1)
    assert await ledger.cart("default", newer.id) == newer
    assert await ledger.letters(None) == []


async def test_a_letter_that_became_a_later_one_stays(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker sets aside a later version while the earlier one is replayed."""
    await empty_line(open_shop)
    worker = worker_of(open_shop, ledger)
    await worker.run_once()
    letters = await ledger.letters(None)
    write = Flush.write_carts

    async def late(self: Flush, carts: Any) -> Written:
        await open_shop.add()
        await poison(open_shop)
        assert await worker.run_once() == Pass(refused=1)
        await take_all(ledger)
        return await write(self, carts)

    with monkeypatch.context() as crossing:
        crossing.setattr(Flush, "write_carts", late)
        done = await replay.run(ledger, Backlog(open_shop.runner), letters)
    assert done == Replayed(written=1)
    left = [(letter.version, letter.reason) for letter in await ledger.letters(None)]
    assert left == [(2, NUL_REASON)]


async def test_guard_of_a_letter_that_became_a_later_one(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mutant_query("remove_letter", " AND version = $2", " AND $2::numeric IS NOT NULL"):
        case = test_a_letter_that_became_a_later_one_stays
        await turns_red(case(open_shop, ledger, monkeypatch))


async def test_a_letter_that_is_gone_is_nothing(open_shop: Shop, ledger: Ledger) -> None:
    await empty_line(open_shop)
    await worker_of(open_shop, ledger).run_once()
    letters = await ledger.letters(None)
    await ledger.pool.execute("DELETE FROM dead_letter")
    assert await replay.run(ledger, Backlog(open_shop.runner), letters) == Replayed(superseded=1)
    with pytest.raises(UnknownLetter):
        await ledger.letters(None, [letters[0].number])


async def test_a_price_change_is_replayed_once(open_shop: Shop, ledger: Ledger) -> None:
    await ledger.pool.execute("ALTER TABLE price_history ADD CHECK (new_price_minor > 1)")
    await change_prices(open_shop, 1, 2, 3)
    await worker_of(open_shop, ledger).run_once()
    assert await again(open_shop, ledger) == Replayed(refused=1)
    await ledger.pool.execute(
        "ALTER TABLE price_history DROP CONSTRAINT price_history_new_price_minor_check"
    )
    [letter] = await ledger.letters(None)
    assert await again(open_shop, ledger, letter.number) == Replayed(written=1)
    assert await prices_written(ledger) == [1, 2, 3]
    # Redis comes back with an older file: the stream has it once more, and so has a letter.
    async with ledger.write(open_shop.bucket) as writing:
        await writing.set_aside((await rewound(open_shop))[0], letter.reason)
    assert await again(open_shop, ledger) == Replayed(superseded=1)
    assert await prices_written(ledger) == [1, 2, 3]
    assert await ledger.letters(None) == []


async def rewound(shop: Shop) -> list[Any]:
    """The price changes of before, as the stream tells them."""
    await change_prices(shop, 1)
    changes, _ = await Backlog(shop.runner).price_changes(shop.bucket, "0-0", 1)
    return changes


async def test_a_closed_cart_leaves_redis_once_it_is_replayed(
    open_shop: Shop, ledger: Ledger
) -> None:
    shop = open_shop
    await shop.add(2)
    worker = worker_of(shop, ledger)
    await worker.run_once()
    await empty_line(shop)
    closed = await close(shop, "ABANDONED")
    await worker.run_once()
    assert await again(shop, ledger) == Replayed(refused=1)
    assert await dirty(shop) == 0
    await take_all(ledger)
    assert await again(shop, ledger) == Replayed(written=1)
    archive = Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)
    for _ in ("in Redis", "in PostgreSQL only"):
        assert (await archive.find(shop.bucket, closed.id)).status == "ABANDONED"
        await worker.run_once()
        keys = [key.partition(b":")[0] for key in await shop.redis.keys("*")]
        assert not {b"cart", b"closed", b"carts", b"dirty"} & set(keys)


async def test_nothing_is_replayed_while_redis_is_away(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a closed cart would stay there for good: nobody would know of it any more."""
    await empty_line(open_shop)
    await worker_of(open_shop, ledger).run_once()
    await take_all(ledger)
    before = await ledger.letters(None)

    async def away(*_: object) -> None:
        raise OutcomeUnknown("Redis is away")

    with monkeypatch.context() as failing:
        failing.setattr(Backlog, "mark", away)
        with pytest.raises(OutcomeUnknown):
            await again(open_shop, ledger)
    assert await ledger.letters(None) == before
    assert await again(open_shop, ledger) == Replayed(written=1)


async def test_a_letter_that_is_not_readable_stays(
    open_shop: Shop, ledger: Ledger, servers: dict[str, str]
) -> None:
    await empty_line(open_shop)
    await worker_of(open_shop, ledger).run_once()
    await ledger.pool.execute("UPDATE dead_letter SET body = '{}'")
    [letter] = await ledger.letters(None)
    done = await run(servers, "replay")
    assert done.returncode == 1
    told = "is not readable as a cart: Object missing required field `id`"
    assert done.stderr == f"number {letter.number}: {told}\n"
    assert NUL not in done.stderr
