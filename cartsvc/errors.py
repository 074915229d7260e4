"""What can go wrong with a cart, as facts; each contract turns them into its own words.

CartError
├── Refused                the request can't be granted; nothing was changed
│   ├── UnknownProduct     product_id
│   ├── UnknownVariant     product_id, variant_id
│   ├── UnknownSku         sku: the catalogue does not have it, or no counter for it
│   ├── InactiveProduct    product_id
│   ├── SaleNotStarted     product_id, starts_ms, wait_ms
│   ├── SaleEnded          product_id, ends_ms
│   ├── OutOfStock         sku, free, in_cart
│   │   └── SoldOut        sku, until_ms: nothing is free, and the cart holds none
│   ├── OrderLimit         product_id, max_units, in_cart
│   ├── BuyerLimit         product_id, max_units, has
│   ├── BelowMinimum       product_id, min_units
│   ├── CartFull           max_lines
│   ├── CartSpent          max_line: the cart has given out all its line numbers
│   ├── NoCart             the owner has no (such) active cart
│   ├── NoLine             line: the cart does not have it
│   ├── CartShort          lines: each with what is free of it; the cart can't be converted
│   ├── CartChanged        the cart lost lines, and its owner is told now
│   ├── CartClosed         cart_id, status: the cart takes no changes any more
│   ├── CartExists         cart_id: the owner has an active cart
│   ├── KeyReused          the idempotency key is another request's
│   ├── KeysSpent          max_keys, wait_ms: the owner has used as many as are kept
│   ├── TooManyGuests      most: as many have begun a cart from the address in this second
│   ├── PriceDiffers       sku, price_minor: the line was named with what the catalogue does not say
│   ├── UnknownTenant      tenant
│   ├── NotEmpty           key: Redis has it, so it did not come back empty
│   ├── UnknownLetter      number: nothing is set aside under it
│   ├── StockHeld          sku, held: carts hold more than the stock was to be set to
│   ├── TooManyWatched     most: no more counters than these are watched
│   └── VerifyRunning      the tenant's data is being audited already
├── Unauthorized           who asks is not known, or is none who may
│   ├── NoToken
│   ├── BadToken           reason, for a log: nobody who sends one is told why
│   └── WrongType          kind: the token is of another type than is asked for
├── Unavailable            the service can't decide now; worth trying again
│   ├── NotWarm            the tenant's data is not in Redis
│   ├── NoCounter          sku: its stock counter is missing, and stock is never guessed
│   ├── Cold               cart, cart_id: only PostgreSQL has it; it is brought back first
│   ├── HoldsDue           cart, counter: holds have run out and are to be released first
│   ├── Busy               in_flight: as many scripts wait for Redis already; nothing was changed
│   ├── Overloaded         reason: carts take no changes until less waits; nothing was changed
│   ├── SalePaused         reason: an operator has paused the sale; nothing was changed
│   ├── LedgerAway         reason: PostgreSQL did not answer
│   ├── Rebuilt            Redis lost the tenant and was rebuilt; what it said before does not count
│   ├── RowsRefused        reason: PostgreSQL does not take what was to be written
│   ├── NoRight            reason: the process may not do it in Redis, or in PostgreSQL
│   ├── NotRecorded        reason: the audit trail can't be written, and nothing is done without it
│   ├── VerifyTooLong      most_s: an audit of the data was given up after so long
│   └── OutcomeUnknown     Redis did not answer; what was asked may or may not be done
├── Again                  kept: the request was answered before, and is answered alike
└── Invalid                field, problem: the request itself is malformed
"""

from collections.abc import Callable
from typing import Any, ClassVar

from cartsvc.model import Notice, Paused, Shortage

Facts = tuple[tuple[str, Callable[[Any], Any]], ...]
"""What a reply carries behind its code: names, and what makes values of them."""


class CartError(Exception):
    """Base of everything the core raises on purpose.

    `notices` is what the cart's owner was not told yet: a refusal is a response too.
    """

    facts: ClassVar[Facts] = ()
    notices: tuple[Notice, ...] = ()

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        for (name, _), value in zip(self.facts, values, strict=True):
            setattr(self, name, value)

    def __str__(self) -> str:
        # Not a cart's key: in a log, its owner's session would be anybody's.
        names = [name for name, _ in self.facts if name != "cart"]
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({told})"


class Refused(CartError):
    """The request can't be granted; nothing was changed."""


class UnknownProduct(Refused):
    facts = (("product_id", str),)
    product_id: str


