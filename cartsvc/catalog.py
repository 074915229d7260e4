"""The catalogue: what a product is, how a row of a file becomes one, what Redis keeps of it."""

import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from cartsvc import money
from cartsvc.model import MAX_QUANTITY, product_id, sku

MAX_VARIANTS = 200
MAX_IMAGES = 20
MAX_TEXT = 2_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Variant(msgspec.Struct, frozen=True):
    id: str
    name: str
    price_minor: int
    stock: int | None


class Product(msgspec.Struct, frozen=True):
    """A product; `stock` None says that its file named none."""

    id: str
    name: str
    price_minor: int
    images: list[str]
    active: bool
    stock: int | None
    variants: list[Variant]

    def skus(self) -> Iterator[str]:
        yield self.id
        for variant in self.variants:
            yield sku(self.id, variant.id)

    def stock_of(self) -> Iterator[tuple[str, int]]:
        """(SKU, units) for the SKUs whose stock the file names."""
        if self.stock is not None:
            yield self.id, self.stock
        for variant in self.variants:
            if variant.stock is not None:
                yield sku(self.id, variant.id), variant.stock

    def counters(self) -> dict[str, int]:
        """SKU -> units of a new product: its own counter, and one a variant with stock.

        A product without stock gets a counter of none: a missing one would answer 503 for good.
        """
        return {self.id: 0, **dict(self.stock_of())}


def record(product: Product, counters: Collection[str]) -> list[str | int]:
    """Fields and values, in turns, of the hash that an add reads.

    `counters` are the SKUs that have a counter; a variant without one draws on its product's.
    """
    fields: dict[str, str | int] = {
        "active": int(product.active),
        "price": product.price_minor,
        "line": _at_addition(product, None),
        "stock": product.id,
    }
    for variant in product.variants:
        own = sku(product.id, variant.id)
        fields[f"price:{variant.id}"] = variant.price_minor
        fields[f"line:{variant.id}"] = _at_addition(product, variant)
        if own in counters:
            fields[f"stock:{variant.id}"] = own
        else:
            fields[f"stock:{variant.id}"] = product.id
            # More than one SKU draws on the product's counter: an add has to sum them up.
            fields["shared"] = 1
    return [part for field in fields.items() for part in field]


def _at_addition(product: Product, variant: Variant | None) -> str:
    """The part of a line's JSON that the product fixes, without its braces."""
    fixed = {"name": product.name}
    if variant is not None:
        fixed["variant"] = variant.name
    if product.images:
        fixed["image"] = product.images[0]
    return orjson.dumps(fixed)[1:-1].decode()


class VariantRow(msgspec.Struct):
    id: str | int
    name: str | None = None
    price: Decimal | None = None
    stock: int | None = None


class ProductRow(msgspec.Struct):
    """A row of a catalogue file, as it is written there."""

    id: str | int
    name: str
    price: Decimal
    currency: str | None = None
    image_url: str | None = None
    images: list[str] | None = None
    active: bool = True
    stock: int | None = None
    variants: list[VariantRow] | None = None


def product(row: ProductRow, currency: str) -> Product:
    """The product that a row describes.

    Raises:
        ValueError: a value can't be used; the message names the field.
    """
    if row.currency not in (None, "", currency):
        raise ValueError(f"currency {row.currency!r} is not the tenant's, {currency}")
    price_minor = money.to_minor(row.price)
    images = [*([row.image_url] if row.image_url else []), *(row.images or [])]
    if len(images) > MAX_IMAGES or len(row.variants or ()) > MAX_VARIANTS:
        raise ValueError(f"more than {MAX_IMAGES} images or {MAX_VARIANTS} variants")
    variants = [
        Variant(
            id=_id(variant.id, "variant id"),
            name=_text(variant.name or str(variant.id), "variant name"),
            price_minor=price_minor if variant.price is None else money.to_minor(variant.price),
            stock=_units(variant.stock),
        )
        for variant in row.variants or ()
    ]
    if len({variant.id for variant in variants}) < len(variants):
        raise ValueError("two variants have the same id")
    return Product(
        id=_id(row.id, "id"),
        name=_text(row.name, "name"),
        price_minor=price_minor,
        images=[_text(image, "image") for image in images],
        active=row.active,
        stock=_units(row.stock),
        variants=variants,
    )


def _id(value: str | int, what: str) -> str:
    stored = product_id(str(value))
    if stored is None:
        raise ValueError(f"{what} {value!r} is not 1 to 64 letters, digits, '.', '_', '~' or '-'")
    return stored


def _text(value: str, what: str) -> str:
    if not value.strip() or len(value) > MAX_TEXT or _CONTROL.search(value):
        raise ValueError(f"{what} is empty, longer than {MAX_TEXT} or has control characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid UTF-8") from None
    return value


def _units(value: int | None) -> int | None:
    if value is not None and not 0 <= value <= MAX_QUANTITY:
        raise ValueError(f"stock {value} is not between 0 and {MAX_QUANTITY}")
    return value


def row_of(fields: Any, *, from_text: bool = False) -> ProductRow:
    """A decoded object as a row; `from_text` when all its values are strings, as in CSV.

    Raises:
        msgspec.ValidationError: a field is missing or has another type.
    """
    return msgspec.convert(fields, ProductRow, strict=not from_text)
