"""Contract 004, records: carts and items over HTTP, against the service as it runs."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from cartsvc import identity, upkeep
from cartsvc.contracts import records
from cartsvc.errors import LedgerAway, NotWarm, OutcomeUnknown
from cartsvc.model import MAX_QUANTITY, LineRequest, Owner
from tests import examples
from tests.callers import bearer
from tests.carts import books
from tests.records import (
    ADMIN,
    ANN,
    BOB,
    CARTS,
    FIRST_CART,
    FIRST_ITEM,
    IMAGE,
    ITEMS,
    SERVICE,
    cart_of,
    documented,
    failure,
    item_body,
    make,
    put_in,
    refused,
    sell,
    timeless,
)
from tests.shop import SECRET, Shop

CART, ITEM = f"{CARTS}/{FIRST_CART}", f"{ITEMS}/{FIRST_ITEM}"
OF_CART = f"{ITEMS}/cart/{FIRST_CART}"
PRICES = f"/api/price-history/cart-item/{FIRST_ITEM}"
CREATED = "POST /api/cart-items"


async def get(http: httpx.AsyncClient, path: str, who: Any = ADMIN) -> Any:
    """A body that is there, without its times."""
    found = await http.get(path, headers=who)
    assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
    return timeless(found.json())


def item(
    quantity: int, total: float, *, line: int = 1, cart: int = FIRST_CART, **other: Any
) -> dict[str, Any]:
    """The document's product 205, with what is `other` about it."""
    return {
        "id": cart << 12 | line,
        "cartId": cart,
        "productId": 205,
        "quantity": quantity,
        "productName": "Product 5",
        "productImageUrl": IMAGE,
        "priceAtAddition": 24.99,
        "totalPrice": total,
        "savedForLater": False,
        **other,
    }


async def as_documented(
    http: httpx.AsyncClient,
    shop: Shop,
    cart: int,
    number: int,
    quantity: int,
    price: str,
    **more: Any,
) -> None:
    """Put the document's product of that number into a cart, as the document has it."""
    product, name = 200 + number, f"Product {number}"
    await shop.sell(str(product), name=name, price=price)
    image = f"http://example.com/product{number}.jpg"
    terms = {"productName": name, "productImageUrl": image, "priceAtAddition": float(price)}
    await put_in(http, cart, product, quantity, ADMIN, **terms, **more)


async def test_the_documents_carts_and_items(http: httpx.AsyncClient, shop: Shop) -> None:
    first, second = await make(http, ADMIN, userId=101), await make(http, ADMIN, userId=102)
    third = await make(http, ADMIN, sessionId="guest-session-123")
    await as_documented(http, shop, first, 1, 2, "19.99")
    await as_documented(http, shop, third, 3, 1, "29.99")
    found = await get(http, CARTS)
    assert found[:2] == documented("GET /api/carts", 200)
    session = documented("GET /api/carts/session/{session_id}/active", 200)
    assert found[2:] == [session]
    assert await get(http, f"{CARTS}/session/guest-session-123/active") == session
    user = documented("GET /api/carts/user/{user_id}/active", 200)
    assert await get(http, f"{CARTS}/user/101/active") == user
    assert await get(http, CART) == documented("GET /api/carts/{cart_id}", 200)
    assert await get(http, ITEM) == documented("GET /api/cart-items/{item_id}", 200)

    await as_documented(http, shop, second, 2, 1, "14.99")
    found = await get(http, ITEMS)
    assert found == [*documented("GET /api/cart-items", 200), *session["cartItems"]]
    await as_documented(http, shop, first, 4, 1, "9.99", savedForLater=True)
    assert await get(http, OF_CART) == documented("GET /api/cart-items/cart/{cart_id}", 200)


