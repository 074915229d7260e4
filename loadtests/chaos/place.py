"""A service with servers of its own, each part of which can be killed and brought back."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cartsvc import dev, embedded, rows, scripts
from cartsvc.dev import DevError
from cartsvc.embedded import free_port
from cartsvc.importer import Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf
from loadtests.chaos.dialects import SECRET, TENANT

Process = subprocess.Popen[bytes]

_TIMEOUT_S = 10.0

PLENTY = 100_000_000
"""Units of a product that never sells out."""


@dataclass
class Place:
    """`settings` are the service's; `api` and `workers` its processes.

    They run the package in `tree`, where that is set.
    """

    valkey: embedded.Valkey
    postgres: embedded.Postgres
    settings: Settings
    ledger: Ledger
    api: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    tree: Path | None = None
    bucket: Bucket = field(default_factory=lambda: Bucket(TENANT))

    @property
    def url(self) -> str:
        return dev.url(self.settings)

    async def start(self, **api_changes: Any) -> None:
        """An API process, and a worker."""
        await asyncio.to_thread(self.start_api, **api_changes)
        await asyncio.to_thread(self.start_worker)

    def start_api(self, **changes: Any) -> None:
        self.api.append(self._started("serve", **changes))

    def start_worker(self, **changes: Any) -> None:
        self.workers.append(self._started("worker", **changes))

    def _started(self, command: str, **changes: Any) -> Process:
        tree = {}
        if self.tree is not None:
            # Before the package that is installed, and instead of the one in this folder.
            tree = {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1"}
        return dev.start(command, replace(self.settings, **changes), {**os.environ, **tree})

    def ended(self) -> list[str]:
        """What has ended although nobody killed it."""
        processes = [("the API", one) for one in self.api]
        processes += [("a worker", one) for one in self.workers]
        statuses = [(name, one.poll()) for name, one in processes]
        return [f"{name} ended, with {status}" for name, status in statuses if status is not None]

    def revive(self) -> int:
        """Start an API process and a worker where there is none; how many had ended themselves."""
        ended = 0
        for processes, start in ((self.api, self.start_api), (self.workers, self.start_worker)):
            gone = [one for one in processes if one.poll() is not None]
            for one in gone:
                processes.remove(one)
            ended += len(gone)
            if not processes:
                with contextlib.suppress(DevError):  # It ended before it was ready.
                    start()
        return ended

    def kill_api(self) -> None:
        """As a machine that loses power would."""
        while self.api:
            _kill(self.api.pop())

    def kill_workers(self) -> None:
        while self.workers:
            _kill(self.workers.pop())

    def kill_redis(self) -> None:
        assert self.valkey.process is not None
        _kill(self.valkey.process)

    def stop(self) -> None:
        for process in (*self.api, *self.workers):
            if process.poll() is None:
                embedded.stop(process)

    async def sell(self, *products: Mapping[str, Any]) -> None:
        """Import products, as rows of a catalogue file."""
        text = "\n".join(json.dumps(product) for product in products).encode()
        async with self.runner() as runner:
            importer = Importer(self.ledger, Shelf(runner), self.bucket, self.settings.currency)
            done = await importer.run(rows.read(io.BytesIO(text)))
        assert done.bad_rows == 0

    async def stock_up(self, count: int, **rules: Any) -> Sequence[str]:
        """Import so many products that never sell out; their SKUs."""
        products = skus(count)
        await self.sell(*(row(sku, PLENTY, **rules) for sku in products))
        return products

    @contextlib.asynccontextmanager
    async def runner(self) -> AsyncIterator[Runner]:
        redis = scripts.connect(self.valkey.url, timeout_s=_TIMEOUT_S)
        runner = Runner(redis, timeout_s=_TIMEOUT_S)
        try:
            yield runner
        finally:
            await runner.aclose()


def _kill(process: Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextlib.asynccontextmanager
async def opened(
    *, durable: bool = False, always: bool = False, tree: Path | None = None, **changes: Any
) -> AsyncIterator[Place]:
    """Servers that nobody else uses, a migrated database, and no process of the service yet.

    `durable` and `always` are Redis's, `changes` the service's settings.
    """
    with tempfile.TemporaryDirectory(prefix="cartsvc-chaos-") as name:
        valkey = embedded.Valkey(Path(name) / "valkey", durable=durable, always=always)
        postgres = embedded.Postgres(Path(name) / "postgres", durable=durable)
        with embedded.running(valkey, postgres):
            ledger = await Ledger.connect(postgres.url)
            await ledger.migrate()
            settings = Settings(
                port=free_port(),
                redis_url=valkey.url,
                database_url=postgres.url,
                jwt_secret=SECRET,
                flush_interval_s=0.1,
                tenant=TENANT,
                **changes,
            )
            place = Place(valkey, postgres, settings, ledger, tree=tree)
            try:
                yield place
            finally:
                await asyncio.to_thread(place.stop)
                await ledger.close()


def row(sku: str, stock: int, **more: Any) -> dict[str, Any]:
    return {"id": sku, "name": f"Product {sku}", "price": 19.99, "stock": stock, **more}


def skus(count: int) -> Sequence[str]:
    """Ids that every contract can name: numbers of 24 digits."""
    return [f"{100_000_000_000_000_000_000_000 + number}" for number in range(count)]
