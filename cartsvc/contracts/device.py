"""Contract 002, device: `/cart` of the device that the header `DeviceID` names.

The document has only the add, and no body but the names of some fields; the others are this
project's choice. Ids that are whole numbers are shown as numbers.
"""

from collections.abc import Awaitable

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Scope

from cartsvc import http, identity, money
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import Core, line_of, line_request, quantity
from cartsvc.errors import Invalid, NoCart, OutOfStock
from cartsvc.http import Reply, reply
from cartsvc.model import (
    MAX_QUANTITY,
    Cart,
    Id,
    Line,
    Owner,
    Quantity,
    item_id,
    public_id,
    split_sku,
)
from cartsvc.money import Number
from cartsvc.problems import problem

HEADER = "DeviceID"

_DEVICE_MUST = "must be 1 to 128 letters, digits, '.', '_', '~' or '-'"

_MUST = {
    "product_id": "must be a string or a whole number",
    "quantity": f"must be a whole number from 1 to {MAX_QUANTITY}",
}


class AddItem(msgspec.Struct, frozen=True):
    """Request body of POST /cart/items. Other fields are ignored."""

    product_id: int | str
    quantity: Quantity


class SetItem(msgspec.Struct, frozen=True):
    """Request body of PUT /cart/items/{itemId}. Other fields are ignored."""

    quantity: Quantity


class Item(msgspec.Struct, frozen=True):
    """`PriceAtAddition` is the price with which the server added it, for one unit.

    `held_until` is there while the units are the shopper's own.
    """

    id: int
    product_id: int | str
    product_name: str
    quantity: int
    price_at_addition: Number = msgspec.field(name="PriceAtAddition")
    subtotal: Number
    held_until: str | UnsetType = UNSET


class NoticeView(msgspec.Struct, frozen=True):
    """A line that left the cart: `reason` is "hold_expired", or "released" by an operator."""

    product_id: int | str
    quantity: int
    reason: str


class CartView(msgspec.Struct, frozen=True):
    """`id` is null while the device has no cart."""

    id: int | None
    device_id: str = msgspec.field(name="DeviceID")
    items: list[Item]
    total_items: int
    total: Number
    updated_at: str
    notices: list[NoticeView] | UnsetType = UNSET


class Failure(msgspec.Struct, frozen=True):
    error: str


_add_item = msgspec.json.Decoder(AddItem)
_set_item = msgspec.json.Decoder(SetItem)

_PARAMETERS = (
    Parameter(HEADER, "header", "the device", required=True),
    Parameter("item_id", "path", "the item's id, as its cart shows it", kind=Id),
)


class _Device:
    """What the routes do."""

    def __init__(self, core: Core) -> None:
        self.store, self.bucket = core.store, core.bucket

    async def whole(self, scope: Scope, owner: Owner, operation: Awaitable[Cart]) -> Reply:
        try:
            return _success(200, await operation)
        except NoCart:
            return _nothing(owner, http.answered_ms(scope, self.store.clock_ms()))

    async def add_item(self, scope: Scope, body: bytes) -> Reply:
        owner, request = _owner(scope), http.decode(_add_item, body)
        line = line_request(str(request.product_id), quantity(request.quantity))
        once = http.once(scope, body, owner)
        cart = await self.store.add(self.bucket, owner, [line], once, scope.get("client"))
        return _success(201, cart)

    async def read(self, scope: Scope, _: bytes) -> Reply:
        owner = _owner(scope)
        return await self.whole(scope, owner, self.store.read(self.bucket, owner))

    async def clear(self, scope: Scope, body: bytes) -> Reply:
        owner = _owner(scope)
        once = http.once(scope, body, owner)
        return await self.whole(scope, owner, self.store.empty(self.bucket, owner, once))

    async def set_quantity(self, scope: Scope, body: bytes) -> Reply:
        owner, line = _owner(scope), line_of(scope["path_params"]["item_id"])
        units = quantity(http.decode(_set_item, body).quantity)
        once = http.once(scope, body, owner)
        return _success(200, await self.store.set_quantity(self.bucket, owner, line, units, once))

    async def remove(self, scope: Scope, body: bytes) -> Reply:
        owner, line = _owner(scope), line_of(scope["path_params"]["item_id"])
        once = http.once(scope, body, owner)
        return _success(200, await self.store.remove(self.bucket, owner, line, once=once))


def contract(core: Core) -> Contract:
    do = _Device(core)
    items, item, taking = "/cart/items", "/cart/items/{item_id}", (400, 404, 409)
    operations = [
        Operation("POST", items, do.add_item, "Add a product", CartView, taking, AddItem, 201),
        Operation("GET", "/cart", do.read, "The cart", CartView, (400,)),
        Operation("DELETE", "/cart", do.clear, "Empty the cart", CartView, (400,)),
        Operation("PUT", item, do.set_quantity, "Set a quantity", CartView, taking, SetItem),
        Operation("DELETE", item, do.remove, "Remove an item", CartView, (400, 404)),
    ]
    return Contract("device", "002 device", operations, refuse, Failure, HEADER, _PARAMETERS)


def _owner(scope: Scope) -> Owner:
    device = http.header(scope, HEADER) or ""
    try:
        # Of the same form as a session's id, and another owner.
        return Owner("device", identity.session(device).id)
    except Invalid:
        raise Invalid(HEADER, _DEVICE_MUST) from None


def _success(status: int, cart: Cart) -> Reply:
    view = CartView(
        id=cart.id,
        device_id=cart.owner.id,
        items=[_item(cart, line) for line in cart.in_order],
        total_items=cart.total_quantity,
        total=money.number(cart.total_minor),
        updated_at=http.timestamp(cart.updated_ms),
        notices=[
            NoticeView(public_id(split_sku(told.sku)[0]), told.quantity, told.reason)
            for told in cart.notices
        ]
        or UNSET,
    )
    return reply(status, view, *http.notice_header(cart.notices))


def _nothing(owner: Owner, now_ms: int) -> Reply:
    """The cart of an owner who has none."""
    return reply(200, CartView(None, owner.id, [], 0, money.number(0), http.timestamp(now_ms)))


def _item(cart: Cart, line: Line) -> Item:
    return Item(
        id=item_id(cart.id, line.number),
        product_id=public_id(line.product_id),
        product_name=line.name,
        quantity=line.quantity,
        price_at_addition=money.number(line.price_minor),
        subtotal=money.number(line.subtotal_minor),
        held_until=http.held_until(line),
    )


def refuse(error: Exception, _: Scope) -> Reply:
    """The contract's answer to an error: 404, 409 (out of stock) or 400, and what HTTP adds."""
    if isinstance(error, Invalid) and error.field in _MUST:
        error = Invalid(error.field, _MUST[error.field])
    found = problem(error)
    status = 409 if isinstance(error, OutOfStock) else found.status
    return reply(status, Failure(found.message), *found.headers)
