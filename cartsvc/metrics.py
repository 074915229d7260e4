"""What a process counts: plain numbers, so that a request pays less than a microsecond for them.

A process writes what it has once a second; `scrape` adds up what all processes of a service wrote.
"""

import asyncio
import contextlib
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

Labels = tuple[str, ...]

BOUNDS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)
"""Up to where each bucket of a duration goes; the last one has what took longer."""

WRITE_S = 1.0

LIVE_S = 5.0
"""A process that has not written for so long is none any more: it counted, but it has nothing."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metric(NamedTuple):
    """A family of numbers, as Prometheus names it: without the suffixes of its samples."""

    name: str
    help: str
    labels: Labels = ()


class Duration:
    """How often what took how long, in seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


Counted = dict[Labels, float]
Timed = dict[Labels, Duration]


def _counter(name: str, help_text: str, *labels: str) -> Counted:
    found: Counted = defaultdict(float)
    COUNTERS[Metric(name, help_text, labels)] = found
    return found


def _durations(name: str, help_text: str, *labels: str) -> Timed:
    found: Timed = defaultdict(Duration)
    DURATIONS[Metric(name, help_text, labels)] = found
    return found


COUNTERS: dict[Metric, Counted] = {}
DURATIONS: dict[Metric, Timed] = {}
GAUGES: dict[Metric, Callable[[], float]] = {}

REQUESTS = _durations(
    "cartsvc_request_duration_seconds",
    "From the last byte of a request to its answer",
    *("contract", "method", "route", "status"),
)
REFUSALS = _counter(
    "cartsvc_refusals",
    "Requests that were refused, by the error in errors.py; internal_error is a fault of ours",
    *("contract", "reason"),
)
REPLAYS = _counter(
    "cartsvc_replays",
    "Requests that were answered once more, by their Idempotency-Key",
    "contract",
)
TURNED_AWAY = _counter(
    "cartsvc_turned_away", "What no contract was asked: no HTTP, too large, too late", "status"
)
SCRIPTS = _durations(
    "cartsvc_script_duration_seconds",
    "From asking Redis for a script to its reply; adds that come at once share one",
    "script",
)
LINKS = _counter(
    "cartsvc_link_events",
    "Connections to Redis: made, failed (it could not be reached) or lost",
    "event",
)
CPU = _counter("cartsvc_process_cpu_seconds", "CPU time of the processes that serve")


def gauge(name: str, help_text: str, value: Callable[[], float]) -> None:
    """Let a process tell a number that it has, and not only counts."""
    GAUGES[Metric(name, help_text)] = value


_MEMORY = Path("/proc/self/statm")


def _resident_bytes() -> int:
    return int(_MEMORY.read_text().split()[1]) * _PAGE


# Linux has it.
if _MEMORY.exists():
    gauge(
        "cartsvc_process_resident_memory_bytes",
        "Memory of the processes that serve",
        _resident_bytes,
    )


class Snapshot(msgspec.Struct):
    """What a process had at `at_s`, of a clock that all have; families by their names."""

    at_s: float
    counters: dict[str, list[tuple[Labels, float]]]
    durations: dict[str, list[tuple[Labels, list[int], float]]]
    gauges: dict[str, float]

    def is_live(self) -> bool:
        return time.monotonic() - self.at_s < LIVE_S


def snapshot() -> Snapshot:
    CPU[()] = time.process_time()
    return Snapshot(
        time.monotonic(),
        {metric.name: list(found.items()) for metric, found in COUNTERS.items()},
        {
            metric.name: [(of, list(one.counts), one.sum_s) for of, one in found.items()]
            for metric, found in DURATIONS.items()
        },
        {metric.name: value() for metric, value in GAUGES.items()},
    )


class Board:
    """Where the processes of a service see each other's numbers: a folder with a file of each.

    `folder` None: there is no other process. What one that has died counted stays counted.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def write(self) -> None:
        """Tell the others what this process has."""
        if self.folder is not None:
            file = self.folder / str(os.getpid())
            # Renamed, or somebody would read half of it.
            part = file.with_suffix(".part")
            # Without room on the disk it is the numbers that are old.
            with contextlib.suppress(OSError):
                part.write_bytes(msgspec.msgpack.encode(snapshot()))
                part.replace(file)

    async def run_forever(self) -> None:
        """Write, until cancelled, and then once more."""
        try:
            while True:
                self.write()
                await asyncio.sleep(WRITE_S)
        finally:
            self.write()

    def read(self) -> list[Snapshot]:
        """What this process has, and what the others wrote last."""
        return [snapshot(), *self._others()]

    def _others(self) -> list[Snapshot]:
        if self.folder is None:
            return []
        own = str(os.getpid())
        files = [file for file in self.folder.iterdir() if not file.suffix and file.name != own]
        return [_decode(file.read_bytes()) for file in files]


ALONE = Board(None)

_decode = msgspec.msgpack.Decoder(Snapshot).decode
