"""What a fault is, the load that goes on meanwhile, and what it all came to."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cartsvc.model import Owner
from loadtests.chaos import checker, dialects
from loadtests.chaos.checker import RULES, Verdict
from loadtests.chaos.http import Client
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import Place, skus
from loadtests.chaos.shoppers import Habits, crowd
from loadtests.chaos.waits import Window, Windows

HOT = skus(1)[0]
ENDLESS = 10**9
_AT_ONCE = 20
_CONNECTED_S = 1.0
"""How long it takes at most until shoppers are connected."""

_PATIENCE_S = 180.0
"""Longer than whatever is waited for may take."""

_POLL_S = 0.05


@dataclass
class Result:
    """What a fault came to. `rules` are those that are asked for; `wrong` is what else is wrong.

    How long shoppers waited, and when they were refused, counts only where it `is_measured`, for
    long enough.
    """

    name: str
    journal: Journal
    verdict: Verdict
    rules: tuple[str, ...] = RULES
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_measured: bool = False

    @property
    def holds(self) -> bool:
        return not self.wrong and not self.verdict.broken.keys() & set(self.rules)


class Load:
    """Shoppers without end, until they are told."""

    def __init__(self, place: Place, journal: Journal, habits: Habits, seed: int = 0) -> None:
        self.journal = journal
        self.stop = asyncio.Event()
        shopping = crowd(place.url, journal, habits, at_once=_AT_ONCE, seed=seed, stop=self.stop)
        self.task = asyncio.create_task(shopping)

    async def end(self) -> None:
        """Let the shoppers go, each with the answer that it waits for."""
        self.stop.set()
        await self.task


class Fault(Protocol):
    """Does as much of it as `scale` says, 1 being all, to the package in `tree` or to this one."""

    async def __call__(self, scale: float, tree: Path | None = None) -> Result: ...


async def adding(place: Place) -> Load:
    """A started service, and shoppers who add something twenty times a second each, and no more."""
    products = await place.stock_up(20)
    await place.start()
    habits = Habits(ENDLESS, products, converts=0.0, changes=0.0, every_s=0.05)
    load = Load(place, Journal(), habits)
    await asyncio.sleep(_CONNECTED_S)
    return load


async def ended(name: str, place: Place, load: Load) -> Result:
    """Let the load end; what it came to."""
    await load.end()
    return await result_of(name, place, load.journal)


async def result_of(name: str, place: Place, journal: Journal) -> Result:
    """What it came to, once all is flushed, and every process of the service has ended."""
    took = await checker.drained(place.valkey.url, place.bucket)
    gone = place.ended()
    # A hold that runs out while both stores are read would look like something wrong.
    await asyncio.to_thread(place.stop)
    verdict = await checker.check(place.valkey.url, place.ledger, place.bucket, journal)
    result = Result(name, journal, verdict, wrong=gone)
    if took is None:
        result.wrong.append("not all was flushed within a minute")
    return result


async def refuses(place: Place) -> bool:
    """Whether a change is answered 503."""
    async with Client(place.url) as client:
        request = dialects.SESSION.add(Owner("session", "s-asker"), HOT, 1)
        answer = await client.send(request.method, request.path, {}, request.content)
        return answer.status == 503


async def until(condition: Callable[[], Awaitable[bool]], place: Place) -> bool:
    """Wait for the condition; whether it came. Not for ever, nor for a process that has ended."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while not place.ended():
                if await condition():
                    return True
                await asyncio.sleep(_POLL_S)
    return False


async def lasting(seconds: float) -> Window:
    """From now on, so long."""
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    return begun, time.perf_counter()


def compare_waits(result: Result, told: str, usual: Windows, hurt: Windows, *, most: float) -> None:
    """Compare the p99 of what was granted with the usual one, of which it may be so much."""
    waits = result.journal.waits
    ratio = waits.p99_s(hurt) / waits.p99_s(usual)
    result.notes.append(f"p99 {ratio:.2f} of the usual {told}")
    # Where nobody was granted anything, it may be no number.
    if result.is_measured and not ratio <= most:
        result.wrong.append(f"p99 was {ratio:.2f} of the usual {told}")
