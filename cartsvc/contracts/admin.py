"""Contract admin: `/admin`, for operators' programs, by tokens of type service.

What an operator does on the command line, with the same row in the audit trail. `x-tenant-id` names
the tenant, where it is not CARTSVC_TENANT. Only the delivery of stock is another thing when it is
done twice, so only that takes an `Idempotency-Key`; elsewhere one is refused.
"""

import logging
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Scope

from cartsvc import http, money
from cartsvc.acts import Acts, Audited, Desk, Shown
from cartsvc.contract import Contract, Operation, Parameter
from cartsvc.core import TENANT_HEADER, Core, bucket_of, within
from cartsvc.errors import (
    Invalid,
    LedgerAway,
    NoCart,
    OutOfStock,
    UnknownProduct,
    UnknownVariant,
    WrongType,
)
from cartsvc.findings import Finding
from cartsvc.http import Reply, reply
from cartsvc.keys import Bucket, shown_id
from cartsvc.model import MAX_QUANTITY, MAX_REASON, Id, Line, Owner, StockLevel, whole_number
from cartsvc.money import Amount, Number
from cartsvc.problems import Problem, problem
from cartsvc.sale import Paused
from cartsvc.shelf import MAX_WATCHED
from cartsvc.stock import Recorded
from cartsvc.trail import Actor, Entry

log = logging.getLogger(__name__)

KIND = "service"
"""The type of the tokens that are taken."""

MAX_ROWS = 1_000
"""Most rows of the audit trail in an answer; where nothing is said, ROWS."""

ROWS = 50

OnHand = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_QUANTITY})]
Units = Annotated[
    int, msgspec.Meta(extra_json_schema={"minimum": -MAX_QUANTITY, "maximum": MAX_QUANTITY})
]
Skus = Annotated[list[str], msgspec.Meta(extra_json_schema={"maxItems": MAX_WATCHED})]
Reason = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_REASON})]
Limit = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": MAX_ROWS})]


class SetStock(msgspec.Struct, frozen=True):
    """Request body of PUT /admin/stock: units on hand, free and held. Other fields are ignored."""

    sku: str
    units: OnHand


class AddStock(msgspec.Struct, frozen=True):
    """Request body of POST /admin/stock: units that come in, or (negative) go out."""

    sku: str
    units: Units


class Watch(msgspec.Struct, frozen=True):
    """Request body of PUT /admin/stock/watched: all counters that are to be watched."""

    skus: Skus


class SetSale(msgspec.Struct, frozen=True):
    """Request body of PUT /admin/sale. A pause needs a reason, which shoppers are told."""

    paused: bool
    reason: Reason | None = None


class SetPrice(msgspec.Struct, frozen=True):
    """Request body of PUT /admin/price."""

    sku: str
    price: Amount


class Verify(msgspec.Struct, frozen=True):
    """Request body of POST /admin/verify."""

    repair: bool = False


class StockView(msgspec.Struct, frozen=True):
    """`free`, `held` and `sold` are Redis's, null where it has no counter."""

    sku: str
    free: int | None
    held: int | None
    sold: int | None
    received: int


class WatchedView(msgspec.Struct, frozen=True):
    watched: list[StockLevel]


class SaleView(msgspec.Struct, frozen=True):
    """`recorded` is false where the audit trail lacks what was done: PostgreSQL was away."""

    paused: bool
    reason: str | None
    by: str | None
    since: str | None
    recorded: bool


class OwnerView(msgspec.Struct, frozen=True):
    """Of a longer id, its beginning: who has a session's whole id has its cart."""

    kind: str
    id: str


class ItemView(msgspec.Struct, frozen=True):
    """`held_until` is null where the units are not held."""

    sku: str
    name: str
    quantity: int
    price: Number
    subtotal: Number
    held_until: str | None
    saved: bool


class CartView(msgspec.Struct, frozen=True):
    """`where` is "redis", "postgresql" or "both"; PostgreSQL lacks a change since `dirty_since`.

    What is saved for later is in `items`, and in neither total.
    """

    id: int
    owner: OwnerView
    status: str
    version: int
    created_at: str
    updated_at: str
    where: str
    dirty_since: str | None
    items: list[ItemView]
    total_items: int
    total_amount: Number


