"""Contract 004, records: `/api/carts`, `/api/cart-items` and `/api/price-history`, by JWT.

An admin's or a service's token sees and changes every cart, and may name prices; a customer's sees
its own. Another's cart is not found, like one that does not exist. Lists come in pages, with their
totals in headers, so that the body stays the plain array.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Scope

from cartsvc import http, identity, money
from cartsvc.clock import wall_ms
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import Core, line_request
from cartsvc.errors import (
    CartError,
    CartShort,
    InactiveProduct,
    Invalid,
    NoCart,
    NoLine,
    Refused,
    Unauthorized,
    UnknownProduct,
)
from cartsvc.http import Reply, reply
from cartsvc.identity import Principal, SessionId
from cartsvc.model import (
    MAX_QUANTITY,
    MAX_TEXT,
    Cart,
    Id,
    Line,
    LineTerms,
    Once,
    Owner,
    PriceEvent,
    Quantity,
    is_owner_id,
    is_text,
    item_id,
    line_name,
    public_id,
    whole_number,
)
from cartsvc.money import Amount, Number
from cartsvc.problems import problem
from cartsvc.store import closed_as

MAX_PAGE = 200
"""Most carts, or items, that a page may have; as many as it has when nothing else is asked for."""

Status = Literal["ACTIVE", "CONVERTED", "ABANDONED", "REMOVED"]
STATUSES = get_args(Status)

_USER = "customer"
"""The kind of owner that this document calls a user; an admin is none."""


Text = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_TEXT})]


class CartBody(msgspec.Struct, frozen=True, rename="camel"):
    """Request body of POST /api/carts and PUT /api/carts/{id}. Other fields are ignored."""

    user_id: int | str | None = None
    session_id: SessionId | None = None
    status: Status | None = None


class ItemBody(msgspec.Struct, frozen=True, rename="camel"):
    """Request body of POST /api/cart-items and PUT /api/cart-items/{id}. Others are ignored."""

    cart_id: int
    product_id: int | str
    quantity: Quantity
    product_name: Text | None = None
    product_image_url: Text | None = None
    price_at_addition: Amount | None = None
    saved_for_later: bool | None = None


class ItemView(msgspec.Struct, frozen=True, rename="camel"):
    id: int
    cart_id: int
    product_id: int | str
    quantity: int
    product_name: str
    product_image_url: str | None
    price_at_addition: Number
    total_price: Number
    saved_for_later: bool
    created_at: str
    updated_at: str


class CartView(msgspec.Struct, frozen=True, rename="camel"):
    """Items saved for later are in `cartItems`, and in neither total."""

    id: int
    user_id: int | str | None
    session_id: str | None
    status: str
    created_at: str
    updated_at: str
    cart_items: list[ItemView]
    total_items: int
    subtotal: Number


class PriceView(msgspec.Struct, frozen=True, rename="camel"):
    id: int
    cart_item_id: int
    old_price: Number
    new_price: Number
    change_date: str


class Failure(msgspec.Struct, frozen=True):
    timestamp: str
    status: int
    error: str
    message: str
    path: str
    errors: dict[str, str] | UnsetType = UNSET


class BadFields(CartError):
    """What is wrong with each field."""

    facts = (("errors", dict),)
    errors: Mapping[str, str]


class NotFound(CartError):
    """`what` is not there, or not there for who asks."""

    facts = (("what", str),)
    what: str


class Caller(NamedTuple):
    """Who asks: an authority, or the customer `owner`. `name` is whose idempotency keys are."""

    name: Owner
    owner: Owner | None

    @property
    def is_authority(self) -> bool:
        return self.owner is None

    def may_see(self, owner: Owner) -> bool:
        return self.owner in (None, owner)


Change = Callable[[Once | None], Awaitable[Cart | None]]

Size = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": MAX_PAGE})]

_PAGING = (
    Parameter("page", "query", "number of the page, from 0", kind=Id),
    Parameter("size", "query", f"how many it has, 1 to {MAX_PAGE} (the default)", kind=Size),
)
_IN_PATH = (
    Parameter("cart_id", "path", "the cart's id", kind=Id),
    Parameter("item_id", "path", "the item's id", kind=Id),
    Parameter("user_id", "path", "a customer's id"),
    Parameter("session_id", "path", "a guest's session"),
    Parameter("status", "path", "what the cart is to be", kind=Status),
)


class _Records:
    """What the routes do."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.archive, self.store, self.bucket = core.archive, core.store, core.bucket

    def caller_of(self, scope: Scope) -> Caller:
        return _caller(self.core.principal(scope, self.bucket))

    async def cart_of(self, caller: Caller, cart_id: int) -> Cart:
        """The cart, if the caller may see it."""
        with contextlib.suppress(NoCart):
            cart = await self.archive.find(self.bucket, cart_id)
            if caller.may_see(cart.owner):
                return cart
        raise NotFound(f"Cart with ID {cart_id}")

    async def item_of(self, caller: Caller, item: int) -> tuple[Cart, Line]:
        """The item and its cart, if the caller may see it."""
        with contextlib.suppress(NoCart, NoLine):
            cart, line = await self.archive.find_item(self.bucket, item)
            if caller.may_see(cart.owner):
                return cart, line
        raise NotFound(f"Cart item with ID {item}")

    async def once(self, scope: Scope, body: bytes, caller: Caller, change: Change) -> Cart | None:
        """What a change gives, or gave when the request came first."""
        asked = http.once(scope, body, caller.name)
        if asked is None:
            return await change(None)
        return await self.archive.answer(self.bucket, asked, change)

    async def changed(self, scope: Scope, body: bytes, caller: Caller, change: Change) -> Cart:
        """As `once`, of a change that gives a cart."""
        cart = await self.once(scope, body, caller, change)
        assert cart is not None  # noqa: S101
        return cart

    async def told(self, caller: Caller, cart: Cart) -> Cart:
        """The cart, and if the caller owns it, what there is to tell, once."""
        if caller.owner == cart.owner and cart.notices and cart.status == "ACTIVE":
            with contextlib.suppress(NoCart):
                read = await self.store.read(self.bucket, cart.owner)
                return read if read.id == cart.id else cart
        return cart

    async def list_carts(self, scope: Scope, _: bytes) -> Reply:
        caller, (limit, offset) = self.caller_of(scope), _page(scope)
        carts, total = await self.archive.carts(
            self.bucket, caller.owner, limit=limit, offset=offset
        )
        return _list([_cart(cart) for cart in carts], total, limit)

    async def get_cart(self, scope: Scope, _: bytes) -> Reply:
        caller = self.caller_of(scope)
        cart = await self.cart_of(caller, _id(scope, "cart_id"))
        return _one(200, await self.told(caller, cart))

    async def get_active_of_user(self, scope: Scope, _: bytes) -> Reply:
        user = scope["path_params"]["user_id"]
        return await self.active(scope, Owner(_USER, user), f"Active cart for user {user}")

    async def get_active_of_session(self, scope: Scope, _: bytes) -> Reply:
        session = scope["path_params"]["session_id"]
        what = f"Active cart for session {session}"
        return await self.active(scope, Owner("session", session), what)

    async def active(self, scope: Scope, owner: Owner, what: str) -> Reply:
        caller = self.caller_of(scope)
        if not (caller.may_see(owner) and is_owner_id(owner.id)):
            raise NotFound(what)
        try:
            cart = await self.archive.active(self.bucket, owner)
        except NoCart:
            raise NotFound(what) from None
        return _one(200, await self.told(caller, cart))

    async def create_cart(self, scope: Scope, body: bytes) -> Reply:
        caller, request = self.caller_of(scope), _cart_body(body)
        if request.status not in (None, "ACTIVE"):
            raise BadFields({"status": "Status of a new cart must be ACTIVE"})
        owner = _owner(request, caller)
        if not caller.may_see(owner):
            raise NotFound(f"{'User' if owner.kind == _USER else 'Session'} with ID {owner.id}")
        make = partial(self.archive.make, self.bucket, owner, client=scope.get("client"))
        return _one(201, await self.changed(scope, body, caller, make))

    async def update_cart(self, scope: Scope, body: bytes) -> Reply:
        caller, request = self.caller_of(scope), _cart_body(body)
        cart_id = _id(scope, "cart_id")

        async def update(once: Once | None) -> Cart:
            cart = await self.cart_of(caller, cart_id)
            names_owner = (request.user_id, request.session_id) != (None, None)
            if names_owner and _owner(request, caller) != cart.owner:
                raise BadFields({"userId": "The owner of a cart cannot be changed"})
            return await self.with_status(cart, request.status or _status(cart.status), once)

        changed = await self.changed(scope, body, caller, update)
        return _one(200, closed_as(request.status or changed.status, changed))

    async def update_status(self, scope: Scope, body: bytes) -> Reply:
        caller, cart_id = self.caller_of(scope), _id(scope, "cart_id")
        status = _status(scope["path_params"]["status"])

        async def update(once: Once | None) -> Cart:
            return await self.with_status(await self.cart_of(caller, cart_id), status, once)

        # Answered again, a cart that was not converted is not refused by the store.
        return _one(200, closed_as(status, await self.changed(scope, body, caller, update)))

    async def with_status(self, cart: Cart, status: Status, once: Once | None) -> Cart:
        if status == "ACTIVE":
            return await self.archive.open(self.bucket, cart)
        return await self.archive.close(self.bucket, cart, status, once)

    async def delete_cart(self, scope: Scope, body: bytes) -> Reply:
        caller, cart_id = self.caller_of(scope), _id(scope, "cart_id")

        async def delete(once: Once | None) -> None:
            cart = await self.cart_of(caller, cart_id)
            await self.archive.delete(self.bucket, cart, once)

        await self.once(scope, body, caller, delete)
        if "once" in scope and scope["once"].is_replay:
            # It counted as answered before it was done, and may have been broken off.
            with contextlib.suppress(NotFound):
                await delete(None)
        return _nothing()

    async def list_items(self, scope: Scope, _: bytes) -> Reply:
        caller, (limit, offset) = self.caller_of(scope), _page(scope)
        items, total = await self.archive.items(
            self.bucket, caller.owner, limit=limit, offset=offset
        )
        return _list([_item(cart, line) for cart, line in items], total, limit)

    async def get_item(self, scope: Scope, _: bytes) -> Reply:
        cart, line = await self.item_of(self.caller_of(scope), _id(scope, "item_id"))
        return _item_reply(200, cart, line)

    async def items_of_cart(self, scope: Scope, _: bytes) -> Reply:
        caller = self.caller_of(scope)
        cart = await self.cart_of(caller, _id(scope, "cart_id"))
        cart = await self.told(caller, cart)
        return reply(200, _cart(cart).cart_items, *http.notice_header(cart.notices))

    async def create_item(self, scope: Scope, body: bytes) -> Reply:
        caller, request = self.caller_of(scope), _item_body(body)
        sku, terms = _sku(request), _terms(request)

        async def add(once: Once | None) -> Cart:
            cart = await self.cart_of(caller, request.cart_id)
            operation = partial(
                self.store.add_as,
                self.bucket,
                cart.owner,
                sku,
                terms,
                authority=caller.is_authority,
                cart_id=cart.id,
                once=once,
            )
            return await self.archive.change(self.bucket, cart, operation)

        changed = await self.changed(scope, body, caller, add)
        [line] = [line for line in changed.lines if line.sku == sku]
        return _item_reply(201, changed, line)

    async def update_item(self, scope: Scope, body: bytes) -> Reply:
        caller, request, item = self.caller_of(scope), _item_body(body), _id(scope, "item_id")

        async def update(once: Once | None) -> Cart:
            cart, line = await self.item_of(caller, item)
            wrong = {}
            if request.cart_id != cart.id:
                wrong["cartId"] = "The cart of an item cannot be changed"
            if _sku(request) != line.product_id:
                wrong["productId"] = "The product of an item cannot be changed"
            if wrong:
                raise BadFields(wrong)
            operation = partial(
                self.store.set_as,
                self.bucket,
                cart.owner,
                item,
                _terms(request, line),
                authority=caller.is_authority,
                once=once,
            )
            return await self.archive.change(self.bucket, cart, operation)

        changed = await self.changed(scope, body, caller, update)
        now = changed.line(item)
        assert now is not None  # noqa: S101
        return _item_reply(200, changed, now)

    async def delete_item(self, scope: Scope, body: bytes) -> Reply:
        caller, item = self.caller_of(scope), _id(scope, "item_id")
        by_owner, name = not caller.is_authority, line_name(item)

        async def delete(once: Once | None) -> Cart:
            cart, _ = await self.item_of(caller, item)
            remove = partial(self.store.remove, self.bucket, cart.owner, name)
            return await self.archive.change(
                self.bucket, cart, partial(remove, by_owner=by_owner, once=once)
            )

        return _nothing(await self.changed(scope, body, caller, delete))

    async def delete_items(self, scope: Scope, body: bytes) -> Reply:
        caller, cart_id = self.caller_of(scope), _id(scope, "cart_id")
        by_owner = not caller.is_authority

        async def clear(once: Once | None) -> Cart:
            cart = await self.cart_of(caller, cart_id)
            clear = partial(self.store.clear, self.bucket, cart.owner, cart_id=cart.id)
            return await self.archive.change(
                self.bucket, cart, partial(clear, by_owner=by_owner, once=once)
            )

        return _nothing(await self.changed(scope, body, caller, clear))

    async def price_history(self, scope: Scope, _: bytes) -> Reply:
        caller, item = self.caller_of(scope), _id(scope, "item_id")
        await self.item_of(caller, item)
        events = await self.archive.prices(self.bucket, item)
        return reply(200, [_price(item, event) for event in events])


