"""CPU time and memory of processes, from Linux's own accounting in /proc."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Times(NamedTuple):
    """CPU seconds of a process, and of children of it that have ended and been waited for."""

    own: float
    ended: float


def missing() -> str:
    """What is not there that this needs; '' if nothing."""
    return "" if Path("/proc/self/stat").exists() else "Linux (/proc)"


def parse(stat: str) -> Times:
    """The times in /proc/PID/stat."""
    # The second field is the name of the program, in brackets; it may hold anything.
    fields = stat.rpartition(")")[2].split()
    user, system, ended_user, ended_system = (int(field) for field in fields[11:15])
    return Times((user + system) * _TICK_S, (ended_user + ended_system) * _TICK_S)


def own(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far; one that is gone counts nothing."""
    return sum(times.own for times in _times(pids))


def family(pids: Iterable[int]) -> float:
    """As `own`, with those of children that have ended: what they used is not lost."""
    return sum(times.own + times.ended for times in _times(pids))


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of these processes, in MB of 10**6 bytes."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 1e6


def _times(pids: Iterable[int]) -> list[Times]:
    times = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            times.append(parse(Path(f"/proc/{pid}/stat").read_text()))
    return times
