"""What `cartsvc top` looks at again and again: a service's `/metrics`, and what sells in Redis."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from cartsvc import readings, scripts
from cartsvc.errors import OutcomeUnknown
from cartsvc.hottest import Hot, Hottest
from cartsvc.keys import Bucket
from cartsvc.readings import Page, Standing, Traffic
from cartsvc.scripts import FAILURES, Runner
from cartsvc.settings import Settings

TIMEOUT_S = 2.0
"""Longest wait for either; past it, it is shown as away."""


class Service(NamedTuple):
    """What the service tells, but for traffic at the first look; `problem` says why it does not."""

    standing: Standing | None = None
    traffic: Traffic | None = None
    problem: str = ""


class Shelves(NamedTuple):
    """What sells, and Redis's time; `problem` says why Redis does not tell."""

    hot: Sequence[Hot] = ()
    now_s: float | None = None
    problem: str = ""


class Frame(NamedTuple):
    url: str
    tenant: str
    service: Service
    shelves: Shelves

    @property
    def is_whole(self) -> bool:
        return not (self.service.problem or self.shelves.problem)


class Watch:
    """Looks at one tenant of the service at `url`."""

    def __init__(self, runner: Runner, url: str, bucket: Bucket, stock_policy: str) -> None:
        self.runner = runner
        self.url = url
        self.bucket = bucket
        self.hottest = Hottest(runner, bucket, stock_policy)
        self._last: tuple[float, Page] | None = None

    async def look(self, skus: int) -> Frame:
        """How all is now, with at most so many SKUs. What is away is told, and raises nothing."""
        service, shelves = await asyncio.gather(self._service(), self._shelves(skus))
        return Frame(self.url, self.bucket.tenant, service, shelves)

    async def run(
        self,
        show: Callable[[Frame], None],
        skus: Callable[[], int],
        *,
        interval_s: float,
        once: bool,
    ) -> bool:
        """Show a frame every `interval_s` until SIGINT or SIGTERM; with `once`, the second alone.

        `skus` says how many there is room for. Returns False if that one frame was not whole.
        """
        stop = _told_to_stop()
        frame = await self.look(skus())
        if not once:
            show(frame)
        while not await _is_set_within(stop, interval_s):
            frame = await self.look(skus())
            show(frame)
            if once:
                break
        return frame.is_whole or not once

    async def _service(self) -> Service:
        try:
            found = readings.page(await asyncio.to_thread(_fetch, f"{self.url}/metrics"))
        except (OSError, HTTPException, ValueError) as error:
            return Service(problem=_told(error))
        at_s, before = time.monotonic(), self._last
        self._last = at_s, found
        traffic = readings.traffic(before[1], found, at_s - before[0]) if before else None
        return Service(readings.standing(found, self.bucket.tenant), traffic)

    async def _shelves(self, skus: int) -> Shelves:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                told: Any = await self.runner.redis.time()
                hot = await self.hottest.look(skus)
        except (*FAILURES, OSError, OutcomeUnknown) as error:
            return Shelves(problem=_told(error))
        seconds, micros = told
        return Shelves(hot, seconds + micros / 1e6)


@contextlib.asynccontextmanager
async def watching(settings: Settings, url: str, tenant: str) -> AsyncIterator[Watch]:
    """A watch of a tenant, with a connection of its own to Redis.

    Raises:
        SettingError: Redis's address can't be used.
    """
    runner = Runner(scripts.connect(settings.redis_url, timeout_s=TIMEOUT_S), timeout_s=TIMEOUT_S)
    try:
        yield Watch(runner, url.rstrip("/"), Bucket(tenant), settings.stock_policy)
    finally:
        await runner.aclose()


def _fetch(url: str) -> str:
    # The scheme is http or https: whoever passes a URL has seen to that.
    with urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
        text: bytes = answer.read()
    return text.decode()


def _told(error: Exception) -> str:
    match error:
        case URLError(reason=Exception() as reason):
            return _told(reason)
        case TimeoutError():
            return "it does not answer"
        case OutcomeUnknown(reason=reason):
            return reason
        case OSError(errno=int() as number):
            return os.strerror(number)
        case _:
            return str(error) or type(error).__name__


def _told_to_stop() -> asyncio.Event:
    """What SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
