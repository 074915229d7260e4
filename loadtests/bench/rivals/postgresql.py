"""PostgreSQL alone, with asyncpg: in one transaction lock the cart's row, check, put the line in,
read the cart. Nothing is cached, every commit is on disk before it is acknowledged."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.responses import Response

from loadtests.bench.rivals import contract
from loadtests.bench.rivals.contract import MAX_LINES, Line

TENANT = "postgresql"
"""Whose catalogue the tables are filled from."""

CONNECTIONS = 16

_SET_UP = Path(__file__).with_suffix(".sql")

_LOCK = "SELECT FROM rival.carts WHERE session_id = $1 FOR UPDATE"

_MAKE = "INSERT INTO rival.carts (session_id) VALUES ($1) ON CONFLICT DO NOTHING"

_CHECK = """
SELECT p.active, p.free, count(l.line) AS lines,
    coalesce(max(l.quantity) FILTER (WHERE l.product_id = p.id), 0) AS in_cart
FROM rival.products p LEFT JOIN rival.cart_lines l ON l.session_id = $1
WHERE p.id = $2
GROUP BY p.id
"""

# Parts of one statement do not see what the others write: the changed line joins the rest by hand.
_PUT = """
WITH touched AS (
    UPDATE rival.carts SET updated_at = now() WHERE session_id = $1
), changed AS (
    INSERT INTO rival.cart_lines AS l VALUES ($1, $2, $4, $3)
    ON CONFLICT (session_id, product_id) DO UPDATE SET quantity = l.quantity + excluded.quantity
    RETURNING product_id, line, quantity
), lines AS (
    TABLE changed
    UNION ALL
    SELECT product_id, line, quantity FROM rival.cart_lines
    WHERE session_id = $1 AND product_id <> $2
)
SELECT l.product_id, p.name, p.price_minor, l.quantity
FROM lines l JOIN rival.products p ON p.id = l.product_id
ORDER BY l.line
"""


async def units(connection: Any) -> int:
    """Units in all carts."""
    return int(await connection.fetchval("SELECT coalesce(sum(quantity), 0) FROM rival.cart_lines"))


def create_app() -> Starlette:
    pool: Any = None

    async def add(session_id: str, product_id: str, quantity: int) -> Response:
        try:
            async with pool.acquire() as connection, connection.transaction():
                lines = await _add(connection, session_id, product_id, quantity)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise contract.unavailable() from None
        return contract.added(session_id, lines, contract.now_ms())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal pool
        url = os.environ["DATABASE_URL"]
        async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            await pool.execute(_SET_UP.read_text())
            yield

    return contract.app(add, lifespan)


async def _add(connection: Any, session_id: str, product_id: str, quantity: int) -> list[Line]:
    """Put the line in and return the cart's lines.

    Raises:
        Refused: the product, its stock or the cap do not allow it.
    """
    if await connection.fetchrow(_LOCK, session_id) is None:
        await connection.execute(_MAKE, session_id)
        # It may be somebody else's, made at the same moment.
        await connection.fetchrow(_LOCK, session_id)
    product = await connection.fetchrow(_CHECK, session_id, product_id)
    if product is None or not product["active"]:
        raise contract.not_found()
    free, in_cart = product["free"], product["in_cart"]
    if in_cart + quantity > free:
        raise contract.out_of_stock(free, in_cart)
    if in_cart == 0 and product["lines"] >= MAX_LINES:
        raise contract.cart_full()
    # No line ever leaves a cart: their number is the last one's.
    line = product["lines"] + 1
    rows = await connection.fetch(_PUT, session_id, product_id, quantity, line)
    return [Line(*row) for row in rows]
