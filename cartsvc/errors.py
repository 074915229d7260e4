"""What can go wrong with a cart, as facts; each contract turns them into its own words.

CartError
├── Refused                the request can't be granted; nothing was changed
│   ├── UnknownProduct     product_id
│   ├── UnknownVariant     product_id, variant_id
│   ├── UnknownSku         sku: the catalogue has no counter for it
│   ├── InactiveProduct    product_id
│   ├── OutOfStock         sku, free, in_cart
│   └── CartFull           max_lines
├── Unavailable            the service can't decide now; worth trying again
│   ├── NotWarm            the tenant's data is not in Redis
│   ├── NoCounter          sku: its stock counter is missing, and stock is never guessed
│   └── OutcomeUnknown     Redis did not answer; what was asked may or may not be done
└── Invalid                field, problem: the request itself is malformed
"""

from typing import Any, ClassVar


class CartError(Exception):
    """Base of everything the core raises on purpose."""

    facts: ClassVar[tuple[tuple[str, type], ...]] = ()

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        for (name, _), value in zip(self.facts, values, strict=True):
            setattr(self, name, value)

    def __str__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name, _ in self.facts)
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

    facts = (("sku", str), ("free", int), ("in_cart", int))
    sku: str
    free: int
    in_cart: int


class CartFull(Refused):
    facts = (("max_lines", int),)
    max_lines: int


class Unavailable(CartError):
    """The service can't decide now; trying again later is worth it."""


class NotWarm(Unavailable):
    """The bucket's `seq` key is missing: Redis does not have this tenant's data."""


class NoCounter(Unavailable):
    facts = (("sku", str),)
    sku: str


class OutcomeUnknown(Unavailable):
    """Redis did not answer in time, or the connection broke: never repeated by the service."""

    facts = (("reason", str),)
    reason: str


class Invalid(CartError):
    """`problem` reads on from the field's name: "quantity" + "must be a whole number"."""

    facts = (("field", str), ("problem", str))
    field: str
    problem: str


# Reply code of a script -> the error it stands for; the rest of the reply holds the facts.
REPLIES: dict[str, type[CartError]] = {
    "NOT_WARM": NotWarm,
    "NO_COUNTER": NoCounter,
    "UNKNOWN_PRODUCT": UnknownProduct,
    "UNKNOWN_VARIANT": UnknownVariant,
    "INACTIVE_PRODUCT": InactiveProduct,
    "OUT_OF_STOCK": OutOfStock,
    "CART_FULL": CartFull,
}
