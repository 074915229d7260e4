"""How a shopper asks, in each of the five contracts."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from cartsvc import identity
from cartsvc.model import Owner

Headers = dict[str, str]
Sign = Callable[[str, str], Headers]
Who = Callable[[Owner], Headers]

_TOKEN_TTL_S = 86_400
_TOKENS = 10_000
"""Remembered: a signature takes longer than a shopper's request."""


class Request(NamedTuple):
    """`is_whole` says that its answer shows the whole cart."""

    method: str
    path: str
    headers: Headers
    content: Any = None
    is_whole: bool = True


class Seen(NamedTuple):
    """Units and item ids by SKU, and the cart's id, None where the answer does not tell it."""

    lines: dict[str, int]
    items: dict[str, str]
    cart_id: int | None


class Dialect(NamedTuple):
    """`owner` makes an owner of a name; `seen` reads answers; the others make requests.

    `set` and `remove` are told SKU and item id, and take what the contract names a line by.
    """

    owner: Callable[[str], Owner]
    read: Callable[[Owner], Request]
    add: Callable[[Owner, str, int], Request]
    set: Callable[[Owner, str, str, int], Request]
    remove: Callable[[Owner, str, str], Request]
    seen: Callable[[Any], Seen]


def signer(secret: str, *, issuer: str = "", audience: str = "") -> Sign:
    """Headers with a token, by subject and kind."""

    @lru_cache(_TOKENS)
    def headers(subject: str, kind: str) -> Headers:
        signed = identity.issue_token(
            secret,
            subject=subject,
            kind=kind,
            tenant=None,
            ttl_s=_TOKEN_TTL_S,
            issuer=issuer,
            audience=audience,
        )
        return {"Authorization": f"Bearer {signed}"}

    return headers


def convert(cart_id: int, caller: Headers) -> Request:
    """Buy what is in a cart, as a shop's checkout would ask."""
    return Request("PATCH", f"/api/carts/{cart_id}/status/CONVERTED", caller)


def active(owner: Owner, caller: Headers) -> Request:
    """The owner's active cart."""
    kind = "user" if owner.kind == "customer" else owner.kind
    return Request("GET", f"/api/carts/{kind}/{owner.id}/active", caller)


def seen_by_admin(body: Any) -> Seen:
    """What a cart of contract 004 shows."""
    return Seen(_units(body["cartItems"], "productId"), {}, body["id"])


def _units(items: Sequence[Any], product: str, variant: str = "") -> dict[str, int]:
    return {_sku(one, product, variant): one["quantity"] for one in items}


def _ids(items: Sequence[Any], product: str, variant: str = "") -> dict[str, str]:
    return {_sku(one, product, variant): str(one["id"]) for one in items}


def _sku(item: Any, product: str, variant: str) -> str:
    """As Redis has it; `variant` is where an item names its own, if it may have one."""
    chosen = item.get(variant)
    if isinstance(chosen, dict):
        chosen = chosen["id"]
    return f"{item[product]}/{chosen}" if chosen else str(item[product])


def _session_path(owner: Owner, sku: str) -> str:
    return f"/api/cart/items/{sku}?session_id={owner.id}"


SESSION = Dialect(
    owner=lambda name: Owner("session", f"s-{name}"),
    read=lambda owner: Request("GET", f"/api/cart?session_id={owner.id}", {}),
    add=lambda owner, sku, units: Request(
        "POST", "/api/cart", {}, {"product_id": sku, "quantity": units, "session_id": owner.id}
    ),
    set=lambda owner, sku, _, units: Request(
        "PUT", _session_path(owner, sku), {}, {"quantity": units}
    ),
    remove=lambda owner, sku, _: Request("DELETE", _session_path(owner, sku), {}),
    seen=lambda body: Seen(_units(body["data"]["cart"]["items"], "product_id"), {}, None),
)