async def test_a_cart_is_made_and_changed(http: httpx.AsyncClient, shop: Shop) -> None:
    made = await http.post(
        CARTS, json=examples.request("records", "POST /api/carts"), headers=ADMIN
    )
    assert made.status_code == 201
    found = documented("POST /api/carts", 201, id=FIRST_CART)
    assert timeless(made.json()) == found
    assert b'"subtotal":0.00}' in made.content
    same = await http.put(CART, json={"userId": 103, "status": "ACTIVE"}, headers=ADMIN)
    assert (same.status_code, same.json()) == (200, made.json())
    same = await http.put(CART, json={}, headers=ANN)
    assert (same.status_code, same.json()) == (200, made.json())

    put = "PUT /api/carts/{cart_id}"
    changed = await http.put(CART, json=examples.request("records", put), headers=ADMIN)
    assert changed.status_code == 200
    assert timeless(changed.json()) == documented(put, 200, id=FIRST_CART)


async def test_an_item_is_made_changed_and_deleted(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    cart = await make(http, ADMIN, userId=101)
    body = {**examples.request("records", CREATED), "cartId": cart}
    made = await http.post(ITEMS, json=body, headers=ADMIN)
    assert (made.status_code, timeless(made.json())) == (201, documented(CREATED, 201))
    put = "PUT /api/cart-items/{item_id}"
    body = {**examples.request("records", put), "cartId": cart}
    changed = await http.put(ITEM, json=body, headers=ADMIN)
    assert (changed.status_code, timeless(changed.json())) == (200, documented(put, 200))
    for path in (ITEM, OF_CART):  # by itself, and with all others
        gone = await http.delete(path, headers=ADMIN)
        assert (gone.status_code, gone.content) == (204, b"")
        assert not gone.headers.keys() & {"content-type", "content-length"}
        assert await get(http, OF_CART) == []
        await put_in(http, who=ADMIN)


async def test_the_same_product_again_is_more_of_the_item(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await make(http)
    for quantity, total in ((2, 49.98), (4, 99.96)):
        added = await http.post(ITEMS, json=item_body(quantity=2), headers=ANN)
        assert (added.status_code, timeless(added.json())) == (201, item(quantity, total))
    assert await get(http, CART, ANN) == {
        "id": FIRST_CART,
        "userId": 103,
        "sessionId": None,
        "status": "ACTIVE",
        "cartItems": [item(4, 99.96)],
        "totalItems": 4,
        "subtotal": 99.96,
    }


async def test_40_at_once_are_40(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await make(http)
    adds = (http.post(ITEMS, json=item_body(), headers=ANN) for _ in range(40))
    added = [answer.json()["quantity"] for answer in await asyncio.gather(*adds)]
    assert sorted(added) == list(range(1, 41))
    assert await get(http, OF_CART, ANN) == [item(40, 999.60)]


async def test_times_are_those_of_the_changes(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    # By the test's clock, which stands long before the service's.
    await shop.store.add(shop.bucket, Owner("customer", "103"), [LineRequest("205", 1)])
    await shop.store.add(shop.bucket, Owner("customer", "103"), [LineRequest("206", 1)])
    before = (await http.get(CART, headers=ANN)).json()
    then = "2025-11-20T12:00:00Z"
    for one in (before, *before["cartItems"]):
        assert (one["createdAt"], one["updatedAt"]) == (then, then)
    changed = (await http.put(ITEM, json=item_body(quantity=2), headers=ANN)).json()
    after = (await http.get(CART, headers=ANN)).json()
    assert after["cartItems"] == [changed, before["cartItems"][1]]
    for one in (after, changed):
        assert one["createdAt"] == then < one["updatedAt"]


async def test_saved_items_count_for_nothing(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=5, stock_policy="hold")
    cart = await cart_of(http, (205, 3), (206, 1))
    assert await books(shop, "205") == (2, 3, 0)
    # Fewer than these are there; saved, they need not be.
    body = item_body(quantity=50, savedForLater=True)
    saved = await http.put(ITEM, json=body, headers=ANN)
    assert (saved.status_code, saved.json()["savedForLater"]) == (200, True)
    found = await get(http, CART, ANN)
    assert found["cartItems"][0] == item(50, 1249.50, savedForLater=True)
    assert (found["totalItems"], found["subtotal"]) == (1, 10)
    assert await books(shop, "205") == (5, 0, 0)
    # A change that says nothing of it, leaves it so.
    await http.put(ITEM, json=item_body(quantity=60), headers=ANN)
    assert await get(http, ITEM, ANN) == item(60, 1499.40, savedForLater=True)
    message = "Insufficient stock. Available: 5"
    back = item_body(quantity=6, savedForLater=False)
    told = failure(409, message, ITEM)
    await refused(shop, http.put(ITEM, json=back, headers=ANN), told)
    taken = await http.put(ITEM, json={**back, "quantity": 5}, headers=ANN)
    assert timeless(taken.json()) == item(5, 124.95)
    assert await books(shop, "205") == (0, 5, 0)
    added = await put_in(http, cart, 206, 9, savedForLater=True)
    assert await get(http, f"{ITEMS}/{added}", ANN) == item(
        10, 100, line=2, productId=206, productName="Product 6", priceAtAddition=10,
        savedForLater=True,
    )  # fmt: skip


async def test_one_active_cart_an_owner(http: httpx.AsyncClient, shop: Shop) -> None:
    making = (http.post(CARTS, json={}, headers=ANN) for _ in range(8))
    statuses = Counter(answer.status_code for answer in await asyncio.gather(*making))
    assert statuses == {201: 1, 409: 7}
    told = documented("POST /api/carts", 409, message=f"The owner's active cart is {FIRST_CART}")
    for body, who in (({}, ANN), ({"userId": 103}, ANN), ({"userId": "103"}, ADMIN)):
        await refused(shop, http.post(CARTS, json=body, headers=who), told)
    # A guest may have the customer's name.
    assert await make(http, ADMIN, sessionId="103") == 2 * FIRST_CART
    assert await make(http, BOB, userId=104) == 3 * FIRST_CART


@pytest.mark.parametrize(
    ("body", "what"),
    [({"userId": 104}, "User with ID 104"), ({"sessionId": "104"}, "Session with ID 104")],
)
async def test_a_customer_makes_carts_for_itself_alone(
    http: httpx.AsyncClient, shop: Shop, body: Any, what: str
) -> None:
    told = failure(404, f"{what} not found", CARTS)
    await refused(shop, http.post(CARTS, json=body, headers=ANN), told)


USER = "User ID must be a whole number or a string"
PRINTABLE = "User ID must have 1 to 128 printable characters"
SESSION = "Session ID must be 1 to 128 of A-Z a-z 0-9 . _ ~ -"
STATUS = "Status must be one of ACTIVE, CONVERTED, ABANDONED, REMOVED"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"userId": "User ID or session ID cannot be null"}),
        (
            {"userId": 1, "sessionId": "a"},
            {"sessionId": "A cart has a user ID or a session ID, not both"},
        ),
        (
            {"userId": [], "sessionId": "a b", "status": "OPEN"},
            {"userId": USER, "sessionId": SESSION, "status": STATUS},
        ),
        ({"userId": True, "sessionId": 5}, {"userId": USER, "sessionId": SESSION}),
        ({"userId": 1.5, "status": 5}, {"userId": USER, "status": STATUS}),
        ({"userId": "", "sessionId": ""}, {"userId": PRINTABLE, "sessionId": SESSION}),
        ({"userId": "a\nb", "status": []}, {"userId": PRINTABLE, "status": STATUS}),
        ({"userId": 10**128, "status": "active"}, {"userId": PRINTABLE, "status": STATUS}),
        ({"userId": 1, "sessionId": "x" * 129}, {"sessionId": SESSION}),
        ({"userId": 1, "status": "REMOVED"}, {"status": "Status of a new cart must be ACTIVE"}),
    ],
)
async def test_carts_that_can_not_be(
    http: httpx.AsyncClient, shop: Shop, body: Any, errors: Any
) -> None:
    told = failure(400, "Validation failed", CARTS, errors)
    await refused(shop, http.post(CARTS, json=body, headers=ADMIN), told)


