"""Contract 000, session: over HTTP, against the service as it runs."""

import re
from typing import Any

import httpx
import pytest

from cartsvc.contracts import session
from cartsvc.errors import InactiveProduct, Invalid, NotWarm, OutcomeUnknown
from tests.shop import LAMP, Shop

REQUEST = {"product_id": LAMP, "quantity": 2, "session_id": "optional_session_id"}


async def add(http: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    body = {name: value for name, value in {**REQUEST, **changes}.items() if value is not None}
    return await http.post("/api/cart", json=body)


async def test_the_contracts_own_example(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(price="29.99")
    answer = await add(http)
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    updated_at = body["data"]["cart"].pop("updated_at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", updated_at)
    assert body == {
        "success": True,
        "data": {
            "session_id": "optional_session_id",
            "cart": {
                "items": [
                    {
                        "product_id": LAMP,
                        "product_name": "Aurora Desk Lamp",
                        "price": 29.99,
                        "quantity": 2,
                        "subtotal": 59.98,
                    }
                ],
                "total_items": 2,
                "total_amount": 59.98,
            },
        },
        "message": "Item added to cart successfully",
    }


async def test_makes_a_session_when_there_is_none(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    answers = [await add(http, session_id=None) for _ in range(2)]
    made = [answer.json()["data"]["session_id"] for answer in answers]
    assert made[0] != made[1]
    # 128 random bits are 22 characters of base64.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,128}", session_id) for session_id in made)
    again = await add(http, session_id=made[0])
    assert again.json()["data"]["cart"]["total_items"] == 4


async def test_a_null_session_is_none(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    answer = await http.post("/api/cart", json={**REQUEST, "session_id": None})
    assert answer.status_code == 200


async def test_money_has_two_decimals(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(price="12.50")
    answer = await add(http)
    assert b'"price":12.50,' in answer.content
    assert b'"total_amount":25.00,' in answer.content


async def test_two_spellings_of_an_object_id_are_one_product(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    product_id = "507f1f77bcf86cd7994390ab"
    await shop.sell(product_id)
    await add(http, product_id=product_id)
    answer = await add(http, product_id=product_id.upper())
    assert [item["quantity"] for item in answer.json()["data"]["cart"]["items"]] == [4]


@pytest.mark.parametrize("quantity", [1, 100])
async def test_takes_1_to_100(http: httpx.AsyncClient, shop: Shop, quantity: int) -> None:
    await shop.sell()
    assert (await add(http, quantity=quantity)).status_code == 200


async def test_insufficient_stock(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=3)
    await add(http, quantity=2)
    before = await shop.everything()
    answer = await add(http, quantity=2)
    assert answer.status_code == 400
    assert answer.json() == {
        "success": False,
        "message": "Insufficient stock. Available: 3, already in cart: 2",
        "error": {"code": "insufficient_stock", "available": 3, "in_cart": 2},
    }
    assert await shop.everything() == before


async def test_sold_out(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=0)
    answer = await add(http, quantity=1)
    assert answer.status_code == 400
    assert answer.json()["message"] == "Insufficient stock. Available: 0"


@pytest.mark.parametrize("sold", [None, False])
async def test_unknown_and_inactive_products_are_not_found(
    http: httpx.AsyncClient, shop: Shop, sold: bool | None
) -> None:
    if sold is not None:
        await shop.sell(active=sold)
    answer = await add(http)
    assert answer.status_code == 404
    assert answer.json() == {
        "success": False,
        "message": "Product not found or not available",
        "error": {"code": "product_not_found"},
    }


async def test_the_51st_line_is_refused(http: httpx.AsyncClient, shop: Shop) -> None:
    products = [f"{number:024x}" for number in range(51)]
    for product_id in products:
        await shop.sell(product_id)
    statuses = [(await add(http, product_id=product_id)).status_code for product_id in products]
    assert statuses == [200] * 50 + [400]
    answer = await add(http, product_id=products[50])
    assert answer.json() == {
        "success": False,
        "message": "Cart is full: at most 50 items",
        "error": {"code": "cart_full", "max_items": 50},
    }
    more = await add(http, product_id=products[0], quantity=1)
    assert more.json()["data"]["cart"]["total_items"] == 101


async def test_items_come_in_the_order_of_addition(http: httpx.AsyncClient, shop: Shop) -> None:
    # More lines than Redis keeps in the order in which they were written.
    products = [f"{number:024x}" for number in range(50, 0, -1)]
    for product_id in products:
        await shop.sell(product_id)
        answer = await add(http, product_id=product_id, quantity=1)
    items = answer.json()["data"]["cart"]["items"]
    assert [item["product_id"] for item in items] == products


async def test_other_methods_and_paths(http: httpx.AsyncClient) -> None:
    wrong_method = await http.delete("/api/cart")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    assert wrong_method.json() == {
        "success": False,
        "message": "Method Not Allowed",
        "error": {"code": "method_not_allowed"},
    }
    wrong_path = await http.post("/api/carted")
    assert (wrong_path.status_code, wrong_path.json()["success"]) == (404, False)


async def test_a_tenant_that_is_not_warm_is_503(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.redis.flushall()
    answer = await add(http)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "success": False,
        "message": "Cart service is not available now, please try again",
        "error": {"code": "unavailable"},
    }
    assert await shop.everything() == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("session_id", ""), 400),
        (InactiveProduct("lamp"), 404),
        (NotWarm(), 503),
        (OutcomeUnknown("connection lost"), 503),
        (ZeroDivisionError("a bug"), 500),
    ],
)
def test_every_error_has_an_answer(error: Exception, status: int) -> None:
    answer = session.refuse(error)
    assert answer.status == status
    assert b'"success":false' in answer.body
    assert b"a bug" not in answer.body
