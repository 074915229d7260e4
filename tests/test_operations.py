"""The operations beside add: the same cases on a real server and on fakeredis."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from cartsvc import model
from cartsvc.errors import (
    BelowMinimum,
    CartChanged,
    CartError,
    CartFull,
    CartShort,
    CartSpent,
    EmptyCart,
    InactiveProduct,
    NoCart,
    NoCounter,
    NoLine,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.model import (
    Cart,
    ClosedStatus,
    Line,
    LineRequest,
    Merged,
    Notice,
    Owner,
    Shortage,
    Unmerged,
)
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop

BOB = Owner("session", "bob")
GUEST = Owner("session", "guest")
USER = Owner("user", "42")
HOLD_MS = 600_000
POLICIES = ["check", "hold", "untracked"]

Error = TypeVar("Error", bound=CartError)


async def add(
    shop: Shop,
    owner: Owner,
    quantity: int = 1,
    product_id: str = LAMP,
    variant_id: str | None = None,
) -> Cart:
    return await shop.add_lines(LineRequest(product_id, quantity, variant_id), owner=owner)


async def put(shop: Shop, quantity: int, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.set_quantity(shop.bucket, owner, line, quantity)


async def remove(shop: Shop, line: str = LAMP, *more: str, owner: Owner = ANN) -> Cart:
    return await shop.store.remove(shop.bucket, owner, line, *more)


async def save(shop: Shop, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.save_for_later(shop.bucket, owner, line)


async def take_back(shop: Shop, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.take_back(shop.bucket, owner, line)


async def read(shop: Shop, owner: Owner = ANN) -> Cart:
    return await shop.store.read(shop.bucket, owner)


async def merge(shop: Shop) -> Merged:
    return await shop.store.merge(shop.bucket, GUEST, USER)


async def close(
    shop: Shop, status: ClosedStatus = "CONVERTED", owner: Owner = ANN, cart_id: int | None = None
) -> Cart:
    return await shop.store.close(shop.bucket, owner, status, cart_id=cart_id)


def units(cart: Cart) -> dict[str, int]:
    return {line.sku: line.quantity for line in cart.lines}


def item(cart: Cart, line: Line) -> str:
    return model.line_name(model.item_id(cart.id, line.number))


async def refused(shop: Shop, kind: type[Error], call: Awaitable[object]) -> Error:
    """The error with which `call` is refused, and by which nothing is changed."""
    before = await shop.everything()
    with pytest.raises(kind) as refusal:
        await call
    assert await shop.everything() == before
    return refusal.value


async def unchanged(shop: Shop, call: Awaitable[Cart]) -> Cart:
    """What `call` gives, and by which nothing is changed."""
    before = await shop.everything()
    cart = await call
    assert await shop.everything() == before
    return cart


async def books(shop: Shop, counter: str = LAMP) -> tuple[int, int, int]:
    """Units free, held and sold; and what else is kept about carts agrees with them."""
    await sound(shop)
    level = await shop.shelf.stock(shop.bucket, counter)
    assert level
    return level.free, level.held, level.sold


def taken(policy: str, stock: int, quantity: int) -> tuple[int, int, int]:
    """The books when a cart has `quantity` of `stock`."""
    return (stock - quantity, quantity, 0) if policy == "hold" else (stock, 0, 0)


async def sound(shop: Shop) -> None:
    """Nothing is lost or made up in the books, and every index says what the carts say."""
    everything = {key.decode(): value for key, value in (await shop.everything()).items()}
    stock, held, sold, received = (
        {counter.decode(): int(number) for counter, number in everything.get(key, {}).items()}
        for key in (shop.bucket.stock, shop.bucket.held, shop.bucket.sold, shop.bucket.received)
    )
    for counter, number in received.items():
        assert min(stock[counter], held.get(counter, 0), sold.get(counter, 0)) >= 0
        assert stock[counter] + held.get(counter, 0) + sold.get(counter, 0) == number
    seen = _Seen(Counter(), {}, set(), set(), {})
    for key, fields in everything.items():
        if key.startswith(("cart:", "closed:")):
            _see(seen, key, {name.decode(): value.decode() for name, value in fields.items()})
    assert Counter(held) == seen.held
    assert _scores(everything, shop.bucket.holds) == seen.holds
    assert set(_scores(everything, shop.bucket.holds_by_sku)) == seen.holds_by_sku
    assert set(_scores(everything, shop.bucket.holders)) == seen.holders
    places = everything.get(shop.bucket.carts, {})
    assert {number.decode(): place.decode() for number, place in places.items()} == seen.carts


@dataclass
class _Seen:
    held: Counter[str]
    holds: dict[str, float]
    holds_by_sku: set[str]
    holders: set[str]
    carts: dict[str, str]


def _see(seen: _Seen, key: str, cart: dict[str, str]) -> None:
    active = key.startswith("cart:")
    assert (cart["status"] == "ACTIVE") == active
    seen.carts[cart["id"]] = key
    skus = {name[2:] for name in cart if name.startswith("l:")}
    assert int(cart["lines"]) == len(skus)
    for kind in ("q", "s", "h"):
        assert {name[2:] for name in cart if name.startswith(f"{kind}:")} <= skus
    for sku in skus:
        assert (f"q:{sku}" in cart) != (f"s:{sku}" in cart)
        if active:
            seen.holders.add(f"{sku} {key}")
        if f"h:{sku}" in cart:
            deadline, counter = cart[f"h:{sku}"].split(" ")
            seen.held[counter] += int(cart[f"q:{sku}"])
            seen.holds_by_sku.add(f"{counter} {deadline} {sku} {key}")
            seen.holds[key] = min(seen.holds.get(key, int(deadline)), int(deadline))
    assert cart.get("due") == (str(seen.holds[key]) if key in seen.holds else None)


def _scores(everything: dict[str, Any], key: str) -> dict[str, float]:
    return {name.decode(): score for name, score in everything.get(key, [])}


async def lose(shop: Shop) -> None:
    """Redis forgets all that it had."""
    await shop.redis.flushall()
    await shop.open()


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


async def test_find_item_gives_the_line_and_its_cart(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, LAMP)
    cart = await either_shop.add(2, MUG)
    item_id = model.item_id(cart.id, 2)
    found, line = await either_shop.store.find_item(either_shop.bucket, item_id)
    assert (found, line) == (cart, cart.lines[1])
    closed = await close(either_shop)
    found, line = await either_shop.store.find_item(either_shop.bucket, item_id)
    assert (found, line.sku, line.quantity) == (closed, MUG, 2)


async def test_find_item_knows_no_other_line(either_shop: Shop) -> None:
    await either_shop.sell()
    cart = await either_shop.add()
    find_item, bucket = either_shop.store.find_item, either_shop.bucket
    error = await refused(either_shop, NoLine, find_item(bucket, model.item_id(cart.id, 2)))
    assert error.line == "#256#2"
    await refused(either_shop, NoCart, find_item(bucket, model.item_id(512, 1)))


# -- merge


@pytest.mark.parametrize("policy", POLICIES)
async def test_merge_adds_up_what_both_have(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(LAMP, stock=10, stock_policy=policy)
    await either_shop.sell(MUG, stock=10, stock_policy=policy)
    await add(either_shop, USER, 2)
    await add(either_shop, GUEST, 3)
    await add(either_shop, GUEST, 4, MUG)
    merged = await merge(either_shop)
    assert merged.unmerged == []
    assert (merged.cart.id, merged.cart.owner, merged.cart.version) == (256, USER, 2)
    assert [(line.number, line.sku, line.quantity) for line in merged.cart.lines] == [
        (1, LAMP, 5),
        (2, MUG, 4),
    ]
    assert await books(either_shop, LAMP) == taken(policy, 10, 5)
    assert await books(either_shop, MUG) == taken(policy, 10, 4)


async def test_merge_makes_a_cart_where_the_owner_has_none(either_shop: Shop) -> None:
    await either_shop.sell()
    guest = await add(either_shop, GUEST, 3)
    merged = await merge(either_shop)
    assert (merged.cart.id, merged.cart.version, units(merged.cart)) == (512, 1, {LAMP: 3})
    assert guest.id == 256
    assert merged.cart == await read(either_shop, USER)


async def test_merge_closes_the_guests_cart(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    guest = await add(either_shop, GUEST, 3)
    await merge(either_shop)
    await refused(either_shop, NoCart, read(either_shop, GUEST))
    found = await either_shop.store.find(either_shop.bucket, guest.id)
    assert (found.owner, found.status, found.version) == (GUEST, "REMOVED", 2)
    assert (units(found), found.lines[0].held_until_ms) == ({LAMP: 3}, None)
    dirty = await either_shop.redis.zrange("dirty:{default:0}", 0, -1)
    assert sorted(key.decode().partition(":")[0] for key in dirty) == ["cart", "closed"]


async def test_a_second_merge_changes_nothing(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    await add(either_shop, GUEST, 3)
    first = await merge(either_shop)
    before = await either_shop.everything()
    second = await merge(either_shop)
    assert await either_shop.everything() == before
    assert (second.cart, second.unmerged) == (first.cart, [])


async def test_merge_goes_as_far_as_the_stock(either_shop: Shop) -> None:
    await either_shop.sell(stock=10)
    await add(either_shop, USER, 4)
    await add(either_shop, GUEST, 5)
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 7)
    merged = await merge(either_shop)
    assert units(merged.cart) == {LAMP: 7}
    assert merged.unmerged == [Unmerged(LAMP, 5, 3, "OUT_OF_STOCK")]
    assert await books(either_shop) == (7, 0, 0)


async def test_what_the_guest_held_is_the_owners_though_nothing_is_free(either_shop: Shop) -> None:
    await either_shop.sell(stock=9, stock_policy="hold")
    await add(either_shop, USER, 4)
    await add(either_shop, GUEST, 5)
    merged = await merge(either_shop)
    assert (units(merged.cart), merged.unmerged) == ({LAMP: 9}, [])
    assert await books(either_shop) == (0, 9, 0)


async def test_merge_moves_nothing_where_nothing_is_free(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=10)
    await either_shop.sell(MUG, stock=10)
    await add(either_shop, USER, 4)
    await add(either_shop, GUEST, 5)
    await add(either_shop, GUEST, 1, MUG)
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 2)
    merged = await merge(either_shop)
    assert units(merged.cart) == {LAMP: 4, MUG: 1}
    assert merged.unmerged == [Unmerged(LAMP, 5, 0, "OUT_OF_STOCK")]


async def test_merge_adds_up_lines_on_one_counter(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await add(either_shop, USER, 2, "tee", "navy")
    await add(either_shop, GUEST, 2, "tee", "navy")
    await add(either_shop, GUEST, 3, "tee", "moss")
    merged = await merge(either_shop)
    assert units(merged.cart) == {"tee/navy": 4, "tee/moss": 1}
    assert merged.unmerged == [Unmerged("tee/moss", 3, 1, "OUT_OF_STOCK")]


@pytest.mark.parametrize("limit", ["max_per_order", "max_per_buyer"])
async def test_merge_gives_back_what_is_over_a_limit(either_shop: Shop, limit: str) -> None:
    rule: dict[str, Any] = {limit: 4}
    await either_shop.sell(stock=10, stock_policy="hold", **rule)
    await add(either_shop, USER, 3)
    await add(either_shop, GUEST, 3)
    assert await books(either_shop) == (4, 6, 0)
    merged = await merge(either_shop)
    reason = "ORDER_LIMIT" if limit == "max_per_order" else "BUYER_LIMIT"
    assert units(merged.cart) == {LAMP: 4}
    assert merged.unmerged == [Unmerged(LAMP, 3, 1, reason)]
    assert await books(either_shop) == (6, 4, 0)


async def test_merge_counts_what_the_owner_ordered(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold", max_per_buyer=4)
    await add(either_shop, USER, 3)
    await close(either_shop, owner=USER)
    await add(either_shop, GUEST, 4)
    merged = await merge(either_shop)
    assert merged.unmerged == [Unmerged(LAMP, 4, 1, "BUYER_LIMIT")]
    assert await books(either_shop) == (6, 1, 3)


async def test_merge_keeps_the_cap(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id, stock=10, stock_policy="hold")
    await add(either_shop, USER, 1, "a")
    for product_id in ("b", "a", "c"):
        await add(either_shop, GUEST, 2, product_id)
    either_shop.store.max_lines = 2
    merged = await merge(either_shop)
    assert units(merged.cart) == {"a": 3, "b": 2}
    assert merged.unmerged == [Unmerged("c", 2, 0, "CART_FULL")]
    assert await books(either_shop, "c") == (10, 0, 0)


async def test_merge_gives_no_line_number_beyond_the_last(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await add(either_shop, USER, 1, MUG)
    await either_shop.redis.hset("cart:{default:0}:user:42", "last_line", 4095)
    await add(either_shop, GUEST, 2, LAMP)
    await add(either_shop, GUEST, 2, MUG)
    merged = await merge(either_shop)
    assert units(merged.cart) == {MUG: 3}
    assert merged.unmerged == [Unmerged(LAMP, 2, 0, "CART_SPENT")]


async def test_merge_leaves_what_is_not_sold_any_more(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.sell("tee", variants=[("navy", None)])
    await add(either_shop, GUEST, 2, LAMP)
    await add(either_shop, GUEST, 3, MUG)
    await add(either_shop, GUEST, 4, "tee", "navy")
    await either_shop.sell(LAMP, active=False)
    await either_shop.redis.hdel("catalogue:{default:0}", MUG)
    await either_shop.sell("tee")
    merged = await merge(either_shop)
    assert merged.cart.lines == []
    assert merged.unmerged == [
        Unmerged(LAMP, 2, 0, "INACTIVE_PRODUCT"),
        Unmerged(MUG, 3, 0, "UNKNOWN_PRODUCT"),
        Unmerged("tee/navy", 4, 0, "UNKNOWN_VARIANT"),
    ]


async def test_merge_moves_what_is_held_of_an_inactive_product(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    await add(either_shop, GUEST, 3)
    await either_shop.sell(stock=10, stock_policy="hold", active=False)
    merged = await merge(either_shop)
    assert (units(merged.cart), merged.unmerged) == ({LAMP: 3}, [])
    assert await books(either_shop) == (7, 3, 0)


async def test_merge_moves_a_hold_with_its_deadline(either_shop: Shop) -> None:
    await either_shop.sell(stock=3, stock_policy="hold")
    await add(either_shop, GUEST, 3)
    either_shop.clock.ms += 1_000
    merged = await merge(either_shop)
    assert merged.cart.lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop) == (0, 3, 0)


@pytest.mark.parametrize("first", [GUEST, USER])
async def test_a_hold_of_the_owners_line_keeps_its_deadline(
    either_shop: Shop, first: Owner
) -> None:
    await either_shop.sell(stock_policy="hold")
    await add(either_shop, first)
    either_shop.clock.ms += 1_000
    await add(either_shop, GUEST if first == USER else USER)
    theirs = NOW_MS + HOLD_MS + (0 if first == USER else 1_000)
    merged = await merge(either_shop)
    assert merged.cart.lines[0].held_until_ms == theirs
    assert await books(either_shop) == (98, 2, 0)


async def test_a_hold_gives_its_deadline_to_a_line_that_has_none(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop, USER, 2)
    await either_shop.sell(stock_policy="hold")
    await add(either_shop, GUEST)
    either_shop.clock.ms += 1_000
    merged = await merge(either_shop)
    assert merged.cart.lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop) == (97, 3, 0)


@pytest.mark.parametrize("own", [2, 0, None])
async def test_what_is_held_moves_though_the_catalogue_changed(
    either_shop: Shop, own: int | None
) -> None:
    """The variant has a counter of its own by now, with less, or has left."""
    await either_shop.sell("tee", stock=5, variants=[("s", None)], stock_policy="hold")
    await add(either_shop, GUEST, 3, "tee", "s")
    variants = [] if own is None else [("s", own)]
    await either_shop.sell("tee", stock=5, variants=variants, stock_policy="hold")
    merged = await merge(either_shop)
    assert (units(merged.cart), merged.unmerged) == ({"tee/s": 3}, [])
    assert merged.cart.lines[0].name == "Aurora Desk Lamp"
    assert await books(either_shop, "tee") == (2, 3, 0)
    await close(either_shop, owner=USER)
    assert await books(either_shop, "tee") == (2, 0, 3)


async def test_merge_guesses_no_counter(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop, GUEST, 2)
    await either_shop.redis.hdel("stock:{default:0}", LAMP)
    await refused(either_shop, NoCounter, merge(either_shop))


async def test_a_price_on_its_way_to_the_guest_arrives_as_a_change(either_shop: Shop) -> None:
    await either_shop.sell(price="10.00")
    await either_shop.sell(MUG, price="10.00")
    await add(either_shop, GUEST)
    await add(either_shop, GUEST, 1, MUG)
    await save(either_shop, MUG, GUEST)
    await either_shop.sell(price="20.00")
    await either_shop.sell(MUG, price="20.00")
    cart = (await merge(either_shop)).cart
    assert {line.price_minor for line in cart.lines} == {2000}
    events = [event for _, event in await either_shop.redis.xrange("prices:{default:0}")]
    assert [(e[b"cart"], e[b"line"], e[b"old"], e[b"new"]) for e in events] == [
        (str(cart.id).encode(), str(number).encode(), b"1000", b"2000") for number in (1, 2)
    ]


async def test_merge_keeps_saved_lines_saved(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG, stock=5, stock_policy="hold")
    for product_id in (LAMP, MUG):
        await add(either_shop, GUEST, 2, product_id)
        await save(either_shop, product_id, GUEST)
    await add(either_shop, USER, 3, MUG)
    await save(either_shop, MUG, USER)
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 0)
    merged = await merge(either_shop)
    assert [(line.sku, line.quantity, line.saved) for line in merged.cart.lines] == [
        (MUG, 5, True),
        (LAMP, 2, True),
    ]
    assert merged.unmerged == []
    assert await books(either_shop, MUG) == (5, 0, 0)


async def test_a_line_that_the_owner_wants_is_not_saved_by_a_merge(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop, USER, 3)
    await add(either_shop, GUEST, 2)
    await save(either_shop, owner=GUEST)
    merged = await merge(either_shop)
    assert [(line.quantity, line.saved) for line in merged.cart.lines] == [(3, False)]
    assert merged.unmerged == [Unmerged(LAMP, 2, 0, "ALREADY_IN_CART")]


@pytest.mark.parametrize("policy", POLICIES)
async def test_merge_brings_the_owners_saved_units_back(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock=5, stock_policy=policy)
    await add(either_shop, USER, 3)
    await save(either_shop, owner=USER)
    await add(either_shop, GUEST, 2)
    merged = await merge(either_shop)
    assert [(line.quantity, line.saved) for line in merged.cart.lines] == [(5, False)]
    assert await books(either_shop) == taken(policy, 5, 5)


async def test_merge_counts_the_owners_saved_units(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await add(either_shop, USER, 4)
    await save(either_shop, owner=USER)
    await add(either_shop, GUEST, 3)
    merged = await merge(either_shop)
    assert [(line.quantity, line.saved) for line in merged.cart.lines] == [(5, False)]
    assert merged.unmerged == [Unmerged(LAMP, 3, 1, "OUT_OF_STOCK")]
    assert await books(either_shop) == (0, 5, 0)


async def test_merge_saves_no_more_than_a_line_may_have(either_shop: Shop) -> None:
    most = model.MAX_QUANTITY
    await either_shop.sell(stock_policy="untracked")
    for owner in (USER, GUEST):
        await add(either_shop, owner, most - 1)
        await save(either_shop, owner=owner)
    merged = await merge(either_shop)
    assert units(merged.cart) == {LAMP: most}
    assert merged.unmerged == [Unmerged(LAMP, most - 1, 1, "OUT_OF_STOCK")]


async def test_a_cart_is_not_merged_into_itself(either_shop: Shop) -> None:
    await either_shop.sell()
    cart = await either_shop.add(2)
    before = await either_shop.everything()
    assert await either_shop.store.merge(either_shop.bucket, ANN, ANN) == Merged(cart, [])
    assert await either_shop.everything() == before


async def test_the_guests_notices_reach_the_owner(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG)
    await add(either_shop, GUEST, 3, LAMP)
    await add(either_shop, GUEST, 1, MUG)
    await add(either_shop, USER, 2, LAMP)
    either_shop.clock.ms += HOLD_MS
    merged = await merge(either_shop)
    assert units(merged.cart) == {MUG: 1}
    assert sorted(merged.cart.notices, key=lambda notice: notice.quantity) == [
        Notice(LAMP, 2, "hold_expired"),
        Notice(LAMP, 3, "hold_expired"),
    ]
    assert (await read(either_shop, USER)).notices == ()
    assert await books(either_shop) == (5, 0, 0)


@pytest.mark.parametrize("now", POLICIES)
@pytest.mark.parametrize("before", POLICIES)
async def test_merge_follows_the_policy_of_today(either_shop: Shop, before: str, now: str) -> None:
    await either_shop.sell(stock=10, stock_policy=before)
    await add(either_shop, USER, 2)
    await add(either_shop, GUEST, 3)
    await either_shop.sell(stock=10, stock_policy=now)
    either_shop.clock.ms += 1_000
    merged = await merge(either_shop)
    assert (units(merged.cart), merged.unmerged) == ({LAMP: 5}, [])
    deadline = NOW_MS + HOLD_MS + (0 if before == "hold" else 1_000)
    assert merged.cart.lines[0].held_until_ms == (deadline if now == "hold" else None)
    assert await books(either_shop) == taken(now, 10, 5)


async def test_merge_takes_the_price_of_today(either_shop: Shop) -> None:
    await either_shop.sell(price="29.99")
    await add(either_shop, USER)
    await add(either_shop, GUEST)
    await either_shop.sell(price="24.50")
    assert (await merge(either_shop)).cart.lines[0].price_minor == 2450
    [(_, event)] = await either_shop.redis.xrange("prices:{default:0}")
    assert (event[b"cart"], event[b"old"], event[b"new"]) == (b"256", b"2999", b"2450")


# -- close


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


async def test_there_must_be_something_to_convert(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await save(either_shop)
    await refused(either_shop, EmptyCart, close(either_shop))
    await remove(either_shop)
    await refused(either_shop, EmptyCart, close(either_shop))
    assert (await close(either_shop, "REMOVED")).status == "REMOVED"


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


async def test_a_cart_that_lost_its_only_line_is_told_before_it_is_empty(
    either_shop: Shop,
) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    with pytest.raises(CartChanged) as changed:
        await close(either_shop)
    assert changed.value.notices == (Notice(LAMP, 3, "hold_expired"),)
    error = await refused(either_shop, EmptyCart, close(either_shop))
    assert error.notices == ()


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


# -- restore


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


# -- line numbers


async def test_a_cart_gives_4095_line_numbers(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id)
    await either_shop.add(1, "a")
    await either_shop.redis.hset("cart:{default:0}:session:ann", "last_line", 4094)
    cart = await either_shop.add(1, "b")
    assert [line.number for line in cart.lines] == [1, 4095]
    last = model.item_id(cart.id, 4095)
    found, line = await either_shop.store.find_item(either_shop.bucket, last)
    assert (found.id, line.sku) == (256, "b")
    error = await refused(either_shop, CartSpent, either_shop.add(1, "c"))
    assert error.max_line == 4095
    assert units(await either_shop.add(1, "b")) == {"a": 1, "b": 2}
    await remove(either_shop, "b")
    await refused(either_shop, CartSpent, either_shop.add(1, "b"))
