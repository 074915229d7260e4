"""The two long-running processes: the API and the worker."""

import asyncio
import gc
import logging
import os
import signal
import socket
from functools import partial

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from cartsvc import notify, scripts
from cartsvc.app import create_app, store_of
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.identity import Verifier
from cartsvc.idle import IdleCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import SettingError, Settings, variable
from cartsvc.wire import Protocol
from cartsvc.worker import Worker

log = logging.getLogger(__name__)

_START_S = 30.0
"""How long a process may take to begin."""

_DRAIN_S = 10
"""How long requests in flight may take to finish once the API is told to stop."""

_COLLECT_AFTER = 20_000
"""Containers that are made, and not let go, before Python looks for cycles among them."""

BULK_TIMEOUT_S = 10.0
"""Longest wait for a script outside of requests, where no shopper waits."""


class _Server(uvicorn.Server):
    """Says that it is ready once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            notify.ready()


class _Servers(Multiprocess):
    """Processes that take connections from one socket; says that it is ready once all of them do.

    One that dies is started anew.
    """

    def init_processes(self) -> None:
        super().init_processes()
        if all(one.wait_until_ready(_START_S) for one in self.processes):
            notify.ready()

    def terminate_all(self) -> None:
        # Or the system would go on taking connections that nobody serves any more.
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def serve(settings: Settings, workers: int = 1) -> None:
    """Run the API until SIGTERM or SIGINT, then finish what is in flight.

    Each of `workers` processes has a link to Redis of its own. With more than one, this process
    serves nothing itself, but looks after them.

    Raises:
        SettingError: the address can't be used, or nothing by which tokens could be verified.
    """
    Verifier(settings)
    config = uvicorn.Config(
        partial(_application, settings),
        factory=True,
        workers=workers,
        loop="uvloop",
        http=Protocol,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    with listen(settings) as listening:
        if workers == 1:
            _Server(config).run(sockets=[listening])
        else:
            _Servers(config, [listening]).run()


def _application(settings: Settings) -> Starlette:
    """What a process that serves begins with."""
    log_to_stderr(settings)
    application = create_app(settings)
    _spare_the_collector()
    return application


def log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _spare_the_collector() -> None:
    """Let Python look for cycles rarely, and not among what is there for good.

    A request makes hundreds of containers and no cycle; looking at every seven hundredth, as is the
    default, takes a fifth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def listen(settings: Settings) -> socket.socket:
    """The socket that the API listens on.

    Raises:
        SettingError: the address can't be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"{variable('host')}: {settings.host!r} is no address: {error}"
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        place = f"port {settings.port} on {settings.host}"
        raise SettingError(f"{place} can't be used ({reason}): set {variable('port')}") from None


def bulk_runner(settings: Settings) -> Runner:
    """A runner for what is done outside of requests."""
    redis = scripts.connect(settings.redis_url, timeout_s=BULK_TIMEOUT_S, silence_s=BULK_TIMEOUT_S)
    return Runner(redis, timeout_s=BULK_TIMEOUT_S)


async def work(settings: Settings) -> bool:
    """Run the worker until SIGTERM or SIGINT; whether it left nothing to flush."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger = await Ledger.connect(settings.database_url)
    runner = bulk_runner(settings)
    store, backlog = store_of(settings, runner), Backlog(runner)
    archive = Archive(store, backlog, ledger, timeout_s=BULK_TIMEOUT_S)
    worker = Worker(
        store,
        backlog,
        ledger,
        batch=settings.flush_batch,
        interval_s=settings.flush_interval_s,
        idle=IdleCarts(
            archive,
            ledger,
            cool_after_s=settings.cool_after_s,
            abandon_after_s=settings.abandon_after_s,
        ),
        buckets=[Bucket(settings.tenant)],
    )
    try:
        drained = await worker.run_forever(stop, on_ready=notify.ready)
    finally:
        await ledger.close()
        await runner.aclose()
    log.info("worker stopped, %s", "all flushed" if drained else "what is left stays in Redis")
    return drained