def _tenant_item(sku: str, units: int) -> dict[str, Any]:
    product, _, variant = sku.partition("/")
    item = {"productId": product, "quantity": units}
    return {**item, "productVariantId": variant} if variant else item


def _tenant_seen(body: Any) -> Seen:
    items = body["cartItems"]
    words = ("productId", "productVariantId")
    cart_id = int(body["id"]) if body["id"] else None
    return Seen(_units(items, *words), _ids(items, *words), cart_id)


def tenant(owner: Callable[[str], Owner], who: Who) -> Dialect:
    """Contract 001; `who` has the headers that say who asks."""
    return Dialect(
        owner=owner,
        read=lambda owner: Request("GET", "/cart", who(owner)),
        add=lambda owner, sku, units: Request(
            "POST", "/cart/items", who(owner), _tenant_item(sku, units)
        ),
        set=lambda owner, _, item, units: Request(
            "PUT", f"/cart/items/{item}", who(owner), {"quantity": units}
        ),
        remove=lambda owner, _, item: Request("DELETE", f"/cart/items/{item}", who(owner)),
        seen=_tenant_seen,
    )


def guest(tenant_id: str) -> Dialect:
    """Contract 001 for guests of a store."""
    return tenant(
        lambda name: Owner("session", f"g-{name}"),
        lambda owner: {"x-tenant-id": tenant_id, "x-session-id": owner.id},
    )


def member(tenant_id: str, sign: Sign) -> Dialect:
    """Contract 001 for customers of a store."""
    return tenant(
        lambda name: Owner("customer", f"m-{name}"),
        lambda owner: {"x-tenant-id": tenant_id, **sign(owner.id, "customer")},
    )


def _device_seen(body: Any) -> Seen:
    items = body["items"]
    return Seen(_units(items, "product_id"), _ids(items, "product_id"), body["id"])


DEVICE = Dialect(
    owner=lambda name: Owner("device", f"d-{name}"),
    read=lambda owner: Request("GET", "/cart", {"DeviceID": owner.id}),
    add=lambda owner, sku, units: Request(
        "POST", "/cart/items", {"DeviceID": owner.id}, {"product_id": sku, "quantity": units}
    ),
    set=lambda owner, _, item, units: Request(
        "PUT", f"/cart/items/{item}", {"DeviceID": owner.id}, {"quantity": units}
    ),
    remove=lambda owner, _, item: Request("DELETE", f"/cart/items/{item}", {"DeviceID": owner.id}),
    seen=_device_seen,
)

_CUSTOMER = "/api/customer/cart"


def _customer_add(caller: Headers, sku: str, units: int) -> Request:
    product, _, variant = sku.partition("/")
    if not variant:
        item = {"product": int(product), "quantity": units}
        return Request("POST", f"{_CUSTOMER}/add", caller, item, is_whole=False)
    variations = [{"id": variant, "quantity": units}]
    items = {"product": int(product), "quantity": units, "variations": variations}
    return Request("POST", _CUSTOMER, caller, items, is_whole=False)


def _customer_seen(body: Any) -> Seen:
    items, words = body["data"]["items"], ("product_id", "variations")
    return Seen(_units(items, *words), _ids(items, *words), body["data"]["cart_id"])


def customer(sign: Sign) -> Dialect:
    """Contract 003; its products are whole numbers."""

    def who(owner: Owner) -> Headers:
        return sign(owner.id, "customer")

    return Dialect(
        owner=lambda name: Owner("customer", f"c-{name}"),
        read=lambda owner: Request("GET", _CUSTOMER, who(owner)),
        add=lambda owner, sku, units: _customer_add(who(owner), sku, units),
        set=lambda owner, _, item, units: Request(
            "PUT", f"{_CUSTOMER}/items/{item}", who(owner), {"quantity": units}
        ),
        remove=lambda owner, _, item: Request("DELETE", f"{_CUSTOMER}/items/{item}", who(owner)),
        seen=_customer_seen,
    )
