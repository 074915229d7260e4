"""Acknowledged once it is on the disk: with `CARTSVC_DURABILITY=fsync`."""

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cartsvc import embedded, scripts, syncs
from cartsvc.app import create_app
from cartsvc.errors import Again, Busy, NoCart, NotWarm, OutcomeUnknown, OutOfStock
from cartsvc.keys import Bucket
from cartsvc.link import Link, pack
from cartsvc.model import LineRequest, LineTerms, Once
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store
from cartsvc.syncs import Syncs
from tests.carts import BOB, refused
from tests.command import run
from tests.proxy import Peer, Proxy
from tests.shop import ANN, LAMP, SECRET, Shop
from tests.test_cli import ROWS
from tests.test_link import after_greeting, outcomes, unknown
from tests.wait import wait_until

KEY = "sync:{default:0}"
SYNCED = b"*2\r\n:1\r\n:0\r\n"
LATE = b"*2\r\n:0\r\n:0\r\n"


class Disk:
    """A Redis whose file is synced when a test says so: `asked` has the commands that came."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()
        self.set_reply = b"+OK\r\n"

    async def __call__(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        come: asyncio.Queue[bytes] = asyncio.Queue()
        answering = asyncio.create_task(self._answer(come, to_client))
        try:
            async for command in after_greeting(client, to_client):
                self.asked.append(command)
                come.put_nowait(command[0])
        finally:
            answering.cancel()
            await asyncio.wait([answering])

    async def _answer(self, come: asyncio.Queue[bytes], to_client: asyncio.StreamWriter) -> None:
        while await come.get() == b"SET":
            to_client.write(self.set_reply)
            await come.get()
            reply = await self.replies.get()
            if not reply:
                to_client.close()
            to_client.write(reply)

    def syncs(self) -> int:
        """How many were begun."""
        return len(self.asked) // 2


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def on_disk(disk: Disk) -> AsyncIterator[Syncs]:
    async with Peer(disk) as peer:
        pool = scripts.connect(peer.url, timeout_s=5).connection_pool
        found = Syncs(Link(pool, timeout_s=5, in_flight=10), KEY, in_flight=3)
        yield found
        await found.aclose()


def waiting(count: int, on_disk: Syncs) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(on_disk.synced()) for _ in range(count)]


class TestSyncs:
    async def test_what_was_done_is_synced_once_waitaof_has_said_so(
        self, disk: Disk, on_disk: Syncs
    ) -> None:
        [wait] = waiting(1, on_disk)
        await wait_until(disk.syncs, 1)
        assert disk.asked == [[b"SET", KEY.encode(), b""], [b"WAITAOF", b"1", b"0", b"3000"]]
        assert not wait.done()
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(wait) == [None]

    async def test_all_who_wait_share_one_and_who_comes_meanwhile_shares_the_next(
        self, disk: Disk, on_disk: Syncs
    ) -> None:
        first = waiting(100, on_disk)
        await wait_until(disk.syncs, 1)
        later = waiting(100, on_disk)
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(*first) == [None] * 100
        await wait_until(disk.syncs, 2)
        # Not by the one before, which may have begun before they were done.
        assert not any(wait.done() for wait in later)
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(*later) == [None] * 100
        assert disk.syncs() == 2

    async def test_at_most_one_is_under_way(self, disk: Disk, on_disk: Syncs) -> None:
        first = waiting(1, on_disk)
        await wait_until(disk.syncs, 1)
        later = waiting(1, on_disk)
        last = on_disk.link.send(pack(("ECHO", "last")))
        await wait_until(lambda: disk.asked[-1][0], b"ECHO")
        assert disk.syncs() == 1
        last.cancel()
        for wait in (*first, *later):
            wait.cancel()

    async def test_who_leaves_leaves_the_others_waiting(self, disk: Disk, on_disk: Syncs) -> None:
        left, stayed = waiting(2, on_disk)
        await wait_until(disk.syncs, 1)
        left.cancel()
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(stayed) == [None]
        [after] = waiting(1, on_disk)
        await wait_until(disk.syncs, 2)
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(after) == [None]

    @pytest.mark.parametrize("reply", [LATE, b"-ERR appendonly is disabled\r\n", b""], ids=str)
    async def test_a_failure_is_everybodys_who_waited_and_nobody_elses(
        self, disk: Disk, on_disk: Syncs, reply: bytes
    ) -> None:
        first = waiting(10, on_disk)
        await wait_until(disk.syncs, 1)
        later = waiting(10, on_disk)
        disk.replies.put_nowait(reply)
        failed = await outcomes(*first)
        assert all(map(unknown, failed))
        # Each has one of its own: what a request learns is added to its error.
        assert len(set(map(id, failed))) == 10
        await wait_until(disk.syncs, 2)
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(*later) == [None] * 10

    async def test_without_the_write_before_it_a_sync_says_nothing(
        self, disk: Disk, on_disk: Syncs
    ) -> None:
        disk.set_reply = b"-OOM command not allowed\r\n"
        disk.replies.put_nowait(SYNCED)
        [outcome] = await outcomes(*waiting(1, on_disk))
        assert unknown(outcome)
        assert "OOM" in str(outcome)

    async def test_nobody_waits_for_long(
        self, disk: Disk, on_disk: Syncs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(syncs, "TIMEOUT_S", 0.1)
        first = waiting(2, on_disk)
        await wait_until(disk.syncs, 1)
        found = await outcomes(*first, *waiting(2, on_disk), within_s=2)
        assert all(map(unknown, found))
        assert disk.syncs() == 1

    async def test_closing_ends_it(self, disk: Disk, on_disk: Syncs) -> None:
        first = waiting(1, on_disk)
        await wait_until(disk.syncs, 1)
        later = waiting(1, on_disk)
        await asyncio.sleep(0)
        await on_disk.aclose()
        ended = await asyncio.gather(*first, *later, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError] * 2
        assert disk.syncs() == 1


class TestAfter:
    async def test_a_change_and_a_refusal_are_told_after_the_sync(
        self, disk: Disk, on_disk: Syncs
    ) -> None:
        async def change() -> str:
            return "done"

        async def refuse() -> str:
            raise NoCart

        told = [asyncio.create_task(on_disk.after(how)) for how in (change, refuse)]
        await wait_until(disk.syncs, 1)
        assert not any(one.done() for one in told)
        disk.replies.put_nowait(SYNCED)
        done, refusal = await outcomes(*told)
        assert done == "done"
        assert isinstance(refusal, NoCart)

    @pytest.mark.parametrize("refusal", [False, True])
    async def test_what_may_not_be_on_the_disk_is_not_told(
        self, disk: Disk, on_disk: Syncs, refusal: bool
    ) -> None:
        async def change() -> None:
            if refusal:
                raise NoCart

        disk.replies.put_nowait(LATE)
        assert unknown((await outcomes(on_disk.after(change)))[0])

    @pytest.mark.parametrize("error", [NotWarm(), OutcomeUnknown("lost")], ids=repr)
    async def test_what_was_not_decided_is_told_at_once(
        self, disk: Disk, on_disk: Syncs, error: Exception
    ) -> None:
        async def change() -> None:
            raise error

        assert await outcomes(on_disk.after(change)) == [error]
        assert disk.syncs() == 0

    async def test_no_more_than_a_number_are_under_way(self, disk: Disk, on_disk: Syncs) -> None:
        begun = []

        async def change() -> None:
            begun.append(1)

        told = [asyncio.create_task(on_disk.after(change)) for _ in range(3)]
        await wait_until(disk.syncs, 1)
        with pytest.raises(Busy) as busy:
            await on_disk.after(change)
        assert (busy.value.in_flight, len(begun)) == (3, 3)
        told[0].cancel()
        disk.replies.put_nowait(SYNCED)
        await outcomes(*told)
        disk.replies.put_nowait(SYNCED)
        assert await outcomes(on_disk.after(change)) == [None]


class Counting:
    """In the place of syncs: how many changes waited for one."""

    def __init__(self) -> None:
        self.waited = 0

    async def after(self, change: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await change()
        except Again:
            self.waited -= 1
            raise
        finally:
            self.waited += 1

    async def synced(self) -> None:
        self.waited += 1


NOT_ACKNOWLEDGED = {
    *("now_ms", "read", "peek", "find", "outcome"),
    *("restore", "unmark", "cool", "forget", "release", "reprice"),
}
"""Of the store: what changes nothing, or nothing that anybody is told of. A notice that was told
may be told again."""

TERMS = LineTerms(quantity=1, saved=False)

CHANGES: dict[str, Callable[[Store, Bucket], Awaitable[Any]]] = {
    "add": lambda store, bucket: store.add(bucket, ANN, [LineRequest(LAMP, 1)]),
    "set_quantity": lambda store, bucket: store.set_quantity(bucket, ANN, LAMP, 2),
    "remove": lambda store, bucket: store.remove(bucket, ANN, LAMP),
    "clear": lambda store, bucket: store.clear(bucket, ANN),
    "empty": lambda store, bucket: store.empty(bucket, ANN),
    "make": lambda store, bucket: store.make(bucket, BOB),
    "add_as": lambda store, bucket: store.add_as(
        bucket, ANN, LAMP, TERMS, authority=True, cart_id=256
    ),
    "set_as": lambda store, bucket: store.set_as(bucket, ANN, 256 << 12 | 1, TERMS, authority=True),
    "save_for_later": lambda store, bucket: store.save_for_later(bucket, ANN, LAMP),
    "take_back": lambda store, bucket: store.take_back(bucket, ANN, LAMP),
    "merge": lambda store, bucket: store.merge(bucket, ANN, BOB),
    "release_held": lambda store, bucket: store.release_held(bucket, ANN),
    "close": lambda store, bucket: store.close(bucket, ANN, "CONVERTED"),
    "keep_outcome": lambda store, bucket: store.keep_outcome(bucket, Once(ANN, "a key", "ab")),
}


class TestStore:
    @pytest.fixture
    async def counting(self, shop: Shop) -> AsyncIterator[Counting]:
        await shop.sell(stock_policy="hold")
        await shop.add()
        shop.runner.syncs = counting = Counting()  # type: ignore[assignment]
        yield counting
        shop.runner.syncs = None

    def test_every_operation_is_known(self) -> None:
        methods = inspect.getmembers(Store, inspect.iscoroutinefunction)
        public = {name for name, _ in methods if not name.startswith("_")}
        assert public == CHANGES.keys() | NOT_ACKNOWLEDGED

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_change_waits_once(self, shop: Shop, counting: Counting, name: str) -> None:
        with_cart = await shop.everything()
        if name == "take_back":
            await shop.store.save_for_later(shop.bucket, ANN, LAMP)
            counting.waited = 0
        await CHANGES[name](shop.store, shop.bucket)
        assert counting.waited == 1
        assert await shop.everything() != with_cart

    @pytest.mark.parametrize("quantity", [2, 200])
    async def test_what_was_answered_before_waits_once(
        self, shop: Shop, counting: Counting, quantity: int
    ) -> None:
        lines = [LineRequest(LAMP, quantity)]
        for waits in (1, 2):
            once = Once(ANN, "a key", "ab")
            with contextlib.suppress(OutOfStock):
                await shop.store.add(shop.bucket, ANN, lines, once)
            assert (once.is_replay, counting.waited) == (waits == 2, waits)
        with contextlib.suppress(OutOfStock):
            assert await shop.store.outcome(shop.bucket, Once(ANN, "a key", "ab"))
        assert counting.waited == 3
        assert await shop.store.outcome(shop.bucket, Once(ANN, "another", "ab")) is None
        assert counting.waited == 3

    async def test_a_refusal_waits_once(self, shop: Shop, counting: Counting) -> None:
        await refused(shop, NoCart, shop.store.remove(shop.bucket, BOB, LAMP))
        assert counting.waited == 1

    async def test_a_hold_in_the_way_costs_no_other_wait(
        self, shop: Shop, counting: Counting
    ) -> None:
        with pytest.raises(OutOfStock):
            await shop.add_lines(LineRequest(LAMP, 100), owner=BOB)
        shop.clock.ms += 600_000
        await shop.add_lines(LineRequest(LAMP, 100), owner=BOB)
        assert counting.waited == 2

    async def test_a_read_does_not_wait(self, shop: Shop, counting: Counting) -> None:
        cart = await shop.store.read(shop.bucket, ANN)
        await shop.store.peek(shop.bucket, ANN)
        await shop.store.find(shop.bucket, cart.id)
        shop.clock.ms += 600_000
        await shop.store.release(shop.bucket, [shop.bucket.cart(ANN)])
        # With a notice, that is by a script.
        assert (await shop.store.read(shop.bucket, ANN)).notices
        with pytest.raises(NoCart):
            await shop.store.read(shop.bucket, BOB)
        assert counting.waited == 0


# On a real server.


class Holding(Proxy):
    """Keeps WAITAOF, and what its connection sends behind it, back while `synced` is not set."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self.synced = asyncio.Event()
        self.held = 0

    async def request(self, data: bytes, to_server: asyncio.StreamWriter) -> None:
        if b"WAITAOF" in data:
            self.held += 1
            await self.synced.wait()
        await super().request(data, to_server)


