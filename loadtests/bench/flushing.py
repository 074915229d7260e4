"""The flush: rows a second beside a bare COPY of the same rows, and adds while it runs."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import uvloop

from cartsvc import dev, embedded, process
from cartsvc.app import store_of
from cartsvc.backlog import Backlog
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.settings import Settings
from cartsvc.worker import Worker
from loadtests.bench import contenders, populate, sample, shoppers, wrk
from loadtests.bench.contenders import Contender
from loadtests.bench.places import own_database
from loadtests.bench.sample import Effort, Said, Sample
from loadtests.bench.site import Site, stock_up

CARTS = 10_000
TENANT = "flushed"

_MAKE_BARE_TABLES = """
CREATE TABLE bare_carts (LIKE carts INCLUDING ALL);
CREATE TABLE bare_cart_items (LIKE cart_items INCLUDING ALL);
"""

_CARTS_WRITTEN = """
SELECT * FROM carts WHERE tenant = $1 AND starts_with(owner_id, $2) ORDER BY id
"""
_LINES_WRITTEN = """
SELECT cart_items.* FROM cart_items JOIN carts
     ON carts.tenant = cart_items.tenant AND carts.id = cart_items.cart_id
WHERE carts.tenant = $1 AND starts_with(owner_id, $2) ORDER BY cart_items.id
"""

_MAKE_TEMPORARY = """
CREATE TEMPORARY TABLE new_carts (LIKE carts) ON COMMIT DROP;
CREATE TEMPORARY TABLE new_cart_items (LIKE cart_items) ON COMMIT DROP;
"""
_UPSERT_CARTS = """
INSERT INTO bare_carts SELECT * FROM new_carts
ON CONFLICT (tenant, id) DO UPDATE
SET owner_kind = excluded.owner_kind, owner_id = excluded.owner_id, status = excluded.status,
    version = excluded.version, updated_at = excluded.updated_at, last_line = excluded.last_line,
    flushed_at = excluded.flushed_at
"""
_UPSERT_LINES = """
INSERT INTO bare_cart_items SELECT * FROM new_cart_items
ON CONFLICT (tenant, cart_id, id) DO UPDATE
SET quantity = excluded.quantity, price_minor = excluded.price_minor, saved = excluded.saved,
    held_until = excluded.held_until, updated_at = excluded.updated_at, name = excluded.name,
    images = excluded.images, fixed_price = excluded.fixed_price
