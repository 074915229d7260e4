"""A cart as its hash in Redis tells it; `keys.TABLE` says what the fields are."""

import msgspec

from cartsvc.model import Cart, Line, Owner, split_sku
from cartsvc.scripts import notices


class _AtAddition(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What `l:<sku>` holds: the line as it was added. The scripts write it in this order."""

    line: int
    price: int
    added: int
    fixed: int = 0
    name: str
    variant: str | None = None
    images: tuple[str, ...] = ()


_at_addition = msgspec.json.Decoder(_AtAddition)


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
    lines = [
        _line(name, quantity, fields)
        for name, quantity in fields.items()
        if name[:2] == b"q:" or name[:2] == b"s:"
    ]
    # Redis keeps a small hash in the order of its writes, and a large one in none.
    lines.sort(key=lambda line: line.number)
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


def _line(name: bytes, quantity: bytes, fields: dict[bytes, bytes]) -> Line:
    of_sku = name[1:]
    fixed = _at_addition.decode(fields[b"l" + of_sku])
    held = fields.get(b"h" + of_sku)
    updated = fields.get(b"u" + of_sku)
    product_id, variant_id = split_sku(name[2:].decode())
    return Line(
        number=fixed.line,
        product_id=product_id,
        variant_id=variant_id,
        quantity=int(quantity),
        price_minor=fixed.price,
        name=fixed.name,
        variant_name=fixed.variant,
        images=fixed.images,
        added_ms=fixed.added,
        updated_ms=int(updated) if updated else fixed.added,
        held_until_ms=int(held.partition(b" ")[0]) if held else None,
        saved=name[:2] == b"s:",
        fixed_price=bool(fixed.fixed),
    )
