"""Carts, lines and the ids that lead to them. Plain values: nothing here talks to a server."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec

CART_ID_STEP: Final = 1 << 8
"""Cart ids of one bucket are this far apart: `cart_id = sequence << 8 | bucket`."""

LINE_BITS: Final = 12
"""`item_id = cart_id << 12 | line number`; both ids stay below 2**53, safe in JavaScript."""

MAX_LINE: Final = (1 << LINE_BITS) - 1
"""The last line number that a cart can give."""

MAX_QUANTITY: Final = 999_999_999
"""Largest quantity and stock counter: nine digits, safe in Lua, JSON and PostgreSQL's integer."""

Quantity = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": MAX_QUANTITY})]
"""A quantity in a JSON body. Told to machines; a contract checks it, in its own words."""

Id = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 2**53 - 1})]
"""An id that is a number, as machines are told of it."""

ClosedStatus = Literal["CONVERTED", "ABANDONED", "REMOVED", "DELETED"]
"""What a cart is closed as; one that is DELETED is there for nobody any more."""

MAX_TEXT: Final = 2_000
"""Longest name or URL that a line fixes, in characters."""

MAX_REASON: Final = 200
"""Longest reason that an operator gives, in characters."""

MAX_OWNER_ID: Final = 128
"""Longest id of an owner, in characters."""

MAX_SAFE_INT: Final = 2**53 - 1
"""Largest integer that survives JavaScript."""

# Control characters, and halves of surrogate pairs, which PostgreSQL does not take.
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,15}")

_PRODUCT_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")


GUESTS: Final = ("session", "device")
"""Kinds of owners who prove nothing."""


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Whose cart it is. `kind` is "session", "device" or "customer"."""

    kind: str
    id: str


class Once(msgspec.Struct):
    """A request with an idempotency key: carried out once, answered alike whenever it comes again.

    Keys are the `caller`'s: others may use the same. `fingerprint` tells requests apart. `session`
    is one that is made for its answer; once it was decided, the one that was made first. Then also
    known: whether it had been answered before, when it was first (ms), and then which cart's key it
    was about.
    """

    caller: Owner
    key: str
    fingerprint: str
    session: str = ""
    is_replay: bool = False
    at_ms: int = 0
    cart_key: str = ""

    @property
    def name(self) -> str:
        """The key as a part of a name in Redis, which has no colon."""
        return quote(self.key, safe="")

    def step(self, name: str) -> "Once":
        """A step of the request that a script of its own decides; no key has a newline."""
        return Once(self.caller, f"{self.key}\n{name}", self.fingerprint)


class LineRequest(msgspec.Struct, frozen=True, gc=False):
    """Units of one SKU that a shopper asks for."""

    product_id: str
    quantity: int
    variant_id: str | None = None


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line item. `number` is the line's own within its cart and is never given again.

    `held_until_ms` is the deadline until which its units are the shopper's, None where they are
    not held. A line that is `saved` for later is no part of the order. One with a `fixed_price`
    keeps it when the catalogue's changes. Of a converted cart, `sold_from` is the counter (a SKU)
    that its units were taken from; None where nobody counts them.
    """

    number: int
    product_id: str
    variant_id: str | None
    quantity: int
    price_minor: int
    name: str
    variant_name: str | None
    images: tuple[str, ...]
    added_ms: int
    updated_ms: int
    held_until_ms: int | None = None
    saved: bool = False
    fixed_price: bool = False
    sold_from: str | None = None

    @property
    def image_url(self) -> str | None:
        """The main image."""
        return self.images[0] if self.images else None

    @property
    def sku(self) -> str:
        return sku(self.product_id, self.variant_id)

    @property
    def subtotal_minor(self) -> int:
        return self.quantity * self.price_minor


class LineTerms(msgspec.Struct, frozen=True):
    """A line as a request describes it; None where it does not say.

    `name` and `image_url` are texts as `is_text` takes them.
    """

    quantity: int
    saved: bool
    price_minor: int | None = None
    name: str | None = None
    image_url: str | None = None


class Notice(msgspec.Struct, frozen=True, gc=False):
    """What happened to a line without its owner.

    `reason` is "hold_expired", or "released" where an operator took the line.
    """

    sku: str
    quantity: int
    reason: str


class Cart(msgspec.Struct, frozen=True, gc=False):
    """A cart at one version; `lines` in the order in which they were added.

    `status` is ACTIVE or a `ClosedStatus`; `last_line` the highest line number given.
    """

    id: int
    owner: Owner
    status: str
    version: int
    created_ms: int
    updated_ms: int
    last_line: int
    lines: list[Line]
    notices: tuple[Notice, ...] = ()

    def line(self, item: int) -> Line | None:
        """The line with that item id."""
        for line in self.lines:
            if item_id(self.id, line.number) == item:
                return line
        return None

    @property
    def in_order(self) -> list[Line]:
        """The lines that are not saved for later."""
        return [line for line in self.lines if not line.saved]

    @property
    def total_quantity(self) -> int:
        return sum([line.quantity for line in self.lines if not line.saved])

    @property
    def total_minor(self) -> int:
        return sum([line.quantity * line.price_minor for line in self.lines if not line.saved])


