"""Locust's side of a rehearsal that is written down: a sample each second, where Locust counts."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import redis
from locust.env import Environment
from locust.stats import StatsEntry
from msgspec.structs import replace

from cartsvc.keys import Bucket
from loadtests import outcomes, samples
from loadtests.samples import Level, Run, Sample

_REDIS_S = 5.0


def watch(environment: Environment, file: Path, sampler: "Sampler") -> None:
    """Sample while a test runs, and write the file when Locust quits."""
    greenlets: list[Any] = []

    def start(**_: object) -> None:
        sampler.began = time.time()
        greenlets.append(gevent.spawn(sampler.run))
        samples.begun_file(file).touch()

    def stop(**_: object) -> None:
        gevent.killall(greenlets)

    def finish(**_: object) -> None:
        samples.write(sampler.finished(), file)

    environment.events.test_start.add_listener(start)
    environment.events.test_stop.add_listener(stop)
    environment.events.quitting.add_listener(finish)


class Sampler:
    """`counters` are the ones to watch. Reads Redis by itself: the service does not notice."""

    def __init__(
        self, environment: Environment, redis_url: str, bucket: Bucket, counters: Sequence[str]
    ) -> None:
        self.environment = environment
        self.redis: Any = redis.Redis.from_url(redis_url, socket_timeout=_REDIS_S)
        self.bucket = bucket
        self.counters = list(counters)
        self.began = time.time()
        self.seen: Counter[int] = Counter()
        self.taken: list[tuple[int, Sample]] = []
        """Samples by second of the epoch, without the adds: Locust's workers tell later of them."""

    def run(self) -> None:
        """A sample at the end of each second, until it is killed."""
        while True:
            now = time.time()
            gevent.sleep(int(now) + 1 - now)
            self.taken.append((round(time.time()) - 1, self.sample()))

    def sample(self) -> Sample:
        times = samples.together(entry.response_times for entry, _ in self.adds())
        answered, self.seen = times - self.seen, times
        dirty, oldest, (now_s, _), *counts = self._asked()
        return Sample(
            at_s=time.time() - self.began,
            users=self.environment.runner.user_count if self.environment.runner else 0,
            granted=0,
            refused=0,
            p50_ms=samples.percentile(answered, 0.5),
            p99_ms=samples.percentile(answered, 0.99),
            stock={
                counter: Level(*(int(count or 0) for count in level))
                for counter, *level in zip(self.counters, *counts, strict=True)
            },
            dirty=dirty,
            lag_s=max(now_s - oldest[0][1] / 1000, 0.0) if oldest else 0.0,
        )

    def _asked(self) -> list[Any]:
        """Dirty carts, the oldest of them, Redis's time, and per counter free, held, sold."""
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.zcard(self.bucket.dirty)
        pipeline.zrange(self.bucket.dirty, 0, 0, withscores=True)
        pipeline.time()
        for key in (self.bucket.stock, self.bucket.held, self.bucket.sold):
            pipeline.hmget(key, self.counters)
        return list(pipeline.execute())

    def adds(self) -> Iterator[tuple[StatsEntry, str | None]]:
        """Locust's entries of adds, and why they were refused."""
        for entry in list(self.environment.stats.entries.values()):
            what, refused = outcomes.parts(entry.name)
            if what.endswith(" add"):
                yield entry, refused

    def finished(self) -> Run:
        """All of it, once Locust knows what there is to know."""
        granted: Counter[int] = Counter()
        refused: Counter[int] = Counter()
        refusals: Counter[str] = Counter()
        for entry, why in self.adds():
            (refused if why else granted).update(entry.num_reqs_per_sec)
            granted.subtract(entry.num_fail_per_sec)
            if why:
                refusals[why] += entry.num_requests
        total = self.environment.stats.total
        shape: Any = self.environment.shape_class
        return Run(
            samples=list(_with_adds(self.taken, granted, refused)),
            phases=shape.begins() if shape else {},
            requests=total.num_requests,
            failures=total.num_failures,
            granted=granted.total(),
            refusals=dict(refusals),
            times_ms=samples.together(entry.response_times for entry, _ in self.adds()),
            errors=self.errors(),
        )

    def errors(self) -> dict[str, int]:
        """What was answered wrong, or not at all; and what broke down here."""
        runner: Any = self.environment.runner
        found = [
            (f"{one.name}: {one.error}", one.occurrences)
            for one in self.environment.stats.errors.values()
        ]
        found += [
            (f"in the shopper: {one['msg']}", one["count"]) for one in runner.exceptions.values()
        ]
        return dict(found)


def _with_adds(
    taken: Sequence[tuple[int, Sample]], granted: Counter[int], refused: Counter[int]
) -> Iterator[Sample]:
    """Samples with the adds since the one before: on a busy machine one may come late."""
    before = taken[0][0] - 1 if taken else 0
    for second, sample in taken:
        since = range(before + 1, second + 1)
        if since:
            yield replace(
                sample,
                granted=sum(granted[one] for one in since) / len(since),
                refused=sum(refused[one] for one in since) / len(since),
            )
        before = second
