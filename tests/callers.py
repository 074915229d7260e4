"""Who asks, in tests of contracts that want a token."""

from cartsvc import identity
from tests.shop import SECRET


def bearer(subject: str, kind: str = "customer", tenant: str | None = None) -> dict[str, str]:
    """Headers with a token that is good for an hour."""
    token = identity.issue_token(SECRET, subject=subject, kind=kind, tenant=tenant, ttl_s=3_600)
    return {"Authorization": f"Bearer {token}"}
