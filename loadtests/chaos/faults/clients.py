"""Clients that take connections and give little, beside others who want to shop."""

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from loadtests.chaos.faults.fault import (
    ENDLESS,
    PLENTY,
    Load,
    Result,
    compare_waits,
    ended,
    lasting,
)
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import opened, row, skus
from loadtests.chaos.shoppers import Habits

_HEAD = b"POST /api/cart HTTP/1.1\r\nHost: shop\r\nContent-Length: 4000\r\n"
_BODY = b'{"product_id": "1", "quantity": 1, "session_id": "slow"}'
_BYTE_S = 0.5
"""How long a slow client takes for a byte."""

_OPENING_S = 0.001
"""How long it takes until one more of the connections is there."""


async def slow_clients(scale: float, tree: Path | None = None) -> Result:
    """Two thousand connections say nothing, two hundred send heads and bodies byte by byte."""
    _allow_open_files()
    idle, slow = max(50, int(2_000 * scale)), max(10, int(200 * scale))
    async with opened(tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        await place.start()
        journal = Journal()
        habits = Habits(ENDLESS, products, converts=0.0, changes=0.0, every_s=0.05)
        load = Load(place, journal, habits)
        await asyncio.sleep(1)  # Until all connections are there.
        usual, hurt = [], []
        for _ in range(max(1, int(2 * scale))):
            usual.append(await lasting(max(1, 8 * scale)))
            async with _Slow(place.url, idle, slow) as others:
                hurt.append(await lasting(max(1, 8 * scale)))
        result = await ended("slow and idle clients", place, journal, load)
        result.is_measured = scale >= 1
        compare_waits(result, f"beside {idle + slow:,}", usual, hurt)
        result.notes.append(f"{others.turned_away:,} turned away")
        return result


class _Slow:
    """Clients that come, and come again when they are turned away; `turned_away` says how often."""

    def __init__(self, url: str, idle: int, slow: int) -> None:
        address = urlsplit(url)
        self.host, self.port = address.hostname, address.port
        says = [(b"", b"")] * idle + [(b"", _HEAD), (_HEAD + b"\r\n", _BODY)] * (slow // 2)
        self.turned_away = 0
        self._tasks = [
            asyncio.create_task(self._come(_OPENING_S * number, *one))
            for number, one in enumerate(says)
        ]

    async def __aenter__(self) -> Self:
        await asyncio.sleep(_OPENING_S * len(self._tasks))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come(self, delay_s: float, at_once: bytes, byte_by_byte: bytes) -> None:
        await asyncio.sleep(delay_s)
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


def _allow_open_files() -> None:
    """Let this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
