"""Contract 003, customer: over HTTP, against the service as it runs."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from cartsvc import identity
from cartsvc.contracts import customer
from cartsvc.errors import NotWarm, OutcomeUnknown
from cartsvc.model import MAX_QUANTITY, LineRequest, Owner
from tests import examples
from tests.callers import bearer
from tests.carts import books
from tests.shop import SECRET, Shop

CART = "/api/customer/cart"
PRODUCT = "123"
IMAGE = "https://cdn.example.com/lamp.jpg"
ANN = bearer("7")
BOB = bearer("8")
ONE, TWO = "variation_id_1", "variation_id_2"

FIRST_CART = 256
FIRST_ITEM = FIRST_CART << 12 | 1


def variations(*quantities: tuple[str, int], total: int | None = None) -> dict[str, Any]:
    return {
        "product": int(PRODUCT),
        "quantity": sum(units for _, units in quantities) if total is None else total,
        "variations": [{"id": id_, "quantity": units} for id_, units in quantities],
    }


POST = "POST /api/customer/cart"
ADD = "POST /api/customer/cart/add"
EXAMPLE = examples.request("customer", POST)
SINGLE = examples.request("customer", ADD)


NO_CART = examples.answer("customer", "GET /api/customer/cart", 200, "No cart")
NOTHING = NO_CART["data"]


def documented(operation: str, status: int, name: str | None = None) -> Any:
    """A body of the document, with the ids and the image that are the ones here."""
    body = examples.answer("customer", operation, status, name)
    if status < 300:
        assert body["data"]["cart_id"] == 45
        body["data"]["cart_id"] = FIRST_CART
        for one in body["data"]["items"]:
            one.update(id=FIRST_ITEM - 101 + one["id"], product_image_url=IMAGE)
    return body


async def sell(shop: Shop, *, own_stock: int | None = None, **terms: Any) -> None:
    """The document's product; its variations draw on its counter, or have `own_stock` each."""
    both = [(ONE, own_stock), (TWO, own_stock)]
    await shop.sell(PRODUCT, **{"name": "Product Name", "variants": both, **terms})


async def post(http: httpx.AsyncClient, body: Any, path: str = "", who: Any = ANN) -> Any:
    return await http.post(CART + path, json=body, headers=who)


def item(
    line: int,
    variation: str | None,
    quantity: int,
    subtotal: float,
    *,
    cart: int = FIRST_CART,
    price: float = 29.99,
) -> dict[str, Any]:
    return {
        "id": cart << 12 | line,
        "product_id": 123,
        "product_name": "Product Name",
        "product_price": price,
        "product_image_url": IMAGE,
        "quantity": quantity,
        "subtotal": subtotal,
        "variations": variation and {"id": variation, "quantity": quantity},
    }


def answer(message: str, items: list[Any], units: int, total: float) -> dict[str, Any]:
    return {
        "success": True,
        "message": message,
        "data": {
            "cart_id": FIRST_CART,
            "items": items,
            "total_items": units,
            "subtotal": total,
            "total": total,
        },
    }


async def refused(shop: Shop, call: Any, status: int, body: Any) -> httpx.Response:
    """The response to `call`, which is this refusal, and by which nothing is changed."""
    before = await shop.everything()
    response: httpx.Response = await call
    assert (response.status_code, response.json()) == (status, body)
    assert await shop.everything() == before
    return response


def failure(message: str) -> dict[str, Any]:
    return {"success": False, "message": message}


def invalid(**errors: str) -> dict[str, Any]:
    """`variations__0__id` stands for `variations.0.id`."""
    told = {name.replace("__", "."): [message] for name, message in errors.items()}
    return {"success": False, "message": "Validation failed", "errors": told}


