"""Backpressure: when too much waits for PostgreSQL, or Redis is nearly full, carts take no changes.

A process looks at Redis once a second and keeps what it finds; a change that is asked for meets no
more than that. Reads go on, and so does what empties the backlog.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from cartsvc.errors import Overloaded, Unavailable
from cartsvc.keys import Bucket
from cartsvc.scripts import FAILURES, Runner

log = logging.getLogger(__name__)

POLL_S = 1.0

_AWAY = (*FAILURES, OSError, Unavailable)

LEFT_AT = 0.9
"""A mark that is passed is left at this share of it, so that nobody goes to and fro about it."""

MOST = 100
"""Buckets that are looked at: what bounds a poll. Of others, only Redis's memory counts."""

IDLE_POLLS = 60
"""After so many polls without a change, a bucket is looked at no more."""


class Marks(NamedTuple):
    """How high what is looked at may be; 0: it is not looked at."""

    dirty_age_s: int = 0
    price_events: int = 0
    memory_percent: int = 0


NO_MARKS = Marks()


class _Gauge:
    """What is looked at, and whether it is past its mark."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_passed = False

    def show(self, value: float, mark: float) -> None:
        limit = mark * LEFT_AT if self.is_passed else mark
        self.turn(mark > 0 and value > limit, f"{value:.6g}, and the mark is {mark}")

    def turn(self, is_passed: bool, told: str) -> None:
        if is_passed and not self.is_passed:
            log.error("carts take no changes: %s is %s", self.name, told)
        elif self.is_passed and not is_passed:
            log.warning("carts take changes again, as for %s: it is %s", self.name, told)
        self.is_passed = is_passed


class _Watched:
    """A bucket, and how many polls there were since it took a change."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.idle_polls = 0
        self.age = _Gauge(f"the age (s) of the oldest unflushed cart of {bucket.tenant}")
        self.prices = _Gauge(f"the number of unflushed price changes of {bucket.tenant}")
        self.passed: str | None = None

    def show(self, age_s: float, price_events: int, marks: Marks) -> None:
        self.age.show(age_s, marks.dirty_age_s)
        self.prices.show(price_events, marks.price_events)
        self.passed = _first_passed(self.age, self.prices)


class Pressure:
    """Which buckets take changes, as the last poll found. Before the first one, all do."""

    def __init__(self, runner: Runner, marks: Marks, clock_ms: Callable[[], int]) -> None:
        self.runner = runner
        self.marks = marks
        self.clock_ms = clock_ms
        self._watched: dict[str, _Watched] = {}
        self._memory = _Gauge("Redis's memory (% of maxmemory)")
        self._eviction = _Gauge("Redis's maxmemory-policy")
        self._redis_passed: str | None = None
        self._is_blind = False

    def check(self, bucket: Bucket) -> None:
        """Look whether the bucket takes changes.

        Raises:
            Overloaded: it takes none.
        """
        passed = self.passed(bucket)
        if passed:
            raise Overloaded(passed)

    def passed(self, bucket: Bucket) -> str | None:
        """What is past its mark, so that the bucket takes no changes."""
        watched = self._watched.get(bucket.seq)
        return self._redis_passed or (watched.passed if watched else None)

    def watch(self, bucket: Bucket) -> None:
        """Look at a bucket from now on. It took a change: so nobody made its name up."""
        watched = self._watched.get(bucket.seq)
        if watched is not None:
            watched.idle_polls = 0
        elif len(self._watched) < MOST:
            self._watched[bucket.seq] = _Watched(bucket)

    async def run_forever(self) -> None:
        """Poll, until cancelled. While Redis can't be asked, what was found last stays."""
        while True:
            try:
                await self.poll()
                self._is_blind = False
            except _AWAY as error:
                if not self._is_blind:
                    log.warning("whether carts may take changes is not looked at: %s", error)
                self._is_blind = True
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Look at Redis, and at every bucket that was asked for changes lately.

        Raises the client's own errors.
        """
        watched = list(self._watched.values())
        # Not over the link: what is looked at must not wait for a turn when there is too much.
        pipeline = self.runner.redis.pipeline(transaction=False)
        pipeline.info("memory")
        for one in watched:
            pipeline.zrange(one.bucket.dirty, 0, 0, withscores=True)
            pipeline.xlen(one.bucket.prices)
        async with asyncio.timeout(self.runner.timeout_s):
            memory, *found = await pipeline.execute()
        self._show_redis(memory)
        now_ms = self.clock_ms() if watched else 0
        for one, oldest, price_events in zip(watched, found[::2], found[1::2], strict=True):
            age_ms = now_ms - oldest[0][1] if oldest else 0
            one.show(age_ms / 1000, price_events, self.marks)
            one.idle_polls += 1
            if one.idle_polls > IDLE_POLLS and one.passed is None:
                del self._watched[one.bucket.seq]

    def _show_redis(self, memory: dict[str, Any]) -> None:
        most, policy = memory.get("maxmemory", 0), memory.get("maxmemory_policy", "noeviction")
        percent = 100 * memory.get("used_memory", 0) / most if most else 0
        self._memory.show(percent, self.marks.memory_percent)
        # What Redis evicts would be lost, stock and carts alike.
        self._eviction.turn(most > 0 and policy != "noeviction", policy)
        self._redis_passed = _first_passed(self._eviction, self._memory)


def _first_passed(*gauges: _Gauge) -> str | None:
    """The name of the first one that is past its mark."""
    return next((gauge.name for gauge in gauges if gauge.is_passed), None)
