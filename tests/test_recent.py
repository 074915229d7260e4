"""Large carts that a process has seen: told again only as long as they are as they were."""

from typing import Any

import msgspec
import pytest

from cartsvc.model import Cart, LineRequest
from cartsvc.recent import LARGE, RecentCarts
from cartsvc.store import Store
from tests.mutants import turns_red
from tests.shop import ANN, LAMP, NOW_MS, Shop

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


async def test_a_small_cart_is_put_together_each_time(full: Shop) -> None:
    await full.store.remove(full.bucket, ANN, LAMP, PRODUCTS[0])
    assert [(await read(full))[1] for _ in range(2)] == [True, True]


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


async def test_guard_of_holds(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartsvc.store._can_be_shown", lambda *_: True)
    await turns_red(test_a_hold_that_ran_out_is_told_once(full))
