"""The two long-running processes: the API and the worker."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from cartsvc import logs, notify, preflight, scripts
from cartsvc.app import create_app, store_of, sync_key
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.bounds import Bounds
from cartsvc.errors import OutcomeUnknown
from cartsvc.identity import Verifier
from cartsvc.idle import IdleCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.metrics import ALONE, Board
from cartsvc.preflight import UnfitRedis
from cartsvc.scripts import Runner
from cartsvc.settings import SettingError, Settings, variable
from cartsvc.wire import Protocol
from cartsvc.worker import Worker

log = logging.getLogger(__name__)

_START_S = 30.0
"""How long a process may take to begin."""

_DRAIN_S = 10
"""How long requests in flight may take to finish once the API is told to stop."""

_OWN_FILES = 128
"""Files that a process needs for what is no client: Redis, PostgreSQL, the pages of `/docs`."""

_COLLECT_AFTER = 20_000
"""Containers that are made, and not let go, before Python looks for cycles among them."""

BULK_TIMEOUT_S = 10.0
"""Longest wait for a script outside of requests, where no shopper waits."""


CHECK_AGAIN_S = 1.0
"""Pause before a Redis that could not be reached is checked again."""


class _Check(threading.Thread):
    """Checks Redis until it could be reached. `asked` is set once it was asked for the first time.

    A Redis that is found unfit only after that ends the program, by `stop`, called from here.
    """

    def __init__(self, settings: Settings, stop: Callable[[], object]) -> None:
        super().__init__(name="preflight", daemon=True)
        self.settings = settings
        self.stop = stop
        self.asked = threading.Event()
        self.unfit: UnfitRedis | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._until_reached())
        except UnfitRedis as error:
            self.unfit = error
            if self.asked.is_set():
                log.error("stopping: %s", error)
                self.stop()
        finally:
            self.asked.set()

    async def _until_reached(self) -> None:
        while True:
            try:
                return await preflight.check(self.settings.redis_url, sync_key(self.settings))
            except OutcomeUnknown as error:
                if not self.asked.is_set():
                    log.warning("what Redis is like will be checked later: %s", error.reason)
            self.asked.set()
            await asyncio.sleep(CHECK_AGAIN_S)


@contextlib.contextmanager
def _checked(settings: Settings, stop: Callable[[], object]) -> Iterator[None]:
    """Work with a Redis that is as it has to be, as far as it can be reached.

    Raises:
        UnfitRedis: it is not: before the context, or, where it was away then, at its end.
    """
    check = _Check(settings, stop)
    check.start()
    check.asked.wait()
    if check.unfit is None:
        yield
    if check.unfit is not None:
        raise check.unfit


class _Server(uvicorn.Server):
    """Says that it is ready once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            notify.ready()

    def stop(self) -> None:
        self.should_exit = True


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

    def stop(self) -> None:
        self.should_exit.set()


def serve(settings: Settings, workers: int = 1) -> None:
    """Run the API until SIGTERM or SIGINT, then finish what is in flight.

    Each of `workers` processes has a link to Redis of its own. With more than one, this process
    serves nothing itself, but looks after them.

    Raises:
        SettingError: the address can't be used, or Redis's; or there is nothing by which tokens
            could be verified.
        UnfitRedis: Redis is not as it has to be.
    """
    Verifier(settings)
    scripts.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    with _board(workers) as board, listen(settings) as listening:
        config = _config(settings, workers, board)
        if workers == 1:
            server = _Server(config)
            with _checked(settings, server.stop):
                server.run(sockets=[listening])
        else:
            servers = _Servers(config, [listening])
            with _checked(settings, servers.stop):
                servers.run()


@contextlib.contextmanager
def _board(workers: int) -> Iterator[Board]:
    """Where the processes see each other's numbers, if there is more than one."""
    with contextlib.ExitStack() as stack:
        board = ALONE
        if workers > 1:
            try:
                folder = stack.enter_context(TemporaryDirectory(prefix="cartsvc-"))
                board = Board(Path(folder))
            except OSError as error:
                # No reason not to serve.
                log.warning("/metrics has only what the process that is asked counted: %s", error)
        yield board


def _config(settings: Settings, workers: int, board: Board) -> uvicorn.Config:
    bounds = Bounds(
        head_bytes=settings.max_head_bytes,
        request_s=settings.request_timeout_s,
        connections=_connections(settings),
    )
    return uvicorn.Config(
        partial(_application, settings, board),
        factory=True,
        workers=workers,
        interface="asgi3",
        loop="uvloop",
        http=cast(type[asyncio.Protocol], partial(Protocol, bounds=bounds)),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_DRAIN_S,
    )


def _connections(settings: Settings) -> int:
    """How many connections a process may have; makes the system give it files for them.

    What it has at first, often 1,024 in all, is for programs that can't count further.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = settings.max_connections + _OWN_FILES
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft not in (resource.RLIM_INFINITY, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    return files - _OWN_FILES


def _application(settings: Settings, board: Board) -> Starlette:
    """What a process that serves begins with."""
    logs.to_stderr(settings.log_level, settings.log_format)
    application = create_app(settings, board)
    _spare_the_collector()
    return application


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
    return Runner(redis, timeout_s=BULK_TIMEOUT_S, sync_key=sync_key(settings))


async def work(settings: Settings) -> bool:
    """Run the worker until SIGTERM or SIGINT; whether it left nothing to flush.

    Raises:
        UnfitRedis: Redis is not as it has to be.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _checked(settings, partial(loop.call_soon_threadsafe, stop.set)):
        return await _work(settings, stop)


async def _work(settings: Settings, stop: asyncio.Event) -> bool:
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
