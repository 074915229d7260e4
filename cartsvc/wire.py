"""How responses leave: the head and the body of each in one write.

uvicorn writes them one by one, and uvloop sends what it is given at once: two system calls, and two
packets, where one does: a quarter of what an add cost. Those of a turn of the event loop leave in a
row: each written as soon as it is made, an add is a seventh dearer.
"""

import asyncio
from typing import Any, cast

from cartsvc.bounds import Bounded


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
    """uvicorn's, within bounds, on such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _OneWrite(transport)))
