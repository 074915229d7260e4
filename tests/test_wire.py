"""How responses leave: in one write each, whole, and in order; and as uvicorn's own would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from starlette.types import Scope

from cartsvc import wire as wire_module
from cartsvc.bounds import Bounded
from cartsvc.http import Endpoint, Reply, reply
from cartsvc.wire import Protocol, _OneWrite
from tests import wait
from tests.connections import Place, Wire
from tests.mutants import mutant, turns_red
from tests.wait import wait_until


class Noting(asyncio.Transport):
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.gone = False

    def write(self, data: Any) -> None:
        self.told.append(b"too late: " + data if self.gone else data)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return self.gone


async def a_turn() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


async def test_what_comes_in_a_turn_leaves_in_one_write() -> None:
    wire = Noting()
    transport = _OneWrite(wire)
    for piece in (b"head ", b"body, ", b"head ", b"body"):
        transport.write(piece)
    assert wire.told == []
    await a_turn()
    assert wire.told == [b"head body, head body"]
    transport.write(b"more")
    await a_turn()
    assert wire.told[1:] == [b"more"]


async def test_a_close_comes_behind_what_was_written() -> None:
    wire = Noting()
    transport = _OneWrite(wire)
    transport.write(b"head ")
    transport.write(b"body")
    transport.close()
    await a_turn()
    assert wire.told == [b"head body", "close"]


async def test_a_client_that_has_left_is_told_nothing() -> None:
    wire = Noting()
    transport = _OneWrite(wire)
    transport.write(b"head")
    wire.gone = True
    await a_turn()
    wire.gone = False
    transport.write(b"other")
    await a_turn()
    assert wire.told == [b"other"]


async def test_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Noting, "is_closing", lambda _: False)
        await turns_red(test_a_client_that_has_left_is_told_nothing())
    monkeypatch.setattr(_OneWrite, "close", lambda self: self._transport.close())
    await turns_red(test_a_close_comes_behind_what_was_written())


# Exchanges.

LIMIT = 20


class Shop(Place):
    """It has one endpoint, at every path, whose answers are as the methods say."""

    def __init__(self, protocol: type[Bounded]) -> None:
        self.bodies: list[bytes] = []
        methods = {"GET": self._get, "POST": self._post, "DELETE": self._delete, "PUT": self._put}
        endpoint = Endpoint("session", "/a", methods, self._refuse, LIMIT)
        super().__init__(protocol, endpoint)

    async def _get(self, _: Scope, __: bytes) -> Reply:
        return reply(200, {"a": 1}, (b"allow", b"everything"))

    async def _post(self, _: Scope, body: bytes) -> Reply:
        self.bodies.append(body)
        return Reply(201, body)

    async def _delete(self, _: Scope, __: bytes) -> Reply:
        return Reply(204, b"")

    async def _put(self, _: Scope, body: bytes) -> Reply:
        return Reply(200, b"", ((b"x", body),))

    def _refuse(self, error: Exception, _: Scope) -> Reply:
        return reply(404, {"error": type(error).__name__})

    async def answered(self, count: int) -> None:
        await wait_until(lambda: self.state.total_requests, count)
        await a_turn()


@contextlib.asynccontextmanager
async def serving(protocol: type[Bounded] = Protocol) -> AsyncIterator[Shop]:
    place = Shop(protocol)
    try:
        yield place
    finally:
        await place.close()


ID = b"X-Request-ID: mine\r\n"
BODY = b"Content-Length: 4\r\n\r\nbody"
REQUESTS = {
    "read": b"GET /a HTTP/1.1\r\n" + ID + b"\r\n",
    "read and close": b"GET /a HTTP/1.1\r\nConnection: close\r\n" + ID + b"\r\n",
    "read of long ago": b"GET /a HTTP/1.0\r\n" + ID + b"\r\n",
    "head": b"HEAD /a HTTP/1.1\r\n" + ID + b"\r\n",
    "no method": b"PATCH /a HTTP/1.1\r\n" + ID + BODY,
    "add": b"POST /a HTTP/1.1\r\n" + ID + BODY,
    "add in chunks": b"POST /a HTTP/1.1\r\n"
    + ID
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
    "add that asks first": b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\n" + ID + BODY,
    "add of nothing": b"POST /a HTTP/1.1\r\n" + ID + b"\r\n",
    "add of too much": b"POST /a HTTP/1.1\r\n" + ID + b"Content-Length: 21\r\n\r\n" + b"a" * 21,
    "remove": b"DELETE /a HTTP/1.1\r\n" + ID + b"\r\n",
    "change": b"PUT /a HTTP/1.1\r\n" + ID + BODY,
    "two at once": b"POST /a HTTP/1.1\r\n" + ID + BODY + b"GET /a HTTP/1.1\r\n" + ID + b"\r\n",
    "another protocol": b"POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + ID + BODY,
}


GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("step", [256_000, 30, 7])
@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_is_uvicorns(name: str, step: int) -> None:
    await as_uvicorn(wire_module, name, step)


async def as_uvicorn(module: ModuleType, name: str, step: int = 256_000) -> None:
    """Byte for byte, and with the connection open or closed behind it."""
    found = []
    for protocol in (Bounded, module.Protocol):
        async with serving(protocol) as place:
            client = await place.connect().send(REQUESTS[name], step)
            await place.answered(1 + (name == "two at once"))
            # Who has the body need not say that it may come (RFC 9110, 10.1.1); uvicorn does.
            answer = client.arrived.removeprefix(GO_ON)
            assert answer.startswith(b"HTTP/1.1 ")
            found.append((answer, client.is_open, place.bodies))
    assert found[0] == found[1]


async def test_a_body_that_waits_to_be_asked_for_is_asked_for() -> None:
    async with serving() as place:
        client = await place.connect().send(REQUESTS["add that asks first"].removesuffix(b"body"))
        await wait_until(lambda: client.arrived, GO_ON)
        await client.send(b"body")
        await place.answered(1)
        assert client.arrived.startswith(GO_ON + b"HTTP/1.1 201 ")


async def test_a_header_that_goes_on_in_another_line_is_not_sent() -> None:
    await goes_on(wire_module)


async def goes_on(module: ModuleType) -> None:
    for broken in (b"a\r\nb:", b"a\nb: c", b"a\rb: c"):
        async with serving(module.Protocol) as place:
            change = b"PUT /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(broken), broken)
            client = await place.connect().send(change)
            await client.closed((500, b"Internal Server Error"))
            assert b"b:" not in client.arrived


async def unread_by(place: Shop) -> Wire:
    """A client that takes nothing any more, and whose answer is due."""
    client = place.connect()
    client.protocol.pause_writing()
    await client.send(REQUESTS["add"])
    await wait_until(lambda: place.bodies, [b"body"])
    return client


async def test_what_is_not_read_is_not_written_on() -> None:
    await unread(wire_module)


async def unread(module: ModuleType) -> None:
    async with serving(module.Protocol) as place:
        client = await unread_by(place)
        for _ in range(3):
            await a_turn()
        assert client.arrived == b""
        client.protocol.resume_writing()
        await client.answered((201, b"body"))


async def test_who_left_asks_for_nothing() -> None:
    await left(wire_module)


async def left(module: ModuleType) -> None:
    async with serving(module.Protocol) as place:
        client = place.connect()
        client.protocol.data_received(REQUESTS["add"])
        client.protocol.connection_lost(None)
        await wait_until(lambda: len(place.state.tasks), 0)
        assert (client.arrived, place.bodies) == (b"", [])


async def test_who_leaves_is_not_answered() -> None:
    await leaves(wire_module)


async def leaves(module: ModuleType) -> None:
    async with serving(module.Protocol) as place:
        client = await unread_by(place)
        client.close()
        await wait_until(lambda: len(place.state.tasks), 0)
        assert (client.arrived, place.state.total_requests) == (b"", 0)


GUARDS: list[tuple[str, str, Callable[[ModuleType], Awaitable[None]]]] = [
    ("cycle.more_body or", "", partial(as_uvicorn, name="add in chunks", step=7)),
    ("cycle.more_body or cycle.disconnected", "cycle.more_body", left),
    ("cycle.flow.write_paused and not cycle.disconnected", "False", unread),
    ("if cycle.disconnected:", "if False:", leaves),
    (
        "if not cycle.keep_alive:\n            lines",
        "if False:\n            lines",
        partial(as_uvicorn, name="read and close"),
    ),
    ("cycle.transport.close()", "pass", partial(as_uvicorn, name="read of long ago")),
    ('if cycle.scope["method"] == "HEAD":', "if False:", partial(as_uvicorn, name="head")),
    ('head.count(b"\\n")', "len(lines) - 1", goes_on),
    ('head.count(b"\\r")', "len(lines) - 1", goes_on),
]


@pytest.mark.parametrize(("old", "new", "case"), GUARDS)
async def test_guards_of_exchanges(
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    case: Callable[[ModuleType], Awaitable[None]],
) -> None:
    monkeypatch.setattr(wait, "LONGEST_S", 0.2)
    await turns_red(case(mutant(wire_module, old, new)))


async def test_the_service_answers_in_one_packet(api_url: str) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    class Client(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            arrived.put_nowait(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Client, host, int(port))
    for _ in range(10):
        transport.write(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = await arrived.get()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"status":"ok"}')
    transport.close()
