"""Releasing a cart: an operator takes what it holds, and its owner is told."""

import asyncio

import pytest

from cartsvc.errors import CartChanged, CartClosed, NoCart, Overloaded, SoldOut
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, Notice, Owner
from tests import carts
from tests.callers import bearer
from tests.carts import BOB, GUEST, HOLD_MS, USER, books, read, refused, sound, unchanged
from tests.front import front_of
from tests.shop import ANN, LAMP, MUG, Shop
from tests.test_idle import Idle
from tests.test_idle import idle as idle
from tests.test_pressure import pressed

CUSTOMER = Owner("customer", "7")
TOLD = (Notice(LAMP, 3, "released"), Notice("tee", 2, "released"))


async def release(shop: Shop, owner: Owner = ANN, cart_id: int | None = None) -> Cart:
    return await shop.store.release_held(shop.bucket, owner, cart_id=cart_id)


async def opened(shop: Shop) -> Shop:
    """The shop, in which Ann holds lamps and tees, and has mugs, and pins for later."""
    await shop.sell(LAMP, stock=10, stock_policy="hold")
    await shop.sell(MUG, stock=10)
    await shop.sell("tee", stock=10, stock_policy="hold", hold_ttl_s=3_600)
    await shop.sell("pin", stock=10, stock_policy="hold")
    lines = [(LAMP, 3), (MUG, 1), ("tee", 2), ("pin", 4)]
    await shop.add_lines(*(LineRequest(sku, units) for sku, units in lines))
    await carts.save(shop, "pin")
    return shop


@pytest.fixture
async def ours(either_shop: Shop) -> Shop:
    return await opened(either_shop)


async def test_all_that_is_held_is_free_again(ours: Shop) -> None:
    before = await ours.store.peek(ours.bucket, ANN)
    ours.clock.ms += 1
    cart = await release(ours)
    assert carts.units(cart) == {MUG: 1, "pin": 4}
    assert (cart.version, cart.updated_ms) == (before.version + 1, ours.clock.ms)
    assert cart.notices == TOLD
    for sku in (LAMP, "tee", "pin"):
        assert await books(ours, sku) == (10, 0, 0)


async def test_others_get_the_units_at_once(ours: Shop) -> None:
    ours.store.sold_out.memory_ms = 1_000
    await carts.add(ours, BOB, 7)
    with pytest.raises(SoldOut):
        await carts.add(ours, USER)
    await release(ours)
    assert (await carts.add(ours, USER, 3)).total_quantity == 3


async def test_only_the_owner_is_told_and_once(ours: Shop) -> None:
    await release(ours)
    for _ in range(2):
        assert (await ours.store.peek(ours.bucket, ANN)).notices == TOLD
    assert (await read(ours)).notices == TOLD
    assert (await read(ours)).notices == ()


async def test_it_is_flushed(ours: Shop) -> None:
    await ours.redis.delete(ours.bucket.dirty)
    await release(ours)
    assert await ours.redis.zscore(ours.bucket.dirty, ours.bucket.cart(ANN)) == ours.clock.ms


async def test_a_hold_that_has_run_out_goes_with_the_others(ours: Shop) -> None:
    ours.clock.ms += HOLD_MS
    assert (await release(ours)).notices == TOLD
    await sound(ours)


async def test_what_was_not_told_yet_is_told_too(ours: Shop) -> None:
    ours.clock.ms += HOLD_MS
    await ours.store.release(ours.bucket, [ours.bucket.cart(ANN)])
    assert (await release(ours)).notices == (Notice(LAMP, 3, "hold_expired"), TOLD[1])


async def test_what_holds_nothing_is_left_as_it_is(ours: Shop) -> None:
    cart = await release(ours)
    assert await unchanged(ours, release(ours)) == cart
    plain = await carts.add(ours, BOB, 1, MUG)
    assert await unchanged(ours, release(ours, BOB)) == plain
    empty = await ours.store.make(ours.bucket, USER)
    assert await unchanged(ours, release(ours, USER)) == empty


async def test_only_the_cart_that_is_meant(ours: Shop) -> None:
    await refused(ours, NoCart, release(ours, cart_id=512))
    cart = await ours.store.peek(ours.bucket, ANN)
    assert (await release(ours, cart_id=cart.id)).notices == TOLD