class PriceView(msgspec.Struct, frozen=True):
    """`before` is there in the answer to a change."""

    sku: str
    price: Number
    before: Number | UnsetType = UNSET


class FindingView(msgspec.Struct, frozen=True):
    what: str
    detail: str


class VerdictView(msgspec.Struct, frozen=True):
    """`wrong` is what is (still) wrong; of the kinds in `broken_off` not all was looked at."""

    ok: bool
    looked_at: dict[str, int]
    wrong: list[FindingView]
    mended: list[FindingView]
    broken_off: list[str]


class RowView(msgspec.Struct, frozen=True):
    """`outcome` is "begun", "done" or "refused: ..."."""

    number: int
    at: str
    tenant: str
    actor: str
    via: str
    action: str
    subject: str
    before: Any
    after: Any
    outcome: str
    request_id: str | None


class TrailView(msgspec.Struct, frozen=True):
    rows: list[RowView]


class Failure(msgspec.Struct, frozen=True):
    """`error` has a `code` for programs, and numbers where they matter."""

    success: bool
    message: str
    error: dict[str, Any]


_set_stock = msgspec.json.Decoder(SetStock)
_add_stock = msgspec.json.Decoder(AddStock)
_watch = msgspec.json.Decoder(Watch)
_set_sale = msgspec.json.Decoder(SetSale)
_verify = msgspec.json.Decoder(Verify)

_SKU = Parameter("sku", "query", "<product>, or <product>/<variant>", required=True)
_LIMIT = Parameter("limit", "query", f"rows, the newest first; 1 to {MAX_ROWS}", kind=Limit)
_PARAMETERS = (
    Parameter(TENANT_HEADER, "header", "the tenant, where it is not the service's own"),
    Parameter("cart_id", "path", "the cart's id", kind=Id),
)


class _Admin:
    """What the routes do."""

    def __init__(self, core: Core, desk: Desk) -> None:
        self.core, self.desk = core, desk

    def acts_of(self, scope: Scope) -> Acts:
        """What the caller may do, in the tenant that the request names.

        Raises:
            NoToken, BadToken, WrongType: the caller is not known, or no program of an operator.
        """
        bucket = self.bucket_of(scope)
        principal = self.core.principal(scope, bucket)
        if principal.kind != KIND:
            raise WrongType(principal.kind)
        actor = Actor(f"{KIND}:{principal.subject}", "http", _request_id(scope))
        return Acts(self.desk, bucket, actor, _lacking)

    def bucket_of(self, scope: Scope) -> Bucket:
        tenant = http.header(scope, TENANT_HEADER)
        return self.core.bucket if tenant is None else bucket_of(tenant)

    def changes_of(self, scope: Scope) -> Acts:
        """As `acts_of`, for what is the same when it is done again.

        Raises:
            Invalid: the request has an idempotency key all the same, which would not be kept.
        """
        acts = self.acts_of(scope)
        if http.header(scope, http.IDEMPOTENCY_KEY) is not None:
            told = "header is not taken here: done again, the request comes to the same"
            raise Invalid(http.IDEMPOTENCY_KEY, told)
        return acts

    async def get_stock(self, scope: Scope, _: bytes) -> Reply:
        acts = self.acts_of(scope)
        return reply(200, stock_view(await acts.stock_get(_sku(scope))))

    async def set_stock(self, scope: Scope, body: bytes) -> Reply:
        acts, asked = self.changes_of(scope), http.decode(_set_stock, body)
        units = within("units", asked.units, 0)
        return reply(200, stock_view(await acts.stock_set(asked.sku, units)))

    async def add_stock(self, scope: Scope, body: bytes) -> Reply:
        acts, asked = self.acts_of(scope), http.decode(_add_stock, body)
        units = within("units", asked.units, -MAX_QUANTITY)
        _, _, subject = acts.actor.name.partition(":")
        once = http.once(scope, body, Owner(KIND, subject))
        return reply(200, stock_view(await acts.stock_add(asked.sku, units, once)))

    async def get_watched(self, scope: Scope, _: bytes) -> Reply:
        return reply(200, WatchedView(await self.acts_of(scope).watched()))

    async def set_watched(self, scope: Scope, body: bytes) -> Reply:
        acts, asked = self.changes_of(scope), http.decode(_watch, body)
        return reply(200, WatchedView(await acts.watch(asked.skus, "only")))

    async def get_sale(self, scope: Scope, _: bytes) -> Reply:
        acts = self.acts_of(scope)
        return reply(200, sale_view(await acts.sale_state(), acts))

    async def set_sale(self, scope: Scope, body: bytes) -> Reply:
        acts, asked = self.changes_of(scope), http.decode(_set_sale, body)
        pause = acts.sale_pause(asked.reason or "") if asked.paused else acts.sale_resume()
        return reply(200, sale_view((await pause).now, acts))

    async def get_cart(self, scope: Scope, _: bytes) -> Reply:
        acts = self.acts_of(scope)
        return reply(200, cart_view(await acts.cart_show(_cart_id(scope))))

    async def release_cart(self, scope: Scope, _: bytes) -> Reply:
        acts = self.changes_of(scope)
        return reply(200, cart_view(await acts.cart_release(_cart_id(scope))))

    async def get_price(self, scope: Scope, _: bytes) -> Reply:
        acts, sku = self.acts_of(scope), _sku(scope)
        return reply(200, PriceView(sku, money.number(await acts.price_get(sku))))

    async def set_price(self, scope: Scope, body: bytes) -> Reply:
        acts = self.changes_of(scope)
        sku, price_minor = _price(body)
        before = await acts.price_set(sku, price_minor)
        return reply(200, PriceView(sku, money.number(price_minor), money.number(before)))

    async def verify(self, scope: Scope, body: bytes) -> Reply:
        acts, asked = self.changes_of(scope), http.decode(_verify, body)
        return reply(200, verdict_view(await acts.verify(repair=asked.repair)))

    async def get_trail(self, scope: Scope, _: bytes) -> Reply:
        acts, limit = self.acts_of(scope), _limit(scope)
        rows = [row_view(entry) for entry in await acts.entries(limit)]
        return reply(200, TrailView(rows))


