"""Contract 003, customer: `/api/customer/cart` of the customer whom the Bearer token names.

A product is added in variations, all or none of them. What is wrong with a body is told of every
field at once, in the words that the document's framework has for it. The two adds answer with the
items that they added or changed, the others with all; the totals are always the whole cart's.
"""

from collections.abc import Awaitable, Collection, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Scope

from cartsvc import http, money
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import Core, line_of, line_request
from cartsvc.errors import (
    BadToken,
    CartError,
    Invalid,
    NoCart,
    NoLine,
    NoToken,
    OutOfStock,
    UnknownProduct,
    UnknownVariant,
    WrongType,
)
from cartsvc.http import Reply, reply
from cartsvc.model import (
    MAX_QUANTITY,
    Cart,
    Id,
    Line,
    LineRequest,
    Quantity,
    item_id,
    public_id,
    split_sku,
)
from cartsvc.money import Number
from cartsvc.problems import CHALLENGE, problem


class Variation(msgspec.Struct, frozen=True):
    """A variation, and how many units of it."""

    id: str
    quantity: Quantity


class AddVariations(msgspec.Struct, frozen=True):
    """Request body of POST /api/customer/cart. Other fields are ignored."""

    product: int
    quantity: Quantity
    variations: list[Variation]


class AddItem(msgspec.Struct, frozen=True):
    """Request body of POST /api/customer/cart/add. Other fields are ignored."""

    product: int
    quantity: Quantity
    variation: str | None = None


class SetItem(msgspec.Struct, frozen=True):
    """Request body of PUT /api/customer/cart/items/{cartItemId}. Other fields are ignored."""

    quantity: Quantity


class Item(msgspec.Struct, frozen=True):
    """`variations` is null for a product without; `held_until` is there while units are held."""

    id: int
    product_id: int | str
    product_name: str
    product_price: Number
    product_image_url: str | None
    quantity: int
    subtotal: Number
    variations: Variation | None
    held_until: str | UnsetType = UNSET


class NoticeView(msgspec.Struct, frozen=True):
    """A line that left the cart: `reason` is "hold_expired", or "released" by an operator."""

    product_id: int | str
    variation: str | None
    quantity: int
    reason: str


class Data(msgspec.Struct, frozen=True):
    """`cart_id` is null while the customer has no cart."""

    cart_id: int | None
    items: list[Item]
    total_items: int
    subtotal: Number
    total: Number
    notices: list[NoticeView] | UnsetType = UNSET


class Envelope(msgspec.Struct, frozen=True):
    success: bool
    message: str
    data: Data


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """`success` is left out where the customer is not known; `errors` are the fields' messages."""

    success: bool | UnsetType = False
    message: str
    errors: dict[str, list[str]] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Unprocessable(CartError):
    """`message`, and what is wrong with each field."""

    facts = (("message", str), ("errors", dict))
    message: str
    errors: Mapping[str, list[str]]


class _Customer:
    """What the routes do."""

    def __init__(self, core: Core) -> None:
        self.core, self.store, self.bucket = core, core.store, core.bucket

    async def add_variations(self, scope: Scope, body: bytes) -> Reply:
        owner, request = self.core.customer(scope, self.bucket), _add_variations(body)
        product = str(request.product)
        try:
            lines = [line_request(product, one.quantity, one.id) for one in request.variations]
            once = http.once(scope, body, owner)
            cart = await self.store.add(self.bucket, owner, lines, once)
        except UnknownVariant as error:
            raise _no_variation(request, error.variant_id) from None
        return _success(201, "Items added to cart successfully", cart, lines)

    async def add_item(self, scope: Scope, body: bytes) -> Reply:
        owner, request = self.core.customer(scope, self.bucket), _add_item(body)
        line = line_request(str(request.product), request.quantity, request.variation)
        cart = await self.store.add(self.bucket, owner, [line], http.once(scope, body, owner))
        return _success(201, "Item added to cart successfully", cart, [line])

    async def whole(self, change: Awaitable[Cart], message: str) -> Reply:
        try:
            return _success(200, message, await change)
        except NoCart:
            nothing = Data(None, [], 0, money.number(0), money.number(0))
            return reply(200, Envelope(True, message, nothing))

    async def read(self, scope: Scope, _: bytes) -> Reply:
        owner = self.core.customer(scope, self.bucket)
        return await self.whole(self.store.read(self.bucket, owner), "Cart retrieved successfully")

    async def clear(self, scope: Scope, body: bytes) -> Reply:
        owner = self.core.customer(scope, self.bucket)
        cart = self.store.empty(self.bucket, owner, http.once(scope, body, owner))
        return await self.whole(cart, "Cart cleared successfully")

    async def set_quantity(self, scope: Scope, body: bytes) -> Reply:
        owner, line = (
            self.core.customer(scope, self.bucket),
            line_of(scope["path_params"]["item_id"]),
        )
        quantity = _set_item(body).quantity
        once = http.once(scope, body, owner)
        cart = await self.store.set_quantity(self.bucket, owner, line, quantity, once)
        return _success(200, "Cart item updated successfully", cart)

    async def remove(self, scope: Scope, body: bytes) -> Reply:
        owner, line = (
            self.core.customer(scope, self.bucket),
            line_of(scope["path_params"]["item_id"]),
        )
        once = http.once(scope, body, owner)
        cart = await self.store.remove(self.bucket, owner, line, once=once)
        return _success(200, "Item removed from cart successfully", cart)


