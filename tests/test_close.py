"""Carts that are converted, abandoned and removed, on a real server and on fakeredis."""

import pytest

from cartsvc.errors import (
    CartChanged,
    CartShort,
    InactiveProduct,
    NoCart,
    UnknownProduct,
)
from cartsvc.model import (
    ClosedStatus,
    Notice,
    Shortage,
)
from tests.carts import (
    BOB,
    HOLD_MS,
    POLICIES,
    add,
    books,
    close,
    read,
    refused,
    remove,
    save,
    take_back,
    units,
)
from tests.shop import LAMP, MUG, NOW_MS, Shop


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_converted_cart_is_sold(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy=policy)
    await either_shop.sell(MUG, stock=10, stock_policy=policy)
    await either_shop.add(2, LAMP)
    await either_shop.add(3, MUG)
    either_shop.clock.ms += 1_000
    cart = await close(either_shop, cart_id=256)
    assert (cart.id, cart.status, cart.version) == (256, "CONVERTED", 3)
    assert (units(cart), cart.updated_ms) == ({LAMP: 2, MUG: 3}, NOW_MS + 1_000)
    sold = (8, 0, 2) if policy != "untracked" else (10, 0, 0)
    assert await books(either_shop, LAMP) == sold
    await refused(either_shop, NoCart, read(either_shop))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("status", ["ABANDONED", "REMOVED"])
async def test_a_cart_that_is_given_up_frees_its_units(
    either_shop: Shop, status: ClosedStatus, policy: str
) -> None:
    await either_shop.sell(stock=10, stock_policy=policy)
    await either_shop.add(4)
    cart = await close(either_shop, status)
    assert (cart.status, units(cart), cart.lines[0].held_until_ms) == (status, {LAMP: 4}, None)
    assert await books(either_shop) == (10, 0, 0)
    await refused(either_shop, NoCart, close(either_shop, status))


