"""The link: one connection to Redis that all scripts of a process share, without waiting for each
other's replies.

Requests of one turn of the event loop leave in one write; replies come in the order in which the
requests went. A request is sent once. When its reply is lost, or too late, its outcome is unknown,
and nothing here asks again: whether it was done is for the caller to say.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)

from cartsvc.clock import Clock
from cartsvc.errors import Busy, OutcomeUnknown
from cartsvc.metrics import LINKS

ReplyError = hiredis.ReplyError

pack: Callable[[tuple[str | bytes | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
"""A command as it is sent."""

BACKOFF_S = (0.02, 0.25)
"""After a failed attempt to connect, the next waits for the first, then doubled up to the second;
less up to half of it, so that processes do not come back in step."""

CLOCK_S = 60.0
"""The clock is set with every connection, and after so long again."""

_TIME = pack(("TIME",))

_NO_REPLY = object()

Future = asyncio.Future[Any]


class Link:
    """Sends requests as they come and gives each a future of its reply.

    Connects, to where `pool` would, when the first request comes and again whenever there is no
    connection. A request is answered, or fails, within `timeout_s`, the connecting included. At
    most `in_flight` wait. `clock` tells Redis's time once there was a connection.
    """

    def __init__(self, pool: ConnectionPool, *, timeout_s: float, in_flight: int) -> None:
        self.timeout_s = timeout_s
        self.in_flight = in_flight
        self.clock = Clock()
        self._pool = pool
        self._connection: _Connection | None = None
        self._early: deque[tuple[Future, float, bytes]] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0

    def send(self, request: bytes) -> Future:
        """The future of the reply to a packed command.

        It raises OutcomeUnknown when there is no reply, and ReplyError when that is an error. It
        may be cancelled: the request stays sent, and its reply is dropped when it comes.

        Raises:
            Busy: too many wait already; nothing was sent.
        """
        connection = self._connection
        if connection is not None:
            if len(connection.waiting) >= self.in_flight:
                raise Busy(self.in_flight)
            return connection.send(request)
        return self._send_early(request)

    def waiting(self) -> int:
        """How many requests have no reply yet, also of those whose asker has left."""
        connection = self._connection
        return len(self._early) + (0 if connection is None else len(connection.waiting))

    async def aclose(self) -> None:
        """Close the connection; what still waits fails."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
            self._connecting = None
            self._fail_early("the link was closed")
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.give_up("the link was closed")

    def _send_early(self, request: bytes) -> Future:
        """Keep a request until there is a connection, if one may be tried now."""
        if len(self._early) >= self.in_flight:
            raise Busy(self.in_flight)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self._connecting is None:
            if loop.time() < self._not_before:
                future.set_exception(OutcomeUnknown("Redis is away"))
                return future
            self._connecting = loop.create_task(self._connect())
        self._early.append((future, loop.time() + self.timeout_s, request))
        return future

    async def _connect(self) -> None:
        """Open a connection, and send what came meanwhile."""
        connection = _Connection(self.timeout_s, self._lost)
        try:
            async with asyncio.timeout(self.timeout_s):
                address = self._pool.make_connection()  # type: ignore[no-untyped-call]
                await _open(address, connection)
                for command in _greeting(address):
                    await connection.send(pack(command))
                asked_s = self.clock.monotonic()
                self.clock.set(await connection.send(_TIME), asked_s)
        except (Exception, asyncio.CancelledError) as error:
            LINKS["failed",] += 1
            connection.give_up("it was not connected")
            self._back_off()
            self._fail_early(f"Redis can't be reached: {error or type(error).__name__}")
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            LINKS["made",] += 1
            self._failures = 0
            self._connection = connection
            self._set_clock_later(connection)
            for future, deadline, request in self._early:
                # Whoever was cancelled meanwhile has not asked for anything.
                if not future.done():
                    connection.forward(request, future, deadline)
            self._early.clear()
        finally:
            self._connecting = None

    def _set_clock_later(self, connection: "_Connection") -> None:
        asyncio.get_running_loop().call_later(CLOCK_S, self._ask_time, connection)

    def _ask_time(self, connection: "_Connection") -> None:
        if self._connection is connection:
            asked_s = self.clock.monotonic()
            connection.send(_TIME).add_done_callback(partial(self._told_time, asked_s))
            self._set_clock_later(connection)

    def _told_time(self, asked_s: float, future: Future) -> None:
        # Without an answer, the connection is looked after by itself.
        if future.exception() is None:
            self.clock.set(future.result(), asked_s)

    def _lost(self, connection: "_Connection") -> None:
        if self._connection is connection:
            LINKS["lost",] += 1
            self._connection = None

    def _back_off(self) -> None:
        first, most = BACKOFF_S
        wait = min(most, first * 2**self._failures) * random.uniform(0.5, 1)  # noqa: S311
        self._failures = min(self._failures + 1, 10)
        self._not_before = asyncio.get_running_loop().time() + wait

    def _fail_early(self, reason: str) -> None:
        for future, _, _ in self._early:
            if not future.done():
                future.set_exception(OutcomeUnknown(reason))
        self._early.clear()


