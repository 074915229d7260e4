"""Contract 001, tenant: `/cart` of the store that `x-tenant-id` names, for guests and customers.

A guest is known by `x-session-id`, a customer by a Bearer token. Who sends both, logs in: a cart of
that session is merged into the customer's. The document has only the add; the other operations
answer with the same cart.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Scope

from cartsvc import http, identity, money
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import TENANT_HEADER, Core, bucket_of, line_of, line_request, quantity
from cartsvc.errors import CartError, Invalid, NoCart, NotWarm, Overloaded, UnknownTenant
from cartsvc.http import Reply, reply
from cartsvc.keys import Bucket
from cartsvc.model import (
    MAX_QUANTITY,
    Cart,
    Line,
    Merged,
    Notice,
    Once,
    Owner,
    Quantity,
    item_id,
    split_sku,
)
from cartsvc.money import Number
from cartsvc.problems import problem

_MUST = {
    "session_id": "must be 1 to 128 letters, digits, '.', '_', '~' or '-'",
    "productId": "must be a string",
    "productVariantId": "must be a string",
    "quantity": f"must be a whole number from 1 to {MAX_QUANTITY}",
}


class AddItem(msgspec.Struct, frozen=True, rename="camel"):
    """Request body of POST /cart/items. Other fields are ignored."""

    product_id: str
    quantity: Quantity
    product_variant_id: str | None = None


class SetItem(msgspec.Struct, frozen=True):
    """Request body of PUT /cart/items/{itemId}. Other fields are ignored."""

    quantity: Quantity


class ProductView(msgspec.Struct, frozen=True):
    """`price` is there where the item has no variant to name one."""

    id: str
    name: str
    images: tuple[str, ...]
    price: Number | UnsetType = UNSET


class VariantView(msgspec.Struct, frozen=True):
    id: str
    name: str
    price: Number


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """`heldUntil` is there while the units are the shopper's own."""

    id: str
    product_id: str
    quantity: int
    product_variant_id: str | None
    product: ProductView
    product_variant: VariantView | None
    held_until: str | UnsetType = UNSET


