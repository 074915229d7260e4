"""Servers to put in Redis's place: one that talks as a test says, and one that passes on."""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Has every connection talked with as `talk` does, and closes it then.

    It listens on a Unix socket at `path` where that is given, and speaks TLS where there is `tls`.
    """

    def __init__(
        self,
        talk: Talk,
        *,
        user: str = "",
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.talk = talk
        self.user = user
        self.path = path
        self.tls = tls
        self.connections = 0
        self._is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        user = f"{self.user}@" if self.user else ""
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._connected, self.path)
            self.url = f"unix://{user}{self.path}?db=0"
        else:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
            port = self._server.sockets[0].getsockname()[1]
            self.url = f"{'rediss' if self.tls else 'redis'}://{user}127.0.0.1:{port}/0"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closed = True
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._is_closed:
                await self.talk(client, to_client)
        to_client.close()


class Proxy(Peer):
    """Forwards bytes. With `drop_replies` set, the next reply ends its connection instead.

    If `drop_only` is set too, the next that has these bytes; `most_dropped` in all. With `hang` set
    replies are thrown away, with `refuse` set new connections are closed at once. Replies wait
    while `passing` is not set.
    """

    def __init__(
        self, redis_url: str, *, path: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        target = urlsplit(redis_url)
        super().__init__(self.forward, user=target.netloc.rpartition("@")[0], path=path, tls=tls)
        self.host, self.port = target.hostname, target.port
        self.drop_replies = False
        self.drop_only = b""
        self.hang = False
        self.refuse = False
        self.passing = asyncio.Event()
        self.passing.set()
        self.dropped = 0
        self.most_dropped = sys.maxsize

    async def forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.refuse:
            return
        server, to_server = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._requests(client, to_server))
                pumps.create_task(self._replies(server, to_client))
        except* OSError:
            pass
        finally:
            to_server.close()

    async def _requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(65_536):
            to_server.write(data)
            await to_server.drain()
        to_server.close()

    async def _replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(65_536):
            is_dropped = self.drop_replies and self.dropped < self.most_dropped
            if is_dropped and self.drop_only in data:
                self.dropped += 1
                to_client.close()
                return
            await self.passing.wait()
            if not self.hang:
                to_client.write(data)
                await to_client.drain()
        to_client.close()