async def test_an_owner_is_not_changed(http: httpx.AsyncClient, shop: Shop) -> None:
    await make(http)
    told = documented("PUT /api/carts/{cart_id}", 400, path=CART)
    for body in ({"userId": 104}, {"sessionId": "103"}, {"userId": 104, "status": "REMOVED"}):
        await refused(shop, http.put(CART, json=body, headers=ADMIN), told)
    told = failure(400, "Validation failed", CART, {"status": STATUS})
    await refused(shop, http.put(CART, json={"status": "OPEN"}, headers=ADMIN), told)


OPERATIONS = [
    ("GET", CARTS, None),
    ("POST", CARTS, {"userId": 104}),
    ("GET", CART, None),
    ("PUT", CART, {"status": "REMOVED"}),
    ("DELETE", CART, None),
    ("PATCH", CART + "/status/CONVERTED", None),
    ("GET", CARTS + "/user/103/active", None),
    ("GET", CARTS + "/session/s/active", None),
    ("GET", ITEMS, None),
    ("POST", ITEMS, item_body()),
    ("GET", ITEM, None),
    ("PUT", ITEM, item_body()),
    ("DELETE", ITEM, None),
    ("GET", OF_CART, None),
    ("DELETE", OF_CART, None),
    ("GET", PRICES, None),
]


