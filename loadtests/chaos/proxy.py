"""Servers to put in another's place: one that talks as it is told, and one that passes on, but
loses replies, or takes its time."""

import asyncio
import contextlib
import random
import ssl
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
        self.scheme = "rediss" if tls else "redis"
        self.database = "/0"
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
            self.url = f"{self.scheme}://{user}127.0.0.1:{port}{self.database}"
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
    """Passes bytes on to the server at `target_url`, and back, as `request` and `reply` do."""

    def __init__(
        self, target_url: str, *, path: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.target = urlsplit(target_url)
        user = self.target.netloc.rpartition("@")[0]
        super().__init__(self.forward, user=user, path=path, tls=tls)
        if tls is None:
            self.scheme, self.database = self.target.scheme, self.target.path

    async def forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self.target.hostname, self.target.port)
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
            await self.request(data, to_server)
        to_server.close()

    async def _replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while (data := await server.read(65_536)) and await self.reply(data, to_client):
            pass
        to_client.close()

    async def request(self, data: bytes, to_server: asyncio.StreamWriter) -> None:
        """Pass on what a client said, in one read."""
        to_server.write(data)
        await to_server.drain()

    async def reply(self, data: bytes, to_client: asyncio.StreamWriter) -> bool:
        """Pass on what the server said, in one read; whether the connection goes on."""
        to_client.write(data)
        await to_client.drain()
        return True


class BadProxy(Proxy):
    """Loses one reply of so many, at random, once what was asked for is done, and with it the
    connection. The others wait for `delay_s`."""

    def __init__(self, target_url: str, *, loss: float = 0.0, seed: int = 0) -> None:
        super().__init__(target_url)
        self.loss = loss
        self.delay_s = 0.0
        self.lost = 0
        self._random = random.Random(seed)

    async def reply(self, data: bytes, to_client: asyncio.StreamWriter) -> bool:
        if self._random.random() < self.loss:
            self.lost += 1
            return False
        await asyncio.sleep(self.delay_s)
        return await super().reply(data, to_client)
