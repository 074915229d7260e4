"""Connections without a network: their bytes and their time are what a test says."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from cartsvc.bounds import Bounded, Bounds
from tests.wait import wait_until

HEAD_BYTES, REQUEST_S, KEEP_ALIVE_S = 1_000, 10, 5

Answer = tuple[int, bytes]
"""Status and body."""


class Clock:
    """An event loop whose timers go off when a test lets time pass."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        timer = asyncio.TimerHandle(self._now + delay, callback, (), loop)
        self._timers.append(timer)
        return timer

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(coroutine)

    def run(self, seconds: float) -> None:
        end = self._now + seconds
        while due := [one for one in self._timers if one.when() <= end]:
            first = min(due, key=asyncio.TimerHandle.when)
            self._timers.remove(first)
            self._now = first.when()
            if not first.cancelled():
                first._run()
        self._now = end

    def waiting(self) -> int:
        """Timers that are to go off yet."""
        return sum(not one.cancelled() for one in self._timers)


class Wire(asyncio.Transport):
    """A connection whose client does what a test says; `taken` bytes of what it sent were read."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.arrived = b""
        self.taken = 0
        self.is_open = True
        self.is_aborted = False
        self._is_read = True
        self._unread: deque[bytes] = deque()

    async def send(self, data: bytes, step: int = 256_000) -> "Wire":
        """Send in pieces of so many bytes, as far as they are read, a turn of the loop each."""
        self._unread.extend(data[start : start + step] for start in range(0, len(data), step))
        while self._unread and self._is_read and self.is_open:
            piece = self._unread.popleft()
            self.taken += len(piece)
            self.protocol.data_received(piece)
            await asyncio.sleep(0)
        return self

    def write(self, data: Any) -> None:
        assert self.is_open
        self.arrived += data

    def close(self, error: Exception | None = None) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    def is_closing(self) -> bool:
        return not self.is_open

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self._is_read = True
        self._reading = asyncio.get_running_loop().create_task(self.send(b""))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (0, None)

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default

    def answers(self) -> list[Answer]:
        return [(int(head.split()[1]), body) for head, body in self._answers()]

    def _answers(self) -> Iterator[tuple[bytes, bytes]]:
        rest = self.arrived
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            size = int(head.partition(b"content-length: ")[2].split()[0])
            yield head, rest[:size]
            rest = rest[size:]

    async def answered(self, *expected: Answer) -> None:
        """These answers come, and leave the connection open."""
        await wait_until(self.answers, [*expected])
        assert self.is_open

    async def closed(self, *before: Answer) -> None:
        """The connection is closed behind these answers."""
        await wait_until(lambda: self.is_open, False)
        assert self.answers() == [*before]

    async def refused(self, status: int, *before: Answer) -> None:
        """The connection is closed behind these answers and one that says why."""
        await wait_until(lambda: self.is_open, False)
        *others, (found, body) = self.answers()
        assert (others, found) == ([*before], status)
        assert json.loads(body).keys() == {"success", "message", "error"}
        *_, (head, _) = self._answers()
        assert b"\r\ncontent-type: application/json\r\n" in head
        assert b"\r\nconnection: close" in head


class Place:
    """A process that serves an application over connections of a kind."""

    def __init__(self, protocol: type[Bounded], app: ASGIApp, connections: int = 100) -> None:
        self.clock = Clock()
        self.state = ServerState()
        config = uvicorn.Config(
            app,
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            ws="none",
        )
        config.load()
        bounds = Bounds(HEAD_BYTES, REQUEST_S, connections)
        self._protocol = partial(protocol, config, self.state, {}, self.clock, bounds=bounds)

    def connect(self) -> Wire:
        wire = Wire()
        wire.protocol = self._protocol()
        wire.protocol.connection_made(wire)
        return wire

    async def close(self) -> None:
        for one in self.state.connections:
            one.transport.abort()
        await wait_until(lambda: (len(self.state.connections), len(self.state.tasks)), (0, 0))
        # A connection that is gone leaves nothing behind.
        assert self.clock.waiting() == 0
