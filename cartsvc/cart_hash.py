"""A cart as its hash in Redis tells it; `keys.TABLE` says what the fields are."""

from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import msgspec

from cartsvc.model import Cart, Line, Owner, split_sku
from cartsvc.scripts import notices


class _AtAddition(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """What `l:<sku>` holds: the line as it was added. The scripts write it in this order."""

    line: int
    price: int
    added: int
    fixed: int = 0
    name: str
    variant: str | None = None
    images: tuple[str, ...] = ()


_number = attrgetter("number")

_SAVED = ord("s")
_QUANTITIES = (b"q:", b"s:")

_at_addition = msgspec.json.Decoder(list[_AtAddition]).decode


def facts_of(line: Line) -> str:
    """The line as `l:<sku>` holds it."""
    fixed = _AtAddition(
        line=line.number,
        price=line.price_minor,
        added=line.added_ms,
        fixed=int(line.fixed_price),
        name=line.name,
        variant=line.variant_name,
        images=line.images,
    )
    return msgspec.json.encode(fixed).decode()


def fields_of(flat: list[bytes]) -> dict[bytes, bytes]:
    """What HGETALL gives, as a dictionary."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def cart_of(owner: Owner, fields: dict[bytes, bytes]) -> Cart:
    """The cart that the fields of its hash describe."""
    lines = _lines(fields)
    # Redis keeps a small hash in the order of its writes, and a large one in none.
    lines.sort(key=_number)
    return Cart(
        id=int(fields[b"id"]),
        owner=owner,
        status=fields[b"status"].decode(),
        version=int(fields[b"version"]),
        created_ms=int(fields[b"created"]),
        updated_ms=int(fields[b"updated"]),
        last_line=int(fields[b"last_line"]),
        lines=lines,
        notices=notices(fields.get(b"notices", b"")),
    )


def _lines(fields: dict[bytes, bytes]) -> list[Line]:
    is_sold = fields.get(b"status") == b"CONVERTED"
    found = [_of_quantity(name) for name in fields if name[:2] in _QUANTITIES]
    # Decoded in one call: a cart of fifty is read as often as its shopper looks at it.
    added = _at_addition(b"[%b]" % b",".join([fields[one.facts] for one in found]))
    lines = []
    for one, fixed in zip(found, added, strict=True):
        held = fields.get(one.hold)
        updated = fields.get(one.update)
        line = Line(
            number=fixed.line,
            product_id=one.product_id,
            variant_id=one.variant_id,
            quantity=int(fields[one.quantity]),
            price_minor=fixed.price,
            name=fixed.name,
            variant_name=fixed.variant,
            images=fixed.images,
            added_ms=fixed.added,
            updated_ms=int(updated) if updated else fixed.added,
            held_until_ms=int(held.partition(b" ")[0]) if held else None,
            saved=one.saved,
            fixed_price=bool(fixed.fixed),
            sold_from=_counter(fields, one.quantity) if is_sold else None,
        )
        lines.append(line)
    return lines


def _counter(fields: dict[bytes, bytes], quantity: bytes) -> str | None:
    """What the units of the line at `q:<sku>` were sold from."""
    counter = fields.get(b"c" + quantity[1:])
    return counter.decode() if counter else None


class _Fields(NamedTuple):
    """The fields of a line."""

    quantity: bytes
    facts: bytes
    hold: bytes
    update: bytes
    product_id: str
    variant_id: str | None
    saved: bool


# A sale has few SKUs, and many carts.
@lru_cache(maxsize=16_384)
def _of_quantity(name: bytes) -> _Fields:
    """Those of the line whose quantity `q:<sku>` has, or `s:<sku>`."""
    suffix = name[1:]
    product_id, variant_id = split_sku(suffix[1:].decode())
    is_saved = name[0] == _SAVED
    return _Fields(
        name, b"l" + suffix, b"h" + suffix, b"u" + suffix, product_id, variant_id, is_saved
    )
