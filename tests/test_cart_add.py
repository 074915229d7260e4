"""cart_add: the same cases on a real server and on fakeredis."""

import random

import pytest

from cartsvc.errors import (
    CartError,
    CartFull,
    InactiveProduct,
    NoCounter,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.model import Cart, LineRequest, Owner
from cartsvc.store import Store
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop


async def test_first_add_makes_a_cart(either_shop: Shop) -> None:
    await either_shop.sell(price="29.99")
    cart = await either_shop.add(2)
    line = cart.lines[0]
    assert (cart.id, cart.status, cart.version) == (256, "ACTIVE", 1)
    assert (cart.created_ms, cart.updated_ms, line.added_ms) == (NOW_MS, NOW_MS, NOW_MS)
    assert (line.number, line.product_id, line.quantity) == (1, LAMP, 2)
    assert (line.price_minor, line.name) == (2999, "Aurora Desk Lamp")
    assert line.images == ("https://cdn.example.com/lamp.jpg",)
    assert (cart.total_quantity, cart.total_minor) == (2, 5998)


async def test_second_add_increments_the_line(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(2)
    either_shop.clock.ms += 1_000
    cart = await either_shop.add(3)
    assert [(line.number, line.quantity) for line in cart.lines] == [(1, 5)]
    assert (cart.version, cart.created_ms, cart.updated_ms) == (2, NOW_MS, NOW_MS + 1_000)


async def test_lines_are_numbered_in_order_of_addition(either_shop: Shop) -> None:
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG)
    await either_shop.add(1, MUG)
    cart = await either_shop.add(1, LAMP)
    assert [(line.number, line.product_id) for line in cart.lines] == [(1, MUG), (2, LAMP)]


async def test_owners_have_carts_of_their_own(either_shop: Shop) -> None:
    await either_shop.sell()
    lines = [LineRequest(LAMP, 1)]
    ids = [
        (await either_shop.add_lines(*lines, owner=Owner("session", name))).id
        for name in ("ann", "bob", "ann")
    ]
    assert ids == [256, 512, 256]
    assert await either_shop.redis.hgetall("carts:{default:0}") == {
        b"256": b"cart:{default:0}:session:ann",
        b"512": b"cart:{default:0}:session:bob",
    }


async def test_refuses_more_than_is_free(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    before = await either_shop.everything()
    with pytest.raises(OutOfStock) as refused:
        await either_shop.add(6)
    assert (refused.value.sku, refused.value.free, refused.value.in_cart) == (LAMP, 5, 0)
    assert await either_shop.everything() == before


async def test_counts_what_the_cart_already_holds(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    await either_shop.add(3)
    with pytest.raises(OutOfStock) as refused:
        await either_shop.add(3)
    assert (refused.value.free, refused.value.in_cart) == (5, 3)
    assert (await either_shop.add(2)).lines[0].quantity == 5


async def test_adds_up_lines_that_draw_on_one_counter(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    both = (LineRequest("tee", 3, "navy"), LineRequest("tee", 3, "moss"))
    with pytest.raises(OutOfStock) as refused:
        await either_shop.add_lines(*both)
    assert (refused.value.sku, refused.value.free) == ("tee/moss", 5)
    assert await either_shop.redis.exists("cart:{default:0}:session:ann") == 0


async def test_adds_up_a_sku_named_twice(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    with pytest.raises(OutOfStock):
        await either_shop.add_lines(LineRequest(LAMP, 3), LineRequest(LAMP, 3))
    cart = await either_shop.add_lines(LineRequest(LAMP, 3), LineRequest(LAMP, 2))
    assert [line.quantity for line in cart.lines] == [5]


async def test_variants_without_stock_share_the_products_counter(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await either_shop.add(3, "tee", "navy")
    with pytest.raises(OutOfStock) as refused:
        await either_shop.add(3, "tee", "moss")
    assert (refused.value.free, refused.value.in_cart) == (5, 3)
    await either_shop.add(1, "tee", "moss")
    cart = await either_shop.add(1, "tee")
    assert [(line.variant_id, line.quantity) for line in cart.lines] == [
        ("navy", 3),
        ("moss", 1),
        (None, 1),
    ]


async def test_a_product_whose_id_begins_another_shares_nothing_with_it(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None)])
    await either_shop.sell("tee2", stock=5)
    await either_shop.add(5, "tee2")
    assert (await either_shop.add(5, "tee", "navy")).total_quantity == 10


async def test_variants_with_stock_have_a_counter_of_their_own(either_shop: Shop) -> None:
    await either_shop.sell("vest", stock=0, variants=[("s", 2), ("m", 1)])
    await either_shop.add(2, "vest", "s")
    await either_shop.add(1, "vest", "m")
    with pytest.raises(OutOfStock) as refused:
        await either_shop.add(1, "vest", "m")
    assert (refused.value.sku, refused.value.free, refused.value.in_cart) == ("vest/m", 1, 1)


async def test_a_variant_that_left_the_catalogue_still_counts(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None), ("moss", None)])
    await either_shop.add(3, "tee", "navy")
    await either_shop.sell("tee", stock=5, variants=[("moss", None)])
    with pytest.raises(OutOfStock):
        await either_shop.add(3, "tee", "moss")


async def test_lines_of_variants_that_left_count_when_none_is_left(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, variants=[("navy", None)])
    await either_shop.add(5, "tee", "navy")
    await either_shop.sell("tee", stock=5)
    with pytest.raises(OutOfStock):
        await either_shop.add(1, "tee")


async def test_refuses_all_lines_when_one_lacks_stock(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=10)
    await either_shop.sell(MUG, stock=1)
    await either_shop.add(1, LAMP)
    before = await either_shop.everything()
    with pytest.raises(OutOfStock):
        await either_shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 2))
    assert await either_shop.everything() == before