def contract(core: Core) -> Contract:
    do = _Records(core)
    return Contract(
        "records",
        "004 records",
        [*_of_carts(do), *_of_items(do)],
        refuse,
        Failure,
        parameters=_IN_PATH,
        bearer="required",
    )


_READ, _CHANGE = (400, 404), (400, 404, 409)


def _of_carts(do: _Records) -> list[Operation]:
    carts, cart = "/api/carts", "/api/carts/{cart_id}"
    user, session = carts + "/user/{user_id}/active", carts + "/session/{session_id}/active"
    status = cart + "/status/{status}"
    one, several, pages = CartView, list[CartView], _PAGING
    return [
        Operation("GET", carts, do.list_carts, "Carts", several, (400,), parameters=pages),
        Operation("POST", carts, do.create_cart, "Make a cart", one, _CHANGE, CartBody, 201),
        Operation("GET", cart, do.get_cart, "A cart", one, _READ),
        Operation("PUT", cart, do.update_cart, "Change a cart", one, _CHANGE, CartBody),
        Operation("DELETE", cart, do.delete_cart, "Delete a cart", None, _CHANGE, status=204),
        Operation("PATCH", status, do.update_status, "Set a status", one, _CHANGE),
        Operation("GET", user, do.get_active_of_user, "A user's active cart", one, (404,)),
        Operation("GET", session, do.get_active_of_session, "A session's active cart", one, (404,)),
    ]


