"""PostgreSQL: the record of catalogue and stock, and the durable copy of the carts."""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import asyncpg
import msgspec
import orjson
from msgspec.structs import astuple, replace

from cartsvc import sql
from cartsvc.catalog import Product, SaleRules, Variant
from cartsvc.errors import Rebuilt, RowsRefused, UnknownLetter, UnknownSku
from cartsvc.flush_rows import Flush
from cartsvc.keys import Bucket
from cartsvc.model import (
    LINE_BITS,
    MAX_LINE,
    Cart,
    Letter,
    Line,
    Owner,
    PriceEvent,
    StockLevel,
    item_id,
    split_sku,
)
from cartsvc.settings import SettingError, variable
from cartsvc.sql import columns as _columns
from cartsvc.sql import query as _q

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What a call raises when PostgreSQL is away, or refuses.

InternalClientError is what the driver says of a request behind the server's own good-bye.
"""

AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Those of them that are worth trying again; the others are faults of ours."""

NO_RIGHT = (asyncpg.InsufficientPrivilegeError,)
"""What a call raises that the role may not make."""

_REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.CardinalityViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""Those that speak of the data itself, by PostgreSQL or by the driver that encodes for it.

The last two are of a line number that a cart has twice, and a text too long for its index.
"""

_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
# Any number that no other program takes a lock by; two processes may start to migrate at once.
_MIGRATION_LOCK = 0x63617274

_variants = msgspec.json.Decoder(list[Variant]).decode


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
        """Apply the migrations that are missing, each once; returns their names.

        Raises:
            SettingError: the database can't hold every character that names and owners may have.
        """
        applied = []
        async with self._transaction() as connection:
            encoding = await connection.fetchval("SHOW server_encoding")
            if encoding != "UTF8":
                raise SettingError(f"{variable('database_url')}: is in {encoding}, not in UTF8")
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

    async def product(self, tenant: str, sku: str) -> Product:
        """The product of a SKU.

        Raises:
            UnknownSku: the catalogue has no such product.
        """
        return await _product(self.pool, tenant, sku)

    async def active_cart(self, tenant: str, owner: Owner) -> Cart | None:
        """The owner's active cart as it was flushed last."""
        async with self._transaction() as connection:
            found = await connection.fetchval(_q("active_cart"), tenant, owner.kind, owner.id)
            carts = [] if found is None else await carts_of(connection, tenant, [found])
        return carts[0] if carts else None

    async def cart(self, tenant: str, cart_id: int) -> Cart | None:
        """A cart as it was flushed last, active or closed."""
        async with self._transaction() as connection:
            carts = await carts_of(connection, tenant, [cart_id])
        return carts[0] if carts else None

    async def active_versions(self, tenant: str, ids: Sequence[int]) -> dict[int, int]:
        """Id -> version of those of these carts that are active."""
        rows = await self.pool.fetch(_q("active_rows"), tenant, ids)
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
    async def held_cart(self, tenant: str, cart_id: int) -> AsyncIterator["Restorable | None"]:
        """A cart that nobody else writes while the context lasts."""
        async with self._transaction() as connection:
            await connection.execute(_q("lock_cart"), tenant, cart_id)
            carts = await _restorable(connection, tenant, [cart_id])
            yield carts[0] if carts else None

    async def restorable(self, tenant: str, ids: Sequence[int]) -> list["Restorable"]:
        """Carts, while nobody writes any."""
        async with self._transaction() as connection:
            return await _restorable(connection, tenant, ids)

    async def epoch(self, bucket: Bucket) -> int | None:
        """How often the bucket was rebuilt in Redis: to be asked before anything is read there.

        None where PostgreSQL does not know the bucket.
        """
        found: int | None = await self.pool.fetchval(_q("epoch"), bucket.tenant, bucket.number)
        return found

    async def carts(
        self, tenant: str, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[Cart], int]:
        """Carts in the order of their ids, all or an owner's, and how many there are."""
        async with self._transaction() as connection:
            ids, total = await _page(connection, "cart", tenant, owner, limit, offset)
            return await carts_of(connection, tenant, ids), total

    async def items(
        self, tenant: str, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[tuple[Cart, Line]], int]:
        """Lines in the order of their item ids, each with its cart, and how many there are."""
        async with self._transaction() as connection:
            ids, total = await _page(connection, "item", tenant, owner, limit, offset)
            cart_ids = sorted({item >> LINE_BITS for item in ids})
            carts = await carts_of(connection, tenant, cart_ids)
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

    @contextlib.asynccontextmanager
    async def flush(
        self, bucket: Bucket, *, epoch: int | None = None, wait: bool = False
    ) -> AsyncIterator[Flush | None]:
        """A transaction that writes carts and price changes of `bucket`.

        None while another worker's transaction does, or after it with `wait`: a matter of thrift,
        since the version guard and the stream's offset keep two workers at once correct. `epoch`
        was the bucket's before anything was read in Redis; not needed if that is read within.

        Raises:
            RowsRefused: for what is written, at once or at the commit.
            Rebuilt: it is not the bucket's epoch any more.
        """
        claim = _q("await_bucket" if wait else "claim_bucket")
        async with self.write(bucket, epoch=epoch) as flush:
            claimed = await flush.connection.fetchval(claim, bucket.tenant, bucket.number)
            yield None if claimed is False else flush

    @contextlib.asynccontextmanager
    async def write(self, bucket: Bucket, *, epoch: int | None = None) -> AsyncIterator[Flush]:
        """A transaction that writes some carts of `bucket`, whoever else flushes it.

        Takes, and raises, what `flush` does.
        """
        place = (bucket.tenant, bucket.number)
        with _refusals():
            async with self._transaction() as connection:
                await connection.execute(_q("share_epoch"), *place)
                # Asked behind the lock, in a statement of its own, which sees what it waited for.
                if epoch is not None and await connection.fetchval(_q("epoch"), *place) != epoch:
                    raise Rebuilt
                yield Flush(connection, bucket)

    async def letters(self, tenant: str | None, numbers: Collection[int] = ()) -> list[Letter]:
        """What is set aside, all of it or a tenant's, and of that only `numbers` if there are any.

        Raises:
            UnknownLetter: one of the numbers is not among it.
        """
        rows = await self.pool.fetch(_q("letters"), tenant)
        found = {row["number"]: _letter(row) for row in rows}
        for number in numbers:
            if number not in found:
                raise UnknownLetter(number)
        return [found[number] for number in sorted(set(numbers) or found)]

    async def letter_counts(self) -> dict[str, int]:
        """How many rows are set aside, by tenant; none where there is none."""
        rows = await self.pool.fetch(_q("letter_counts"))
        return {row["tenant"]: row["letters"] for row in rows}


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
            return await self.counters(skus)

    async def counters(self, skus: Sequence[str]) -> dict[str, int]:
        """The recorded stock of those of these SKUs that have a counter of their own."""
        rows = await self._connection.fetch(_q("counters"), self._tenant, skus)
        return {row["sku"]: row["received"] for row in rows}

    async def product(self, sku: str) -> Product:
        """As the ledger's, on the connection that holds the lock."""
        return await _product(self._connection, self._tenant, sku)

    async def set_price(self, sku: str, price_minor: int) -> None:
        """Record the price of a product's own SKU, or of a variant's; of no other."""
        product_id, variant_id = split_sku(sku)
        if variant_id is None:
            what, ids = "set_price", [product_id]
        else:
            what, ids = "set_variant_price", [product_id, variant_id]
        await self._connection.execute(_q(what), self._tenant, price_minor, *ids)

    async def begin_epoch(self, bucket: Bucket) -> str:
        """Begin an epoch: what was read from Redis before it is not written any more.

        Returns how far the bucket's price stream is written.
        """
        async with self._connection.transaction():
            await self._connection.execute(_q("await_epoch"), bucket.tenant, bucket.number)
            offset: str = await self._connection.fetchval(
                _q("begin_epoch"), bucket.tenant, bucket.number
            )
        return offset

    async def recorded_stock(self, sku: str) -> int:
        """As the ledger's; on the connection that holds the lock, since others may all wait."""
        return await _recorded_stock(self._connection, self._tenant, sku)

    async def receive(
        self, deliveries: Sequence[tuple[str, int]], *, corrected: bool = False
    ) -> None:
        """Record units that come in, (SKU, units) each; as deliveries, or as corrections."""
        columns = _columns(deliveries, 2)
        await self._connection.execute(_q("receive_stock"), self._tenant, *columns, corrected)

    async def record_stock(self, levels: Collection[StockLevel]) -> None:
        """Record what counters have received, as Redis counts it; a difference is a correction."""
        rows = [(level.sku, level.received) for level in levels]
        await self._connection.execute(_q("record_stock"), self._tenant, *_columns(rows, 2))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Tell what PostgreSQL refuses as one error of ours."""
    try:
        yield
    except _REFUSALS as error:
        raise RowsRefused(_reason(error)) from error


def _reason(error: asyncpg.PostgresError) -> str:
    """What is wrong, in names only: a message may quote what a cart holds, even a session's id."""
    # What the driver could not encode has a cause, and that has no values.
    where = error.constraint_name or error.column_name or error.__cause__
    what = f"{type(error).__name__} ({error.sqlstate})"
    return f"{what}: {where}" if where else what