async def test_refuses_what_the_catalogue_does_not_sell(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, active=False)
    await either_shop.sell(MUG)
    before = await either_shop.everything()
    with pytest.raises(InactiveProduct):
        await either_shop.add(1, LAMP)
    with pytest.raises(UnknownProduct) as unknown:
        await either_shop.add(1, "nothing")
    assert unknown.value.product_id == "nothing"
    with pytest.raises(UnknownVariant) as variant:
        await either_shop.add(1, MUG, "blue")
    assert (variant.value.product_id, variant.value.variant_id) == (MUG, "blue")
    assert await either_shop.everything() == before


async def test_cap_is_on_distinct_lines(either_shop: Shop) -> None:
    either_shop.store.max_lines = 2
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id)
    await either_shop.add_lines(LineRequest("a", 1), LineRequest("b", 1))
    assert (await either_shop.add(7, "a")).total_quantity == 9
    before = await either_shop.everything()
    with pytest.raises(CartFull) as full:
        await either_shop.add_lines(LineRequest("a", 1), LineRequest("c", 1))
    assert full.value.max_lines == 2
    assert await either_shop.everything() == before


async def test_a_lowered_cap_leaves_the_lines_there_are(either_shop: Shop) -> None:
    for product_id in ("a", "b", "c"):
        await either_shop.sell(product_id)
        await either_shop.add(1, product_id)
    either_shop.store.max_lines = 2
    assert (await either_shop.add(1, "a")).total_quantity == 4
    await either_shop.sell("d")
    with pytest.raises(CartFull):
        await either_shop.add(1, "d")


