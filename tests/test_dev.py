"""`cartsvc dev`, as `make run` runs it: one command brings everything up, Ctrl-C takes it down."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from cartsvc import demo, dev, embedded
from cartsvc.embedded import free_port
from cartsvc.settings import Settings
from tests.wait import wait_until

REQUEST = {"product_id": demo.FIRST_PRODUCT, "quantity": 2, "session_id": "me"}


class Dev:
    """One run of it, in `folder`."""

    def __init__(self, folder: Path, **variables: str) -> None:
        clean = {name: v for name, v in os.environ.items() if not name.startswith("CARTSVC_")}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cartsvc", "dev"],
            cwd=folder,
            env={**clean, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []

    def until_ready(self) -> dict[str, str]:
        """The addresses that it writes down, once it says that it is ready."""
        self.until_said("Ctrl-C")
        words = shlex.split((self.folder / ".cartsvc/env").read_text())
        return dict(word.split("=", 1) for word in words)

    def until_said(self, beginning: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith(beginning):
                return
        raise AssertionError(f"never said {beginning!r}: {self.said} {self.end()}")

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Stop it; its exit status, and what it said on stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.end_by_itself()

    def end_by_itself(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cartsvc-dev-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(folder: Path, database_url: str) -> Callable[..., Dev]:
    """Runs it in the folder with another PostgreSQL: one of its own takes longer than the rest."""

    def start(**variables: str) -> Dev:
        port = str(free_port())
        return Dev(folder, CARTSVC_PORT=port, CARTSVC_DATABASE_URL=database_url, **variables)

    return start


def add(addresses: dict[str, str]) -> int:
    answer = httpx.post(f"{addresses['CARTSVC_URL']}/api/cart", json=REQUEST)
    return int(answer.json()["data"]["cart"]["total_items"])


def is_open(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port), timeout=1):
            return True
    except OSError:
        return False


async def units(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        query = "SELECT coalesce(sum(quantity), 0)::bigint FROM cart_items"
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


SERVERS = ("CARTSVC_URL", "CARTSVC_REDIS_URL", "CARTSVC_DATABASE_URL")


@pytest.mark.slow
async def test_up_add_down_and_up_again(folder: Path) -> None:
    port = str(free_port())
    run = Dev(folder, CARTSVC_PORT=port)
    first = run.until_ready()
    assert list(first) == [*SERVERS, "CARTSVC_JWT_SECRET"]
    assert first["CARTSVC_URL"] == f"http://127.0.0.1:{port}"
    assert stat.S_IMODE((folder / ".cartsvc/env").stat().st_mode) == 0o600
    # redis-cli takes a URL without a user's name as one whose name is empty.
    assert urlsplit(first["CARTSVC_REDIS_URL"]).username == "default"
    assert add(first) == 2
    with Redis.from_url(first["CARTSVC_REDIS_URL"]) as redis:
        cart = redis.hgetall("cart:{default:0}:session:me")
        assert cart[f"q:{demo.FIRST_PRODUCT}".encode()] == b"2"
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
    await wait_until(lambda: units(first["CARTSVC_DATABASE_URL"]), 2)

    status, out, err = run.end()
    assert (status, out.splitlines()[-1]) == (0, "stopped"), err
    assert "Traceback" not in err
    assert [url for url in SERVERS if is_open(first[url])] == []

    # As someone does who has sourced the addresses: they are still its own servers.
    again = Dev(folder, CARTSVC_PORT=port, **first)
    assert again.until_ready() == first
    assert await units(first["CARTSVC_DATABASE_URL"]) == 2
    assert add(first) == 4
    assert again.end(signal.SIGTERM)[0] == 0
    assert [url for url in SERVERS if is_open(first[url])] == []


def test_the_curl_line_works_as_it_is_printed(start: Callable[..., Dev]) -> None:
    run = start()
    run.until_ready()
    try:
        [line] = [line for line in run.said if line.startswith("try: ")]
        done = subprocess.run(
            ["sh", "-c", line.removeprefix("try: ")], capture_output=True, text=True, check=True
        )
        assert '"total_items":2' in done.stdout
    finally:
        run.end()


@pytest.mark.slow
def test_with_fsync_its_valkey_syncs_before_it_answers(start: Callable[..., Dev]) -> None:
    run = start(CARTSVC_DURABILITY="fsync")
    addresses = run.until_ready()
    add(addresses)
    with Redis.from_url(addresses["CARTSVC_REDIS_URL"]) as redis:
        assert redis.config_get("appendfsync") == {"appendfsync": "always"}
        assert redis.exists("sync:{default:0}")
    assert run.end()[0] == 0


@pytest.mark.slow
async def test_servers_of_ones_own_are_used_and_the_last_flush_is_done(
    folder: Path, valkey: embedded.Valkey, database_url: str
) -> None:
    with Redis.from_url(valkey.url) as redis:
        redis.flushall()
    run = Dev(
        folder,
        CARTSVC_PORT=str(free_port()),
        CARTSVC_REDIS_URL=valkey.url,
        CARTSVC_DATABASE_URL=database_url,
        CARTSVC_FLUSH_INTERVAL_S="3600",
    )
    addresses = run.until_ready()
    assert addresses["CARTSVC_REDIS_URL"] == valkey.url
    assert addresses["CARTSVC_DATABASE_URL"] == database_url
    assert not (folder / ".cartsvc/valkey").exists()
    assert not (folder / ".cartsvc/postgres").exists()
    add(addresses)
    assert run.end()[0] == 0
    assert await units(database_url) == 2
    assert is_open(valkey.url)


def test_a_taken_port_is_told_in_a_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = Dev(folder, CARTSVC_PORT=str(port)).end_by_itself()
    assert (status, out) == (1, "")
    assert err == (
        f"cartsvc: port {port} on 127.0.0.1 can't be used (Address already in use): "
        "set CARTSVC_PORT\n"
    )


@pytest.mark.slow
def test_a_second_one_in_the_folder_is_told_in_a_line(
    folder: Path, start: Callable[..., Dev]
) -> None:
    run = start()
    run.until_ready()
    status, _, err = start().end_by_itself()
    assert status == 1
    assert err == f"cartsvc: another `cartsvc dev` is using {folder}/.cartsvc\n"
    assert run.end()[0] == 0


@pytest.mark.slow
def test_an_impatient_ctrl_c_does_not_spoil_the_order(folder: Path) -> None:
    run = Dev(folder, CARTSVC_PORT=str(free_port()))
    addresses = run.until_ready()
    for _ in range(20):
        run.process.send_signal(signal.SIGINT)
    status, out, err = run.end()
    assert (status, out.splitlines()[-1]) == (0, "stopped"), err
    assert [url for url in SERVERS if is_open(addresses[url])] == []


def test_only_the_first_signal_interrupts() -> None:
    """Another may come in the midst of what the first began."""
    interrupted = []
    with dev._interruptible() as told:
        assert not told.to_stop
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                interrupted.append(number)
        assert told.to_stop
    assert interrupted == [signal.SIGTERM]


def test_a_signal_that_a_fork_has_swallowed_stops_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    told = dev._Told()

    def start(command: str, *_: object) -> None:
        started.append(command)
        told.to_stop = True

    settings = Settings(port=free_port())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(dev, "_servers", lambda *_: (settings, []))
    monkeypatch.setattr(dev, "start", start)
    monkeypatch.setattr(embedded, "stop", lambda _: None)
    with pytest.raises(KeyboardInterrupt), contextlib.ExitStack() as stack:
        dev._run(settings, {}, lambda _: None, lambda _: None, stack, told)
    assert started == ["worker"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting Postgres", "starting Valkey", "preparing"])
def test_a_ctrl_c_while_it_starts_leaves_nothing_behind(folder: Path, moment: str) -> None:
    run = Dev(folder, CARTSVC_PORT=str(free_port()))
    run.until_said(moment)
    status, out, err = run.end()
    assert (status, out.splitlines()[-1]) == (0, "stopped"), err
    ports = [int(file.read_text()) for file in (folder / ".cartsvc").glob("*/port")]
    assert [port for port in ports if is_open(f"tcp://127.0.0.1:{port}")] == []
    # What was half made does not stand in the way of the next.
    again = Dev(folder, CARTSVC_PORT=str(free_port()))
    assert add(again.until_ready()) == 2
    again.end()


@pytest.mark.slow
def test_a_child_that_dies_ends_it_all(folder: Path) -> None:
    run = Dev(folder, CARTSVC_PORT=str(free_port()))
    addresses = run.until_ready()
    [api] = [
        child
        for child in psutil.Process(run.process.pid).children()
        if child.cmdline()[-1] == "serve"
    ]
    api.kill()
    status, _, err = run.end_by_itself()
    assert status == 1
    assert err.splitlines()[-1] == "cartsvc: cartsvc serve ended with status -9"
    assert [url for url in SERVERS if is_open(addresses[url])] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word to orphans is Linux's")
async def test_killed_it_leaves_nothing_in_the_next_ones_way(folder: Path) -> None:
    port = str(free_port())
    run = Dev(folder, CARTSVC_PORT=port)
    addresses = run.until_ready()
    assert add(addresses) == 2
    run.end(signal.SIGKILL)
    await wait_until(lambda: not any(is_open(addresses[url]) for url in SERVERS[:2]))
    again = Dev(folder, CARTSVC_PORT=port)
    assert again.until_ready() == addresses
    assert add(addresses) == 4
    assert again.end()[0] == 0
    assert [url for url in SERVERS if is_open(addresses[url])] == []


@pytest.mark.slow
def test_somebody_elses_server_on_the_kept_port_is_told_in_a_line(
    folder: Path, start: Callable[..., Dev]
) -> None:
    file = folder / ".cartsvc/valkey/port"
    file.parent.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        file.write_text(f"{port}\n")
        status, _, err = start().end_by_itself()
    assert status == 1
    assert err == f"cartsvc: port {port} is taken: stop what uses it, or remove {file}\n"


@pytest.mark.slow
def test_a_server_that_dies_ends_it_all(folder: Path, start: Callable[..., Dev]) -> None:
    run = start()
    run.until_ready()
    for child in psutil.Process(run.process.pid).children():
        if "valkey" in child.name():
            child.kill()
    status, _, err = run.end_by_itself()
    assert status == 1
    assert err.splitlines()[-1] == f"cartsvc: Valkey ended: see {folder}/.cartsvc/valkey"


@pytest.mark.slow
async def test_the_embedded_servers_want_their_passwords(
    valkey: embedded.Valkey, postgres: embedded.Postgres
) -> None:
    with Redis(port=valkey.port) as redis, pytest.raises(AuthenticationError):
        redis.ping()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://postgres:guess@127.0.0.1:{postgres.port}/postgres")


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that nothing here has any business with."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.slow
async def test_a_crashed_postgres_starts_again_and_hurts_no_stranger(
    folder: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    server = embedded.Postgres(folder / "postgres", durable=False)
    server.start()
    file = server.data / "postmaster.pid"
    pid, rest = file.read_text().split("\n", 1)
    os.kill(int(pid), signal.SIGKILL)
    await wait_until(lambda: not is_open(server.url))
    # As after a restart of the machine: the number is another process's now.
    file.write_text(f"{stranger.pid}\n{rest}")
    assert not server.is_running()
    with embedded.running(server):
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert stranger.poll() is None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another way for PostgreSQL")
async def test_postgres_runs_for_root_without_user_namespaces(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = embedded._runs
    monkeypatch.setattr(embedded, "_runs", lambda prefix: prefix[0] != "unshare" and runs(prefix))
    server = embedded.Postgres(folder / "postgres", durable=False)
    with embedded.running(server):
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert not is_open(server.url)
