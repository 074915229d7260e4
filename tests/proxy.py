"""A way to Redis on which a test lets things go wrong."""

import asyncio
import ssl
import sys
from pathlib import Path

from loadtests.chaos import proxy
from loadtests.chaos.proxy import Peer as Peer


class Proxy(proxy.Proxy):
    """With `drop_replies` set, the next reply ends its connection instead.

    If `drop_only` is set too, the next that has these bytes; `most_dropped` in all. With `hang` set
    replies are thrown away, with `refuse` set new connections are closed at once. Replies wait
    while `passing` is not set.
    """

    def __init__(
        self, redis_url: str, *, path: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(redis_url, path=path, tls=tls)
        self.drop_replies = False
        self.drop_only = b""
        self.hang = False
        self.refuse = False
        self.passing = asyncio.Event()
        self.passing.set()
        self.dropped = 0
        self.most_dropped = sys.maxsize

    async def forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if not self.refuse:
            await super().forward(client, to_client)

    async def reply(self, data: bytes, to_client: asyncio.StreamWriter) -> bool:
        is_dropped = self.drop_replies and self.dropped < self.most_dropped
        if is_dropped and self.drop_only in data:
            self.dropped += 1
            return False
        await self.passing.wait()
        return self.hang or await super().reply(data, to_client)
