"""Contract 001, tenant, as its shoppers see it: what requests carry, and what answers show."""

import re
from typing import Any

import httpx

from cartsvc import identity
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Owner, item_id
from tests.shop import LAMP, SECRET, Shop

SESSION, CUSTOMER = "session_def456", "user_789"
GUEST = Owner("session", SESSION)
SHOPPER = Owner("customer", CUSTOMER)

CART, SECOND_CART = 256, 512
"""The ids of the first two carts of a bucket."""


async def open_tenant(name: str, beside: Shop, ledger: Ledger) -> Shop:
    """Another tenant's shop, on the same servers."""
    other = Shop(beside.runner)
    other.bucket = Bucket(name)
    await ledger.open_bucket(other.bucket)
    return await other.open()


def token(
    kind: str = "customer", *, tenant: str | None = None, ttl_s: int = 3_600, secret: str = SECRET
) -> str:
    return identity.issue_token(secret, subject=CUSTOMER, kind=kind, tenant=tenant, ttl_s=ttl_s)


def headers(
    session: str | None = SESSION, *, tenant: str = "default", bearer: str | None = None
) -> dict[str, str]:
    """Of a guest, or of a customer where there is a token."""
    found = {"x-tenant-id": tenant}
    if session is not None:
        found["x-session-id"] = session
    if bearer is not None:
        found["Authorization"] = f"Bearer {bearer}"
    return found


async def add(
    http: httpx.AsyncClient,
    sent: dict[str, str] | httpx.Headers,
    quantity: int = 1,
    product_id: str = LAMP,
    variant_id: str | None = None,
) -> httpx.Response:
    body: dict[str, Any] = {"productId": product_id, "quantity": quantity}
    if variant_id is not None:
        body["productVariantId"] = variant_id
    return await http.post("/cart/items", json=body, headers=sent)


def path_of(cart: int = CART, line: int = 1) -> str:
    return f"/cart/items/{item_id(cart, line)}"


def shown(answer: httpx.Response) -> Any:
    """The body without the time of its change, which is one."""
    body = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body.pop("updatedAt"))
    return body


def cart(
    *items: dict[str, Any],
    id_: int | None = CART,
    tenant: str = "default",
    session: str = SESSION,
    user: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A cart as an answer shows it."""
    return {
        "id": None if id_ is None else str(id_),
        "tenantId": tenant,
        "sessionId": session,
        "userId": user,
        "cartItems": list(items),
        **more,
    }


def item(
    quantity: int,
    product_id: str = LAMP,
    *,
    cart: int = CART,
    line: int = 1,
    price: float = 29.99,
    variant_id: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An item of a product as `Shop.sell` describes it."""
    product: dict[str, Any] = {
        "id": product_id,
        "name": "Aurora Desk Lamp",
        "images": ["https://cdn.example.com/lamp.jpg"],
    }
    variant = None
    if variant_id is None:
        product["price"] = price
    else:
        variant = {"id": variant_id, "name": variant_id, "price": price}
    return {
        "id": str(item_id(cart, line)),
        "productId": product_id,
        "quantity": quantity,
        "productVariantId": variant_id,
        "product": product,
        "productVariant": variant,
        **more,
    }


def failure(status: int, message: str, **more: Any) -> dict[str, Any]:
    words = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
    return {"statusCode": status, "message": message, "error": words[status], **more}
