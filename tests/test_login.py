"""A guest who logs in: contract 001, tenant, over HTTP, where both carts become one, once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from cartsvc.clock import wall_ms
from cartsvc.http import timestamp
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest
from tests.carts import books
from tests.shop import LAMP, MUG, Shop
from tests.storefront import (
    CUSTOMER,
    GUEST,
    SECOND_CART,
    SESSION,
    SHOPPER,
    add,
    cart,
    failure,
    headers,
    item,
    open_tenant,
    path_of,
    shown,
    token,
)

AS_GUEST = headers()
LOGGED_IN = headers(bearer=token())
MERGED: dict[str, Any] = {"sessionId": SESSION, "clamped": []}

Request = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]

REQUESTS: dict[str, tuple[Request, list[dict[str, Any]]]] = {
    "POST": (lambda http: add(http, LOGGED_IN), [item(1, MUG), item(3, line=2)]),
    "GET": (
        lambda http: http.get("/cart", headers=LOGGED_IN),
        [item(1, MUG), item(2, line=2)],
    ),
    "PUT": (
        lambda http: http.put(path_of(), json={"quantity": 5}, headers=LOGGED_IN),
        [item(5, MUG), item(2, line=2)],
    ),
    "DELETE an item": (
        lambda http: http.delete(path_of(), headers=LOGGED_IN),
        [item(2, line=2)],
    ),
    "DELETE": (lambda http: http.delete("/cart", headers=LOGGED_IN), []),
}
"""A request, and the items of a customer with a mug, who as a guest took two lamps."""


@pytest.fixture
async def both(http: httpx.AsyncClient, shop: Shop) -> None:
    """The customer has a mug in the first cart; the guest has two lamps in the second."""
    await shop.sell(LAMP)
    await shop.sell(MUG)
    await shop.add_lines(LineRequest(MUG, 1), owner=SHOPPER)
    await add(http, AS_GUEST, 2, LAMP)


def merge_of(*clamped: tuple[str, str | None, int, int, str]) -> dict[str, Any]:
    names = ("productId", "productVariantId", "requested", "merged", "reason")
    return {
        "sessionId": SESSION,
        "clamped": [dict(zip(names, one, strict=True)) for one in clamped],
    }


async def guests_cart(http: httpx.AsyncClient) -> Any:
    return shown(await http.get("/cart", headers=AS_GUEST))


async def my_cart(http: httpx.AsyncClient) -> Any:
    return shown(await http.get("/cart", headers=LOGGED_IN))


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(("request_", "items"), REQUESTS.values(), ids=REQUESTS)
async def test_the_first_request_merges_and_says_so(
    http: httpx.AsyncClient, request_: Request, items: list[dict[str, Any]]
) -> None:
    answer = await request_(http)
    assert answer.headers["X-Session-ID"] == SESSION
    assert shown(answer) == cart(*items, user=CUSTOMER, merge=MERGED)
    assert await my_cart(http) == cart(*items, user=CUSTOMER)
    assert await guests_cart(http) == cart(id_=None)


async def test_who_has_no_cart_takes_over_the_guests_items(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell("tee", variants=[("s", None)])
    await add(http, AS_GUEST, 2, "tee", "s")
    mine = item(2, "tee", cart=SECOND_CART, variant_id="s")
    assert await my_cart(http) == cart(mine, id_=SECOND_CART, user=CUSTOMER, merge=MERGED)
    assert await my_cart(http) == cart(mine, id_=SECOND_CART, user=CUSTOMER)


async def test_a_guest_who_comes_back_logs_in_again(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    for units in (2, 4):
        await add(http, AS_GUEST, 2)
        answer = await my_cart(http)
        assert (answer["merge"], answer["cartItems"][0]["quantity"]) == (MERGED, units)


async def test_without_a_session_nothing_is_merged(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    await add(http, AS_GUEST, 2)
    answer = await add(http, headers(None, bearer=token()))
    assert "merge" not in answer.json()
    assert await guests_cart(http) == cart(item(2))


async def test_a_session_without_a_cart_is_no_merge(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    answer = await add(http, LOGGED_IN)
    assert shown(answer) == cart(item(1), user=CUSTOMER)


async def test_a_guest_of_another_tenant_is_another_guest(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger
) -> None:
    acme = await open_tenant("acme", shop, api_ledger)
    await acme.sell()
    theirs = headers(tenant="acme")
    await add(http, theirs, 2)
    assert await my_cart(http) == cart(id_=None, user=CUSTOMER)
    left = await http.get("/cart", headers=theirs)
    assert shown(left) == cart(item(2), tenant="acme")


async def test_clamped_by_the_stock(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=5)
    await shop.add_lines(LineRequest(LAMP, 4), owner=SHOPPER)
    await add(http, AS_GUEST, 3)
    assert await my_cart(http) == cart(
        item(5), user=CUSTOMER, merge=merge_of((LAMP, None, 3, 1, "out_of_stock"))
    )
    assert await my_cart(http) == cart(item(5), user=CUSTOMER)


async def test_clamped_by_the_limit_of_an_order(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell("tee", variants=[("s", None)], max_per_order=4)
    await shop.add_lines(LineRequest("tee", 3, "s"), owner=SHOPPER)
    await add(http, AS_GUEST, 3, "tee", "s")
    assert await my_cart(http) == cart(
        item(4, "tee", variant_id="s"),
        user=CUSTOMER,
        merge=merge_of(("tee", "s", 3, 1, "order_limit")),
    )


async def test_clamped_by_the_cap_of_lines(http: httpx.AsyncClient, shop: Shop) -> None:
    products = [f"product-{number}" for number in range(51)]
    for product_id in products:
        await shop.sell(product_id)
    await shop.add_lines(*(LineRequest(one, 1) for one in products[:49]), owner=SHOPPER)
    await shop.add_lines(LineRequest(products[49], 2), LineRequest(products[50], 3), owner=GUEST)
    answer = await my_cart(http)
    assert answer["merge"] == merge_of((products[50], None, 3, 0, "cart_full"))
    assert [one["quantity"] for one in answer["cartItems"]] == [1] * 49 + [2]


async def test_clamped_where_nothing_is_sold_any_more(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    await add(http, AS_GUEST, 3)
    await shop.sell(active=False)
    merge = merge_of((LAMP, None, 3, 0, "inactive_product"))
    assert await my_cart(http) == cart(id_=SECOND_CART, user=CUSTOMER, merge=merge)


async def test_a_hold_moves_with_its_deadline(http: httpx.AsyncClient, shop: Shop) -> None:
    # Held two minutes ago: a hold that began anew would run out two minutes later.
    shop.clock.ms = wall_ms() - 120_000
    await shop.sell(stock=3, stock_policy="hold", hold_ttl_s=600)
    await shop.add_lines(LineRequest(LAMP, 3), owner=GUEST)
    held_until = timestamp(shop.clock.ms + 600_000)
    assert (await guests_cart(http))["cartItems"] == [item(3, heldUntil=held_until)]
    assert await my_cart(http) == cart(
        item(3, cart=SECOND_CART, heldUntil=held_until),
        id_=SECOND_CART,
        user=CUSTOMER,
        merge=MERGED,
    )
    assert await books(shop) == (0, 3, 0)


async def test_many_first_requests_at_once_merge_once(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=13, stock_policy="hold")
    await add(http, AS_GUEST, 3)
    answers = await asyncio.gather(*(add(http, LOGGED_IN) for _ in range(10)))
    assert [answer.status_code for answer in answers] == [201] * 10
    assert [one.json()["merge"] for one in answers if "merge" in one.json()] == [MERGED]
    assert await books(shop) == (0, 13, 0)
    [mine] = (await my_cart(http))["cartItems"]
    assert mine["quantity"] == 13
    assert (await guests_cart(http))["cartItems"] == []


async def test_a_guest_who_goes_on_adding_meanwhile_loses_nothing(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell(stock=20, stock_policy="hold")
    requests = [add(http, sent) for _ in range(10) for sent in (AS_GUEST, LOGGED_IN)]
    answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers] == [201] * 20
    assert await books(shop) == (0, 20, 0)
    [mine] = (await my_cart(http))["cartItems"]
    assert mine["quantity"] == 20


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (lambda http: add(http, LOGGED_IN, 1, "nothing"), 404, "Product not found"),
        (
            lambda http: add(http, LOGGED_IN, 200),
            400,
            "Insufficient stock. Available: 100, already in cart: 2",
        ),
        (
            lambda http: http.put("/cart/items/1", json={"quantity": 1}, headers=LOGGED_IN),
            404,
            "Item not found in cart",
        ),
        (
            lambda http: http.delete("/cart/items/1", headers=LOGGED_IN),
            404,
            "Item not found in cart",
        ),
    ],
    ids=["unknown product", "out of stock", "PUT of no item", "DELETE of no item"],
)
async def test_a_refusal_tells_of_the_merge_which_stands(
    http: httpx.AsyncClient, request_: Request, status: int, message: str
) -> None:
    answer = await request_(http)
    assert answer.status_code == status
    assert answer.json() == failure(status, message, merge=MERGED)
    again = await request_(http)
    assert again.json() == failure(status, message)
    assert await my_cart(http) == cart(item(1, MUG), item(2, line=2), user=CUSTOMER)
    assert await guests_cart(http) == cart(id_=None)


BAD_BEARERS = {
    "garbage": "garbage",
    "expired": token(ttl_s=-1),
    "of another secret": token(secret="another secret, also of 32 characters"),
    "of another tenant": token(tenant="acme"),
    "of an admin": token("user"),
    "of a service": token("service"),
}


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("name", BAD_BEARERS)
async def test_a_bad_token_merges_nothing(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    before = await shop.everything()
    sent = headers(bearer=BAD_BEARERS[name])
    for answer in (
        await add(http, sent),
        await http.get("/cart", headers=sent),
        await http.delete("/cart", headers=sent),
        await http.put(path_of(), json={"quantity": 5}, headers=sent),
        await http.delete(path_of(), headers=sent),
    ):
        assert answer.status_code == 401
        assert answer.json() == failure(401, "Invalid authentication token")
    assert await shop.everything() == before


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"productId":"x"}', b'{"productId":"x","quantity":0}']
)
async def test_a_malformed_body_merges_nothing(
    http: httpx.AsyncClient, shop: Shop, content: bytes
) -> None:
    before = await shop.everything()
    for method, path in (("POST", "/cart/items"), ("PUT", path_of())):
        answer = await http.request(method, path, content=content, headers=LOGGED_IN)
        assert (answer.status_code, "merge" in answer.json()) == (400, False)
    assert await shop.everything() == before


@pytest.fixture
async def expired(http: httpx.AsyncClient, shop: Shop) -> None:
    """A guest whose hold of 2 lamps has run out; somebody else has them by now."""
    await shop.sell(stock=2, stock_policy="hold")
    # By the test's clock, which stands long before the service's.
    await shop.add_lines(LineRequest(LAMP, 2), owner=GUEST)
    assert (await add(http, headers("bob"), 2)).status_code == 201


TOLD = f"hold_expired; sku={LAMP}; quantity=2"


@pytest.mark.usefixtures("expired")
async def test_what_the_guest_was_not_told_the_customer_is(http: httpx.AsyncClient) -> None:
    notice = {"productId": LAMP, "productVariantId": None, "quantity": 2, "reason": "hold_expired"}
    answer = await http.get("/cart", headers=LOGGED_IN)
    assert answer.headers["x-cart-notice"] == TOLD
    mine = shown(answer)
    assert mine == cart(id_=int(mine["id"]), user=CUSTOMER, merge=MERGED, notices=[notice])
    again = await http.get("/cart", headers=LOGGED_IN)
    assert "x-cart-notice" not in again.headers
    assert "notices" not in again.json()


@pytest.mark.usefixtures("expired")
async def test_a_refusal_after_a_merge_tells_the_notices_too(http: httpx.AsyncClient) -> None:
    answer = await add(http, LOGGED_IN)
    assert answer.headers["x-cart-notice"] == TOLD
    message = "Insufficient stock. Available: 0"
    assert answer.json() == failure(400, message, merge=MERGED)