class UnknownVariant(Refused):
    facts = (("product_id", str), ("variant_id", str))
    product_id: str
    variant_id: str


class UnknownSku(Refused):
    facts = (("sku", str),)
    sku: str


class InactiveProduct(Refused):
    facts = (("product_id", str),)
    product_id: str


class OutOfStock(Refused):
    """`free` units are left of the SKU's counter, and the cart already counts on `in_cart`."""

    facts: ClassVar[Facts] = (("sku", str), ("free", int), ("in_cart", int))
    sku: str
    free: int
    in_cart: int


class SoldOut(OutOfStock):
    """No unit is free, and the cart has none: others hold what there is.

    The first of their holds runs out at `until_ms`; 0 where nobody holds any.
    """

    facts = (("sku", str), ("until_ms", int))
    free = 0
    in_cart = 0
    until_ms: int


class SaleNotStarted(Refused):
    """`wait_ms` is how long from now."""

    facts = (("product_id", str), ("starts_ms", int), ("wait_ms", int))
    product_id: str
    starts_ms: int
    wait_ms: int


class SaleEnded(Refused):
    facts = (("product_id", str), ("ends_ms", int))
    product_id: str
    ends_ms: int


class OrderLimit(Refused):
    """An order may have `max_units` of the product; the cart has `in_cart`."""

    facts = (("product_id", str), ("max_units", int), ("in_cart", int))
    product_id: str
    max_units: int
    in_cart: int


class BuyerLimit(Refused):
    """A buyer may have `max_units` of the product; cart and orders have `has`."""

    facts = (("product_id", str), ("max_units", int), ("has", int))
    product_id: str
    max_units: int
    has: int


class BelowMinimum(Refused):
    """An order must have at least `min_units` of the product."""

    facts = (("product_id", str), ("min_units", int))
    product_id: str
    min_units: int


class CartFull(Refused):
    facts = (("max_lines", int),)
    max_lines: int


class CartSpent(Refused):
    """Line numbers are never given twice, and the cart has used all `max_line` of them."""

    facts = (("max_line", int),)
    max_line: int


class NoCart(Refused):
    """The owner has no active cart, or not the one that was meant."""


class NoLine(Refused):
    """`line` is what was asked for: a SKU, or `#<cart id>#<line number>`."""

    facts = (("line", str),)
    line: str


class CartShort(Refused):
    """Stock does not cover the cart; nothing of it was sold."""

    facts = (("lines", Shortage.list_of),)
    lines: list[Shortage]


class CartChanged(Refused):
    """The cart lost lines that its owner is told of only now; asked again, it is converted."""


class CartClosed(Refused):
    """`status` is what it was closed as."""

    facts = (("cart_id", int), ("status", str))
    cart_id: int
    status: str


class CartExists(Refused):
    """An owner has one active cart, and it is this one."""

    facts = (("cart_id", int),)
    cart_id: int


class PriceDiffers(Refused):
    """A request named a line's price, name or image, and the catalogue says otherwise."""

    facts = (("sku", str), ("price_minor", int))
    sku: str
    price_minor: int


class KeyReused(Refused):
    """The idempotency key was sent with another request before."""


class KeysSpent(Refused):
    """The owner has used `max_keys` idempotency keys; after `wait_ms` there are more."""

    facts = (("max_keys", int), ("wait_ms", int))
    max_keys: int
    wait_ms: int


class TooManyGuests(Refused):
    """In a second, `most` guests may begin a cart from one address, and have."""

    facts = (("most", int),)
    most: int


class UnknownTenant(Refused):
    facts = (("tenant", str),)
    tenant: str


class NotEmpty(Refused):
    """A tenant is rebuilt in a Redis that has nothing of it; this one has `key`."""

    facts = (("key", str),)
    key: str


class UnknownLetter(Refused):
    facts = (("number", int),)
    number: int


class StockHeld(Refused):
    facts = (("sku", str), ("held", int))
    sku: str
    held: int


class TooManyWatched(Refused):
    """No more than `most` counters are watched: what shows them shows them all."""

    facts = (("most", int),)
    most: int


class VerifyRunning(Refused):
    """This process audits the tenant's data already, and that reads all of it."""


class Unauthorized(CartError):
    """Who asks is not known, or is none who may."""


class NoToken(Unauthorized):
    pass


class BadToken(Unauthorized):
    """`reason` is for a log: nobody who sends a bad token is told what is wrong with it."""

    facts = (("reason", str),)
    reason: str


