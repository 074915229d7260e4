"""The servers that all contenders share, and the catalogue that all of them sell."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import asyncpg
import psutil
import redis
import redis.asyncio

from cartsvc import embedded, scripts
from cartsvc.catalog import ProductRow
from cartsvc.importer import Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.rows import Row
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf
from loadtests.bench.rivals import json_blob, postgresql

PLENTY = 900_000_000
"""Units of a product that does not run out, whatever is added."""

HOLD_S = 86_400
"""How long units are held: longer than a run, since only cartsvc gives them back by itself."""

_CURRENCY = Settings().currency
_TIMEOUT_S = 60.0
_SCANNED = 1_000


def _object_id(number: int) -> str:
    return f"{0x5EED << 80 | number:024x}"


PRODUCTS = [_object_id(number) for number in range(1_000)]
"""Products of policy `check`, with plenty of stock."""

HOT = _object_id(2_000)
"""A product of policy `hold`, with plenty of stock."""

SOLD_OUT = _object_id(3_000)
"""A product of policy `hold`, of which there is none."""


@dataclass(frozen=True)
class Site:
    """The servers as they run. `folder` is for what contenders write; it goes with the site."""

    redis_url: str
    redis_host: str
    redis_port: int
    redis_password: str
    redis_pid: int
    database_url: str
    database_pids: Callable[[], list[int]]
    folder: Path


@contextlib.contextmanager
def opened() -> Iterator[Site]:
    """Start a Valkey and a PostgreSQL with the settings of `make run`, empty; stop them at the end.

    Valkey does not rewrite its append-only file: that would fall into somebody's round.
    """
    with tempfile.TemporaryDirectory(prefix="cartsvc-bench-") as name:
        folder = Path(name)
        valkey = embedded.Valkey(folder / "valkey")
        postgres = embedded.Postgres(folder / "postgres")
        with embedded.running(valkey, postgres):
            with redis.Redis.from_url(valkey.url) as client:
                client.config_set("auto-aof-rewrite-percentage", 0)
            asyncio.run(_migrate(postgres.url))
            yield _site(valkey, postgres, folder)


def _site(valkey: embedded.Valkey, postgres: embedded.Postgres, folder: Path) -> Site:
    assert valkey.process is not None
    pid_file = postgres.data / "postmaster.pid"
    postmaster = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
    return Site(
        redis_url=valkey.url,
        redis_host=urlsplit(valkey.url).hostname or "",
        redis_port=valkey.port,
        redis_password=valkey.password,
        redis_pid=valkey.process.pid,
        database_url=postgres.url,
        database_pids=lambda: family(postmaster),
        folder=folder,
    )


def family(process: psutil.Process) -> list[int]:
    """The process and all that it has started, as they are now."""
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


async def _migrate(database_url: str) -> None:
    ledger = await Ledger.connect(database_url)
    await ledger.migrate()
    await ledger.close()


async def stock_up(site: Site, tenant: str) -> None:
    """Open the tenant's bucket and bring the catalogue into it; once more changes nothing."""
    ledger = await Ledger.connect(site.database_url)
    runner = Runner(scripts.connect(site.redis_url, timeout_s=_TIMEOUT_S), timeout_s=_TIMEOUT_S)
    rows = (Row(line, row) for line, row in enumerate(_catalogue(), 1))
    done = await Importer(ledger, Shelf(runner), Bucket(tenant), _CURRENCY).run(rows)
    assert done.bad_rows == 0
    await runner.aclose()
    await ledger.close()


def about(product_id: str) -> tuple[str, Decimal]:
    """Name and price of a product."""
    number = int(product_id, 16) & 0xFFFF
    return f"Product {number}", Decimal(199 + number * 37) / 100


def _catalogue() -> Iterator[ProductRow]:
    for product_id in PRODUCTS:
        yield _row(product_id, PLENTY, "check")
    yield _row(HOT, PLENTY, "hold")
    yield _row(SOLD_OUT, 0, "hold")


def _row(product_id: str, stock: int, policy: Literal["check", "hold"]) -> ProductRow:
    name, price = about(product_id)
    return ProductRow(
        id=product_id,
        name=name,
        price=price,
        image_url=f"https://cdn.example.com/p/{product_id}.jpg",
        stock=stock,
        stock_policy=policy,
        hold_ttl_s=HOLD_S if policy == "hold" else None,
    )


async def units_in_carts(site: Site, tenant: str) -> int:
    """Units in all carts of the tenant, wherever its contender keeps them."""
    client = redis.asyncio.Redis.from_url(site.redis_url)
    connection = await asyncpg.connect(site.database_url)
    try:
        units = await _units_in_hashes(client, Bucket(tenant))
        units += await json_blob.units(client, tenant)
        if tenant == postgresql.TENANT:
            units += await postgresql.units(connection)
        return units
    finally:
        await connection.close()
        await client.aclose()


async def _units_in_hashes(client: Any, bucket: Bucket) -> int:
    """Units in the carts that the scripts keep."""
    units, cursor = 0, 0
    while True:
        cursor, carts = await client.hscan(bucket.carts, cursor, count=_SCANNED)
        pipeline = client.pipeline(transaction=False)
        for key in carts.values():
            pipeline.hgetall(key)
        for cart in await pipeline.execute():
            units += sum(int(value) for field, value in cart.items() if field.startswith(b"q:"))
        if cursor == 0:
            return units
