"""Contract 001, tenant: over HTTP, against the service as it runs."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from cartsvc import catalog
from cartsvc.catalog import ProductRow, VariantRow
from cartsvc.contracts import tenant
from cartsvc.errors import Invalid, NotWarm, OutcomeUnknown
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, item_id
from tests import examples
from tests.shop import LAMP, MUG, Shop
from tests.storefront import (
    CART,
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

PHONE, BLACK = "clz1234567890abcdef", "clz0987654321fedcba"
NOBODYS = cart(id_=None)
NO_ITEM = failure(404, "Item not found in cart")


@pytest.fixture
async def xyz(http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger) -> Shop:
    """The store `tenant_xyz`, beside the default one."""
    return await open_tenant("tenant_xyz", shop, api_ledger)


PICTURE = "https://example.com/smartphone-x.jpg"


async def sell_phone(shop: Shop, *, price: str = "999.99", pictures: int = 2) -> None:
    row = ProductRow(
        id=PHONE,
        name="Smartphone X",
        price=Decimal("899.99"),
        images=[PICTURE, "https://example.com/back.jpg"][:pictures],
        stock=5,
        variants=[VariantRow(id=BLACK, name="Black / 128GB", price=Decimal(price))],
    )
    product = catalog.product(row, "USD")
    await shop.shelf.put(shop.bucket, [product], product.counters())


async def refused(
    shop: Shop, request: Awaitable[httpx.Response], expected: dict[str, Any]
) -> httpx.Response:
    """The answer to a request that changes nothing."""
    before = await shop.everything()
    answer = await request
    assert (answer.status_code, answer.json()) == (expected["statusCode"], expected)
    assert answer.headers["content-type"] == "application/json"
    assert await shop.everything() == before
    return answer


async def test_the_contracts_own_example(http: httpx.AsyncClient, xyz: Shop) -> None:
    await sell_phone(xyz)
    sent = headers(tenant="tenant_xyz", bearer=token())
    answer = await add(http, sent, 1, PHONE, BLACK)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    assert answer.headers["X-Session-ID"] == SESSION
    assert shown(answer) == {
        "id": "256",
        "tenantId": "tenant_xyz",
        "sessionId": "session_def456",
        "userId": "user_789",
        "cartItems": [
            {
                "id": str(item_id(CART, 1)),
                "productId": "clz1234567890abcdef",
                "quantity": 1,
                "productVariantId": "clz0987654321fedcba",
                "product": {
                    "id": "clz1234567890abcdef",
                    "name": "Smartphone X",
                    "images": [PICTURE, "https://example.com/back.jpg"],
                },
                "productVariant": {
                    "id": "clz0987654321fedcba",
                    "name": "Black / 128GB",
                    "price": 999.99,
                },
            }
        ],
    }


def plain(body: Any) -> Any:
    """A body without ids of carts and items, and times."""
    if "cartItems" not in body:
        return body
    rest = {name: body[name] for name in body if name not in ("id", "updatedAt")}
    items = [{name: one[name] for name in one if name != "id"} for one in body["cartItems"]]
    return {**rest, "cartItems": items}


async def test_every_documented_answer(http: httpx.AsyncClient, xyz: Shop) -> None:
    """The examples of the documentation are among what the service says in a shopper's story."""
    await sell_phone(xyz, pictures=1)
    await xyz.sell(LAMP, active=False)
    guest = headers(tenant="tenant_xyz")
    customer = headers(tenant="tenant_xyz", bearer=token())
    said: dict[tuple[str, str], list[Any]] = {}

    async def ask(operation: str, sent: dict[str, str], content: Any = None, id_: str = "") -> str:
        method, path = operation.split()
        path = path.replace("{item_id}", id_)
        answer = await http.request(method, path, headers=sent, json=content)
        said.setdefault((operation, str(answer.status_code)), []).append(plain(answer.json()))
        return str((answer.json().get("cartItems") or [{"id": ""}])[0]["id"])

    documented = examples.of("tenant")
    post, get, clear, put, delete = documented
    phone, more = documented[post]["request"], documented[put]["request"]
    id_ = await ask(post, customer, phone)
    await ask(get, customer)
    await ask(put, customer, more, id_)
    await xyz.shelf.set_stock(xyz.bucket, PHONE, 3)
    await ask(put, customer, {"quantity": 4}, id_)
    for changes in (
        {"quantity": 2},
        {"quantity": 0},
        {"productId": None},
        {"productId": LAMP, "productVariantId": None},
        {"productId": "nothing"},
        {"productVariantId": "nothing"},
    ):
        await ask(post, customer, {**phone, **changes})
    await ask(put, customer, {"quantity": 0}, id_)
    for operation, content in ((post, phone), (get, None), (clear, None), (put, more)):
        for changes in (
            {"Authorization": "Bearer no"},
            {"x-tenant-id": "nobodys"},
            {"x-tenant-id": "-- --"},
        ):
            await ask(operation, {**customer, **changes}, content, id_)
            await ask(delete, {**customer, **changes}, None, id_)
    await ask(put, customer, more, "1")
    await ask(delete, customer, None, "1")
    await ask(delete, customer, None, id_)
    await ask(clear, customer)
    await ask(get, guest)
    await ask(post, guest, {**phone, "productVariantId": None})
    await ask(get, guest)
    await ask(clear, guest)
    await ask(post, guest, {**phone, "quantity": 3})
    await xyz.add_lines(LineRequest(PHONE, 1, BLACK), owner=SHOPPER)
    await xyz.shelf.set_stock(xyz.bucket, PHONE, 2)
    await ask(get, customer)
    for operation, one in documented.items():
        for status, named in one["answers"].items():
            for name, body in named.items():
                assert plain(body) in said[operation, status], f"{operation}: {name}"


