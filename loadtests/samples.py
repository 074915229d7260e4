"""What is written down of a rehearsal, second by second and in all."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec


class Level(msgspec.Struct, frozen=True):
    """Units of a counter."""

    free: int
    held: int
    sold: int


class Sample(msgspec.Struct, frozen=True):
    """A second. `granted` and `refused` are adds a second, p50 and p99 theirs (None without any).

    `stock` is by counter, of what everybody wants; `lag_s` the age of the oldest dirty cart.
    """

    at_s: float
    users: int
    granted: float
    refused: float
    p50_ms: float | None
    p99_ms: float | None
    stock: dict[str, Level]
    dirty: int
    lag_s: float


class Run(msgspec.Struct):
    """`phases` is when each begins; `refusals` are adds, by reason, `times_ms` their answers'.
    `errors` is what failed, and how often."""

    samples: list[Sample]
    phases: dict[str, float]
    requests: int
    failures: int
    granted: int
    refusals: dict[str, int]
    times_ms: dict[int, int]
    errors: dict[str, int]


def read(file: Path) -> Run:
    return msgspec.json.decode(file.read_bytes(), type=Run)


def write(run: Run, file: Path) -> None:
    file.write_bytes(msgspec.json.encode(run))


def begun_file(file: Path) -> Path:
    """What is there from the time when shoppers come, beside the file that tells of them."""
    return file.with_suffix(".begun")


def percentile(times: Mapping[int, int], share: float) -> float | None:
    """The time that `share` of the answers did not take longer than; `times` are counts by time."""
    left = share * sum(times.values())
    for time_ms in sorted(times):
        left -= times[time_ms]
        if left <= 0:
            return float(time_ms) if times[time_ms] else None
    return None


def together(times: Iterable[Mapping[int, int]]) -> Counter[int]:
    """Counts of several, added up."""
    found: Counter[int] = Counter()
    for one in times:
        found.update(one)
    return found
