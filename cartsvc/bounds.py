"""What one connection may take of a process: bytes, time, requests that wait, and a place.

uvicorn bounds the time between requests, and nothing else: one client that sends headers without
end, or requests faster than they are answered, would take all memory of a process in seconds.
"""

import asyncio
from collections.abc import Callable, Sized
from http import HTTPStatus
from itertools import chain
from typing import Any, NamedTuple, cast

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cartsvc import http
from cartsvc.metrics import TURNED_AWAY

_MAX_HEADERS = 100
"""As others have it. A header of four bytes takes fifty times that in memory."""

_MAX_WAITING = 16
"""Requests of a connection that may wait behind another: as many as benchmarks send at once."""

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "Request is not valid HTTP",
    HTTPStatus.REQUEST_TIMEOUT: "Request did not arrive in time",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "Request line and headers are too large",
    HTTPStatus.SERVICE_UNAVAILABLE: "Too many connections, please try again",
}


class Bounds(NamedTuple):
    """`head_bytes` of request line and headers, `request_s` for a request to arrive and for its
    answer to be read, `connections` of the process."""

    head_bytes: int
    request_s: float
    connections: int


class Bounded(HttpToolsProtocol):
    """uvicorn's, within bounds.

    What is beyond them, or no HTTP, has no contract: it is answered as a path that no contract has,
    and the connection is closed. Behind a request that is being handled it is not answered: that
    request's answer is the last.
    """

    def __init__(self, *arguments: Any, bounds: Bounds, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.bounds = bounds
        self.headers = []
        self._handled: RequestResponseCycle | None = None
        self._is_refused = False
        self._is_arriving = False
        self._bare_bytes = 0
        self._deadline: float | None = None
        self._late: Callable[[], None]
        self._watch: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Told of every byte that the client does not take.
        transport.set_write_buffer_limits(0)
        self.flow = _Flow(transport, self.pipeline)
        self._keep_for_a_while()
        if len(self.connections) > self.bounds.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._watch, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_arriving:
            self._deadline = None
        step = self.bounds.head_bytes
        try:
            if len(data) <= step:
                self._read(data)
                return
            # In steps: so little is read of what is refused.
            for start in range(0, len(data), step):
                self._read(data[start : start + step])
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def _read(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._is_arriving = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            [end] = upgrade.args
            self._read(self._head_without_upgrade() + data[end:])
            return
        if self._is_arriving:
            self._watch_arrival(len(data))

    def _head_without_upgrade(self) -> bytes:
        """The head that the parser stopped at, because it asks for another protocol as well.

        What comes behind it is its body, and not, as the parser has it, the next request: that
        would be one that a proxy did not see.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Also behind the end of another.
        self._is_arriving = True

    def on_headers_complete(self) -> None:
        # A head that came at once is no longer than what is read at once.
        is_long = self._bare_bytes > 0 and self._head_bytes() > self.bounds.head_bytes
        if is_long or len(self.headers) > _MAX_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise httptools.HttpParserError
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError
            return
        if len(self.pipeline) >= _MAX_WAITING:
            raise httptools.HttpParserError
        super().on_headers_complete()
        # Behind the body, trailers would come in among the headers that a proxy has looked at.
        self.headers = _DROPPED
        if not self.pipeline:
            self._handled = self.cycle

    def _head_bytes(self) -> int:
        return len(self.url) + sum(map(len, chain.from_iterable(self.headers)))

    def on_body(self, body: bytes) -> None:
        self._bare_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._is_arriving = False
        self._deadline = None
        self._bare_bytes = 0

    def on_response_complete(self) -> None:
        """As uvicorn's, which makes and cancels a timer for every request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._handled, app = self.pipeline.pop()
            self._start_asgi_task(self._handled, app)
        elif not self._is_arriving:
            self._keep_for_a_while()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.bounds.request_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _watch_arrival(self, size: int) -> None:
        """See to it that a request of which `size` more bytes came, but not the last, ends."""
        self._bare_bytes += size
        # Twice, so that it is not the end of another request, or spaces, that are too much.
        is_long = self._bare_bytes > 2 * self.bounds.head_bytes
        if is_long or len(self.headers) > _MAX_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        if self._deadline is None:
            self._wait(self.bounds.request_s, self._too_late)

    def _too_late(self) -> None:
        if self.flow.read_paused:
            # The client is not late: nothing is read before others of its requests are answered.
            self._wait(self.bounds.request_s, self._too_late)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _keep_for_a_while(self) -> None:
        self._wait(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        """Let something come within that time, or `late` is called; it has come when there is no
        `_deadline` any more."""
        self._deadline = self.loop.time() + seconds
        self._late = late
        # One timer for however many requests: it is not stopped, but set again when it was early.
        if self._watch is None or self._watch.when() > self._deadline:
            if self._watch is not None:
                self._watch.cancel()
            self._watch = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._deadline is None:
            return
        left = self._deadline - self.loop.time()
        if left > 0:
            self._watch = self.loop.call_later(left, self._look)
        else:
            self._late()

    @property
    def is_waited_for(self) -> bool:
        """Whether there is no request of it that is to be answered."""
        one = self._handled
        waited_for = one is None or one.response_complete or one.more_body
        return waited_for and not self.transport.is_closing()

    def _make_room(self) -> None:
        """Close a connection that is waited for; this one, if there is none.

        So connections that ask for nothing do not keep others out, however many they are.
        """
        others = (one for one in cast("set[Bounded]", self.connections) if one is not self)
        idle = next((one for one in others if one.is_waited_for), None)
        if idle is None:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        elif idle.flow.write_paused:
            idle.transport.abort()
        else:
            idle.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Read no more, and close: behind the answer that is due, or else one that says why."""
        if self._is_refused:
            return
        self._is_refused = True
        TURNED_AWAY[str(status.value),] += 1
        one = self._handled
        if one is not None and not one.more_body and not one.response_complete:
            one.keep_alive = False
            return
        # Where the rest of a body is late, the answer may have been early.
        if one is None or not one.more_body or not one.response_started:
            self.transport.write(self._refusal(status))
        self.transport.close()

    def _refusal(self, status: HTTPStatus) -> bytes:
        error = {"code": status.name.lower()}
        content = {"success": False, "message": _REFUSALS[status], "error": error}
        body = msgspec.json.encode(content)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append(http.RETRY_AFTER)
        lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
        lines += [b"%b: %b" % header for header in headers]
        return b"\r\n".join([*lines, b"", body])


class _Flow(FlowControl):
    """Reads on only when no request waits for its turn; uvicorn would after every answer."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class _Dropped(list[tuple[bytes, bytes]]):
    """Takes headers, and keeps none."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        pass


_DROPPED = _Dropped()