async def test_a_guest_without_a_session_is_given_one(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    answers = [await add(http, headers(None), 2) for _ in range(2)]
    made = [answer.headers["X-Session-ID"] for answer in answers]
    assert made[0] != made[1]
    # 128 random bits are 22 characters of base64.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,128}", session) for session in made)
    assert [answer.json()["sessionId"] for answer in answers] == made
    again = await add(http, headers(made[0]), 3)
    assert again.headers["X-Session-ID"] == made[0]
    assert shown(again) == cart(item(5), session=made[0])


async def test_a_customer_without_a_session_is_given_one(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell()
    answer = await add(http, headers(None, bearer=token()))
    made = answer.headers["X-Session-ID"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{22,128}", made)
    assert shown(answer) == cart(item(1), session=made, user=CUSTOMER)


async def test_money_has_two_decimals(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(price="12.50")
    await sell_phone(shop, price="1000")
    assert b'"price":12.50}' in (await add(http, headers())).content
    assert b'"price":1000.00}' in (await add(http, headers(), 1, PHONE, BLACK)).content


async def test_the_same_product_and_variant_is_one_item(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell("tee", variants=[("s", None), ("m", 5)])
    for quantity, variant in ((1, "s"), (2, "s"), (3, "m"), (4, None), (5, None)):
        answer = await add(http, headers(), quantity, "tee", variant)
        assert answer.status_code == 201
    assert shown(answer) == cart(
        item(3, "tee", line=1, variant_id="s"),
        item(3, "tee", line=2, variant_id="m"),
        item(9, "tee", line=3),
    )


async def test_two_spellings_of_an_object_id_are_one_product(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    product_id = "507f1f77bcf86cd7994390ab"
    await shop.sell(product_id)
    await add(http, headers(), 2, product_id)
    answer = await add(http, headers(), 2, product_id.upper())
    assert shown(answer) == cart(item(4, product_id))


async def test_a_null_variant_is_none(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    body = {"productId": LAMP, "quantity": 1, "productVariantId": None, "price": 0.01}
    answer = await http.post("/cart/items", json=body, headers=headers())
    assert shown(answer) == cart(item(1))


PRODUCT = "productId must be a string"
VARIANT = "productVariantId must be a string"
QUANTITY = "quantity must be a whole number from 1 to 999999999"
NOT_JSON = "Request body is not valid JSON"
NOT_OBJECT = "Request body must be a JSON object"
TWICE = "Request body has a key twice"
DEEP = "Request body is nested too deeply"


def body(product: str = f'"{LAMP}"', quantity: str = "1", rest: str = "") -> bytes:
    return f'{{"productId":{product},"quantity":{quantity}{rest}}}'.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"{", NOT_JSON),
        (body() + b"x", NOT_JSON),
        (body(quantity="NaN"), NOT_JSON),
        (b"[]", NOT_OBJECT),
        (b'"add"', NOT_OBJECT),
        (b"null", NOT_OBJECT),
        (b'{"quantity":1}', PRODUCT),
        (body(product="7"), PRODUCT),
        (body(product="null"), PRODUCT),
        (body(product="9" * 10_000), PRODUCT),
        (b'{"productId":"%s"}' % LAMP.encode(), QUANTITY),
        (body(quantity="0"), QUANTITY),
        (body(quantity="-1"), QUANTITY),
        (body(quantity="1.5"), QUANTITY),
        (body(quantity='"1"'), QUANTITY),
        (body(quantity="true"), QUANTITY),
        (body(quantity="null"), QUANTITY),
        (body(quantity="1000000000"), QUANTITY),
        (body(quantity=str(2**64)), QUANTITY),
        (body(quantity="9" * 4_000), QUANTITY),
        (body(quantity="9" * 10_000), QUANTITY),
        (body(rest=',"productVariantId":7'), VARIANT),
        (body(rest=',"productVariantId":' + "9" * 10_000), VARIANT),
        (body(rest=',"quantity":1'), TWICE),
        (body(rest=',"quan\\u0074ity":2'), TWICE),
        (body(rest=',"a":{"b":1,"b":2}'), TWICE),
        (body(rest=',"a":' + "[" * 30_000), DEEP),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
async def test_malformed_bodies(
    http: httpx.AsyncClient, shop: Shop, content: bytes, message: str
) -> None:
    await shop.sell()
    await shop.add_lines(LineRequest(LAMP, 1), owner=GUEST)
    request = http.post("/cart/items", content=content, headers=headers())
    await refused(shop, request, failure(400, message))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"[]", NOT_OBJECT),
        (b"{}", QUANTITY),
        (b'{"quantity":0}', QUANTITY),
        (b'{"quantity":1000000000}', QUANTITY),
        (b'{"quantity":%s}' % (b"9" * 10_000), QUANTITY),
        (b'{"quantity":1,"quantity":2}', TWICE),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
async def test_malformed_quantities(
    http: httpx.AsyncClient, shop: Shop, content: bytes, message: str
) -> None:
    await shop.sell()
    await shop.add_lines(LineRequest(LAMP, 1), owner=GUEST)
    request = http.put(path_of(), content=content, headers=headers())
    await refused(shop, request, failure(400, message))


async def test_a_product_that_is_not_available(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(active=False)
    await refused(shop, add(http, headers()), failure(400, "Product is not available"))


async def test_insufficient_stock(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=3)
    message = "Insufficient stock. Available: 3"
    await refused(shop, add(http, headers(), 4), failure(400, message))
    await add(http, headers(), 2)
    message = "Insufficient stock. Available: 3, already in cart: 2"
    await refused(shop, add(http, headers(), 2), failure(400, message))
    request = http.put(path_of(), json={"quantity": 4}, headers=headers())
    await refused(shop, request, failure(400, message))


async def test_the_51st_item_is_refused(http: httpx.AsyncClient, shop: Shop) -> None:
    products = [f"product-{number}" for number in range(51)]
    for product_id in products:
        await shop.sell(product_id)
    await shop.add_lines(*(LineRequest(one, 1) for one in products[:49]), owner=GUEST)
    assert (await add(http, headers(), 1, products[49])).status_code == 201
    full = failure(400, "Cart is full: at most 50 items")
    await refused(shop, add(http, headers(), 1, products[50]), full)
    more = await add(http, headers(), 1, products[0])
    assert [one["quantity"] for one in more.json()["cartItems"]] == [2] + [1] * 49


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_per_order": 1}, "At most 1 of this product an order"),
        ({"max_per_buyer": 1}, "At most 1 of this product a buyer"),
        ({"min_per_order": 3}, "At least 3 of this product"),
        ({"sale_ends_at": datetime(2026, 1, 1, tzinfo=UTC)}, "The sale ended at 2026-01-01T00:0"),
    ],
)
async def test_limits_of_a_product(
    http: httpx.AsyncClient, shop: Shop, rules: dict[str, Any], message: str
) -> None:
    await shop.sell(**rules)
    before = await shop.everything()
    answer = await add(http, headers(), 2)
    assert (answer.status_code, answer.json()["error"]) == (400, "Bad Request")
    assert answer.json()["message"].startswith(message)
    assert await shop.everything() == before


async def test_a_sale_that_has_not_begun_says_when(http: httpx.AsyncClient, shop: Shop) -> None:
    starts = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=100)
    await shop.sell(sale_starts_at=starts)
    message = starts.strftime("The sale starts at %Y-%m-%dT%H:%M:%SZ")
    answer = await refused(shop, add(http, headers()), failure(400, message))
    assert 1 <= int(answer.headers["retry-after"]) <= 100


@pytest.mark.parametrize(
    ("product_id", "variant_id", "message"),
    [
        ("nothing", None, "Product not found"),
        ("no/thing", None, "Product not found"),
        ("", None, "Product not found"),
        ("a" * 65, None, "Product not found"),
        (f"{LAMP}\n", None, "Product not found"),
        ("nothing", "s", "Product not found"),
        (LAMP, "xxl", "Product variant not found"),
        (LAMP, "", "Product variant not found"),
        (LAMP, "s/m", "Product variant not found"),
    ],
)
async def test_unknown_products_and_variants(
    http: httpx.AsyncClient, shop: Shop, product_id: str, variant_id: str | None, message: str
) -> None:
    await shop.sell(variants=[("s", None)])
    await refused(shop, add(http, headers(), 1, product_id, variant_id), failure(404, message))


Headers = dict[str, str] | httpx.Headers
Request = Callable[[httpx.AsyncClient, Headers], Awaitable[httpx.Response]]

REQUESTS: dict[str, Request] = {
    "POST /cart/items": lambda http, sent: add(http, sent),
    "GET /cart": lambda http, sent: http.get("/cart", headers=sent),
    "DELETE /cart": lambda http, sent: http.delete("/cart", headers=sent),
    "PUT /cart/items": lambda http, sent: http.put(path_of(), json={"quantity": 5}, headers=sent),
    "DELETE /cart/items": lambda http, sent: http.delete(path_of(), headers=sent),
}
every_request = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)


@every_request
async def test_a_tenant_that_nobody_knows_is_404(
    http: httpx.AsyncClient, shop: Shop, request_: Request
) -> None:
    await shop.sell()
    sent = headers(tenant="nobodys")
    await refused(shop, request_(http, sent), failure(404, "Tenant not found"))


@every_request
async def test_a_tenant_that_redis_lacks_is_503(
    http: httpx.AsyncClient, shop: Shop, request_: Request
) -> None:
    await shop.redis.flushall()
    answer = await request_(http, headers())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "statusCode": 503,
        "message": "Cart service is not available now, please try again",
        "error": "Service Unavailable",
    }
    assert await shop.everything() == {}


FORM = "x-tenant-id must be 1 to 64 letters, digits, '_' or '-'"
ONCE = "header must be sent once"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([("x-tenant-id", "")], FORM),
        ([("x-tenant-id", "a" * 65)], FORM),
        ([("x-tenant-id", "{default:0}")], FORM),
        ([("x-tenant-id", "default:0")], FORM),
        ([("x-tenant-id", "d\u00e9fault")], FORM),
        ([("x-tenant-id", "default, default")], FORM),
        ([("x-tenant-id", "default"), ("X-Tenant-ID", "other")], f"x-tenant-id {ONCE}"),
        (
            [("x-tenant-id", "default"), ("x-session-id", "a"), ("X-Session-ID", "b")],
            f"x-session-id {ONCE}",
        ),
        *(
            (
                [("x-tenant-id", "default"), ("x-session-id", session)],
                "x-session-id must be 1 to 128 letters, digits, '.', '_', '~' or '-'",
            )
            for session in ("", "a" * 129, "a b", "a:b", "{other:0}", "../a", "\u00e9")
        ),
    ],
)
async def test_malformed_headers(
    http: httpx.AsyncClient,
    shop: Shop,
    sent: list[tuple[str, str]],
    message: str,
) -> None:
    await shop.sell()
    given = httpx.Headers([(name.encode(), value.encode("latin-1")) for name, value in sent])
    for request in REQUESTS.values():
        await refused(shop, request(http, given), failure(400, message))


