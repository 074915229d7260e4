"""Contract 000, session: over HTTP, against the service as it runs."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from cartsvc.contracts import session
from cartsvc.errors import InactiveProduct, Invalid, NotWarm, OutcomeUnknown
from cartsvc.model import LineRequest, Owner
from tests.shop import LAMP, MUG, Shop

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
    wrong_method = await http.patch("/api/cart")
    allowed = set(wrong_method.headers["allow"].split(", "))
    assert (wrong_method.status_code, allowed) == (405, {"DELETE", "GET", "POST"})
    assert wrong_method.json() == {
        "success": False,
        "message": "Method Not Allowed",
        "error": {"code": "method_not_allowed"},
    }
    # A head alone would swallow what the owner has to be told.
    assert (await http.head("/api/cart", params=SHOPPER)).status_code == 405
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


ITEM = f"/api/cart/items/{LAMP}"
SHOPPER = {"session_id": "optional_session_id"}


async def test_a_cart_is_read_changed_and_emptied(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(price="29.99")
    added = (await add(http)).json()
    read = await http.get("/api/cart", params=SHOPPER)
    assert read.json() == {**added, "message": "Cart retrieved successfully"}
    changed = await http.put(ITEM, params=SHOPPER, json={"quantity": 5})
    assert (changed.status_code, changed.json()["data"]["cart"]["total_items"]) == (200, 5)
    assert changed.json()["message"] == "Cart item updated successfully"
    removed = await http.delete(ITEM, params=SHOPPER)
    assert removed.json()["data"]["cart"]["items"] == []
    assert removed.json()["message"] == "Item removed from cart successfully"
    await add(http)
    cleared = await http.delete("/api/cart", params=SHOPPER)
    assert cleared.json()["data"]["cart"]["total_items"] == 0
    assert cleared.json()["message"] == "Cart cleared successfully"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_who_has_no_cart_has_an_empty_one(
    http: httpx.AsyncClient, shop: Shop, method: str
) -> None:
    before = await shop.everything()
    answer = await http.request(method, "/api/cart", params=SHOPPER)
    assert answer.status_code == 200
    cart = answer.json()["data"]["cart"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", cart.pop("updated_at"))
    assert cart == {"items": [], "total_items": 0, "total_amount": 0}
    assert await shop.everything() == before


async def test_an_item_that_is_not_in_the_cart(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    for _ in range(2):
        for answer in (
            await http.put(ITEM, params=SHOPPER, json={"quantity": 5}),
            await http.delete(ITEM, params=SHOPPER),
        ):
            assert answer.status_code == 404
            assert answer.json() == {
                "success": False,
                "message": "Item not found in cart",
                "error": {"code": "item_not_found"},
            }
        await shop.sell(MUG)
        await add(http, product_id=MUG)


@pytest.mark.parametrize(
    ("query", "path", "code"),
    [
        ("", ITEM, "invalid_session_id"),
        ("session_id=", ITEM, "invalid_session_id"),
        ("session_id=a&session_id=b", ITEM, "invalid_session_id"),
        ("session_id=a%7Db", ITEM, "invalid_session_id"),
        ("session_id=%ff", ITEM, "invalid_session_id"),
        ("session_id=a", "/api/cart/items/lamp", "invalid_product_id"),
        ("session_id=a", f"/api/cart/items/{LAMP}%2Fs", None),
    ],
)
async def test_malformed_addresses(
    http: httpx.AsyncClient, shop: Shop, query: str, path: str, code: str | None
) -> None:
    before = await shop.everything()
    answer = await http.put(f"{path}?{query}", json={"quantity": 1})
    assert answer.status_code == (400 if code else 404)
    assert answer.json()["error"]["code"] == (code or "not_found")
    assert await shop.everything() == before


@pytest.mark.parametrize("content", [b"", b"{}", b'{"quantity":0}', b'{"quantity":101}', b"[]"])
async def test_malformed_quantities(http: httpx.AsyncClient, shop: Shop, content: bytes) -> None:
    await shop.sell()
    await add(http)
    before = await shop.everything()
    answer = await http.put(ITEM, params=SHOPPER, content=content)
    assert answer.status_code == 400
    assert await shop.everything() == before


@pytest.fixture
async def expired(http: httpx.AsyncClient, shop: Shop) -> None:
    """A cart whose hold of 2 lamps has run out; somebody else has them by now."""
    await shop.sell(stock=2, stock_policy="hold", hold_ttl_s=1)
    # By the test's clock, which stands long before the service's.
    await shop.add_lines(LineRequest(LAMP, 2), owner=Owner("session", "optional_session_id"))
    await shop.sell(stock=2, stock_policy="hold")
    assert (await add(http, session_id="bob")).status_code == 200


@pytest.mark.usefixtures("expired")
async def test_the_next_response_tells_of_a_released_line(http: httpx.AsyncClient) -> None:
    refused = await add(http)
    told = f"hold_expired; sku={LAMP}; quantity=2"
    assert (refused.status_code, refused.headers["x-cart-notice"]) == (400, told)
    read = await http.get("/api/cart", params=SHOPPER)
    assert (read.status_code, read.headers["x-cart-notice"]) == (200, told)
    assert read.json()["data"]["notices"] == [
        {"product_id": LAMP, "quantity": 2, "reason": "hold_expired"}
    ]
    again = await http.get("/api/cart", params=SHOPPER)
    assert "x-cart-notice" not in again.headers
    assert "notices" not in again.json()["data"]


async def test_a_held_item_says_until_when(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock_policy="hold", hold_ttl_s=60)
    await shop.sell(MUG)
    await add(http, product_id=MUG)
    cart = (await add(http)).json()["data"]["cart"]
    mug, lamp = cart["items"]
    assert "held_until" not in mug
    held_until = datetime.fromisoformat(lamp["held_until"])
    assert held_until - datetime.fromisoformat(cart["updated_at"]) == timedelta(seconds=60)


async def test_a_sale_that_has_not_begun_says_when(http: httpx.AsyncClient, shop: Shop) -> None:
    starts = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=100)
    await shop.sell(sale_starts_at=starts)
    answer = await add(http)
    when = starts.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert answer.status_code == 400
    assert answer.json() == {
        "success": False,
        "message": f"The sale starts at {when}",
        "error": {"code": "sale_not_started", "starts_at": when},
    }
    assert 95 <= int(answer.headers["retry-after"]) <= 100


async def test_a_sale_that_is_over_says_so(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(sale_ends_at=datetime(2026, 1, 1, tzinfo=UTC))
    answer = await add(http)
    assert (answer.status_code, "retry-after" in answer.headers) == (400, False)
    assert answer.json()["error"] == {"code": "sale_ended", "ended_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"max_per_order": 1}, {"code": "order_limit", "max_per_order": 1, "in_cart": 0}),
        ({"max_per_buyer": 1}, {"code": "buyer_limit", "max_per_buyer": 1, "has": 0}),
        ({"min_per_order": 3}, {"code": "below_minimum", "min_per_order": 3}),
    ],
)
async def test_limits_of_a_product(
    http: httpx.AsyncClient, shop: Shop, rules: dict[str, Any], error: dict[str, Any]
) -> None:
    await shop.sell(**rules)
    before = await shop.everything()
    answer = await add(http)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert await shop.everything() == before


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
    answer = session.refuse(error, {})
    assert answer.status == status
    assert b'"success":false' in answer.body
    assert b"a bug" not in answer.body


@pytest.mark.parametrize("path", ["/api/cart/", "/cart/items/", "/api/customer/cart/"])
async def test_a_slash_too_many_is_another_path(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path, json=REQUEST, headers={"x-tenant-id": "default"})
    assert (answer.status_code, answer.json()["error"]) == (404, {"code": "not_found"})
