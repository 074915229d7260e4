"""Clients that take connections and give little, beside others who want to shop."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from loadtests.chaos.faults.fault import (
    Result,
    adding,
    compare_waits,
    ended,
    lasting,
)
from loadtests.chaos.place import opened

_SLOWER = 1.5
"""How much longer others may wait: the clients, a process of their own, share the machine."""


async def slow_clients(scale: float, tree: Path | None = None) -> Result:
    """Two thousand connections say nothing, two hundred send heads and bodies byte by byte."""
    idle, slow = max(50, int(2_000 * scale)), max(10, int(200 * scale))
    async with opened(tree=tree) as place:
        load = await adding(place)
        usual, hurt = [], []
        for _ in range(max(1, int(2 * scale))):
            usual.append(await lasting(max(1, 6 * scale)))
            async with _beside(place.url, idle, slow) as turned_away:
                hurt.append(await lasting(max(1, 6 * scale)))
        result = await ended("slow and idle clients", place, load)
        result.is_measured = scale >= 1
        compare_waits(result, f"beside {idle + slow:,}", usual, hurt, most=_SLOWER)
        result.notes.append(f"{turned_away[0]:,} turned away")
        return result


@contextlib.asynccontextmanager
async def _beside(url: str, idle: int, slow: int) -> AsyncIterator[list[int]]:
    """Clients who are there; in the end, how often one of them was turned away."""
    command = (sys.executable, "-m", "loadtests.chaos.slow_clients", url, str(idle), str(slow))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    turned_away: list[int] = []
    try:
        await process.stdout.readline()
        yield turned_away
    finally:
        process.terminate()
        turned_away.append(int(await process.stdout.read()))
        await process.wait()