async def test_the_contracts_own_example(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    added = await post(http, EXAMPLE)
    assert (added.status_code, added.headers["content-type"]) == (201, "application/json")
    assert added.json() == documented(POST, 201)


async def test_quantities_are_added_together(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await post(http, EXAMPLE)
    again = await post(http, variations((TWO, 2)))
    message = "Items added to cart successfully"
    # Only what was changed, and the totals of all.
    assert again.json() == answer(message, [item(2, TWO, 5, 149.95)], 8, 239.92)


async def test_a_variation_that_is_named_twice_is_one_item(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    added = await post(http, variations((ONE, 1), (ONE, 2)))
    message = "Items added to cart successfully"
    assert added.json() == answer(message, [item(1, ONE, 3, 89.97)], 3, 89.97)


async def test_money_has_two_decimals(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, price="12.50")
    added = await post(http, EXAMPLE)
    for amount in (b'"product_price":12.50,', b'"subtotal":37.50,', b'"total":75.00}'):
        assert amount in added.content


async def test_ids_that_are_no_whole_numbers_are_strings(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    big = 2**53
    await shop.sell(str(big))
    await post(http, {"product": big - 1, "quantity": 1}, "/add")
    added = await post(http, {"product": big, "quantity": 1}, "/add")
    assert [one["product_id"] for one in added.json()["data"]["items"]] == [str(big)]


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_all_variations_or_none(http: httpx.AsyncClient, shop: Shop, policy: str) -> None:
    await shop.sell(PRODUCT, variants=[(ONE, 9), (TWO, 2)], stock_policy=policy)
    told = failure("Insufficient stock. Available: 2")
    await refused(shop, post(http, EXAMPLE), 400, told)
    gone = variations((ONE, 1), ("gone", 1))
    told = invalid(variations__1__id="The selected variations.1.id is invalid.")
    await refused(shop, post(http, gone), 422, told)


STOCK = [("check", None), ("hold", None), ("check", 5), ("hold", 5)]


@pytest.mark.parametrize(("policy", "own_stock"), STOCK)
async def test_insufficient_stock(
    http: httpx.AsyncClient, shop: Shop, policy: str, own_stock: int | None
) -> None:
    await sell(shop, stock=5, own_stock=own_stock, stock_policy=policy)
    told = documented(POST, 400, "Insufficient stock")
    await refused(shop, post(http, variations((ONE, 6))), 400, told)
    # What another product has in the cart is no part of it.
    await shop.sell("9")
    await post(http, {"product": 9, "quantity": 3}, "/add")
    await refused(shop, post(http, variations((ONE, 6))), 400, told)


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_variations_that_are_too_many_together(
    http: httpx.AsyncClient, shop: Shop, policy: str
) -> None:
    await sell(shop, stock=5, stock_policy=policy)
    told = documented(POST, 400, "Insufficient stock")
    await refused(shop, post(http, EXAMPLE), 400, told)


@pytest.mark.parametrize(("policy", "own_stock"), [("check", None), ("hold", None), ("hold", 10)])
async def test_no_more_than_there_is(
    http: httpx.AsyncClient, shop: Shop, policy: str, own_stock: int | None
) -> None:
    await sell(shop, stock=10, own_stock=own_stock, stock_policy=policy)
    await post(http, variations((ONE, 6)))
    told = documented(POST, 400, "Cannot add more")
    await refused(shop, post(http, variations((ONE, 5))), 400, told)
    single = {"product": 123, "variation": ONE, "quantity": 5}
    await refused(shop, post(http, single, "/add"), 400, told)
    put = http.put(f"{CART}/items/{FIRST_ITEM}", json={"quantity": 11}, headers=ANN)
    await refused(shop, put, 400, told)
    assert (await post(http, variations((ONE, 4)))).status_code == 201


async def test_an_inactive_product(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, active=False)
    told = documented(POST, 400, "Product not available")
    await refused(shop, post(http, EXAMPLE), 400, told)
    await refused(shop, post(http, {"product": 123, "quantity": 1}, "/add"), 400, told)


ITEM = f"{CART}/items/{FIRST_ITEM}"
ROUTES = [
    ("POST", CART),
    ("GET", CART),
    ("POST", CART + "/add"),
    ("PUT", ITEM),
    ("DELETE", ITEM),
    ("DELETE", CART + "/clear"),
]
EXPIRED = identity.issue_token(SECRET, subject="7", kind="customer", tenant=None, ttl_s=-1)
FORGED = identity.issue_token("x" * 40, subject="7", kind="customer", tenant=None, ttl_s=60)
NO_TOKEN = documented(POST, 401, "No token")
BAD_TOKEN = documented(POST, 401, "Invalid token")
ADMIN = documented(POST, 401, "Not a customer")
SERVICE = {**ADMIN, "error": ADMIN["error"].replace("User", "Service")}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, NO_TOKEN),
        ({"Authorization": "Basic Nzo4"}, NO_TOKEN),
        ({"Authorization": "Bearer"}, NO_TOKEN),
        ({"Authorization": "Bearer x.y.z"}, BAD_TOKEN),
        ({"Authorization": f"Bearer {EXPIRED}"}, BAD_TOKEN),
        ({"Authorization": f"Bearer {FORGED}"}, BAD_TOKEN),
        (bearer("7", tenant="acme"), BAD_TOKEN),
        (bearer("7", "user"), ADMIN),
        (bearer("7", "service"), SERVICE),
    ],
)
async def test_who_is_no_customer(
    http: httpx.AsyncClient, shop: Shop, headers: Any, body: Any
) -> None:
    for method, path in ROUTES:
        # Who asks is looked at first, before a body that is no good.
        await refused(shop, http.request(method, path, headers=headers, content=b"{"), 401, body)


async def test_every_field_is_told_at_once(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    body: dict[str, Any] = {"quantity": "6"}
    await refused(shop, post(http, body), 422, documented(POST, 422, "Validation failed"))
    body = {
        "product": [123],
        "quantity": None,
        "variations": [{"id": 5, "quantity": 1.5}, {}, 7, {"id": "", "quantity": 0}],
    }
    told = invalid(
        product="The product must be an integer.",
        quantity="The quantity field is required.",
        variations__0__id="The variations.0.id must be a string.",
        variations__0__quantity="The variations.0.quantity must be an integer.",
        variations__1__id="The variations.1.id field is required.",
        variations__1__quantity="The variations.1.quantity field is required.",
        variations__2="The variations.2 must be an array.",
        variations__3__id="The variations.3.id field is required.",
        variations__3__quantity="The variations.3.quantity must be at least 1.",
    )
    await refused(shop, post(http, body), 422, told)


def must(rule: str) -> Callable[[str], str]:
    return lambda field: f"The {field} {rule}."


NEEDED = must("field is required")
WHOLE = must("must be an integer")
LEAST = must("must be at least 1")
MOST = must(f"must not be greater than {MAX_QUANTITY}")

QUANTITIES: list[tuple[str, Callable[[str], str]]] = [
    ("null", NEEDED),
    ('""', NEEDED),
    ('"6"', WHOLE),
    ("6.0", WHOLE),
    ("6e0", WHOLE),
    ("0.5", WHOLE),
    ("true", WHOLE),
    ("[6]", WHOLE),
    ("{}", WHOLE),
    ("0", LEAST),
    ("-1", LEAST),
    (str(-(2**64)), LEAST),
    (str(MAX_QUANTITY + 1), MOST),
    (str(2**63), MOST),
    ("9" * 4_000, MOST),
]


async def put_text(http: httpx.AsyncClient, method: str, path: str, text: str) -> httpx.Response:
    return await http.request(method, path, content=text.encode(), headers=ANN)


@pytest.mark.parametrize(("value", "rule"), QUANTITIES)
async def test_a_quantity_is_a_number_from_1(
    http: httpx.AsyncClient, shop: Shop, value: str, rule: Callable[[str], str]
) -> None:
    await sell(shop)
    await post(http, variations((ONE, 1)))
    one = f'{{"id":"{ONE}","quantity":%s}}'
    each = f'{{"product":123,"quantity":6,"variations":[{one % 3},{one % value}]}}'
    told = invalid(variations__1__quantity=rule("variations.1.quantity"))
    await refused(shop, put_text(http, "POST", CART, each), 422, told)
    told = invalid(quantity=rule("quantity"))
    main = f'{{"product":123,"quantity":{value},"variations":[{one % 6}]}}'
    await refused(shop, put_text(http, "POST", CART, main), 422, told)
    single = f'{{"product":123,"quantity":{value}}}'
    await refused(shop, put_text(http, "POST", CART + "/add", single), 422, told)
    await refused(shop, put_text(http, "PUT", ITEM, f'{{"quantity":{value}}}'), 422, told)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("null", "product field is required"),
        ('""', "product field is required"),
        ('"123"', "product must be an integer"),
        ("123.0", "product must be an integer"),
        ("true", "product must be an integer"),
        ("{}", "product must be an integer"),
        ("0", "selected product is invalid"),
        ("-123", "selected product is invalid"),
        ("999", "selected product is invalid"),
        (str(2**53), "selected product is invalid"),
        ("9" * 4_000, "selected product is invalid"),
    ],
)
async def test_a_product_is_one_that_there_is(
    http: httpx.AsyncClient, shop: Shop, value: str, problem: str
) -> None:
    await sell(shop)
    told = invalid(product=f"The {problem}.")
    one = f'{{"id":"{ONE}","quantity":6}}'
    body = f'{{"product":{value},"quantity":6,"variations":[{one}]}}'
    await refused(shop, put_text(http, "POST", CART, body), 422, told)
    single = f'{{"product":{value},"quantity":1}}'
    await refused(shop, put_text(http, "POST", CART + "/add", single), 422, told)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "variations field is required"),
        ("", "variations field is required"),
        ([], "variations field is required"),
        ({}, "variations must be an array"),
        ({"id": ONE, "quantity": 6}, "variations must be an array"),
        (ONE, "variations must be an array"),
        (6, "variations must be an array"),
        (0, "variations must be an array"),
        (False, "variations must be an array"),
    ],
)
async def test_variations_are_an_array(
    http: httpx.AsyncClient, shop: Shop, value: Any, problem: str
) -> None:
    await sell(shop)
    body = {**EXAMPLE, "variations": value}
    await refused(shop, post(http, body), 422, invalid(variations=f"The {problem}."))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "The {} must be a string."),
        (["x"], "The {} must be a string."),
        ("gone", "The selected {} is invalid."),
        ("a/b", "The selected {} is invalid."),
        ("x" * 65, "The selected {} is invalid."),
        ("\x00", "The selected {} is invalid."),
    ],
)
async def test_a_variation_is_one_that_there_is(
    http: httpx.AsyncClient, shop: Shop, value: Any, problem: str
) -> None:
    await sell(shop)
    body = {**EXAMPLE, "variations": [{"id": ONE, "quantity": 3}, {"id": value, "quantity": 3}]}
    told = invalid(variations__1__id=problem.format("variations.1.id"))
    await refused(shop, post(http, body), 422, told)
    single = {"product": 123, "quantity": 1, "variation": value}
    told = invalid(variation=problem.format("variation"))
    await refused(shop, post(http, single, "/add"), 422, told)


