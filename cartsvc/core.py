"""What every contract stands on: the carts, and who may ask for them."""

import re
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Scope

from cartsvc import identity
from cartsvc.acts import Desk
from cartsvc.archive import Archive
from cartsvc.errors import BadToken, Invalid, NoLine, NoToken, WrongType
from cartsvc.identity import Principal, Verifier
from cartsvc.keys import Bucket
from cartsvc.model import MAX_QUANTITY, LineRequest, Owner, line_name, whole_number
from cartsvc.settings import TENANT_PATTERN
from cartsvc.skus import stored_ids
from cartsvc.store import Store

TENANT_HEADER = "x-tenant-id"


# The names of its keys are the same for every request.
@lru_cache(maxsize=1_024)
def bucket_of(tenant: str) -> Bucket:
    """The bucket of the tenant that TENANT_HEADER names.

    Raises:
        Invalid: no tenant has such a name.
    """
    if not re.fullmatch(TENANT_PATTERN, tenant):
        raise Invalid(TENANT_HEADER, "must be 1 to 64 letters, digits, '_' or '-'")
    return Bucket(tenant)


def within(field: str, number: int, least: int, most: int = MAX_QUANTITY) -> int:
    """A number that a request names, if it is in its bounds.

    Raises:
        Invalid: it is not.
    """
    if not least <= number <= most:
        raise Invalid(field, f"must be a whole number from {least} to {most}")
    return number


def quantity(units: int, most: int = MAX_QUANTITY) -> int:
    """Units that a request may name: one at least. Raises as `within` does."""
    return within("quantity", units, 1, most)


def line_request(product: str, quantity: int, variant: str | None = None) -> LineRequest:
    """Units of the SKU that a request names.

    Raises:
        UnknownProduct, UnknownVariant: no product, or variant, has such an id.
    """
    product_id, variant_id = stored_ids(product, variant)
    return LineRequest(product_id, quantity, variant_id)


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
