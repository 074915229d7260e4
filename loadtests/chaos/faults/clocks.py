"""The clocks of processes are set, an hour to and fro."""

import asyncio
import tempfile
from pathlib import Path

from loadtests.chaos.broken import edited
from loadtests.chaos.faults.fault import ENDLESS, Load, Result, ended
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import opened
from loadtests.chaos.shoppers import Habits

_STEPPING = """\
# Python runs this before anything else: the wall clock is an hour wrong, otherwise every second.
import os, time

def stepping(told, per_second, first=os.getpid() % 2):
    def step():
        second = int(time.monotonic()) + first
        return told() + (3600 if second % 2 else -3600) * per_second
    return step

time.time, time.time_ns = stepping(time.time, 1), stepping(time.time_ns, 10**9)
"""


async def stepping(scale: float, tree: Path | None = None) -> Result:
    """Each process's wall clock is an hour ahead, then an hour behind, and no two agree."""
    with tempfile.TemporaryDirectory(prefix="cartsvc-clocks-") as name:
        folder = Path(name)
        if tree is None:
            edited([], folder)
        else:
            folder = tree
        (folder / "sitecustomize.py").write_text(_STEPPING, encoding="utf-8")
        async with opened(tree=folder) as place:
            # No hold runs out: whatever leaves a cart by itself has left it early.
            products = await place.stock_up(10, stock_policy="hold", hold_ttl_s=1800)
            await place.start()
            await asyncio.to_thread(place.start_worker)
            journal = Journal()
            load = Load(place, journal, Habits(ENDLESS, products))
            await asyncio.sleep(max(2, 10 * scale))
            return await ended("clocks an hour to and fro", place, load)