def contract(core: Core) -> Contract | None:
    if core.desk is None:
        return None
    do = _Admin(core, core.desk)
    stock, watched, sale = "/admin/stock", "/admin/stock/watched", "/admin/sale"
    cart, price = "/admin/carts/{cart_id}", "/admin/price"
    named, busy = (400, 403, 404), (400, 403, 404, 409)
    operations = [
        Operation("GET", stock, do.get_stock, "A counter", StockView, named, parameters=(_SKU,)),
        _again("PUT", stock, do.set_stock, "Set units on hand", StockView, busy, SetStock),
        Operation("POST", stock, do.add_stock, "Take units in", StockView, busy, AddStock),
        Operation("GET", watched, do.get_watched, "What is watched", WatchedView, named),
        _again("PUT", watched, do.set_watched, "Watch counters", WatchedView, named, Watch),
        Operation("GET", sale, do.get_sale, "Is the sale paused", SaleView, (400, 403)),
        _again("PUT", sale, do.set_sale, "Pause or resume the sale", SaleView, named, SetSale),
        Operation("GET", cart, do.get_cart, "A cart", CartView, named),
        _again("POST", cart + "/release", do.release_cart, "Free its units", CartView, busy),
        Operation("GET", price, do.get_price, "A price", PriceView, named, parameters=(_SKU,)),
        _again("PUT", price, do.set_price, "Set a price", PriceView, named, SetPrice),
        _again("POST", "/admin/verify", do.verify, "Audit the data", VerdictView, busy, Verify),
        Operation(
            "GET",
            "/admin/audit",
            do.get_trail,
            "What was done",
            TrailView,
            (400, 403),
            parameters=(_LIMIT,),
        ),
    ]
    return Contract(
        "admin",
        "admin",
        operations,
        refuse,
        Failure,
        parameters=_PARAMETERS,
        bearer="required",
        to_owners=False,
    )


_again = partial(Operation, by_key=False)
"""An operation that comes to the same when it is done again."""


def _lacking(reason: str) -> None:
    log.error("the audit trail lacks what was done: %s", reason)


def _request_id(scope: Scope) -> str | None:
    found: str | None = scope.get("request_id")
    return found


def _sku(scope: Scope) -> str:
    sku = http.query(scope, "sku")
    if sku is None:
        raise Invalid("sku", "must be given")
    return sku


def _cart_id(scope: Scope) -> int:
    found = whole_number(scope["path_params"]["cart_id"])
    if found is None:
        raise Invalid("cart_id", "must be a whole number")
    return found


