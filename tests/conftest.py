"""Real servers for every test: a Valkey and a PostgreSQL a session, started here."""

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fakeredis
import httpx
import pytest

from cartsvc import dev, embedded, scripts
from cartsvc.embedded import free_port
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from tests.shop import LAMP, MUG, SECRET, FakeRunner, Shop

_databases = itertools.count(1)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    # Not pytest's own folder, which it keeps after the run: a database is too large for that.
    folder = Path(tempfile.mkdtemp(prefix="cartsvc-tests-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[embedded.Valkey]:
    server = embedded.Valkey(servers_folder / "valkey", durable=False)
    with embedded.running(server):
        yield server


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[embedded.Postgres]:
    server = embedded.Postgres(servers_folder / "postgres", durable=False)
    with embedded.running(server):
        yield server


@pytest.fixture
async def runner(valkey: embedded.Valkey) -> AsyncIterator[Runner]:
    """Scripts on the real server, which is emptied."""
    redis = scripts.connect(valkey.url, timeout_s=5)
    await redis.flushall()
    runner = Runner(redis, timeout_s=5)
    yield runner
    await runner.aclose()


@pytest.fixture
async def shop(runner: Runner) -> Shop:
    return await Shop(runner).open()


@pytest.fixture(params=["valkey", "fakeredis"])
async def either_shop(request: pytest.FixtureRequest, shop: Shop, fake_shop: Shop) -> Shop:
    """The same case on the real server and on fakeredis."""
    return shop if request.param == "valkey" else fake_shop


@pytest.fixture
async def fake_shop() -> AsyncIterator[Shop]:
    redis = fakeredis.FakeAsyncRedis()
    yield await Shop(FakeRunner(redis, timeout_s=5)).open()
    await redis.aclose()


async def make_database(postgres: embedded.Postgres, name: str) -> str:
    """The URL of a new database, migrated."""
    admin = await Ledger.connect(postgres.url_of("postgres"))
    template = await Ledger.connect(postgres.url)
    await template.migrate()
    await template.close()
    await admin.pool.execute(f"CREATE DATABASE {name} TEMPLATE cartsvc")
    await admin.close()
    return postgres.url_of(name)


@pytest.fixture
async def database_url(postgres: embedded.Postgres) -> AsyncIterator[str]:
    """A database of the test's own, migrated."""
    name = f"test_{next(_databases)}"
    yield await make_database(postgres, name)
    admin = await Ledger.connect(postgres.url_of("postgres"))
    await admin.pool.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    ledger = await Ledger.connect(database_url)
    yield ledger
    await ledger.close()


@pytest.fixture
async def open_shop(shop: Shop, ledger: Ledger) -> Shop:
    """A shop that PostgreSQL knows too, with two products."""
    await ledger.open_bucket(shop.bucket)
    await shop.sell(LAMP, price="29.99")
    await shop.sell(MUG, price="12.50")
    return shop


@pytest.fixture(scope="session")
def api_database_url(postgres: embedded.Postgres) -> str:
    """The database of the service at `api_url`."""
    return asyncio.run(make_database(postgres, "api"))


@pytest.fixture(scope="session")
def api_url(valkey: embedded.Valkey, api_database_url: str) -> Iterator[str]:
    """The service as it is run for real: a process of its own, on the real servers."""
    settings = Settings(
        port=free_port(),
        redis_url=valkey.url,
        redis_timeout_s=5,
        database_url=api_database_url,
        jwt_secret=SECRET,
        # Each test sells the same products anew, on its own terms.
        sold_out_memory_ms=0,
        # The shop's clock stands still, long ago.
        max_dirty_age_s=0,
    )
    process = dev.start("serve", settings, os.environ)
    yield dev.url(settings)
    assert embedded.stop(process) == -signal.SIGTERM


@pytest.fixture
async def api_ledger(api_database_url: str, shop: Shop) -> AsyncIterator[Ledger]:
    """PostgreSQL of the service at `api_url`, which knows `shop`, and no cart."""
    ledger = await Ledger.connect(api_database_url)
    await ledger.pool.execute("TRUNCATE buckets, carts, cart_items, price_history, dead_letter")
    await ledger.open_bucket(shop.bucket)
    yield ledger
    await ledger.close()


@pytest.fixture
async def http(api_url: str, api_ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, whose Redis holds `shop`."""
    async with httpx.AsyncClient(base_url=api_url) as client:
        yield client
