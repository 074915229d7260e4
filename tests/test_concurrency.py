"""Many at once, over HTTP: nothing oversold, no update lost."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest

from cartsvc.errors import CartShort, NoCart
from cartsvc.model import Cart, LineRequest, Owner, StockLevel
from tests.callers import NO_TLS
from tests.rush import rush
from tests.shop import ANN, LAMP, MUG, Shop


def add(product_id: str = LAMP, session_id: str = "ann") -> dict[str, object]:
    return {"product_id": product_id, "quantity": 1, "session_id": session_id}


async def test_500_at_once_leave_what_is_in_stock(api_url: str, shop: Shop) -> None:
    await shop.sell(stock=100)
    answers = await rush(api_url, "/api/cart", [add()] * 500)
    assert Counter(answer.status for answer in answers) == {200: 100, 400: 400}
    # Every success saw its own add: no reply went to another request.
    totals = [a.body["data"]["cart"]["total_items"] for a in answers if a.status == 200]
    assert sorted(totals) == list(range(1, 101))
    cart = await shop.redis.hgetall("cart:{default:0}:session:ann")
    assert (cart[f"q:{LAMP}".encode()], cart[b"version"]) == (b"100", b"100")
    assert await shop.redis.hget("stock:{default:0}", LAMP) == b"100"


async def test_200_at_once_lose_none(api_url: str, shop: Shop) -> None:
    await shop.sell(LAMP, stock=1_000)
    await shop.sell(MUG, stock=1_000)
    answers = await rush(api_url, "/api/cart", [add(LAMP), add(MUG)] * 100)
    assert {answer.status for answer in answers} == {200}
    cart = await shop.redis.hgetall("cart:{default:0}:session:ann")
    assert [cart[f"q:{id_}".encode()] for id_ in (LAMP, MUG)] == [b"100", b"100"]
    assert (cart[b"version"], cart[b"lines"], cart[b"last_line"]) == (b"200", b"2", b"2")


async def test_carts_made_at_once_have_ids_of_their_own(api_url: str, shop: Shop) -> None:
    await shop.sell(stock=1_000)
    names = [f"shopper-{number}" for number in range(200)]
    answers = await rush(api_url, "/api/cart", [add(session_id=name) for name in names])
    assert [answer.body["data"]["session_id"] for answer in answers] == names
    index = await shop.redis.hgetall("carts:{default:0}")
    assert {int(cart_id) for cart_id in index} == {256 * n for n in range(1, 201)}
    assert len(set(index.values())) == 200


async def test_held_units_go_to_as_many_as_there_are(api_url: str, shop: Shop) -> None:
    """2,000 shoppers want one of 100 held units, 500 at once; 40 leave, and 40 more get in."""
    await shop.sell(stock=100, stock_policy="hold")
    shoppers = [f"shopper-{number}" for number in range(2_000)]

    async def served(names: Sequence[str]) -> list[str]:
        lucky = []
        for first in range(0, len(names), 500):
            wave = names[first : first + 500]
            answers = await rush(api_url, "/api/cart", [add(session_id=name) for name in wave])
            for name, answer in zip(wave, answers, strict=True):
                assert answer.status in {200, 400}
                if answer.status == 200:
                    lucky.append(name)
                else:
                    assert answer.body["error"]["code"] == "insufficient_stock"
        return lucky

    lucky = await served(shoppers)
    assert len(lucky) == 100
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 0, 100, 0)
    async with httpx.AsyncClient(base_url=api_url, verify=NO_TLS) as http:
        for name in lucky[:40]:
            left = await http.delete(f"/api/cart/items/{LAMP}", params={"session_id": name})
            assert left.status_code == 200
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 40, 60, 0)
    others = [name for name in shoppers if name not in lucky]
    assert len(await served(others)) == 40
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 0, 100, 0)


@pytest.mark.parametrize(("expired", "served"), [(30, 30), (700, 300)])
async def test_many_at_once_for_units_whose_holds_ran_out(
    api_url: str, shop: Shop, expired: int, served: int
) -> None:
    """No sweep runs here: whoever finds too little releases what has run out, and gets it."""
    await shop.sell(stock=expired, stock_policy="hold")
    for number in range(expired):
        # By the test's clock, which stands long before the service's.
        await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", f"gone-{number}"))
    answers = await rush(
        api_url, "/api/cart", [add(session_id=f"new-{number}") for number in range(300)]
    )
    assert Counter(answer.status for answer in answers) == Counter({200: served, 400: 300 - served})
    level = await shop.shelf.stock(shop.bucket, LAMP)
    assert level
    assert (level.free + level.held, level.sold) == (expired, 0)
    # Those that ran out and nobody needed are still held, and no others.
    gone = await shop.redis.zcount(shop.bucket.holds, 0, shop.clock.ms + 600_000)
    assert level.held == served + gone


async def test_conversions_at_once_sell_no_more_than_there_is(shop: Shop) -> None:
    """Twenty carts, each allowed under `check`, want 5 units at the same time."""
    await shop.sell(stock=5)
    shoppers = [Owner("session", f"shopper-{number}") for number in range(20)]
    for shopper in shoppers:
        await shop.add_lines(LineRequest(LAMP, 1), owner=shopper)
    done = await asyncio.gather(
        *(shop.store.close(shop.bucket, shopper, "CONVERTED") for shopper in shoppers),
        return_exceptions=True,
    )
    assert Counter(type(one) for one in done) == {Cart: 5, CartShort: 15}
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 0, 0, 5)


async def test_one_cart_is_converted_once(shop: Shop) -> None:
    await shop.sell(stock=50, stock_policy="hold")
    await shop.add(5)
    done = await asyncio.gather(
        *(shop.store.close(shop.bucket, ANN, "CONVERTED") for _ in range(20)),
        return_exceptions=True,
    )
    assert Counter(type(one) for one in done) == {Cart: 1, NoCart: 19}
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 45, 0, 5)
