"""The worker: flush, release of holds, new prices and idle carts, each in a loop of its own."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from cartsvc import flush, upkeep
from cartsvc.backlog import Backlog
from cartsvc.drivers import AWAY
from cartsvc.idle import IdleCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.store import Store

log = logging.getLogger(__name__)

DRAIN_S = 20
"""Less than supervisors wait before they kill: `cartsvc dev` 30 s, systemd 90 s."""

RELEASE_INTERVAL_S = 0.25
"""Pause between looks for holds that have run out: they are released within a second."""

IDLE_INTERVAL_S = 10.0
"""Pause between two walks over the carts."""

NOTED = {"release": "released", "reprice": "repriced"}
"""What is counted of the work of these names."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass wrote: carts whose row was behind, and price changes.

    `refused` are those of both that PostgreSQL does not take, and that are set aside.
    """

    carts: int = 0
    price_changes: int = 0
    refused: int = 0

    def __add__(self, other: "Pass") -> "Pass":
        return Pass(
            self.carts + other.carts,
            self.price_changes + other.price_changes,
            self.refused + other.refused,
        )


class Worker:
    """Looks after every bucket there is. Any number of workers may run.

    `buckets` are those that are known before PostgreSQL tells of all.
    """

    def __init__(
        self,
        store: Store,
        backlog: Backlog,
        ledger: Ledger,
        *,
        batch: int,
        interval_s: float,
        idle: IdleCarts | None = None,
        buckets: Iterable[Bucket] = (),
    ) -> None:
        self.store = store
        self.backlog = backlog
        self.ledger = ledger
        self.batch = batch
        self.interval_s = interval_s
        self.idle = idle
        self.buckets = list(buckets)

    async def run_once(self) -> Pass:
        """Write what is in the backlog when the pass begins."""
        self.buckets = await self.ledger.buckets()
        return sum([await self._bucket(bucket) for bucket in self.buckets], Pass())

    async def _bucket(self, bucket: Bucket) -> Pass:
        begun = time.monotonic()
        done = await self._flush(bucket)
        took_us = round((time.monotonic() - begun) * 1e6)
        await self._note(bucket, done, took_us)
        return done

    async def _note(self, bucket: Bucket, done: Pass, took_us: int) -> None:
        counted = {
            "passes": 1,
            "carts": done.carts,
            "price_changes": done.price_changes,
            "set_aside": done.refused,
            "busy_us": took_us,
        }
        now_ms = await self.store.now_ms()
        last = {"last": now_ms, "last_us": took_us, "last_carts": done.carts}
        await self.backlog.note(bucket, counted, last)

    async def _flush(self, bucket: Bucket) -> Pass:
        # Counted beforehand: a cart that changes all the time must not keep the pass going.
        batches = -(-await self.backlog.dirty_count(bucket) // self.batch)
        carts = await flush.carts(self.backlog, self.ledger, bucket, self.batch, batches=batches)
        done = Pass(carts=carts.written, refused=carts.refused)
        while True:
            prices = await flush.prices(self.backlog, self.ledger, bucket, self.batch)
            done += Pass(price_changes=prices.written, refused=prices.refused)
            if prices.written + prices.refused < self.batch:
                return done

    async def run_forever(
        self, stop: asyncio.Event, *, on_ready: Callable[[], None] = lambda: None
    ) -> bool:
        """Pass after pass until `stop` is set, then one more, of at most DRAIN_S: the drain.

        A server that is away costs nothing but time: what is not written stays in Redis.
        Returns whether nothing was left to write.
        """
        loops = [
            asyncio.create_task(self._passes(stop, on_ready)),
            # Apart from the flush: neither waits for the other's server, or its backlog.
            asyncio.create_task(self._repeat(upkeep.release, RELEASE_INTERVAL_S, stop)),
            asyncio.create_task(self._repeat(upkeep.reprice, self.interval_s / 2, stop)),
        ]
        if self.idle is not None:
            walks = (self.idle.cool, self.idle.abandon)
            loops += [
                asyncio.create_task(self._repeat(walk, IDLE_INTERVAL_S, stop)) for walk in walks
            ]
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([*loops, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        stop.set()  # Also when a loop ended by itself: the others are to end too.
        # Given up in the middle, a pass has written a batch or it has not.
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)
        for loop in loops:
            if not loop.cancelled():
                # A loop that ended by an error of ours must end the process, not leave it idle.
                loop.result()
        return await self._drain()

    async def _repeat(
        self,
        work: Callable[[Store, Bucket], Awaitable[int]],
        interval_s: float,
        stop: asyncio.Event,
    ) -> None:
        """Do `work` for the buckets, a batch each in turn; pause when there was nothing to do.

        A bucket for which it fails keeps no other from its turn; the first failure is logged.
        """
        failing: set[str] = set()
        while not stop.is_set():  # A cancellation can be swallowed by a client that was waiting.
            done = 0
            for bucket in self.buckets:
                try:
                    found = await work(self.store, bucket)
                    if found and work.__name__ in NOTED:
                        await self.backlog.note(bucket, {NOTED[work.__name__]: found}, {})
                    done += found
                    failing.discard(repr(bucket))
                except AWAY as error:
                    if repr(bucket) not in failing:
                        log.warning("%s of %s waits: %s", work.__name__, bucket, error)
                    failing.add(repr(bucket))
            if not done:
                await asyncio.sleep(interval_s)

    async def _drain(self) -> bool:
        try:
            async with asyncio.timeout(DRAIN_S):
                return await self._attempt(was_away=False) and await self._is_drained()
        except AWAY as error:
            log.warning("the last flush was given up: %s: %s", type(error).__name__, error)
            return False

    async def _passes(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        ready = away = False
        while True:
            away = not await self._attempt(away)
            if not (ready or away):
                ready = True
                on_ready()
            if stop.is_set():
                return  # The cancellation was swallowed by a client that was waiting.
            await asyncio.sleep(self.interval_s)

    async def _is_drained(self) -> bool:
        """Whether no bucket has anything left; another worker may be writing it just now."""
        buckets = await self.ledger.buckets()
        return not any([await self.backlog.count(bucket) for bucket in buckets])

    async def _attempt(self, was_away: bool) -> bool:
        """One pass; whether it went through. Only the first failure of a row of them is logged."""
        try:
            done = await self.run_once()
        except AWAY as error:
            if not was_away:
                log.warning("flush waits, nothing is lost: %s: %s", type(error).__name__, error)
            return False
        if was_away:
            log.info("flush goes on")
        if done.carts or done.price_changes:
            log.debug("flushed %d carts, %d price changes", done.carts, done.price_changes)
        return True