@pytest.fixture
async def full(http: httpx.AsyncClient, shop: Shop) -> None:
    """Ann's cart has an item, and so has a guest's."""
    await sell(shop)
    await cart_of(http, (205, 1))
    await put_in(http, await make(http, ADMIN, sessionId="s"), 205, 1, ADMIN)


FORGED = identity.issue_token("x" * 40, subject="1", kind="user", tenant=None, ttl_s=60)
EXPIRED = identity.issue_token(SECRET, subject="1", kind="user", tenant=None, ttl_s=-1)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic MTox"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x.y.z"},
        {"Authorization": f"Bearer {EXPIRED}"},
        {"Authorization": f"Bearer {FORGED}"},
        bearer("1", "user", tenant="acme"),
    ],
)
async def test_who_is_not_known(http: httpx.AsyncClient, shop: Shop, headers: Any) -> None:
    for method, path, _ in OPERATIONS:
        # Who asks is looked at first, before a body that is no good.
        call = http.request(method, path, headers=headers, content=b"{")
        told = documented("GET /api/carts", 401, path=path)
        await refused(shop, call, told)


@pytest.mark.usefixtures("full")
async def test_anothers_cart_is_not_there(http: httpx.AsyncClient, shop: Shop) -> None:
    no_cart = f"Cart with ID {FIRST_CART} not found"
    no_item = f"Cart item with ID {FIRST_ITEM} not found"
    for method, path, body in OPERATIONS:
        if path == CARTS or (method, path) == ("GET", ITEMS):
            continue
        message = no_item if path in (ITEM, PRICES) else no_cart
        if path.endswith("/active"):
            what, owner = path.split("/")[3:5]
            message = f"Active cart for {what} {owner} not found"
        call = http.request(method, path, json=body, headers=BOB)
        await refused(shop, call, failure(404, message, path))


