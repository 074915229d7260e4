"""Real servers for every test: a Valkey and a PostgreSQL a session, started here."""

import asyncio
import functools
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fakeredis
import httpx
import pytest
from redis import utils as redis_utils

from cartsvc import dev, embedded, scripts
from cartsvc.embedded import free_port
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from tests import databases
from tests.callers import NO_TLS
from tests.shop import LAMP, MUG, SECRET, FakeRunner, Shop

_numbers = itertools.count(1)

# httpcore looks for it with every request, in vain, which takes a third of the request's time.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]

# redis-py reads its version from the files of its package for every connection.
redis_utils.get_lib_version = functools.cache(redis_utils.get_lib_version)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What Schemathesis makes up takes seconds to collect, if only to be left out."""
    leaves_out = config.option.markexpr == "not slow"
    return True if leaves_out and collection_path.name == "test_schemathesis.py" else None


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


@pytest.fixture(params=["valkey", pytest.param("fakeredis", marks=pytest.mark.slow)])
def either_shop(request: pytest.FixtureRequest) -> Shop:
    """The same case on the real server and on fakeredis."""
    name = "shop" if request.param == "valkey" else "fake_shop"
    shop: Shop = request.getfixturevalue(name)
    return shop


@pytest.fixture
async def fake_shop() -> AsyncIterator[Shop]:
    redis = fakeredis.FakeAsyncRedis()
    yield await Shop(FakeRunner(redis, timeout_s=5)).open()
    await redis.aclose()


@pytest.fixture(scope="session")
def migrated(postgres: embedded.Postgres) -> embedded.Postgres:
    """PostgreSQL, with the template of all databases."""
    asyncio.run(databases.make_template(postgres))
    return postgres


@pytest.fixture(scope="session")
def free_databases() -> list[str]:
    """URLs of those that no test uses, and that are like new."""
    return []


@pytest.fixture(scope="session")
def caretaker() -> Iterator[databases.Caretaker]:
    caretaker = databases.Caretaker()
    yield caretaker
    caretaker.close()


@pytest.fixture
def database_url(
    migrated: embedded.Postgres, free_databases: list[str], caretaker: databases.Caretaker
) -> Iterator[str]:
    """A database that is the test's own while it runs, migrated and empty."""
    if free_databases:
        url = free_databases.pop()
    else:
        url = asyncio.run(databases.make(migrated, f"test_{next(_numbers)}"))
    yield url
    if caretaker.give_back(url):
        free_databases.append(url)


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
def api_database_url(migrated: embedded.Postgres) -> str:
    """The database of the service at `api_url`."""
    return asyncio.run(databases.make(migrated, "api"))


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
        # How long an audit of the data waits for what is on its way: nobody flushes here.
        flush_interval_s=0.02,
    )
    process = dev.start("serve", settings, os.environ)
    yield dev.url(settings)
    assert embedded.stop(process) == -signal.SIGTERM


@pytest.fixture
def api_database(caretaker: databases.Caretaker, api_database_url: str, shop: Shop) -> str:
    """The database of the service at `api_url`, which knows `shop`, and no cart."""
    caretaker.open(api_database_url, shop.bucket)
    return api_database_url


@pytest.fixture
async def api_ledger(api_database: str) -> AsyncIterator[Ledger]:
    ledger = await Ledger.connect(api_database)
    yield ledger
    await ledger.close()


@pytest.fixture
async def http(api_url: str, api_ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, whose Redis holds `shop`."""
    async with httpx.AsyncClient(base_url=api_url, verify=NO_TLS) as client:
        yield client