def _of_items(do: _Records) -> list[Operation]:
    items, item = "/api/cart-items", "/api/cart-items/{item_id}"
    in_cart, prices = items + "/cart/{cart_id}", "/api/price-history/cart-item/{item_id}"
    one, several, pages = ItemView, list[ItemView], _PAGING
    return [
        Operation("GET", items, do.list_items, "Items", several, (400,), parameters=pages),
        Operation("POST", items, do.create_item, "Add an item", one, _CHANGE, ItemBody, 201),
        Operation("GET", item, do.get_item, "An item", one, _READ),
        Operation("PUT", item, do.update_item, "Change an item", one, _CHANGE, ItemBody),
        Operation("DELETE", item, do.delete_item, "Delete an item", None, _CHANGE, status=204),
        Operation("GET", in_cart, do.items_of_cart, "A cart's items", several, _READ),
        Operation("DELETE", in_cart, do.delete_items, "Empty a cart", None, _CHANGE, status=204),
        Operation("GET", prices, do.price_history, "An item's prices", list[PriceView], _READ),
    ]


def _nothing(changed: Cart | None = None) -> Reply:
    """An answer without a body; what its owner has to be told goes with it all the same."""
    return Reply(http.NO_CONTENT, b"", http.notice_header(changed.notices if changed else ()))


