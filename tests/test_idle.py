"""Carts that nobody touches leave Redis, come back when they are touched, or are given up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from cartsvc import flush
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.errors import CartExists, Cold, LedgerAway, NoCart
from cartsvc.idle import IdleCarts
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, Merged, Notice, Owner
from tests import carts
from tests.carts import BOB, GUEST, HOLD_MS, refused, sound
from tests.mutants import turns_red
from tests.shop import ANN, LAMP, MUG, Mutant, Shop
from tests.storefront import headers, token

DAY_S = 86_400
KATE = Owner("customer", "kate")


class Idle:
    """A shop whose carts are flushed and cooled when a test says so."""

    def __init__(self, shop: Shop, ledger: Ledger) -> None:
        self.shop, self.ledger = shop, ledger
        self.backlog = Backlog(shop.runner)
        self.archive = Archive(shop.store, self.backlog, ledger, timeout_s=5)
        self.walks = IdleCarts(self.archive, ledger, cool_after_s=DAY_S, abandon_after_s=30 * DAY_S)

    async def flush(self) -> None:
        await flush.carts(self.backlog, self.ledger, self.shop.bucket, 100)

    async def walk(self, walk: Callable[..., Awaitable[bool]]) -> None:
        while await walk(self.shop.store, self.shop.bucket):
            pass

    async def cool(self) -> None:
        """All that is in Redis, after a day."""
        await self.flush()
        self.shop.clock.ms += DAY_S * 1000
        await self.walk(self.walks.cool)

    async def marked(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = await self.shop.redis.hgetall(self.shop.bucket.cold)
        return found


@pytest.fixture
def idle(open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Idle:
    monkeypatch.setattr("cartsvc.idle._PAUSE_S", 0)
    return Idle(open_shop, ledger)


async def lines(shop: Shop, owner: Owner = ANN) -> Cart:
    return await shop.add_lines(LineRequest(LAMP, 2), LineRequest(MUG, 1), owner=owner)


async def test_an_idle_cart_leaves_only_a_marker(idle: Idle) -> None:
    cart = await lines(idle.shop)
    before = {key for key in await idle.shop.everything() if b"cart" in key}
    assert before
    await idle.cool()
    assert await idle.marked() == {b"session:ann": b"%d" % cart.id}
    bucket = idle.shop.bucket
    left = {key.decode() for key in await idle.shop.everything()}
    there = {bucket.seq, bucket.catalogue, bucket.stock, bucket.received, bucket.cold}
    assert left == there


async def test_it_comes_back_as_it_was_when_it_is_read(idle: Idle) -> None:
    await lines(idle.shop)
    cart = await carts.put(idle.shop, 5)
    await idle.cool()
    assert await carts.read(idle.shop) == cart
    assert await idle.marked() == {}
    assert await idle.shop.redis.exists(idle.shop.bucket.dirty) == 0
    await sound(idle.shop)


TOUCHES: dict[str, Callable[[Shop], Awaitable[Any]]] = {
    "add": lambda shop: shop.add(1),
    "set": lambda shop: carts.put(shop, 4),
    "remove": lambda shop: carts.remove(shop),
    "save": lambda shop: carts.save(shop),
    "empty": lambda shop: shop.store.empty(shop.bucket, ANN),
    "close": lambda shop: carts.close(shop),
    "merge into": lambda shop: shop.store.merge(shop.bucket, GUEST, ANN),
    "merge from": lambda shop: shop.store.merge(shop.bucket, ANN, KATE),
    "merge both": lambda shop: shop.store.merge(shop.bucket, ANN, BOB),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
async def test_what_is_done_to_it_is_as_if_it_had_been_there(
    idle: Idle, touch: Callable[[Shop], Awaitable[Any]]
) -> None:
    shop = idle.shop
    owners = (ANN, BOB)
    for owner in owners:
        await lines(shop, owner)
    await shop.add_lines(LineRequest(LAMP, 1), owner=GUEST)
    wanted = await touch(shop)
    await shop.redis.flushall()
    await shop.open()
    await shop.sell(LAMP, price="29.99")
    await shop.sell(MUG, price="12.50")
    for owner in owners:
        await lines(shop, owner)
    await idle.cool()
    await shop.add_lines(LineRequest(LAMP, 1), owner=GUEST)
    found = await touch(shop)
    assert shape(found) == shape(wanted)
    assert b"session:ann" not in await idle.marked()
    await sound(shop)


def shape(found: Cart | Merged) -> Any:
    cart = found.cart if isinstance(found, Merged) else found
    told = [(line.sku, line.quantity, line.saved, line.number) for line in cart.lines]
    return cart.id, cart.version, cart.status, told


async def test_the_owner_has_no_second_cart(idle: Idle) -> None:
    cart = await lines(idle.shop)
    await idle.cool()
    error = await refused(idle.shop, CartExists, idle.archive.make(idle.shop.bucket, ANN))
    assert error.cart_id == cart.id
    with pytest.raises(CartExists):
        await idle.shop.store.make(idle.shop.bucket, ANN)
    assert (await idle.shop.add(1)).id == cart.id


async def test_its_version_goes_on_so_that_the_flush_writes_it(idle: Idle) -> None:
    await lines(idle.shop)
    cart = await carts.put(idle.shop, 5)
    await idle.cool()
    changed = await carts.put(idle.shop, 6)
    assert changed.version == cart.version + 1
    await idle.flush()
    row = await idle.ledger.cart("default", cart.id)
    assert row is not None
    assert row.lines[0].quantity == 6


async def test_what_its_owner_was_not_told_is_told_then(idle: Idle) -> None:
    await idle.shop.sell(LAMP, price="29.99", stock_policy="hold")
    await lines(idle.shop)
    idle.shop.clock.ms += HOLD_MS
    await idle.shop.store.release(idle.shop.bucket, [idle.shop.bucket.cart(ANN)])
    await idle.cool()
    assert len(await idle.marked()) == 1
    told = (Notice(LAMP, 2, "hold_expired"),)
    assert (await carts.read(idle.shop)).notices == told
    assert (await carts.read(idle.shop)).notices == ()


async def test_a_cart_that_is_not_written_stays(idle: Idle) -> None:
    await lines(idle.shop)
    await idle.flush()
    await idle.shop.add(1)
    await idle.shop.redis.delete(idle.shop.bucket.dirty)  # a mark that got lost
    idle.shop.clock.ms += DAY_S * 1000
    await idle.walk(idle.walks.cool)
    assert await idle.marked() == {}
    assert (await carts.read(idle.shop)).total_quantity == 4


async def test_a_cart_that_is_dirty_stays(idle: Idle) -> None:
    await lines(idle.shop)
    await idle.flush()
    await idle.shop.redis.zadd(idle.shop.bucket.dirty, {idle.shop.bucket.cart(ANN): 1})
    idle.shop.clock.ms += DAY_S * 1000
    await idle.walk(idle.walks.cool)
    assert await idle.marked() == {}


async def test_a_cart_that_holds_units_stays(idle: Idle) -> None:
    await idle.shop.sell(LAMP, price="29.99", stock_policy="hold", hold_ttl_s=2 * DAY_S)
    await lines(idle.shop)
    await idle.cool()
    assert await idle.marked() == {}


async def test_a_cart_in_use_and_a_closed_one_stay(idle: Idle) -> None:
    await lines(idle.shop, BOB)
    await carts.close(idle.shop, owner=BOB)
    closed = await idle.shop.store.find(idle.shop.bucket, 256)
    await lines(idle.shop)
    idle.shop.clock.ms += DAY_S * 1000 - 1
    await flush.these(idle.backlog, idle.ledger, idle.shop.bucket, [idle.shop.bucket.cart(ANN)])
    await idle.walk(idle.walks.cool)
    assert await idle.marked() == {}
    assert await idle.shop.store.find(idle.shop.bucket, 256) == closed


async def test_a_cart_that_changes_while_it_is_looked_at_stays(idle: Idle) -> None:
    cart = await lines(idle.shop)
    await idle.flush()
    await idle.shop.add(1)
    flushed = {idle.shop.bucket.cart(ANN): (cart.id, cart.version)}
    await idle.shop.redis.delete(idle.shop.bucket.dirty)
    assert await idle.shop.store.cool(idle.shop.bucket, flushed) == 0


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("carts:{default:0}", "not an id", "x"),
        ("carts:{default:0}", "999", b"\xff"),
        ("cart:{default:0}:session:ann", "updated", "long ago"),
    ],
)
async def test_what_is_not_readable_keeps_none_waiting(
    idle: Idle, name: str, field: str, value: str | bytes
) -> None:
    await lines(idle.shop)
    await lines(idle.shop, BOB)
    await idle.flush()
    await idle.shop.redis.hset(name, field, value)
    await idle.cool()
    assert b"session:bob" in await idle.marked()


async def test_many_leave_in_steps(idle: Idle) -> None:
    owners = [Owner("session", f"s{number}") for number in range(700)]
    await asyncio.gather(*(lines(idle.shop, owner) for owner in owners))
    for _ in range(7):
        await idle.flush()
    idle.shop.clock.ms += DAY_S * 1000
    steps = 1
    while await idle.walks.cool(idle.shop.store, idle.shop.bucket):
        steps += 1
    assert 5 <= steps <= 20
    assert len(await idle.marked()) == 700
    # Not all at once: a request waits for PostgreSQL only so long.
    for first in range(0, len(owners), 50):
        returning = owners[first : first + 50]
        await asyncio.gather(*(carts.read(idle.shop, owner) for owner in returning))
    await sound(idle.shop)


async def test_a_cold_cart_costs_a_tenth(idle: Idle) -> None:
    async def memory() -> int:
        return int((await idle.shop.redis.info("memory"))["used_memory"])

    empty = await memory()
    owners = [Owner("session", f"{number:032}") for number in range(3_000)]
    await asyncio.gather(*(idle.shop.add_lines(LineRequest(LAMP, 1), owner=o) for o in owners))
    for _ in range(30):
        await idle.flush()
    hot = await memory() - empty
    await idle.cool()
    assert len(await idle.marked()) == 3_000
    assert (await memory() - empty) / hot < 0.12


async def test_requests_at_once_bring_it_back_once(idle: Idle) -> None:
    cart = await lines(idle.shop)
    await idle.cool()
    found = await asyncio.gather(*(idle.shop.add(1) for _ in range(10)))
    assert {one.id for one in found} == {cart.id}
    assert (await carts.read(idle.shop)).total_quantity == cart.total_quantity + 10
    await sound(idle.shop)


async def test_a_cart_that_postgresql_closed_is_forgotten(idle: Idle) -> None:
    """As after a failover to a Redis that is older: it was brought back and converted meanwhile."""
    cart = await lines(idle.shop)
    await idle.cool()
    await idle.ledger.pool.execute("UPDATE carts SET status = 'CONVERTED', version = 99")
    with pytest.raises(NoCart):
        await carts.read(idle.shop)
    assert (await idle.shop.add(1)).id > cart.id
    assert await idle.marked() == {}


async def test_a_cart_that_postgresql_does_not_have_is_not_guessed(idle: Idle) -> None:
    await lines(idle.shop)
    await idle.cool()
    await idle.ledger.pool.execute("TRUNCATE carts, cart_items")
    await refused(idle.shop, LedgerAway, idle.shop.add(1))
    await refused(idle.shop, LedgerAway, carts.read(idle.shop))


async def test_a_marker_of_anothers_cart_is_not_followed_for_ever(idle: Idle) -> None:
    await lines(idle.shop)
    bobs = await lines(idle.shop, BOB)
    await idle.cool()
    await idle.shop.redis.hset(idle.shop.bucket.cold, "session:ann", bobs.id)
    async with asyncio.timeout(5):
        for call in (idle.shop.add(1), carts.read(idle.shop)):
            with pytest.raises(Cold):
                await call
    assert await carts.read(idle.shop, BOB) == bobs


async def test_an_older_cart_does_not_take_its_place(idle: Idle) -> None:
    """Read before its owner had it back, closed it and left another one."""
    first = await lines(idle.shop)
    await idle.flush()
    await carts.close(idle.shop)
    await idle.flush()
    await lines(idle.shop)
    await idle.cool()
    await refused(idle.shop, NoCart, idle.shop.store.restore(idle.shop.bucket, first))


async def test_over_http_it_is_as_if_it_had_been_there(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartsvc.idle._PAUSE_S", 0)
    idle = Idle(shop, api_ledger)
    await shop.sell(LAMP)
    await shop.sell(MUG, price="12.50")
    sent = headers(bearer=token())
    body = {"productId": LAMP, "quantity": 1}
    wanted = (await http.post("/cart/items", json=body, headers=sent)).json()
    await shop.redis.hset(shop.bucket.cart(Owner("customer", "user_789")), "updated", 1)
    await idle.flush()
    shop.clock.ms += 2 * DAY_S * 1000
    await idle.walk(idle.walks.cool)
    assert len(await idle.marked()) == 1
    admin = {"Authorization": f"Bearer {token('user')}"}
    listed = (await http.get("/api/carts", headers=admin)).json()
    assert [cart["id"] for cart in listed] == [int(wanted["id"])]
    found = (await http.get("/cart", headers=sent)).json()
    assert found["cartItems"] == wanted["cartItems"]


# Carts of guests who never came back.


async def test_a_guests_idle_cart_is_abandoned(idle: Idle) -> None:
    cold = await lines(idle.shop)
    phone = await lines(idle.shop, Owner("device", "phone"))
    kates = await lines(idle.shop, KATE)
    await idle.cool()
    idle.shop.clock.ms += 28 * DAY_S * 1000
    hot = await lines(idle.shop, BOB)
    await idle.flush()
    idle.shop.clock.ms += DAY_S * 1000
    await idle.walk(idle.walks.abandon)
    found = {
        cart.id: await idle.ledger.status("default", cart.id) for cart in (cold, phone, kates, hot)
    }
    assert found == {
        cold.id: "ABANDONED",
        phone.id: "ABANDONED",
        kates.id: "ACTIVE",
        hot.id: "ACTIVE",
    }
    assert set(await idle.marked()) == {b"customer:kate"}
    assert (await lines(idle.shop)).id > hot.id
    await sound(idle.shop)


async def test_a_cart_that_was_touched_meanwhile_is_not(idle: Idle) -> None:
    cart = await lines(idle.shop)
    await idle.flush()
    idle.shop.clock.ms += 30 * DAY_S * 1000
    touched = await idle.shop.add(1)  # which PostgreSQL does not know yet
    await idle.walk(idle.walks.abandon)
    assert await carts.read(idle.shop) == touched
    # Nor if it is touched between the look and the closing.
    with pytest.raises(NoCart):
        await idle.archive.close(idle.shop.bucket, touched, "ABANDONED", version=cart.version)
    assert await carts.read(idle.shop) == touched


async def test_one_whose_owner_has_another_is_let_be(idle: Idle) -> None:
    """Redis came back as it was before the first, and the worker must not end by that."""
    first = await lines(idle.shop)
    await idle.flush()
    await forget(idle.shop, first)
    second, bobs = await lines(idle.shop), await lines(idle.shop, BOB)
    await idle.flush()
    idle.shop.clock.ms += 30 * DAY_S * 1000
    await idle.walk(idle.walks.abandon)
    found = [await idle.ledger.status("default", cart.id) for cart in (first, second, bobs)]
    assert found == ["ACTIVE", "ABANDONED", "ABANDONED"]


async def forget(shop: Shop, cart: Cart) -> None:
    """All that Redis has of a cart."""
    key = shop.bucket.cart(cart.owner)
    for line in cart.lines:
        await shop.redis.zrem(shop.bucket.holders, f"{line.sku} {key}")
    await shop.redis.delete(key)
    await shop.redis.hdel(shop.bucket.carts, cart.id)


@pytest.mark.parametrize("after_s", [0, DAY_S])
async def test_0_is_never(idle: Idle, after_s: int) -> None:
    await lines(idle.shop)
    await idle.flush()
    idle.shop.clock.ms += 400 * DAY_S * 1000
    walks = IdleCarts(idle.archive, idle.ledger, cool_after_s=after_s, abandon_after_s=0)
    await idle.walk(walks.cool)
    await idle.walk(walks.abandon)
    assert bool(await idle.marked()) == bool(after_s)
    assert await idle.ledger.status("default", 256) == "ACTIVE"


GUARDS: list[tuple[str, str, str, Callable[[Idle], Awaitable[None]]]] = [
    (
        "lib/cart.lua",
        "    return is_cold(cart)\n",
        "    return nil\n",
        test_the_owner_has_no_second_cart,
    ),
    (
        "cart_cool.lua",
        "redis.call('HGET', cart.key, 'version') == version and",
        "",
        test_a_cart_that_changes_while_it_is_looked_at_stays,
    ),
    ("cart_cool.lua", "and cart.due == math.huge", "", test_a_cart_that_holds_units_stays),
    (
        "cart_cool.lua",
        "and not redis.call('ZSCORE', dirty, cart.key)",
        "",
        test_a_cart_that_is_dirty_stays,
    ),
    (
        "cart_cool.lua",
        ".. (cart.notices and ' ' .. cart.notices or '')",
        "",
        test_what_its_owner_was_not_told_is_told_then,
    ),
    (
        "cart_restore.lua",
        "or marker and string.match(marker, '^%d+') ~= cart_id",
        "",
        test_an_older_cart_does_not_take_its_place,
    ),
    (
        "cart_restore.lua",
        "redis.call('HDEL', cold, owner_of(cart))",
        "",
        test_it_comes_back_as_it_was_when_it_is_read,
    ),
    (
        "cart_close.lua",
        "(version == '' or tonumber(version) == cart.version - 1)",
        "true",
        test_a_cart_that_was_touched_meanwhile_is_not,
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "case"), GUARDS)
async def test_guards(
    idle: Idle, file: str, old: str, new: str, case: Callable[[Idle], Awaitable[None]]
) -> None:
    lax = Shop(Mutant(idle.shop.runner, file, old, new))
    await turns_red(case(Idle(lax, idle.ledger)))
