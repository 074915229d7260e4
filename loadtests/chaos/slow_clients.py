"""Clients that connect and say nothing, or a byte now and then: a process of their own, until it
is told to end, so that those who shop beside them wait for the service alone.

    python -m loadtests.chaos.slow_clients URL IDLE SLOW

prints a line when all are there, and in the end how often one was turned away.
"""

import asyncio
import contextlib
import resource
import signal
import sys
from urllib.parse import urlsplit

_HEAD = b"POST /api/cart HTTP/1.1\r\nHost: shop\r\nContent-Length: 4000\r\n"
_BODY = b'{"product_id": "1", "quantity": 1, "session_id": "slow"}'
_BYTE_S = 0.5
"""How long a slow client takes for a byte."""

_OPENING_S = 0.001
"""How long it takes until one more of the connections is there."""


class SlowClients:
    """Come, and come again when they are turned away; `turned_away` says how often that was."""

    def __init__(self, url: str, idle: int, slow: int) -> None:
        address = urlsplit(url)
        self.host, self.port = address.hostname, address.port
        self.says = [(b"", b"")] * idle + [(b"", _HEAD), (_HEAD + b"\r\n", _BODY)] * (slow // 2)
        self.turned_away = 0

    async def run(self, told: asyncio.Event) -> None:
        """Until somebody has told so."""
        tasks = []
        for one in self.says:
            tasks.append(asyncio.create_task(self._come(*one)))
            await asyncio.sleep(_OPENING_S)
        print("all are there", flush=True)
        await told.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _come(self, at_once: bytes, byte_by_byte: bytes) -> None:
        while True:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(at_once)
            sending = asyncio.create_task(_dribble(writer, byte_by_byte))
            try:
                with contextlib.suppress(OSError):
                    await reader.read()
            finally:
                sending.cancel()
                writer.close()
            self.turned_away += 1


async def _dribble(writer: asyncio.StreamWriter, text: bytes) -> None:
    for byte in text:
        writer.write(bytes([byte]))
        await asyncio.sleep(_BYTE_S)


async def main(url: str, idle: str, slow: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    clients = SlowClients(url, int(idle), int(slow))
    await clients.run(told)
    print(clients.turned_away)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
