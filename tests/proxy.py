"""A proxy in front of Redis that can lose replies after Redis has done what was asked."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Forwards bytes. With `drop_replies` set, the next reply ends its connection instead."""

    def __init__(self, redis_url: str) -> None:
        target = urlsplit(redis_url)
        self.host, self.port = target.hostname, target.port
        self.user = target.netloc.rpartition("@")[0]
        self.drop_replies = False
        self.hang = False
        self.dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://{self.user}@127.0.0.1:{port}/0"
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
        server, to_server = await asyncio.open_connection(self.host, self.port)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._requests(client, to_server))
                pumps.create_task(self._replies(server, to_client))
        for writer in (to_client, to_server):
            writer.close()

    async def _requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(65_536):
            to_server.write(data)
            await to_server.drain()
        to_server.close()

    async def _replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(65_536):
            if self.drop_replies:
                self.dropped += 1
                to_client.close()
                return
            if not self.hang:
                to_client.write(data)
                await to_client.drain()
        to_client.close()
