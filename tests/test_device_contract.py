"""Contract 002, device: over HTTP, against the service as it runs, and what leads to it."""

import asyncio
import re
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest

from cartsvc.contracts import device
from cartsvc.errors import Invalid, NotWarm, OutcomeUnknown
from cartsvc.model import LineRequest, Owner, item_id
from tests import examples
from tests.shop import LAMP, MUG, Shop

DEVICE = "device-42"
HEADERS = {"DeviceID": DEVICE}
OWNER = Owner("device", DEVICE)
CART, SECOND_CART = 256, 512
PRODUCT = 201


async def add(
    http: httpx.AsyncClient, quantity: int = 1, product: int | str = PRODUCT, who: str = DEVICE
) -> httpx.Response:
    content = {"product_id": product, "quantity": quantity}
    return await http.post("/cart/items", json=content, headers={"DeviceID": who})


async def sell(shop: Shop, product: int | str = PRODUCT, **rules: Any) -> None:
    await shop.sell(str(product), **rules)


def path_of(cart: int = CART, line: int = 1) -> str:
    return f"/cart/items/{item_id(cart, line)}"


def shown(answer: httpx.Response) -> Any:
    """The body without the time of its change, which is one."""
    body = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body.pop("updated_at"))
    return body


def item(
    quantity: int, product: int | str = PRODUCT, *, cart: int = CART, line: int = 1, **more: Any
) -> dict[str, Any]:
    """An item of a product as `Shop.sell` describes it."""
    return {
        "id": item_id(cart, line),
        "product_id": product,
        "product_name": "Aurora Desk Lamp",
        "quantity": quantity,
        "PriceAtAddition": 29.99,
        "subtotal": round(29.99 * quantity, 2),
        **more,
    }


def cart(
    *items: dict[str, Any], id_: int | None = CART, who: str = DEVICE, **more: Any
) -> dict[str, Any]:
    return {
        "id": id_,
        "DeviceID": who,
        "items": list(items),
        "total_items": sum(one["quantity"] for one in items),
        "total": round(sum(one["subtotal"] for one in items), 2),
        **more,
    }


async def refused(
    shop: Shop, request: Awaitable[httpx.Response], status: int, message: str
) -> httpx.Response:
    """The answer to a request that changes nothing."""
    before = await shop.everything()
    answer = await request
    assert (answer.status_code, answer.json()) == (status, {"error": message})
    assert answer.headers["content-type"] == "application/json"
    assert await shop.everything() == before
    return answer


async def test_an_add_returns_the_updated_cart(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    first = await add(http, 2)
    assert (first.status_code, first.headers["content-type"]) == (201, "application/json")
    assert shown(first) == cart(item(2))
    assert shown(await add(http, 3)) == cart(item(5))


async def test_every_documented_answer(http: httpx.AsyncClient, shop: Shop) -> None:
    """The examples of the documentation are among what the service says in a device's story."""
    await sell(shop)
    await sell(shop, 202, active=False)
    said: dict[tuple[str, str], list[Any]] = {}

    async def ask(operation: str, content: Any = None, who: str = DEVICE, line: int = 1) -> None:
        method, path = operation.split()
        path = path.replace("{item_id}", str(item_id(CART, line)))
        answer = await http.request(method, path, headers={"DeviceID": who}, json=content)
        said.setdefault((operation, str(answer.status_code)), []).append(plain(answer.json()))

    documented = examples.of("device")
    post, get, clear, put, delete = documented
    request, more = documented[post]["request"], documented[put]["request"]
    await ask(get)
    await ask(post, request)
    await ask(get)
    for product, quantity in ((203, 1), (202, 1), (PRODUCT, 0)):
        await ask(post, {"product_id": product, "quantity": quantity})
    await ask(put, {"quantity": 0})
    await shop.shelf.set_stock(shop.bucket, str(PRODUCT), 2)
    await ask(put, more)
    await shop.shelf.set_stock(shop.bucket, str(PRODUCT), 3)
    await ask(put, more)
    for operation in documented:
        await ask(operation, request, who="{device}")
    for operation in (put, delete):
        await ask(operation, more, line=2)
    await ask(delete)
    await ask(clear)
    await shop.shelf.set_stock(shop.bucket, str(PRODUCT), 0)
    await ask(post, request)
    await sell(shop, stock_policy="hold")
    await shop.shelf.set_stock(shop.bucket, str(PRODUCT), 1)
    # By the test's clock, which stands long before the service's.
    await shop.add_lines(LineRequest(str(PRODUCT), 1), owner=OWNER)
    await ask(get)
    for operation, one in documented.items():
        for status, named in one["answers"].items():
            for name, body in named.items():
                assert plain(body) in said[operation, status], f"{operation}: {name}"


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "updated_at"}


