"""Rules of a sale: holds, limits, windows, policies that move; on both servers."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cartsvc import catalog, scripts
from cartsvc.errors import (
    BelowMinimum,
    BuyerLimit,
    CartShort,
    NoLine,
    OrderLimit,
    OutcomeUnknown,
    OutOfStock,
    SaleEnded,
    SaleNotStarted,
    StockHeld,
)
from cartsvc.model import MAX_QUANTITY, Cart, LineRequest, Notice, Shortage
from cartsvc.store import RELEASE_LINES
from tests.carts import (
    BOB,
    GUEST,
    HOLD_MS,
    POLICIES,
    USER,
    add,
    books,
    close,
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

Act = Callable[[], Awaitable[object]]

EXPIRED = (Notice(LAMP, 5, "hold_expired"),)


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def received(shop: Shop, counter: str = LAMP) -> int:
    return int(await shop.redis.hget("received:{default:0}", counter))


# -- deadlines


async def test_a_hold_lasts_as_long_as_its_product_says(either_shop: Shop) -> None:
    either_shop.store.hold_ttl_s = 60
    await either_shop.sell(LAMP, stock_policy="hold", hold_ttl_s=90)
    await either_shop.sell(MUG, stock_policy="hold")
    await either_shop.add(1, LAMP)
    cart = await either_shop.add(1, MUG)
    assert [line.held_until_ms for line in cart.lines] == [NOW_MS + 90_000, NOW_MS + 60_000]
    either_shop.clock.ms += 60_000
    assert units(await read(either_shop)) == {LAMP: 1}
    either_shop.clock.ms += 30_000
    assert units(await read(either_shop)) == {}
    assert await books(either_shop) == (100, 0, 0)


async def test_a_deadline_is_the_lines_and_is_not_pushed(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(2)
    acts: list[Callable[[], Awaitable[Cart]]] = [
        lambda: read(either_shop),
        lambda: either_shop.add(3),
        lambda: put(either_shop, 9),
        lambda: put(either_shop, 1),
    ]
    for act in acts:
        either_shop.clock.ms += 1_000
        assert (await act()).lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop) == (99, 1, 0)


async def test_every_line_has_a_deadline_of_its_own(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG, stock=5, stock_policy="hold")
    await either_shop.add(5, LAMP)
    either_shop.clock.ms += 1_000
    await either_shop.add(5, MUG)
    either_shop.clock.ms += HOLD_MS - 1_000
    cart = await read(either_shop)
    assert (units(cart), cart.notices) == ({MUG: 5}, EXPIRED)
    assert cart.lines[0].held_until_ms == NOW_MS + HOLD_MS + 1_000
    assert await books(either_shop, MUG) == (0, 5, 0)


async def test_a_line_that_comes_back_is_held_anew(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(2)
    await remove(either_shop)
    either_shop.clock.ms += 1_000
    assert (await either_shop.add(2)).lines[0].held_until_ms == NOW_MS + 1_000 + HOLD_MS
    assert await books(either_shop) == (98, 2, 0)


async def test_a_tenants_policy_is_for_products_that_name_none(either_shop: Shop) -> None:
    either_shop.store.stock_policy = "hold"
    await either_shop.sell(LAMP)
    await either_shop.sell(MUG, stock_policy="check")
    await either_shop.add(2, LAMP)
    cart = await either_shop.add(3, MUG)
    assert [line.held_until_ms for line in cart.lines] == [NOW_MS + HOLD_MS, None]
    assert await books(either_shop, LAMP) == (98, 2, 0)
    assert await books(either_shop, MUG) == (100, 0, 0)


# -- no false sold-out


async def test_a_hold_that_has_run_out_stands_in_nobodys_way(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    either_shop.clock.ms += HOLD_MS - 1
    error = await refused(either_shop, OutOfStock, add(either_shop, BOB))
    assert (error.free, error.in_cart) == (0, 0)
    either_shop.clock.ms += 1
    assert units(await add(either_shop, BOB, 5)) == {LAMP: 5}
    assert await books(either_shop) == (0, 5, 0)
    assert (await read(either_shop)).notices == EXPIRED
    assert (await read(either_shop)).notices == ()


async def test_holds_of_many_carts_that_have_run_out_are_released(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    for owner in (ANN, GUEST, USER):
        await add(either_shop, owner)
        either_shop.clock.ms += 1
    await either_shop.sell(MUG, stock=5, stock_policy="hold")
    await add(either_shop, GUEST, 1, MUG)
    either_shop.clock.ms += HOLD_MS - 2
    assert units(await add(either_shop, BOB, 4)) == {LAMP: 4}
    assert await books(either_shop) == (0, 5, 0)
    assert units(await read(either_shop, GUEST)) == {MUG: 1}
    assert units(await read(either_shop, USER)) == {LAMP: 1}


async def _more(shop: Shop) -> Act:
    await add(shop, BOB)
    return lambda: put(shop, 6, owner=BOB)


async def _back(shop: Shop) -> Act:
    await add(shop, BOB, 6)
    await save(shop, owner=BOB)
    return lambda: take_back(shop, owner=BOB)


async def _merged(shop: Shop) -> Act:
    await add(shop, GUEST, 6)
    return lambda: merge(shop)


async def _sold(shop: Shop) -> Act:
    await add(shop, BOB, 6)
    return lambda: close(shop, owner=BOB)


@pytest.mark.parametrize("prepare", [_more, _back, _merged, _sold])
async def test_nothing_is_refused_for_a_hold_that_has_run_out(
    either_shop: Shop, prepare: Callable[[Shop], Awaitable[Act]]
) -> None:
    await either_shop.sell(stock=6)
    act = await prepare(either_shop)
    await either_shop.sell(stock=6, stock_policy="hold")
    await either_shop.add(5)
    assert await books(either_shop) == (1, 5, 0)
    either_shop.clock.ms += HOLD_MS
    await act()
    assert (await read(either_shop)).notices == EXPIRED
    free, held, sold = await books(either_shop)
    assert (free, held + sold) == (0, 6)


async def test_the_owner_is_told_with_the_next_response(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG)
    await either_shop.add(5, LAMP)
    either_shop.clock.ms += HOLD_MS
    await add(either_shop, BOB, 5)
    cart = await either_shop.add(1, MUG)
    assert (units(cart), cart.notices) == ({MUG: 1}, EXPIRED)
    assert (await either_shop.add(1, MUG)).notices == ()
    assert await books(either_shop) == (0, 5, 0)


async def test_a_refusal_tells_and_does_not_count_as_told(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    either_shop.clock.ms += HOLD_MS
    await add(either_shop, BOB, 5)
    for _ in range(2):
        assert (await refused(either_shop, OutOfStock, either_shop.add(1))).notices == EXPIRED
    assert (await refused(either_shop, NoLine, put(either_shop, 2))).notices == EXPIRED
    assert (await refused(either_shop, NoLine, remove(either_shop))).notices == EXPIRED
    assert (await refused(either_shop, NoLine, save(either_shop))).notices == EXPIRED
    assert (await read(either_shop)).notices == EXPIRED
    assert (await refused(either_shop, OutOfStock, either_shop.add(1))).notices == ()


async def test_notices_add_up_until_they_are_told(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG, stock=5, stock_policy="hold")
    await either_shop.add(5, LAMP)
    either_shop.clock.ms += 1
    await either_shop.add(2, MUG)
    either_shop.clock.ms += HOLD_MS - 1
    await add(either_shop, BOB, 5, LAMP)
    either_shop.clock.ms += 1
    await add(either_shop, BOB, 5, MUG)
    assert (await read(either_shop)).notices == (*EXPIRED, Notice(MUG, 2, "hold_expired"))


async def test_an_own_line_that_has_run_out_goes_first(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    either_shop.clock.ms += HOLD_MS
    cart = await either_shop.add(2)
    assert [(line.number, line.quantity) for line in cart.lines] == [(2, 2)]
    assert cart.lines[0].held_until_ms == NOW_MS + 2 * HOLD_MS
    assert cart.notices == EXPIRED
    assert await books(either_shop) == (3, 2, 0)


async def test_a_line_that_has_run_out_can_not_be_kept(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    either_shop.clock.ms += HOLD_MS
    with pytest.raises(NoLine) as missing:
        await put(either_shop, 1)
    assert (missing.value.line, missing.value.notices) == (LAMP, EXPIRED)
    assert await books(either_shop) == (5, 0, 0)


async def test_a_hold_that_has_not_run_out_is_not_released(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock_policy="hold")
    await either_shop.sell(MUG)
    await either_shop.add(3, LAMP)
    await either_shop.add(1, MUG)
    await add(either_shop, BOB)
    await remove(either_shop, owner=BOB)
    either_shop.clock.ms += HOLD_MS - 1
    carts = [either_shop.bucket.cart(owner) for owner in (ANN, BOB, GUEST)]
    before = await either_shop.everything()
    assert await either_shop.store.release(either_shop.bucket, carts) == 0
    assert await either_shop.everything() == before
    either_shop.clock.ms += 1
    assert await either_shop.store.release(either_shop.bucket, carts) == 1
    assert await either_shop.store.release(either_shop.bucket, carts) == 0
    assert units(await read(either_shop)) == {MUG: 1}
    assert await books(either_shop) == (100, 0, 0)


async def test_only_lines_that_have_run_out_are_released(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=5, stock_policy="hold")
    await either_shop.sell(MUG, stock=5, stock_policy="hold")
    await either_shop.add(5, LAMP)
    either_shop.clock.ms += 1
    await either_shop.add(5, MUG)
    either_shop.clock.ms += HOLD_MS - 1
    key = either_shop.bucket.cart(ANN)
    assert await either_shop.store.release(either_shop.bucket, [key]) == 1
    assert await books(either_shop, MUG) == (0, 5, 0)
    assert await either_shop.redis.zscore("holds:{default:0}", key) == NOW_MS + HOLD_MS + 1


async def test_a_release_takes_so_many_lines_and_no_more(either_shop: Shop) -> None:
    count = RELEASE_LINES // 2 + 1
    either_shop.store.max_lines = count
    products = [f"p{number}" for number in range(count)]
    owners = (ANN, BOB, GUEST)
    for product_id in products:
        await either_shop.sell(product_id, stock=3, stock_policy="hold")
    for owner in owners:
        await either_shop.add_lines(*(LineRequest(name, 1) for name in products), owner=owner)
    either_shop.clock.ms += HOLD_MS
    carts = [either_shop.bucket.cart(owner) for owner in owners]
    assert await either_shop.store.release(either_shop.bucket, carts) == RELEASE_LINES
    held = [(await books(either_shop, name))[1] for name in products]
    assert sum(held) == 3 * count - RELEASE_LINES
    rest = 3 * count - RELEASE_LINES
    assert await either_shop.store.release(either_shop.bucket, carts) == rest
    assert await books(either_shop, products[-1]) == (3, 0, 0)


async def test_a_deadline_that_is_nobodys_is_forgotten(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add()
    keys = [either_shop.bucket.cart(owner) for owner in (ANN, BOB)]
    await either_shop.redis.zadd("holds:{default:0}", dict.fromkeys(keys, NOW_MS))
    assert await either_shop.store.release(either_shop.bucket, keys) == 0
    assert await either_shop.redis.exists("holds:{default:0}") == 0
    assert await books(either_shop) == (100, 0, 0)


async def test_lines_of_one_request_share_what_can_be_held(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", None)]
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=variants)
    too_many = (LineRequest("tee", 3, "navy"), LineRequest("tee", 3, "moss"))
    error = await refused(either_shop, OutOfStock, either_shop.add_lines(*too_many))
    # As it is, not as the line before it would have made it.
    assert (error.sku, error.free, error.in_cart) == ("tee/moss", 5, 0)
    await either_shop.add_lines(LineRequest("tee", 3, "navy"), LineRequest("tee", 2, "moss"))
    assert await books(either_shop, "tee") == (0, 5, 0)


# -- limits


async def test_a_buyers_limit_counts_cart_and_orders(either_shop: Shop) -> None:
    await either_shop.sell(max_per_buyer=3)
    error = await refused(either_shop, BuyerLimit, either_shop.add(4))
    assert (error.product_id, error.max_units, error.has) == (LAMP, 3, 0)
    await either_shop.add(2)
    error = await refused(either_shop, BuyerLimit, put(either_shop, 4))
    assert error.has == 2
    await close(either_shop)
    error = await refused(either_shop, BuyerLimit, either_shop.add(2))
    assert (error.max_units, error.has) == (3, 2)
    await either_shop.add(1)
    await close(either_shop)
    error = await refused(either_shop, BuyerLimit, either_shop.add(1))
    assert error.has == 3
    assert await books(either_shop) == (97, 0, 3)


async def test_a_buyers_limit_is_the_products_in_all_its_variants(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", 5)]
    await either_shop.sell("tee", variants=variants, max_per_buyer=4)
    both = (LineRequest("tee", 3, "navy"), LineRequest("tee", 2, "moss"))
    error = await refused(either_shop, BuyerLimit, either_shop.add_lines(*both))
    assert (error.product_id, error.has) == ("tee", 3)
    await either_shop.add(2, "tee", "navy")
    await either_shop.add(1, "tee", "moss")
    await close(either_shop)
    error = await refused(either_shop, BuyerLimit, either_shop.add(2, "tee"))
    assert error.has == 3
    assert units(await either_shop.add(1, "tee", "moss")) == {"tee/moss": 1}


async def test_a_buyers_limit_counts_variants_that_left(either_shop: Shop) -> None:
    rules: dict[str, Any] = {"max_per_buyer": 2, "stock_policy": "hold"}
    await either_shop.sell("tee", variants=[("navy", None), ("moss", None)], **rules)
    await either_shop.add(2, "tee", "navy")
    await either_shop.sell("tee", variants=[("moss", None)], **rules)
    await close(either_shop)
    error = await refused(either_shop, BuyerLimit, either_shop.add(1, "tee", "moss"))
    assert error.has == 2


@pytest.mark.parametrize("policy", ["hold", "untracked"])
async def test_units_that_are_not_ordered_are_not_counted(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock_policy=policy, max_per_buyer=3)
    await either_shop.add(3)
    await refused(either_shop, BuyerLimit, either_shop.add(1))
    await put(either_shop, 1)
    await either_shop.add(2)
    await remove(either_shop)
    await either_shop.add(3)
    for status in ("ABANDONED", "REMOVED"):
        await close(either_shop, status)
        assert units(await either_shop.add(3)) == {LAMP: 3}
    await save(either_shop)
    assert units(await take_back(either_shop)) == {LAMP: 3}
    assert await either_shop.redis.exists("buyers:{default:0}") == 0


async def test_units_that_were_released_are_not_counted(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold", max_per_buyer=3)
    await either_shop.add(3)
    either_shop.clock.ms += HOLD_MS
    assert units(await either_shop.add(3)) == {LAMP: 3}
    assert await books(either_shop) == (97, 3, 0)


async def test_buyers_are_counted_apart(either_shop: Shop) -> None:
    await either_shop.sell(max_per_buyer=3)
    await add(either_shop, GUEST, 3)
    await close(either_shop, owner=GUEST)
    assert units(await add(either_shop, USER, 3)) == {LAMP: 3}
    await refused(either_shop, BuyerLimit, add(either_shop, GUEST))
    assert await either_shop.redis.hgetall("buyers:{default:0}") == {
        f"{LAMP} 0 session:guest".encode(): b"3"
    }


async def test_a_sale_that_starts_anew_counts_anew(either_shop: Shop) -> None:
    first, second = moment(NOW_MS - 1_000), moment(NOW_MS + 1_000)
    await either_shop.sell(max_per_buyer=3, sale_starts_at=first)
    await either_shop.add(3)
    await close(either_shop)
    await refused(either_shop, BuyerLimit, either_shop.add())
    await either_shop.sell(max_per_buyer=3, sale_starts_at=second)
    either_shop.clock.ms += 1_000
    assert units(await either_shop.add(3)) == {LAMP: 3}


async def test_only_limited_products_are_counted_for_a_buyer(either_shop: Shop) -> None:
    await either_shop.sell(max_per_order=3)
    await either_shop.add(3)
    await close(either_shop)
    assert await either_shop.redis.exists("buyers:{default:0}") == 0
    assert units(await either_shop.add(3)) == {LAMP: 3}


async def test_a_limit_that_was_lowered_stops_the_order_of_what_is_not_held(
    either_shop: Shop,
) -> None:
    await either_shop.sell()
    await either_shop.add(5)
    await either_shop.sell(max_per_order=4)
    error = await refused(either_shop, OrderLimit, close(either_shop))
    assert (error.max_units, error.in_cart) == (4, 5)
    await either_shop.sell(max_per_buyer=4)
    assert (await refused(either_shop, BuyerLimit, close(either_shop))).has == 5
    await put(either_shop, 4)
    assert (await close(either_shop)).status == "CONVERTED"


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_orders_limit_counts_the_cart(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock_policy=policy, max_per_order=3)
    error = await refused(either_shop, OrderLimit, either_shop.add(4))
    assert (error.product_id, error.max_units, error.in_cart) == (LAMP, 3, 0)
    await either_shop.add(2)
    assert (await refused(either_shop, OrderLimit, either_shop.add(2))).in_cart == 2
    assert (await refused(either_shop, OrderLimit, put(either_shop, 4))).in_cart == 2
    assert units(await put(either_shop, 3)) == {LAMP: 3}


async def test_an_orders_limit_is_the_products_in_all_its_variants(either_shop: Shop) -> None:
    await either_shop.sell("tee", variants=[("navy", 9), ("moss", None)], max_per_order=4)
    await either_shop.add(3, "tee", "navy")
    error = await refused(either_shop, OrderLimit, either_shop.add(2, "tee", "moss"))
    assert (error.product_id, error.in_cart) == ("tee", 3)
    assert (await either_shop.add(1, "tee", "moss")).total_quantity == 4


async def test_saved_units_count_for_no_limit(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", None)]
    await either_shop.sell("tee", variants=variants, max_per_order=3, max_per_buyer=3)
    await either_shop.add(3, "tee", "navy")
    await save(either_shop, "tee/navy")
    await either_shop.add(3, "tee", "moss")
    await refused(either_shop, OrderLimit, take_back(either_shop, "tee/navy"))
    assert (await close(either_shop)).total_quantity == 3
    assert await books(either_shop, "tee") == (97, 0, 3)


async def test_the_least_of_an_order_is_asked_of_an_add(either_shop: Shop) -> None:
    await either_shop.sell(min_per_order=3)
    error = await refused(either_shop, BelowMinimum, either_shop.add(2))
    assert (error.product_id, error.min_units) == (LAMP, 3)
    assert units(await either_shop.add(3)) == {LAMP: 3}
    assert units(await either_shop.add(1)) == {LAMP: 4}


@pytest.mark.parametrize("policy", POLICIES)
async def test_the_least_of_an_order_is_asked_of_a_set(either_shop: Shop, policy: str) -> None:
    await either_shop.sell(stock_policy=policy, min_per_order=3)
    await either_shop.add(5)
    error = await refused(either_shop, BelowMinimum, put(either_shop, 2))
    assert error.min_units == 3
    assert units(await put(either_shop, 3)) == {LAMP: 3}
    assert (await remove(either_shop)).lines == []


async def test_variants_reach_the_least_of_an_order_together(either_shop: Shop) -> None:
    await either_shop.sell("tee", variants=[("navy", None), ("moss", 9)], min_per_order=3)
    await refused(either_shop, BelowMinimum, either_shop.add(2, "tee", "navy"))
    both = (LineRequest("tee", 2, "navy"), LineRequest("tee", 1, "moss"))
    await either_shop.add_lines(*both)
    await refused(either_shop, BelowMinimum, put(either_shop, 1, "tee/navy"))
    await remove(either_shop, "tee/moss")
    await refused(either_shop, BelowMinimum, close(either_shop))
    await either_shop.add(1, "tee", "moss")
    assert (await close(either_shop)).total_quantity == 3


async def test_the_least_of_an_order_is_asked_of_a_set_to_more(either_shop: Shop) -> None:
    await either_shop.sell()
    await either_shop.add(2)
    await either_shop.sell(min_per_order=5)
    await refused(either_shop, BelowMinimum, put(either_shop, 4))
    assert units(await put(either_shop, 5)) == {LAMP: 5}


async def test_the_least_of_an_order_is_asked_of_held_lines_too(either_shop: Shop) -> None:
    await either_shop.sell(stock_policy="hold")
    await either_shop.add(2)
    await either_shop.sell(stock_policy="hold", min_per_order=3)
    await refused(either_shop, BelowMinimum, close(either_shop))
    await refused(either_shop, BelowMinimum, put(either_shop, 1))
    await either_shop.add(1)
    await close(either_shop)
    assert await books(either_shop) == (97, 0, 3)


# -- windows


async def test_nothing_is_sold_before_the_sale(either_shop: Shop) -> None:
    starts = NOW_MS + 1_500
    await either_shop.sell(sale_starts_at=moment(starts), sale_ends_at=moment(starts + 1_000))
    error = await refused(either_shop, SaleNotStarted, either_shop.add())
    assert (error.product_id, error.starts_ms, error.wait_ms) == (LAMP, starts, 1_500)
    either_shop.clock.ms = starts - 1
    assert (await refused(either_shop, SaleNotStarted, either_shop.add())).wait_ms == 1
    either_shop.clock.ms = starts
    assert units(await either_shop.add()) == {LAMP: 1}


@pytest.mark.parametrize("policy", POLICIES)
async def test_nothing_is_sold_after_the_sale(either_shop: Shop, policy: str) -> None:
    ends = NOW_MS + 1_000
    await either_shop.sell(stock_policy=policy, sale_ends_at=moment(ends))
    either_shop.clock.ms = ends - 1
    await either_shop.add(2)
    either_shop.clock.ms = ends
    error = await refused(either_shop, SaleEnded, either_shop.add(1))
    assert (error.product_id, error.ends_ms) == (LAMP, ends)
    await refused(either_shop, SaleEnded, put(either_shop, 3))
    assert units(await put(either_shop, 1)) == {LAMP: 1}
    await save(either_shop)
    await refused(either_shop, SaleEnded, take_back(either_shop))


async def test_what_is_held_can_be_ordered_after_the_sale(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock_policy="hold", sale_ends_at=moment(NOW_MS + 1_000))
    await either_shop.sell(MUG, stock_policy="hold", sale_ends_at=moment(NOW_MS + 1_000))
    await either_shop.add(4, LAMP)
    await either_shop.add(1, MUG)
    either_shop.clock.ms += 1_000
    await put(either_shop, 3)
    await remove(either_shop, MUG)
    assert await books(either_shop, MUG) == (100, 0, 0)
    await close(either_shop)
    assert await books(either_shop) == (97, 0, 3)


@pytest.mark.parametrize("policy", ["check", "untracked"])
async def test_what_is_not_held_can_not_be_ordered_after_the_sale(
    either_shop: Shop, policy: str
) -> None:
    await either_shop.sell(stock_policy=policy, sale_ends_at=moment(NOW_MS + 1_000))
    await either_shop.add(4)
    either_shop.clock.ms += 1_000
    await refused(either_shop, SaleEnded, close(either_shop))
    assert (await close(either_shop, "ABANDONED")).status == "ABANDONED"


async def test_merge_moves_what_is_held_after_the_sale(either_shop: Shop) -> None:
    ends = moment(NOW_MS + 1_000)
    await either_shop.sell(LAMP, stock_policy="hold", sale_ends_at=ends)
    await either_shop.sell(MUG, sale_ends_at=ends)
    await add(either_shop, GUEST, 2, LAMP)
    await add(either_shop, GUEST, 3, MUG)
    either_shop.clock.ms += 1_000
    merged = await merge(either_shop)
    assert units(merged.cart) == {LAMP: 2}
    assert [(one.sku, one.moved, one.reason) for one in merged.unmerged] == [(MUG, 0, "SALE_ENDED")]
    assert await books(either_shop) == (98, 2, 0)


# -- policies that move


async def test_from_check_to_hold(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    await either_shop.add(3)
    await either_shop.sell(stock=5, stock_policy="hold")
    assert await books(either_shop) == (5, 0, 0)
    assert (await put(either_shop, 2)).lines[0].held_until_ms is None
    assert await books(either_shop) == (5, 0, 0)
    # All of the line is held with the next unit, or the unit is not granted.
    await add(either_shop, BOB, 3)
    error = await refused(either_shop, OutOfStock, either_shop.add(1))
    assert (error.free, error.in_cart) == (2, 2)
    await put(either_shop, 2, owner=BOB)
    cart = await either_shop.add(1)
    assert (units(cart), cart.lines[0].held_until_ms) == ({LAMP: 3}, NOW_MS + HOLD_MS)
    assert await books(either_shop) == (0, 5, 0)
    await close(either_shop)
    assert await books(either_shop) == (0, 2, 3)


async def test_what_was_not_held_is_asked_for_when_it_is_ordered(either_shop: Shop) -> None:
    await either_shop.sell(stock=5)
    await either_shop.add(3)
    await either_shop.sell(stock=5, stock_policy="hold")
    await add(either_shop, BOB, 3)
    error = await refused(either_shop, CartShort, close(either_shop))
    assert error.lines == [Shortage(LAMP, 2, 3)]
    await put(either_shop, 2)
    await close(either_shop)
    assert await books(either_shop) == (0, 3, 2)


async def test_from_hold_to_check(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(3)
    await either_shop.sell(stock=5, stock_policy="check")
    assert await books(either_shop) == (2, 3, 0)
    error = await refused(either_shop, OutOfStock, add(either_shop, BOB, 3))
    assert (error.free, error.in_cart) == (2, 0)
    assert (await put(either_shop, 2)).lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop) == (3, 2, 0)
    error = await refused(either_shop, OutOfStock, either_shop.add(4))
    assert (error.free, error.in_cart) == (5, 2)
    cart = await either_shop.add(3)
    assert (units(cart), cart.lines[0].held_until_ms) == ({LAMP: 5}, None)
    assert await books(either_shop) == (5, 0, 0)
    await close(either_shop)
    assert await books(either_shop) == (0, 0, 5)


async def test_what_is_held_is_not_counted_twice_when_it_is_checked(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", None)]
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=variants)
    await either_shop.add(2, "tee", "navy")
    await either_shop.sell("tee", stock=5, stock_policy="check", variants=variants)
    error = await refused(either_shop, OutOfStock, either_shop.add(4, "tee", "moss"))
    assert (error.free, error.in_cart) == (3, 0)
    assert (await either_shop.add(3, "tee", "moss")).total_quantity == 5
    assert await books(either_shop, "tee") == (3, 2, 0)


async def test_what_a_request_gives_back_is_there_for_its_next_line(either_shop: Shop) -> None:
    variants = [("navy", None), ("moss", None)]
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=variants)
    await either_shop.add(2, "tee", "navy")
    await either_shop.sell("tee", stock=5, stock_policy="check", variants=variants)
    both = (LineRequest("tee", 1, "navy"), LineRequest("tee", 2, "moss"))
    assert (await either_shop.add_lines(*both)).total_quantity == 5
    assert await books(either_shop, "tee") == (5, 0, 0)


@pytest.mark.parametrize("policy", ["check", "untracked"])
async def test_a_hold_outlives_the_policy_until_its_deadline(
    either_shop: Shop, policy: str
) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(5)
    await either_shop.sell(stock=5, stock_policy=policy)
    either_shop.clock.ms += HOLD_MS - 1
    assert (await read(either_shop)).notices == ()
    either_shop.clock.ms += 1
    assert (await read(either_shop)).notices == EXPIRED
    assert await books(either_shop) == (5, 0, 0)


async def test_from_hold_to_untracked(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="hold")
    await either_shop.add(3)
    await add(either_shop, BOB, 1)
    await either_shop.sell(stock=5, stock_policy="untracked")
    assert await books(either_shop) == (1, 4, 0)
    cart = await either_shop.add(10)
    assert (units(cart), cart.lines[0].held_until_ms) == ({LAMP: 13}, None)
    assert await books(either_shop) == (4, 1, 0)
    await close(either_shop)
    assert await books(either_shop) == (4, 1, 0)
    await close(either_shop, owner=BOB)
    assert await books(either_shop) == (4, 0, 1)


async def test_from_untracked_to_hold(either_shop: Shop) -> None:
    await either_shop.sell(stock=5, stock_policy="untracked")
    await either_shop.add(20)
    await either_shop.sell(stock=5, stock_policy="hold")
    error = await refused(either_shop, OutOfStock, either_shop.add(1))
    assert (error.free, error.in_cart) == (5, 20)
    short = await refused(either_shop, CartShort, close(either_shop))
    assert short.lines == [Shortage(LAMP, 5, 20)]
    assert units(await put(either_shop, 4)) == {LAMP: 4}
    assert await books(either_shop) == (5, 0, 0)
    await put(either_shop, 5)
    assert await books(either_shop) == (0, 5, 0)
    await close(either_shop)
    assert await books(either_shop) == (0, 0, 5)


async def test_a_variant_that_gets_a_counter_of_its_own(either_shop: Shop) -> None:
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=[("navy", None)])
    await either_shop.add(2, "tee", "navy")
    await add(either_shop, BOB, 1, "tee", "navy")
    await either_shop.sell("tee", stock=5, stock_policy="hold", variants=[("navy", 3)])
    assert await books(either_shop, "tee") == (2, 3, 0)
    assert await books(either_shop, "tee/navy") == (3, 0, 0)
    # Fewer stays where it is held; more moves all of the line to the counter of today.
    await put(either_shop, 1, "tee/navy")
    assert await books(either_shop, "tee") == (3, 2, 0)
    error = await refused(either_shop, OutOfStock, either_shop.add(3, "tee", "navy"))
    assert (error.sku, error.free, error.in_cart) == ("tee/navy", 3, 1)
    cart = await either_shop.add(2, "tee", "navy")
    assert cart.lines[0].held_until_ms == NOW_MS + HOLD_MS
    assert await books(either_shop, "tee") == (4, 1, 0)
    assert await books(either_shop, "tee/navy") == (0, 3, 0)
    await close(either_shop)
    await close(either_shop, owner=BOB)
    assert await books(either_shop, "tee") == (4, 0, 1)
    assert await books(either_shop, "tee/navy") == (0, 0, 3)


# -- stock


async def test_stock_that_is_added_is_free(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    await either_shop.add(10)
    level = await either_shop.shelf.add_stock(either_shop.bucket, LAMP, 5)
    assert (level.free, level.held, level.sold, level.received) == (5, 10, 0, 15)
    assert await received(either_shop) == 15
    await add(either_shop, BOB, 3)
    await close(either_shop, owner=BOB)
    assert await books(either_shop) == (2, 10, 3)
    await either_shop.shelf.add_stock(either_shop.bucket, LAMP, -2)
    assert await books(either_shop) == (0, 10, 3)
    assert await received(either_shop) == 13


async def test_no_more_is_on_hand_than_can_be_counted(either_shop: Shop) -> None:
    await either_shop.sell(stock=999_999_999, stock_policy="hold")
    await either_shop.add(9)
    with pytest.raises(OutcomeUnknown, match="at most 999999999"):
        await either_shop.shelf.add_stock(either_shop.bucket, LAMP, 1)
    assert await books(either_shop) == (999_999_990, 9, 0)


async def test_only_free_stock_is_taken_out(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    await either_shop.add(6)
    out = either_shop.shelf.add_stock(either_shop.bucket, LAMP, -5)
    error = await refused(either_shop, OutOfStock, out)
    assert (error.sku, error.free) == (LAMP, 4)
    assert await received(either_shop) == 10


async def test_stock_on_hand_is_what_is_free_and_what_is_held(either_shop: Shop) -> None:
    await either_shop.sell(stock=20, stock_policy="hold")
    await either_shop.add(5)
    await close(either_shop)
    await either_shop.add(10)
    assert await books(either_shop) == (5, 10, 5)
    level = await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 50)
    assert (level.free, level.held, level.sold) == (40, 10, 5)
    assert await books(either_shop) == (40, 10, 5)
    assert await received(either_shop) == 55
    await either_shop.shelf.set_stock(either_shop.bucket, LAMP, 10)
    assert await books(either_shop) == (0, 10, 5)
    assert await received(either_shop) == 15


async def test_stock_is_not_set_below_what_is_held(either_shop: Shop) -> None:
    await either_shop.sell(stock=20, stock_policy="hold")
    await either_shop.add(10)
    below = either_shop.shelf.set_stock(either_shop.bucket, LAMP, 9)
    error = await refused(either_shop, StockHeld, below)
    assert (error.sku, error.held) == (LAMP, 10)
    assert await received(either_shop) == 20


async def test_a_counter_is_made_by_a_set(either_shop: Shop) -> None:
    level = await either_shop.shelf.set_stock(either_shop.bucket, MUG, 7)
    assert (level.free, level.held, level.sold) == (7, 0, 0)
    assert await received(either_shop, MUG) == 7
    assert await either_shop.shelf.stock(either_shop.bucket, LAMP) is None


async def test_some_of_many_stocks_are_refused(either_shop: Shop) -> None:
    await either_shop.sell(LAMP, stock=20, stock_policy="hold")
    await either_shop.add(10)
    stocks = [(LAMP, 9), (MUG, 3)]
    held, made = await either_shop.shelf.set_stocks(either_shop.bucket, stocks)
    assert isinstance(held, StockHeld)
    assert not isinstance(made, StockHeld)
    assert (held.held, made.free) == (10, 3)
    assert await books(either_shop) == (10, 10, 0)


# -- where an error is


def place(file: str, text: str) -> str:
    """The one line of a file that raises an error of this text, as a message names it."""
    lines = scripts.read(file).splitlines()
    [number] = [
        number for number, line in enumerate(lines, start=1) if "error(" in line and text in line
    ]
    return f"{file}:{number}:"


async def _bad_record(shop: Shop) -> None:
    await shop.redis.hset("catalogue:{default:0}", LAMP, "{}")
    await shop.add()


async def _bad_line(shop: Shop) -> None:
    await shop.redis.hset("cart:{default:0}:session:ann", f"l:{LAMP}", "{}")
    await shop.add()


async def _bad_product(shop: Shop) -> None:
    row: dict[str, Any] = {"id": "new", "name": "New", "price": 1}
    product = catalog.product(catalog.row_of(row), "USD")
    await shop.shelf.put(shop.bucket, [product], {"new": -1})


PLACES: list[tuple[str, str, Callable[[Shop], Awaitable[object]]]] = [
    ("lib/bucket.lua", "a quantity is", lambda shop: shop.add(0)),
    ("lib/bucket.lua", "a quantity is", lambda shop: put(shop, 0)),
    ("lib/catalogue.lua", "is not readable", _bad_record),
    ("lib/terms.lua", "is not readable", _bad_line),
    ("product_put.lua", "stock is", _bad_product),
    ("stock_set.lua", "stock is", lambda shop: shop.shelf.set_stock(shop.bucket, LAMP, -1)),
    (
        "stock_add.lua",
        "at most",
        lambda shop: shop.shelf.add_stock(shop.bucket, LAMP, MAX_QUANTITY),
    ),
]


@pytest.mark.parametrize(("file", "text", "call"), PLACES)
async def test_an_error_names_its_file_and_line(
    shop: Shop, file: str, text: str, call: Callable[[Shop], Awaitable[object]]
) -> None:
    await shop.sell()
    await shop.add()
    with pytest.raises(OutcomeUnknown) as failed:
        await call(shop)
    assert place(file, text) in str(failed.value)
    assert "user_script" not in str(failed.value)