class _Connection(asyncio.Protocol):
    """`waiting` has, in the order of the requests, (the future of a reply, its deadline).

    Futures that are done stay until their reply comes: so a reply is never taken for another's.
    """

    def __init__(self, timeout_s: float, lost: Callable[["_Connection"], None]) -> None:
        self.waiting: deque[tuple[Future, float]] = deque()
        self.timeout_s = timeout_s
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NO_REPLY)
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, request: bytes) -> Future:
        future = self._loop.create_future()
        self.forward(request, future, self._loop.time() + self.timeout_s)
        return future

    def forward(self, request: bytes, future: Future, deadline: float) -> None:
        """Send a request whose reply `future` is to have before the deadline (the loop's time)."""
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent.append(request)
        self.waiting.append((future, deadline))
        if self._watch is None or deadline < self._watch.when():
            if self._watch is not None:
                self._watch.cancel()
            self._watch = self._loop.call_at(deadline, self._overdue)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        reader, waiting = self._reader, self.waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NO_REPLY:
                future, _ = waiting.popleft()
                if isinstance(reply, ReplyError):
                    self._refused(future, reply)
                elif not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.give_up(f"what came is no reply: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.give_up(f"the connection was lost: {error or 'closed by Redis'}")

    def give_up(self, reason: str) -> None:
        """Fail all that wait, and close."""
        self._lost(self)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for future, _ in self.waiting:
            if not future.done():
                future.set_exception(OutcomeUnknown(reason))
        self.waiting.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _refused(self, future: Future, error: ReplyError) -> None:
        if not future.done():
            future.set_exception(error)
        if str(error).startswith("READONLY"):
            # It is a replica now; the name in the URL may lead to the new primary.
            self.give_up("Redis takes no writes")

    def _write(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _overdue(self) -> None:
        """Fail what waited too long; if Redis was silent all the while, all that waits."""
        self._watch = None
        now = self._loop.time()
        for future, deadline in self.waiting:
            if future.done():
                continue
            if deadline > now:
                self._watch = self._loop.call_at(deadline, self._overdue)
                return
            if self._heard < deadline - self.timeout_s:
                self.give_up(f"no answer within {self.timeout_s} s")
                return
            future.set_exception(OutcomeUnknown(f"no answer within {self.timeout_s} s"))


async def _open(address: AbstractConnection, connection: _Connection) -> None:
    loop = asyncio.get_running_loop()
    match address:
        case UnixDomainSocketConnection():
            await loop.create_unix_connection(lambda: connection, address.path)
        case SSLConnection():
            context = address.ssl_context.get()
            await loop.create_connection(
                lambda: connection, address.host, address.port, ssl=context
            )
        case Connection():
            await loop.create_connection(lambda: connection, address.host, address.port)


def _greeting(address: AbstractConnection) -> list[tuple[str | int, ...]]:
    """What a connection begins with, before the time is asked for."""
    commands: list[tuple[str | int, ...]] = []
    if address.password:
        commands.append(("AUTH", address.username or "default", address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    return commands