async def test_ids_are_numbers_where_they_are_whole(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, PRODUCT)
    await sell(shop, LAMP)
    await sell(shop, "0201")
    for product in (PRODUCT, str(PRODUCT), LAMP, LAMP.upper(), "0201"):
        answer = await add(http, 1, product)
    assert shown(answer) == cart(item(2), item(2, LAMP, line=2), item(1, "0201", line=3))


async def test_an_id_that_javascript_would_round_is_a_text(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    for product in (2**53 - 1, 2**53):
        await sell(shop, product)
    await add(http, 1, 2**53 - 1)
    answer = await add(http, 1, 2**53)
    assert shown(answer) == cart(item(1, 2**53 - 1), item(1, str(2**53), line=2))


async def test_money_has_two_decimals(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, price="12.50")
    answer = await add(http, 2)
    assert b'"PriceAtAddition":12.50,' in answer.content
    assert b'"subtotal":25.00}' in answer.content
    assert b'"total":25.00,' in answer.content


async def test_the_price_of_the_addition_is_recorded(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, price="29.99")
    await http.post(
        "/cart/items",
        json={"product_id": PRODUCT, "quantity": 1, "PriceAtAddition": 0.01, "price": 0.01},
        headers=HEADERS,
    )
    await sell(shop, price="35.00")
    assert shown(await http.get("/cart", headers=HEADERS)) == cart(item(1))


async def test_insufficient_stock(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=3)
    await refused(shop, add(http, 4), 409, "Insufficient stock. Available: 3")
    await add(http, 2)
    message = "Insufficient stock. Available: 3, already in cart: 2"
    await refused(shop, add(http, 2), 409, message)
    request = http.put(path_of(), json={"quantity": 4}, headers=HEADERS)
    await refused(shop, request, 409, message)


@pytest.mark.parametrize("product", [7, -7, "nothing", "", "a/b", "a" * 65, 2**63, 2**64, 10**300])
async def test_unknown_products(http: httpx.AsyncClient, shop: Shop, product: int | str) -> None:
    await refused(shop, add(http, 1, product), 404, "Product not found")


async def test_a_product_that_is_not_available(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, active=False)
    await refused(shop, add(http), 400, "Product is not available")


async def test_a_limit_of_a_product(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, max_per_order=1)
    await refused(shop, add(http, 2), 400, "At most 1 of this product an order")


async def test_the_51st_item_is_refused(http: httpx.AsyncClient, shop: Shop) -> None:
    for product in range(51):
        await sell(shop, product)
    lines = [LineRequest(str(product), 1) for product in range(49)]
    await shop.add_lines(*lines, owner=OWNER)
    assert (await add(http, 1, 49)).status_code == 201
    await refused(shop, add(http, 1, 50), 400, "Cart is full: at most 50 items")
    assert (await add(http, 1, 0)).json()["total_items"] == 51


ID = "product_id must be a string or a whole number"
QUANTITY = "quantity must be a whole number from 1 to 999999999"
NOT_JSON = "Request body is not valid JSON"
NOT_OBJECT = "Request body must be a JSON object"
TWICE = "Request body has a key twice"


def body(product: str = str(PRODUCT), quantity: str = "1", rest: str = "") -> bytes:
    return f'{{"product_id":{product},"quantity":{quantity}{rest}}}'.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"{", NOT_JSON),
        (b"[]", NOT_OBJECT),
        (b'{"quantity":1}', ID),
        (body(product="null"), ID),
        (body(product="2.5"), ID),
        (body(product="true"), ID),
        (body(product="[201]"), ID),
        (body(product="9" * 10_000), ID),
        (body(product="-" + "9" * 10_000), ID),
        (b'{"product_id":201}', QUANTITY),
        (body(quantity="0"), QUANTITY),
        (body(quantity="-1"), QUANTITY),
        (body(quantity="1.5"), QUANTITY),
        (body(quantity='"1"'), QUANTITY),
        (body(quantity="1000000000"), QUANTITY),
        (body(quantity="9" * 10_000), QUANTITY),
        (body(rest=',"quantity":1'), TWICE),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
