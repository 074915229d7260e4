"""Carts in Redis: a method is one script, one round trip, all or nothing."""

import time
from collections.abc import Callable, Sequence

import msgspec

from cartsvc.keys import Bucket
from cartsvc.model import CART_ID_STEP, Cart, Line, LineRequest, Owner, split_sku
from cartsvc.scripts import Argument, Runner


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """The cart operations of every tenant.

    Every method raises the `Refused` or `Unavailable` error that its script's reply stands for.
    """

    def __init__(
        self, runner: Runner, *, max_lines: int, clock_ms: Callable[[], int] = now_ms
    ) -> None:
        self.runner = runner
        self.max_lines = max_lines
        self.clock_ms = clock_ms

    async def add(self, bucket: Bucket, owner: Owner, lines: Sequence[LineRequest]) -> Cart:
        """Put `lines` into the owner's cart, all or none, and return the whole cart."""
        keys = [
            bucket.cart(owner),
            bucket.carts,
            bucket.seq,
            bucket.stock,
            bucket.dirty,
            bucket.prices,
        ]
        arguments: list[Argument] = [self.clock_ms(), self.max_lines, CART_ID_STEP]
        for line in lines:
            keys.append(bucket.product(line.product_id))
            arguments += (line.product_id, line.variant_id or "", line.quantity)
        flat = iter(await self.runner.run("cart_add", keys, arguments))
        return cart_of(owner, dict(zip(flat, flat, strict=True)))


class _AtAddition(msgspec.Struct):
    """What `l:<sku>` holds: the line as it was added. The scripts and the catalogue write it."""

    line: int
    price: int
    added: int
    name: str
    variant: str | None = None
    image: str | None = None


_at_addition = msgspec.json.Decoder(_AtAddition)


def cart_of(owner: Owner, fields: dict[bytes, bytes]) -> Cart:
    """The cart that the fields of its hash describe."""
    lines = [_line(name, fields) for name in fields if name.startswith(b"q:")]
    # Redis keeps a small hash in the order of its writes, and a large one in none.
    lines.sort(key=lambda line: line.number)
    return Cart(
        id=int(fields[b"id"]),
        owner=owner,
        status=fields[b"status"].decode(),
        version=int(fields[b"version"]),
        created_ms=int(fields[b"created"]),
        updated_ms=int(fields[b"updated"]),
        lines=lines,
    )


def _line(name: bytes, fields: dict[bytes, bytes]) -> Line:
    fixed = _at_addition.decode(fields[b"l" + name[1:]])
    product_id, variant_id = split_sku(name[2:].decode())
    return Line(
        number=fixed.line,
        product_id=product_id,
        variant_id=variant_id,
        quantity=int(fields[name]),
        price_minor=fixed.price,
        name=fixed.name,
        variant_name=fixed.variant,
        image_url=fixed.image,
        added_ms=fixed.added,
    )
