"""How a shopper asks, in each of the five contracts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from cartsvc import identity
from cartsvc.model import Owner

SECRET = "the secret of a service that is going to be hurt"  # noqa: S105
TENANT = "default"


class Request(NamedTuple):
    """`is_whole` says that its answer shows the whole cart."""

    method: str
    path: str
    headers: dict[str, str]
    content: Any = None
    is_whole: bool = True


class Seen(NamedTuple):
    """Units and item ids by SKU, and the cart's id, None where the answer does not tell it."""

    lines: dict[str, int]
    items: dict[str, str]
    cart_id: int | None


class Dialect(NamedTuple):
    """`owner` makes an owner of a name; the others make requests, and read answers."""

    owner: Callable[[str], Owner]
    add: Callable[[Owner, str, int], Request]
    set: Callable[[Owner, str, str, int], Request]
    remove: Callable[[Owner, str, str], Request]
    seen: Callable[[Any], Seen]


def token(subject: str, kind: str = "customer") -> dict[str, str]:
    signed = identity.issue_token(SECRET, subject=subject, kind=kind, tenant=None, ttl_s=86_400)
    return {"Authorization": f"Bearer {signed}"}


ADMIN = token("1", "user")


def convert(cart_id: int) -> Request:
    """Buy what is in a cart, as a shop's checkout would ask."""
    return Request("PATCH", f"/api/carts/{cart_id}/status/CONVERTED", ADMIN)


def active(owner: Owner) -> Request:
    """The owner's active cart."""
    kind = "user" if owner.kind == "customer" else owner.kind
    return Request("GET", f"/api/carts/{kind}/{owner.id}/active", ADMIN)


def seen_by_admin(body: Any) -> Seen:
    items = body["cartItems"]
    lines = {str(item["productId"]): item["quantity"] for item in items}
    return Seen(lines, {}, body["id"])


def _session_path(owner: Owner, sku: str) -> str:
    return f"/api/cart/items/{sku}?session_id={owner.id}"


def _session_seen(body: Any) -> Seen:
    items = body["data"]["cart"]["items"]
    return Seen({one["product_id"]: one["quantity"] for one in items}, {}, None)


SESSION = Dialect(
    owner=lambda name: Owner("session", f"s-{name}"),
    add=lambda owner, sku, units: Request(
        "POST", "/api/cart", {}, {"product_id": sku, "quantity": units, "session_id": owner.id}
    ),
    set=lambda owner, sku, _, units: Request(
        "PUT", _session_path(owner, sku), {}, {"quantity": units}
    ),
    remove=lambda owner, sku, _: Request("DELETE", _session_path(owner, sku), {}),
    seen=_session_seen,
)


def _guest(owner: Owner) -> dict[str, str]:
    return {"x-tenant-id": TENANT, "x-session-id": owner.id}


def _tenant_seen(body: Any) -> Seen:
    items = body["cartItems"]
    return Seen(
        {one["productId"]: one["quantity"] for one in items},
        {one["productId"]: one["id"] for one in items},
        int(body["id"]),
    )


GUEST = Dialect(
    owner=lambda name: Owner("session", f"g-{name}"),
    add=lambda owner, sku, units: Request(
        "POST", "/cart/items", _guest(owner), {"productId": sku, "quantity": units}
    ),
    set=lambda owner, _, item, units: Request(
        "PUT", f"/cart/items/{item}", _guest(owner), {"quantity": units}
    ),
    remove=lambda owner, _, item: Request("DELETE", f"/cart/items/{item}", _guest(owner)),
    seen=_tenant_seen,
)


def _device_seen(body: Any) -> Seen:
    items = body["items"]
    return Seen(
        {str(one["product_id"]): one["quantity"] for one in items},
        {str(one["product_id"]): str(one["id"]) for one in items},
        body["id"],
    )


DEVICE = Dialect(
    owner=lambda name: Owner("device", f"d-{name}"),
    add=lambda owner, sku, units: Request(
        "POST", "/cart/items", {"DeviceID": owner.id}, {"product_id": sku, "quantity": units}
    ),
    set=lambda owner, _, item, units: Request(
        "PUT", f"/cart/items/{item}", {"DeviceID": owner.id}, {"quantity": units}
    ),
    remove=lambda owner, _, item: Request("DELETE", f"/cart/items/{item}", {"DeviceID": owner.id}),
    seen=_device_seen,
)

_CUSTOMER_ITEMS = "/api/customer/cart/items"


def _customer_seen(body: Any) -> Seen:
    items = body["data"]["items"]
    return Seen(
        {str(one["product_id"]): one["quantity"] for one in items},
        {str(one["product_id"]): str(one["id"]) for one in items},
        body["data"]["cart_id"],
    )


CUSTOMER = Dialect(
    owner=lambda name: Owner("customer", f"c-{name}"),
    add=lambda owner, sku, units: Request(
        "POST",
        "/api/customer/cart/add",
        token(owner.id),
        {"product": int(sku), "quantity": units},
        is_whole=False,
    ),
    set=lambda owner, _, item, units: Request(
        "PUT", f"{_CUSTOMER_ITEMS}/{item}", token(owner.id), {"quantity": units}
    ),
    remove=lambda owner, _, item: Request("DELETE", f"{_CUSTOMER_ITEMS}/{item}", token(owner.id)),
    seen=_customer_seen,
)

ALL = (SESSION, GUEST, DEVICE, CUSTOMER)
"""Contract 004 is what they all check out with."""