async def _recorded_stock(source: Any, tenant: str, sku: str) -> int:
    received: int | None = await source.fetchval(_q("recorded_stock"), tenant, sku)
    if received is None:
        raise UnknownSku(sku)
    return received


async def _product(source: Any, tenant: str, sku: str) -> Product:
    product_id, _ = split_sku(sku)
    row = await source.fetchrow(_q("products_by_id"), tenant, [product_id])
    if row is None:
        raise UnknownSku(sku)
    return product_of(row)


def product_of(row: Any) -> Product:
    """A product from its row; stock is recorded elsewhere."""
    starts_ms, ends_ms = row["starts_ms"], row["ends_ms"]
    rules = SaleRules(
        stock_policy=row["stock_policy"],
        hold_ttl_s=row["hold_ttl_s"],
        max_per_buyer=row["max_per_buyer"],
        max_per_order=row["max_per_order"],
        min_per_order=row["min_per_order"],
        starts_ms=None if starts_ms is None else int(starts_ms),
        ends_ms=None if ends_ms is None else int(ends_ms),
    )
    return Product(
        id=row["id"],
        name=row["name"],
        price_minor=row["price_minor"],
        images=list(row["images"]),
        active=row["active"],
        stock=None,
        variants=_variants(row["variants"]),
        rules=rules,
    )


