"""PostgreSQL: the record of catalogue and stock, and the durable copy of the carts."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, NamedTuple, Self

import asyncpg
import msgspec
import orjson
from msgspec.structs import astuple

from cartsvc import sql
from cartsvc.catalog import Product
from cartsvc.errors import UnknownSku
from cartsvc.keys import Bucket
from cartsvc.model import (
    LINE_BITS,
    MAX_LINE,
    Cart,
    Line,
    Owner,
    PriceChange,
    PriceEvent,
    StockLevel,
    item_id,
    split_sku,
)

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What a call raises when PostgreSQL is away, or refuses."""

AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
"""Those of them that are worth trying again; the others are faults of ours."""

_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
# Any number that no other program takes a lock by; two processes may start to migrate at once.
_MIGRATION_LOCK = 0x63617274


class Ledger:
    """A pool of connections, opened when they are needed. `timeout_s` bounds a transaction.

    A statement has half of it, and the rollback the other, which may not be answered either.
    """

    pool: asyncpg.Pool

    def __init__(self, url: str, *, connections: int = 4, timeout_s: float = 120) -> None:
        self.url = url
        self.connections = connections
        self.timeout_s = timeout_s

    @classmethod
    async def connect(cls, url: str) -> Self:
        ledger = cls(url)
        await ledger.open()
        return ledger

    async def open(self) -> None:
        """Does not wait for PostgreSQL to be there: each call fails on its own while it is not."""
        self.pool = await asyncpg.create_pool(
            self.url,
            min_size=0,
            max_size=self.connections,
            timeout=5,
            command_timeout=self.timeout_s / 2,
        )

    async def close(self) -> None:
        await self.pool.close()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        async with self.pool.acquire() as connection, connection.transaction():
            yield connection

    async def migrate(self) -> list[str]:
        """Apply the migrations that are missing, each once; returns their names."""
        applied = []
        async with self._transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_MIGRATIONS)
            rows = await connection.fetch("SELECT version FROM schema_migrations")
            known = {row["version"] for row in rows}
            for version, name, statements in sql.migrations():
                if version not in known:
                    await connection.execute(statements)
                    await connection.execute(
                        "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)",
                        version,
                        name,
                    )
                    applied.append(f"{version:04d}_{name}")
        return applied

    async def has_bucket(self, bucket: Bucket) -> bool:
        return bool(await self.pool.fetchval(_q("has_bucket"), bucket.tenant, bucket.number))

    async def open_bucket(self, bucket: Bucket) -> None:
        """Record the bucket: from now on workers flush it."""
        await self.pool.execute(_q("open_bucket"), bucket.tenant, bucket.number)

    async def buckets(self) -> list[Bucket]:
        rows = await self.pool.fetch(_q("buckets"))
        return [Bucket(row["tenant"], row["bucket"]) for row in rows]

    async def has_products(self, tenant: str) -> bool:
        return bool(await self.pool.fetchval(_q("has_products"), tenant))

    @contextlib.asynccontextmanager
    async def catalogue_change(self, tenant: str) -> AsyncIterator["CatalogueChange"]:
        """Hold off every other change to the tenant's catalogue and stock.

        Both are written to PostgreSQL and then to Redis; two changes that crossed on the way would
        leave them different for good.
        """
        async with self.pool.acquire() as connection:
            # Given back to the pool, or lost, the connection lets go of the lock.
            await connection.execute(_q("lock_catalogue"), tenant)
            yield CatalogueChange(connection, tenant)

    async def recorded_stock(self, tenant: str, sku: str) -> int:
        """The units of a counter that are recorded.

        Raises:
            UnknownSku: the catalogue has no such counter.
        """
        return await _recorded_stock(self.pool, tenant, sku)

    async def active_cart(self, tenant: str, owner: Owner) -> Cart | None:
        """The owner's active cart as it was flushed last."""
        async with self._transaction() as connection:
            found = await connection.fetchval(_q("active_cart"), tenant, owner.kind, owner.id)
            carts = [] if found is None else await _carts(connection, tenant, [found])
        return carts[0] if carts else None

    async def cart(self, tenant: str, cart_id: int) -> Cart | None:
        """A cart as it was flushed last, active or closed."""
        async with self._transaction() as connection:
            carts = await _carts(connection, tenant, [cart_id])
        return carts[0] if carts else None

    async def active_versions(self, tenant: str, ids: Sequence[int]) -> dict[int, int]:
        """Id -> version of those of these carts that are active."""
        rows = await self.pool.fetch(_q("active_versions"), tenant, ids)
        return {row["id"]: row["version"] for row in rows}

    async def idle_carts(
        self, tenant: str, kinds: Collection[str], before_ms: int, *, after: int, limit: int
    ) -> tuple[list[int], int | None]:
        """Ids of active carts of such owners that were not changed since then.

        Looks at `limit` carts behind the id `after`, and tells the last one's; None at their end.
        """
        rows = await self.pool.fetch(_q("next_carts"), tenant, after, limit, list(kinds), before_ms)
        idle = [row["id"] for row in rows if row["is_idle"]]
        return idle, rows[-1]["id"] if len(rows) == limit else None

    async def status(self, tenant: str, cart_id: int) -> str | None:
        """A cart's status; None where there is no such cart."""
        found: str | None = await self.pool.fetchval(_q("cart_status"), tenant, cart_id)
        return found

    @contextlib.asynccontextmanager
    async def held_cart(self, tenant: str, cart_id: int) -> AsyncIterator[Cart | None]:
        """As `cart`, but it is not written by anybody else while the context lasts."""
        async with self._transaction() as connection:
            await connection.execute(_q("lock_cart"), tenant, cart_id)
            carts = await _carts(connection, tenant, [cart_id])
            yield carts[0] if carts else None

    async def carts(
        self, tenant: str, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[Cart], int]:
        """Carts in the order of their ids, all or an owner's, and how many there are."""
        async with self._transaction() as connection:
            ids, total = await _page(connection, "cart", tenant, owner, limit, offset)
            return await _carts(connection, tenant, ids), total

    async def items(
        self, tenant: str, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[tuple[Cart, Line]], int]:
        """Lines in the order of their item ids, each with its cart, and how many there are."""
        async with self._transaction() as connection:
            ids, total = await _page(connection, "item", tenant, owner, limit, offset)
            cart_ids = sorted({item >> LINE_BITS for item in ids})
            carts = await _carts(connection, tenant, cart_ids)
        wanted = set(ids)
        found = [
            (cart, line)
            for cart in carts
            for line in cart.lines
            if item_id(cart.id, line.number) in wanted
        ]
        return found, total

    async def price_history(self, tenant: str, item: int) -> list[PriceEvent]:
        """The price changes of a line, the newest first."""
        rows = await self.pool.fetch(_q("price_history"), tenant, item)
        return [
            PriceEvent(
                row["id"], row["old_price_minor"], row["new_price_minor"], int(row["changed_ms"])
            )
            for row in rows
        ]

    async def delete_cart(self, tenant: str, cart_id: int) -> None:
        """Let a cart that was abandoned or removed be there for nobody any more."""
        await self.pool.execute(_q("delete_cart"), tenant, cart_id)

    async def ping(self) -> None:
        """Fails as any call would while PostgreSQL is away."""
        await self.pool.fetchval("SELECT 1")

    @contextlib.asynccontextmanager
    async def flush(self, bucket: Bucket, *, wait: bool = False) -> AsyncIterator["Flush | None"]:
        """A transaction that writes carts and price changes of `bucket`.

        None while another worker's transaction does, or after it with `wait`: a matter of thrift,
        since the version guard and the stream's offset keep two workers at once correct.
        """
        claim = _q("await_bucket" if wait else "claim_bucket")
        async with self._transaction() as connection:
            claimed = await connection.fetchval(claim, bucket.tenant, bucket.number)
            yield None if claimed is False else Flush(connection, bucket)

    @contextlib.asynccontextmanager
    async def write(self, bucket: Bucket) -> AsyncIterator["Flush"]:
        """A transaction that writes some carts of `bucket`, whoever else flushes it."""
        async with self._transaction() as connection:
            yield Flush(connection, bucket)


