"""What `/metrics` tells at one look, and what two looks tell of the time between them."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from math import isinf
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

MIN_INTERVAL_S = 2.0
"""Shortest time between two looks: processes tell each other once a second, and not in step."""

ADDS = {
    "session": "/api/cart",
    "tenant": "/cart/items",
    "device": "/cart/items",
    "customer": "/api/customer/cart",
    "records": "/api/cart-items",
}
"""Contract -> where its shoppers POST what they add."""

Labels = frozenset[tuple[str, str]]
Numbers = Mapping[str, Mapping[Labels, float]]
Steps = Mapping[float, float]
"""Up to how many seconds -> how many took so long, and longer than the step before says."""


class Page(NamedTuple):
    """The samples of `/metrics`, by their names; durations by the name of their family."""

    numbers: Numbers
    durations: Mapping[str, Mapping[Labels, Steps]]

    def value(self, name: str, **labels: str) -> float | None:
        """A sample, or several with these labels added up; None where there is none."""
        found = [one for of, one in self.numbers.get(name, {}).items() if _has(of, labels)]
        return sum(found) if found else None


class Traffic(NamedTuple):
    """What went on between two looks: numbers a second, and shares of that time.

    `granted` and `refused` are adds; one that is answered again counts again. Percentiles are None
    where nothing was asked.
    """

    requests: Mapping[str, float]
    granted: float
    refused: float
    refusals: Mapping[str, float]
    replays: float
    turned_away: float
    p50_s: float | None
    p99_s: float | None
    cpu_share: float
    redis_share: float


class Standing(NamedTuple):
    """How things are at a look; None is what was not told. `last_pass_s` is in Redis's time."""

    redis_up: bool
    postgresql_up: bool
    processes: float
    resident_bytes: float
    in_flight: float
    memory_bytes: float | None
    max_memory_bytes: float | None
    dirty_carts: float | None
    lag_s: float | None
    last_pass_s: float | None
    last_pass_carts: float | None
    price_changes: float | None
    dead_letters: float | None
    is_overloaded: bool
    is_paused: bool


