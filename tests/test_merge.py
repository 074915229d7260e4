"""A guest's cart that moves into a user's, on a real server and on fakeredis."""

from typing import Any

import pytest

from cartsvc import model
from cartsvc.errors import (
    NoCart,
    NoCounter,
)
from cartsvc.model import (
    Notice,
    Owner,
    Unmerged,
)
from tests.carts import (
    GUEST,
    HOLD_MS,
    POLICIES,
    USER,
    add,
    books,
    close,
    merge,
    read,
    refused,
    save,
    taken,
    units,
)
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop


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
    await merge(either_shop)
    await refused(either_shop, NoCart, merge(either_shop))


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
    await either_shop.add(2)
    await refused(either_shop, NoCart, either_shop.store.merge(either_shop.bucket, ANN, ANN))


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