class Clamped(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the guest's cart of which only `merged` of `requested` units found a place."""

    product_id: str
    product_variant_id: str | None
    requested: int
    merged: int
    reason: str


class MergeView(msgspec.Struct, frozen=True, rename="camel"):
    """The session's cart was merged into the customer's; `clamped` is what did not fit."""

    session_id: str
    clamped: list[Clamped]


class NoticeView(msgspec.Struct, frozen=True, rename="camel"):
    """A line that left the cart: `reason` is "hold_expired", or "released" by an operator."""

    product_id: str
    product_variant_id: str | None
    quantity: int
    reason: str


class CartView(msgspec.Struct, frozen=True, rename="camel"):
    """`id` is null while the shopper has no cart."""

    id: str | None
    tenant_id: str
    session_id: str
    user_id: str | None
    cart_items: list[Item]
    updated_at: str
    merge: MergeView | UnsetType = UNSET
    notices: list[NoticeView] | UnsetType = UNSET


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """`error` is the status in words."""

    status_code: int
    message: str
    error: str
    merge: MergeView | UnsetType = UNSET


_add_item = msgspec.json.Decoder(AddItem)
_set_item = msgspec.json.Decoder(SetItem)

_PARAMETERS = (
    Parameter(TENANT_HEADER, "header", "the store", required=True),
    Parameter("x-session-id", "header", "the guest's session; made where there is none"),
    Parameter("item_id", "path", "the item's id, as its cart shows it"),
)

Change = Callable[[Bucket, Owner, Once | None], Awaitable[Cart | None]]


class Shopper(NamedTuple):
    """Who asks: `guest` is the session's owner, and the cart's too unless there is a customer.

    `is_named` says whether the request names the session.
    """

    bucket: Bucket
    guest: Owner
    owner: Owner
    is_named: bool

    @property
    def is_guest(self) -> bool:
        return self.owner.kind == self.guest.kind


class _Tenant:
    """What the routes do."""

    def __init__(self, core: Core) -> None:
        self.core, self.store = core, core.store

    def shopper_of(self, scope: Scope) -> Shopper:
        bucket = bucket_of(http.header(scope, TENANT_HEADER) or "")
        session = http.header(scope, "x-session-id")
        guest, is_named = identity.session(session), session is not None
        if identity.bearer(scope["headers"]) is None:
            return Shopper(bucket, guest, guest, is_named)
        return Shopper(bucket, guest, self.core.customer(scope, bucket), is_named)

    async def log_in(self, scope: Scope, shopper: Shopper, once: Once | None) -> Merged | None:
        if shopper.is_guest or not shopper.is_named:
            return None
        bucket, guest, owner, _ = shopper
        step = once.step("merge") if once else None
        try:
            merged = await self.store.merge(bucket, guest, owner, step)
        except (NoCart, Overloaded):
            return None  # A read goes on without; a change is refused by itself.
        # A refusal of what follows has to tell of it too.
        scope["merge"] = _merge_view(guest, merged)
        return merged

    async def change(
        self, scope: Scope, body: bytes, shopper: Shopper, status: int, change: Change
    ) -> Reply:
        caller = None if shopper.is_guest and not shopper.is_named else shopper.owner
        once = http.once(scope, body, caller)
        if once is not None:
            once.session = shopper.guest.id
        return await self.answer(scope, shopper, status, change, once)

    async def answer(
        self, scope: Scope, shopper: Shopper, status: int, change: Change, once: Once | None = None
    ) -> Reply:
        """Log in, make a change (or read), and show the cart."""
        try:
            merged = await self.log_in(scope, shopper, once)
            told = merged.cart.notices if merged else ()
            try:
                cart = await change(shopper.bucket, shopper.owner, once)
            except CartError as error:
                error.notices = (*told, *error.notices)
                raise
            if once is not None:
                shopper = shopper._replace(guest=Owner("session", once.session))
            now_ms = http.answered_ms(scope, self.store.clock_ms())
            updated_ms = cart.updated_ms if cart else now_ms
            return _success(status, scope, shopper, cart, updated_ms, told)
        except NotWarm:
            if await self.core.archive.has_tenant(shopper.bucket):
                raise
            raise UnknownTenant(shopper.bucket.tenant) from None

    async def add_item(self, scope: Scope, body: bytes) -> Reply:
        shopper = self.shopper_of(scope)
        request = http.decode(_add_item, body)
        units = quantity(request.quantity)
        line = line_request(request.product_id, units, request.product_variant_id)
        return await self.change(
            scope,
            body,
            shopper,
            201,
            lambda bucket, owner, once: self.store.add(
                bucket, owner, [line], once, scope.get("client")
            ),
        )

    async def read(self, scope: Scope, _: bytes) -> Reply:
        read = _if_any(lambda bucket, owner, _: self.store.read(bucket, owner))
        return await self.answer(scope, self.shopper_of(scope), 200, read)

    async def clear(self, scope: Scope, body: bytes) -> Reply:
        shopper = self.shopper_of(scope)
        return await self.change(scope, body, shopper, 200, _if_any(self.store.empty))

    async def set_quantity(self, scope: Scope, body: bytes) -> Reply:
        shopper, line = self.shopper_of(scope), line_of(scope["path_params"]["item_id"])
        units = quantity(http.decode(_set_item, body).quantity)
        return await self.change(
            scope,
            body,
            shopper,
            200,
            lambda bucket, owner, once: self.store.set_quantity(bucket, owner, line, units, once),
        )

    async def remove(self, scope: Scope, body: bytes) -> Reply:
        shopper, line = self.shopper_of(scope), line_of(scope["path_params"]["item_id"])
        return await self.change(
            scope,
            body,
            shopper,
            200,
            lambda bucket, owner, once: self.store.remove(bucket, owner, line, once=once),
        )


def contract(core: Core) -> Contract:
    do = _Tenant(core)
    items, item, refusals = "/cart/items", "/cart/items/{item_id}", (400, 404)
    operations = [
        Operation(
            "POST", items, do.add_item, "Add a product or variant", CartView, refusals, AddItem, 201
        ),
        Operation("GET", "/cart", do.read, "The cart", CartView, refusals),
        Operation("DELETE", "/cart", do.clear, "Empty the cart", CartView, refusals),
        Operation("PUT", item, do.set_quantity, "Set a quantity", CartView, refusals, SetItem),
        Operation("DELETE", item, do.remove, "Remove an item", CartView, refusals),
    ]
    return Contract(
        "tenant", "001 tenant", operations, refuse, Failure, TENANT_HEADER, _PARAMETERS, "optional"
    )


def _if_any(change: Change) -> Change:
    """For who has no cart, there is none to show."""

    async def changed(bucket: Bucket, owner: Owner, once: Once | None) -> Cart | None:
        try:
            return await change(bucket, owner, once)
        except NoCart:
            return None

    return changed


def _success(
    status: int,
    scope: Scope,
    shopper: Shopper,
    cart: Cart | None,
    updated_ms: int,
    told: tuple[Notice, ...],
) -> Reply:
    notices = (*told, *(cart.notices if cart else ()))
    view = CartView(
        id=str(cart.id) if cart else None,
        tenant_id=shopper.bucket.tenant,
        session_id=shopper.guest.id,
        user_id=None if shopper.is_guest else shopper.owner.id,
        cart_items=[_item_view(cart, line) for line in cart.in_order] if cart else [],
        updated_at=http.timestamp(updated_ms),
        merge=scope.get("merge", UNSET),
        notices=[_notice(notice) for notice in notices] or UNSET,
    )
    session = (b"x-session-id", shopper.guest.id.encode())
    return reply(status, view, session, *http.notice_header(notices))


def _item_view(cart: Cart, line: Line) -> Item:
    price = money.number(line.price_minor)
    variant = None
    if line.variant_id is not None:
        variant = VariantView(line.variant_id, line.variant_name or line.variant_id, price)
    own_price = price if variant is None else UNSET
    return Item(
        id=str(item_id(cart.id, line.number)),
        product_id=line.product_id,
        quantity=line.quantity,
        product_variant_id=line.variant_id,
        product=ProductView(line.product_id, line.name, line.images, own_price),
        product_variant=variant,
        held_until=http.held_until(line),
    )


def _notice(notice: Notice) -> NoticeView:
    return NoticeView(*split_sku(notice.sku), notice.quantity, notice.reason)


def _merge_view(guest: Owner, merged: Merged) -> MergeView:
    clamped = [
        Clamped(*split_sku(line.sku), line.asked, line.moved, line.reason.lower())
        for line in merged.unmerged
    ]
    return MergeView(guest.id, clamped)


def refuse(error: Exception, scope: Scope) -> Reply:
    """The contract's answer to an error: 400, 401 or 404, and what HTTP adds."""
    match error:
        case Invalid(field=field) if field in _MUST:
            error = Invalid("x-session-id" if field == "session_id" else field, _MUST[field])
    found = problem(error)
    words = HTTPStatus(found.status).phrase
    body = Failure(found.status, found.message, words, scope.get("merge", UNSET))
    return reply(found.status, body, *found.headers)
