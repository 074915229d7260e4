"""Who asks, in tests of contracts that want a token."""

import ssl

from cartsvc import identity
from tests.shop import SECRET

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a client of plain HTTP: httpx's own takes 20 ms to read the certificates of the world."""


def bearer(subject: str, kind: str = "customer", tenant: str | None = None) -> dict[str, str]:
    """Headers with a token that is good for an hour."""
    token = identity.issue_token(SECRET, subject=subject, kind=kind, tenant=tenant, ttl_s=3_600)
    return {"Authorization": f"Bearer {token}"}
