"""A cart as its hash in Redis tells it; `keys.TABLE` says what the fields are."""

from functools import lru_cache
from operator import attrgetter

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
    names = [name for name in fields if name[:2] in _QUANTITIES]
    of_skus = [_of_sku(name[1:]) for name in names]
    # Decoded in one call: a cart of fifty is read as often as its shopper looks at it.
    added = _at_addition(b"[%b]" % b",".join([fields[facts] for _, _, facts, _, _ in of_skus]))
    lines = []
    for name, of_sku, fixed in zip(names, of_skus, added, strict=True):
        product_id, variant_id, _, hold, update = of_sku
        held = fields.get(hold)
        updated = fields.get(update)
        line = Line(
            number=fixed.line,
            product_id=product_id,
            variant_id=variant_id,
            quantity=int(fields[name]),
            price_minor=fixed.price,
            name=fixed.name,
            variant_name=fixed.variant,
            images=fixed.images,
            added_ms=fixed.added,
            updated_ms=int(updated) if updated else fixed.added,
            held_until_ms=int(held.partition(b" ")[0]) if held else None,
            saved=name[0] == _SAVED,
            fixed_price=bool(fixed.fixed),
            sold_from=_counter(fields, name) if is_sold else None,
        )
        lines.append(line)
    return lines


def _counter(fields: dict[bytes, bytes], quantity: bytes) -> str | None:
    """What the units of the line at `q:<sku>` were sold from."""
    counter = fields.get(b"c" + quantity[1:])
    return counter.decode() if counter else None


# A sale has few SKUs, and many carts.
@lru_cache(maxsize=16_384)
def _of_sku(suffix: bytes) -> tuple[str, str | None, bytes, bytes, bytes]:
    """What `:<sku>` names: product, variant, and the fields of what was fixed, the hold and the
    last change."""
    product_id, variant_id = split_sku(suffix[1:].decode())
    return product_id, variant_id, b"l" + suffix, b"h" + suffix, b"u" + suffix