async def test_the_same_header_twice_is_said_once(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    answer = await http.post(
        "/cart/items",
        json={"productId": LAMP, "quantity": 1},
        headers=[*headers().items(), *headers().items()],
    )
    assert shown(answer) == cart(item(1))


NOT_A_TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2VyXzc4OSIsInR5cGUiOiJjdXN0b21lciJ9."

BAD_TOKENS = {
    "empty": "Bearer",
    "garbage": "Bearer garbage",
    "unsigned": f"Bearer {NOT_A_TOKEN}",
    "of another secret": f"Bearer {token(secret='another secret, also of 32 characters')}",
    "expired": f"Bearer {token(ttl_s=-1)}",
    "of another scheme": f"Basic {token()}",
    "of a user": f"Bearer {token('user')}",
    "of a service": f"Bearer {token('service')}",
    "of another tenant": f"Bearer {token(tenant='tenant_xyz')}",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_bad_token_is_never_a_guest(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    await shop.sell()
    for owner in (GUEST, SHOPPER):
        await shop.add_lines(LineRequest(LAMP, 1), owner=owner)
    sent = {**headers(), "Authorization": BAD_TOKENS[name]}
    for request in REQUESTS.values():
        await refused(shop, request(http, sent), failure(401, "Invalid authentication token"))


@pytest.mark.parametrize("claim", [None, "default"])
async def test_a_token_of_this_tenant_or_of_none(
    http: httpx.AsyncClient, shop: Shop, claim: str | None
) -> None:
    await shop.sell()
    answer = await add(http, headers(bearer=token(tenant=claim)))
    assert shown(answer) == cart(item(1), user=CUSTOMER)


@pytest.mark.parametrize("bearer", [None, token()], ids=["guest", "customer"])
async def test_tenants_do_not_see_each_others_carts(
    http: httpx.AsyncClient, shop: Shop, xyz: Shop, bearer: str | None
) -> None:
    user = CUSTOMER if bearer else None
    await shop.sell(price="29.99")
    await xyz.sell(price="31.00")
    here, there = headers(bearer=bearer), headers(tenant="tenant_xyz", bearer=bearer)
    await add(http, here, 2)
    empty = await http.get("/cart", headers=there)
    assert shown(empty) == cart(id_=None, tenant="tenant_xyz", user=user)
    added = await add(http, there, 3)
    theirs = cart(item(3, price=31.0), tenant="tenant_xyz", user=user)
    assert shown(added) == theirs
    # The first carts of two tenants have the same id, and so have their items.
    await http.put(path_of(), json={"quantity": 5}, headers=here)
    assert shown(await http.get("/cart", headers=there)) == theirs
    await http.delete("/cart", headers=here)
    assert shown(await http.get("/cart", headers=there)) == theirs


async def test_another_tenants_product_is_not_found(
    http: httpx.AsyncClient, shop: Shop, xyz: Shop
) -> None:
    await xyz.sell()
    await refused(shop, add(http, headers()), failure(404, "Product not found"))


async def test_guests_of_the_default_tenant_are_those_of_the_session_contract(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell()
    await http.post("/api/cart", json={"product_id": LAMP, "quantity": 2, "session_id": SESSION})
    assert shown(await add(http, headers())) == cart(item(3))


async def test_a_cart_is_read_changed_and_emptied(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(LAMP)
    await shop.sell(MUG, price="12.50")
    await add(http, headers(), 2, LAMP)
    await add(http, headers(), 1, MUG)
    mug = item(1, MUG, line=2, price=12.5)
    read = await http.get("/cart", headers=headers())
    changed = await http.put(path_of(), json={"quantity": 5}, headers=headers())
    removed = await http.delete(path_of(), headers=headers())
    cleared = await http.delete("/cart", headers=headers())
    answers = (read, changed, removed, cleared)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.headers["X-Session-ID"] for answer in answers] == [SESSION] * 4
    assert shown(read) == cart(item(2), mug)
    assert shown(changed) == cart(item(5), mug)
    assert shown(removed) == cart(mug)
    assert shown(cleared) == cart()
    # A line that comes back is another item.
    assert shown(await add(http, headers(), 1, LAMP)) == cart(item(1, line=3))


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("bearer", [None, token()], ids=["guest", "customer"])
async def test_who_has_no_cart_has_an_empty_one(
    http: httpx.AsyncClient, shop: Shop, method: str, bearer: str | None
) -> None:
    before = await shop.everything()
    answer = await http.request(method, "/cart", headers=headers(bearer=bearer))
    assert (answer.status_code, answer.headers["X-Session-ID"]) == (200, SESSION)
    assert shown(answer) == {**NOBODYS, "userId": CUSTOMER if bearer else None}
    assert await shop.everything() == before


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_items_that_are_not_the_shoppers(
    http: httpx.AsyncClient, shop: Shop, method: str
) -> None:
    await shop.sell(LAMP)
    await shop.sell(MUG)
    await add(http, headers("somebody_else"), 2, LAMP)
    mine, theirs = item_id(SECOND_CART, 1), item_id(CART, 1)
    numbers = ["lamp", LAMP, "-1", "0", "1e3", "%F0%9F%92%A1", f"0{mine}", f"{mine}.0", "9" * 5_000]
    for _ in range(2):  # without a cart, and with one
        for id_ in (theirs, item_id(SECOND_CART, 2), item_id(3 * CART, 1), *numbers):
            answer = http.request(
                method,
                f"/cart/items/{id_}",
                headers=headers(),
                json={"quantity": 5} if method == "PUT" else None,
            )
            await refused(shop, answer, NO_ITEM)
        await add(http, headers(), 1, MUG)
    gone = await http.delete(f"/cart/items/{mine}", headers=headers())
    assert shown(gone) == cart(id_=SECOND_CART)


async def test_a_cart_of_before_has_no_items_of_now(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    await add(http, headers())
    await shop.store.close(shop.bucket, GUEST, "CONVERTED")
    await add(http, headers(), 2)
    await refused(shop, http.delete(path_of(), headers=headers()), NO_ITEM)
    assert shown(await http.get("/cart", headers=headers())) == cart(
        item(2, cart=SECOND_CART), id_=SECOND_CART
    )


async def test_other_methods(http: httpx.AsyncClient, shop: Shop) -> None:
    for path, allowed in (
        ("/cart", {"GET", "DELETE"}),
        ("/cart/items", {"POST"}),
        (path_of(), {"PUT", "DELETE"}),
    ):
        answer = await http.patch(path, headers=headers())
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert answer.json() == {
            "statusCode": 405,
            "message": "Method Not Allowed",
            "error": "Method Not Allowed",
        }
    assert (await http.head("/cart", headers=headers())).status_code == 405


async def test_a_body_that_is_too_long(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    before = await shop.everything()
    content = body().ljust(65_537)
    answer = await http.post("/cart/items", content=content, headers=headers())
    assert answer.status_code == 413
    assert answer.json()["statusCode"] == 413
    assert answer.json()["message"] == "Request body is over 65536 bytes"
    assert await shop.everything() == before


async def test_an_item_that_is_saved_for_later_is_not_shown(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell(LAMP)
    await shop.sell(MUG)
    await add(http, headers(), 2, LAMP)
    await add(http, headers(), 3, MUG)
    await shop.store.save_for_later(shop.bucket, GUEST, LAMP)
    mug = item(3, MUG, line=2)
    assert shown(await http.get("/cart", headers=headers())) == cart(mug)
    # Added again, it is back, with what was saved.
    assert shown(await add(http, headers(), 1, LAMP)) == cart(item(3), mug)


async def test_a_held_item_says_until_when(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(MUG)
    await shop.sell("tee", variants=[("s", None)], stock_policy="hold", hold_ttl_s=60)
    await add(http, headers(), 1, MUG)
    answer = await add(http, headers(), 1, "tee", "s")
    mug, tee = answer.json()["cartItems"]
    held_until = datetime.fromisoformat(tee.pop("heldUntil"))
    assert mug == item(1, MUG)
    assert tee == item(1, "tee", line=2, variant_id="s")
    updated = datetime.fromisoformat(answer.json()["updatedAt"])
    assert held_until - updated == timedelta(seconds=60)


@pytest.fixture
async def expired(http: httpx.AsyncClient, shop: Shop) -> None:
    """A cart whose hold of 2 tees has run out; somebody else has them by now."""
    rules: dict[str, Any] = {"stock": 2, "variants": [("s", None)], "stock_policy": "hold"}
    # By the test's clock, which stands long before the service's.
    await shop.sell("tee", **rules)
    await shop.add_lines(LineRequest("tee", 2, "s"), owner=GUEST)
    assert (await add(http, headers("bob"), 2, "tee", "s")).status_code == 201


@pytest.mark.usefixtures("expired")
async def test_the_next_response_tells_of_a_released_item(http: httpx.AsyncClient) -> None:
    told = "hold_expired; sku=tee/s; quantity=2"
    answer = await add(http, headers(), 1, "tee", "s")
    assert (answer.status_code, answer.headers["x-cart-notice"]) == (400, told)
    assert answer.json() == failure(400, "Insufficient stock. Available: 0")
    read = await http.get("/cart", headers=headers())
    assert (read.status_code, read.headers["x-cart-notice"]) == (200, told)
    notice = {
        "productId": "tee",
        "productVariantId": "s",
        "quantity": 2,
        "reason": "hold_expired",
    }
    assert shown(read) == cart(notices=[notice])
    again = await http.get("/cart", headers=headers())
    assert "x-cart-notice" not in again.headers
    assert shown(again) == cart()


async def test_40_at_once_lose_none(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=40)
    answers = await asyncio.gather(*(add(http, headers()) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {201}
    # Every one saw its own add.
    seen = sorted(answer.json()["cartItems"][0]["quantity"] for answer in answers)
    assert seen == list(range(1, 41))
    assert shown(await http.get("/cart", headers=headers())) == cart(item(40))


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
    answer = tenant.refuse(error, {})
    assert answer.status == status
    assert b'"statusCode":%d' % status in answer.body
    assert b"a bug" not in answer.body