@pytest.mark.usefixtures("full")
async def test_what_there_is_not(http: httpx.AsyncClient, shop: Shop) -> None:
    cart, item_id = 999, (999 << 12) + 1
    no_cart = documented("GET /api/carts/{cart_id}", 404)
    no_item = failure(404, f"Cart item with ID {item_id} not found", "")
    for method, path, body in OPERATIONS:
        other = path.replace(str(FIRST_ITEM), str(item_id)).replace(str(FIRST_CART), str(cart))
        if other != path or (method, path) == ("POST", ITEMS):
            told = no_item if str(item_id) in other else no_cart
            body = body and {**body, "cartId": cart}
            call = http.request(method, other, json=body, headers=ADMIN)
            await refused(shop, call, {**told, "path": other})
    # A line that the cart does not have.
    path = f"{ITEMS}/{FIRST_ITEM + 1}"
    told = failure(404, f"Cart item with ID {FIRST_ITEM + 1} not found", path)
    for method in ("GET", "PUT", "DELETE"):
        await refused(shop, http.request(method, path, json=item_body(), headers=ANN), told)
    path = CARTS + "/user/%0a/active"
    told = failure(404, "Active cart for user \n not found", CARTS + "/user/\n/active")
    await refused(shop, http.get(path, headers=ADMIN), told)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "text", ["x", "-1", "1.0", "01", "+1", "%20", "1e3", str(2**53), "9" * 400]
)
async def test_ids_that_are_no_numbers(http: httpx.AsyncClient, shop: Shop, text: str) -> None:
    for method, path, body in OPERATIONS:
        other = path.replace(str(FIRST_ITEM), text).replace(str(FIRST_CART), text)
        if other != path:
            shown = other.replace("%20", " ")
            told = failure(400, "Validation failed", shown, {"id": "ID must be a whole number"})
            await refused(shop, http.request(method, other, json=body, headers=ADMIN), told)


NUMBERS = [0, -1, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 10**30, -(2**63), -(10**30)]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("number", NUMBERS)
async def test_carts_that_no_number_leads_to(
    http: httpx.AsyncClient, shop: Shop, number: int
) -> None:
    told = failure(404, f"Cart with ID {number} not found", ITEMS)
    await refused(shop, http.post(ITEMS, json=item_body(number), headers=ADMIN), told)
    if 0 <= number < 2**53:
        told = failure(404, f"Cart item with ID {number} not found", f"{ITEMS}/{number}")
        await refused(shop, http.get(f"{ITEMS}/{number}", headers=ADMIN), told)


async def test_everything_wrong_is_told_at_once(http: httpx.AsyncClient, shop: Shop) -> None:
    body: dict[str, Any] = {"productId": 205, "quantity": 0}
    told = documented(CREATED, 400, "Validation failed")
    await refused(shop, http.post(ITEMS, json=body, headers=ADMIN), told)
    body = {
        "productName": "",
        "productImageUrl": 5,
        "priceAtAddition": "24.99",
        "savedForLater": "no",
    }
    errors = {
        "cartId": "Cart ID cannot be null",
        "productId": "Product ID cannot be null",
        "quantity": "Quantity cannot be null",
        "productName": "Product name must be a text of 1 to 2000 characters",
        "productImageUrl": "Product image URL must be a text of 1 to 2000 characters",
        "priceAtAddition": "Price at addition must be an amount with at most two decimals",
        "savedForLater": "Saved for later must be true or false",
    }
    told = failure(400, "Validation failed", ITEMS, errors)
    await refused(shop, http.post(ITEMS, json=body, headers=ADMIN), told)