async def test_where_there_is_none(ours: Shop) -> None:
    await refused(ours, NoCart, release(ours, BOB))
    cart = await ours.store.peek(ours.bucket, ANN)
    await carts.close(ours, "ABANDONED")
    await refused(ours, NoCart, release(ours))
    await refused(ours, NoCart, release(ours, cart_id=cart.id))


async def test_however_many_lines_it_has(shop: Shop) -> None:
    """More than are released at once when their time is up."""
    shop.store.max_lines = 120
    names = [f"p{number}" for number in range(120)]
    for name in names:
        await shop.sell(name, stock=2, stock_policy="hold")
    await shop.add_lines(*(LineRequest(name, 2) for name in names))
    cart = await release(shop)
    assert (cart.lines, [notice.sku for notice in cart.notices]) == ([], names)
    await sound(shop)


async def test_a_cart_that_only_postgresql_has_holds_nothing(idle: Idle) -> None:
    cart = await idle.shop.add(2)
    await idle.cool()
    assert await release(idle.shop) == cart
    await idle.cool()
    await refused(idle.shop, NoCart, release(idle.shop, BOB))


async def test_a_mark_that_is_passed_keeps_nobody_from_it(shop: Shop) -> None:
    await opened(shop)
    async with pressed(shop):
        with pytest.raises(Overloaded):
            await carts.remove(shop, MUG)
        assert (await release(shop)).notices == TOLD


async def test_what_is_released_is_not_ordered_unseen(ours: Shop) -> None:
    await release(ours)
    with pytest.raises(CartChanged) as changed:
        await carts.close(ours)
    assert changed.value.notices == TOLD
    assert (await carts.close(ours)).status == "CONVERTED"
    assert await books(ours) == (10, 0, 0)


async def test_a_release_and_an_order_that_meet(shop: Shop) -> None:
    """Units are sold or free, and nobody is told otherwise."""
    await shop.sell(stock=1_000, stock_policy="hold")
    owners = [Owner("session", f"shopper-{number}") for number in range(50)]
    for owner in owners:
        await carts.add(shop, owner, 2)
    both = [(carts.close(shop, owner=owner), release(shop, owner)) for owner in owners]
    # Of half of them the release comes first.
    first = [call for order, taken in both[::2] for call in (order, taken)]
    second = [call for order, taken in both[1::2] for call in (taken, order)]
    told = await asyncio.gather(*first, *second, return_exceptions=True)
    orders = [*told[: len(first) : 2], *told[len(first) + 1 :: 2]]
    sold = sum(isinstance(order, Cart) for order in orders)
    assert {type(order) for order in orders} <= {Cart, CartChanged, CartClosed, NoCart}
    assert sold >= 25
    assert await books(shop) == (1_000 - 2 * sold, 0, 2 * sold)


ASKED: dict[str, tuple[str, Owner, dict[str, str], bool]] = {
    "session": ("/api/cart?session_id=ann", ANN, {}, True),
    "tenant": ("/cart", GUEST, {"x-tenant-id": "default", "x-session-id": GUEST.id}, True),
    "device": ("/cart", Owner("device", "phone"), {"DeviceID": "phone"}, True),
    "customer": ("/api/customer/cart", CUSTOMER, bearer(CUSTOMER.id), True),
    "records": ("/api/carts/user/7/active", CUSTOMER, bearer(CUSTOMER.id), False),
}
"""What is read, by whom, with what; and whether the body has a place for notices."""


@pytest.mark.parametrize("contract", ASKED)
async def test_every_contract_tells_it(shop: Shop, api_ledger: Ledger, contract: str) -> None:
    path, owner, sent, is_in_body = ASKED[contract]
    await shop.sell("201", stock=5, stock_policy="hold")
    await carts.add(shop, owner, 2, "201")
    await release(shop, owner)
    async with front_of(shop, api_ledger) as front:
        answer = await front.get(path, headers=sent)
    assert answer.status_code == 200
    assert answer.headers["x-cart-notice"] == "released; sku=201; quantity=2"
    assert ('"reason":"released"' in answer.text) == is_in_body