class CatalogueChange:
    """Changes to one tenant's catalogue and stock, while nobody else makes any."""

    def __init__(self, connection: Any, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    async def put_products(self, currency: str, products: Sequence[Product]) -> dict[str, int]:
        """Write catalogue records; `products` has each id once.

        Stock is recorded for counters that are new.
        Returns the recorded stock of each SKU of the products that has a counter of its own.
        """
        variants = [
            (product.id, variant.id, variant.name, variant.price_minor, position)
            for product in products
            for position, variant in enumerate(product.variants)
        ]
        counters = [item for product in products for item in product.counters().items()]
        rules = [astuple(product.rules) for product in products]
        ids = [product.id for product in products]
        tenant, connection = self._tenant, self._connection
        async with connection.transaction():
            await connection.execute(
                _q("upsert_products"),
                tenant,
                currency,
                ids,
                [product.name for product in products],
                [product.price_minor for product in products],
                [orjson.dumps(product.images).decode() for product in products],
                [product.active for product in products],
                *_columns(rules, 7),
            )
            await connection.execute(_q("delete_variants"), tenant, ids)
            await connection.execute(_q("insert_variants"), tenant, *_columns(variants, 5))
            await connection.execute(_q("insert_stock"), tenant, *_columns(counters, 2))
            skus = [sku for product in products for sku in product.skus()]
            rows = await connection.fetch(_q("counters"), tenant, skus)
        return {row["sku"]: row["received"] for row in rows}

    async def recorded_stock(self, sku: str) -> int:
        """As the ledger's; on the connection that holds the lock, since others may all wait."""
        return await _recorded_stock(self._connection, self._tenant, sku)

    async def record_stock(self, levels: Collection[StockLevel]) -> None:
        """Record what counters have received."""
        rows = [(level.sku, level.received) for level in levels]
        await self._connection.execute(_q("record_stock"), self._tenant, *_columns(rows, 2))


class CartRows(NamedTuple):
    """Carts and their lines in the form in which they are written.

    `carts` is a sequence a column; `line_carts` and `line_ids` belong to the `lines`, a JSON array.
    """

    carts: list[Sequence[Any]]
    line_carts: list[int]
    line_ids: list[int]
    lines: str


def rows_of(carts: Collection[Cart]) -> CartRows:
    rows = [
        (
            cart.id,
            cart.owner.kind,
            cart.owner.id,
            cart.status,
            cart.version,
            cart.created_ms,
            cart.updated_ms,
            cart.last_line,
        )
        for cart in carts
    ]
    lines = [(cart.id, line) for cart in carts for line in cart.lines]
    return CartRows(
        _columns(rows, 8),
        [cart_id for cart_id, _ in lines],
        [item_id(cart_id, line.number) for cart_id, line in lines],
        # As JSON, which is made at once: a column an array, it costs the worker five times that.
        msgspec.json.encode([line for _, line in lines]).decode(),
    )


class Flush:
    """Writes of one bucket; they count when the transaction that made this commits."""

    def __init__(self, connection: Any, bucket: Bucket) -> None:
        self._connection = connection
        self._bucket = bucket

    async def write_carts(self, carts: Collection[Cart]) -> int:
        """Write carts that are newer than their rows; returns how many were."""
        return await self.write_rows(rows_of(carts))

    async def write_rows(self, rows: CartRows) -> int:
        """As `write_carts`."""
        execute, tenant = self._connection.execute, self._bucket.tenant
        written = await self._connection.fetch(_q("upsert_carts"), tenant, *rows.carts)
        ids = [row["id"] for row in written]
        known = [row["id"] for row in written if not row["is_new"]]
        if known:
            await execute(_q("delete_lines"), tenant, known, rows.line_ids)
        await execute(_q("upsert_lines"), tenant, ids, rows.line_carts, rows.line_ids, rows.lines)
        return len(ids)

    async def prices_offset(self) -> str:
        """Id of the last stream entry that is written."""
        offset: str = await self._connection.fetchval(
            _q("prices_offset"), self._bucket.tenant, self._bucket.number
        )
        return offset

    async def write_prices(self, changes: Sequence[PriceChange], offset: str) -> None:
        """Write price changes and, in the same transaction, how far the stream is now written."""
        rows = [
            (
                change.cart_id,
                item_id(change.cart_id, change.line_number),
                change.cart_version,
                *split_sku(change.sku),
                change.old_minor,
                change.new_minor,
                change.changed_ms,
            )
            for change in changes
        ]
        tenant, number = self._bucket.tenant, self._bucket.number
        await self._connection.execute(_q("insert_prices"), tenant, *_columns(rows, 8))
        await self._connection.execute(_q("advance_prices"), tenant, number, offset)


async def _recorded_stock(source: Any, tenant: str, sku: str) -> int:
    received: int | None = await source.fetchval(_q("recorded_stock"), tenant, sku)
    if received is None:
        raise UnknownSku(sku)
    return received


async def _page(
    connection: Any, what: str, tenant: str, owner: Owner | None, limit: int, offset: int
) -> tuple[list[int], int]:
    """Ids of a page of `what`, and how many there are on all pages."""
    whose = (None, None) if owner is None else (owner.kind, owner.id)
    total = await connection.fetchval(_q(f"{what}_count"), tenant, *whose)
    rows = await connection.fetch(_q(f"{what}_page"), tenant, *whose, limit, offset)
    return [row["id"] for row in rows], total


async def _carts(connection: Any, tenant: str, ids: Sequence[int]) -> list[Cart]:
    rows = await connection.fetch(_q("carts_by_id"), tenant, ids)
    lines: dict[int, list[Line]] = {row["id"]: [] for row in rows}
    for line in await connection.fetch(_q("lines"), tenant, list(lines)):
        lines[line["cart_id"]].append(_line(line))
    return [
        Cart(
            id=row["id"],
            owner=Owner(row["owner_kind"], row["owner_id"]),
            status=row["status"],
            version=row["version"],
            created_ms=int(row["created_ms"]),
            updated_ms=int(row["updated_ms"]),
            last_line=row["last_line"],
            lines=lines[row["id"]],
        )
        for row in rows
    ]


def _line(row: Any) -> Line:
    held_until_ms = row["held_until_ms"]
    return Line(
        number=row["id"] & MAX_LINE,
        product_id=row["product_id"],
        variant_id=row["variant_id"],
        quantity=row["quantity"],
        price_minor=row["price_minor"],
        name=row["name"],
        variant_name=row["variant_name"],
        images=tuple(row["images"]),
        added_ms=int(row["added_ms"]),
        updated_ms=int(row["updated_ms"]),
        held_until_ms=None if held_until_ms is None else int(held_until_ms),
        saved=row["saved"],
        fixed_price=row["fixed_price"],
    )


def _q(name: str) -> str:
    return sql.queries()[name]


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    """Rows turned into one sequence a column, also when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * width
