"""Contract 000, session: `/api/cart`, a guest's cart named by a session id.

Ids are ObjectIds (24 hexadecimal digits). A request adds 1 to 100 units of one product. The
document has only the add; reading, changing and emptying the cart answer in the same envelope.
"""

from collections.abc import Awaitable
from typing import Annotated, Any

import msgspec
from starlette.types import Scope

from cartsvc import http, identity, money
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import Core, quantity
from cartsvc.errors import InactiveProduct, Invalid, NoCart, UnknownProduct, UnknownVariant
from cartsvc.http import Reply, reply
from cartsvc.identity import SessionId
from cartsvc.model import Cart, LineRequest, Owner, object_id, split_sku
from cartsvc.money import Number
from cartsvc.problems import problem

MAX_QUANTITY = 100
"""Units a request may add ("within reasonable limits (1-100)")."""

Quantity = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": MAX_QUANTITY})]

ObjectId = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[0-9a-fA-F]{24}$"})]

_MUST = {
    "product_id": "must be a string of 24 hexadecimal digits",
    "quantity": f"must be a whole number from 1 to {MAX_QUANTITY}",
    "session_id": "must be a string of 1 to 128 letters, digits, '.', '_', '~' or '-'",
}


class AddItem(msgspec.Struct, frozen=True):
    """Request body of POST /api/cart. Other fields are ignored."""

    product_id: ObjectId
    quantity: Quantity
    session_id: SessionId | None = None


class SetItem(msgspec.Struct, frozen=True):
    """Request body of PUT /api/cart/items/{product_id}. Other fields are ignored."""

    quantity: Quantity


class Item(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """`held_until` is there while the units are the shopper's own."""

    product_id: str
    product_name: str
    price: Number
    quantity: int
    subtotal: Number
    held_until: str | None = None


class CartView(msgspec.Struct, frozen=True):
    items: list[Item]
    total_items: int
    total_amount: Number
    updated_at: str


class NoticeView(msgspec.Struct, frozen=True):
    """A line that left the cart: `reason` is "hold_expired", or "released" by an operator."""

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


class Failure(msgspec.Struct, frozen=True):
    """`error` has a `code`, and the numbers that belong to it."""

    success: bool
    message: str
    error: dict[str, Any]


_add_item = msgspec.json.Decoder(AddItem)
_set_item = msgspec.json.Decoder(SetItem)

_SESSION = Parameter("session_id", "query", "the session", required=True, kind=SessionId)
_PRODUCT = Parameter("product_id", "path", "the product", kind=ObjectId)


class _Session:
    """What the routes do."""

    def __init__(self, core: Core) -> None:
        self.store, self.bucket = core.store, core.bucket

    async def add_item(self, scope: Scope, body: bytes) -> Reply:
        request = http.decode(_add_item, body)
        line = LineRequest(
            _product_id(request.product_id), quantity(request.quantity, MAX_QUANTITY)
        )
        owner = identity.session(request.session_id)
        once = http.once(scope, body, owner if request.session_id else None)
        cart = await self.store.add(self.bucket, owner, [line], once, scope.get("client"))
        return _success(cart, "Item added to cart successfully")

    async def whole(
        self, scope: Scope, owner: Owner, operation: Awaitable[Cart], message: str
    ) -> Reply:
        try:
            return _success(await operation, message)
        except NoCart:
            now_ms = http.answered_ms(scope, self.store.clock_ms())
            return _nothing(owner, now_ms, message)

    async def read(self, scope: Scope, _: bytes) -> Reply:
        owner = _owner(scope)
        cart = self.store.read(self.bucket, owner)
        return await self.whole(scope, owner, cart, "Cart retrieved successfully")

    async def clear(self, scope: Scope, body: bytes) -> Reply:
        owner = _owner(scope)
        cart = self.store.empty(self.bucket, owner, http.once(scope, body, owner))
        return await self.whole(scope, owner, cart, "Cart cleared successfully")

    async def set_quantity(self, scope: Scope, body: bytes) -> Reply:
        owner, line = _owner(scope), _product_id(scope["path_params"]["product_id"])
        units = quantity(http.decode(_set_item, body).quantity, MAX_QUANTITY)
        once = http.once(scope, body, owner)
        cart = await self.store.set_quantity(self.bucket, owner, line, units, once)
        return _success(cart, "Cart item updated successfully")

    async def remove(self, scope: Scope, body: bytes) -> Reply:
        owner, line = _owner(scope), _product_id(scope["path_params"]["product_id"])
        once = http.once(scope, body, owner)
        cart = await self.store.remove(self.bucket, owner, line, once=once)
        return _success(cart, "Item removed from cart successfully")


def contract(core: Core) -> Contract:
    do = _Session(core)
    cart, item, named = "/api/cart", "/api/cart/items/{product_id}", (400, 404)
    operations = [
        Operation("POST", cart, do.add_item, "Add a product", Envelope, named, AddItem),
        Operation("GET", cart, do.read, "The cart", Envelope, (400,)),
        Operation("DELETE", cart, do.clear, "Empty the cart", Envelope, (400,)),
        Operation("PUT", item, do.set_quantity, "Set a quantity", Envelope, named, SetItem),
        Operation("DELETE", item, do.remove, "Remove a product", Envelope, named),
    ]
    # An add names its session in the body.
    operations[1:] = [one._replace(parameters=(_SESSION,)) for one in operations[1:]]
    return Contract("session", "000 session", operations, refuse, Failure, parameters=(_PRODUCT,))


def _owner(scope: Scope) -> Owner:
    """The owner that `?session_id=` names."""
    given = http.query(scope, "session_id")
    if given is None:
        raise Invalid("session_id", "must be given once")
    return identity.session(given)


def _product_id(text: str) -> str:
    product_id = object_id(text)
    if product_id is None:
        raise Invalid("product_id", _MUST["product_id"])
    return product_id


def _success(cart: Cart, message: str) -> Reply:
    notices = [
        NoticeView(split_sku(told.sku)[0], told.quantity, told.reason) for told in cart.notices
    ]
    data = Data(cart.owner.id, _view(cart), notices)
    return reply(200, Envelope(True, data, message), *http.notice_header(cart.notices))


def _nothing(owner: Owner, now_ms: int, message: str) -> Reply:
    """The cart of an owner who has none."""
    empty = CartView([], 0, money.number(0), http.timestamp(now_ms))
    return reply(200, Envelope(True, Data(owner.id, empty), message))


def _view(cart: Cart) -> CartView:
    return CartView(
        items=[
            Item(
                line.product_id,
                line.name,
                money.number(line.price_minor),
                line.quantity,
                money.number(line.quantity * line.price_minor),
                http.timestamp(line.held_until_ms) if line.held_until_ms else None,
            )
            for line in cart.in_order
        ],
        total_items=cart.total_quantity,
        total_amount=money.number(cart.total_minor),
        updated_at=http.timestamp(cart.updated_ms),
    )


def refuse(error: Exception, _: Scope) -> Reply:
    """The contract's answer to an error: 400, 404 or 500, and what HTTP adds (405, 413, 503)."""
    match error:
        case Invalid(field=field) if field in _MUST:
            error = Invalid(field, _MUST[field])
        case UnknownVariant() | InactiveProduct():
            # "Product not found or not available"
            error = UnknownProduct(error.product_id)
    found = problem(error)
    message = found.message
    if found.code == "product_not_found":
        message = "Product not found or not available"
    body = Failure(success=False, message=message, error={"code": found.code, **found.facts})
    return reply(found.status, body, *found.headers)
