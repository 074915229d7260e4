"""Outcomes of requests with an idempotency key: what a script is told of one, and what it kept."""

from typing import Any

from cartsvc.errors import Again
from cartsvc.model import Once
from cartsvc.scripts import sent

KEEP_S = 86_400
"""How long an outcome is kept, where nothing else is said."""

MOST = 1_000
"""Outcomes that a caller may have in that time, where nothing else is said."""


def terms(once: Once | None, *, keep_s: int = KEEP_S, most: int = MOST) -> str:
    """How a script is told of a request's idempotency key."""
    if once is None:
        return ""
    return f"{once.fingerprint} {keep_s * 1000} {most} {once.session}"


def recalled(before: Again, once: Once) -> list[Any]:
    """The reply with which the request was answered before; `once` then knows of that, too."""
    _, at_ms, cart_key, session, reply = sent(before.kept)
    once.is_replay, once.at_ms = True, int(at_ms)
    once.cart_key, once.session = cart_key.decode(), session.decode()
    return reply  # type: ignore[no-any-return]
