"""What one connection may ask of a process, and what becomes of those who ask for more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from cartsvc import bounds as bounds_module
from tests import wait
from tests.connections import HEAD_BYTES, KEEP_ALIVE_S, REQUEST_S, Answer, Place
from tests.mutants import mutant, turns_red
from tests.wait import wait_until

GET = b"GET /a HTTP/1.1\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

A, B = (200, b"/a"), (200, b"/b")


class Echo(Place):
    """It answers with the path that was asked for: `/a` once `may_answer` is set, and all without
    their bodies if it `is_hasty`. `left` clients left before their requests were there.
    """

    def __init__(self, module: ModuleType, connections: int) -> None:
        super().__init__(module.Bounded, self._answer, connections)
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.left = 0
        self.is_hasty = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while not self.is_hasty:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.asked.append((scope["method"], scope["path"], body))
        self.headers.append(scope["headers"])
        if scope["path"] == "/a":
            await self.may_answer.wait()
        answer = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def serving(
    module: ModuleType = bounds_module, connections: int = 100
) -> AsyncIterator[Echo]:
    place = Echo(module, connections)
    try:
        yield place
    finally:
        place.may_answer.set()
        await place.close()


# Heads.


def head_of(size: int) -> bytes:
    """A request whose path and headers have so many bytes."""
    return b"GET /a?%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * (size - 8))


@pytest.mark.parametrize("step", [256_000, 700, 7])
async def test_a_head_has_a_largest_size(step: int) -> None:
    await heads(bounds_module, step)


async def heads(module: ModuleType, step: int) -> None:
    async with serving(module) as place:
        await (await place.connect().send(head_of(HEAD_BYTES), step)).answered(A)
        await (await place.connect().send(head_of(HEAD_BYTES + 1), step)).refused(431)
        assert len(place.asked) == 1


@pytest.mark.parametrize(("before", "first"), [(GET, A), (POST, B)])
async def test_so_has_one_that_begins_behind_another_request(before: bytes, first: Answer) -> None:
    await heads_behind(bounds_module, before, first)


async def heads_behind(module: ModuleType, before: bytes, first: Answer) -> None:
    async with serving(module) as place:
        for size in (HEAD_BYTES, HEAD_BYTES + 1):
            head = head_of(size)
            wire = await place.connect().send(before + head[:900])
            await wire.answered(first)
            await wire.send(head[900:])
            await (wire.answered(first, A) if size == HEAD_BYTES else wire.refused(431, first))


@pytest.mark.parametrize(
    "begin", [b"GET /", b"GET / HTTP/1.1\r\nX", b"GET / HTTP/1.1\r\nX: ", b"\r\n"]
)
async def test_a_head_without_end_is_refused_before_it_is_read(begin: bytes) -> None:
    await without_end(bounds_module, begin)


async def without_end(module: ModuleType, begin: bytes) -> None:
    more = b"\r\n" if begin == b"\r\n" else b"aa"
    async with serving(module) as place:
        for step in (10, 256_000):
            wire = await place.connect().send(begin + more * 20 * HEAD_BYTES, step)
            await wire.refused(431)
            assert wire.taken <= max(2 * HEAD_BYTES + step, step)
        assert place.asked == []


async def test_a_head_has_at_most_100_headers() -> None:
    await many_headers(bounds_module)


async def many_headers(module: ModuleType) -> None:
    async with serving(module) as place:
        for count, end in ((100, b"\r\n"), (101, b"\r\n"), (102, b"")):
            wire = await place.connect().send(GET[:-2] + b"a:\r\n" * count + end)
            await (wire.answered(A) if count == 100 else wire.refused(431))
        assert len(place.asked) == 1


# Bodies.


async def test_a_body_is_no_part_of_the_head() -> None:
    body = b"b" * 10 * HEAD_BYTES
    whole = POST.replace(b"4", b"%d" % len(body)).replace(b"body", body)
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    async with serving() as place:
        for step in (256_000, 900, 100):
            await (await place.connect().send(whole, step)).answered(B)
            chunked = CHUNKED + chunk * 3 + b"0\r\n\r\n"
            await (await place.connect().send(chunked, step)).answered(B)
        assert [one for _, _, one in place.asked] == [body, body * 3] * 3


@pytest.mark.parametrize("begin", [b"4;", b"4;a=", b"0\r\nX: ", b"4\r\nbody\r\n0\r\nX", b"0"])
async def test_what_surrounds_a_body_has_a_largest_size(begin: bytes) -> None:
    await around(bounds_module, begin)


async def around(module: ModuleType, begin: bytes) -> None:
    endless = CHUNKED + begin + (b"0" if begin == b"0" else b"a") * 10 * HEAD_BYTES
    async with serving(module) as place:
        wire = await place.connect().send(endless, 10)
        await wire.refused(431)
        assert wire.taken <= 2 * HEAD_BYTES + 100
        await (await place.connect().send(endless + b":\r\n\r\n")).refused(431)
        await wait_until(lambda: place.left, 2)
        assert place.asked == []


async def test_trailers_are_no_headers() -> None:
    await trailers(bounds_module)


async def trailers(module: ModuleType) -> None:
    """A proxy has looked at what stands before the body."""
    body = b"4\r\nbody\r\n0\r\nx-tenant-id: acme\r\n\r\n"
    async with serving(module) as place:
        await (await place.connect().send(CHUNKED + body + GET, 10)).answered(B, A)
        assert place.asked == [("POST", "/b", b"body"), ("GET", "/a", b"")]
        assert place.headers == [[(b"transfer-encoding", b"chunked")], []]


# Time.

PARTS = [b"GET /", GET[:-1], b"\r\n", POST[:-4], POST[:-1], CHUNKED + b"4\r\nbody\r\n"]


@pytest.mark.parametrize("part", PARTS)
async def test_a_request_has_to_arrive_in_time(part: bytes) -> None:
    await late(bounds_module, part)


async def late(module: ModuleType, part: bytes) -> None:
    """A byte now and then does not help."""
    more = {b"\r\n": b"\r\n", PARTS[-1]: b"1"}.get(part, b"a" if part == b"GET /" else b"")
    async with serving(module) as place:
        wire = place.connect()
        await wire.send(GET)
        await wire.answered(A)
        await wire.send(part)
        for _ in range(REQUEST_S - 1):
            place.clock.run(1)
            await wire.send(more)
        await wire.answered(A)
        place.clock.run(1)
        await wire.refused(408, A)
        assert len(place.asked) == 1
        await wait_until(lambda: place.left, int(b"\r\n\r\n" in part))


async def test_the_time_is_each_requests_own() -> None:
    await own_time(bounds_module)


async def own_time(module: ModuleType) -> None:
    async with serving(module) as place:
        wire = place.connect()
        for count in range(1, 6):
            place.may_answer.clear()
            await wire.send(GET[:5])
            place.clock.run(REQUEST_S - 1)
            await wire.send(GET[5:])
            await wait_until(lambda: len(place.asked), count)
            # What the answer takes does not count.
            place.clock.run(REQUEST_S + 1)
            place.may_answer.set()
            await wire.answered(*[A] * count)


async def test_so_has_one_that_begins_before_an_answer() -> None:
    await begun_before_an_answer(bounds_module)


async def begun_before_an_answer(module: ModuleType) -> None:
    async with serving(module) as place:
        place.may_answer.clear()
        wire = await place.connect().send(GET + GET[:5])
        place.may_answer.set()
        await wire.answered(A)
        place.clock.run(REQUEST_S - 1)
        await wire.answered(A)
        place.clock.run(1)
        await wire.refused(408, A)


async def test_a_body_that_comes_behind_its_answer_has_to_come_in_time() -> None:
    await late_behind_the_answer(bounds_module)


async def late_behind_the_answer(module: ModuleType) -> None:
    async with serving(module) as place:
        place.is_hasty = True
        wire = await place.connect().send(POST.replace(b"4", b"99"))
        await wire.answered(B)
        for _ in range(REQUEST_S):
            place.clock.run(1)
            await wire.send(b"a")
        # Another answer would be taken for that of the next request.
        await wire.closed(B)


async def test_a_connection_that_was_reset_leaves_nothing() -> None:
    await reset(bounds_module)


async def reset(module: ModuleType) -> None:
    async with serving(module) as place:
        for sent in (b"", GET, GET[:5], POST[:-1]):
            wire = await place.connect().send(sent)
            wire.protocol.pause_writing()
            wire.close(ConnectionResetError())


@pytest.mark.parametrize(("sent", "answers"), [(b"", []), (GET, [A])])
async def test_a_connection_without_a_request_is_kept_for_a_while(
    sent: bytes, answers: list[Answer]
) -> None:
    await idle(bounds_module, sent, answers)


async def idle(module: ModuleType, sent: bytes, answers: list[Answer]) -> None:
    async with serving(module) as place:
        wire = await place.connect().send(sent)
        place.clock.run(KEEP_ALIVE_S - 1 if not sent else 0)
        await wire.answered(*answers)
        place.clock.run(1 if not sent else KEEP_ALIVE_S)
        await wire.closed(*answers)


async def test_so_it_is_behind_a_slow_request() -> None:
    await idle_behind_a_slow_one(bounds_module)


async def idle_behind_a_slow_one(module: ModuleType) -> None:
    async with serving(module) as place:
        wire = place.connect()
        for part in (GET[:5], GET[5:]):
            place.clock.run(KEEP_ALIVE_S - 2)
            await wire.send(part)
        await wire.answered(A)
        place.clock.run(KEEP_ALIVE_S - 1)
        await wire.answered(A)
        place.clock.run(1)
        await wire.closed(A)


async def test_an_answer_has_to_be_read_in_time() -> None:
    await unread(bounds_module)


async def unread(module: ModuleType) -> None:
    async with serving(module) as place:
        slow, never, gone = [await place.connect().send(GET) for _ in range(3)]
        for wire in (slow, never, gone):
            await wire.answered(A)
            wire.protocol.pause_writing()
        await never.send(GET)
        # It is closed, but not gone until it has read.
        gone.is_open = False
        place.clock.run(KEEP_ALIVE_S - 1)
        slow.protocol.resume_writing()
        await slow.send(GET)
        await slow.answered(A, A)
        assert not never.is_aborted
        place.clock.run(REQUEST_S - KEEP_ALIVE_S + 1)
        await never.closed(A)
        assert [one.is_aborted for one in (slow, never, gone)] == [False, True, True]
        gone.is_open = True
        gone.close()


# Requests that wait.


async def test_some_requests_may_wait_behind_another() -> None:
    await pipelined(bounds_module)


async def pipelined(module: ModuleType) -> None:
    async with serving(module) as place:
        await (await place.connect().send(GET * 17)).answered(*[A] * 17)
        place.asked.clear()
        wire = await place.connect().send(GET * 18)
        await wire.closed(A)
        assert b"\r\nconnection: close" in wire.arrived
        assert len(place.asked) == 1


async def test_no_more_is_read_before_they_are_answered() -> None:
    await flow(bounds_module)


async def flow(module: ModuleType) -> None:
    async with serving(module) as place:
        place.may_answer.clear()
        wire = await place.connect().send(GET * 300, len(GET) * 10)
        assert wire.taken == len(GET) * 10
        place.may_answer.set()
        await wire.answered(*[A] * 300)


async def test_the_time_does_not_run_while_nothing_is_read() -> None:
    await paused(bounds_module)


async def paused(module: ModuleType) -> None:
    async with serving(module) as place:
        place.may_answer.clear()
        wire = await place.connect().send(GET * 2 + POST, len(GET) * 2 + 5)
        place.clock.run(3 * REQUEST_S)
        place.may_answer.set()
        await wire.answered(A, A, B)


# What is no HTTP.


async def test_what_is_no_http_is_told_so() -> None:
    async with serving() as place:
        await (await place.connect().send(b"\x16\x03\x01\x02\x00")).refused(400)
        await (await place.connect().send(POST.replace(b"4", b"four"))).refused(400)
        await (await place.connect().send(CHUNKED + b"four\r\n")).refused(400)
        assert (place.asked, place.state.total_requests) == ([], 0)


@pytest.mark.parametrize(
    "wrong", [b"what\r\n\r\n", POST.replace(b"4", b"four"), CHUNKED + b"x\r\n"]
)
async def test_a_request_before_it_is_answered(wrong: bytes) -> None:
    await behind(bounds_module, wrong)


async def behind(module: ModuleType, wrong: bytes) -> None:
    """It is done, and a 400 would say that it is not."""
    async with serving(module) as place:
        place.may_answer.clear()
        wire = await place.connect().send(GET + wrong)
        await wire.send(GET)
        place.may_answer.set()
        await wire.closed(A)
        assert b"\r\nconnection: close" in wire.arrived
        assert place.asked == [("GET", "/a", b"")]


async def test_so_is_one_that_waited() -> None:
    await behind_two(bounds_module)


async def behind_two(module: ModuleType) -> None:
    async with serving(module) as place:
        place.may_answer.clear()
        wire = await place.connect().send(POST + GET)
        await wait_until(lambda: len(place.asked), 2)
        await wire.send(b"what\r\n\r\n")
        place.may_answer.set()
        await wire.closed(B, A)


async def test_what_waits_before_it_is_not_begun() -> None:
    async with serving() as place:
        place.may_answer.clear()
        wire = await place.connect().send(GET + POST + b"what\r\n\r\n")
        place.may_answer.set()
        await wire.closed(A)
        assert place.asked == [("GET", "/a", b"")]


@pytest.mark.parametrize("step", [256_000, 60, 1])
async def test_another_protocol_is_not_taken_up(step: int) -> None:
    await upgrades(bounds_module, step)


async def upgrades(module: ModuleType, step: int) -> None:
    """What comes behind the head is the body, and no request."""
    asking = b"POST /b HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX: y\r\n"
    inner = b"DELETE /a HTTP/1.1\r\n\r\n"
    whole = asking + b"Content-Length: %d\r\n\r\n%b" % (len(inner), inner)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    async with serving(module) as place:
        wire = await place.connect().send(whole + GET, step)
        await wire.answered(B, A)
        wire = await place.connect().send(asking + chunked + asking + b"\r\n", step)
        await wire.answered(B, B)
        assert place.asked == [
            ("POST", "/b", inner),
            ("GET", "/a", b""),
            ("POST", "/b", inner),
            ("POST", "/b", b""),
        ]
        assert (b"x", b"y") in place.headers[0]


async def test_nor_is_a_tunnel_made() -> None:
    await tunnels(mutant(bounds_module, "What one connection", "What each"))


async def tunnels(module: ModuleType) -> None:
    # Nor read over and over.
    module.Bounded._head_without_upgrade = pytest.fail
    async with serving(module) as place:
        for target in (b"example.com:80", b"/a"):
            tunnel = b"CONNECT %b HTTP/1.1\r\nContent-Length: 9\r\n\r\n" % target
            await (await place.connect().send(tunnel)).refused(400)
        assert place.asked == []


# Connections.


async def test_a_connection_that_asks_for_nothing_gives_way() -> None:
    await full(bounds_module)


async def full(module: ModuleType) -> None:
    async with serving(module, connections=4) as place:
        place.may_answer.clear()
        busy = await place.connect().send(GET)
        idle = [place.connect(), await place.connect().send(GET[:5])]
        idle.append(await place.connect().send(POST[:-1]))
        for count in (1, 2, 3):
            new = await place.connect().send(GET)
            await wait_until(lambda: len(place.state.connections), 4)
            assert sum(not one.is_open for one in idle) == count
            assert new.is_open
        late = place.connect()
        await late.refused(503)
        assert b"\r\nretry-after: 1\r\n" in late.arrived
        place.may_answer.set()
        await busy.answered(A)
        await new.answered(A)
        await place.connect().send(GET)
        await wait_until(lambda: len(place.state.connections), 4)


async def test_one_that_gives_way_has_its_answer() -> None:
    await gives_way(bounds_module)


async def gives_way(module: ModuleType) -> None:
    async with serving(module, connections=1) as place:
        wire = await place.connect().send(GET)
        await wire.answered(A)
        place.connect()
        await wire.closed(A)
        assert not wire.is_aborted


async def test_one_that_does_not_read_it_does_not() -> None:
    await does_not_read(bounds_module)


async def does_not_read(module: ModuleType) -> None:
    async with serving(module, connections=1) as place:
        wire = await place.connect().send(GET)
        await wire.answered(A)
        wire.protocol.pause_writing()
        place.connect()
        await wire.closed(A)
        assert wire.is_aborted


# Guards.

TOO_LARGE = "self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)"
MANY = " or len(self.headers) > _MAX_HEADERS:\n            " + TOO_LARGE

GUARDS: list[tuple[str, str, Callable[[ModuleType], Awaitable[None]]]] = [
    ("self._head_bytes() > self.bounds.head_bytes", "False", partial(heads, step=7)),
    ("if len(data) <= step:", "if True:", partial(heads, step=256_000)),
    (
        "# Also behind the end of another.\n        self._is_arriving = True",
        "",
        partial(heads_behind, before=GET, first=A),
    ),
    ("self._bare_bytes > 2 * self.bounds.head_bytes", "False", partial(without_end, begin=b"\r\n")),
    ("self._bare_bytes > 2 * self.bounds.head_bytes", "False", partial(around, begin=b"4;")),
    (
        "if self._is_refused:\n            return\n        self._is_arriving",
        "self._is_arriving",
        partial(around, begin=b"0\r\nX: "),
    ),
    (
        MANY + "\n            raise",
        ":\n            " + TOO_LARGE + "\n            raise",
        many_headers,
    ),
    (
        MANY + "\n            return",
        ":\n            " + TOO_LARGE + "\n            return",
        many_headers,
    ),
    ("self.headers = _DROPPED", "pass", trailers),
    (
        "        if self._deadline is None:\n            self._wait(",
        "        if True:\n            self._wait(",
        partial(late, part=PARTS[0]),
    ),
    ("self._is_arriving = True\n        try:", "try:", partial(late, part=b"\r\n")),
    ("self._deadline = None\n        self._bare", "self._bare", own_time),
    (
        "if not self._is_arriving:\n            self._deadline",
        "if False:\n            self._deadline",
        partial(late, part=PARTS[0]),
    ),
    ("elif not self._is_arriving:", "else:", begun_before_an_answer),
    ("self._watch.when() > self._deadline", "False", idle_behind_a_slow_one),
    ("not one.more_body or not one.response_started", "True", late_behind_the_answer),
    (
        "self._wait(self.timeout_keep_alive, self.timeout_keep_alive_handler)",
        "pass",
        partial(idle, sent=b"", answers=[]),
    ),
    ("self.loop.call_later(self.bounds.request_s, self.transport.abort)", "None", unread),
    ("self._stalled.cancel()", "pass", unread),
    ("if len(self.pipeline) >= _MAX_WAITING:", "if False:", pipelined),
    ("if not self._waiting:", "if True:", flow),
    ("if self.flow.read_paused:", "if False:", paused),
    ("one.keep_alive = False\n            return", "pass", partial(behind, wrong=b"what\r\n\r\n")),
    (
        "self._handled, app = self.pipeline.pop()\n            self._start_asgi_task(self._handled",
        "one, app = self.pipeline.pop()\n            self._start_asgi_task(one",
        behind_two,
    ),
    ("self._read(self._head_without_upgrade() + data[end:])", "pass", partial(upgrades, step=60)),
    ('if self.parser.get_method() == b"CONNECT":', "if False:", tunnels),
    ("if len(self.connections) > self.bounds.connections:", "if False:", full),
    ("if idle is None:", "if True:", full),
    ("one is None or one.response_complete or one.more_body", "True", full),
    ("elif idle.flow.write_paused:", "elif True:", gives_way),
    ("elif idle.flow.write_paused:", "elif False:", does_not_read),
    ("timer.cancel()", "pass", partial(heads, step=7)),
]


def name_of(value: Any) -> str:
    """The same in every process: a function's own representation is not."""
    return value[:30] if isinstance(value, str) else getattr(value, "func", value).__name__


@pytest.mark.parametrize(("old", "new", "case"), GUARDS, ids=name_of)
async def test_guards(
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    case: Callable[[ModuleType], Awaitable[None]],
) -> None:
    monkeypatch.setattr(wait, "LONGEST_S", 0.2)
    await turns_red(case(mutant(bounds_module, old, new)))
