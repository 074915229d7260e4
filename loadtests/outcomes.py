"""What an answer means to a shopper: granted, refused for a reason that sales have, or wrong."""

import re

_REASONS = (
    (r"Insufficient stock|Cannot add more items", "sold out"),
    (r"of this product a buyer", "no more a buyer"),
    (r"of this product an order", "no more an order"),
    (r"At least \d+ of this product", "too few"),
    (r"Cart is full|Cart has had", "cart is full"),
    (r"The sale starts at", "not yet on sale"),
    (r"The sale ended at", "sale is over"),
    (r"Lines have left the cart", "lines have left"),
)

LINES_LEFT = "lines have left"
"""Of a checkout that told its shopper, who has to look at the cart again."""

PAUSED = "sale is paused"

_PAUSED = r"\bpaused\b|sale_paused"


def granted(status: int) -> bool:
    return 200 <= status < 300


def reason(status: int, body: str) -> str | None:
    """Why a request was refused, in words; None if it was not, or by no rule of a sale."""
    if status == 429:
        return "too many"
    if status == 503:
        return PAUSED if re.search(_PAUSED, body) else None
    if not 400 <= status < 500:
        return None
    return next((words for pattern, words in _REASONS if re.search(pattern, body)), None)


def is_decided(status: int) -> bool:
    """Whether asking again, with the same idempotency key, has to get the same answer."""
    return status not in (429, 503)


def name(what: str, refused: str | None = None) -> str:
    """How Locust lists it: by contract and request, and why it was refused."""
    return f"{what} ({refused})" if refused else what


def parts(listed: str) -> tuple[str, str | None]:
    """What `name` put together."""
    what, _, refused = listed.removesuffix(")").partition(" (")
    return what, refused or None
