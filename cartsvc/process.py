"""The two long-running processes: the API and the worker."""

import asyncio
import logging
import signal
import socket

import uvicorn

from cartsvc import notify, scripts
from cartsvc.app import create_app
from cartsvc.backlog import Backlog
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.worker import Worker

log = logging.getLogger(__name__)

_DRAIN_S = 10
"""How long requests in flight may take to finish once the API is told to stop."""

BULK_TIMEOUT_S = 10.0
"""Longest wait for a script outside of requests, where no shopper waits."""


class _Server(uvicorn.Server):
    """Says that it is ready once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            notify.ready()


def serve(settings: Settings) -> None:
    """Run the API until SIGTERM or SIGINT, then finish what is in flight.

    Raises:
        OSError: the address can't be used.
    """
    config = uvicorn.Config(
        create_app(settings),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    with socket.create_server((settings.host, settings.port), backlog=2048) as listening:
        _Server(config).run(sockets=[listening])


async def work(settings: Settings) -> bool:
    """Run the worker until SIGTERM or SIGINT; whether its last pass went through."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    redis = scripts.connect(settings.redis_url, timeout_s=BULK_TIMEOUT_S, silence_s=BULK_TIMEOUT_S)
    ledger = await Ledger.connect(settings.database_url)
    worker = Worker(
        Backlog(Runner(redis, timeout_s=BULK_TIMEOUT_S)),
        ledger,
        batch=settings.flush_batch,
        interval_s=settings.flush_interval_s,
    )
    try:
        drained = await worker.run_forever(stop, on_ready=notify.ready)
    finally:
        await ledger.close()
        await redis.aclose()
    log.info("worker stopped, %s", "all flushed" if drained else "what is left stays in Redis")
    return drained
