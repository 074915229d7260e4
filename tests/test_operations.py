"""The operations on lines, and reading: the same cases on a real server and on fakeredis."""

from collections.abc import Awaitable, Callable

import pytest

from cartsvc import model
from cartsvc.errors import (
    BelowMinimum,
    CartFull,
    CartSpent,
    InactiveProduct,
    NoCart,
    NoLine,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.model import (
    Notice,
)
from tests.carts import (
    BOB,
    GUEST,
    HOLD_MS,
    POLICIES,
    USER,
    add,
    books,
    close,
    item,
    merge,
    put,
    read,
    refused,
    remove,
    save,
    take_back,
    taken,
    unchanged,
    units,
)
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop

# -- set_quantity


@pytest.mark.parametrize("policy", POLICIES)
async def test_set_gives_a_line_another_quantity(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=10, stock_policy=policy)
    await either_shop.add(4)
    either_shop.clock.ms += 1_000
    more = await put(either_shop, 10)
    assert (more.version, more.updated_ms, units(more)) == (2, NOW_MS + 1_000, {LAMP: 10})
    assert await books(either_shop) == taken(policy, 10, 10)
    fewer = await put(either_shop, 1)
    assert (fewer.version, units(fewer)) == (3, {LAMP: 1})
    assert await books(either_shop) == taken(policy, 10, 1)


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_set_refuses_more_than_is_free(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=10, stock_policy=policy)
    await either_shop.add(4)
    error = await refused(either_shop, OutOfStock, put(either_shop, 11))
    assert (error.sku, error.free, error.in_cart) == (LAMP, 10, 4)


async def test_set_counts_no_stock_of_what_is_untracked(either_shop: Shop) -> None:
    await either_shop.sell(stock=0, stock_policy="untracked")
    await either_shop.add(4)
    assert units(await put(either_shop, 400)) == {LAMP: 400}
    assert await books(either_shop) == (0, 0, 0)


async def test_set_counts_other_lines_on_the_counter(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await either_shop.add(3, "tee", "navy")
    await either_shop.add(1, "tee", "moss")
    error = await refused(either_shop, OutOfStock, put(either_shop, 3, "tee/moss"))
    assert (error.sku, error.free, error.in_cart) == ("tee/moss", 5, 4)
    assert units(await put(either_shop, 2, "tee/moss")) == {"tee/navy": 3, "tee/moss": 2}


async def test_set_to_fewer_is_not_refused_for_stock(either_shop: Shop) -> None:
    await either_shop.sell(stock=10)
    await either_shop.add(5)
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 0)
    assert units(await put(either_shop, 4)) == {LAMP: 4}
    await either_shop.redis.hdel("stock:{default:0}", LAMP)
    assert units(await put(either_shop, 3)) == {LAMP: 3}


@pytest.mark.parametrize("policy", POLICIES)
async def test_set_to_fewer_of_an_inactive_product(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=10, stock_policy=policy)
    await either_shop.add(5)
    await either_shop.sell(stock=10, stock_policy=policy, active=False)
    await refused(either_shop, InactiveProduct, put(either_shop, 6))
    assert units(await put(either_shop, 2)) == {LAMP: 2}
    assert await books(either_shop) == taken(policy, 10, 2)


@pytest.mark.parametrize("policy", POLICIES)
async def test_set_to_fewer_of_a_variant_that_left(either_shop: Shop, policy: str) -> None:
    await either_shop.sell("tee", stock=9, stock_policy=policy, variants=[("navy", None)])
    await either_shop.add(5, "tee", "navy")
    await either_shop.sell("tee", stock=9, stock_policy=policy)
    await refused(either_shop, UnknownVariant, put(either_shop, 6, "tee/navy"))
    assert units(await put(either_shop, 2, "tee/navy")) == {"tee/navy": 2}
    assert await books(either_shop, "tee") == taken(policy, 9, 2)


@pytest.mark.parametrize("policy", POLICIES)
async def test_set_to_fewer_of_a_product_that_left(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=9, stock_policy=policy)
    await either_shop.add(5)
    await either_shop.redis.hdel("catalogue:{default:0}", LAMP)
    await refused(either_shop, UnknownProduct, put(either_shop, 6))
    assert units(await put(either_shop, 2)) == {LAMP: 2}
    assert await books(either_shop) == taken(policy, 9, 2)


async def test_set_finds_a_line_by_its_item_id(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, LAMP)
    cart = await either_shop.add(1, MUG)
    assert item(cart, cart.lines[1]) == "#256#2"
    assert units(await put(either_shop, 7, item(cart, cart.lines[1]))) == {LAMP: 1, MUG: 7}


@pytest.mark.parametrize("name", ["#256#2", "#512#1", "#256#", "nothing", ""])
async def test_set_knows_no_other_line(either_shop: Shop, name: str) -> None:
    await either_shop.sell()
    await either_shop.add()
    await add(either_shop, BOB)
    error = await refused(either_shop, NoLine, put(either_shop, 2, name))
    assert error.line == name


@pytest.mark.parametrize("policy", POLICIES)
async def test_set_to_the_same_changes_nothing(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await either_shop.add(5)
    await either_shop.sell(stock=5, stock_policy=policy, active=False)
    either_shop.clock.ms += 1_000
    cart = await unchanged(either_shop, put(either_shop, 5))
    assert (cart.version, units(cart)) == (1, {LAMP: 5})


async def test_set_of_a_saved_line_asks_no_stock(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    await save(either_shop)
    cart = await put(either_shop, 70)
    assert (cart.version, units(cart), cart.lines[0].saved) == (3, {LAMP: 70}, True)
    assert cart.total_quantity == 0
    assert await books(either_shop) == (5, 0, 0)
    await unchanged(either_shop, put(either_shop, 70))


@pytest.mark.parametrize("quantity", [2, 4])
async def test_set_takes_the_price_of_today(either_shop: Shop, quantity: int) -> None:
    await either_shop.sell(price="29.99")
    await either_shop.add(3)
    await either_shop.sell(price="24.50")
    assert (await put(either_shop, quantity)).lines[0].price_minor == 2450
    [(_, event)] = await either_shop.redis.xrange("prices:{default:0}")
    assert (event[b"version"], event[b"old"], event[b"new"]) == (b"2", b"2999", b"2450")


@pytest.mark.parametrize("quantity", ["0", "-1", "1e3", "1234567890"])
async def test_set_takes_only_whole_numbers(either_shop: Shop, quantity: str) -> None:
    await either_shop.sell()
    await either_shop.add()
    await refused(either_shop, OutcomeUnknown, put(either_shop, quantity))  # type: ignore[arg-type]


# -- remove and clear


@pytest.mark.parametrize("policy", POLICIES)
async def test_remove_takes_a_line_out(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy=policy)
    await either_shop.sell(MUG, stock=10, stock_policy=policy)
    await either_shop.add(2, LAMP)
    either_shop.clock.ms += 1_000
    await either_shop.add(3, MUG)
    cart = await remove(either_shop)
    assert (cart.version, units(cart), cart.last_line) == (3, {MUG: 3}, 2)
    assert await books(either_shop, LAMP) == (10, 0, 0)
    assert await books(either_shop, MUG) == taken(policy, 10, 3)


async def test_remove_takes_several_lines_or_one_named_twice(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id, stock=10, stock_policy="hold")
        cart = await either_shop.add(2, product_id)
    cart = await remove(either_shop, "a", item(cart, cart.lines[2]), "a", "#256#1")
    assert (cart.version, units(cart)) == (4, {"b": 2})
    assert await books(either_shop, "a") == (10, 0, 0)
    assert await books(either_shop, "c") == (10, 0, 0)


async def test_remove_takes_all_the_lines_or_none(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(2)
    error = await refused(either_shop, NoLine, remove(either_shop, LAMP, MUG))
    assert error.line == MUG
    error = await refused(either_shop, NoLine, remove(either_shop, "#512#1", LAMP))
    assert error.line == "#512#1"


async def test_remove_asks_no_catalogue(either_shop: Shop) -> None:
    await either_shop.sell(stock=9, stock_policy="hold")
    await either_shop.add(5)
    await either_shop.redis.hdel("catalogue:{default:0}", LAMP)
    assert (await remove(either_shop)).lines == []
    assert await books(either_shop) == (9, 0, 0)


async def test_a_line_that_comes_back_has_a_number_of_its_own(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(2)
    assert (await remove(either_shop)).lines == []
    cart = await either_shop.add(3)
    assert [(line.number, line.quantity) for line in cart.lines] == [(2, 3)]
    assert (cart.id, cart.version) == (256, 3)


@pytest.mark.parametrize("policy", POLICIES)
async def test_clear_takes_every_line_out(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy=policy)
    await either_shop.sell(MUG, stock=10, stock_policy=policy)
    await either_shop.add(2, LAMP)
    await either_shop.add(3, MUG)
    await save(either_shop, MUG)
    cart = await either_shop.store.clear(either_shop.bucket, ANN)
    assert (cart.id, cart.status, cart.version, cart.lines) == (256, "ACTIVE", 4, [])
    assert cart.last_line == 2
    assert await books(either_shop, LAMP) == (10, 0, 0)


async def test_clear_of_an_empty_cart_changes_nothing(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await remove(either_shop)
    cart = await unchanged(either_shop, either_shop.store.clear(either_shop.bucket, ANN))
    assert (cart.version, cart.lines) == (2, [])


# -- save_for_later and take_back


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_saved_line_stays_and_holds_nothing(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await either_shop.add(5)
    cart = await save(either_shop)
    line = cart.lines[0]
    assert (cart.version, line.number, line.quantity, line.saved) == (2, 1, 5, True)
    assert (line.held_until_ms, cart.total_quantity, cart.total_minor) == (None, 0, 0)
    assert cart.in_order == []
    assert await books(either_shop) == (5, 0, 0)
    await unchanged(either_shop, save(either_shop))


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_saved_line_comes_back(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await either_shop.add(5)
    await save(either_shop)
    either_shop.clock.ms += 1_000
    cart = await take_back(either_shop)
    line = cart.lines[0]
    assert (cart.version, line.number, line.quantity, line.saved) == (3, 1, 5, False)
    assert line.held_until_ms == (NOW_MS + 1_000 + HOLD_MS if policy == "hold" else None)
    assert await books(either_shop) == taken(policy, 5, 5)
    await unchanged(either_shop, take_back(either_shop))


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_a_saved_line_comes_back_only_if_there_is_stock(
    either_shop: Shop, policy: str
) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    cart = await either_shop.add(5)
    await save(either_shop)
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 4)
    line = item(cart, cart.lines[0])
    error = await refused(either_shop, OutOfStock, take_back(either_shop, line))
    assert (error.sku, error.free, error.in_cart) == (LAMP, 4, 0)


async def test_a_saved_line_comes_back_only_if_it_is_sold(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(2)
    await save(either_shop)
    await either_shop.sell(active=False)
    await refused(either_shop, InactiveProduct, take_back(either_shop))
    await either_shop.sell(min_per_order=3)
    error = await refused(either_shop, BelowMinimum, take_back(either_shop))
    assert error.min_units == 3


async def test_saved_units_leave_room_for_others(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await either_shop.add(5, "tee", "navy")
    await save(either_shop, "tee/navy")
    cart = await either_shop.add(5, "tee", "moss")
    assert cart.total_quantity == 5
    await refused(either_shop, OutOfStock, take_back(either_shop, "tee/navy"))


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_add_brings_saved_units_back(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await either_shop.add(3)
    await save(either_shop)
    cart = await either_shop.add(2)
    assert [(line.number, line.quantity, line.saved) for line in cart.lines] == [(1, 5, False)]
    assert await books(either_shop) == taken(policy, 5, 5)


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_an_add_counts_saved_units(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await either_shop.add(4)
    await save(either_shop)
    await refused(either_shop, OutOfStock, either_shop.add(2))


async def test_a_saved_line_counts_for_the_cap(either_shop: Shop) -> None:
    either_shop.store.max_lines = 1
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, LAMP)
    await save(either_shop)
    await refused(either_shop, CartFull, either_shop.add(1, MUG))


@pytest.mark.parametrize("name", [MUG, "#512#1"])
async def test_save_knows_no_other_line(either_shop: Shop, name: str) -> None:
    await either_shop.sell()
    await either_shop.add()
    assert (await refused(either_shop, NoLine, save(either_shop, name))).line == name
    assert (await refused(either_shop, NoLine, take_back(either_shop, name))).line == name


# -- read and find


async def test_read_changes_nothing(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    added = await either_shop.add(3)
    either_shop.clock.ms += 1_000
    assert await unchanged(either_shop, read(either_shop)) == added


async def test_read_tells_a_notice_once(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    cart = await read(either_shop)
    assert (cart.version, cart.lines) == (2, [])
    assert cart.notices == (Notice(LAMP, 3, "hold_expired"),)
    assert (await read(either_shop)).notices == ()
    assert await books(either_shop) == (5, 0, 0)


async def test_without_a_cart_there_is_nothing_to_do(either_shop: Shop) -> None:
    await either_shop.sell()
    shop, store, bucket = either_shop, either_shop.store, either_shop.bucket
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: put(shop, 1),
        lambda: remove(shop),
        lambda: store.clear(bucket, ANN),
        lambda: save(shop),
        lambda: take_back(shop),
        lambda: read(shop),
        lambda: close(shop),
        lambda: close(shop, "REMOVED"),
        lambda: merge(shop),
        lambda: store.find(bucket, 256),
    ]
    for call in calls:
        await refused(shop, NoCart, call())


async def test_no_cart_is_found_in_a_bucket_that_is_not_warm(either_shop: Shop) -> None:
    await either_shop.sell()
    cart = await either_shop.add(2)
    await either_shop.redis.delete("seq:{default:0}")
    store, bucket = either_shop.store, either_shop.bucket
    await refused(either_shop, NotWarm, store.find(bucket, cart.id))
    await refused(either_shop, NotWarm, store.peek(bucket, ANN))


async def test_nothing_is_done_in_a_bucket_that_is_not_warm(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    cart = await either_shop.add(2)
    await add(either_shop, GUEST)
    await either_shop.redis.delete("seq:{default:0}")
    either_shop.clock.ms += HOLD_MS
    shop, store, bucket = either_shop, either_shop.store, either_shop.bucket
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: put(shop, 1),
        lambda: remove(shop),
        lambda: store.clear(bucket, ANN),
        lambda: save(shop),
        lambda: take_back(shop),
        lambda: read(shop),
        lambda: close(shop),
        lambda: merge(shop),
        lambda: store.find(bucket, cart.id),
        lambda: store.restore(bucket, cart),
        lambda: store.release(bucket, [bucket.cart(ANN)]),
        lambda: store.release_held(bucket, ANN),
        lambda: shop.shelf.stock(bucket, LAMP),
    ]
    for call in calls:
        await refused(shop, NotWarm, call())


async def test_find_gives_an_active_cart_and_its_owner(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(1)
    cart = await add(either_shop, USER, 2)
    found = await unchanged(either_shop, either_shop.store.find(either_shop.bucket, cart.id))
    assert found == cart
    assert (found.id, found.owner) == (512, USER)


async def test_find_gives_a_closed_cart_and_its_owner(either_shop: Shop) -> None:
    await either_shop.sell()
    cart = await add(either_shop, USER, 2)
    closed = await close(either_shop, owner=USER)
    found = await either_shop.store.find(either_shop.bucket, cart.id)
    assert found == closed
    assert (found.owner, found.status, found.version) == (USER, "CONVERTED", 2)
    assert units(found) == {LAMP: 2}


async def test_find_tells_the_owner_nothing(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    cart = await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    await either_shop.store.release(either_shop.bucket, [either_shop.bucket.cart(ANN)])
    told = (Notice(LAMP, 3, "hold_expired"),)
    find = either_shop.store.find(either_shop.bucket, cart.id)
    assert (await unchanged(either_shop, find)).notices == told
    assert (await read(either_shop)).notices == told


async def test_find_knows_no_other_cart(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await refused(either_shop, NoCart, either_shop.store.find(either_shop.bucket, 512))


async def test_a_cart_knows_its_lines_by_item_id(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, LAMP)
    cart = await either_shop.add(2, MUG)
    assert cart.line(model.item_id(cart.id, 2)) == cart.lines[1]
    assert cart.line(model.item_id(cart.id, 3)) is None
    assert cart.line(model.item_id(cart.id + 256, 2)) is None


# -- line numbers


async def test_a_cart_gives_4095_line_numbers(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id)
    await either_shop.add(1, "a")
    await either_shop.redis.hset("cart:{default:0}:session:ann", "last_line", 4094)
    cart = await either_shop.add(1, "b")
    assert [line.number for line in cart.lines] == [1, 4095]
    last = model.item_id(cart.id, 4095)
    line = cart.line(last)
    assert line is not None
    assert line.sku == "b"
    error = await refused(either_shop, CartSpent, either_shop.add(1, "c"))
    assert error.max_line == 4095
    assert units(await either_shop.add(1, "b")) == {"a": 1, "b": 2}
    await remove(either_shop, "b")
    await refused(either_shop, CartSpent, either_shop.add(1, "b"))