def contract(core: Core) -> Contract:
    do = _Customer(core)
    cart, body = "/api/customer/cart", (400, 422)
    item = cart + "/items/{item_id}"
    operations = [
        Operation(
            "POST", cart, do.add_variations, "Add variations", Envelope, body, AddVariations, 201
        ),
        Operation("GET", cart, do.read, "The cart", Envelope),
        Operation("POST", cart + "/add", do.add_item, "Add one item", Envelope, body, AddItem, 201),
        Operation("PUT", item, do.set_quantity, "Set a quantity", Envelope, (404, *body), SetItem),
        Operation("DELETE", item, do.remove, "Remove an item", Envelope, (404,)),
        Operation("DELETE", cart + "/clear", do.clear, "Empty the cart", Envelope),
    ]
    in_path = (Parameter("item_id", "path", "the item's id", kind=Id),)
    return Contract(
        "customer",
        "003 customer",
        operations,
        refuse,
        Failure,
        parameters=in_path,
        bearer="required",
    )


class _Fields:
    """The fields of a body, and what is wrong with them."""

    def __init__(self, body: bytes) -> None:
        self.errors: dict[str, list[str]] = {}
        self.values: Mapping[str, Any] = {}
        try:
            self.values = http.fields(body)
        except Invalid as error:
            self.refuse("body", f"The request body {error.problem}.")
            self.check()

    def refuse(self, field: str, message: str) -> None:
        self.errors.setdefault(field, []).append(message)

    def check(self) -> None:
        if self.errors:
            raise Unprocessable("Validation failed", self.errors)

    def whole(self, name: str, value: Any, least: int | None = None) -> int:
        if value is None or value == "":
            self.refuse(name, f"The {name} field is required.")
        elif not isinstance(value, int) or isinstance(value, bool):
            self.refuse(name, f"The {name} must be an integer.")
        elif least is not None and value < least:
            self.refuse(name, f"The {name} must be at least {least}.")
        elif value > MAX_QUANTITY and least is not None:
            self.refuse(name, f"The {name} must not be greater than {MAX_QUANTITY}.")
        else:
            return value
        return 0

    def text(self, name: str, value: Any) -> str:
        if value is None or value == "":
            self.refuse(name, f"The {name} field is required.")
        elif not isinstance(value, str):
            self.refuse(name, f"The {name} must be a string.")
        else:
            return value
        return ""

    def variations(self) -> list[Variation]:
        found: Any = self.values.get("variations")
        if found in (None, "", []):
            self.refuse("variations", "The variations field is required.")
        elif not isinstance(found, list):
            self.refuse("variations", "The variations must be an array.")
        else:
            return [self.variation(f"variations.{place}", one) for place, one in enumerate(found)]
        return []

    def variation(self, name: str, value: Any) -> Variation:
        if not isinstance(value, dict):
            self.refuse(name, f"The {name} must be an array.")
            return Variation("", 0)
        return Variation(
            self.text(f"{name}.id", value.get("id")),
            self.whole(f"{name}.quantity", value.get("quantity"), 1),
        )