def _limit(scope: Scope) -> int:
    given = http.query(scope, "limit")
    found = ROWS if given is None else whole_number(given)
    if found is None:
        raise Invalid("limit", "must be a whole number")
    return within("limit", found, 1, MAX_ROWS)


def _price(body: bytes) -> tuple[str, int]:
    """SKU and price; decoded by hand, since a price in quotes is none, and a float is not exact."""
    asked = http.fields(body)
    sku, price = asked.get("sku"), asked.get("price")
    if not isinstance(sku, str):
        raise Invalid("sku", "is missing or has the wrong type")
    try:
        if isinstance(price, bool) or not isinstance(price, int | Decimal):
            raise ValueError
        return sku, money.to_minor(Decimal(price))
    except ValueError:
        told = f"must be a number from 0 to {money.MAX_PRICE} with at most two decimals"
        raise Invalid("price", told) from None


def stock_view(found: Recorded) -> StockView:
    level = found.level
    if level is None:
        return StockView(found.sku, None, None, None, found.received)
    return StockView(found.sku, level.free, level.held, level.sold, found.received)


def sale_view(found: Paused | None, acts: Acts) -> SaleView:
    recorded = not acts.unrecorded
    if found is None:
        return SaleView(False, None, None, None, recorded)
    return SaleView(True, found.reason, found.by, http.timestamp(found.since_ms), recorded)


def cart_view(shown: Shown) -> CartView:
    cart, since_ms = shown.cart, shown.dirty_since_ms
    return CartView(
        id=cart.id,
        owner=OwnerView(cart.owner.kind, shown_id(cart.owner.id)),
        status=cart.status,
        version=cart.version,
        created_at=http.timestamp(cart.created_ms),
        updated_at=http.timestamp(cart.updated_ms),
        where=shown.where,
        dirty_since=None if since_ms is None else http.timestamp(since_ms),
        items=[_item(line) for line in cart.lines],
        total_items=cart.total_quantity,
        total_amount=money.number(cart.total_minor),
    )


def _item(line: Line) -> ItemView:
    until_ms = line.held_until_ms
    return ItemView(
        sku=line.sku,
        name=name_of(line),
        quantity=line.quantity,
        price=money.number(line.price_minor),
        subtotal=money.number(line.subtotal_minor),
        held_until=None if until_ms is None else http.timestamp(until_ms),
        saved=line.saved,
    )


def name_of(line: Line) -> str:
    """Of product and variant."""
    return line.name if line.variant_name is None else f"{line.name}, {line.variant_name}"


def row_view(entry: Entry) -> RowView:
    return RowView(
        number=entry.number,
        at=http.timestamp(entry.at_ms),
        tenant=entry.tenant,
        actor=entry.actor,
        via=entry.via,
        action=entry.action,
        subject=entry.subject,
        before=_facts(entry.before),
        after=_facts(entry.after),
        outcome=entry.outcome,
        request_id=entry.request_id,
    )


def _facts(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def verdict_view(found: Audited) -> VerdictView:
    return VerdictView(
        ok=found.is_well,
        looked_at=found.verdict.looked_at,
        wrong=_findings(found.left),
        mended=_findings(found.mended),
        broken_off=found.verdict.broken_off,
    )


def _findings(findings: Iterable[Finding]) -> list[FindingView]:
    return [FindingView(one.what, one.detail) for one in findings]


def refuse(error: Exception, _: Scope) -> Reply:
    """The contract's answer to an error, in the words of `problems` but for these."""
    found = problem(error)
    match error:
        case WrongType(kind=kind):
            found = Problem(403, "forbidden", f"A token of type {KIND} is needed, not {kind}")
        case OutOfStock(free=free):
            facts = {"available": free}
            found = Problem(409, "insufficient_stock", f"Only {free} units are free", facts)
        case NoCart():
            found = Problem(404, "cart_not_found", "There is no such cart")
        case UnknownProduct() | UnknownVariant():
            found = found._replace(code="sku_not_found", message="The catalogue has no such SKU")
        case LedgerAway():
            message = "PostgreSQL did not answer: what was asked for may or may not be done"
            found = found._replace(message=message)
    body = Failure(success=False, message=found.message, error={"code": found.code, **found.facts})
    return reply(found.status, body, *found.headers)
