"""Contract 000, session: `/api/cart`, a guest's cart named by a session id.

Ids are ObjectIds (24 hexadecimal digits). A request adds 1 to 100 units of one product. The
document has only the add; reading, changing and emptying the cart answer in the same envelope.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec
from starlette.datastructures import QueryParams
from starlette.routing import Route
from starlette.types import Scope

from cartsvc import http, identity, money
from cartsvc.errors import (
    BelowMinimum,
    BuyerLimit,
    CartFull,
    CartSpent,
    InactiveProduct,
    Invalid,
    NoCart,
    NoLine,
    OrderLimit,
    OutOfStock,
    Refused,
    SaleEnded,
    SaleNotStarted,
    Unavailable,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.http import Handle, Reply, reply
from cartsvc.keys import Bucket
from cartsvc.model import Cart, LineRequest, Owner, object_id, split_sku
from cartsvc.store import Store

MAX_QUANTITY = 100
"""Units a request may add ("within reasonable limits (1-100)")."""

_MUST = {
    "product_id": "must be a string of 24 hexadecimal digits",
    "quantity": f"must be a whole number from 1 to {MAX_QUANTITY}",
    "session_id": "must be a string of 1 to 128 letters, digits, '.', '_', '~' or '-'",
}


class AddItem(msgspec.Struct, frozen=True):
    """Request body of POST /api/cart. Other fields are ignored."""

    product_id: str
    quantity: int
    session_id: str | None = None


class SetItem(msgspec.Struct, frozen=True):
    """Request body of PUT /api/cart/items/{product_id}. Other fields are ignored."""

    quantity: int


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """`held_until` is there while the units are the shopper's own."""

    product_id: str
    product_name: str
    price: msgspec.Raw
    quantity: int
    subtotal: msgspec.Raw
    held_until: str | None = None


class CartView(msgspec.Struct, frozen=True):
    items: list[Item]
    total_items: int
    total_amount: msgspec.Raw
    updated_at: str


class NoticeView(msgspec.Struct, frozen=True):
    """A line that left the cart: `reason` is "hold_expired"."""

    product_id: str
    quantity: int
    reason: str


class Data(msgspec.Struct, frozen=True, omit_defaults=True):
    session_id: str
    cart: CartView
    notices: list[NoticeView] = []


class Envelope(msgspec.Struct, frozen=True):
    success: bool
    data: Data
    message: str


_add_item = msgspec.json.Decoder(AddItem)
_set_item = msgspec.json.Decoder(SetItem)


def routes(store: Store, *, tenant: str, max_body_bytes: int) -> list[Route]:
    bucket = Bucket(tenant)

    async def add_item(_: Scope, body: bytes) -> Reply:
        request = http.decode(_add_item, body)
        owner = identity.session(request.session_id)
        cart = await store.add(bucket, owner, [_line(request)])
        return _success(cart, "Item added to cart successfully")

    async def whole(
        scope: Scope, operation: Callable[[Bucket, Owner], Awaitable[Cart]], message: str
    ) -> Reply:
        owner = _owner(scope)
        try:
            return _success(await operation(bucket, owner), message)
        except NoCart:
            return _nothing(owner, store.clock_ms(), message)

    async def read(scope: Scope, _: bytes) -> Reply:
        return await whole(scope, store.read, "Cart retrieved successfully")

    async def clear(scope: Scope, _: bytes) -> Reply:
        return await whole(scope, store.clear, "Cart cleared successfully")

    async def set_quantity(scope: Scope, body: bytes) -> Reply:
        owner, line = _owner(scope), _product_id(scope["path_params"]["product_id"])
        quantity = _quantity(http.decode(_set_item, body).quantity)
        cart = await store.set_quantity(bucket, owner, line, quantity)
        return _success(cart, "Cart item updated successfully")

    async def remove(scope: Scope, _: bytes) -> Reply:
        owner, line = _owner(scope), _product_id(scope["path_params"]["product_id"])
        cart = await store.remove(bucket, owner, line)
        return _success(cart, "Item removed from cart successfully")

    def route(path: str, **methods: Handle) -> Route:
        return http.route(path, methods, refuse, max_body_bytes)

    return [
        route("/api/cart", POST=add_item, GET=read, DELETE=clear),
        route("/api/cart/items/{product_id}", PUT=set_quantity, DELETE=remove),
    ]


def _owner(scope: Scope) -> Owner:
    """The owner that `?session_id=` names."""
    given = QueryParams(scope["query_string"]).getlist("session_id")
    if len(given) != 1:
        raise Invalid("session_id", "must be given once")
    return identity.session(given[0])


def _product_id(text: str) -> str:
    product_id = object_id(text)
    if product_id is None:
        raise Invalid("product_id", _MUST["product_id"])
    return product_id


