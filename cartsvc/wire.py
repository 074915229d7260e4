"""How requests come and responses leave: whole, and what leaves in one write.

uvicorn writes head and body one by one, and uvloop sends what it is given at once: two system
calls, and two packets, where one does: a quarter of what an add cost. Those of a turn of the event
loop leave in a row: each written as soon as it is made, an add is a seventh dearer.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from cartsvc import http
from cartsvc.bounds import Bounded
from cartsvc.http import Headers


class _OneWrite:
    """A transport that writes together what one turn of the event loop gives it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._unsent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._unsent:
            self._call_soon(self._send)
        self._unsent.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        # The client may have left since.
        if self._unsent and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()


class Protocol(Bounded):
    """uvicorn's, within bounds, on such a transport; takes replies whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _OneWrite(transport)))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope[http.EXCHANGE] = Exchange(self.cycle)  # type: ignore[literal-required]


class Exchange:
    """A request and its response, each as a whole: what uvicorn does with two messages of each.

    It looks at every header of a response by itself, for all that there may be, and at every part
    of a request: a tenth of what an add costs, without what the system does for it.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def body(self) -> bytes | None:
        """The request's body; None if it is not there yet, or its client left."""
        cycle = self._cycle
        return None if cycle.more_body or cycle.disconnected else bytes(cycle.body)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a response, whose headers say how long it is."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        lines = [*cycle.default_headers, *headers]
        if not cycle.keep_alive:
            lines.append((b"connection", b"close"))
        head = b"\r\n".join(map(b": ".join, lines))
        if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1:
            raise RuntimeError("a header goes on in another line")
        cycle.response_started = cycle.response_complete = True
        if cycle.scope["method"] == "HEAD":
            body = b""
        cycle.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n\r\n", body)))
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