async def test_nothing_is_changed_in_a_bucket_that_is_not_warm(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.redis.delete("seq:{default:0}")
    before = await either_shop.everything()
    with pytest.raises(NotWarm):
        await either_shop.add()
    assert await either_shop.everything() == before


async def test_a_missing_counter_is_not_guessed(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.redis.hdel("stock:{default:0}", LAMP)
    before = await either_shop.everything()
    with pytest.raises(NoCounter) as missing:
        await either_shop.add()
    assert missing.value.sku == LAMP
    assert await either_shop.everything() == before


@pytest.mark.parametrize("quantity", ["0", "-1", "0x10", "1e3", "nan", "1.5", " 1", "1234567890"])
async def test_takes_only_whole_numbers(either_shop: Shop, quantity: str) -> None:
    await either_shop.sell(stock=999_999_999)
    before = await either_shop.everything()
    with pytest.raises(OutcomeUnknown, match="a quantity is a whole number from 1 to 999999999"):
        await either_shop.add(quantity)  # type: ignore[arg-type]
    assert await either_shop.everything() == before


async def test_a_line_that_is_not_readable_is_left_alone(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await either_shop.redis.hset("cart:{default:0}:session:ann", f"l:{LAMP}", "{}")
    before = await either_shop.everything()
    with pytest.raises(OutcomeUnknown):
        await either_shop.add()
    assert await either_shop.everything() == before


async def test_a_new_price_is_taken_and_recorded(either_shop: Shop) -> None:
    await either_shop.sell(price="29.99")
    await either_shop.add()
    await either_shop.sell(price="24.50")
    either_shop.clock.ms += 5
    cart = await either_shop.add()
    assert (cart.lines[0].price_minor, cart.lines[0].added_ms) == (2450, NOW_MS)
    assert cart.lines[0].name == "Aurora Desk Lamp"
    [(_, event)] = await either_shop.redis.xrange("prices:{default:0}")
    assert event == {
        b"cart": b"256",
        b"line": b"1",
        b"version": b"2",
        b"sku": LAMP.encode(),
        b"old": b"2999",
        b"new": b"2450",
        b"at": str(NOW_MS + 5).encode(),
    }


async def test_the_same_price_is_no_price_change(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    await either_shop.add()
    assert await either_shop.redis.xlen("prices:{default:0}") == 0


async def test_dirty_mark_keeps_the_time_of_the_oldest_change(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    either_shop.clock.ms += 1_000
    await either_shop.add()
    marks = await either_shop.redis.zrange("dirty:{default:0}", 0, -1, withscores=True)
    assert marks == [(b"cart:{default:0}:session:ann", NOW_MS)]


async def test_stock_is_only_checked_not_taken(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    await either_shop.add(5)
    assert await either_shop.redis.hget("stock:{default:0}", LAMP) == b"5"


async def test_names_with_quotes_and_braces_survive(either_shop: Shop) -> None:
    name = 'Print "Harbour" \\ {1} [x]}} ünïcode'
    await either_shop.sell(name=name)
    await either_shop.add()
    await either_shop.sell(name=name, price="1.00")
    line = (await either_shop.add()).lines[0]
    assert (line.name, line.price_minor) == (name, 100)


async def test_both_servers_give_the_same_answers(shop: Shop, fake_shop: Shop) -> None:
    """A few hundred random adds, their outcomes and all that they leave, side by side."""
    assert await _history(shop) == await _history(fake_shop)
    left, fake_left = await shop.everything(), await fake_shop.everything()
    # Stream ids are each server's own clock.
    events = [[event for _, event in keys.pop(b"prices:{default:0}")] for keys in (left, fake_left)]
    assert events[0] == events[1]
    assert left == fake_left


async def _history(shop: Shop) -> list[Cart | str]:
    choose = random.Random(7)
    shop.store = Store(shop.runner, max_lines=4, clock_ms=shop.clock)
    history: list[Cart | str] = []
    for step in range(300):
        shop.clock.ms += step
        product_id = choose.choice("abcde")
        if choose.random() < 0.2:
            price = f"{choose.randint(0, 3)}.00"
            shared = [("x", None), ("y", choose.choice([None, 7]))]
            await shop.sell(product_id, price=price, stock=20, variants=shared)
            continue
        lines = [
            LineRequest(
                choose.choice("abcde"), choose.randint(1, 3), choose.choice([None, "x", "y"])
            )
            for _ in range(choose.randint(1, 3))
        ]
        owner = choose.choice([ANN, Owner("user", "42")])
        try:
            history.append(await shop.add_lines(*lines, owner=owner))
        except CartError as error:
            history.append(str(error))
    return history
