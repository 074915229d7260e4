"""What a terminal is shown: consoles, texts of any characters, and what went wrong in a line."""

from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from cartsvc import screen
from cartsvc.errors import (
    CartClosed,
    CartError,
    Invalid,
    LedgerAway,
    NoCart,
    NoCounter,
    NoRight,
    NotEmpty,
    NotRecorded,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    RowsRefused,
    StockHeld,
    TooManyWatched,
    UnknownLetter,
    UnknownProduct,
    UnknownSku,
    UnknownTenant,
    UnknownVariant,
)
from cartsvc.ledger import FAILURES

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> Text:
    """As `screen.plain`, and nothing in it is markup."""
    return Text(screen.plain(text))


def told(error: Exception) -> str:
    """What went wrong, in a line."""
    match error:
        case CartError():
            words = _of_servers(error) or _of_tenants(error) or _of_stock(error) or _of_carts(error)
            return words or str(error)
        case RedisError():
            return f"Redis: {error}"
        case OSError(filename=str() as name, strerror=str() as reason):
            return f"{name}: {reason}"
        case _ if isinstance(error, FAILURES):
            return f"PostgreSQL: {error}" if str(error) else f"PostgreSQL: {type(error).__name__}"
        case _:
            return str(error)


def _of_servers(error: CartError) -> str | None:
    match error:
        case OutcomeUnknown(reason=reason):
            return f"Redis: {reason}"
        case LedgerAway(reason=reason) | NotRecorded(reason=reason):
            return f"PostgreSQL: {reason}"
        case NoRight(reason=reason):
            return f"a right is missing: {reason}"
        case RowsRefused(reason=reason):
            return reason
        case UnknownLetter(number=number):
            return f"nothing is set aside under number {number}"
        case _:
            return None


def _of_tenants(error: CartError) -> str | None:
    match error:
        case NotWarm():
            return (
                "Redis has nothing of this tenant, though PostgreSQL knows it: the two do not "
                "belong together, or Redis has lost its data, and `cartsvc warm` rebuilds it"
            )
        case NotEmpty(key=key):
            return f"Redis has {key}, so it did not come back empty: nothing is rebuilt over it"
        case UnknownTenant(tenant=tenant):
            return f"PostgreSQL knows no tenant {tenant!r}"
        case _:
            return None


def _of_stock(error: CartError) -> str | None:
    match error:
        case UnknownSku(sku=sku):
            return f"the catalogue has no stock counter {sku!r}"
        case UnknownProduct(product_id=name) | UnknownVariant(variant_id=name):
            return f"the catalogue has no {name!r}"
        case OutOfStock(sku=sku, free=free):
            return f"only {free} units of {sku!r} are free"
        case StockHeld(sku=sku, held=held):
            return f"carts hold {held} units of {sku!r}: it can't be set to fewer"
        case NoCounter(sku=sku):
            return f"Redis has no counter of {sku!r}: set its stock"
        case TooManyWatched(most=most):
            return f"at most {most} counters are watched: take some off first (--off)"
        case _:
            return None


def _of_carts(error: CartError) -> str | None:
    match error:
        case NoCart():
            return "there is no such cart"
        case CartClosed(cart_id=cart_id, status=status):
            return f"cart {cart_id} is {status}: it holds nothing"
        case Invalid(field=field, problem=problem):
            return f"{field} {problem}"
        case _:
            return None