class WrongType(Unauthorized):
    """`kind` is the token's type, and another one is asked for."""

    facts = (("kind", str),)
    kind: str


class Unavailable(CartError):
    """The service can't decide now; trying again later is worth it."""


class NotWarm(Unavailable):
    """The bucket's `seq` key is missing: Redis does not have this tenant's data."""


class NoCounter(Unavailable):
    facts = (("sku", str),)
    sku: str


class Cold(Unavailable):
    """The cart (its key) has left Redis, where only a marker says that PostgreSQL has it."""

    facts = (("cart", str), ("cart_id", int))
    cart: str
    cart_id: int


class HoldsDue(Unavailable):
    """Units are held although the time is up: by the cart itself (its key), or on the counter."""

    facts = (("cart", str), ("counter", str))
    cart: str
    counter: str


class Busy(Unavailable):
    """`in_flight` scripts of this process wait for Redis: one more was not sent."""

    facts = (("in_flight", int),)
    in_flight: int


class Overloaded(Unavailable):
    """A high-water mark is passed, of what `reason` names: carts can be read, and not changed."""

    facts = (("reason", str),)
    reason: str


class SalePaused(Unavailable):
    """Nothing more comes into carts until an operator lets the sale go on; `reason` may be ''."""

    facts = (("reason", lambda text: Paused.of(text).reason),)
    reason: str


class LedgerAway(Unavailable):
    """PostgreSQL did not answer; what was asked may or may not be done, and may be asked again."""

    facts = (("reason", str),)
    reason: str


class Rebuilt(Unavailable):
    """Redis lost the tenant and was rebuilt meanwhile: what it said before is not written."""


class RowsRefused(Unavailable):
    """PostgreSQL does not take what was to be written, so nothing of it is.

    `reason` tells why, without values of it. A flush sets aside what is refused by itself.
    """

    facts = (("reason", str),)
    reason: str


class NoRight(Unavailable):
    """The process's user in Redis, or its role in PostgreSQL, lacks a right that is needed.

    `reason` is for a log: which right it is, is nobody else's business.
    """

    facts = (("reason", str),)
    reason: str


class NotRecorded(Unavailable):
    """The row of an operator's act can't be written in PostgreSQL, so it is not done."""

    facts = (("reason", str),)
    reason: str


class VerifyTooLong(Unavailable):
    """An audit of a tenant's data was given up after `most_s` seconds."""

    facts = (("most_s", float),)
    most_s: float


class OutcomeUnknown(Unavailable):
    """Redis did not answer in time, or the connection broke: never repeated by the service."""

    facts = (("reason", str),)
    reason: str


class Again(CartError):
    """The request was answered before; `kept` is what `lua/lib/once.lua` kept of that."""

    facts = (("kept", str.encode),)
    kept: bytes


class Invalid(CartError):
    """`problem` reads on from the field's name: "quantity" + "must be a whole number"."""

    facts = (("field", str), ("problem", str))
    field: str
    problem: str


# Reply code of a script -> the error it stands for; the rest of the reply holds the facts.
REPLIES: dict[str, type[CartError]] = {
    "FAILED": OutcomeUnknown,
    "NOT_WARM": NotWarm,
    "NO_COUNTER": NoCounter,
    "UNKNOWN_PRODUCT": UnknownProduct,
    "UNKNOWN_VARIANT": UnknownVariant,
    "INACTIVE_PRODUCT": InactiveProduct,
    "OUT_OF_STOCK": OutOfStock,
    "SOLD_OUT": SoldOut,
    "SALE_NOT_STARTED": SaleNotStarted,
    "SALE_ENDED": SaleEnded,
    "ORDER_LIMIT": OrderLimit,
    "BUYER_LIMIT": BuyerLimit,
    "BELOW_MINIMUM": BelowMinimum,
    "CART_FULL": CartFull,
    "CART_SPENT": CartSpent,
    "NO_CART": NoCart,
    "NO_LINE": NoLine,
    "SHORT": CartShort,
    "CART_EXISTS": CartExists,
    "PRICE_DIFFERS": PriceDiffers,
    "STOCK_HELD": StockHeld,
    "TOO_MANY_WATCHED": TooManyWatched,
    "COLD": Cold,
    "HOLDS_DUE": HoldsDue,
    "SALE_PAUSED": SalePaused,
    "KEY_REUSED": KeyReused,
    "KEYS_SPENT": KeysSpent,
    "TOO_MANY_GUESTS": TooManyGuests,
    "AGAIN": Again,
}
