"""`/metrics`: what the processes of a service counted, and how Redis and PostgreSQL are, now.

What the stores say, every service that shares them says alike: the maximum counts, not the sum.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from cartsvc import metrics, vitals
from cartsvc.drivers import AWAY
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.metrics import BOUNDS_S, Board, Labels, Snapshot
from cartsvc.store import Store
from cartsvc.vitals import BucketVitals, RedisVitals

CONTENT_TYPE = CONTENT_TYPE_LATEST

MOST_BUCKETS = 100
"""Buckets that are told of: what bounds a scrape."""

STORE_S = 2.0
"""Longest wait for each store; past it, it is told as away."""

_EDGES = (*map(str, BOUNDS_S), "+Inf")


class _Flushed(NamedTuple):
    """A field of the hash `flush`, as a metric; its value there is in `unit`ths of the metric's."""

    field: str
    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    help: str
    unit: float = 1


_FLUSHED = (
    _Flushed("passes", CounterMetricFamily, "cartsvc_flush_passes", "Passes that workers made"),
    _Flushed("carts", CounterMetricFamily, "cartsvc_flush_carts", "Carts that workers wrote"),
    _Flushed(
        "price_changes",
        CounterMetricFamily,
        "cartsvc_flush_price_changes",
        "Price changes that workers wrote",
    ),
    _Flushed(
        "set_aside",
        CounterMetricFamily,
        "cartsvc_flush_set_aside",
        "Rows that PostgreSQL refused, and that became dead letters",
    ),
    _Flushed(
        "busy_us", CounterMetricFamily, "cartsvc_flush_seconds", "Time that the passes took", 1e6
    ),
    _Flushed(
        "released",
        CounterMetricFamily,
        "cartsvc_released_lines",
        "Lines that workers took from carts as their holds ran out",
    ),
    _Flushed(
        "repriced",
        CounterMetricFamily,
        "cartsvc_repriced_carts",
        "Carts that workers visited for a new price",
    ),
    _Flushed(
        "last",
        GaugeMetricFamily,
        "cartsvc_flush_last_pass_timestamp_seconds",
        "When the last pass ended, in Redis's time",
        1e3,
    ),
    _Flushed(
        "last_us",
        GaugeMetricFamily,
        "cartsvc_flush_last_pass_seconds",
        "How long the last pass took",
        1e6,
    ),
    _Flushed(
        "last_carts",
        GaugeMetricFamily,
        "cartsvc_flush_last_pass_carts",
        "Carts that the last pass wrote: its batch",
    ),
)


class Scrape:
    """What a process tells Prometheus. `bucket` is known before PostgreSQL tells of all."""

    def __init__(self, board: Board, store: Store, ledger: Ledger, bucket: Bucket) -> None:
        self.board = board
        self.store = store
        self.ledger = ledger
        self.buckets = [bucket]

    async def text(self) -> bytes:
        """The page, in the format that CONTENT_TYPE names."""
        families = [*_counted(self.board.read()), *await self._ledger(), *await self._redis()]
        registry = CollectorRegistry()
        registry.register(_Families(families))
        # It takes some milliseconds, which no request has to wait for.
        return await asyncio.to_thread(generate_latest, registry)

    async def _ledger(self) -> list[Metric]:
        try:
            async with asyncio.timeout(STORE_S):
                # Those that Redis is asked about as well.
                self.buckets = (await self.ledger.buckets())[:MOST_BUCKETS] or self.buckets
                counts = await self.ledger.letter_counts()
        except AWAY:
            return [_up("postgresql", False)]
        letters = _per_tenant("cartsvc_dead_letters", "Rows that PostgreSQL refused, set aside")
        for bucket in self.buckets:
            letters.add_metric([bucket.tenant], counts.get(bucket.tenant, 0))
        return [_up("postgresql", True), letters]

    async def _redis(self) -> list[Metric]:
        runner = self.store.runner
        try:
            async with asyncio.timeout(STORE_S):
                server = await vitals.of_redis(runner)
                found = [(one, await vitals.of_bucket(runner, one)) for one in self.buckets]
        except AWAY:
            return [_up("redis", False)]
        return [_up("redis", True), *_of_redis(server), *_of_buckets(found), self._overloaded()]

    def _overloaded(self) -> Metric:
        family = _per_tenant(
            "cartsvc_overloaded", "Whether a high-water mark is passed: carts take no changes"
        )
        for bucket in self.buckets:
            family.add_metric([bucket.tenant], self.store.pressure.passed(bucket) is not None)
        return family


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