@pytest.fixture(scope="module")
def always(servers_folder: Path) -> Iterator[embedded.Valkey]:
    """A Valkey that syncs its file before it answers."""
    server = embedded.Valkey(servers_folder / "always", always=True)
    with embedded.running(server):
        yield server


@pytest.fixture
async def lasting(always: embedded.Valkey) -> AsyncIterator[Shop]:
    """A shop on it."""
    runner = Runner(scripts.connect(always.url, timeout_s=5), timeout_s=5)
    await runner.redis.flushall()
    shop = await Shop(runner).open()
    await shop.sell()
    yield shop
    await runner.aclose()


REQUEST = {"product_id": LAMP, "quantity": 2, "session_id": "ann"}


async def units(shop: Shop) -> int:
    return int(await shop.redis.hget(shop.bucket.cart(ANN), f"q:{LAMP}") or 0)


@asynccontextmanager
async def serving(redis_url: str, durability: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, which is in this process."""
    settings = Settings(redis_url=redis_url, durability=durability, jwt_secret=SECRET)
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http,
    ):
        yield http


async def test_an_add_is_acknowledged_after_waitaof(lasting: Shop, always: embedded.Valkey) -> None:
    async with Holding(always.url) as proxy, serving(proxy.url, "fsync") as http:
        adding = asyncio.create_task(http.post("/api/cart", json=REQUEST))
        await wait_until(lambda: proxy.held, 1)
        assert await units(lasting) == 2
        # Others can see it meanwhile, and reading waits for nothing.
        seen = await http.get("/api/cart", params={"session_id": "ann"})
        assert seen.json()["data"]["cart"]["total_items"] == 2
        assert not adding.done()
        proxy.synced.set()
        assert (await adding).status_code == 200


async def test_an_add_that_may_not_be_on_the_disk_is_503(
    lasting: Shop, always: embedded.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncs, "TIMEOUT_S", 0.2)
    async with Holding(always.url) as proxy, serving(proxy.url, "fsync") as http:
        answer = await http.post("/api/cart", json=REQUEST)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"] == {"code": "unavailable"}
        assert await units(lasting) == 2
        proxy.synced.set()


async def test_by_default_nothing_waits(lasting: Shop, always: embedded.Valkey) -> None:
    async with Holding(always.url) as proxy, serving(proxy.url, "memory") as http:
        assert (await http.post("/api/cart", json=REQUEST)).status_code == 200
        # The second is that of the high-water marks.
        assert (proxy.held, proxy.connections) == (0, 2)
    assert not await lasting.redis.exists(KEY)


async def test_what_was_acknowledged_is_there_after_a_kill(
    servers_folder: Path, tmp_path: Path
) -> None:
    server = embedded.Valkey(servers_folder / tmp_path.name, always=True)
    with embedded.running(server):
        runner = Runner(scripts.connect(server.url, timeout_s=5), timeout_s=5)
        shop = await Shop(runner).open()
        await shop.sell(stock=1_000)
        async with serving(server.url, "fsync") as http:
            for round_ in range(1, 6):
                answers = await asyncio.gather(
                    *(http.post("/api/cart", json=REQUEST) for _ in range(20))
                )
                assert {answer.status_code for answer in answers} == {200}
                assert server.process is not None
                os.kill(server.process.pid, signal.SIGKILL)
                server.process.wait()
                server.start()
                await runner.redis.connection_pool.disconnect()
                assert await units(shop) == 40 * round_
                assert await shop.redis.exists(KEY)
        await runner.aclose()


async def test_operators_are_told_after_the_sync_too(
    lasting: Shop, always: embedded.Valkey, database_url: str
) -> None:
    there = {"CARTSVC_REDIS_URL": always.url, "CARTSVC_DATABASE_URL": database_url}
    with_fsync = {"CARTSVC_DURABILITY": "fsync", **there}
    await lasting.redis.flushall()
    for command, stdin in (
        ("catalog import -", ROWS),
        (f"stock set {LAMP} 7", ""),
        (f"stock add {LAMP} 1", ""),
    ):
        assert run(*command.split(), stdin=stdin, **with_fsync).returncode == 0
        assert await lasting.redis.delete(KEY) == 1, command
    await lasting.redis.flushall()
    assert run("warm", **with_fsync).returncode == 0
    assert await lasting.redis.delete(KEY) == 1
    assert run("stock", "get", LAMP, **with_fsync).returncode == 0
    assert run("stock", "set", LAMP, "9", **there).returncode == 0
    assert await lasting.redis.exists(KEY) == 0


async def test_operators_are_told_that_there_is_no_file(
    runner: Runner, valkey: embedded.Valkey, database_url: str
) -> None:
    there = {"CARTSVC_REDIS_URL": valkey.url, "CARTSVC_DATABASE_URL": database_url}
    assert run("catalog", "import", "-", stdin=ROWS, **there).returncode == 0
    done = run("stock", "set", LAMP, "7", CARTSVC_DURABILITY="fsync", **there)
    assert done.returncode == 1
    assert done.stderr.startswith("cartsvc: Redis: its file may not be synced: ")
    assert "appendonly is disabled" in done.stderr
