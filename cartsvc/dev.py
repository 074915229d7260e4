"""`cartsvc dev`: everything on one machine, started and stopped in order.

Embedded servers (unless URLs name others), migrations, the demo catalogue, the API and the worker
as processes of their own.
"""

import contextlib
import fcntl
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TextIO, TypeVar

from cartsvc import demo, embedded, notify
from cartsvc import settings as configuration
from cartsvc.settings import Settings, variable

Process = subprocess.Popen[bytes]
Server = TypeVar("Server", embedded.Valkey, embedded.Postgres)

FOLDER = Path(".cartsvc")
_READY_S = 60.0
_POLL_S = 0.2


class DevError(RuntimeError):
    """The development set-up can't run; the message says why in a line."""


def run(
    settings: Settings,
    environ: Mapping[str, str],
    prepare: Callable[[Settings], None],
    *,
    say: Callable[[str], None],
) -> None:
    """Run until Ctrl-C (or SIGTERM). `prepare` migrates and fills the servers once they are up.

    Raises:
        DevError, EmbeddedError: something can't be started, or a process ended by itself.
    """
    try:
        with _interruptible(), contextlib.ExitStack() as stack:
            try:
                _run(settings, environ, prepare, say, stack)
            finally:
                _ignore_signals()
    except KeyboardInterrupt:
        say("stopped")


def _run(
    settings: Settings,
    environ: Mapping[str, str],
    prepare: Callable[[Settings], None],
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> None:
    stack.enter_context(_only_one(FOLDER))
    _require_free(settings)
    settings, servers = _servers(settings, environ)
    for server in servers:
        say(f"starting {type(server).__name__}")
        stack.enter_context(embedded.running(server))
    _write_env(settings)
    say("preparing PostgreSQL and Redis")
    prepare(settings)
    children = {}
    for command in ("worker", "serve"):
        children[command] = start(command, settings, environ)
        stack.callback(embedded.stop, children[command])
    stack.callback(say, "stopping: API, worker (last flush), servers")
    for line in _summary(settings):
        say(line)
    while True:
        for command, process in children.items():
            _require_running(command, process)
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop things the way that Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # Also SIGINT: a shell starts its background jobs with that signal ignored.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """While things stop in order, a second Ctrl-C must not spoil it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DevError(f"{folder.absolute()} can't be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevError(f"another `cartsvc dev` is using {folder.absolute()}") from None
        yield


def _require_free(settings: Settings) -> None:
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        raise unusable(settings, error) from None


def unusable(settings: Settings, error: OSError) -> DevError:
    """What to tell when the API's address can't be listened on."""
    # The strerror of an address that does not resolve is right, that of a taken one is a sentence.
    is_unknown = isinstance(error, socket.gaierror)
    reason = error.strerror if is_unknown else os.strerror(error.errno or 0)
    name = variable("host" if is_unknown else "port")
    return DevError(f"port {settings.port} on {settings.host} can't be used ({reason}): set {name}")


def _servers(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[Settings, list[embedded.Valkey | embedded.Postgres]]:
    """The servers to embed, and the settings that lead to them.

    A URL in the environment that is the embedded server's own, as `.cartsvc/env` names it, does
    not count as another server.
    """
    folder = FOLDER.absolute()
    postgres = _embed(embedded.Postgres, folder / "postgres", environ.get(variable("database_url")))
    valkey = _embed(embedded.Valkey, folder / "valkey", environ.get(variable("redis_url")))
    settings = replace(
        settings,
        database_url=postgres.url if postgres else settings.database_url,
        redis_url=valkey.url if valkey else settings.redis_url,
        jwt_secret=settings.jwt_secret or _kept_secret(folder / "jwt-secret"),
    )
    return settings, [server for server in (postgres, valkey) if server]


def _embed(kind: type[Server], folder: Path, given_url: str | None) -> Server | None:
    if given_url and not folder.exists():
        return None
    server = kind(folder)
    return server if given_url in (None, "", server.url) else None


def _kept_secret(file: Path) -> str:
    """A secret that stays the same between runs, so that tokens do too."""
    if not file.exists():
        with _private(file) as new:
            new.write(secrets.token_urlsafe(configuration.MIN_SECRET_CHARACTERS))
    return file.read_text()


def _write_env(settings: Settings) -> None:
    names = {
        "CARTSVC_URL": url(settings),
        variable("redis_url"): settings.redis_url,
        variable("database_url"): settings.database_url,
        variable("jwt_secret"): settings.jwt_secret,
    }
    with _private(FOLDER / "env") as file:
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in names.items())


def _private(file: Path) -> TextIO:
    """Open for writing a file that only its owner may read, from the start."""
    file.unlink(missing_ok=True)
    return open(file, "x", opener=lambda path, flags: os.open(path, flags, 0o600))


def url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104
    return f"http://{host}:{settings.port}"


def start(command: str, settings: Settings, environ: Mapping[str, str]) -> Process:
    """Start `cartsvc <command>` with `settings`, and wait until it says that it is ready.

    Raises:
        DevError: it ended instead, or was not ready in time.
    """
    values = {variable(name): str(getattr(settings, name)) for name in settings.__slots__}
    with notify.Listener() as listener:
        process = embedded.spawn(
            [sys.executable, "-m", "cartsvc", command],
            env={**environ, **values, notify.VARIABLE: listener.path},
        )
        try:
            deadline = time.monotonic() + _READY_S
            while not listener.heard(_POLL_S):
                _require_running(command, process)
                if time.monotonic() > deadline:
                    raise DevError(f"cartsvc {command} was not ready within {_READY_S:.0f} s")
        except BaseException:
            embedded.stop(process)
            raise
    return process


def _require_running(command: str, process: Process) -> None:
    if process.poll() is not None:
        raise DevError(f"cartsvc {command} ended with status {process.returncode}")


def _summary(settings: Settings) -> list[str]:
    body = f'{{"product_id": "{demo.FIRST_PRODUCT}", "quantity": 2, "session_id": "me"}}'
    return [
        "ready",
        f"  API         {url(settings)}",
        f"  Redis       redis-cli -u {settings.redis_url}",
        f"  PostgreSQL  psql {settings.database_url}",
        f"  addresses   set -a; . {FOLDER}/env; set +a",
        f"try: curl -s {url(settings)}/api/cart -d '{body}'",
        "Ctrl-C stops everything; what is stored stays",
    ]