async def test_quantities_that_do_not_match(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    told = documented(POST, 422, "Quantity mismatch")
    await refused(shop, post(http, variations((ONE, 3), (TWO, 2), total=6)), 422, told)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"product=123", "is not valid JSON"),
        (b'{"quantity":NaN}', "is not valid JSON"),
        (b'{"quantity":%s}' % (b"9" * 5_000), "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"quantity":1,"quantity":1}', "has a key twice"),
        (b'{"quantity":1,"a":{"b":1,"b":1}}', "has a key twice"),
        (b"[" * 60_000, "is nested too deeply"),
    ],
)
async def test_malformed_bodies(
    http: httpx.AsyncClient, shop: Shop, content: bytes, problem: str
) -> None:
    await sell(shop)
    await post(http, EXAMPLE)
    told = invalid(body=f"The request body {problem}.")
    for method, path in (("POST", CART), ("POST", CART + "/add"), ("PUT", ITEM)):
        call = http.request(method, path, content=content, headers=ANN)
        await refused(shop, call, 422, told)


async def test_one_item_is_added(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await post(http, variations((ONE, 2), (TWO, 3)))
    added = await post(http, SINGLE, "/add")
    assert (added.status_code, added.json()) == (201, documented(ADD, 201))


async def test_an_item_without_variation(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await post(http, variations((ONE, 1)))
    message = "Item added to cart successfully"
    added = await post(http, {"product": 123, "quantity": 2}, "/add")
    assert added.json() == answer(message, [item(2, None, 2, 59.98)], 3, 89.97)
    added = await post(http, {"product": 123, "quantity": 1, "variation": None}, "/add")
    assert added.json() == answer(message, [item(2, None, 3, 89.97)], 4, 119.96)


async def test_a_cart_is_read_changed_and_emptied(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await post(http, EXAMPLE)
    read = await http.get(CART, headers=ANN)
    found = documented("GET /api/customer/cart", 200, "Cart")
    assert (read.status_code, read.json()) == (200, found)

    put = "PUT /api/customer/cart/items/{item_id}"
    body = examples.request("customer", put)
    changed = await http.put(ITEM, json=body, headers=ANN)
    assert (changed.status_code, changed.json()) == (200, documented(put, 200))

    await http.put(ITEM, json={"quantity": 3}, headers=ANN)
    removed = await http.delete(f"{CART}/items/{FIRST_ITEM + 1}", headers=ANN)
    found = documented("DELETE /api/customer/cart/items/{item_id}", 200)
    assert (removed.status_code, removed.json()) == (200, found)

    cleared = await http.delete(CART + "/clear", headers=ANN)
    found = documented("DELETE /api/customer/cart/clear", 200)
    assert (cleared.status_code, cleared.json()) == (200, found)
    # A line's number is given once.
    added = await post(http, variations((ONE, 1)))
    message = "Items added to cart successfully"
    assert added.json() == answer(message, [item(3, ONE, 1, 29.99)], 1, 29.99)


async def test_who_has_no_cart_has_an_empty_one(http: httpx.AsyncClient, shop: Shop) -> None:
    await refused(shop, http.get(CART, headers=ANN), 200, NO_CART)
    nothing = {**NO_CART, "message": "Cart cleared successfully"}
    await refused(shop, http.delete(CART + "/clear", headers=ANN), 200, nothing)


@pytest.mark.parametrize(
    "item_id",
    [str(FIRST_ITEM + 1), "1", "0", "-1", "x", "1.0", "%20", "01", str(2**53), "9" * 400, PRODUCT],
)
async def test_items_that_there_are_not(http: httpx.AsyncClient, shop: Shop, item_id: str) -> None:
    await sell(shop)
    await post(http, variations((ONE, 1)))
    told = documented("DELETE /api/customer/cart/items/{item_id}", 404)
    path = f"{CART}/items/{item_id}"
    await refused(shop, http.put(path, json={"quantity": 1}, headers=ANN), 404, told)
    await refused(shop, http.delete(path, headers=ANN), 404, told)


async def test_another_customers_items_are_not_there(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await post(http, EXAMPLE)
    told = failure("Cart item not found")
    for _ in range(2):  # without a cart, and with one that has a line of the same number
        await refused(shop, http.put(ITEM, json={"quantity": 1}, headers=BOB), 404, told)
        await refused(shop, http.delete(ITEM, headers=BOB), 404, told)
        added = await post(http, variations((ONE, 1)), who=BOB)
        assert added.json()["data"]["cart_id"] == 2 * FIRST_CART


async def test_a_subject_is_one_customer_however_it_is_written(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await post(http, EXAMPLE)
    same = await http.get(CART, headers=bearer("7", tenant="default"))
    assert same.json()["data"]["total_items"] == 6
    for other in ("07", " 7", "session:7"):
        read = await http.get(CART, headers=bearer(other))
        assert read.json()["data"] == NOTHING
    assert Owner("session", "7") != Owner("customer", "7")
    guest = await http.get("/api/cart", params={"session_id": "7"})
    assert guest.json()["data"]["cart"]["total_items"] == 0


async def test_largest_numbers(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=MAX_QUANTITY, price="10000000")
    added = await post(http, variations((ONE, MAX_QUANTITY - 1), (TWO, 1)))
    assert added.status_code == 201
    assert added.json()["data"]["total_items"] == MAX_QUANTITY
    assert b'"total":9999999990000000.00}' in added.content
    told = failure(f"Cannot add more items. Maximum available: {MAX_QUANTITY}")
    await refused(shop, post(http, variations((ONE, 1))), 400, told)
    await refused(shop, post(http, variations((ONE, MAX_QUANTITY))), 400, told)


async def test_other_fields_are_ignored(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    body = {**EXAMPLE, "price": 0.01, "variations": [{"id": ONE, "quantity": 6, "price": 0}]}
    added = await post(http, body)
    assert added.json()["data"]["total"] == 179.94


async def test_other_methods(http: httpx.AsyncClient, shop: Shop) -> None:
    for method, path, allowed in (
        ("PUT", CART, {"GET", "POST"}),
        ("GET", CART + "/add", {"POST"}),
        ("PATCH", ITEM, {"DELETE", "PUT"}),
        ("POST", CART + "/clear", {"DELETE"}),
    ):
        call = http.request(method, path, headers=ANN)
        wrong = await refused(shop, call, 405, failure("Method Not Allowed"))
        assert set(wrong.headers["allow"].split(", ")) == allowed


async def test_a_body_that_is_too_large(http: httpx.AsyncClient, shop: Shop) -> None:
    body = json.dumps({**EXAMPLE, "note": "x" * 65_536}).encode()
    call = http.post(CART, content=body, headers=ANN)
    await refused(shop, call, 413, failure("Request body is over 65536 bytes"))


AWAY = "Cart service is not available now, please try again"


async def test_a_tenant_that_is_not_warm_is_503(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.redis.flushall()
    for call, message in (
        (post(http, EXAMPLE), "Failed to add items to cart"),
        (http.get(CART, headers=ANN), "Failed to retrieve cart"),
        (http.put(ITEM, json={"quantity": 1}, headers=ANN), "Failed to update cart item"),
        (http.delete(ITEM, headers=ANN), "Failed to remove items from cart"),
    ):
        told = {**failure(message), "error": AWAY}
        away = await refused(shop, call, 503, told)
        assert away.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (RuntimeError("password=secret"), 500, "Internal server error"),
        (OutcomeUnknown("redis at 10.0.0.1"), 503, AWAY),
        (NotWarm(), 503, AWAY),
    ],
)
def test_errors_of_the_server(error: Exception, status: int, told: str) -> None:
    reply = customer.refuse(error, {"method": "POST"})
    body = {**documented(POST, 500), "error": told}
    assert (reply.status, json.loads(reply.body)) == (status, body)
    assert reply.headers == (((b"retry-after", b"1"),) if status == 503 else ())


async def test_a_held_item_says_until_when(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=10, stock_policy="hold", hold_ttl_s=60)
    begun = datetime.now(UTC).replace(microsecond=0)
    added = (await post(http, EXAMPLE)).json()
    until = {datetime.fromisoformat(one.pop("held_until")) for one in added["data"]["items"]}
    items = [item(1, ONE, 3, 89.97), item(2, TWO, 3, 89.97)]
    assert added == answer("Items added to cart successfully", items, 6, 179.94)
    assert begun <= min(until) - timedelta(seconds=60) <= datetime.now(UTC)
    assert await books(shop, PRODUCT) == (4, 6, 0)


async def test_the_next_response_tells_of_a_released_item(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop, stock=2, stock_policy="hold", hold_ttl_s=1)
    # By the test's clock, which stands long before the service's.
    lines = [LineRequest(PRODUCT, 2, ONE)]
    await shop.store.add(shop.bucket, Owner("customer", "7"), lines)
    assert (await post(http, variations((ONE, 2)), who=BOB)).status_code == 201
    header = f"hold_expired; sku={PRODUCT}/{ONE}; quantity=2"
    short = await post(http, variations((ONE, 1)))
    assert (short.status_code, short.headers["x-cart-notice"]) == (400, header)
    read = await http.get(CART, headers=ANN)
    assert (read.status_code, read.headers["x-cart-notice"]) == (200, header)
    told = answer("Cart retrieved successfully", [], 0, 0)
    told["data"]["notices"] = [
        {"product_id": 123, "variation": ONE, "quantity": 2, "reason": "hold_expired"}
    ]
    assert read.json() == told
    again = await http.get(CART, headers=ANN)
    assert "x-cart-notice" not in again.headers
    assert again.json() == answer("Cart retrieved successfully", [], 0, 0)
