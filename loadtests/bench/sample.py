"""One measurement: a few seconds of load, and what each process used meanwhile."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import redis

from loadtests.bench import cpu, wrk
from loadtests.bench.contenders import Running
from loadtests.bench.site import Site
from loadtests.bench.wrk import Load, Run

Said = Callable[[str], None]
"""Takes a line of progress."""

T = TypeVar("T")

SCRIPT_CALLS = ("evalsha", "eval", "fcall")


@dataclass(frozen=True)
class Effort:
    """How much is measured; `seconds` are those of one sample."""

    rounds: int = 5
    seconds: int = 4
    connections: int = 64


@dataclass(frozen=True)
class Usage:
    """What has been used so far: CPU seconds, seconds in scripts, calls of them, reads by Redis."""

    app: float
    redis: float
    database: float
    script: float
    calls: int
    reads: int

    def since(self, before: "Usage") -> "Usage":
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Usage(*(now - then for now, then in pairs))


@dataclass(frozen=True)
class Sample:
    """`_us` are CPU microseconds an answer that counts; `script_us` those that scripts ran.

    `batch` is how many of them a read from a connection by Redis stands for, on the average.
    """

    answers: int
    refused: int
    broken: int
    per_s: float
    p50_ms: float
    p99_ms: float
    app_us: float
    redis_us: float
    script_us: float
    database_us: float
    rss_mb: float
    batch: float

    @property
    def cost_us(self) -> float:
        """CPU of the app and of Redis."""
        return self.app_us + self.redis_us


def usage(app: Sequence[int], site: Site) -> Usage:
    commands, reads = _redis_counts(site)
    return Usage(
        app=cpu.own(app),
        redis=cpu.own([site.redis_pid]),
        database=cpu.family(site.database_pids()),
        script=sum(commands.get(name, (0, 0))[1] for name in SCRIPT_CALLS) / 1e6,
        calls=sum(commands.get(name, (0, 0))[0] for name in SCRIPT_CALLS),
        reads=reads,
    )


def take(
    running: Running,
    site: Site,
    load: Load,
    *,
    seconds: int,
    connections: int,
    first: int = 0,
    refusals: bool = False,
) -> Sample:
    """Load the contender and measure. With `refusals`, those are the answers that count."""
    before = usage(running.pids(), site)
    run = wrk.run(running.url, load, seconds=seconds, connections=connections, first=first)
    used = usage(running.pids(), site).since(before)
    counted = run.refused if refusals else run.acknowledged
    return sample(run, counted, used, cpu.resident_mb(running.pids()))


def sample(run: Run, counted: int, used: Usage, rss_mb: float) -> Sample:
    """The figures an answer of a run in which `counted` answers count."""
    each = 1e6 / counted if counted else 0.0
    return Sample(
        answers=counted,
        refused=run.refused,
        broken=run.broken,
        per_s=counted / run.seconds,
        p50_ms=run.p50 / 1000,
        p99_ms=run.p99 / 1000,
        app_us=used.app * each,
        redis_us=used.redis * each,
        script_us=used.script * each,
        database_us=used.database * each,
        rss_mb=rss_mb,
        batch=counted / used.reads if used.reads else 0.0,
    )


FIGURES = (
    "per_s",
    "p50_ms",
    "p99_ms",
    "app_us",
    "redis_us",
    "script_us",
    "database_us",
    "cost_us",
    "rss_mb",
    "batch",
)


def taker(
    running: Running, site: Site, load: Load, effort: Effort, *, refusals: bool = False
) -> Callable[[int], Sample]:
    """Takes a round's sample, each round with other requests of the load."""

    def one(number: int) -> Sample:
        return take(
            running,
            site,
            load,
            seconds=effort.seconds,
            connections=effort.connections,
            first=number * load.requests // effort.rounds,
            refusals=refusals,
        )

    return one


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most, and the values, a round each."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "values": [round(value, 3) for value in values],
    }


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Every figure's spread over the samples, and the sums of what was counted."""
    figures: dict[str, Any] = {
        name: spread([getattr(one, name) for one in samples]) for name in FIGURES
    }
    return {
        "samples": len(samples),
        "answers": sum(one.answers for one in samples),
        "refused": sum(one.refused for one in samples),
        "broken": sum(one.broken for one in samples),
        **figures,
    }


def rotated(those: Sequence[T], by: int) -> list[T]:
    """The same from another one on, so that none is always first."""
    by %= len(those) or 1
    return [*those[by:], *those[:by]]


def interleaved(
    takes: dict[str, Callable[[int], Sample]], rounds: int, said: Said
) -> dict[str, list[Sample]]:
    """Samples of each, taken in turn, `rounds` times; each is given the round's number."""
    samples: dict[str, list[Sample]] = {name: [] for name in takes}
    for number in range(rounds):
        for name in rotated(list(takes), number):
            one = takes[name](number)
            samples[name].append(one)
            said(f"round {number + 1}/{rounds}, {name}: {told(one)}")
    return samples


def told(one: Sample) -> str:
    """A sample in a line of progress."""
    text = f"{one.per_s:,.0f}/s, p99 {one.p99_ms:.1f} ms, app {one.app_us:.0f} us, "
    text += f"Redis {one.redis_us:.0f} us"
    if one.database_us >= 1:
        text += f", database {one.database_us:.0f} us"
    return text


def _redis_counts(site: Site) -> tuple[dict[str, tuple[int, int]], int]:
    """Command -> calls and microseconds, and how often Redis has read from a connection."""
    with redis.Redis.from_url(site.redis_url) as client:
        commands: Any = client.info("commandstats")
        stats: Any = client.info("stats")
    told = {
        name.removeprefix("cmdstat_"): (int(values["calls"]), int(values["usec"]))
        for name, values in commands.items()
    }
    return told, int(stats["total_reads_processed"])
