"""Lines as a request describes them, with authority and without; on a real server and fakeredis."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartsvc.errors import (
    BelowMinimum,
    CartExists,
    CartFull,
    InactiveProduct,
    NoCart,
    NoLine,
    OutOfStock,
    PriceDiffers,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.model import MAX_QUANTITY, Cart, LineTerms, Notice, item_id, line_name
from tests.carts import (
    BOB,
    GUEST,
    HOLD_MS,
    USER,
    add,
    books,
    close,
    lose,
    merge,
    put,
    read,
    refused,
    remove,
    save,
    take_back,
    units,
)
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop

Change = Callable[[], Awaitable[Cart]]

LAMP_IMAGE = "https://cdn.example.com/lamp.jpg"


async def describe_new(
    shop: Shop, quantity: int = 1, sku: str = LAMP, *, authority: bool = True, **said: Any
) -> Cart:
    terms = LineTerms(quantity, said.pop("saved", False), **said)
    return await shop.store.add_as(shop.bucket, ANN, sku, terms, authority=authority, cart_id=256)


async def describe(
    shop: Shop, quantity: int = 1, number: int = 1, *, authority: bool = True, **said: Any
) -> Cart:
    terms = LineTerms(quantity, said.pop("saved", False), **said)
    item = item_id(256, number)
    return await shop.store.set_as(shop.bucket, ANN, item, terms, authority=authority)


async def events(shop: Shop) -> list[tuple[int, int]]:
    """Old and new of every price change."""
    return [
        (int(fields[b"old"]), int(fields[b"new"]))
        for _, fields in await shop.redis.xrange(shop.bucket.prices)
    ]


async def filled(shop: Shop) -> Shop:
    """The shop with a lamp and a mug, in which Ann has an empty cart."""
    await shop.sell(LAMP, stock=10)
    await shop.sell(MUG, stock=10, price="12.50")
    await shop.store.make(shop.bucket, ANN)
    return shop


@pytest.fixture
async def ours(either_shop: Shop) -> Shop:
    return await filled(either_shop)


async def test_a_line_says_when_it_was_changed(ours: Shop) -> None:
    await ours.add(2, MUG)
    changes: list[Change] = [
        lambda: ours.add(1),
        lambda: ours.add(1),
        lambda: put(ours, 1),
        lambda: put(ours, 4),
        lambda: save(ours),
        lambda: put(ours, 5),
        lambda: take_back(ours),
    ]
    for change in changes:
        ours.clock.ms += 1_000
        mug, lamp = (await change()).lines
        assert (mug.updated_ms, lamp.updated_ms) == (NOW_MS, ours.clock.ms)
    assert lamp.added_ms == NOW_MS + 1_000
    # Not by what changes nothing of it, and by a price that is new.
    ours.clock.ms += 1_000
    await ours.add(1, MUG)
    await put(ours, 5)
    assert (await read(ours)).lines[1].updated_ms == ours.clock.ms - 1_000
    await ours.sell(LAMP, stock=10, price="20.00")
    await ours.store.reprice(ours.bucket, LAMP, [ours.bucket.cart(ANN)], done="", next_done="")
    assert (await read(ours)).lines[1].updated_ms == ours.clock.ms
    # A line that comes again is a new one.
    await remove(ours, LAMP)
    ours.clock.ms += 1_000
    assert (await ours.add(1)).lines[1].updated_ms == ours.clock.ms


# -- an empty cart


async def test_an_empty_cart(ours: Shop) -> None:
    cart = await read(ours)
    assert (cart.id, cart.status, cart.version, cart.lines) == (256, "ACTIVE", 1, [])
    assert (cart.created_ms, cart.updated_ms) == (NOW_MS, NOW_MS)
    assert await ours.redis.zscore(ours.bucket.dirty, ours.bucket.cart(ANN)) == NOW_MS
    assert await books(ours) == (10, 0, 0)


async def test_an_owner_has_one_cart(ours: Shop) -> None:
    await ours.add(2)
    error = await refused(ours, CartExists, ours.store.make(ours.bucket, ANN))
    assert error.cart_id == 256
    assert (await ours.store.make(ours.bucket, BOB)).id == 512


# -- units


async def test_a_line_is_added_and_added_to(ours: Shop) -> None:
    await describe_new(ours, 2)
    ours.clock.ms += 1_000
    cart = await describe_new(ours, 3)
    [line] = cart.lines
    assert (line.quantity, line.price_minor, line.fixed_price) == (5, 2999, False)
    assert (line.added_ms, line.updated_ms) == (NOW_MS, NOW_MS + 1_000)
    assert (line.name, line.images) == ("Aurora Desk Lamp", (LAMP_IMAGE,))
    assert units(await describe(ours, 4)) == {LAMP: 4}
    assert units(await describe(ours, 7)) == {LAMP: 7}
    assert await books(ours) == (10, 0, 0)


async def test_only_in_the_cart_that_is_meant(ours: Shop) -> None:
    terms = LineTerms(1, saved=False)
    add_as = ours.store.add_as(ours.bucket, ANN, LAMP, terms, authority=True, cart_id=512)
    await refused(ours, NoCart, add_as)
    await ours.add(1)
    set_as = ours.store.set_as(ours.bucket, ANN, item_id(512, 1), terms, authority=True)
    await refused(ours, NoCart, set_as)
    await refused(ours, NoLine, describe(ours, 1, number=2))
    await refused(ours, NoCart, ours.store.clear(ours.bucket, ANN, cart_id=512))
    assert units(await ours.store.clear(ours.bucket, ANN, cart_id=256)) == {}


async def test_stock_is_decided_as_for_an_add(ours: Shop) -> None:
    await describe_new(ours, 6)
    error = await refused(ours, OutOfStock, describe_new(ours, 5))
    assert (error.free, error.in_cart) == (10, 6)
    await refused(ours, OutOfStock, describe(ours, 11))
    assert units(await describe(ours, 10)) == {LAMP: 10}


async def test_a_held_line_holds_what_it_has(ours: Shop) -> None:
    await ours.sell(LAMP, stock=10, stock_policy="hold")
    await describe_new(ours, 4)
    assert await books(ours) == (6, 4, 0)
    await describe(ours, 1)
    assert await books(ours) == (9, 1, 0)
    cart = await describe(ours, 3)
    assert await books(ours) == (7, 3, 0)
    assert cart.lines[0].held_until_ms == NOW_MS + HOLD_MS
    await describe(ours, 3, saved=True)
    assert await books(ours) == (10, 0, 0)
    await describe(ours, 2)
    assert await books(ours) == (8, 2, 0)


async def test_what_is_not_sold_is_refused(ours: Shop) -> None:
    await refused(ours, UnknownProduct, describe_new(ours, 1, "nothing"))
    await describe_new(ours, 1, MUG, saved=True)
    for product_id in (LAMP, MUG):
        await ours.sell(product_id, active=False)
        await refused(ours, InactiveProduct, describe_new(ours, 1, product_id))
    await refused(ours, InactiveProduct, describe_new(ours, 1, saved=True))
    assert units(await describe_new(ours, 1, MUG, saved=True)) == {MUG: 2}


async def test_limits_hold(ours: Shop) -> None:
    await ours.sell(LAMP, stock=10, min_per_order=3)
    await refused(ours, BelowMinimum, describe_new(ours, 2))
    await describe_new(ours, 4)
    await refused(ours, BelowMinimum, describe(ours, 2))
    ours.store.max_lines = 1
    await refused(ours, CartFull, describe_new(ours, 1, MUG))
    await refused(ours, CartFull, describe_new(ours, 1, MUG, saved=True))


async def test_no_line_has_more_than_nine_digits(ours: Shop) -> None:
    await describe_new(ours, MAX_QUANTITY, saved=True)
    error = await refused(ours, OutOfStock, describe_new(ours, 1, saved=True))
    assert (error.free, error.in_cart) == (MAX_QUANTITY, MAX_QUANTITY)


# -- who asks


async def test_who_is_not_the_owner_leaves_what_the_owner_has_to_hear(ours: Shop) -> None:
    await ours.sell(LAMP, stock=10, stock_policy="hold")
    await ours.add(1, LAMP)
    await ours.add(3, MUG)
    ours.clock.ms += HOLD_MS
    told = (Notice(LAMP, 1, "hold_expired"),)
    store, bucket = ours.store, ours.bucket
    assert (await store.peek(bucket, ANN)).notices == told
    assert (await describe(ours, 2, number=2)).notices == told
    mug = line_name(item_id(256, 2))
    assert (await store.remove(bucket, ANN, mug, by_owner=False)).notices == told
    assert (await store.clear(bucket, ANN, by_owner=False)).notices == told
    assert (await describe_new(ours, 2, MUG, authority=False)).notices == told
    assert (await read(ours)).notices == ()


async def test_a_hold_that_has_run_out_is_not_found(ours: Shop) -> None:
    await ours.sell(LAMP, stock=10, stock_policy="hold")
    await ours.add(1, LAMP)
    ours.clock.ms += HOLD_MS
    assert (await ours.store.find(ours.bucket, 256)).lines == []
    await ours.add(1, LAMP)
    ours.clock.ms += HOLD_MS
    assert (await ours.store.peek(ours.bucket, ANN)).lines == []
    assert await books(ours) == (10, 0, 0)


# -- saved for later


async def test_a_saved_line_asks_for_no_stock(ours: Shop) -> None:
    cart = await describe_new(ours, 50, saved=True)
    assert (cart.lines[0].saved, cart.total_quantity) == (True, 0)
    cart = await describe(ours, 70, saved=True)
    assert (cart.lines[0].quantity, cart.lines[0].saved) == (70, True)
    await refused(ours, OutOfStock, describe(ours, 70))
    cart = await describe(ours, 10)
    assert (cart.lines[0].saved, cart.total_quantity) == (False, 10)


async def test_units_that_are_added_bring_saved_ones_back(ours: Shop) -> None:
    await describe_new(ours, 3, saved=True)
    cart = await describe_new(ours, 2)
    assert (cart.lines[0].quantity, cart.lines[0].saved) == (5, False)
    cart = await describe_new(ours, 1, saved=True)
    assert (cart.lines[0].quantity, cart.lines[0].saved) == (6, True)


async def test_emptying_a_cart_leaves_what_is_saved(ours: Shop) -> None:
    await describe_new(ours, 3, saved=True)
    await ours.add(2, MUG)
    assert units(await ours.store.empty(ours.bucket, ANN)) == {LAMP: 3}
    await refused(ours, NoCart, ours.store.empty(ours.bucket, BOB))
    assert units(await ours.store.clear(ours.bucket, ANN)) == {}


# -- price, name and image


async def test_authority_names_price_name_and_image(ours: Shop) -> None:
    cart = await describe_new(ours, 2, price_minor=100, name='Lamp "A"', image_url="a.jpg")
    [line] = cart.lines
    assert (line.price_minor, line.fixed_price) == (100, True)
    assert (line.name, line.images) == ('Lamp "A"', ("a.jpg",))
    assert await events(ours) == []
    cart = await describe(ours, 2, price_minor=150, name="Lampe", image_url="b.jpg")
    [line] = cart.lines
    assert (line.price_minor, line.name, line.images) == (150, "Lampe", ("b.jpg",))
    assert await events(ours) == [(100, 150)]
    assert cart == await read(ours)
    ours.clock.ms += 1_000
    cart = await describe(ours, 2, name="Lamp")
    assert (cart.lines[0].added_ms, cart.lines[0].updated_ms) == (NOW_MS, NOW_MS + 1_000)


async def test_what_is_not_named_stays(ours: Shop) -> None:
    await describe_new(ours, 2, price_minor=100, name="Lamp, own", image_url="a.jpg")
    await describe(ours, 3)
    await describe_new(ours, 1)
    for saved in (True, False):
        line = (await describe(ours, 4, saved=saved)).lines[0]
        assert (line.price_minor, line.fixed_price) == (100, True)
        assert (line.name, line.images) == ("Lamp, own", ("a.jpg",))


async def test_an_image_that_is_the_first_keeps_the_others(ours: Shop) -> None:
    await ours.sell("tee", images=["back.jpg"], variants=[("navy", None)])
    images = (LAMP_IMAGE, "back.jpg")
    await describe_new(ours, 1, "tee/navy")
    cart = await describe(ours, 1, image_url=LAMP_IMAGE, name="Tee")
    [line] = cart.lines
    assert (line.images, line.name, line.variant_name) == (images, "Tee", "navy")


@pytest.mark.parametrize("name", ['x","images":["y"]', '","variant":"z', "a\\", 'a\\"'])
async def test_names_that_look_like_fields(ours: Shop, name: str) -> None:
    cart = await describe_new(ours, 1, name=name, image_url=name)
    assert (cart.lines[0].name, cart.lines[0].images) == (name, (name,))
    cart = await describe(ours, 1, name="Lamp")
    assert (cart.lines[0].name, cart.lines[0].images) == ("Lamp", (name,))
    await describe(ours, 2, authority=False, image_url=name)
    await refused(ours, PriceDiffers, describe(ours, 2, authority=False, name=name))


async def test_a_price_of_its_own_outlives_the_catalogues(ours: Shop) -> None:
    await describe_new(ours, 1, price_minor=100)
    await ours.sell(LAMP, stock=10, price="20.00")
    await ours.store.reprice(ours.bucket, LAMP, [ours.bucket.cart(ANN)], done="", next_done="")
    changes: list[Change] = [lambda: ours.add(1), lambda: put(ours, 1), lambda: save(ours)]
    for change in changes:
        assert (await change()).lines[0].price_minor == 100
    assert (await take_back(ours)).lines[0].price_minor == 100
    cart = await close(ours)
    assert cart.total_minor == 100
    assert await events(ours) == []


async def test_a_price_of_its_own_ends_with_the_catalogues(ours: Shop) -> None:
    await describe_new(ours, 1, price_minor=100)
    cart = await describe(ours, 1, price_minor=2999)
    assert (cart.lines[0].price_minor, cart.lines[0].fixed_price) == (2999, False)
    await ours.sell(LAMP, stock=10, price="20.00")
    assert (await put(ours, 2)).lines[0].price_minor == 2000
    assert await events(ours) == [(100, 2999), (2999, 2000)]


async def test_a_price_of_its_own_moves_with_its_line(ours: Shop) -> None:
    await add(ours, GUEST, 1)
    terms = LineTerms(1, saved=False, price_minor=100)
    await ours.store.set_as(ours.bucket, GUEST, item_id(512, 1), terms, authority=True)
    line = (await merge(ours)).cart.lines[0]
    assert (line.price_minor, line.fixed_price) == (100, True)
    cart = await read(ours, USER)
    await lose(ours)
    await ours.sell(LAMP, price="20.00")
    assert await ours.store.restore(ours.bucket, cart) == cart


async def test_without_authority_all_must_be_the_catalogues(ours: Shop) -> None:
    said: dict[str, Any] = {"price_minor": 2999, "name": "Aurora Desk Lamp"}
    said["image_url"] = LAMP_IMAGE
    assert units(await describe_new(ours, 1, authority=False, **said)) == {LAMP: 1}
    assert units(await describe(ours, 2, authority=False, **said)) == {LAMP: 2}
    for name, other in (("price_minor", 2998), ("name", "Aurora"), ("image_url", "lamp.jpg")):
        for change in (describe_new, describe):
            wrong = {**said, name: other}
            error = await refused(ours, PriceDiffers, change(ours, 3, authority=False, **wrong))
            assert (error.sku, error.price_minor) == (LAMP, 2999)
    error = await refused(ours, PriceDiffers, describe_new(ours, 1, MUG, authority=False, **said))
    assert error.price_minor == 1250


async def test_without_authority_the_price_is_todays(ours: Shop) -> None:
    await describe_new(ours)
    await ours.sell(LAMP, stock=10, price="20.00", name="Lamp, new")
    error = await refused(ours, PriceDiffers, describe(ours, 2, authority=False, price_minor=2999))
    assert error.price_minor == 2000
    # The line keeps the name with which it was added, so either is right.
    for name in ("Aurora Desk Lamp", "Lamp, new"):
        cart = await describe(ours, 2, authority=False, price_minor=2000, name=name)
        assert (cart.lines[0].price_minor, cart.lines[0].name) == (2000, "Aurora Desk Lamp")
    assert await events(ours) == [(2999, 2000)]


async def test_without_authority_a_price_of_its_own_is_the_one(ours: Shop) -> None:
    await describe_new(ours, 1, price_minor=100)
    error = await refused(ours, PriceDiffers, describe(ours, 2, authority=False, price_minor=2999))
    assert error.price_minor == 100
    cart = await describe(ours, 2, authority=False, price_minor=100)
    assert (cart.lines[0].price_minor, cart.lines[0].fixed_price) == (100, True)


async def test_a_line_whose_product_has_left(ours: Shop) -> None:
    await ours.sell("tee", variants=[("navy", None)])
    await describe_new(ours, 3, "tee/navy")
    await ours.sell("tee")
    assert units(await describe(ours, 2, price_minor=2999, authority=False)) == {"tee/navy": 2}
    assert (await describe(ours, 1, price_minor=5)).lines[0].price_minor == 5
    await refused(ours, UnknownVariant, describe(ours, 4))
