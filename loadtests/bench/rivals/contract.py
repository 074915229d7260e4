"""What the rivals in Python share of contract 000: its request, its answers and its refusals."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_LINES = 50

_ID = re.compile(r"at `\$\.(\w+)`|required field `(\w+)`")


class Add(msgspec.Struct):
    """The request. Other fields are ignored."""

    product_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{24}\Z")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=100)]
    session_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,128}\Z")] | None = None


class Line(NamedTuple):
    """A line of a cart; the price is that of one unit, in cents."""

    product_id: str
    name: str
    price_minor: int
    quantity: int


class Item(msgspec.Struct):
    product_id: str
    product_name: str
    price: float
    quantity: int
    subtotal: float


class Cart(msgspec.Struct):
    items: list[Item]
    total_items: int
    total_amount: float
    updated_at: str


class Data(msgspec.Struct):
    session_id: str
    cart: Cart


class Added(msgspec.Struct):
    data: Data
    success: bool = True
    message: str = "Item added to cart successfully"


class Refused(Exception):
    """An answer that is not 200, and nothing was changed."""

    def __init__(self, status: int, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = {"code": code, **facts}


_decode = msgspec.json.Decoder(Add).decode
_encode = msgspec.json.Encoder().encode

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def app(add: Callable[[str, str, int], Awaitable[Response]], lifespan: Lifespan) -> Starlette:
    """An application of one route; `add` is given session, product and quantity."""

    async def endpoint(request: Request) -> Response:
        asked = decode(await request.body())
        session_id = asked.session_id or secrets.token_urlsafe(24)
        return await add(session_id, asked.product_id.lower(), asked.quantity)

    route = Route("/api/cart", endpoint, methods=["POST"])
    return Starlette(routes=[route], exception_handlers={Refused: _refuse}, lifespan=lifespan)


def decode(body: bytes) -> Add:
    """The request in a body.

    Raises:
        Refused: it is malformed.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        found = _ID.search(str(error))
        field = (found[1] or found[2]) if found else "body"
        raise Refused(400, f"invalid_{field}", str(error)) from None
    except msgspec.DecodeError as error:
        raise Refused(400, "invalid_body", str(error)) from None


def added(session_id: str, lines: Iterable[Line], updated_ms: int) -> Response:
    """The answer to an add: the whole cart."""
    items = []
    units = total_minor = 0
    for product_id, name, price_minor, quantity in lines:
        subtotal_minor = price_minor * quantity
        units += quantity
        total_minor += subtotal_minor
        items.append(Item(product_id, name, price_minor / 100, quantity, subtotal_minor / 100))
    cart = Cart(items, units, total_minor / 100, _timestamp(updated_ms))
    return Response(_encode(Added(Data(session_id, cart))), media_type="application/json")


def not_found() -> Refused:
    return Refused(404, "product_not_found", "Product not found or not available")


def out_of_stock(free: int, in_cart: int) -> Refused:
    message = f"Insufficient stock. Available: {free}, already in cart: {in_cart}"
    return Refused(400, "insufficient_stock", message, available=free, in_cart=in_cart)


def cart_full() -> Refused:
    message = f"Cart is full: at most {MAX_LINES} items"
    return Refused(400, "cart_full", message, max_items=MAX_LINES)


def unavailable() -> Refused:
    return Refused(503, "unavailable", "Cart service is not available now, please try again")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    content = {"success": False, "message": error.message, "error": error.error}
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return Response(_encode(content), error.status, headers, "application/json")


def _timestamp(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
