"""What must hold in the end, whatever happened: by the journal, and by what both stores have.

C1  no counter is below zero
C2  free + held + sold = received, exactly, and carts hold what the books say is held
C3  each request that was granted was carried out once, each that was refused not at all, and each
    that was not answered at most once
C4  PostgreSQL has what Redis has, by cart, version and lines, and each price change once
C5  no cart is over its cap
C6  nothing more comes into a cart that was asked for after an operator was told that the sale is
    paused, until it is resumed; and nobody is refused for a pause that is over
"""

import asyncio
import time
from collections import Counter
from typing import Any, NamedTuple

from redis.asyncio import Redis

from cartsvc.cart_hash import cart_of, fields_of
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, Owner, item_id
from loadtests.chaos import pauses
from loadtests.chaos.journal import Journal

RULES = ("C1", "C2", "C3", "C4", "C5", "C6")

_TOLD = 5
"""Violations of a rule that are told in words; how many there are is told of all."""


class Verdict(NamedTuple):
    """`broken` is what is wrong, by rule; a rule that is not there holds."""

    broken: dict[str, list[str]]

    def told(self) -> str:
        return "; ".join(
            f"{rule}: {len(found)} wrong, such as {' | '.join(found[:_TOLD])}"
            for rule, found in self.broken.items()
        )


class Stores(NamedTuple):
    """All that Redis and PostgreSQL have of a bucket, at rest."""

    bucket: Bucket
    redis: dict[str, Any]
    carts: list[Cart]
    rows: dict[int, Cart]
    events: list[Any]
    books: dict[str, tuple[int, int]]


async def drained(redis_url: str, bucket: Bucket, timeout_s: float = 60) -> float | None:
    """How long it took until nothing waited to be flushed; None if that was too long."""
    redis: Any = Redis.from_url(redis_url)
    begun = time.monotonic()
    try:
        while await redis.zcard(bucket.dirty) or await redis.xlen(bucket.prices):
            if time.monotonic() - begun > timeout_s:
                return None
            await asyncio.sleep(0.05)
        return time.monotonic() - begun
    finally:
        await redis.aclose()


async def check(redis_url: str, ledger: Ledger, bucket: Bucket, journal: Journal) -> Verdict:
    """What is wrong, once nothing changes any more and all is flushed."""
    stores = await _stores(redis_url, ledger, bucket)
    found = {
        "C1": _below_zero(stores),
        "C2": _books(stores),
        "C3": _journal(stores, journal),
        "C4": _rows(stores),
        "C5": [f"cart {one.id}: {len(one.lines)}" for one in stores.carts if len(one.lines) > 50],
        "C6": pauses.wrong(journal.asked, journal.pauses),
    }
    return Verdict({rule: wrong for rule, wrong in found.items() if wrong})


async def _stores(redis_url: str, ledger: Ledger, bucket: Bucket) -> Stores:
    redis: Any = Redis.from_url(redis_url)
    try:
        values: dict[str, Any] = {}
        for name in ("stock", "held", "sold", "received", "carts", "cold"):
            values[name] = {
                key.decode(): value.decode()
                for key, value in (await redis.hgetall(getattr(bucket, name))).items()
            }
        values["dirty"] = await redis.zcard(bucket.dirty)
        values["prices"] = await redis.xlen(bucket.prices)
        carts = []
        for key in values["carts"].values():
            flat = [part for pair in (await redis.hgetall(key)).items() for part in pair]
            carts.append(cart_of(bucket.owner(key), fields_of(flat)))
    finally:
        await redis.aclose()
    rows, _ = await ledger.carts(bucket.tenant, None, limit=1_000_000, offset=0)
    query = "SELECT * FROM price_history WHERE tenant = $1 ORDER BY cart_item_id, cart_version"
    events = await ledger.pool.fetch(query, bucket.tenant)
    books = {
        row["sku"]: (row["received"], row["sold"])
        for row in await ledger.pool.fetch("SELECT * FROM stock WHERE tenant = $1", bucket.tenant)
    }
    return Stores(bucket, values, carts, {row.id: row for row in rows}, events, books)


def _units(stores: Stores, name: str, sku: str) -> int:
    return int(stores.redis[name].get(sku, 0))


def _below_zero(stores: Stores) -> list[str]:
    return [
        f"{name} of {sku}: {units}"
        for name in ("stock", "held", "sold", "received")
        for sku, units in stores.redis[name].items()
        if int(units) < 0
    ]


def _books(stores: Stores) -> list[str]:
    found = []
    in_carts: Counter[str] = Counter()
    for cart in stores.carts:
        for line in cart.in_order:
            if line.held_until_ms is not None:
                in_carts[line.product_id] += line.quantity
    for sku, (received, sold) in stores.books.items():
        free, held, sold_there, all_ = (
            _units(stores, name, sku) for name in ("stock", "held", "sold", "received")
        )
        if free + held + sold_there != all_:
            found.append(f"{sku}: {free} + {held} + {sold_there} is not {all_}")
        if all_ != received or sold_there != sold:
            told = f"{all_} received, {sold_there} sold in Redis"
            found.append(f"{sku}: {told}, {received} and {sold} in PostgreSQL")
        if held != in_carts[sku]:
            found.append(f"{sku}: {held} held, {in_carts[sku]} in carts")
    return found


def _journal(stores: Stores, journal: Journal) -> list[str]:
    hot = {cart.id: cart for cart in stores.carts}
    active: dict[Owner, Cart] = {}
    orders: dict[Owner, list[Cart]] = {}
    for cart in (stores.rows | hot).values():
        if cart.status == "ACTIVE":
            active[cart.owner] = cart
        elif cart.status == "CONVERTED":
            orders.setdefault(cart.owner, []).append(cart)
    for owner in journal.shoppers:
        lines = _lines(active[owner]) if owner in active else {}
        journal.check(owner, lines, [_lines(cart) for cart in orders.get(owner, ())])
    return journal.wrong


def _lines(cart: Cart) -> dict[str, int]:
    return {line.sku: line.quantity for line in cart.in_order}


def _rows(stores: Stores) -> list[str]:
    found = []
    if stores.redis["dirty"] or stores.redis["prices"]:
        found.append(f"{stores.redis['dirty']} carts and {stores.redis['prices']} prices wait")
    for cart in stores.carts:
        row = stores.rows.get(cart.id)
        if row is None or (row.version, row.status, _lines(row)) != (
            cart.version,
            cart.status,
            _lines(cart),
        ):
            found.append(f"cart {cart.id} at {cart.version}, row at {row and row.version}")
    here = {cart.id for cart in stores.carts}
    here |= {int(marker.partition(" ")[0]) for marker in stores.redis["cold"].values()}
    found += [
        f"cart {row.id} is active, and not in Redis"
        for row in stores.rows.values()
        if row.status == "ACTIVE" and row.id not in here
    ]
    return found + _prices(stores)


def _prices(stores: Stores) -> list[str]:
    """Where the price changes of a line do not lead from one to the next, and to its price."""
    found = []
    prices = {
        item_id(row.id, line.number): line.price_minor
        for row in stores.rows.values()
        for line in row.lines
    }
    changes: dict[int, list[Any]] = {}
    for event in stores.events:
        changes.setdefault(event["cart_item_id"], []).append(event)
    for item, events in changes.items():
        steps = [event["new_price_minor"] for event in events]
        starts = [event["old_price_minor"] for event in events[1:]]
        if starts != steps[:-1] or prices.get(item, steps[-1]) != steps[-1]:
            found.append(f"prices of item {item}: {starts} do not lead to {steps}")
    return found
