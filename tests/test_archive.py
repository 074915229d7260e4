"""Carts wherever they are: what HTTP does not reach of it."""

import asyncio
from typing import Any

import asyncpg
import pytest

from cartsvc import scripts
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import CartClosed, CartExists, LedgerAway, NoCart, OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, ClosedStatus, Owner
from tests.carts import books, read
from tests.mutants import mutant_query, turns_red
from tests.shop import ANN, LAMP, Shop
from tests.wait import wait_until

TIMEOUT_S = 5


@pytest.fixture
def archive(open_shop: Shop, ledger: Ledger) -> Archive:
    backlog = Backlog(open_shop.runner)
    return Archive(open_shop.store, backlog, ledger, timeout_s=TIMEOUT_S)


async def saved(shop: Shop) -> dict[bytes, bytes]:
    """All that Redis has."""
    return {key: await shop.redis.dump(key) for key in await shop.redis.keys("*")}


async def put_back(shop: Shop, before: dict[bytes, bytes]) -> None:
    """As after a failover to a replica that was behind."""
    await shop.redis.flushall()
    for key, value in before.items():
        await shop.redis.restore(key, 0, value)


async def leave_redis(shop: Shop, archive: Archive) -> None:
    """Ann's cart is in PostgreSQL only."""
    await archive.carts(shop.bucket, ANN, limit=1, offset=0)
    await shop.redis.delete(shop.bucket.cart(ANN), shop.bucket.carts, shop.bucket.holders)


