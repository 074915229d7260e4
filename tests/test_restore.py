"""Carts that come back from PostgreSQL, on a real server and on fakeredis."""

import pytest

from cartsvc.errors import (
    NoCart,
)
from cartsvc.model import (
    ClosedStatus,
    Notice,
)
from tests.carts import (
    BOB,
    GUEST,
    HOLD_MS,
    USER,
    add,
    books,
    close,
    item,
    lose,
    read,
    refused,
    remove,
    save,
    unchanged,
    units,
)
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop


async def test_restore_puts_a_cart_back(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy="hold")
    await either_shop.sell(MUG, price="1.50", variants=[("blue", None)])
    await either_shop.add(2, MUG, "blue")
    await either_shop.add(3, LAMP)
    await either_shop.add(1, MUG)
    cart = await save(either_shop, MUG)
    await lose(either_shop)
    await either_shop.sell(LAMP, stock=10, stock_policy="hold")
    await either_shop.sell(MUG, price="1.50", variants=[("blue", None)])
    either_shop.clock.ms += 1_000
    assert await either_shop.store.restore(either_shop.bucket, cart) == cart
    assert await read(either_shop) == cart
    assert await books(either_shop) == (7, 3, 0)
    assert await either_shop.redis.exists("dirty:{default:0}") == 0


async def test_a_restored_line_has_the_price_of_today(either_shop: Shop) -> None:
    await either_shop.sell(price="10.00")
    cart = await either_shop.add(2)
    await lose(either_shop)
    await either_shop.sell(price="20.00")
    restored = await either_shop.store.restore(either_shop.bucket, cart)
    assert (restored.version, restored.lines[0].price_minor) == (cart.version + 1, 2000)
    assert await either_shop.redis.xlen("prices:{default:0}") == 1
    assert await either_shop.redis.zcard("dirty:{default:0}") == 1


async def test_ids_of_new_carts_are_above_those_of_restored_ones(either_shop: Shop) -> None:
    await either_shop.sell()
    for owner in (USER, GUEST, ANN):
        cart = await add(either_shop, owner)
    await lose(either_shop)
    await either_shop.sell()
    await either_shop.store.restore(either_shop.bucket, cart)
    assert (await add(either_shop, BOB)).id == cart.id + 256


async def test_restore_takes_a_hold_again_until_its_old_deadline(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    cart = await either_shop.add(3)
    await lose(either_shop)
    await either_shop.sell(stock=10, stock_policy="hold")
    either_shop.clock.ms += HOLD_MS - 1
    restored = await either_shop.store.restore(either_shop.bucket, cart)
    assert restored.lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop) == (7, 3, 0)
    either_shop.clock.ms += 1
    assert (await read(either_shop)).notices == (Notice(LAMP, 3, "hold_expired"),)
    assert await books(either_shop) == (10, 0, 0)


async def test_the_cart_in_redis_stays(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    old = await either_shop.add(3)
    cart = await either_shop.add(2)
    restore = either_shop.store.restore(either_shop.bucket, old)
    assert await unchanged(either_shop, restore) == cart
    await lose(either_shop)
    await either_shop.sell(stock=10, stock_policy="hold")
    await add(either_shop, BOB)
    other = await either_shop.add(1)
    restore = either_shop.store.restore(either_shop.bucket, old)
    assert await unchanged(either_shop, restore) == other


async def test_a_restored_cart_goes_on_where_it_was(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, LAMP)
    await either_shop.add(1, MUG)
    cart = await remove(either_shop, MUG)
    await lose(either_shop)
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.store.restore(either_shop.bucket, cart)
    cart = await either_shop.add(1, MUG)
    assert (cart.id, cart.version, cart.last_line) == (256, 4, 3)
    assert [(line.number, line.sku) for line in cart.lines] == [(1, LAMP), (3, MUG)]
    await books(either_shop)


async def test_a_restored_line_can_be_removed_by_its_item_id(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    cart = await either_shop.add(3)
    await lose(either_shop)
    await either_shop.sell(stock=10, stock_policy="hold")
    await either_shop.store.restore(either_shop.bucket, cart)
    assert (await remove(either_shop, item(cart, cart.lines[0]))).lines == []
    assert await books(either_shop) == (10, 0, 0)


async def test_a_line_whose_units_have_gone_is_left_out(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id, stock=10, stock_policy="hold")
        cart = await either_shop.add(3, product_id)
    await lose(either_shop)
    await either_shop.sell("a", stock=2, stock_policy="hold")
    await either_shop.sell("b", stock=3, stock_policy="hold")
    either_shop.clock.ms += 1_000
    restored = await either_shop.store.restore(either_shop.bucket, cart)
    assert (restored.version, restored.updated_ms) == (4, NOW_MS + 1_000)
    assert (units(restored), restored.last_line) == ({"b": 3}, 3)
    told = (Notice("a", 3, "hold_expired"), Notice("c", 3, "hold_expired"))
    assert restored.notices == told
    assert (await read(either_shop)).notices == told
    assert await books(either_shop, "a") == (2, 0, 0)
    assert await books(either_shop, "b") == (0, 3, 0)
    assert await either_shop.redis.zcard("dirty:{default:0}") == 1


async def test_restore_waits_for_no_sweep(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold", hold_ttl_s=1_200)
    await add(either_shop, USER)
    cart = await either_shop.add(3)
    await lose(either_shop)
    await either_shop.sell(stock=5, stock_policy="hold")
    await add(either_shop, BOB, 4)
    either_shop.clock.ms += HOLD_MS
    assert units(await either_shop.store.restore(either_shop.bucket, cart)) == {LAMP: 3}
    assert await books(either_shop) == (2, 3, 0)


async def test_restored_lines_share_what_is_free(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", None)]
    await either_shop.sell("tee", stock=6, stock_policy="hold", variants=variants)
    await either_shop.add(3, "tee", "navy")
    cart = await either_shop.add(3, "tee", "moss")
    await lose(either_shop)
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=variants)
    restored = await either_shop.store.restore(either_shop.bucket, cart)
    assert units(restored) == {"tee/navy": 3}
    assert await books(either_shop, "tee") == (2, 3, 0)


async def test_a_line_whose_deadline_has_passed_is_left_out(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy="hold")
    await either_shop.sell(MUG)
    await either_shop.add(3, LAMP)
    cart = await either_shop.add(1, MUG)
    await lose(either_shop)
    await either_shop.sell(LAMP, stock=10, stock_policy="hold")
    either_shop.clock.ms += HOLD_MS
    restored = await either_shop.store.restore(either_shop.bucket, cart)
    assert (restored.version, units(restored)) == (3, {MUG: 1})
    assert restored.notices == (Notice(LAMP, 3, "hold_expired"),)
    assert await books(either_shop) == (10, 0, 0)


@pytest.mark.parametrize("status", ["CONVERTED", "REMOVED"])
async def test_a_closed_cart_stays_closed(either_shop: Shop, status: ClosedStatus) -> None:
    await either_shop.sell(stock_policy="hold")
    cart = await either_shop.add(3)
    await close(either_shop, status)
    await refused(either_shop, NoCart, either_shop.store.restore(either_shop.bucket, cart))
