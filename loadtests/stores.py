"""Redis and PostgreSQL of the service that is rehearsed."""

import contextlib
from collections.abc import AsyncIterator

from cartsvc import scripts
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner

_REDIS_S = 5.0


@contextlib.asynccontextmanager
async def connected(redis_url: str, database_url: str) -> AsyncIterator[tuple[Runner, Ledger]]:
    runner = Runner(scripts.connect(redis_url, timeout_s=_REDIS_S), timeout_s=_REDIS_S)
    ledger = await Ledger.connect(database_url)
    try:
        yield runner, ledger
    finally:
        await ledger.close()
        await runner.aclose()