async def test_malformed_bodies(
    http: httpx.AsyncClient, shop: Shop, content: bytes, message: str
) -> None:
    await sell(shop)
    await add(http)
    request = http.post("/cart/items", content=content, headers=HEADERS)
    await refused(shop, request, 400, message)
    if message != ID:
        request = http.put(path_of(), content=content, headers=HEADERS)
        await refused(shop, request, 400, message)


@pytest.mark.parametrize(
    ("path", "sent", "content"),
    [
        ("/cart/items", HEADERS, '{"product_id":%s,"quantity":1}'),
        ("/cart/items", HEADERS, '{"product_id":201,"quantity":%s}'),
        ("/cart/items", HEADERS, '{"product_id":201,"quantity":1,"quantity":%s}'),
        ("/cart/items", {"x-tenant-id": "default"}, '{"productId":%s,"quantity":1}'),
        ("/cart/items", {"x-tenant-id": "default"}, '{"productId":"201","quantity":%s}'),
        ("/api/cart", {}, '{"product_id":%s,"quantity":1}'),
        ("/api/cart", {}, '{"product_id":"507f1f77bcf86cd799439011","quantity":%s}'),
    ],
)
async def test_integers_of_many_digits_are_refused(
    http: httpx.AsyncClient, shop: Shop, path: str, sent: dict[str, str], content: str
) -> None:
    """Python refuses to write out, or read, an integer of more than 4,300 digits."""
    before = await shop.everything()
    for digits in (400, 4_299, 4_300, 4_301, 10_000, 60_000):
        for sign in ("", "-"):
            number = sign + "9" * digits
            answer = await http.post(path, content=content % number, headers=sent)
            assert answer.status_code in {400, 404}
    assert await shop.everything() == before


async def test_a_cart_is_read_changed_and_emptied(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, PRODUCT)
    await sell(shop, MUG)
    await add(http, 2, PRODUCT)
    await add(http, 1, MUG)
    mug = item(1, MUG, line=2)
    read = await http.get("/cart", headers=HEADERS)
    changed = await http.put(path_of(), json={"quantity": 5}, headers=HEADERS)
    removed = await http.delete(path_of(), headers=HEADERS)
    cleared = await http.delete("/cart", headers=HEADERS)
    assert [one.status_code for one in (read, changed, removed, cleared)] == [200] * 4
    assert shown(read) == cart(item(2), mug)
    assert shown(changed) == cart(item(5), mug)
    assert shown(removed) == cart(mug)
    assert shown(cleared) == cart()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_device_without_a_cart_has_an_empty_one(
    http: httpx.AsyncClient, shop: Shop, method: str
) -> None:
    before = await shop.everything()
    answer = await http.request(method, "/cart", headers=HEADERS)
    assert (answer.status_code, shown(answer)) == (200, cart(id_=None))
    assert b'"total":0.00,' in answer.content
    assert await shop.everything() == before


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_items_that_are_not_the_devices(
    http: httpx.AsyncClient, shop: Shop, method: str
) -> None:
    await sell(shop, PRODUCT)
    await sell(shop, MUG)
    await add(http, who="another")
    ids = [item_id(CART, 1), item_id(SECOND_CART, 2), "lamp", PRODUCT, "-1", "9" * 5_000]
    for _ in range(2):  # without a cart, and with one
        for id_ in ids:
            content = {"quantity": 5} if method == "PUT" else None
            request = http.request(method, f"/cart/items/{id_}", headers=HEADERS, json=content)
            await refused(shop, request, 404, "Item not found in cart")
        await add(http, 1, MUG)
    gone = await http.delete(path_of(SECOND_CART), headers=HEADERS)
    assert shown(gone) == cart(id_=SECOND_CART)