CART_ID = "Cart ID must be a whole number"
PRODUCT_ID = "Product ID must be a whole number or a string"
QUANTITY = "Quantity must be a whole number"
LEAST = "Quantity must be greater than zero"
MOST = f"Quantity must be at most {MAX_QUANTITY}"
NAME = "Product name must be a text of 1 to 2000 characters"
URL = "Product image URL must be a text of 1 to 2000 characters"
PRICE = "Price at addition must be an amount with at most two decimals"
SAVED = "Saved for later must be true or false"


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("field", "values", "problem"),
    [
        ("cartId", ['"256"', "256.0", "true", "[256]", "{}"], CART_ID),
        ("cartId", ["null"], "Cart ID cannot be null"),
        ("productId", ["205.0", "true", "[205]", "{}"], PRODUCT_ID),
        ("productId", ["null"], "Product ID cannot be null"),
        ("quantity", ['"1"', "1.0", "1e0", "0.5", "true", "[1]", "{}"], QUANTITY),
        ("quantity", ["null"], "Quantity cannot be null"),
        ("quantity", ["0", "-1", str(-(2**64))], LEAST),
        ("quantity", [str(MAX_QUANTITY + 1), str(2**63), "9" * 4_000], MOST),
        ("productName", ['""', '" "', "5", '"\\u0000"', f'"{"x" * 2_001}"'], NAME),
        ("productImageUrl", ['""', "false", '"a\\nb"'], URL),
        (
            "priceAtAddition",
            ["-0.01", "24.999", "1e-9", "1e300", "10000000.01", "true", "[]"],
            PRICE,
        ),
        ("savedForLater", ["0", '"true"', "[]"], SAVED),
    ],
)
async def test_fields_that_can_not_be(
    http: httpx.AsyncClient, shop: Shop, field: str, values: list[str], problem: str
) -> None:
    known = {name: json.dumps(value) for name, value in item_body().items()}
    for value in values:
        text = ",".join(f'"{name}":{one}' for name, one in {**known, field: value}.items())
        for method, path in (("POST", ITEMS), ("PUT", ITEM)):
            call = http.request(method, path, content=f"{{{text}}}", headers=ADMIN)
            told = failure(400, "Validation failed", path, {field: problem})
            await refused(shop, call, told)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b'{"quantity":NaN}', "is not valid JSON"),
        (b'{"priceAtAddition":1e400}', "is not valid JSON"),
        (b'{"productName":"\\ud800"}', "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"quantity":1,"quantity":1}', "has a key twice"),
        (b"[" * 60_000, "is nested too deeply"),
    ],
)
async def test_malformed_bodies(
    http: httpx.AsyncClient, shop: Shop, content: bytes, problem: str
) -> None:
    for method, path, body in OPERATIONS:
        if body is not None:
            call = http.request(method, path, content=content, headers=ADMIN)
            told = failure(400, "Validation failed", path, {"body": f"Body {problem}"})
            await refused(shop, call, told)


@pytest.mark.usefixtures("full")
async def test_an_item_stays_what_and_where_it_is(http: httpx.AsyncClient, shop: Shop) -> None:
    body = item_body(999, 206)
    wrong = {
        "cartId": "The cart of an item cannot be changed",
        "productId": "The product of an item cannot be changed",
    }
    told = failure(400, "Validation failed", ITEM, wrong)
    await refused(shop, http.put(ITEM, json=body, headers=ADMIN), told)


@pytest.mark.usefixtures("full")
async def test_products_that_there_are_not(http: httpx.AsyncClient, shop: Shop) -> None:
    for product in (999, 0, -1, 2**64, "", "a/b", "x" * 65, "205/s"):
        body = item_body(product=product)
        told = documented(
            CREATED, 404, "Product not found", message=f"Product with ID {product} not found"
        )
        await refused(shop, http.post(ITEMS, json=body, headers=ANN), told)
    added = await http.post(ITEMS, json=item_body(product="205"), headers=ANN)
    assert timeless(added.json()) == item(2, 49.98)


@pytest.mark.usefixtures("full")
async def test_an_inactive_product(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, active=False)
    told = documented(CREATED, 400, "Product not available")
    await refused(shop, http.post(ITEMS, json=item_body(), headers=ANN), told)


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_insufficient_stock(http: httpx.AsyncClient, shop: Shop, policy: str) -> None:
    await sell(shop, stock=5, stock_policy=policy)
    cart = await make(http)
    told = failure(409, "Insufficient stock. Available: 5", ITEMS)
    await refused(shop, http.post(ITEMS, json=item_body(quantity=6), headers=ANN), told)
    await put_in(http, cart, quantity=5)
    told = documented(CREATED, 409, "Insufficient stock")
    await refused(shop, http.post(ITEMS, json=item_body(), headers=ADMIN), told)
    told = {**told, "path": ITEM}
    await refused(shop, http.put(ITEM, json=item_body(quantity=6), headers=ANN), told)