"""


@dataclass(frozen=True)
class Written:
    """Rows that were written, carts and lines together, in how many seconds."""

    rows: int
    seconds: float

    def __add__(self, other: "Written") -> "Written":
        return Written(self.rows + other.rows, self.seconds + other.seconds)

    @property
    def per_s(self) -> float:
        return self.rows / self.seconds


def measured(
    site: Site, contender: Contender, effort: Effort, said: Said, *, carts: int = CARTS
) -> dict[str, Any]:
    """Rows a second of the flush and of the bare COPY, and adds with and without a worker."""
    # In the site's own database a pass would flush the carts of all contenders.
    alone = asyncio.run(own_database(site, "flushing"))
    asyncio.run(stock_up(alone, TENANT))
    rates = uvloop.run(_rates(alone, effort.rounds, carts, said))
    return {"carts": carts, **rates, "adds": _adds_beside(site, alone, contender, effort, said)}


async def _rates(site: Site, rounds: int, carts: int, said: Said) -> dict[str, Any]:
    """Both write new carts, and then the same carts once each has changed."""
    taken: dict[str, list[Written]] = {name: [] for name in ("new", "changed", "both")}
    bare: dict[str, list[Written]] = {name: [] for name in taken}
    connection = await asyncpg.connect(site.database_url)
    await connection.execute(_MAKE_BARE_TABLES)
    async with _worker(site) as worker:
        for number in range(rounds):
            for name in ("new", "changed"):
                await asyncio.to_thread(_fill, site, number, carts, new=name == "new")
                taken[name].append(await _flush(worker, carts))
                bare[name].append(await _copy(connection, number))
                said(
                    f"round {number + 1}/{rounds}, {carts:,} {name} carts: "
                    f"{taken[name][-1].per_s:,.0f} rows/s, bare {bare[name][-1].per_s:,.0f}"
                )
            for series in (taken, bare):
                series["both"].append(series["new"][-1] + series["changed"][-1])
    await connection.close()
    return {"flush": _spreads(taken), "bare": _spreads(bare)}


def _spreads(taken: dict[str, list[Written]]) -> dict[str, Any]:
    """Rows a second; and carts a second, each with its lines."""
    rows = {f"{name}_rows_per_s": [one.per_s for one in those] for name, those in taken.items()}
    carts = [rate / (1 + shoppers.LINES) for rate in rows["both_rows_per_s"]]
    return {name: sample.spread(rates) for name, rates in {**rows, "carts_per_s": carts}.items()}


@asynccontextmanager
async def _worker(site: Site) -> AsyncIterator[Worker]:
    """The worker as its process has it, for single passes."""
    settings = Settings(redis_url=site.redis_url, database_url=site.database_url, tenant=TENANT)
    ledger = await Ledger.connect(settings.database_url)
    runner = process.bulk_runner(settings)
    yield Worker(
        store_of(settings, runner),
        Backlog(runner),
        ledger,
        batch=settings.flush_batch,
        interval_s=settings.flush_interval_s,
    )
    await runner.aclose()
    await ledger.close()


def _prefix(number: int) -> str:
    return f"flush{number}-"


def _fill(site: Site, number: int, carts: int, *, new: bool) -> None:
    """Make every cart of the round dirty: all of its lines are added, or one unit of one."""
    lines = None if new else 1
    populate.add(
        site,
        TENANT,
        (
            (_prefix(number) + shoppers.session(one), shoppers.products(one)[:lines])
            for one in range(carts)
        ),
    )


async def _flush(worker: Worker, carts: int) -> Written:
    began = time.perf_counter()
    done = await worker.run_once()
    seconds = time.perf_counter() - began
    assert done.carts == carts, f"{done.carts} of {carts} carts were flushed"
    return Written(carts * (1 + shoppers.LINES), seconds)


async def _copy(connection: Any, number: int) -> Written:
    """The rows that the flush has just written, into tables of the same shape and indexes."""
    carts = [tuple(row) for row in await connection.fetch(_CARTS_WRITTEN, TENANT, _prefix(number))]
    lines = [tuple(row) for row in await connection.fetch(_LINES_WRITTEN, TENANT, _prefix(number))]
    began = time.perf_counter()
    async with connection.transaction():
        await connection.execute(_MAKE_TEMPORARY)
        await connection.copy_records_to_table("new_carts", records=carts)
        await connection.copy_records_to_table("new_cart_items", records=lines)
        await connection.execute(_UPSERT_CARTS)
        await connection.execute(_UPSERT_LINES)
    return Written(len(carts) + len(lines), time.perf_counter() - began)


def _adds_beside(
    site: Site, flushed: Site, contender: Contender, effort: Effort, said: Said
) -> dict[str, Any]:
    """Samples of adds without a worker and beside one, which writes to the site `flushed`."""
    settings = Settings(
        redis_url=flushed.redis_url,
        database_url=flushed.database_url,
        tenant=contender.name,
        log_level="WARNING",
    )
    asyncio.run(_open_bucket(flushed, contender.name))
    requests = [wrk.add(*line) for line in shoppers.lines(shoppers.SESSIONS)]
    load = wrk.load(site.folder / "beside.requests", requests)
    with contenders.running(contender, site) as running:
        alone = sample.taker(running, site, load, effort)

        def beside(number: int) -> Sample:
            worker = dev.start("worker", settings, os.environ)
            try:
                return alone(number)
            finally:
                embedded.stop(worker)

        takes: dict[str, Callable[[int], Sample]] = {"alone": alone, "beside": beside}
        samples = sample.interleaved(takes, effort.rounds, said)
    return {name: sample.summary(those) for name, those in samples.items()}


async def _open_bucket(site: Site, tenant: str) -> None:
    ledger = await Ledger.connect(site.database_url)
    await ledger.open_bucket(Bucket(tenant))
    await ledger.close()
