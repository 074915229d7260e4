"""Short names for what tests do with carts, and an audit of what Redis keeps about them."""

from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from cartsvc import model
from cartsvc.errors import (
    CartError,
)
from cartsvc.model import (
    Cart,
    ClosedStatus,
    Line,
    LineRequest,
    Merged,
    Owner,
)
from tests.shop import ANN, LAMP, Shop

BOB = Owner("session", "bob")
GUEST = Owner("session", "guest")
USER = Owner("user", "42")
HOLD_MS = 600_000
POLICIES = ["check", "hold", "untracked"]

Error = TypeVar("Error", bound=CartError)


async def add(
    shop: Shop,
    owner: Owner,
    quantity: int = 1,
    product_id: str = LAMP,
    variant_id: str | None = None,
) -> Cart:
    return await shop.add_lines(LineRequest(product_id, quantity, variant_id), owner=owner)


async def put(shop: Shop, quantity: int, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.set_quantity(shop.bucket, owner, line, quantity)


async def remove(shop: Shop, line: str = LAMP, *more: str, owner: Owner = ANN) -> Cart:
    return await shop.store.remove(shop.bucket, owner, line, *more)


async def save(shop: Shop, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.save_for_later(shop.bucket, owner, line)


async def take_back(shop: Shop, line: str = LAMP, owner: Owner = ANN) -> Cart:
    return await shop.store.take_back(shop.bucket, owner, line)


async def read(shop: Shop, owner: Owner = ANN) -> Cart:
    return await shop.store.read(shop.bucket, owner)


async def merge(shop: Shop) -> Merged:
    return await shop.store.merge(shop.bucket, GUEST, USER)


async def close(
    shop: Shop, status: ClosedStatus = "CONVERTED", owner: Owner = ANN, cart_id: int | None = None
) -> Cart:
    return await shop.store.close(shop.bucket, owner, status, cart_id=cart_id)


def units(cart: Cart) -> dict[str, int]:
    return {line.sku: line.quantity for line in cart.lines}


def item(cart: Cart, line: Line) -> str:
    return model.line_name(model.item_id(cart.id, line.number))


async def refused(shop: Shop, kind: type[Error], call: Awaitable[object]) -> Error:
    """The error with which `call` is refused, and by which nothing is changed."""
    before = await shop.everything()
    with pytest.raises(kind) as refusal:
        await call
    assert await shop.everything() == before
    return refusal.value


async def unchanged(shop: Shop, call: Awaitable[Cart]) -> Cart:
    """What `call` gives, and by which nothing is changed."""
    before = await shop.everything()
    cart = await call
    assert await shop.everything() == before
    return cart


async def books(shop: Shop, counter: str = LAMP) -> tuple[int, int, int]:
    """Units free, held and sold; and what else is kept about carts agrees with them."""
    await sound(shop)
    level = await shop.shelf.stock(shop.bucket, counter)
    assert level
    return level.free, level.held, level.sold


def taken(policy: str, stock: int, quantity: int) -> tuple[int, int, int]:
    """The books when a cart has `quantity` of `stock`."""
    return (stock - quantity, quantity, 0) if policy == "hold" else (stock, 0, 0)


async def sound(shop: Shop) -> None:
    """Nothing is lost or made up in the books, and every index says what the carts say."""
    everything = {key.decode(): value for key, value in (await shop.everything()).items()}
    stock, held, sold, received = (
        {counter.decode(): int(number) for counter, number in everything.get(key, {}).items()}
        for key in (shop.bucket.stock, shop.bucket.held, shop.bucket.sold, shop.bucket.received)
    )
    for counter, number in received.items():
        assert min(stock[counter], held.get(counter, 0), sold.get(counter, 0)) >= 0
        assert stock[counter] + held.get(counter, 0) + sold.get(counter, 0) == number
    seen = _Seen(Counter(), {}, set(), set(), {})
    for key, fields in everything.items():
        if key.startswith(("cart:", "closed:")):
            _see(seen, key, {name.decode(): value.decode() for name, value in fields.items()})
    assert Counter(held) == seen.held
    assert _scores(everything, shop.bucket.holds) == seen.holds
    assert set(_scores(everything, shop.bucket.holds_by_sku)) == seen.holds_by_sku
    assert set(_scores(everything, shop.bucket.holders)) == seen.holders
    places = everything.get(shop.bucket.carts, {})
    assert {number.decode(): place.decode() for number, place in places.items()} == seen.carts


@dataclass
class _Seen:
    held: Counter[str]
    holds: dict[str, float]
    holds_by_sku: set[str]
    holders: set[str]
    carts: dict[str, str]


def _see(seen: _Seen, key: str, cart: dict[str, str]) -> None:
    active = key.startswith("cart:")
    assert (cart["status"] == "ACTIVE") == active
    seen.carts[cart["id"]] = key
    skus = {name[2:] for name in cart if name.startswith("l:")}
    assert int(cart["lines"]) == len(skus)
    for kind in ("q", "s", "h"):
        assert {name[2:] for name in cart if name.startswith(f"{kind}:")} <= skus
    for sku in skus:
        assert (f"q:{sku}" in cart) != (f"s:{sku}" in cart)
        if active:
            seen.holders.add(f"{sku} {key}")
        if f"h:{sku}" in cart:
            assert f"q:{sku}" in cart
            deadline, counter = cart[f"h:{sku}"].split(" ")
            seen.held[counter] += int(cart[f"q:{sku}"])
            seen.holds_by_sku.add(f"{counter} {deadline} {sku} {key}")
            seen.holds[key] = min(seen.holds.get(key, int(deadline)), int(deadline))
    assert cart.get("due") == (str(seen.holds[key]) if key in seen.holds else None)


def _scores(everything: dict[str, Any], key: str) -> dict[str, float]:
    return {name.decode(): score for name, score in everything.get(key, [])}


async def lose(shop: Shop) -> None:
    """Redis forgets all that it had."""
    await shop.redis.flushall()
    await shop.open()