def _add_variations(body: bytes) -> AddVariations:
    fields = _Fields(body)
    request = AddVariations(
        fields.whole("product", fields.values.get("product")),
        fields.whole("quantity", fields.values.get("quantity"), 1),
        fields.variations(),
    )
    fields.check()
    total = sum(one.quantity for one in request.variations)
    if total != request.quantity:
        message = (
            f"Total variation quantities ({total}) "
            f"does not match main quantity ({request.quantity})"
        )
        raise Unprocessable(
            "Total variation quantities must match the main quantity", {"quantity": [message]}
        )
    return request


def _add_item(body: bytes) -> AddItem:
    fields = _Fields(body)
    variation = fields.values.get("variation")
    request = AddItem(
        fields.whole("product", fields.values.get("product")),
        fields.whole("quantity", fields.values.get("quantity"), 1),
        None if variation is None else fields.text("variation", variation),
    )
    fields.check()
    return request


def _set_item(body: bytes) -> SetItem:
    fields = _Fields(body)
    request = SetItem(fields.whole("quantity", fields.values.get("quantity"), 1))
    fields.check()
    return request


def _no_variation(request: AddVariations, variation: str) -> Unprocessable:
    """Which of the request's variations the product does not have."""
    places = [place for place, one in enumerate(request.variations) if one.id == variation]
    return _selected(*(f"variations.{place}.id" for place in places))


def _selected(*fields: str) -> Unprocessable:
    """For fields that name what there is not."""
    errors = {field: [f"The selected {field} is invalid."] for field in fields}
    return Unprocessable("Validation failed", errors)


def _success(
    status: int, message: str, cart: Cart, only: Collection[LineRequest] | None = None
) -> Reply:
    """The answer with all items, or those of `only`."""
    chosen = None if only is None else {(one.product_id, one.variant_id) for one in only}
    data = Data(
        cart_id=cart.id,
        items=[
            _item(cart, line)
            for line in cart.in_order
            if chosen is None or (line.product_id, line.variant_id) in chosen
        ],
        total_items=cart.total_quantity,
        subtotal=money.number(cart.total_minor),
        total=money.number(cart.total_minor),
        notices=[
            NoticeView(public_id(product), variant, told.quantity, told.reason)
            for told in cart.notices
            for product, variant in [split_sku(told.sku)]
        ]
        or UNSET,
    )
    return reply(status, Envelope(True, message, data), *http.notice_header(cart.notices))


def _item(cart: Cart, line: Line) -> Item:
    return Item(
        id=item_id(cart.id, line.number),
        product_id=public_id(line.product_id),
        product_name=line.name,
        product_price=money.number(line.price_minor),
        product_image_url=line.image_url,
        quantity=line.quantity,
        subtotal=money.number(line.subtotal_minor),
        variations=None if line.variant_id is None else Variation(line.variant_id, line.quantity),
        held_until=http.held_until(line),
    )


_MODELS = {"user": "User", "service": "Service"}

_FAILED = {
    "POST": "Failed to add items to cart",
    "GET": "Failed to retrieve cart",
    "PUT": "Failed to update cart item",
    "DELETE": "Failed to remove items from cart",
}


def refuse(error: Exception, scope: Scope) -> Reply:
    """The contract's answer to an error: 400, 401, 404, 422 or 500, and what HTTP adds."""
    match error:
        case NoToken():
            return _unknown("Unauthenticated. No token provided.")
        case BadToken():
            return _unknown("Unauthenticated. Invalid token.")
        case WrongType(kind=kind):
            told = f"Token belongs to App\\Models\\{_MODELS[kind]}, but Customer is required."
            return _unknown("Unauthenticated. Customer authentication required.", told)
        case UnknownProduct():
            error = _selected("product")
        case UnknownVariant():
            error = _selected("variation")
    found = problem(error)
    failure = Failure(message=found.message)
    match error:
        case Unprocessable(message=message, errors=errors):
            return reply(422, Failure(message=message, errors=dict(errors)))
        case OutOfStock(free=free, in_cart=in_cart) if in_cart:
            failure = Failure(message=f"Cannot add more items. Maximum available: {free}")
        case NoCart() | NoLine():
            failure = Failure(message="Cart item not found")
        case _ if found.status >= 500:
            failed = _FAILED.get(scope["method"], found.message)
            failure = Failure(message=failed, error=found.message)
    return reply(found.status, failure, *found.headers)


def _unknown(message: str, error: str | UnsetType = UNSET) -> Reply:
    return reply(401, Failure(success=UNSET, message=message, error=error), CHALLENGE)
