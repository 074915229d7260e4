"""What PostgreSQL has for a Redis that came back empty: catalogue, books, orders, carts."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import msgspec

from cartsvc import sql
from cartsvc.catalog import Product
from cartsvc.errors import RowsRefused
from cartsvc.ledger import Ledger, product_of
from cartsvc.model import Cart, Line, Owner

_BATCH = 1_000

decode_cart = msgspec.json.Decoder(Cart).decode
"""A cart as a dead letter holds it."""


class Books(NamedTuple):
    """A counter's units, as PostgreSQL has them."""

    sku: str
    received: int
    sold: int


class Orders(NamedTuple):
    """Units of a product that a buyer ordered in the sale that started at `starts_ms`, or 0."""

    product_id: str
    starts_ms: int
    owner: Owner
    units: int


class ActiveCart(NamedTuple):
    """An owner's active cart; whether it `holds` units."""

    id: int
    owner: Owner
    holds: bool


class Recovery:
    """Reads of one tenant, in batches where there may be many rows."""

    def __init__(self, ledger: Ledger, tenant: str) -> None:
        self.pool = ledger.pool
        self.tenant = tenant

    async def products(self) -> AsyncIterator[list[Product]]:
        after = ""
        while rows := await self._fetch("next_products", after, _BATCH):
            ids = [row["id"] for row in rows]
            yield [product_of(row) for row in await self._fetch("products_by_id", ids)]
            after = ids[-1]

    async def products_in_variants(self) -> set[str]:
        """Ids of products of which carts have variants, which may have left the catalogue."""
        return {row["product_id"] for row in await self._fetch("products_in_variants")}

    async def counters(self) -> list[Books]:
        rows = await self._fetch("books")
        return [Books(row["sku"], row["received"], row["sold"]) for row in rows]

    async def set_aside(self) -> list[Cart]:
        """Carts that PostgreSQL refused, as they were then, and of which it has nothing later.

        Raises:
            RowsRefused: one of them can't be read, and what it sold is not guessed.
        """
        carts = []
        for row in await self._fetch("carts_set_aside"):
            try:
                carts.append(decode_cart(row["body"]))
            except ValueError as error:
                told = f"dead letter {row['number']} is not readable as a cart: {error}"
                raise RowsRefused(told) from error
        return carts

    async def orders(self) -> list[Orders]:
        """Of the products that limit what a buyer may have."""
        return [
            Orders(row["product_id"], row["starts_ms"], _owner(row), row["units"])
            for row in await self._fetch("orders_of_buyers")
        ]

    async def active_carts(self, now_ms: int) -> AsyncIterator[list[ActiveCart]]:
        """In the order of their ids."""
        after = 0
        while rows := await self._fetch("active_carts", after, _BATCH, now_ms):
            yield [ActiveCart(row["id"], _owner(row), row["holds"]) for row in rows]
            after = rows[-1]["id"]

    async def last_cart_id(self) -> int:
        """The highest that is known; 0 if none is."""
        return await self.pool.fetchval(sql.queries()["last_cart"], self.tenant) or 0

    async def _fetch(self, name: str, *values: Any) -> Any:
        return await self.pool.fetch(sql.queries()[name], self.tenant, *values)


def units_sold(lines: Iterable[Line]) -> Counter[str]:
    """Units by counter that the lines of a cart sold; none if it is not converted."""
    sold: Counter[str] = Counter()
    for line in lines:
        if line.sold_from is not None:
            sold[line.sold_from] += line.quantity
    return sold


def _owner(row: Any) -> Owner:
    return Owner(row["owner_kind"], row["owner_id"])