class Paused(msgspec.Struct, frozen=True):
    """A pause of a sale: why, by whom and since when. Redis has it as JSON."""

    reason: str = ""
    by: str = ""
    since_ms: int = 0

    @classmethod
    def of(cls, text: str) -> "Paused":
        """The pause that Redis has; what is no such JSON was written by hand, and is the reason."""
        try:
            found = msgspec.json.decode(text, type=cls)
        except ValueError:
            found = cls(text)
        return cls(_printable(found.reason), _printable(found.by), found.since_ms)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:MAX_REASON]


class Shortage(msgspec.Struct, frozen=True):
    """A line that the stock does not cover: `free` units are left of its counter, of which the cart
    wants `wanted`, with its other lines that draw on it."""

    sku: str
    free: int
    wanted: int

    @classmethod
    def list_of(cls, flat: Sequence[str | int]) -> "list[Shortage]":
        """Shortages from a script's reply: sku, free, wanted, and so on."""
        return [
            cls(str(sku), int(free), int(wanted))
            for sku, free, wanted in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]


class Unmerged(msgspec.Struct, frozen=True):
    """A guest's line of which only `moved` of `asked` units found a place; `reason` is the code of
    a refusal that stood against the rest, or ALREADY_IN_CART."""

    sku: str
    asked: int
    moved: int
    reason: str


class Merged(msgspec.Struct, frozen=True):
    """A cart into which a guest's was merged, and what did not fit."""

    cart: Cart
    unmerged: list[Unmerged]


class StockLevel(msgspec.Struct, frozen=True):
    """A counter's units at one instant: `free + held + sold` is what was received."""

    sku: str
    free: int
    held: int
    sold: int

    @property
    def on_hand(self) -> int:
        return self.free + self.held

    @property
    def received(self) -> int:
        return self.on_hand + self.sold


class PriceChange(msgspec.Struct, frozen=True):
    """A cart line took another price. (cart, line, version) names it: a line changes once a
    version."""

    cart_id: int
    line_number: int
    cart_version: int
    sku: str
    old_minor: int
    new_minor: int
    changed_ms: int


class PriceEvent(msgspec.Struct, frozen=True):
    """A price change of a line, as it is recorded under its own number."""

    id: int
    old_minor: int
    new_minor: int
    changed_ms: int


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: what PostgreSQL refused, set aside under its own number.

    `kind` is "cart", or "price" for a price change of the cart; `bucket` is the bucket's number.
    """

    number: int
    tenant: str
    bucket: int
    kind: str
    cart_id: int
    version: int
    reason: str
    set_aside_ms: int


def sku(product_id: str, variant_id: str | None) -> str:
    """`<product>` or `<product>/<variant>`; neither id may hold a slash."""
    return product_id if variant_id is None else f"{product_id}/{variant_id}"


def line_name(item: int) -> str:
    """How scripts are told of a line by its item id."""
    return f"#{item >> LINE_BITS}#{item & MAX_LINE}"


def split_sku(text: str) -> tuple[str, str | None]:
    product_id, slash, variant_id = text.partition("/")
    return product_id, variant_id if slash else None


def item_id(cart_id: int, line_number: int) -> int:
    return cart_id << LINE_BITS | line_number


def object_id(text: str) -> str | None:
    """A MongoDB ObjectId, 24 hexadecimal digits, in the form in which it is stored; else None.

    Two spellings of one ObjectId are one product, so it is stored in lower case.
    """
    return text.lower() if _OBJECT_ID.fullmatch(text) else None


def whole_number(text: str) -> int | None:
    """The number that a text writes as JSON would, if it survives JavaScript; else None."""
    if not _WHOLE.fullmatch(text):
        return None
    number = int(text)
    return number if number <= MAX_SAFE_INT else None


def public_id(text: str) -> int | str:
    """An id for contracts whose ids are integers: as a number where it is one, else as it is."""
    number = whole_number(text)
    return text if number is None else number


def is_text(text: str) -> bool:
    """Whether a name or URL can be stored and shown: not blank, not too long, of characters."""
    return bool(text.strip()) and len(text) <= MAX_TEXT and not _NO_TEXT.search(text)


def is_owner_id(text: str) -> bool:
    """Whether it can name the owner of a cart: 1 to 128 printable characters."""
    return len(text) <= MAX_OWNER_ID and text.isprintable() and bool(text.strip())


def product_id(text: str) -> str | None:
    """A product's or variant's id in the form in which it is stored, or None if it can't be one."""
    if not _PRODUCT_ID.fullmatch(text):
        return None
    return object_id(text) or text
