"""How shoppers ask services that are going to be hurt."""

from cartsvc.model import Owner
from loadtests import dialects
from loadtests.dialects import Dialect, Request, Seen, seen_by_admin

__all__ = [
    "ALL",
    "OPERATOR",
    "SECRET",
    "SESSION",
    "TENANT",
    "Dialect",
    "Request",
    "Seen",
    "seen_by_admin",
]

SECRET = "the secret of a service that is going to be hurt"  # noqa: S105
TENANT = "default"

_sign = dialects.signer(SECRET)
_ADMIN = _sign("1", "user")
OPERATOR = _sign("operator", "service")

SESSION = dialects.SESSION
ALL = (SESSION, dialects.guest(TENANT), dialects.DEVICE, dialects.customer(_sign))
"""Contract 004 is what they all check out with."""


def convert(cart_id: int) -> Request:
    return dialects.convert(cart_id, _ADMIN)


def active(owner: Owner) -> Request:
    return dialects.active(owner, _ADMIN)
