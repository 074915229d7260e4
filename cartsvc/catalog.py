"""The catalogue: what a product is, how a row of a file becomes one, what Redis keeps of it."""

from collections.abc import Collection, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import orjson

from cartsvc import money
from cartsvc.model import MAX_QUANTITY, MAX_TEXT, is_text, product_id, sku
from cartsvc.settings import MAX_HOLD_TTL_S

MAX_VARIANTS = 200
MAX_IMAGES = 20
MAX_MS = 10**13
"""A time in ms has at most 13 digits, so that deadlines sort by name."""


class Variant(msgspec.Struct, frozen=True):
    id: str
    name: str
    price_minor: int
    stock: int | None


class SaleRules(msgspec.Struct, frozen=True):
    """What a product says of its sale; None where it says nothing.

    `stock_policy` is "check", "hold" or "untracked"; the limits count all variants together.
    """

    stock_policy: str | None = None
    hold_ttl_s: int | None = None
    max_per_buyer: int | None = None
    max_per_order: int | None = None
    min_per_order: int | None = None
    starts_ms: int | None = None
    ends_ms: int | None = None


class Product(msgspec.Struct, frozen=True):
    """A product; `stock` None says that its file named none."""

    id: str
    name: str
    price_minor: int
    images: list[str]
    active: bool
    stock: int | None
    variants: list[Variant]
    rules: SaleRules

    def skus(self) -> Iterator[str]:
        yield self.id
        for variant in self.variants:
            yield sku(self.id, variant.id)

    def prices(self) -> dict[str, int]:
        """SKU -> its price, in minor units."""
        own = {sku(self.id, variant.id): variant.price_minor for variant in self.variants}
        return {self.id: self.price_minor, **own}

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


def records(
    product: Product, counters: Collection[str], *, several: bool = False
) -> dict[str, str]:
    """SKU -> what an add reads of it: the product's own first, then its variants'.

    `counters` are the SKUs that have a counter; a variant without one draws on its product's.
    `several` says that carts have lines of variants, which may have left the product.
    """
    several = several or bool(product.variants)
    found = {product.id: _record(product, None, product.id, several)}
    for variant in product.variants:
        own = sku(product.id, variant.id)
        counter = own if own in counters else product.id
        found[own] = _record(product, variant, counter, several)
    return found


def _record(product: Product, variant: Variant | None, counter: str, several: bool) -> str:
    """The record, in the order in which `lua/lib/catalogue.lua` reads it."""
    rules = product.rules
    limits = {
        "hold_ms": None if rules.hold_ttl_s is None else rules.hold_ttl_s * 1000,
        "starts": rules.starts_ms,
        "ends": rules.ends_ms,
        "max_per_order": rules.max_per_order,
        "min_per_order": rules.min_per_order,
        "max_per_buyer": rules.max_per_buyer,
    }
    about: dict[str, Any] = {"name": product.name}
    if variant is not None:
        about["variant"] = variant.name
    if product.images:
        about["images"] = product.images
    record = {
        "price": product.price_minor if variant is None else variant.price_minor,
        "active": int(product.active),
        "policy": rules.stock_policy or "",
        "counter": counter,
        "several": int(several),
        "rules": {name: value for name, value in limits.items() if value is not None},
        # For the next time: those that are not named any more leave the catalogue.
        "variants": [one.id for one in product.variants] if variant is None else [],
        "about": about,
    }
    return orjson.dumps(record).decode()


Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""An instant, in ISO 8601 with its offset: `2026-11-27T09:00:00Z`."""


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
    stock_policy: Literal["", "check", "hold", "untracked"] | None = None
    hold_ttl_s: int | None = None
    max_per_buyer: int | None = None
    max_per_order: int | None = None
    min_per_order: int | None = None
    sale_starts_at: Moment | None = None
    sale_ends_at: Moment | None = None


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
        rules=_rules(row),
    )


def _rules(row: ProductRow) -> SaleRules:
    for name, most in (
        ("hold_ttl_s", MAX_HOLD_TTL_S),
        ("max_per_buyer", MAX_QUANTITY),
        ("max_per_order", MAX_QUANTITY),
        ("min_per_order", MAX_QUANTITY),
    ):
        value = getattr(row, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"{name} {value} is not between 1 and {most}")
    buyable = min(row.max_per_order or MAX_QUANTITY, row.max_per_buyer or MAX_QUANTITY)
    if (row.min_per_order or 1) > buyable:
        raise ValueError(f"min_per_order {row.min_per_order} is more than may be bought, {buyable}")
    starts_ms, ends_ms = _ms(row.sale_starts_at), _ms(row.sale_ends_at)
    if starts_ms is not None and ends_ms is not None and starts_ms >= ends_ms:
        raise ValueError("sale_ends_at is not after sale_starts_at")
    return SaleRules(
        stock_policy=row.stock_policy or None,
        hold_ttl_s=row.hold_ttl_s,
        max_per_buyer=row.max_per_buyer,
        max_per_order=row.max_per_order,
        min_per_order=row.min_per_order,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
    )


def _ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    ms = round(moment.timestamp() * 1000)
    if not 0 <= ms < MAX_MS:
        raise ValueError(f"{moment.isoformat()} is not between 1970 and 2286")
    return ms


def _id(value: str | int, what: str) -> str:
    stored = product_id(str(value))
    if stored is None:
        raise ValueError(f"{what} {value!r} is not 1 to 64 letters, digits, '.', '_', '~' or '-'")
    return stored


def _text(value: str, what: str) -> str:
    if not is_text(value):
        raise ValueError(f"{what} is empty, longer than {MAX_TEXT} or has characters that are none")
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
