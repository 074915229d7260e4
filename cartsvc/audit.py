"""What PostgreSQL has for an audit of a tenant: rows, books and price changes, some at a time."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from cartsvc.ledger import Ledger, carts_of
from cartsvc.model import MAX_SAFE_INT, Line, Owner, PriceChange, item_id
from cartsvc.recovery import Books, decode_cart, units_sold
from cartsvc.sql import query

_PAGE = 500

_price_change = msgspec.json.Decoder(PriceChange).decode


class RowState(NamedTuple):
    """A cart as PostgreSQL has it, all at one instant.

    `status`, `version` and `owner` are None where it has no row, `lines` also where it is deleted;
    `set_aside` is the version of its dead letter, None if there is none.
    """

    owner: Owner | None = None
    status: str | None = None
    version: int | None = None
    lines: list[Line] | None = None
    set_aside: int | None = None


NO_ROW = RowState()


class Recorded(NamedTuple):
    """Books of counters, and what orders sold that are not in them: cart id -> units by counter."""

    books: dict[str, Books]
    not_counted: dict[int, Counter[str]]


@dataclass(slots=True)
class Chain:
    """A line's price changes: version -> (old, new). Its price in its row, and the version of that;
    None where the line has none."""

    changes: dict[int, tuple[int, int]] = field(default_factory=dict)
    price_minor: int | None = None
    version: int | None = None


class Audit:
    """Reads of one tenant."""

    def __init__(self, ledger: Ledger, tenant: str) -> None:
        self.pool = ledger.pool
        self.tenant = tenant

    async def row_states(self, ids: Sequence[int]) -> dict[int, RowState]:
        ids = _possible(ids)
        async with self._snapshot() as connection:
            rows = await connection.fetch(query("row_states"), self.tenant, ids)
            lines = {cart.id: cart.lines for cart in await carts_of(connection, self.tenant, ids)}
        return {row["id"]: _state(row, lines.get(row["id"])) for row in rows}

    async def counters(self) -> AsyncIterator[list[str]]:
        """SKUs that have a counter, in their order."""
        after = ""
        while rows := await self._fetch("next_counters", after, _PAGE):
            yield [row["sku"] for row in rows]
            after = rows[-1]["sku"]

    async def recorded(self, skus: Sequence[str], orders: dict[int, Counter[str]]) -> Recorded:
        """Books of counters; of orders (as `not_counted`), and of those that are set aside, which
        are not in them, as far as they are readable."""
        async with self._snapshot() as connection:
            books = await connection.fetch(query("books_of"), self.tenant, skus)
            letters = await connection.fetch(query("carts_set_aside"), self.tenant)
            closed = await connection.fetch(query("closed_rows"), self.tenant, _possible(orders))
        not_counted = dict(orders)
        for letter in letters:
            with suppress(ValueError):
                cart = decode_cart(letter["body"])
                # One that is dirty has been changed since it was set aside.
                not_counted.setdefault(cart.id, units_sold(cart.lines))
        for row in closed:
            not_counted.pop(row["id"], None)
        found = {row["sku"]: Books(row["sku"], row["received"], row["sold"]) for row in books}
        return Recorded(found, not_counted)

    async def sold_otherwise(self) -> list[tuple[str, int, int]]:
        """(SKU, units sold, units that converted carts took), where these differ."""
        rows = await self._fetch("sold_otherwise")
        return [(row["sku"], row["sold"], row["units"]) for row in rows]

    async def priced_lines(self) -> AsyncIterator[list[int]]:
        """Item ids of lines that have price changes, in their order."""
        after = 0
        while rows := await self._fetch("next_priced_lines", after, _PAGE):
            yield [row["id"] for row in rows]
            after = rows[-1]["id"]

    async def chains(self, items: Collection[int]) -> dict[int, Chain]:
        """The price changes of lines (item ids), those that are set aside and readable too."""
        chains = {item: Chain() for item in items}
        async with self._snapshot() as connection:
            rows = await connection.fetch(query("price_chain"), self.tenant, list(items))
            letters = await connection.fetch(query("prices_set_aside"), self.tenant)
        for row in rows:
            chain = chains[row["id"]]
            chain.changes[row["cart_version"]] = (row["old_price_minor"], row["new_price_minor"])
            chain.price_minor, chain.version = row["price_minor"], row["version"]
        for letter in letters:
            with suppress(ValueError):
                add_change(chains, _price_change(letter["body"]))
        return chains

    async def letters(self) -> int:
        """How many rows are set aside."""
        count: int = await self.pool.fetchval(query("count_letters"), self.tenant)
        return count

    async def _fetch(self, name: str, *values: Any) -> Any:
        return await self.pool.fetch(query(name), self.tenant, *values)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Any]:
        """A connection that sees all as it is at one instant."""
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection


def add_change(chains: dict[int, Chain], change: PriceChange) -> None:
    """Let a price change be part of its line's chain, if that is one of these."""
    chain = chains.get(item_id(change.cart_id, change.line_number))
    if chain is not None:
        chain.changes.setdefault(change.cart_version, (change.old_minor, change.new_minor))


def _possible(ids: Iterable[int]) -> list[int]:
    """Those that a row can have: one that is out of range may be why a cart was refused."""
    return [cart_id for cart_id in ids if cart_id <= MAX_SAFE_INT]


def _state(row: Any, lines: list[Line] | None) -> RowState:
    set_aside = None if row["set_aside"] is None else int(row["set_aside"])
    if row["status"] is None:
        return RowState(set_aside=set_aside)
    owner = Owner(row["owner_kind"], row["owner_id"])
    return RowState(owner, row["status"], row["version"], lines, set_aside)
