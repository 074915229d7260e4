"""What every contract stands on: the carts, and who may ask for them."""

from dataclasses import dataclass

from starlette.types import Scope

from cartsvc import identity
from cartsvc.acts import Desk
from cartsvc.archive import Archive
from cartsvc.errors import (
    BadToken,
    Invalid,
    NoLine,
    NoToken,
    UnknownProduct,
    UnknownVariant,
    WrongType,
)
from cartsvc.identity import Principal, Verifier
from cartsvc.keys import Bucket
from cartsvc.model import MAX_QUANTITY, LineRequest, Owner, line_name, product_id, whole_number
from cartsvc.store import Store


def quantity(units: int, most: int = MAX_QUANTITY) -> int:
    """Units that a request may name.

    Raises:
        Invalid: there are none, or more than that.
    """
    if not 1 <= units <= most:
        raise Invalid("quantity", f"must be a whole number from 1 to {most}")
    return units


def line_request(product: str, quantity: int, variant: str | None = None) -> LineRequest:
    """Units of the SKU that a request names.

    Raises:
        UnknownProduct, UnknownVariant: no product, or variant, has such an id.
    """
    stored = product_id(product)
    if stored is None:
        raise UnknownProduct(product)
    if variant is None:
        return LineRequest(stored, quantity)
    variant_id = product_id(variant)
    if variant_id is None:
        raise UnknownVariant(stored, variant)
    return LineRequest(stored, quantity, variant_id)


def line_of(item: str) -> str:
    """The name of the line that an item id in a path leads to.

    Raises:
        NoLine: it is no item id.
    """
    number = whole_number(item)
    if number is None:
        raise NoLine(item)
    return line_name(number)


@dataclass(frozen=True, slots=True)
class Core:
    """`bucket` is the one of contracts that name no tenant.

    Without a `desk` there are no operators here.
    """

    store: Store
    archive: Archive
    verifier: Verifier
    bucket: Bucket
    desk: Desk | None = None

    def principal(self, scope: Scope, bucket: Bucket) -> Principal:
        """Whom the request's token speaks for, in the bucket's tenant.

        Raises:
            NoToken: the request has no Bearer token.
            BadToken: it can't be trusted, or names another tenant.
        """
        token = identity.bearer(scope["headers"])
        if not token:
            raise NoToken
        principal = self.verifier.verify(token)
        if principal.tenant not in (None, bucket.tenant):
            raise BadToken("it names another tenant")
        return principal

    def customer(self, scope: Scope, bucket: Bucket) -> Owner:
        """The shopper whom the request's token speaks for. Raises as `principal` does.

        Raises:
            WrongType: it speaks for no shopper.
        """
        principal = self.principal(scope, bucket)
        if principal.kind != "customer":
            raise WrongType(principal.kind)
        return Owner("customer", principal.subject)
