"""The link: every answer to who asked, nothing sent twice, and no wait without an end.

The cases take `Links`, so that `test_guards` can give them a link that lacks a guard. They run
twice: on asyncio's loop, and on the one that the service has.
"""

import asyncio
import gc
import json
import random
import ssl
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import hiredis
import httpx
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cartsvc import embedded, scripts
from cartsvc import link as link_module
from cartsvc.app import create_app
from cartsvc.embedded import free_port
from cartsvc.errors import Busy, OutcomeUnknown
from cartsvc.link import BACKOFF_S, Link, ReplyError, pack
from cartsvc.model import Cart, LineRequest, Owner
from cartsvc.scripts import Runner, Script
from cartsvc.settings import Settings
from tests import wait
from tests.proxy import Peer, Proxy
from tests.shop import LAMP, SECRET, Shop
from tests.wait import wait_until


class Links:
    """Opens links of a kind, to the session's Valkey where no URL is given, and closes them.

    `attempts` counts how often they tried to connect. Errors that the loop meets in a link, where
    nobody can catch them, fail the test.
    """

    def __init__(
        self, url: str, module: ModuleType = link_module, runners: ModuleType = scripts
    ) -> None:
        self.url = url
        self.kind: type[Link] = module.Link
        self.runners = runners
        self.redis: Any = scripts.connect(url, timeout_s=5)
        self.attempts = 0
        self.errors: list[BaseException] = []
        self._links: list[Link] = []
        self._clients = [self.redis]

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(self._met)
        await self.redis.flushall()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for link in self._links:
            await link.aclose()
        for client in self._clients:
            await client.aclose()
        assert not self.errors

    def _met(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            if any(frame.filename == link_module.__file__ for frame in frames):
                self.errors.append(error)

    def to(self, url: str = "", *, timeout_s: float = 5, in_flight: int = 4096) -> Link:
        pool = scripts.connect(url or self.url, timeout_s=timeout_s).connection_pool
        make = pool.make_connection

        def counted() -> Any:
            self.attempts += 1
            return make()  # type: ignore[no-untyped-call]

        pool.make_connection = counted  # type: ignore[method-assign]
        link = self.kind(pool, timeout_s=timeout_s, in_flight=in_flight)
        self._links.append(link)
        return link

    def runner(
        self,
        url: str = "",
        *,
        kind: type[Runner] | None = None,
        timeout_s: float = 5,
        in_flight: int = 4096,
    ) -> Runner:
        redis = scripts.connect(url or self.url, timeout_s=timeout_s)
        self._clients.append(redis)
        limits: dict[str, Any] = {"timeout_s": timeout_s, "in_flight": in_flight}
        runner: Runner = (kind or self.runners.Runner)(redis, **limits)
        runner.link = self.to(url, **limits)
        return runner

    async def shop(self, url: str = "", **limits: Any) -> Shop:
        shop = await Shop(self.runner(url, **limits)).open()
        await shop.sell(stock=1_000_000)
        return shop


@pytest.fixture
async def links(valkey: embedded.Valkey) -> AsyncIterator[Links]:
    async with Links(valkey.url) as links:
        yield links


async def outcomes(*waiting: Awaitable[Any], within_s: float | None = None) -> list[Any]:
    """What each gives or raises."""
    within_s = within_s or wait.LONGEST_S
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.gather(*waiting, return_exceptions=True)
    except TimeoutError:
        raise AssertionError(f"still waiting after {within_s} s") from None


async def asked(link: Link, *command: str | int, within_s: float | None = None) -> Any:
    """What the reply to a command is, or what comes instead of it."""
    [outcome] = await outcomes(link.send(pack(command)), within_s=within_s)
    return outcome


def echoes(link: Link, numbers: Iterable[int]) -> list[asyncio.Future[Any]]:
    return [link.send(pack(("ECHO", number))) for number in numbers]


async def client_id(link: Link) -> int:
    """Which connection the link has."""
    found = await asked(link, "CLIENT", "ID")
    assert isinstance(found, int), found
    return found


def with_password(peer: Peer) -> str:
    return peer.url.replace("//", "//:secret@")


def unknown(outcome: Any) -> bool:
    return isinstance(outcome, OutcomeUnknown)


async def commands(client: asyncio.StreamReader) -> AsyncIterator[list[bytes]]:
    reader = hiredis.Reader()
    while data := await client.read(65_536):
        reader.feed(data)
        while command := reader.gets():
            yield command


NOON = b"*2\r\n$10\r\n1763640000\r\n$6\r\n000000\r\n"
"""A reply to TIME."""


async def after_greeting(
    client: asyncio.StreamReader, to_client: asyncio.StreamWriter
) -> AsyncIterator[list[bytes]]:
    """The commands but for those that a connection begins with, which are answered."""
    async for command in commands(client):
        if command[0] in {b"AUTH", b"SELECT"}:
            to_client.write(b"+OK\r\n")
        elif command[0] == b"TIME":
            to_client.write(NOON)
        else:
            yield command


# Answers.


async def with_leavers(asking: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Begin all, and cancel a tenth of them, each at some moment; what each gives or raises."""
    chance = random.Random(6)
    tasks: list[asyncio.Task[Any]] = []
    leaving: list[asyncio.Task[Any]] = []
    for one in asking:
        tasks.append(asyncio.create_task(one))
        if chance.random() < 0.1:
            leaving.append(tasks[-1])
        if chance.random() < 0.05:
            await asyncio.sleep(0)
        if len(leaving) > 20:
            leaving.pop(chance.randrange(len(leaving))).cancel()
    for task in leaving:
        task.cancel()
    return await outcomes(*tasks)


async def test_every_answer_is_its_askers(links: Links) -> None:
    link = links.to(in_flight=10_000)

    async def ask(number: int) -> Any:
        return await link.send(pack(("ECHO", number)))

    found = await with_leavers(ask(number) for number in range(10_000))
    stayed = {n: one for n, one in enumerate(found) if not isinstance(one, asyncio.CancelledError)}
    # Not compared as a whole: what differs of thousands takes minutes to be put into words.
    assert not [number for number, one in stayed.items() if one != b"%d" % number]
    assert 8_500 < len(stayed) < 9_900


async def test_every_cart_is_its_owners(links: Links) -> None:
    shop = await links.shop(in_flight=10_000)
    units = {f"shopper-{number}": number % 90 + 1 for number in range(10_000)}

    async def add(name: str) -> tuple[str, int]:
        cart = await shop.add_lines(LineRequest(LAMP, units[name]), owner=Owner("session", name))
        return cart.owner.id, cart.total_quantity

    found = await with_leavers(add(name) for name in units)
    answers = zip(units.items(), found, strict=True)
    stayed = [both for both in answers if not isinstance(both[1], asyncio.CancelledError)]
    assert not [asked for asked, told in stayed if told != asked]
    # Whoever left may have been served or not, but not twice.
    pipeline = links.redis.pipeline(transaction=False)
    for name in units:
        pipeline.hget(f"cart:{{default:0}}:session:{name}", f"q:{LAMP}")
    held = dict(zip(units, await pipeline.execute(), strict=True))
    served = {name: int(quantity) for name, quantity in held.items() if quantity is not None}
    assert not [name for name, held in served.items() if held != units[name]]
    assert len(stayed) < len(served) <= 10_000


async def test_a_request_that_is_cancelled_at_any_point_shifts_nothing(links: Links) -> None:
    shop = await links.shop()
    await shop.add()
    for waits in range(1, 6):
        add = asyncio.create_task(shop.add())
        for _ in range(waits):
            await asyncio.sleep(0)
        add.cancel()
        await outcomes(add)
    held = int(await links.redis.hget("cart:{default:0}:session:ann", f"q:{LAMP}"))
    assert (await shop.add()).total_quantity == held + 1


async def test_what_is_cancelled_before_there_is_a_connection_is_not_sent(links: Links) -> None:
    link = links.to()
    early = [link.send(pack(("INCR", name))) for name in ("left", "stayed", "left", "stayed")]
    early[0].cancel()
    early[2].cancel()
    assert await outcomes(early[1], early[3]) == [1, 2]
    assert await asked(link, "EXISTS", "left") == 0


async def test_who_left_is_nothing_to_the_others(links: Links) -> None:
    link = links.to()
    before = await client_id(link)
    # One whose reply is an error, and one whose reply is none.
    left = [link.send(pack(command)) for command in (("EVAL", "return 1 + nil", 0), ("PING",))]
    for one in left:
        one.cancel()
    assert await outcomes(*echoes(link, range(3))) == [b"0", b"1", b"2"]
    assert await client_id(link) == before
    # And where there is no connection to be had.
    link = links.to(f"redis://127.0.0.1:{free_port()}/0")
    left, stayed = echoes(link, [1]), echoes(link, [2])
    left[0].cancel()
    assert [unknown(one) for one in await outcomes(*stayed, within_s=2)] == [True]


async def test_an_error_is_told_to_its_asker_alone(links: Links) -> None:
    link = links.to()
    first, error, last = await outcomes(
        *echoes(link, [1]), link.send(pack(("EVAL", "return 1 + nil", 0))), *echoes(link, [2])
    )
    assert (first, last) == (b"1", b"2")
    assert isinstance(error, ReplyError)
    assert "arithmetic" in str(error)


async def test_requests_of_one_turn_leave_in_few_writes(links: Links) -> None:
    link = links.to()
    await client_id(link)

    async def reads() -> int:
        return int((await links.redis.info("stats"))["total_reads_processed"])

    before = await reads()
    assert await outcomes(*echoes(link, range(2_000))) == [b"%d" % n for n in range(2_000)]
    # 60 kB, of which Redis reads 16 at a time.
    assert await reads() - before < 20


class Writes:
    """A transport that counts writes."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.count += 1
        self.transport.write(data)


async def test_requests_of_one_turn_are_one_write(links: Links) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection
    transports: list[Writes] = []

    def counted(made: Callable[[Any], None], transport: Any) -> None:
        transports.append(Writes(transport))
        made(transports[-1])

    def connecting(make: Callable[[], Any], *where: Any, **how: Any) -> Any:
        def protocol() -> Any:
            made = make()
            made.connection_made = partial(counted, made.connection_made)
            return made

        return connect(protocol, *where, **how)

    loop.create_connection = connecting  # type: ignore[assignment,method-assign]
    try:
        link = links.to()
        await client_id(link)
    finally:
        del loop.create_connection
    [writes] = transports
    before = writes.count
    assert await outcomes(*echoes(link, range(2_000))) == [b"%d" % n for n in range(2_000)]
    assert writes.count == before + 1


async def test_flushed_scripts_are_known_again_to_all_that_wait(links: Links) -> None:
    shop = await links.shop()
    await links.redis.script_flush()
    found = await outcomes(*(shop.add() for _ in range(100)))
    assert Counter(type(one) for one in found) == {Cart: 100}
    assert sorted(cart.total_quantity for cart in found) == list(range(1, 101))


class Failing:
    """A runner whose script writes, and then fails."""

    def script(self, _: str) -> Script:
        source = "#!lua\nredis.call('INCR', KEYS[1])\nerror('NOSCRIPT after all')\n"
        return Script(source, ((1, "failing.lua"),))


async def test_a_script_that_failed_is_not_run_again(links: Links) -> None:
    class Runs(Failing, links.runners.Runner):  # type: ignore[name-defined,misc]
        pass

    runner = links.runner(kind=Runs)
    for runs in (1, 2):
        [outcome] = await outcomes(runner.run("failing", ["runs"], []))
        assert unknown(outcome)
        assert "NOSCRIPT after all" in str(outcome)
        assert await links.redis.get("runs") == b"%d" % runs


# A connection that is lost.


async def test_a_lost_reply_is_not_asked_for_again(links: Links) -> None:
    async with Proxy(links.url) as proxy:
        shop = await links.shop(proxy.url)
        await shop.add()
        proxy.drop_replies = True
        [outcome] = await outcomes(shop.add())
        assert unknown(outcome)
        proxy.drop_replies = False
        assert proxy.dropped == 1
        # Done once, and said to be unknown; the next add finds a connection that works.
        assert (await links.redis.hget("cart:{default:0}:session:ann", f"q:{LAMP}")) == b"2"
        assert (await shop.add()).total_quantity == 3


async def test_all_that_wait_on_a_lost_connection_are_told_and_none_is_done_twice(
    links: Links,
) -> None:
    names = [f"counter-{number}" for number in range(1_000)]
    async with Proxy(links.url) as proxy:
        link = links.to(proxy.url)
        before = await client_id(link)
        proxy.drop_replies = True
        waiting = [link.send(pack(("INCR", name))) for name in names]
        left = echoes(link, [0])
        left[0].cancel()
        found = await outcomes(*waiting)
        assert Counter(type(one) for one in found) == {OutcomeUnknown: 1_000}
        proxy.drop_replies = False
        assert await client_id(link) != before
        assert proxy.dropped == 1
    assert set(await links.redis.mget(names)) <= {b"1", None}
    # Of the first at least, Redis had sent the reply.
    assert await links.redis.get(names[0]) == b"1"


async def test_what_was_answered_before_the_connection_broke_stays_answered(links: Links) -> None:
    async def answer_three(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for command in after_greeting(client, to_client):
            if command[-1] == b"9":
                to_client.write(b":0\r\n:1\r\n:2\r\n$5\r\nhal")
                return

    async with Peer(answer_three) as peer:
        found = await outcomes(*echoes(links.to(peer.url), range(10)))
    assert found[:3] == [0, 1, 2]
    assert [unknown(one) for one in found[3:]] == [True] * 7


async def test_a_killed_connection_is_replaced(links: Links) -> None:
    link = links.to()
    killed = await client_id(link)
    waiting = link.send(pack(("BLPOP", "nothing", 0)))
    await wait_until(lambda: blocked(links))
    await links.redis.client_kill_filter(_id=str(killed))
    [outcome] = await outcomes(waiting)
    assert unknown(outcome)
    assert await client_id(link) != killed


async def blocked(links: Links) -> bool:
    return bool((await links.redis.info("clients"))["blocked_clients"])


async def test_a_replica_is_left(links: Links, own: embedded.Valkey) -> None:
    shop = await links.shop(own.url)
    await shop.add()
    link = shop.runner.link
    before = await client_id(link)
    assert await asked(link, "REPLICAOF", "127.0.0.1", free_port()) == b"OK"
    found = await outcomes(shop.add(), shop.add())
    assert [unknown(one) for one in found] == [True, True]
    assert await client_id(link) != before
    assert await asked(link, "REPLICAOF", "NO", "ONE") == b"OK"
    assert (await shop.add()).total_quantity == 2


@contextmanager
def own_valkey(folder: Path) -> Iterator[embedded.Valkey]:
    """A Valkey that a test may break."""
    server = embedded.Valkey(folder, durable=False)
    with embedded.running(server):
        yield server


@pytest.fixture
def own(servers_folder: Path, tmp_path: Path) -> Iterator[embedded.Valkey]:
    with own_valkey(servers_folder / tmp_path.name) as server:
        yield server


# A Redis that does not answer.


async def test_a_redis_that_hangs_fails_all_in_time_and_shifts_nothing_later(links: Links) -> None:
    timeout_s = 0.3
    async with Proxy(links.url) as proxy:
        link = links.to(proxy.url, timeout_s=timeout_s)
        await client_id(link)
        proxy.hang = True
        begun = time.monotonic()
        found = await outcomes(*echoes(link, range(50)), within_s=2)
        assert [unknown(one) for one in found] == [True] * 50
        assert timeout_s * 0.9 < time.monotonic() - begun < timeout_s + 0.5
        for _ in range(3):
            begun = time.monotonic()
            assert unknown(await asked(link, "ECHO", "late", within_s=2))
            assert time.monotonic() - begun < timeout_s + 0.5
        proxy.hang = False
        await answers_again(link)
        found = await outcomes(*echoes(link, range(50)), within_s=2)
        assert found == [b"%d" % number for number in range(50)]


async def answers_again(link: Link) -> None:
    async def answer() -> Any:
        return await asked(link, "ECHO", "back")

    await wait_until(answer, b"back")


async def test_a_late_reply_among_others_fails_its_asker_alone(links: Links) -> None:
    link = links.to(timeout_s=0.5)
    before = await client_id(link)
    # Each is done once the one before it is: after 0.3, 0.6 and 0.9 s.
    slow = [link.send(pack(("BLPOP", "nothing", "0.3"))) for _ in range(3)]
    first, *late = await outcomes(*slow)
    assert first is None
    assert [unknown(one) for one in late] == [True, True]
    await answers_again(link)
    assert await outcomes(*echoes(link, range(50))) == [b"%d" % number for number in range(50)]
    assert await client_id(link) == before


class Held:
    """Talks as Redis does, but keeps the answer to `ECHO held`, and what is after it."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def __call__(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for _, text in after_greeting(client, to_client):
            if text == b"held":
                await self.free.wait()
            to_client.write(b"$%d\r\n%b\r\n" % (len(text), text))


async def test_a_late_reply_is_not_the_next_ones(links: Links) -> None:
    held = Held()
    async with Peer(held) as peer:
        link = links.to(peer.url, timeout_s=0.3)
        waiting = [link.send(pack(("ECHO", text))) for text in ("first", "held")]
        assert (await outcomes(waiting[0])) == [b"first"]
        late = await outcomes(waiting[1], within_s=2)
        assert [unknown(one) for one in late] == [True]
        following = link.send(pack(("ECHO", "following")))
        held.free.set()
        assert await outcomes(following) == [b"following"]
        assert peer.connections == 1


async def test_each_has_a_deadline_of_its_own(links: Links) -> None:
    await fails_after_another(links, leaves=False)


async def test_who_left_keeps_nobody_from_a_deadline(links: Links) -> None:
    await fails_after_another(links, leaves=True)


async def fails_after_another(links: Links, *, leaves: bool) -> None:
    """One waits for a reply, or leaves; another that came later fails in time all the same."""
    timeout_s = 0.3
    async with Peer(Held()) as peer:
        link = links.to(peer.url, timeout_s=timeout_s)
        first, held = (link.send(pack(("ECHO", text))) for text in ("first", "held"))
        assert await outcomes(first) == [b"first"]
        if leaves:
            held.cancel()
        begun = time.monotonic()
        await wait_until(lambda: time.monotonic() > begun + 0.1)
        assert unknown(await asked(link, "ECHO", "later", within_s=2))
        assert time.monotonic() - begun < timeout_s + 0.5
        assert leaves or unknown(held.exception())


class Slow(Proxy):
    """Passes nothing on for a while after it was connected."""

    async def forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await wait_until(lambda: loop.time() > begun + 0.7)
        await super().forward(client, to_client)


async def test_slow_connecting_is_part_of_the_wait(links: Links, certificate: Path) -> None:
    async def greets(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for command in after_greeting(client, to_client):
            asked_for[command[0]] += 1

    asked_for: Counter[bytes] = Counter()
    async with Peer(greets, tls=tls_of(certificate)) as peer, Slow(with_password(peer)) as slow:
        url = slow.url.replace("redis:", "rediss:")
        link = links.to(f"{url}?ssl_ca_certs={certificate}", timeout_s=2)
        begun = time.monotonic()
        assert unknown(await asked(link, "ECHO", "x", within_s=4))
        assert 1.9 < time.monotonic() - begun < 2.6
        assert asked_for == {b"ECHO": 1}


async def test_a_handshake_that_does_not_end_is_given_up(links: Links) -> None:
    async with Peer(silent) as peer:
        link = links.to(peer.url.replace("redis:", "rediss:"), timeout_s=0.3)
        assert unknown(await asked(link, "PING", within_s=2))


async def silent(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    while await client.read(65_536):
        pass


# How many may wait.


async def test_no_more_than_a_number_wait(links: Links) -> None:
    async with Proxy(links.url) as proxy:
        link = links.to(proxy.url, in_flight=5, timeout_s=0.4)
        assert await outcomes(*echoes(link, range(5))) == [b"%d" % n for n in range(5)]
        proxy.hang = True
        waiting = [link.send(pack(("INCR", "sent"))) for _ in range(5)]
        with pytest.raises(Busy) as busy:
            link.send(pack(("INCR", "sent")))
        assert busy.value.in_flight == 5
        # Their replies are still to come: who leaves makes no place.
        for one in waiting[:2]:
            one.cancel()
        with pytest.raises(Busy):
            link.send(pack(("INCR", "sent")))
        await outcomes(*waiting)
        proxy.hang = False
        await answers_again(link)
        assert await outcomes(*echoes(link, range(5))) == [b"%d" % n for n in range(5)]
        assert await links.redis.get("sent") == b"5"


async def test_no_more_than_a_number_wait_for_a_connection(links: Links) -> None:
    async with Proxy(links.url) as proxy:
        proxy.hang = True
        link = links.to(proxy.url, in_flight=5, timeout_s=0.4)
        waiting = [link.send(pack(("INCR", "sent"))) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(Busy):
                link.send(pack(("INCR", "sent")))
            await wait_until(lambda: proxy.connections)
        found = await outcomes(*waiting)
        assert [unknown(one) for one in found] == [True] * 5
        proxy.hang = False
        await answers_again(link)
        assert await links.redis.get("sent") is None


async def test_one_too_many_is_503_and_changes_nothing(shop: Shop, valkey: embedded.Valkey) -> None:
    await shop.sell()
    async with Proxy(valkey.url) as proxy:
        settings = Settings(
            redis_url=proxy.url, redis_in_flight=1, redis_timeout_s=1, jwt_secret=SECRET
        )
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            request = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}
            assert (await http.post("/api/cart", json=request)).status_code == 200
            proxy.hang = True
            waiting = asyncio.create_task(
                http.post("/api/cart", json=request | {"session_id": "ben"})
            )
            key = f"q:{LAMP}"
            await wait_until(lambda: shop.redis.hget("cart:{default:0}:session:ben", key), b"1")
            before = await shop.everything()
            refused = await http.post("/api/cart", json=request)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["success"] is False
            assert refused.json()["error"] == {"code": "unavailable"}
            assert (await waiting).status_code == 503
            assert await shop.everything() == before


# Connecting again.


async def hammered(link: Link, seconds: float) -> None:
    """Ask as often as one can; nothing is answered."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert unknown(await asked(link, "ECHO", "x", within_s=2))


FEW = 8
"""Attempts in 0.4 s: the shortest waits are 0.01, 0.02, 0.04, 0.08, 0.125, 0.125."""


async def test_a_closed_port_is_tried_now_and_then(links: Links) -> None:
    await hammered(links.to(f"redis://127.0.0.1:{free_port()}/0"), 0.4)
    assert 2 <= links.attempts <= FEW


async def closing(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    """Close at once."""


async def test_a_server_that_closes_at_once_is_tried_now_and_then(links: Links) -> None:
    async with Peer(closing) as peer:
        await hammered(links.to(with_password(peer)), 0.4)
        assert 2 <= peer.connections <= FEW


async def test_a_server_without_a_password_that_closes_at_once_is_tried_now_and_then(
    links: Links,
) -> None:
    async with Peer(closing) as peer:
        await hammered(links.to(peer.url), 0.4)
        assert 2 <= peer.connections <= FEW


class Clock:
    """The loop's time, which passes only when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()

    def __call__(self) -> float:
        return self.now


STEP_S = 0.0005


async def test_the_waits_between_attempts_grow_differ_and_start_anew(
    links: Links,
) -> None:
    loop = asyncio.get_running_loop()
    loop.time = clock = Clock(loop)  # type: ignore[method-assign]
    try:
        await waits_grow(links, clock)
    finally:
        del loop.time


async def waits_grow(links: Links, clock: Clock) -> None:

    async def waited(link: Link) -> float:
        """How long it did not try again, from now on; then it tries, in vain."""
        begun = clock.now
        while (future := link.send(pack(("PING",)))).done():
            assert unknown(future.exception())
            clock.now += STEP_S
            assert clock.now - begun < 2 * BACKOFF_S[1]
        found = await asyncio.gather(future, return_exceptions=True)
        assert [unknown(one) for one in found] == [True]
        return clock.now - begun

    async with Proxy(links.url) as proxy:
        proxy.refuse = True
        waits = []
        for _ in range(5):
            link = links.to(proxy.url)
            # There was no failure yet.
            assert await waited(link) == 0
            waits.append([await waited(link) for _ in range(6)])
        first, most = BACKOFF_S
        for number, of_each in enumerate(zip(*waits, strict=True)):
            longest = min(most, first * 2**number)
            assert all(longest / 2 <= wait <= longest + STEP_S for wait in of_each)
            assert len(set(of_each)) > 1
        proxy.refuse = False
        clock.now += most
        assert await link.send(pack(("ECHO", "back"))) == b"back"
        proxy.drop_replies = proxy.refuse = True
        # This one had a connection, and the next does not wait for another.
        assert await waited(link) == 0
        assert await waited(link) == 0
        assert first / 2 <= await waited(link) <= first + STEP_S


# Where Redis is.


async def test_urls_say_who_connects_and_to_which_database(links: Links) -> None:
    target = urlsplit(links.url)
    password, place = target.password, f"127.0.0.1:{target.port}"
    await links.redis.execute_command(
        "ACL", "SETUSER", "cart", "on", ">a secret: @/", "~*", "+@all"
    )
    try:
        for url, user, number in (
            (f"redis://:{password}@{place}", b"default", 0),
            (f"redis://default:{password}@{place}/0", b"default", 0),
            (f"redis://cart:a%20secret%3A%20%40%2F@{place}/3", b"cart", 3),
        ):
            link = links.to(url)
            assert await asked(link, "ACL", "WHOAMI") == user
            assert f" db={number} ".encode() in await asked(link, "CLIENT", "INFO")
    finally:
        await links.redis.execute_command("ACL", "DELUSER", "cart")


async def test_a_wrong_password_is_told_of_without_it(links: Links) -> None:
    port = urlsplit(links.url).port
    for user in ("", "default", "nobody"):
        link = links.to(f"redis://{user}:hunter2@127.0.0.1:{port}/0")
        error = await asked(link, "PING", within_s=2)
        assert unknown(error)
        assert "WRONGPASS" in str(error)
        assert "hunter2" not in str(error)


async def test_a_database_that_is_not_there_is_told_of(links: Links) -> None:
    error = await asked(links.to(links.url.replace("/0", "/1000")), "PING", within_s=2)
    assert unknown(error)
    assert "out of range" in str(error)


async def test_a_unix_socket(links: Links, tmp_path: Path) -> None:
    async with Proxy(links.url, path=tmp_path / "redis") as proxy:
        link = links.to(proxy.url.replace("db=0", "db=2"))
        assert b" db=2 " in await asked(link, "CLIENT", "INFO")
        assert proxy.connections == 1
        gone = links.to(f"unix://{tmp_path}/nowhere?db=0")
        assert unknown(await asked(gone, "PING", within_s=2))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, and its key, in a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "redis.pem"
    file.write_bytes(signed.public_bytes(pem) + secret)
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_tls(links: Links, certificate: Path) -> None:
    async with Proxy(links.url, tls=tls_of(certificate)) as proxy:
        link = links.to(f"{proxy.url}?ssl_ca_certs={certificate}")
        assert await outcomes(*echoes(link, range(2_000))) == [b"%d" % n for n in range(2_000)]
        large = "x" * 1_000_000
        assert await asked(link, "ECHO", large) == large.encode()
        assert proxy.connections == 1


async def test_tls_that_is_not_to_be_trusted(links: Links, certificate: Path) -> None:
    async with Proxy(links.url, tls=tls_of(certificate)) as proxy:
        error = await asked(links.to(proxy.url), "PING", within_s=2)
        assert unknown(error)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        # One of another name.
        elsewhere = proxy.url.replace("127.0.0.1", "localhost")
        error = await asked(links.to(f"{elsewhere}?ssl_ca_certs={certificate}"), "PING", within_s=2)
        assert unknown(error)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)


async def test_tls_is_spoken_by_both_or_there_is_no_connection(
    links: Links, certificate: Path
) -> None:
    async with Proxy(links.url, tls=tls_of(certificate)) as proxy:
        plain = links.to(proxy.url.replace("rediss:", "redis:"), timeout_s=1)
        assert unknown(await asked(plain, "PING", within_s=2))
    with_tls = links.to(links.url.replace("redis:", "rediss:"), timeout_s=1)
    assert unknown(await asked(with_tls, "PING", within_s=2))


# A peer that is no Redis.


async def test_a_peer_that_is_no_redis(links: Links) -> None:
    async def http(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for _ in commands(client):
            to_client.write(b"HTTP/1.1 400 Bad Request\r\n")

    async with Peer(http) as peer:
        for url in (peer.url, with_password(peer)):
            link = links.to(url)
            before = peer.connections
            assert unknown(await asked(link, "PING", within_s=2))
            await wait_until(partial(tries_again, link, peer))
            assert peer.connections >= before + 2


async def tries_again(link: Link, peer: Peer) -> bool:
    before = peer.connections
    assert unknown(await asked(link, "PING", within_s=2))
    return peer.connections > before


async def test_a_reply_that_nobody_asked_for(links: Links) -> None:
    async def talkative(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for _, text in after_greeting(client, to_client):
            to_client.write(b"+%b\r\n+more\r\n" % text)

    async with Peer(talkative) as peer:
        link = links.to(peer.url)
        assert await asked(link, "ECHO", "one") == b"one"
        # Another connection: `more` is nobody's.
        assert await asked(link, "ECHO", "two") == b"two"
        assert peer.connections == 2


async def test_a_reply_that_nobody_asked_for_while_connecting(links: Links) -> None:
    async def talkative(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for _ in commands(client):
            to_client.write(b"+OK\r\n+more\r\n")

    async with Peer(talkative) as peer:
        link = links.to(with_password(peer))
        assert unknown(await asked(link, "ECHO", "one", within_s=2))
        await wait_until(lambda: tries_again(link, peer))


async def test_a_redis_that_has_no_place_says_so(links: Links) -> None:
    async def full(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_client.write(b"-ERR max number of clients reached\r\n")
        await to_client.drain()

    async with Peer(full) as peer:
        for url in (peer.url, with_password(peer)):
            [outcome] = await outcomes(links.runner(url).run("cart_add", [], []), within_s=2)
            assert unknown(outcome)


# The end.


async def test_a_link_that_was_never_used_closes(links: Links) -> None:
    await links.to().aclose()
    assert links.attempts == 0


async def test_closing_fails_what_waits(links: Links) -> None:
    link = links.to()
    await client_id(link)
    waiting = [link.send(pack(("BLPOP", f"nothing-{number}", 0))) for number in range(2)]
    await wait_until(lambda: blocked(links))
    await link.aclose()
    found = await outcomes(*waiting, within_s=2)
    assert [unknown(one) for one in found] == [True, True]
    await wait_until(lambda: blocked(links), False)
    await nothing_is_left()


async def nothing_is_left() -> None:
    gc.collect()
    await asyncio.sleep(0)
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert not [name for name in names if name.startswith("Link.")]


async def test_a_link_is_closed_while_it_connects(links: Links) -> None:
    async with Proxy(links.url) as proxy:
        proxy.hang = True
        link = links.to(proxy.url)
        waiting = link.send(pack(("PING",)))
        await wait_until(lambda: proxy.connections)
        await outcomes(link.aclose(), within_s=2)
        found = await outcomes(waiting, within_s=2)
        assert [unknown(one) for one in found] == [True]
        await nothing_is_left()


async def test_a_link_is_closed_before_it_began_to_connect(links: Links) -> None:
    link = links.to()
    waiting = link.send(pack(("PING",)))
    await link.aclose()
    found = await outcomes(waiting, within_s=2)
    assert [unknown(one) for one in found] == [True]
    await nothing_is_left()


# Over HTTP.


class Shoppers:
    """One connection after another: of the shoppers, one in ten leaves without an answer."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.host, self.port = address.hostname, address.port
        self.chance = random.Random(7)
        self.asked: dict[str, int] = {}
        self.answered: dict[str, tuple[str, int]] = {}

    async def run(self, names: Iterable[str]) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        for name in names:
            self.asked[name] = units = self.chance.randint(1, 90)
            body = {"product_id": LAMP, "quantity": units, "session_id": name}
            content = json.dumps(body).encode()
            head = (
                f"POST /api/cart HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            writer.write(head.encode() + content)
            if self.chance.random() < 0.1:
                writer.close()
                reader, writer = await asyncio.open_connection(self.host, self.port)
            else:
                self.answered[name] = await self._answer(reader)
        writer.close()
        await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        assert status == "HTTP/1.1 200 OK"
        headers = dict(line.lower().split(": ", 1) for line in lines)
        data = json.loads(await reader.readexactly(int(headers["content-length"])))["data"]
        return data["session_id"], data["cart"]["total_items"]


async def test_every_answer_over_http_is_its_askers(api_url: str, shop: Shop) -> None:
    await shop.sell(stock=1_000_000)
    shoppers = Shoppers(api_url)
    await asyncio.gather(
        *(shoppers.run([f"shopper-{lane}-{n}" for n in range(64)]) for lane in range(64))
    )
    assert shoppers.answered == {name: (name, shoppers.asked[name]) for name in shoppers.answered}
    assert 3_000 < len(shoppers.answered) < 4_000
    pipeline = shop.redis.pipeline(transaction=False)
    for name in shoppers.asked:
        pipeline.hget(f"cart:{{default:0}}:session:{name}", f"q:{LAMP}")
    held = dict(zip(shoppers.asked, await pipeline.execute(), strict=True))
    served = {name: int(quantity) for name, quantity in held.items() if quantity is not None}
    assert served == {name: shoppers.asked[name] for name in served}
    assert set(shoppers.answered) <= set(served)


# The other loop.

Case = Callable[[Links], Awaitable[None]]

CASES: list[Case] = [
    test_every_answer_is_its_askers,
    test_a_request_that_is_cancelled_at_any_point_shifts_nothing,
    test_what_is_cancelled_before_there_is_a_connection_is_not_sent,
    test_who_left_is_nothing_to_the_others,
    test_an_error_is_told_to_its_asker_alone,
    test_requests_of_one_turn_leave_in_few_writes,
    test_a_lost_reply_is_not_asked_for_again,
    test_all_that_wait_on_a_lost_connection_are_told_and_none_is_done_twice,
    test_what_was_answered_before_the_connection_broke_stays_answered,
    test_a_killed_connection_is_replaced,
    test_a_redis_that_hangs_fails_all_in_time_and_shifts_nothing_later,
    test_a_late_reply_is_not_the_next_ones,
    test_each_has_a_deadline_of_its_own,
    test_who_left_keeps_nobody_from_a_deadline,
    test_a_handshake_that_does_not_end_is_given_up,
    test_no_more_than_a_number_wait_for_a_connection,
    test_a_closed_port_is_tried_now_and_then,
    test_a_server_that_closes_at_once_is_tried_now_and_then,
    test_a_wrong_password_is_told_of_without_it,
    test_a_peer_that_is_no_redis,
    test_a_reply_that_nobody_asked_for,
    test_closing_fails_what_waits,
    test_a_link_is_closed_while_it_connects,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
def test_on_the_loop_of_the_service(valkey: embedded.Valkey, case: Case) -> None:
    async def run() -> None:
        async with Links(valkey.url) as links:
            await case(links)

    uvloop.run(run())


def test_tls_on_the_loop_of_the_service(valkey: embedded.Valkey, certificate: Path) -> None:
    async def run() -> None:
        async with Links(valkey.url) as links:
            await test_tls(links, certificate)
            await test_tls_that_is_not_to_be_trusted(links, certificate)

    uvloop.run(run())