def _quantity(units: int) -> int:
    if not 1 <= units <= MAX_QUANTITY:
        raise Invalid("quantity", _MUST["quantity"])
    return units


def _line(request: AddItem) -> LineRequest:
    return LineRequest(_product_id(request.product_id), _quantity(request.quantity))


def _success(cart: Cart, message: str) -> Reply:
    notices = [
        NoticeView(split_sku(told.sku)[0], told.quantity, told.reason) for told in cart.notices
    ]
    data = Data(cart.owner.id, _view(cart), notices)
    return reply(200, Envelope(True, data, message), *http.notice_header(cart.notices))


def _nothing(owner: Owner, now_ms: int, message: str) -> Reply:
    """The cart of an owner who has none."""
    empty = CartView([], 0, money.number(0), _timestamp(now_ms))
    return reply(200, Envelope(True, Data(owner.id, empty), message))


def _view(cart: Cart) -> CartView:
    return CartView(
        items=[
            Item(
                product_id=line.product_id,
                product_name=line.name,
                price=money.number(line.price_minor),
                quantity=line.quantity,
                subtotal=money.number(line.subtotal_minor),
                held_until=_timestamp(line.held_until_ms) if line.held_until_ms else None,
            )
            for line in cart.in_order
        ],
        total_items=cart.total_quantity,
        total_amount=money.number(cart.total_minor),
        updated_at=_timestamp(cart.updated_ms),
    )


def _timestamp(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def refuse(error: Exception) -> Reply:
    """The contract's answer to an error: 400, 404 or 500, and what HTTP adds (413, 503)."""
    match error:
        case Invalid(field="", problem=problem):
            return _failure(400, "invalid_body", f"Request body {problem}")
        case Invalid(field=field, problem=problem):
            return _failure(400, "invalid_" + field, f"{field} {_MUST.get(field, problem)}")
        case http.BodyTooLarge(limit_bytes=limit):
            return _failure(413, "body_too_large", f"Request body is over {limit} bytes")
        case UnknownProduct() | UnknownVariant() | InactiveProduct():
            return _failure(404, "product_not_found", "Product not found or not available")
        case NoCart() | NoLine():
            return _failure(404, "item_not_found", "Item not found in cart")
        case OutOfStock(free=free, in_cart=in_cart):
            facts = {"available": free, "in_cart": in_cart}
            return _failure(400, "insufficient_stock", _short(free, in_cart), facts)
        case CartFull(max_lines=most):
            facts = {"max_items": most}
            return _failure(400, "cart_full", f"Cart is full: at most {most} items", facts)
        case Refused():
            return _rule(error)
        case Unavailable():
            message = "Cart service is not available now, please try again"
            return _failure(503, "unavailable", message, None, http.RETRY_AFTER)
        case _:
            return _failure(500, "internal_error", "Internal server error")


def _rule(error: Refused) -> Reply:
    """A rule of the product's sale that stands against the request."""
    match error:
        case CartSpent(max_line=most):
            message = f"Cart has had {most} items, please begin a new one"
            return _failure(400, "cart_spent", message, {"max_items_ever": most})
        case OrderLimit(max_units=most, in_cart=units):
            facts = {"max_per_order": most, "in_cart": units}
            return _failure(400, "order_limit", f"At most {most} of this product an order", facts)
        case BuyerLimit(max_units=most, has=units):
            facts = {"max_per_buyer": most, "has": units}
            return _failure(400, "buyer_limit", f"At most {most} of this product a buyer", facts)
        case BelowMinimum(min_units=least):
            facts = {"min_per_order": least}
            return _failure(400, "below_minimum", f"At least {least} of this product", facts)
        case SaleNotStarted(starts_ms=starts, wait_ms=wait):
            when = _timestamp(starts)
            message = f"The sale starts at {when}"
            starting = {"starts_at": when}
            return _failure(400, "sale_not_started", message, starting, http.retry_after(wait))
        case SaleEnded(ends_ms=ends):
            when = _timestamp(ends)
            return _failure(400, "sale_ended", f"The sale ended at {when}", {"ended_at": when})
        case _:
            return _failure(400, "refused", str(error))


def _short(free: int, in_cart: int) -> str:
    if in_cart == 0:
        return f"Insufficient stock. Available: {free}"
    return f"Insufficient stock. Available: {free}, already in cart: {in_cart}"


def _failure(
    status: int,
    code: str,
    message: str,
    facts: Mapping[str, int | str] | None = None,
    *headers: tuple[bytes, bytes],
) -> Reply:
    error = {"code": code, **(facts or {})}
    return reply(status, {"success": False, "message": message, "error": error}, *headers)