async def test_the_next_add_starts_another_cart(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(4)
    await close(either_shop)
    cart = await either_shop.add(1)
    assert (cart.id, cart.version, cart.status, units(cart)) == (512, 1, "ACTIVE", {LAMP: 1})
    assert cart.lines[0].number == 1
    assert units(await either_shop.store.find(either_shop.bucket, 256)) == {LAMP: 4}


@pytest.mark.parametrize("status", ["CONVERTED", "ABANDONED", "REMOVED"])
async def test_close_is_for_the_cart_that_is_meant(either_shop: Shop, status: ClosedStatus) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(4)
    await add(either_shop, BOB)
    await refused(either_shop, NoCart, close(either_shop, status, cart_id=512))
    assert (await close(either_shop, status, cart_id=256)).status == status


async def test_all_of_a_cart_is_sold_or_nothing(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id, stock=5)
        await either_shop.add(4, product_id)
    await either_shop.shelf.set_stock(either_shop.bucket, "b", 3)
    await either_shop.shelf.set_stock(either_shop.bucket, "c", 0)
    error = await refused(either_shop, CartShort, close(either_shop))
    assert error.lines == [Shortage("b", 3, 4), Shortage("c", 0, 4)]
    assert await books(either_shop, "a") == (5, 0, 0)


async def test_lines_on_one_counter_are_short_together(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await either_shop.add(3, "tee", "navy")
    await either_shop.add(2, "tee", "moss")
    await either_shop.shelf.set_stock(either_shop.bucket, "tee", 4)
    short = await refused(either_shop, CartShort, close(either_shop))
    # What the cart wants of the counter: neither line alone is too much.
    assert short.lines == [Shortage("tee/navy", 4, 5), Shortage("tee/moss", 4, 5)]
    await either_shop.shelf.set_stock(either_shop.bucket, "tee", 5)
    await close(either_shop)
    assert await books(either_shop, "tee") == (0, 0, 5)


async def test_held_units_are_sold_without_a_question(either_shop: Shop) -> None:
    await either_shop.sell(stock=4, stock_policy="hold")
    await either_shop.add(4)
    await either_shop.sell(stock=4, stock_policy="hold", active=False)
    await close(either_shop)
    assert await books(either_shop) == (0, 0, 4)


async def test_held_units_of_a_product_that_left_are_sold(either_shop: Shop) -> None:
    await either_shop.sell(stock=4, stock_policy="hold")
    await either_shop.add(3)
    await either_shop.redis.hdel("catalogue:{default:0}", LAMP)
    await close(either_shop)
    assert await books(either_shop) == (1, 0, 3)


@pytest.mark.parametrize("policy", ["check", "untracked"])
async def test_what_is_not_held_is_decided_as_an_add_is(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock_policy=policy)
    await either_shop.add(3)
    await either_shop.sell(stock_policy=policy, active=False)
    await refused(either_shop, InactiveProduct, close(either_shop))
    await either_shop.redis.hdel("catalogue:{default:0}", LAMP)
    await refused(either_shop, UnknownProduct, close(either_shop))
    assert (await close(either_shop, "ABANDONED")).status == "ABANDONED"


async def test_saved_lines_are_not_sold(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5)
    await either_shop.sell(MUG, stock=5)
    await either_shop.add(2, LAMP)
    await either_shop.add(3, MUG)
    await save(either_shop, MUG)
    cart = await close(either_shop)
    assert units(cart) == {LAMP: 2}
    assert await books(either_shop, LAMP) == (3, 0, 2)
    assert await books(either_shop, MUG) == (5, 0, 0)


async def test_saved_lines_stay_with_the_owner_of_a_converted_cart(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG, price="10.00")
    await either_shop.add(3, MUG)
    await save(either_shop, MUG)
    await either_shop.add(2, LAMP)
    await either_shop.sell(MUG, price="9.00")
    sold = await close(either_shop)
    cart = await read(either_shop)
    assert (cart.id, cart.version, cart.total_quantity) == (sold.id + 256, 1, 0)
    [line] = cart.lines
    assert (line.sku, line.quantity, line.saved, line.price_minor) == (MUG, 3, True, 900)
    assert units(await take_back(either_shop, MUG)) == {MUG: 3}
    assert await either_shop.store.find(either_shop.bucket, sold.id) == sold
    await books(either_shop)


async def test_a_cart_of_nothing_is_converted_too(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await save(either_shop)
    cart = await close(either_shop)
    assert (cart.status, cart.lines) == ("CONVERTED", [])
    assert units(await read(either_shop)) == {LAMP: 1}
    await remove(either_shop)
    cart = await close(either_shop)
    assert (cart.id, cart.status, cart.lines) == (512, "CONVERTED", [])
    assert await books(either_shop) == (100, 0, 0)
    await refused(either_shop, NoCart, read(either_shop))


async def test_a_cart_that_lost_a_line_is_told_before_it_is_sold(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG, stock=5)
    await either_shop.add(3, LAMP)
    await either_shop.add(2, MUG)
    either_shop.clock.ms += HOLD_MS
    with pytest.raises(CartChanged) as changed:
        await close(either_shop)
    assert changed.value.notices == (Notice(LAMP, 3, "hold_expired"),)
    assert await books(either_shop, MUG) == (5, 0, 0)
    cart = await close(either_shop)
    assert (cart.status, units(cart), cart.notices) == ("CONVERTED", {MUG: 2}, ())
    assert await books(either_shop, LAMP) == (5, 0, 0)
    assert await books(either_shop, MUG) == (3, 0, 2)


async def test_a_cart_that_lost_a_line_is_told_before_it_is_short(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock_policy="hold")
    await either_shop.sell(MUG, stock=5)
    await either_shop.add(3, LAMP)
    await either_shop.add(3, MUG)
    await either_shop.shelf.set_stock(either_shop.bucket, MUG, 1)
    either_shop.clock.ms += HOLD_MS
    with pytest.raises(CartChanged) as changed:
        await close(either_shop)
    assert changed.value.notices == (Notice(LAMP, 3, "hold_expired"),)
    error = await refused(either_shop, CartShort, close(either_shop))
    assert error.notices == ()


async def test_a_cart_that_lost_its_only_line_is_told_before_it_is_closed(
    either_shop: Shop,
) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    with pytest.raises(CartChanged) as changed:
        await close(either_shop)
    assert changed.value.notices == (Notice(LAMP, 3, "hold_expired"),)
    assert (await close(either_shop)).lines == []


async def test_a_cart_that_lost_a_line_is_given_up_all_the_same(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    cart = await close(either_shop, "ABANDONED")
    assert (cart.status, cart.notices) == ("ABANDONED", (Notice(LAMP, 3, "hold_expired"),))
    assert await books(either_shop) == (5, 0, 0)


async def test_a_closed_cart_waits_to_be_flushed(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    either_shop.clock.ms += 1_000
    await close(either_shop)
    [(key, since)] = await either_shop.redis.zrange("dirty:{default:0}", 0, -1, withscores=True)
    assert key.startswith(b"closed:{default:0}:")
    assert key.endswith(b":session:ann")
    assert since == NOW_MS + 1_000
    await books(either_shop)
