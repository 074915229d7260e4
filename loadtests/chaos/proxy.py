"""A way to a server on which replies get lost, or take their time."""

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes on. A reply is what comes in one read: one of so many is dropped, at random, after
    what was asked for is done, and ends its connection; the others wait for `delay_s`."""

    def __init__(self, url: str, *, loss: float = 0.0, seed: int = 0) -> None:
        self.target = urlsplit(url)
        self.loss = loss
        self.delay_s = 0.0
        self.lost = 0
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self.target.netloc.rpartition("@")[0]
        self.url = self.target._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._forward(client, to_client)
        to_client.close()

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self.target.hostname, self.target.port)
        asking = asyncio.create_task(_pass(client, to_server))
        try:
            while data := await server.read(65_536):
                if self._random.random() < self.loss:
                    self.lost += 1
                    break
                await asyncio.sleep(self.delay_s)
                to_client.write(data)
                await to_client.drain()
        finally:
            to_server.close()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
