"""Who a request speaks for: session ids, and tokens."""

import re
import secrets
import time

import jwt

from cartsvc.errors import Invalid
from cartsvc.model import Owner

TOKEN_TYPES = ("customer", "user", "service")
"""Shoppers, admins, other programs."""

_SESSION_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_SESSION_BYTES = 24


def session(session_id: str | None) -> Owner:
    """The owner of a guest's cart; a new one when the client has no session yet.

    Raises:
        Invalid: the id has characters, or a length, that no session id has.
    """
    if session_id is None:
        return Owner("session", secrets.token_urlsafe(_SESSION_BYTES))
    if not _SESSION_ID.fullmatch(session_id):
        raise Invalid("session_id", "must be 1 to 128 letters, digits, '.', '_', '~' or '-'")
    return Owner("session", session_id)


def issue_token(secret: str, *, subject: str, kind: str, tenant: str | None, ttl_s: int) -> str:
    """A token signed with HS256. `kind` is one of TOKEN_TYPES."""
    now = int(time.time())
    claims = {"sub": subject, "type": kind, "iat": now, "exp": now + ttl_s}
    if tenant is not None:
        claims["tenant"] = tenant
    return jwt.encode(claims, secret, algorithm="HS256")