def page(text: str) -> Page:
    """Read what `/metrics` answered.

    Raises:
        ValueError: it is something else.
    """
    if "\ncartsvc_processes " not in text:
        raise ValueError("what answers there is no cartsvc")
    numbers: dict[str, dict[Labels, float]] = defaultdict(dict)
    durations: dict[str, dict[Labels, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            edge = sample.labels.pop("le", None)
            labels = frozenset(sample.labels.items())
            if edge is None:
                numbers[sample.name][labels] = sample.value
            else:
                durations[sample.name.removesuffix("_bucket")][labels][float(edge)] = sample.value
    return Page(
        numbers,
        {
            name: {of: _steps(edges) for of, edges in found.items()}
            for name, found in durations.items()
        },
    )


def _steps(up_to: Mapping[float, float]) -> Steps:
    """Steps of counts that each contain those before."""
    edges = [(0.0, 0.0), *sorted(up_to.items())]
    return {high: count - below for (_, below), (high, count) in pairwise(edges)}


def standing(found: Page, tenant: str) -> Standing:
    return Standing(
        redis_up=found.value("cartsvc_redis_up") == 1,
        postgresql_up=found.value("cartsvc_postgresql_up") == 1,
        processes=found.value("cartsvc_processes") or 0,
        resident_bytes=found.value("cartsvc_process_resident_memory_bytes") or 0,
        in_flight=found.value("cartsvc_link_in_flight") or 0,
        memory_bytes=found.value("cartsvc_redis_memory_bytes"),
        max_memory_bytes=found.value("cartsvc_redis_memory_max_bytes"),
        dirty_carts=found.value("cartsvc_dirty_carts", tenant=tenant),
        lag_s=found.value("cartsvc_flush_lag_seconds", tenant=tenant),
        last_pass_s=found.value("cartsvc_flush_last_pass_timestamp_seconds", tenant=tenant),
        last_pass_carts=found.value("cartsvc_flush_last_pass_carts", tenant=tenant),
        price_changes=found.value("cartsvc_unflushed_price_changes", tenant=tenant),
        dead_letters=found.value("cartsvc_dead_letters", tenant=tenant),
        is_overloaded=found.value("cartsvc_overloaded", tenant=tenant) == 1,
        is_paused=found.value("cartsvc_sale_paused", tenant=tenant) == 1,
    )


def traffic(before: Page, after: Page, seconds: float) -> Traffic:
    """What was counted from one look to the next, `seconds` later."""
    grown = growth(before, after)

    def rate(name: str) -> float:
        return (grown.value(name) or 0) / seconds

    answered = "cartsvc_request_duration_seconds"
    adds = {of: one for of, one in _by(grown, f"{answered}_count").items() if _is_add(of)}
    granted = sum(one for of, one in adds.items() if dict(of)["status"].startswith("2"))
    requests = merged(grown.durations.get(answered, {}))
    return Traffic(
        requests=_rates(grown, f"{answered}_count", "contract", seconds),
        granted=granted / seconds,
        refused=(sum(adds.values()) - granted) / seconds,
        refusals=_rates(grown, "cartsvc_refusals_total", "reason", seconds),
        replays=rate("cartsvc_replays_total"),
        turned_away=rate("cartsvc_turned_away_total"),
        p50_s=percentile(requests, 0.5),
        p99_s=percentile(requests, 0.99),
        cpu_share=rate("cartsvc_process_cpu_seconds_total"),
        redis_share=rate("cartsvc_redis_script_seconds_total"),
    )


def growth(before: Page, after: Page) -> Page:
    """How far everything that only counts has grown. What is lower than before began anew."""
    numbers = {
        name: {of: _grown(_by(before, name).get(of, 0), now) for of, now in found.items()}
        for name, found in after.numbers.items()
    }
    durations = {
        name: {
            of: _grown_steps(before.durations.get(name, {}).get(of, {}), steps)
            for of, steps in found.items()
        }
        for name, found in after.durations.items()
    }
    return Page(numbers, durations)


def _grown(before: float, now: float) -> float:
    return now - before if now >= before else now


def _grown_steps(before: Steps, now: Steps) -> Steps:
    # One that is lower tells that all began anew.
    if any(now.get(edge, 0) < count for edge, count in before.items()):
        return now
    return {edge: count - before.get(edge, 0) for edge, count in now.items()}


def merged(durations: Mapping[Labels, Steps]) -> Steps:
    """The durations of all labels together."""
    total: dict[float, float] = defaultdict(float)
    for steps in durations.values():
        for edge, count in steps.items():
            total[edge] += count
    return total


def percentile(durations: Steps, share: float) -> float | None:
    """What `share` of the durations did not exceed, in seconds; None where there are none.

    Within a step it is taken to grow evenly, as Prometheus does; what is past the last finite edge
    is told as that.
    """
    left, low = share * sum(durations.values()), 0.0
    for high, count in sorted(durations.items()):
        if count and count >= left:
            return low if isinf(high) else low + (high - low) * left / count
        left, low = left - count, high
    return None


def _is_add(labels: Labels) -> bool:
    of = dict(labels)
    return of["method"] == "POST" and ADDS.get(of["contract"]) == of["route"]


def _rates(grown: Page, name: str, label: str, seconds: float) -> dict[str, float]:
    """Of each value of a label, the greatest first; without those of which there were none."""
    total: dict[str, float] = defaultdict(float)
    for labels, count in _by(grown, name).items():
        total[dict(labels)[label]] += count / seconds
    return {of: rate for of, rate in sorted(total.items(), key=_greatest) if rate > 0}


def _greatest(one: tuple[str, float]) -> tuple[float, str]:
    return -one[1], one[0]


def _by(found: Page, name: str) -> Mapping[Labels, float]:
    return found.numbers.get(name, {})


def _has(labels: Labels, wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels
