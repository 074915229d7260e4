"""Money: whole minor units inside, a plain JSON number with two decimals outside, never a float."""

from decimal import Decimal
from functools import lru_cache
from typing import Annotated

import msgspec

Number = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "number"})]
"""An amount in a JSON body, written by `number`."""

MAX_PRICE = Decimal(10_000_000)
"""Largest price. Times the largest quantity it stays within PostgreSQL's bigint."""

MAX_PRICE_MINOR = int(MAX_PRICE * 100)

_RANGE = {"type": "number", "minimum": 0, "maximum": int(MAX_PRICE)}

Amount = Annotated[Decimal, msgspec.Meta(extra_json_schema=_RANGE)]
"""An amount that a JSON body names, for `to_minor`."""

_CENT = Decimal("0.01")


def to_minor(price: Decimal) -> int:
    """Minor units of a price from 0 to MAX_PRICE with at most two decimals.

    Raises:
        ValueError: the price is none of that.
    """
    if not price.is_finite() or not 0 <= price <= MAX_PRICE:
        raise ValueError(f"price {price} is not between 0 and {MAX_PRICE}")
    cents = price.quantize(_CENT)
    if cents != price:
        raise ValueError(f"price {price} has more than two decimals")
    return int(cents * 100)


def text(minor: int) -> str:
    """An amount of minor units with its two decimals: 2999 -> "29.99"."""
    return f"{minor // 100}.{minor % 100:02}"


# A sale has few prices, and small carts.
@lru_cache(maxsize=16_384)
def number(minor: int) -> msgspec.Raw:
    """The JSON number of an amount of minor units: 2999 -> 29.99."""
    return msgspec.Raw(b"%d.%02d" % divmod(minor, 100))