def _counted(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    """What processes counted, added up; what they have, of those that are there."""
    live = [one for one in snapshots if one.is_live()]
    yield GaugeMetricFamily("cartsvc_processes", "Processes that serve", value=len(live))
    for metric in metrics.GAUGES:
        held = sum(one.gauges.get(metric.name, 0) for one in live)
        yield GaugeMetricFamily(metric.name, metric.help, value=held)
    for metric in metrics.COUNTERS:
        yield _counter(metric, snapshots)
    for metric in metrics.DURATIONS:
        yield _histogram(metric, snapshots)


def _counter(metric: metrics.Metric, snapshots: Iterable[Snapshot]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    total: dict[Labels, float] = defaultdict(float)
    for one in snapshots:
        for labels, count in one.counters.get(metric.name, ()):
            total[labels] += count
    for labels, count in total.items():
        family.add_metric(labels, count)
    return family


def _histogram(metric: metrics.Metric, snapshots: Iterable[Snapshot]) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    found: dict[Labels, list[tuple[list[int], float]]] = defaultdict(list)
    for one in snapshots:
        for labels, counts, sum_s in one.durations.get(metric.name, ()):
            found[labels].append((counts, sum_s))
    for labels, parts in found.items():
        up_to = accumulate(map(sum, zip(*(part for part, _ in parts), strict=True)))
        buckets = list(zip(_EDGES, up_to, strict=True))
        family.add_metric(labels, buckets, sum(sum_s for _, sum_s in parts))
    return family


def _up(store: str, is_up: bool) -> Metric:
    return GaugeMetricFamily(f"cartsvc_{store}_up", f"Whether {store} answers", value=is_up)


def _of_redis(found: RedisVitals) -> list[Metric]:
    return [
        GaugeMetricFamily(
            "cartsvc_redis_memory_bytes", "Memory that Redis uses", value=found.memory_bytes
        ),
        GaugeMetricFamily(
            "cartsvc_redis_memory_max_bytes",
            "Memory that Redis may use; 0: all there is",
            value=found.max_memory_bytes,
        ),
        CounterMetricFamily(
            "cartsvc_redis_evicted_keys", "Keys that Redis dropped", value=found.evicted_keys
        ),
        CounterMetricFamily(
            "cartsvc_redis_script_calls", "Scripts that Redis ran", value=found.script_calls
        ),
        CounterMetricFamily(
            "cartsvc_redis_script_failures", "Of these, that failed", value=found.script_failures
        ),
        CounterMetricFamily(
            "cartsvc_redis_script_seconds", "Time of Redis that they took", value=found.script_s
        ),
    ]


def _of_buckets(found: Sequence[tuple[Bucket, BucketVitals]]) -> Iterator[Metric]:
    shown: dict[str, tuple[str, Any]] = {
        "cartsvc_carts": ("Carts in Redis, closed ones until they are flushed too", "carts"),
        "cartsvc_cold_carts": ("Carts that only PostgreSQL has", "cold_carts"),
        "cartsvc_dirty_carts": ("Carts with changes that PostgreSQL lacks", "dirty_carts"),
        "cartsvc_flush_lag_seconds": ("Age of the oldest change that it lacks", "lag_s"),
        "cartsvc_unflushed_price_changes": ("Price changes that it lacks", "price_changes"),
        "cartsvc_sale_paused": ("Whether the sale is paused: carts take no more", "is_paused"),
    }
    for name, (help_text, field) in shown.items():
        family = _per_tenant(name, help_text)
        for bucket, vital in found:
            family.add_metric([bucket.tenant], getattr(vital, field))
        yield family
    yield _watched(found)
    for one in _FLUSHED:
        noted = one.family(one.name, one.help, labels=["tenant"])
        for bucket, vital in found:
            if one.field in vital.flushed:
                noted.add_metric([bucket.tenant], vital.flushed[one.field] / one.unit)
        yield noted


def _watched(found: Sequence[tuple[Bucket, BucketVitals]]) -> Metric:
    labels = ["tenant", "sku", "state"]
    family = GaugeMetricFamily("cartsvc_stock_units", "Units of watched counters", labels=labels)
    for bucket, vital in found:
        for level in vital.watched:
            for state in ("free", "held", "sold"):
                family.add_metric([bucket.tenant, level.sku, state], getattr(level, state))
    return family


def _per_tenant(name: str, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, labels=["tenant"])
