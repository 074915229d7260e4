"""What is wrong with a request, in plain words, for contracts that are silent about it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cartsvc import http, money
from cartsvc.errors import (
    BelowMinimum,
    BuyerLimit,
    CartChanged,
    CartClosed,
    CartExists,
    CartFull,
    CartShort,
    CartSpent,
    InactiveProduct,
    Invalid,
    KeyReused,
    KeysSpent,
    NoCart,
    NoLine,
    NoRight,
    NotRecorded,
    OrderLimit,
    OutOfStock,
    Overloaded,
    PriceDiffers,
    Refused,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    StockHeld,
    TooManyGuests,
    TooManyWatched,
    Unauthorized,
    Unavailable,
    UnknownProduct,
    UnknownSku,
    UnknownTenant,
    UnknownVariant,
    VerifyRunning,
    VerifyTooLong,
)

CHALLENGE = (b"www-authenticate", b"Bearer")
"""What a 401 has to carry (RFC 9110, 11.6.1)."""

_LATER_MS = 10_000
"""When a change is worth trying again: a backlog, or a pause, takes longer than a moment."""

Headers = tuple[tuple[bytes, bytes], ...]


class Problem(NamedTuple):
    """`status` is HTTP's, `code` names the problem for programs, `facts` are its numbers."""

    status: int
    code: str
    message: str
    facts: Mapping[str, Any] = {}
    headers: Headers = ()


def problem(error: Exception) -> Problem:
    """The problem that an error stands for; 500 for one that nobody meant to raise."""
    for words in (_request, _missing, _limit, _closed, _operators):
        if found := words(error):
            return found
    match error:
        case Refused():
            return Problem(400, "refused", str(error))
        case Overloaded():
            message = "Carts can be read and not changed now, please try again"
            return _unavailable("overloaded", message)
        case SalePaused(reason=reason):
            message = f"The sale is paused: {reason}" if reason else "The sale is paused"
            return _unavailable("sale_paused", message)
        case Unavailable():
            message = "Cart service is not available now, please try again"
            return Problem(503, "unavailable", message, headers=(http.RETRY_AFTER,))
        case _:
            return Problem(500, "internal_error", "Internal server error")


def _request(error: Exception) -> Problem | None:
    """What is wrong with the request by itself."""
    match error:
        case Invalid(field="", problem=told):
            return Problem(400, "invalid_body", f"Request body {told}")
        case Invalid(field=field, problem=told):
            return Problem(400, "invalid_" + field, f"{field} {told}")
        case http.BodyTooLarge(limit_bytes=limit):
            return Problem(413, "body_too_large", f"Request body is over {limit} bytes")
        case http.MethodNotAllowed(allowed=allowed):
            headers = ((b"allow", allowed.encode()),)
            return Problem(405, "method_not_allowed", "Method Not Allowed", headers=headers)
        case KeyReused():
            message = f"{http.IDEMPOTENCY_KEY} was used for another request"
            return Problem(422, "idempotency_key_reused", message)
        case KeysSpent(max_keys=most, wait_ms=wait):
            message = f"At most {most} {http.IDEMPOTENCY_KEY}s are kept for one shopper"
            headers = (http.retry_after(wait),)
            return Problem(429, "too_many_idempotency_keys", message, headers=headers)
        case TooManyGuests(most=most):
            message = f"At most {most} new carts a second from one address"
            return Problem(429, "too_many_new_carts", message, headers=(http.RETRY_AFTER,))
        case Unauthorized():
            message = "Invalid authentication token"
            return Problem(401, "unauthorized", message, headers=(CHALLENGE,))
        case _:
            return None


def _missing(error: Exception) -> Problem | None:
    """What the request names and is not there, or not there to be bought."""
    match error:
        case UnknownProduct():
            return Problem(404, "product_not_found", "Product not found")
        case UnknownVariant():
            return Problem(404, "variant_not_found", "Product variant not found")
        case UnknownTenant():
            return Problem(404, "tenant_not_found", "Tenant not found")
        case InactiveProduct():
            return Problem(400, "product_not_available", "Product is not available")
        case NoCart() | NoLine():
            return Problem(404, "item_not_found", "Item not found in cart")
        case UnknownSku():
            return Problem(404, "sku_not_found", "There is no stock counter of this SKU")
        case OutOfStock(free=free, in_cart=in_cart):
            facts = {"available": free, "in_cart": in_cart}
            return Problem(400, "insufficient_stock", _short(free, in_cart), facts)
        case _:
            return None


