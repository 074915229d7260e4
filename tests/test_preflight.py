"""What Redis has to be like, and what a program does with one that is not."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cartsvc import embedded, scripts
from cartsvc.embedded import free_port
from cartsvc.errors import OutcomeUnknown
from cartsvc.preflight import UnfitRedis, check
from cartsvc.scripts import Runner
from tests.command import run
from tests.proxy import Peer
from tests.rush import rush
from tests.shop import LAMP, SECRET, Shop
from tests.test_link import after_greeting, own_valkey
from tests.test_serve import is_refused
from tests.test_syncs import KEY, LATE, SYNCED
from tests.wait import wait_until

EVICTING = (
    "CARTSVC_REDIS_URL: Redis may evict carts: set its maxmemory-policy to noeviction, "
    "from allkeys-lru"
)
NO_FILE = "CARTSVC_DURABILITY=fsync: Redis keeps no append-only file: set its appendonly to yes"

BEFORE = "answers WAITAOF before it has synced: set its appendfsync to always, from everysec"


class Server:
    """A Redis that is fit, but for what a test changes.

    `syncs` has the replies to WAITAOF, the last of them for all that follow, and `policy` its
    appendfsync.
    """

    def __init__(self) -> None:
        self.info = {
            "redis_version": "7.0.0",
            "maxmemory": "0",
            "maxmemory_policy": "noeviction",
        }
        self.syncs = [SYNCED]
        self.policy = "always"
        self.errors: dict[bytes, bytes] = {}

    async def __call__(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for name, *_ in after_greeting(client, to_client):
            error = self.errors.get(name)
            to_client.write(b"-%b\r\n" % error if error else self.reply(name))

    def reply(self, name: bytes) -> bytes:
        match name:
            case b"INFO":
                lines = ["# About", *(f"{name}:{value}" for name, value in self.info.items()), ""]
                text = "\r\n".join(lines).encode()
                return b"$%d\r\n%b\r\n" % (len(text), text)
            case b"SET":
                return b"+OK\r\n"
            case b"CONFIG":
                return b"*2\r\n$11\r\nappendfsync\r\n$%d\r\n%b\r\n" % (
                    len(self.policy),
                    self.policy.encode(),
                )
            case _:
                return self.syncs.pop(0) if len(self.syncs) > 1 else self.syncs[0]


@pytest.fixture
def server() -> Server:
    return Server()


async def checked(server: Server, key: str | None = None) -> str:
    """What the check says of it."""
    async with Peer(server) as peer:
        try:
            await check(peer.url, key)
        except UnfitRedis as error:
            return str(error)
    return "fit"


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.2.3", "10.0", "255.255.255", ""])
async def test_a_version_that_is_new_enough(server: Server, version: str) -> None:
    server.info["redis_version"] = version
    assert await checked(server) == "fit"


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7", "6"])
async def test_a_version_that_is_too_old(server: Server, version: str) -> None:
    server.info["redis_version"] = version
    told = f"CARTSVC_REDIS_URL: Redis {version} is too old: use 7.0 or newer"
    assert await checked(server) == told


@pytest.mark.parametrize(
    ("maxmemory", "policy", "told"),
    [
        ("0", "allkeys-lru", "fit"),
        ("1000", "noeviction", "fit"),
        ("1000", "allkeys-lru", EVICTING),
        ("1000", "volatile-ttl", EVICTING.replace("allkeys-lru", "volatile-ttl")),
    ],
)
async def test_no_cart_is_evicted(server: Server, maxmemory: str, policy: str, told: str) -> None:
    server.info |= {"maxmemory": maxmemory, "maxmemory_policy": policy}
    assert await checked(server) == told


async def test_what_info_does_not_tell_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors[b"INFO"] = b"NOPERM no permissions to run the 'info' command"
    assert await checked(server, KEY) == "fit"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NOPERM" in caplog.text


@pytest.mark.parametrize(
    ("command", "error", "told"),
    [
        (b"WAITAOF", "ERR unknown command 'WAITAOF'", "has no WAITAOF: use 7.2 or newer"),
        (
            b"WAITAOF",
            "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.",
            "keeps no append-only file: set its appendonly to yes",
        ),
        (
            b"WAITAOF",
            "NOPERM no 'waitaof' command",
            "does not allow it: NOPERM no 'waitaof' command",
        ),
        (b"SET", "NOPERM no such keys", "does not allow it: NOPERM no such keys"),
    ],
)
async def test_what_keeps_changes_from_being_synced(
    server: Server, command: bytes, error: str, told: str
) -> None:
    server.errors[command] = error.encode()
    assert await checked(server, KEY) == f"CARTSVC_DURABILITY=fsync: Redis {told}"
    # Who does not sync does not need it.
    assert await checked(server) == "fit"


@pytest.mark.parametrize(
    ("policy", "syncs", "told"),
    [
        ("always", [SYNCED], "fit"),
        ("no", [LATE], "never syncs its file: set its appendfsync to always, from no"),
        # The first only asks whether there is a file.
        ("everysec", [LATE, SYNCED, LATE, SYNCED, LATE, SYNCED, LATE], "fit"),
        ("everysec", [LATE], "fit"),
        ("everysec", [SYNCED], BEFORE),
        # It was busy, and did not look so at once.
        ("everysec", [LATE, SYNCED, LATE, SYNCED, LATE, SYNCED], BEFORE),
    ],
)
async def test_how_the_file_is_synced(
    server: Server, policy: str, syncs: list[bytes], told: str
) -> None:
    server.policy, server.syncs = policy, syncs
    wrong = f"CARTSVC_DURABILITY=fsync: Redis {told}"
    assert await checked(server, KEY) == ("fit" if told == "fit" else wrong)


@pytest.mark.parametrize(("syncs", "warnings"), [([LATE], 0), ([SYNCED], 1)])
async def test_how_the_file_is_synced_may_not_be_asked(
    server: Server, caplog: pytest.LogCaptureFixture, syncs: list[bytes], warnings: int
) -> None:
    server.syncs = syncs
    server.errors[b"CONFIG"] = b"NOPERM no permissions to run the 'config|get' command"
    assert await checked(server, KEY) == "fit"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings


@pytest.mark.parametrize("command", [b"SET", b"WAITAOF"])
@pytest.mark.parametrize("error", [b"LOADING the dataset", b"READONLY it is a replica"])
async def test_what_passes_is_not_refused(server: Server, command: bytes, error: bytes) -> None:
    server.errors[command] = error
    with pytest.raises(OutcomeUnknown):
        await checked(server, KEY)


async def test_a_redis_that_is_away_is_not_refused() -> None:
    with pytest.raises(OutcomeUnknown):
        await check(f"redis://127.0.0.1:{free_port()}/0", KEY)


class TestRealServer:
    async def test_is_fit(self, valkey: embedded.Valkey) -> None:
        await check(valkey.url, None)

    async def test_without_a_file_is_not_fit_to_sync(self, valkey: embedded.Valkey) -> None:
        with pytest.raises(UnfitRedis, match=NO_FILE):
            await check(valkey.url, KEY)

    async def test_that_syncs_always_or_never(self, servers_folder: Path, tmp_path: Path) -> None:
        server = embedded.Valkey(servers_folder / tmp_path.name, always=True)
        with embedded.running(server):
            await check(server.url, KEY)
            redis: Any = scripts.connect(server.url, timeout_s=5)
            await redis.config_set("appendfsync", "no")
            await redis.aclose()
            with pytest.raises(UnfitRedis, match="never syncs its file"):
                await check(server.url, KEY)

    async def test_that_answers_before_it_has_synced(
        self, servers_folder: Path, tmp_path: Path
    ) -> None:
        # Valkey 9.1.2 does, with everysec. One that does not is fit, and this test has to say so.
        server = embedded.Valkey(servers_folder / tmp_path.name)
        with embedded.running(server):
            for _ in range(5):
                with pytest.raises(UnfitRedis, match="answers WAITAOF before it has synced"):
                    await check(server.url, KEY)


# What the programs do.

COMMANDS = [
    ("serve",),
    pytest.param(("serve", "--workers", "2"), marks=pytest.mark.slow),
    ("worker",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_program_refuses_to_start(
    servers_folder: Path, tmp_path: Path, database_url: str, command: tuple[str, ...]
) -> None:
    with own_valkey(servers_folder / tmp_path.name) as server:
        redis: Any = scripts.connect(server.url, timeout_s=5)
        await redis.config_set("maxmemory", "100mb")
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await redis.aclose()
        done = run(*command, **environment(server, database_url))
    assert (done.returncode, done.stderr) == (1, f"cartsvc: {EVICTING}\n")


def environment(server: embedded.Valkey, database_url: str) -> dict[str, str]:
    return {
        "CARTSVC_REDIS_URL": server.url,
        "CARTSVC_DATABASE_URL": database_url,
        "CARTSVC_JWT_SECRET": SECRET,
        "CARTSVC_PORT": str(free_port()),
    }


class Program:
    """A program that was begun while Redis was away, and what it says."""

    def __init__(self, command: tuple[str, ...], log: Path, **variables: str) -> None:
        clean = {name: v for name, v in os.environ.items() if not name.startswith("CARTSVC_")}
        self.log = log
        with log.open("wb") as output:
            self.process = embedded.spawn(
                [sys.executable, "-m", "cartsvc", *command],
                env={**clean, **variables},
                output=output.fileno(),
            )

    def told(self, text: str) -> bool:
        return text in self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts programs, and ends those that have not ended."""
    programs: list[Program] = []

    def start(*command: str, **variables: str) -> Program:
        programs.append(Program(command, tmp_path / "log", **variables))
        return programs[-1]

    yield start
    for program in programs:
        embedded.stop(program.process)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_redis_that_comes_later_and_is_unfit_ends_the_program(
    servers_folder: Path,
    tmp_path: Path,
    database_url: str,
    start: Callable[..., Program],
    command: tuple[str, ...],
) -> None:
    server = embedded.Valkey(servers_folder / tmp_path.name, durable=False)
    variables = environment(server, database_url)
    program = start(*command, CARTSVC_DURABILITY="fsync", **variables)
    await wait_until(lambda: program.told("what Redis is like will be checked later"))
    if command[0] == "serve":
        address = f"http://127.0.0.1:{variables['CARTSVC_PORT']}"
        await wait_until(is_refused(address), False)
    with embedded.running(server):
        assert await asyncio.to_thread(program.process.wait, 20) == 1
    lines = program.log.read_text().splitlines()
    assert lines[-1] == f"cartsvc: {NO_FILE}"
    assert [line for line in lines if line.endswith(f" ERROR cartsvc.process: stopping: {NO_FILE}")]


async def test_a_redis_that_comes_later_and_is_fit_is_used(
    servers_folder: Path, tmp_path: Path, database_url: str, start: Callable[..., Program]
) -> None:
    server = embedded.Valkey(servers_folder / tmp_path.name, always=True)
    variables = environment(server, database_url)
    program = start("serve", CARTSVC_DURABILITY="fsync", **variables)
    address = f"http://127.0.0.1:{variables['CARTSVC_PORT']}"
    await wait_until(is_refused(address), False)
    request = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}
    [answer] = await rush(address, "/api/cart", [request])
    assert answer.status == 503
    with embedded.running(server):
        runner = Runner(scripts.connect(server.url, timeout_s=5), timeout_s=5)
        shop = await Shop(runner).open()
        await shop.sell()

        async def status() -> int:
            [answer] = await rush(address, "/api/cart", [request])
            return answer.status

        await wait_until(status, 200)
        await runner.aclose()
        assert program.process.poll() is None
