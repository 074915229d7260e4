"""Many requests at once, each on a connection of its own, all sent before any answer is read."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any
    seconds: float


async def rush(url: str, path: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """POST every body at the same time; the answers in the order of the bodies."""
    address = urlsplit(url)
    connections = await asyncio.gather(
        *(asyncio.open_connection(address.hostname, address.port) for _ in bodies)
    )
    begun = time.monotonic()
    for (_, writer), body in zip(connections, bodies, strict=True):
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
    return await asyncio.gather(*(_answer(*connection, begun) for connection in connections))


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: float
) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["content-length"]))
    seconds = time.monotonic() - begun
    writer.close()
    await writer.wait_closed()
    return Answer(int(first.split()[1]), headers, json.loads(body), seconds)