async def _page(
    connection: Any, what: str, tenant: str, owner: Owner | None, limit: int, offset: int
) -> tuple[list[int], int]:
    """Ids of a page of `what`, and how many there are on all pages."""
    whose = (None, None) if owner is None else (owner.kind, owner.id)
    total = await connection.fetchval(_q(f"{what}_count"), tenant, *whose)
    rows = await connection.fetch(_q(f"{what}_page"), tenant, *whose, limit, offset)
    return [row["id"] for row in rows], total


class Restorable(NamedTuple):
    """A cart, with the version and the prices behind which it can go on; whether its row has these.

    If not, Redis lost the cart after price changes of it were written that the row does not have.
    """

    cart: Cart
    is_as_flushed: bool


async def _restorable(connection: Any, tenant: str, ids: Sequence[int]) -> list[Restorable]:
    carts = await carts_of(connection, tenant, ids)
    later: dict[int, dict[int, Any]] = {}
    for row in await connection.fetch(_q("later_prices"), tenant, ids):
        later.setdefault(row["cart_id"], {})[row["cart_item_id"] & MAX_LINE] = row
    return [_behind(cart, later.get(cart.id, {})) for cart in carts]


def _behind(cart: Cart, later: Mapping[int, Any]) -> Restorable:
    """The cart behind price changes of its lines (by number)."""
    lines = [
        replace(line, price_minor=later[line.number]["price_minor"])
        if line.number in later
        else line
        for line in cart.lines
    ]
    version = max([cart.version, *(row["version"] for row in later.values())])
    return Restorable(replace(cart, version=version, lines=lines), not later)


async def carts_of(connection: Any, tenant: str, ids: Sequence[int]) -> list[Cart]:
    """Carts as they were flushed last, but for those that are deleted."""
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


def _letter(row: Any) -> Letter:
    return Letter(
        number=row["number"],
        tenant=row["tenant"],
        bucket=row["bucket"],
        kind=row["kind"],
        cart_id=int(row["cart_id"]),
        version=int(row["version"]),
        reason=row["reason"],
        set_aside_ms=int(row["set_aside_ms"]),
    )


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
        sold_from=row["sold_from"],
    )