async def test_a_conversion_is_committed_as_it_was_decided(
    open_shop: Shop, archive: Archive, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop
    cart = await shop.add(2)
    before = await saved(shop)
    close = shop.store.close

    async def closed(*arguments: Any, **options: Any) -> Cart:
        done = await close(*arguments, **options)
        await put_back(shop, before)
        return done

    monkeypatch.setattr(shop.store, "close", closed)
    answered = await archive.close(shop.bucket, cart, "CONVERTED")
    assert answered.status == "CONVERTED"
    assert await ledger.cart("default", cart.id) == answered


@pytest.mark.parametrize("status", ["CONVERTED", "ABANDONED", "REMOVED", "DELETED"])
async def test_a_closed_cart_leaves_redis_with_its_answer(
    open_shop: Shop, archive: Archive, ledger: Ledger, status: ClosedStatus
) -> None:
    cart = await open_shop.add(2)
    await archive.close(open_shop.bucket, cart, status)
    keys = [key.partition(b":")[0] for key in await open_shop.redis.keys("*")]
    assert not {b"cart", b"closed", b"carts", b"dirty"} & set(keys)
    found = await ledger.cart("default", cart.id)
    assert (found and found.status) == (None if status == "DELETED" else status)
    assert await books(open_shop) == ((98, 0, 2) if status == "CONVERTED" else (100, 0, 0))


async def test_a_cart_that_came_back_is_told_as_it_is_now(
    open_shop: Shop, archive: Archive
) -> None:
    shop = open_shop
    cart = await shop.add(2)
    await leave_redis(shop, archive)
    await shop.sell(LAMP, price="19.99")
    assert await archive.active(shop.bucket, ANN) == cart
    opened = await archive.open(shop.bucket, cart)
    assert (opened.version, opened.lines[0].price_minor) == (cart.version + 1, 1999)
    assert opened == await read(shop)


async def test_a_cart_whose_owner_has_another_is_not_put_back(
    open_shop: Shop, archive: Archive
) -> None:
    cart = await open_shop.add(2)
    await leave_redis(open_shop, archive)
    other = await open_shop.add(1)
    with pytest.raises(CartExists) as refusal:
        await archive.open(open_shop.bucket, cart)
    assert refusal.value.cart_id == other.id
    with pytest.raises(CartExists):
        await archive.close(open_shop.bucket, cart, "ABANDONED")
    assert await read(open_shop) == other


async def test_a_cart_that_is_closed_in_redis_is_not_put_back(
    open_shop: Shop, archive: Archive
) -> None:
    """PostgreSQL still has it as active, since its close was not written yet."""
    shop = open_shop
    cart = await shop.add(2)
    await archive.carts(shop.bucket, ANN, limit=1, offset=0)
    await shop.store.close(shop.bucket, ANN, "REMOVED")
    with pytest.raises(CartClosed):
        await archive.open(shop.bucket, cart)
    with pytest.raises(NoCart):
        await archive.active(shop.bucket, ANN)
    assert (await archive.make(shop.bucket, ANN)).id == cart.id + 256


async def test_a_cart_that_is_closed_while_it_is_put_back_stays_closed(
    open_shop: Shop, archive: Archive, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop
    cart = await shop.add(2)
    await leave_redis(shop, archive)
    restore = shop.store.restore
    others: list[asyncio.Task[Cart]] = []

    async def done_or_waits_for_a_row() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return others[0].done() or bool(await ledger.pool.fetchval(query))

    async def late(bucket: Bucket, found: Cart, **_: Any) -> Cart:
        """Between the look and the script somebody else puts the cart back and closes it."""
        monkeypatch.setattr(shop.store, "restore", restore)
        await restore(bucket, found)
        others.append(asyncio.create_task(archive.close(bucket, found, "ABANDONED")))
        await wait_until(done_or_waits_for_a_row)
        return await restore(bucket, found)

    monkeypatch.setattr(shop.store, "restore", late)
    with pytest.raises(CartClosed):
        await archive.open(shop.bucket, cart)
    assert (await others[0]).status == "ABANDONED"
    assert not await shop.redis.exists(shop.bucket.cart(ANN))


async def test_guard_of_the_row_while_a_cart_is_put_back(
    open_shop: Shop, archive: Archive, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = test_a_cart_that_is_closed_while_it_is_put_back_stays_closed
    with mutant_query("lock_cart", " FOR UPDATE", ""):
        await turns_red(case(open_shop, archive, ledger, monkeypatch))


async def test_a_cart_that_is_deleted_is_not_there_for_who_has_seen_it(
    open_shop: Shop, archive: Archive
) -> None:
    shop = open_shop
    cart = await shop.add(2)
    await shop.store.close(shop.bucket, ANN, "DELETED")
    for _ in ("closed in Redis", "in PostgreSQL only"):
        with pytest.raises(NoCart):
            await archive.find(shop.bucket, cart.id)
        with pytest.raises(NoCart):
            await archive.open(shop.bucket, cart)
        with pytest.raises(NoCart):
            await archive.close(shop.bucket, cart, "CONVERTED")
        await archive.carts(shop.bucket, None, limit=1, offset=0)


async def test_a_server_that_is_away_is_told_as_such(
    open_shop: Shop, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    cart = await open_shop.add(2)
    before = await open_shop.everything()

    def fails(error: Exception) -> None:
        async def epoch(_: Bucket) -> None:
            raise error

        monkeypatch.setattr(archive.ledger, "epoch", epoch)

    for away in (ConnectionRefusedError(), asyncpg.AdminShutdownError("bye"), TimeoutError()):
        fails(away)
        with pytest.raises(LedgerAway):
            await archive.close(open_shop.bucket, cart, "CONVERTED")
    # A fault of ours is none of a server's: it must not look like an outage.
    fails(asyncpg.UndefinedColumnError("no such"))
    with pytest.raises(asyncpg.UndefinedColumnError):
        await archive.close(open_shop.bucket, cart, "CONVERTED")
    assert await open_shop.everything() == before


async def test_a_redis_that_is_away_is_told_as_such(open_shop: Shop, archive: Archive) -> None:
    archive.backlog.redis = scripts.connect("redis://127.0.0.1:1/0", timeout_s=1)
    with pytest.raises(OutcomeUnknown):
        await archive.carts(open_shop.bucket, None, limit=1, offset=0)
    await archive.backlog.redis.aclose()


async def test_a_list_takes_its_time_at_most(open_shop: Shop, archive: Archive) -> None:
    archive.timeout_s = 0
    with pytest.raises(LedgerAway):
        await archive.carts(open_shop.bucket, Owner("customer", "1"), limit=1, offset=0)
