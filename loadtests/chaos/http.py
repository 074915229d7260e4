"""A client of one connection, which never repeats a request by itself."""

import asyncio
import contextlib
import json
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

NOT_SENT, NO_ANSWER = -1, 0
"""Statuses of requests that certainly, and maybe, were not carried out."""


class Answer(NamedTuple):
    """An HTTP answer, or what there was instead."""

    status: int
    body: Any = None
    is_replay: bool = False


class Client:
    """Connects when it has to. `timeout_s` bounds a request."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        address = urlsplit(url)
        self.host, self.port = address.hostname, address.port
        self.timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Give the connection up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(
        self, method: str, path: str, headers: dict[str, str], content: Any = None
    ) -> Answer:
        body = b"" if content is None else json.dumps(content).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: shop", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        try:
            async with asyncio.timeout(self.timeout_s):
                if self._streams is None:
                    try:
                        self._streams = await asyncio.open_connection(self.host, self.port)
                    except OSError:
                        return Answer(NOT_SENT)
                return await self._exchange(*self._streams, request)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.drop()
            return Answer(NO_ANSWER)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> Answer:
        writer.write(request)
        await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.drop()
        content = None
        with contextlib.suppress(ValueError):
            content = json.loads(body) if body else None
        return Answer(int(first.split()[1]), content, "idempotent-replay" in headers)
