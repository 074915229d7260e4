"""The limit: `redis-benchmark` calling the add script, with no service in between."""

import asyncio
import csv
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.bench import populate, sample, shoppers
from loadtests.bench.sample import Effort, Said
from loadtests.bench.site import PRODUCTS, Site, stock_up

TENANT = "bare"

CALLS_A_SECOND = 10_000
"""Calls that are made for each second of a sample."""

_ANY_SESSION = "__rand_int__"
"""What redis-benchmark replaces by twelve digits, anew for each call."""


@dataclass(frozen=True)
class Sample:
    """`_us` are microseconds a call: CPU of Redis, and what of it ran the script."""

    calls: int
    pipeline: int
    per_s: float
    p50_ms: float
    p99_ms: float
    redis_us: float
    script_us: float


def missing() -> str:
    """What has to be installed; '' if nothing."""
    return "" if shutil.which("redis-benchmark") else "redis-benchmark (Debian package redis-tools)"


class Limit:
    """Samples taken right after the service's: as many calls under way on one connection.

    And, as the limit of the server, one call at a time on each of many connections.
    """

    def __init__(self, site: Site, effort: Effort, said: Said) -> None:
        self.site = site
        self.effort = effort
        self.said = said
        self.samples: dict[str, list[Sample]] = {"pipelined": [], "connections": []}
        self.missing = {"redis-benchmark": missing()} if missing() else {}
        if not self.missing:
            asyncio.run(stock_up(site, TENANT))
            _fill(site)

    def take(self, batch: float) -> None:
        """`batch` is how many calls Redis found at once when the service was loaded."""
        if not self.missing:
            self._take("pipelined", clients=1, pipeline=max(1, round(batch)))
            self._take("connections", clients=self.effort.connections, pipeline=1)

    def figures(self) -> dict[str, Any]:
        return {name: summary(samples) for name, samples in self.samples.items() if samples}

    def _take(self, name: str, *, clients: int, pipeline: int) -> None:
        calls = CALLS_A_SECOND * self.effort.seconds
        one = take(self.site, clients=clients, pipeline=pipeline, calls=calls)
        self.samples[name].append(one)
        self.said(
            f"  redis-benchmark -c {clients} -P {pipeline}: {one.per_s:,.0f}/s, "
            f"Redis {one.redis_us:.0f} us"
        )


def take(site: Site, *, clients: int, pipeline: int, calls: int) -> Sample:
    """Add to random carts, with `pipeline` calls under way on each of the connections."""
    before = sample.usage([], site)
    output = _run(site, clients, pipeline, calls)
    used = sample.usage([], site).since(before)
    row = parse(output.splitlines())
    return Sample(
        calls=used.calls,
        pipeline=pipeline,
        per_s=float(row["rps"]),
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
        redis_us=used.redis / used.calls * 1e6,
        script_us=used.script / used.calls * 1e6,
    )


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Every figure's spread over the samples."""
    figures = ("per_s", "p50_ms", "p99_ms", "redis_us", "script_us", "pipeline")
    return {
        "samples": len(samples),
        "answers": sum(one.calls for one in samples),
        **{name: sample.spread([getattr(one, name) for one in samples]) for name in figures},
    }


def parse(lines: Iterable[str]) -> dict[str, str]:
    """The row that redis-benchmark prints with --csv, by the names in its header."""
    return list(csv.DictReader(lines))[-1]


def _fill(site: Site) -> None:
    """Carts of as many lines as the shoppers', one of them of the product that is added."""
    lines = PRODUCTS[: shoppers.LINES]
    numbers = range(shoppers.SESSIONS)
    populate.add(site, TENANT, ((shoppers.session(number), lines) for number in numbers))


def _run(site: Site, clients: int, pipeline: int, calls: int) -> str:
    call = populate.call(TENANT, _ANY_SESSION, PRODUCTS[:1])
    command = [
        "redis-benchmark", "-u", site.redis_url, "--csv", "-r", str(shoppers.SESSIONS),
        "-c", str(clients), "-P", str(pipeline), "-n", str(calls), *map(str, call),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
