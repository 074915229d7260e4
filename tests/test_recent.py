"""Large carts that a process has seen: told again only as long as they are as they were."""

import asyncio
from typing import Any

import msgspec
import pytest

from cartsvc.model import Cart, LineRequest
from cartsvc.recent import LARGE, RecentCarts
from cartsvc.store import Store
from tests.mutants import turns_red
from tests.shop import ANN, LAMP, NOW_MS, Mutant, Shop

PRODUCTS = [f"product-{number:02}" for number in range(LARGE)]
HOLD_MS = 60_000


@pytest.fixture
async def full(shop: Shop) -> Shop:
    """A shop whose process has seen Ann's large cart, with a lamp that is held for a minute."""
    for product_id in PRODUCTS:
        await shop.sell(product_id)
    await shop.sell(LAMP, stock_policy="hold", hold_ttl_s=HOLD_MS // 1000)
    lines = [LineRequest(product_id, 1) for product_id in (*PRODUCTS, LAMP)]
    await shop.add_lines(*lines)
    return shop


def elsewhere(shop: Shop) -> Store:
    """The store of another process."""
    return Store(shop.runner, max_lines=50, clock_ms=shop.clock)


async def calls(shop: Shop, command: str) -> int:
    stats: dict[str, Any] = await shop.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def read(shop: Shop) -> tuple[Cart, bool]:
    """Ann's cart, which is what Redis has; and whether it was put together anew."""
    before = await calls(shop, "hgetall")
    cart = await shop.store.read(shop.bucket, ANN)
    anew = await calls(shop, "hgetall") > before
    assert cart == await elsewhere(shop).read(shop.bucket, ANN)
    return cart, anew


async def test_a_cart_that_was_added_to_is_known(full: Shop) -> None:
    cart, anew = await read(full)
    assert (len(cart.lines), anew) == (LARGE + 1, False)


async def test_a_cart_that_was_read_is_known(full: Shop) -> None:
    full.store.recent = RecentCarts()
    assert [(await read(full))[1] for _ in range(3)] == [True, False, False]


async def test_what_others_change_is_told(full: Shop) -> None:
    await elsewhere(full).set_quantity(full.bucket, ANN, PRODUCTS[0], 7)
    cart, anew = await read(full)
    assert (cart.lines[0].quantity, anew) == (7, True)
    assert not (await read(full))[1]


async def test_a_version_that_comes_again_is_another(full: Shop) -> None:
    """As after a failover to a replica that lacked the last change."""
    key = full.bucket.cart(ANN)
    fields = {"updated": NOW_MS + 1, f"q:{PRODUCTS[0]}": 3}
    await full.redis.hset(key, mapping=fields)
    cart, _ = await read(full)
    assert cart.lines[0].quantity == 3


async def test_a_hold_that_ran_out_is_told_once(full: Shop) -> None:
    full.clock.ms += HOLD_MS
    gone = await full.store.read(full.bucket, ANN)
    assert [(notice.sku, notice.reason) for notice in gone.notices] == [(LAMP, "hold_expired")]
    assert (await full.store.read(full.bucket, ANN)).notices == ()


async def test_a_closed_cart_is_not_told(full: Shop) -> None:
    await elsewhere(full).close(full.bucket, ANN, "ABANDONED")
    await elsewhere(full).add(full.bucket, ANN, [LineRequest(LAMP, 2)])
    cart, _ = await read(full)
    assert [line.product_id for line in cart.lines] == [LAMP]


async def add(shop: Shop, *lines: LineRequest) -> tuple[Cart, bool]:
    """The cart after an add, which is what Redis has; and whether all of it was told."""
    before = await calls(shop, "hgetall")
    cart = await shop.add_lines(*lines)
    whole = await calls(shop, "hgetall") > before
    assert cart == await elsewhere(shop).read(shop.bucket, ANN)
    return cart, whole


async def test_of_an_add_only_the_change_is_told(full: Shop) -> None:
    await full.sell("tee", price="10.00")
    for lines in ([LineRequest(LAMP, 1)], [LineRequest("tee", 2), LineRequest(PRODUCTS[3], 4)]):
        full.clock.ms += 1_000
        _, whole = await add(full, *lines)
        assert not whole
    assert not (await read(full))[1]


async def test_a_saved_line_comes_back_by_an_add(full: Shop) -> None:
    await full.store.save_for_later(full.bucket, ANN, PRODUCTS[2])
    saved = await full.store.read(full.bucket, ANN)
    assert [line.product_id for line in saved.lines if line.saved] == [PRODUCTS[2]]
    cart, whole = await add(full, LineRequest(PRODUCTS[2], 1))
    assert ([line.saved for line in cart.lines], whole) == ([False] * (LARGE + 1), False)


async def test_of_an_add_behind_somebody_elses_change_all_is_told(full: Shop) -> None:
    await elsewhere(full).set_quantity(full.bucket, ANN, PRODUCTS[1], 7)
    assert (await add(full, LineRequest(LAMP, 1)))[1]


async def test_of_adds_at_once_each_is_told_rightly(full: Shop) -> None:
    """The second in a call is no more behind what the process has seen."""
    carts = await asyncio.gather(*(full.add_lines(LineRequest(LAMP, 1)) for _ in range(5)))
    last = await elsewhere(full).read(full.bucket, ANN)
    assert {cart.version for cart in carts} == {*range(last.version - 4, last.version + 1)}
    assert all(len(cart.lines) == LARGE + 1 for cart in carts)
    assert next(cart for cart in carts if cart.version == last.version) == last
    assert (await read(full))[0] == last


async def test_an_add_tells_what_there_is_to_tell(full: Shop) -> None:
    full.clock.ms += HOLD_MS
    # Taken back elsewhere, which tells nobody.
    await elsewhere(full).peek(full.bucket, ANN)
    cart = await full.add_lines(LineRequest(PRODUCTS[0], 1))
    assert [notice.sku for notice in cart.notices] == [LAMP]
    assert len(cart.lines) == LARGE


async def test_a_small_cart_is_put_together_each_time(full: Shop) -> None:
    await full.store.remove(full.bucket, ANN, LAMP, PRODUCTS[0])
    assert [(await read(full))[1] for _ in range(2)] == [True, True]


async def test_it_has_an_end(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartsvc.recent._MOST_LINES", 2 * (LARGE + 1))
    cart = await full.store.read(full.bucket, ANN)
    recent = RecentCarts()
    for key in "abc":
        recent.remember(key, cart)
    assert [recent.get(key) for key in "abc"] == [None, cart, cart]


async def test_guards(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartsvc.store.is_same", lambda *_: True)
    await turns_red(test_what_others_change_is_told(full))


async def test_guard_of_notices(full: Shop) -> None:
    remember = full.store.recent.remember

    def all_of_it(key: str, cart: Cart) -> None:
        remember(key, msgspec.structs.replace(cart, notices=()))
        remembered = full.store.recent.get(key)
        if remembered:
            full.store.recent._carts[key] = cart

    full.store.recent.remember = all_of_it  # type: ignore[method-assign]
    await turns_red(test_a_hold_that_ran_out_is_told_once(full))


@pytest.mark.parametrize(
    ("old", "new", "case"),
    [
        ("known == table.concat(", "true or known == table.concat(", 0),
        ("{ 'q:', 'l:', 'h:', 'u:' }", "{ 'q:', 'l:', 'u:' }", 1),
        ("{ 'q:', 'l:', 'h:', 'u:' }", "{ 'q:', 'l:', 'h:' }", 1),
    ],
)
async def test_guards_of_the_script(full: Shop, old: str, new: str, case: int) -> None:
    cases = [
        test_of_an_add_behind_somebody_elses_change_all_is_told,
        test_of_an_add_only_the_change_is_told,
    ]
    full.store.runner = Mutant(full.runner, "cart_add.lua", old, new)
    full.store.adds.runner = full.store.runner
    await turns_red(cases[case](full))


async def test_guard_of_holds(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartsvc.store._can_be_shown", lambda *_: True)
    await turns_red(test_a_hold_that_ran_out_is_told_once(full))