def _caller(principal: Principal) -> Caller:
    name = Owner(principal.kind, principal.subject)
    return Caller(name, name if principal.kind == _USER else None)


def _id(scope: Scope, name: str) -> int:
    found = whole_number(scope["path_params"][name])
    if found is None:
        raise BadFields({"id": "ID must be a whole number"})
    return found


def _page(scope: Scope) -> tuple[int, int]:
    """How many to show, and how many to leave out before them."""
    asked = ((http.query(scope, "page"), "0"), (http.query(scope, "size"), str(MAX_PAGE)))
    page, size = (whole_number(default if text is None else text) for text, default in asked)
    errors = {}
    if page is None:
        errors["page"] = "Page must be a whole number from 0"
    if size is None or not 1 <= size <= MAX_PAGE:
        errors["size"] = f"Size must be a whole number from 1 to {MAX_PAGE}"
    if errors or page is None or size is None:
        raise BadFields(errors)
    return size, page * size


def _list(views: list[CartView] | list[ItemView], total: int, limit: int) -> Reply:
    pages = -(-total // limit)
    totals = ((b"x-total-count", b"%d" % total), (b"x-total-pages", b"%d" % pages))
    return reply(200, views, *totals)


def _status(text: Any) -> Status:
    if text in STATUSES:
        return cast(Status, text)
    raise BadFields({"status": f"Status must be one of {', '.join(STATUSES)}"})


def _owner(request: CartBody, caller: Caller) -> Owner:
    """The owner whom the body names; a customer need not name itself."""
    if request.user_id is not None and request.session_id is not None:
        raise BadFields({"sessionId": "A cart has a user ID or a session ID, not both"})
    if request.user_id is not None:
        return Owner(_USER, str(request.user_id))
    if request.session_id is not None:
        return identity.session(request.session_id)
    if caller.owner is None:
        raise BadFields({"userId": "User ID or session ID cannot be null"})
    return caller.owner


class _Fields:
    """The fields of a body, and what is wrong with them; a field that is null is not there."""

    def __init__(self, body: bytes) -> None:
        self.values = http.fields(body)
        self.errors: dict[str, str] = {}

    def check(self) -> None:
        if self.errors:
            raise BadFields(self.errors)

    def whole(self, name: str, title: str) -> int:
        value = self.values.get(name)
        if value is None:
            self.errors[name] = f"{title} cannot be null"
        elif not _is_whole(value):
            self.errors[name] = f"{title} must be a whole number"
        else:
            return int(value)
        return 0

    def quantity(self) -> int:
        units = self.whole("quantity", "Quantity")
        if "quantity" not in self.errors and units < 1:
            self.errors["quantity"] = "Quantity must be greater than zero"
        elif units > MAX_QUANTITY:
            self.errors["quantity"] = f"Quantity must be at most {MAX_QUANTITY}"
        return units

    def id(self, name: str, title: str) -> int | str | None:
        value = self.values.get(name)
        if value is None or _is_whole(value) or isinstance(value, str):
            return value
        self.errors[name] = f"{title} must be a whole number or a string"
        return None

    def text(self, name: str, title: str) -> str | None:
        value = self.values.get(name)
        if value is None or (isinstance(value, str) and is_text(value)):
            return value
        self.errors[name] = f"{title} must be a text of 1 to {MAX_TEXT} characters"
        return None

    def flag(self, name: str, title: str) -> bool | None:
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.errors[name] = f"{title} must be true or false"
        return None

    def price(self, name: str, title: str) -> Decimal | None:
        value = self.values.get(name)
        if value is None:
            return None
        if _is_whole(value) or isinstance(value, Decimal):
            with contextlib.suppress(ValueError):
                money.to_minor(Decimal(value))
                return Decimal(value)
        self.errors[name] = f"{title} must be an amount with at most two decimals"
        return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _cart_body(body: bytes) -> CartBody:
    fields = _Fields(body)
    user, session = fields.id("userId", "User ID"), fields.values.get("sessionId")
    if "userId" not in fields.errors and user is not None and not is_owner_id(str(user)):
        fields.errors["userId"] = "User ID must have 1 to 128 printable characters"
    try:
        identity.session(session)
    except (Invalid, TypeError):
        fields.errors["sessionId"] = "Session ID must be 1 to 128 of A-Z a-z 0-9 . _ ~ -"
    status = fields.values.get("status")
    if status is not None:
        try:
            status = _status(status)
        except BadFields as error:
            fields.errors.update(error.errors)
    fields.check()
    return CartBody(user, session, status)


def _item_body(body: bytes) -> "ItemBody":
    fields = _Fields(body)
    product = fields.id("productId", "Product ID")
    if product is None:
        fields.errors.setdefault("productId", "Product ID cannot be null")
    request = ItemBody(
        cart_id=fields.whole("cartId", "Cart ID"),
        product_id="" if product is None else product,
        quantity=fields.quantity(),
        product_name=fields.text("productName", "Product name"),
        product_image_url=fields.text("productImageUrl", "Product image URL"),
        price_at_addition=fields.price("priceAtAddition", "Price at addition"),
        saved_for_later=fields.flag("savedForLater", "Saved for later"),
    )
    fields.check()
    return request


def _sku(request: ItemBody) -> str:
    return line_request(str(request.product_id), request.quantity).product_id


def _terms(request: ItemBody, line: Line | None = None) -> LineTerms:
    """What the body says of the line; whether it is saved stays, where it says nothing of that."""
    was_saved, price = line is not None and line.saved, request.price_at_addition
    return LineTerms(
        quantity=request.quantity,
        saved=was_saved if request.saved_for_later is None else request.saved_for_later,
        price_minor=None if price is None else money.to_minor(price),
        name=request.product_name,
        image_url=request.product_image_url,
    )


def _one(status: int, cart: Cart) -> Reply:
    return reply(status, _cart(cart), *http.notice_header(cart.notices))


def _item_reply(status: int, cart: Cart, line: Line) -> Reply:
    return reply(status, _item(cart, line), *http.notice_header(cart.notices))


def _cart(cart: Cart) -> CartView:
    owner = cart.owner
    return CartView(
        id=cart.id,
        user_id=public_id(owner.id) if owner.kind == _USER else None,
        session_id=owner.id if owner.kind == "session" else None,
        status=cart.status,
        created_at=http.timestamp(cart.created_ms),
        updated_at=http.timestamp(cart.updated_ms),
        cart_items=[_item(cart, line) for line in cart.lines],
        total_items=cart.total_quantity,
        subtotal=money.number(cart.total_minor),
    )


def _item(cart: Cart, line: Line) -> ItemView:
    return ItemView(
        id=item_id(cart.id, line.number),
        cart_id=cart.id,
        product_id=public_id(line.product_id),
        quantity=line.quantity,
        product_name=line.name,
        product_image_url=line.image_url,
        price_at_addition=money.number(line.price_minor),
        total_price=money.number(line.subtotal_minor),
        saved_for_later=line.saved,
        created_at=http.timestamp(line.added_ms),
        updated_at=http.timestamp(line.updated_ms),
    )


def _price(item: int, event: PriceEvent) -> PriceView:
    return PriceView(
        id=event.id,
        cart_item_id=item,
        old_price=money.number(event.old_minor),
        new_price=money.number(event.new_minor),
        change_date=http.timestamp(event.changed_ms),
    )


def refuse(error: Exception, scope: Scope) -> Reply:
    """The contract's answer to an error: 400, 401, 404 or 409, and what HTTP adds."""
    found = problem(error)
    status, message, errors = found.status, found.message, None
    match error:
        case BadFields(errors=wrong):
            status, message, errors = 400, "Validation failed", dict(wrong)
        case Invalid(field=field, problem=told):
            message, errors = "Validation failed", {field or "body": f"{field or 'Body'} {told}"}
        case NotFound(what=what):
            status, message = 404, f"{what} not found"
        case NoCart() | NoLine():
            message = _gone(scope)
        case UnknownProduct(product_id=product):
            message = f"Product with ID {product} not found"
        case Unauthorized():
            message = "Authentication required"
        case CartShort(lines=lines):
            errors = {one.sku: f"{one.wanted} wanted, {one.free} available" for one in lines}
        case Refused() if status == 400 and not isinstance(error, InactiveProduct):
            status = 409  # 400 is for a request that is wrong by itself
    body = Failure(
        timestamp=http.timestamp(http.answered_ms(scope, wall_ms())),
        status=status,
        error=HTTPStatus(status).phrase,
        message=message,
        path=scope["path"],
        errors=UNSET if errors is None else errors,
    )
    return reply(status, body, *found.headers)


def _gone(scope: Scope) -> str:
    """For what was there when it was looked for, and is not any more."""
    named = scope.get("path_params", {})
    if "item_id" in named:
        return f"Cart item with ID {named['item_id']} not found"
    return f"Cart with ID {named['cart_id']} not found" if "cart_id" in named else "Cart not found"