async def test_limits_are_conflicts(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, max_per_order=2)
    await make(http)
    told = failure(409, "At most 2 of this product an order", ITEMS)
    await refused(shop, http.post(ITEMS, json=item_body(quantity=3), headers=ANN), told)


NAMED: dict[str, Any] = {
    "productName": "Product 5",
    "productImageUrl": IMAGE,
    "priceAtAddition": 24.99,
}
OTHERS: list[dict[str, Any]] = [
    {"productName": "Product 6"},
    {"productImageUrl": "https://cdn.example.com/other.jpg"},
    {"priceAtAddition": 0.01},
    {"priceAtAddition": 0},
]


async def test_a_customer_names_what_the_catalogue_says(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await make(http)
    told = documented(CREATED, 409, "Another price")
    for other in OTHERS:
        body = item_body(**{**NAMED, **other})
        await refused(shop, http.post(ITEMS, json=body, headers=ANN), told)
    await put_in(http, **NAMED)
    for other in OTHERS:
        body = item_body(**{**NAMED, **other})
        await refused(shop, http.post(ITEMS, json=body, headers=ANN), told)
        call = http.put(ITEM, json=body, headers=ANN)
        await refused(shop, call, {**told, "path": ITEM})
    same = await http.put(ITEM, json=item_body(quantity=2, **NAMED), headers=ANN)
    assert (same.status_code, timeless(same.json())) == (200, item(2, 49.98))


async def new_price(shop: Shop, product: str, price: str) -> None:
    """The catalogue's price changes, and the worker takes it to the carts."""
    await shop.sell(product, price=price)
    while await upkeep.reprice(shop.store, shop.bucket):
        pass


@pytest.mark.parametrize("who", [ADMIN, SERVICE])
async def test_an_authority_names_prices(http: httpx.AsyncClient, shop: Shop, who: Any) -> None:
    await sell(shop)
    await make(http)
    terms: dict[str, Any] = {
        "productName": 'The "Five"',
        "productImageUrl": "https://example.com/5.jpg",
        "priceAtAddition": 20.5,
    }
    added = await http.post(ITEMS, json=item_body(quantity=2, **terms), headers=who)
    assert b'"priceAtAddition":20.50,"totalPrice":41.00,' in added.content
    assert timeless(added.json()) == item(2, 41, **terms)
    await put_in(http, product=206)
    await new_price(shop, "205", "30.00")
    await new_price(shop, "206", "31.00")
    assert await get(http, ITEM, ANN) == item(2, 41, **terms)
    [_, other] = await get(http, OF_CART, ANN)
    assert other["priceAtAddition"] == 31
    # More of it keeps its price, too, and its owner may name that.
    await put_in(http, priceAtAddition=20.50)
    assert await get(http, ITEM, ANN) == item(3, 61.5, **terms)
    told = failure(409, "Price, name or image are not the catalogue's. Current price: 20.50", ITEMS)
    body = item_body(priceAtAddition=30)
    await refused(shop, http.post(ITEMS, json=body, headers=ANN), told)
    # Named as the catalogue has it, the price is the catalogue's again.
    changed = await http.put(ITEM, json=item_body(priceAtAddition=30), headers=who)
    assert timeless(changed.json()) == item(1, 30, **{**terms, "priceAtAddition": 30})
    await new_price(shop, "205", "33.00")
    assert (await get(http, ITEM, ANN))["priceAtAddition"] == 33


async def test_largest_numbers(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell("9007199254740991", price="10000000", stock=MAX_QUANTITY)
    await make(http)
    await put_in(http, product=2**53 - 1, quantity=MAX_QUANTITY)
    found = await http.get(CART, headers=ANN)
    assert found.json()["cartItems"][0]["productId"] == 2**53 - 1
    assert b'"totalPrice":9999999990000000.00,' in found.content
    assert b'"subtotal":9999999990000000.00}' in found.content
    body = item_body(product=2**53 - 1, quantity=MAX_QUANTITY)
    message = f"Insufficient stock. Available: {MAX_QUANTITY}, already in cart: {MAX_QUANTITY}"
    call = http.post(ITEMS, json=body, headers=ANN)
    await refused(shop, call, failure(409, message, ITEMS))


async def test_user_ids_that_are_no_whole_numbers_are_strings(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    for user in (2**53, "auth0|5", "007", "-1"):
        cart = await make(http, ADMIN, userId=user)
        found = await get(http, f"{CARTS}/{cart}", bearer(str(user)))
        assert (found["userId"], found["sessionId"]) == (str(user), None)
        assert await get(http, f"{CARTS}/user/{user}/active") == found


@pytest.mark.usefixtures("full")
async def test_other_methods(http: httpx.AsyncClient, shop: Shop) -> None:
    wrong = await http.patch(CART, headers=ANN)
    allowed = set(wrong.headers["allow"].split(", "))
    assert (wrong.status_code, allowed) == (405, {"DELETE", "GET", "PUT"})
    assert timeless(wrong.json()) == {
        "status": 405,
        "error": "Method Not Allowed",
        "message": "Method Not Allowed",
        "path": CART,
    }
    # What is not there is not there by any other method.
    assert (await http.get(f"{CART}/status/REMOVED", headers=ANN)).status_code == 405


async def test_a_body_that_is_too_large(http: httpx.AsyncClient, shop: Shop) -> None:
    body = json.dumps({"note": "x" * 65_536}).encode()
    large = await http.post(CARTS, content=body, headers=ANN)
    assert large.status_code == 413
    assert large.json()["message"] == "Request body is over 65536 bytes"


AWAY = "Cart service is not available now, please try again"


@pytest.mark.usefixtures("full")
async def test_a_tenant_that_is_not_warm_is_503(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.redis.flushall()
    for method, path, body in OPERATIONS:
        if (method, path) in (("GET", CARTS), ("GET", ITEMS)):
            continue  # lists are PostgreSQL's
        call = http.request(method, path, json=body, headers=ADMIN)
        away = await refused(shop, call, failure(503, AWAY, path))
        assert away.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("password=secret"), 500, "Internal server error"),
        (LedgerAway("postgres at 10.0.0.1"), 503, AWAY),
        (OutcomeUnknown("redis at 10.0.0.1"), 503, AWAY),
        (NotWarm(), 503, AWAY),
    ],
)
def test_errors_of_the_server(error: Exception, status: int, message: str) -> None:
    reply = records.refuse(error, {"path": CARTS})
    words = {500: "Internal Server Error", 503: "Service Unavailable"}
    assert reply.status == status
    assert timeless(json.loads(reply.body)) == {
        "status": status,
        "error": words[status],
        "message": message,
        "path": CARTS,
    }


@pytest.mark.parametrize("caller", [ADMIN, SERVICE])
@pytest.mark.usefixtures("full")
async def test_authorities_see_and_change_every_cart(
    http: httpx.AsyncClient, shop: Shop, caller: Any
) -> None:
    statuses = []
    for method, path, body in OPERATIONS:
        if method != "DELETE":
            if path.endswith("CONVERTED"):
                continue
            body = {**(body or {}), "status": "ACTIVE"} if path == CART else body
            answer = await http.request(method, path, json=body, headers=caller)
            statuses.append(answer.status_code)
    assert Counter(statuses) == {200: 10, 201: 2}
    for path in (ITEM, OF_CART, CART):
        assert (await http.delete(path, headers=caller)).status_code == 204
