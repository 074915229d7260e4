"""Short names for tests of contract 004: who asks, what is sold, and bodies to compare."""

import re
from typing import Any

import httpx

from tests import examples
from tests.callers import bearer
from tests.shop import Shop

ADMIN = bearer("1", "user")
SERVICE = bearer("orders", "service")
ANN = bearer("103")
BOB = bearer("104")
CARTS, ITEMS = "/api/carts", "/api/cart-items"

FIRST_CART = 256
FIRST_ITEM = FIRST_CART << 12 | 1
IMAGE = "https://cdn.example.com/lamp.jpg"


async def sell(shop: Shop, *, stock: int = 100, **terms: Any) -> None:
    """Products 205 and 206, as the document has them."""
    for product, name, price in (("205", "Product 5", "24.99"), ("206", "Product 6", "10.00")):
        await shop.sell(product, **{"name": name, "price": price, "stock": stock, **terms})


async def make(http: httpx.AsyncClient, who: dict[str, str] = ANN, **body: Any) -> int:
    """The id of a new cart."""
    made = await http.post(CARTS, json=body, headers=who)
    assert made.status_code == 201
    number: int = made.json()["id"]
    return number


def item_body(
    cart: int = FIRST_CART, product: int | str = 205, quantity: int = 1, **more: Any
) -> Any:
    return {"cartId": cart, "productId": product, "quantity": quantity, **more}


async def put_in(
    http: httpx.AsyncClient,
    cart: int = FIRST_CART,
    product: int = 205,
    quantity: int = 1,
    who: dict[str, str] = ANN,
    **more: Any,
) -> int:
    """The id of an item that is added."""
    body = item_body(cart, product, quantity, **more)
    added = await http.post(ITEMS, json=body, headers=who)
    assert added.status_code == 201
    number: int = added.json()["id"]
    return number


async def cart_of(
    http: httpx.AsyncClient, *items: tuple[int, int], who: dict[str, str] = ANN
) -> int:
    """The id of a new cart with these (product, quantity)."""
    cart = await make(http, who)
    for product, quantity in items:
        await put_in(http, cart, product, quantity, who)
    return cart


async def set_status(
    http: httpx.AsyncClient, cart: int, status: str, who: dict[str, str] = ANN
) -> httpx.Response:
    return await http.patch(f"{CARTS}/{cart}/status/{status}", headers=who)


def timeless(body: Any) -> Any:
    """A body without its times, which are all as they should be written."""
    if isinstance(body, list):
        return [timeless(one) for one in body]
    if not isinstance(body, dict):
        return body
    times = body.keys() & {"timestamp", "createdAt", "updatedAt", "changeDate"}
    for name in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body[name])
    return {name: timeless(value) for name, value in body.items() if name not in times}


# The numbers that the document's items have here within their carts.
_LINES = {1: 1, 2: 1, 3: 1, 4: 2, 5: 1}


def _here(body: Any) -> Any:
    """A cart, an item or a list of them as it is with the ids that this service gives."""
    if isinstance(body, list):
        return [_here(one) for one in body]
    if "cartItems" in body:
        return {**body, "id": body["id"] << 8, "cartItems": _here(body["cartItems"])}
    cart = body["cartId"] << 8
    return {**body, "id": cart << 12 | _LINES[body["id"]], "cartId": cart}


def documented(operation: str, status: int, name: str | None = None, **changes: Any) -> Any:
    """A body of the document without its times, with `changes` in place of what it has."""
    body = timeless(examples.answer("records", operation, status, name))
    if status < 300:
        body = _here(body)
    assert not changes or changes.keys() <= body.keys()
    return {**body, **changes} if changes else body


def failure(
    status: int, message: str, path: str, errors: dict[str, str] | None = None
) -> dict[str, Any]:
    words = {400: "Bad Request", 404: "Not Found", 409: "Conflict", 503: "Service Unavailable"}
    told = {"errors": errors} if errors else {}
    return {"status": status, "error": words[status], "message": message, "path": path, **told}


async def refused(shop: Shop, call: Any, body: Any) -> httpx.Response:
    """The response to `call`, which is this refusal, and by which nothing is changed."""
    before = await shop.everything()
    response: httpx.Response = await call
    assert timeless(response.json()) == body
    assert response.status_code == body["status"]
    assert await shop.everything() == before
    return response