async def test_a_device_is_no_session_of_the_same_name(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await shop.add_lines(LineRequest(str(PRODUCT), 1), owner=Owner("session", DEVICE))
    assert shown(await http.get("/cart", headers=HEADERS)) == cart(id_=None)
    assert shown(await add(http)) == cart(item(1, cart=SECOND_CART), id_=SECOND_CART)


async def test_notices_are_told_once(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=2, stock_policy="hold")
    # By the test's clock, which stands long before the service's.
    await shop.add_lines(LineRequest(str(PRODUCT), 2), owner=OWNER)
    assert (await add(http, 2, who="another")).status_code == 201
    told = f"hold_expired; sku={PRODUCT}; quantity=2"
    answer = await add(http)
    assert (answer.status_code, answer.headers["x-cart-notice"]) == (409, told)
    assert answer.json() == {"error": "Insufficient stock. Available: 0"}
    read = await http.get("/cart", headers=HEADERS)
    assert read.headers["x-cart-notice"] == told
    notice = {"product_id": PRODUCT, "quantity": 2, "reason": "hold_expired"}
    assert shown(read) == cart(notices=[notice])
    again = await http.get("/cart", headers=HEADERS)
    assert "x-cart-notice" not in again.headers
    assert shown(again) == cart()


async def test_a_held_item_says_until_when(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock_policy="hold")
    answer = await add(http)
    held_until = answer.json()["items"][0]["held_until"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", held_until)
    assert shown(answer) == cart(item(1, held_until=held_until))


FORM = "DeviceID must be 1 to 128 letters, digits, '.', '_', '~' or '-'"
PATHS = [
    ("POST", "/cart/items"),
    ("GET", "/cart"),
    ("DELETE", "/cart"),
    ("PUT", path_of()),
    ("DELETE", path_of()),
]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([""], FORM),
        (["a" * 129], FORM),
        (["a b"], FORM),
        (["a:b"], FORM),
        (["{default:0}"], FORM),
        (["\u00e9"], FORM),
        (["a, a"], FORM),
        (["a", "b"], "DeviceID header must be sent once"),
    ],
)
async def test_malformed_devices(
    http: httpx.AsyncClient, shop: Shop, devices: list[str], message: str
) -> None:
    await sell(shop)
    sent = httpx.Headers([(b"DeviceID", one.encode("latin-1")) for one in devices])
    for method, path in PATHS:
        request = http.request(method, path, headers=sent, content=body())
        await refused(shop, request, 400, message)


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_headers_say_which_contract_is_meant(
    http: httpx.AsyncClient, shop: Shop, method: str, path: str
) -> None:
    content = {"product_id": PRODUCT, "productId": str(PRODUCT), "quantity": 1}

    async def ask(*names: str) -> httpx.Response:
        sent = {"x-tenant-id": "default", "x-session-id": "s", "DeviceID": DEVICE}
        given = {name: sent[name] for name in names}
        return await http.request(method, path, headers=given, json=content)

    await sell(shop)
    for names in (["x-tenant-id"], ["DeviceID", "x-tenant-id"]):
        tenant = await ask("x-session-id", *names)
        assert {"tenantId", "statusCode"} & set(tenant.json())
    assert not await shop.redis.exists(shop.bucket.cart(OWNER))
    device = await ask("DeviceID", "x-session-id")
    assert {"DeviceID", "error"} & set(device.json())
    assert "statusCode" not in device.json()
    before = await shop.everything()
    for names in ([], ["x-session-id"]):
        neither = await ask(*names)
        # `statusCode` and `message` for the one contract, `error` for the other.
        assert (neither.status_code, neither.json()) == (
            400,
            {
                "statusCode": 400,
                "message": "x-tenant-id or DeviceID header is required",
                "error": "Bad Request",
            },
        )
    assert await shop.everything() == before


async def test_an_x_tenant_id_that_is_no_good_is_still_the_tenants_contract(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    answer = await http.get("/cart", headers={**HEADERS, "x-tenant-id": ""})
    assert (answer.status_code, answer.json()["statusCode"]) == (400, 400)


async def test_other_methods(http: httpx.AsyncClient, shop: Shop) -> None:
    answer = await http.patch("/cart", headers=HEADERS)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
    assert set(answer.headers["allow"].split(", ")) == {"GET", "DELETE"}


async def test_a_body_that_is_too_long(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    content = body().ljust(65_537)
    request = http.post("/cart/items", content=content, headers=HEADERS)
    await refused(shop, request, 413, "Request body is over 65536 bytes")


async def test_redis_that_lacks_the_tenant_is_503(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.redis.flushall()
    message = "Cart service is not available now, please try again"
    answer = await refused(shop, add(http), 503, message)
    assert answer.headers["retry-after"] == "1"


async def test_40_at_once_lose_none(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=40)
    answers = await asyncio.gather(*(add(http) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {201}
    # Every one saw its own add.
    assert sorted(answer.json()["total_items"] for answer in answers) == list(range(1, 41))
    assert shown(await http.get("/cart", headers=HEADERS)) == cart(item(40))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("quantity", ""), 400),
        (NotWarm(), 503),
        (OutcomeUnknown("connection lost"), 503),
        (ZeroDivisionError("a bug"), 500),
    ],
)
def test_every_error_has_an_answer(error: Exception, status: int) -> None:
    answer = device.refuse(error, {})
    assert answer.status == status
    assert answer.body.startswith(b'{"error":')
    assert b"a bug" not in answer.body
