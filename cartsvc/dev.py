"""`cartsvc dev`: everything on one machine, started and stopped in order.

Embedded servers (unless URLs name others), migrations, the demo catalogue, the API and the worker
as processes of their own.
"""

import contextlib
import fcntl
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cartsvc import demo, embedded, notify, process
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
        with _interruptible() as told, contextlib.ExitStack() as stack:
            try:
                _run(settings, environ, prepare, say, stack, told)
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
    told: "_Told",
) -> None:
    stack.enter_context(_only_one(FOLDER))
    process.listen(settings).close()
    settings, servers = _servers(settings, environ)
    for server in servers:
        say(f"starting {type(server).__name__}")
        stack.enter_context(embedded.running(server))
        told.check()
    _write_env(settings)
    say("preparing PostgreSQL and Redis")
    prepare(settings)
    children = {}
    for command in ("worker", "serve"):
        children[command] = start(command, settings, environ)
        stack.callback(embedded.stop, children[command])
        told.check()
    stack.callback(say, "stopping: API, worker (last flush), servers")
    for line in _summary(settings):
        say(line)
    while True:
        time.sleep(_POLL_S)
        told.check()
        for command, child in children.items():
            _require_running(command, child)
        for server in servers:
            if not server.is_running():
                raise DevError(f"{type(server).__name__} ended: see {server.folder}")


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Told:
    """No threading.Event: a signal that comes in the midst of one's `set` would wait for itself."""

    to_stop: bool = False

    def check(self) -> None:
        """Stop, if that was said while a process was being forked: an exception is lost there."""
        if self.to_stop:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[_Told]:
    """Let SIGTERM and a closed terminal stop things the way that Ctrl-C does, once."""
    told = _Told()

    def interrupt(_signal: int, _frame: object) -> None:
        if not told.to_stop:
            told.to_stop = True
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        # nohup ignores SIGHUP; a shell ignores SIGINT for its background jobs, but that is undone.
        if not (number == signal.SIGHUP and handler == signal.SIG_IGN):
            signal.signal(number, interrupt)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """While things stop in order, a second Ctrl-C must not spoil it."""
    for number in _STOPPING:
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


def _servers(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[Settings, list[embedded.Valkey | embedded.Postgres]]:
    """The servers to embed, and the settings that lead to them.

    A URL in the environment that is the embedded server's own, as `.cartsvc/env` names it, does
    not count as another server.
    """
    folder = FOLDER.absolute()
    postgres = _embed(embedded.Postgres, folder / "postgres", environ.get(variable("database_url")))
    kind = partial(embedded.Valkey, always=settings.durability == "fsync")
    valkey = _embed(kind, folder / "valkey", environ.get(variable("redis_url")))
    settings = replace(
        settings,
        database_url=postgres.url if postgres else settings.database_url,
        redis_url=valkey.url if valkey else settings.redis_url,
        jwt_secret=(
            settings.jwt_secret
            if settings.jwt_keys()
            else embedded.kept_secret(folder / "jwt-secret")
        ),
    )
    return settings, [server for server in (postgres, valkey) if server]


def _embed(kind: Callable[[Path], Server], folder: Path, given_url: str | None) -> Server | None:
    if given_url and not folder.exists():
        return None
    server = kind(folder)
    return server if given_url in (None, "", server.url) else None


def _write_env(settings: Settings) -> None:
    names = {
        "CARTSVC_URL": url(settings),
        variable("redis_url"): settings.redis_url,
        variable("database_url"): settings.database_url,
        variable("jwt_secret"): settings.jwt_secret,
    }
    with embedded.private(FOLDER / "env") as file:
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in names.items())


def url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def start(command: str, settings: Settings, environ: Mapping[str, str], *options: str) -> Process:
    """Start `cartsvc <command> <options>` with `settings`, and wait until it says that it is ready.

    Raises:
        DevError: it ended instead, or was not ready in time.
    """
    values = {variable(name): str(getattr(settings, name)) for name in settings.__slots__}
    with notify.Listener() as listener:
        child = embedded.spawn(
            [sys.executable, "-m", "cartsvc", command, *options],
            env={**environ, **values, notify.VARIABLE: listener.path},
        )
        try:
            deadline = time.monotonic() + _READY_S
            while not listener.heard(_POLL_S):
                _require_running(command, child)
                if time.monotonic() > deadline:
                    raise DevError(f"cartsvc {command} was not ready within {_READY_S:.0f} s")
        except BaseException:
            embedded.stop(child)
            raise
    return child


def _require_running(command: str, child: Process) -> None:
    if child.poll() is not None:
        raise DevError(f"cartsvc {command} ended with status {child.returncode}")


def _summary(settings: Settings) -> list[str]:
    body = f'{{"product_id": "{demo.FIRST_PRODUCT}", "quantity": 2, "session_id": "me"}}'
    return [
        "ready",
        f"  API         {url(settings)}",
        f"  addresses   set -a; . {FOLDER}/env; set +a",
        '  Redis       redis-cli -u "$CARTSVC_REDIS_URL"',
        '  PostgreSQL  psql "$CARTSVC_DATABASE_URL"',
        f"try: curl -s {url(settings)}/api/cart -d '{body}'",
        "Ctrl-C stops everything; what is stored stays",
    ]