def _limit(error: Exception) -> Problem | None:
    """A limit of the cart, or a rule of the product's sale."""
    match error:
        case CartFull(max_lines=most):
            message = f"Cart is full: at most {most} items"
            return Problem(400, "cart_full", message, {"max_items": most})
        case CartSpent(max_line=most):
            message = f"Cart has had {most} items, please begin a new one"
            return Problem(400, "cart_spent", message, {"max_items_ever": most})
        case OrderLimit(max_units=most, in_cart=units):
            facts = {"max_per_order": most, "in_cart": units}
            message = f"At most {most} of this product an order"
            return Problem(400, "order_limit", message, facts)
        case BuyerLimit(max_units=most, has=units):
            facts = {"max_per_buyer": most, "has": units}
            return Problem(400, "buyer_limit", f"At most {most} of this product a buyer", facts)
        case BelowMinimum(min_units=least):
            facts = {"min_per_order": least}
            return Problem(400, "below_minimum", f"At least {least} of this product", facts)
        case SaleNotStarted(starts_ms=starts, wait_ms=wait):
            when = http.timestamp(starts)
            headers = (http.retry_after(wait),)
            message = f"The sale starts at {when}"
            return Problem(400, "sale_not_started", message, {"starts_at": when}, headers)
        case SaleEnded(ends_ms=ends):
            when = http.timestamp(ends)
            return Problem(400, "sale_ended", f"The sale ended at {when}", {"ended_at": when})
        case _:
            return None


def _closed(error: Exception) -> Problem | None:
    """What stands against changing a cart's status, or a cart that has another one."""
    match error:
        case CartClosed(cart_id=cart_id, status=status):
            message = f"Cart {cart_id} is {status} and takes no changes"
            return Problem(409, "cart_closed", message, {"cart_id": cart_id, "status": status})
        case CartExists(cart_id=cart_id):
            message = f"The owner's active cart is {cart_id}"
            return Problem(409, "cart_exists", message, {"cart_id": cart_id})
        case CartChanged():
            return Problem(409, "cart_changed", "Lines have left the cart, please look at it again")
        case CartShort(lines=lines):
            told = "; ".join(
                f"{one.sku}: {one.wanted} wanted, {one.free} available" for one in lines
            )
            short = {"lines": [[one.sku, one.wanted, one.free] for one in lines]}
            return Problem(409, "cart_short", f"Insufficient stock: {told}", short)
        case PriceDiffers(price_minor=price):
            message = "Price, name or image are not the catalogue's. Current price: "
            today = {"current_price": money.number(price)}
            return Problem(409, "price_differs", message + money.text(price), today)
        case _:
            return None


def _operators(error: Exception) -> Problem | None:
    """What stands against an act of an operator."""
    match error:
        case StockHeld(held=held):
            return Problem(409, "stock_held", f"Carts hold {held} units of it", {"held": held})
        case TooManyWatched(most=most):
            message = f"At most {most} counters are watched"
            return Problem(400, "too_many_watched", message, {"max_watched": most})
        case VerifyRunning():
            return Problem(409, "verify_running", "The tenant's data is being verified already")
        case VerifyTooLong(most_s=most_s):
            message = f"Not all was verified within {most_s:g} s; `cartsvc verify` has no limit"
            return _unavailable("verify_too_long", message)
        case NotRecorded():
            message = "Nothing was done, since it can't be recorded: PostgreSQL does not take it"
            return _unavailable("not_recorded", message)
        case NoRight():
            message = "This process may not do that; its log says which right it lacks"
            return _unavailable("not_permitted", message)
        case _:
            return None


def _unavailable(code: str, message: str) -> Problem:
    return Problem(503, code, message, headers=(http.retry_after(_LATER_MS),))


def _short(free: int, in_cart: int) -> str:
    if in_cart == 0:
        return f"Insufficient stock. Available: {free}"
    return f"Insufficient stock. Available: {free}, already in cart: {in_cart}"
