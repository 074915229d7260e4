"""Requests as bytes, which no client of HTTP would send."""

import asyncio
import contextlib

from tests.wait import LONGEST_S


async def exchange(url: str, *pieces: bytes) -> bytes:
    """All that comes on a connection on which these are sent, until the service closes it."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    # Whoever still sends what is not read any more hears of a reset.
    with contextlib.suppress(ConnectionError):
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(LONGEST_S):
                while more := await reader.read(65_536):
                    answer += more
        finally:
            writer.close()
            await writer.wait_closed()
    return answer


def statuses(answers: bytes) -> list[int]:
    """Those of the answers, which stand one behind the other."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        found.append(int(head.split()[1]))
        size = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        answers = rest[int(size or b"0") :]
    return found
