"""Locust as a process of its own, without its page."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cartsvc.embedded import free_port
from loadtests import options, phases
from loadtests.options import Options
from loadtests.samples import begun_file

_POLL_S = 0.05

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


class Files:
    """What a rehearsal writes, in `folder`; `output` is what Locust prints: its tables.

    `begun` is there while shoppers are.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.samples = folder / "load.json"
        self.begun = begun_file(self.samples)
        self.picture = folder / "load.svg"
        self.html = folder / "load.html"
        self.csv = folder / "load_stats.csv"
        self.output = folder / "load.txt"


class Generated(NamedTuple):
    """`problem` is '' if all went well; `cpu_s` is of all processes of Locust."""

    problem: str
    cpu_s: float


def run(
    environ: Mapping[str, str], chosen: Options, files: Files, begins: Callable[[float], None]
) -> Generated:
    """Send the shoppers. `begins` is called when they come, with the seconds since the first."""
    cpu_s, lasted_s = _cpu_s(), 0.0
    files.samples.unlink(missing_ok=True)
    files.begun.unlink(missing_ok=True)
    with (
        files.output.open("w") as output,
        subprocess.Popen(
            _command(chosen, files),
            env={**environ, "CARTSVC_LOAD_SAMPLES": str(files.samples)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            if _has_begun(process, files.begun):
                first_s = files.begun.stat().st_mtime
                begins(time.time() - first_s)
                _tell_phases(process, chosen, first_s)
                process.wait()
                lasted_s = time.time() - first_s
            status = process.wait()
        except BaseException:
            # And its processes, which would wait for it for a minute.
            os.killpg(process.pid, signal.SIGTERM)
            raise
    files.begun.unlink(missing_ok=True)
    return Generated(_problem(status, lasted_s, chosen.seconds), _cpu_s() - cpu_s)


def _problem(status: int, lasted_s: float, seconds: float) -> str:
    # Locust that lost its processes ends as if all were well.
    if lasted_s < seconds:
        return f"Locust ended after {lasted_s:.0f} s"
    return "Locust saw failures" if status else ""


def _has_begun(process: subprocess.Popen[bytes], begun: Path) -> bool:
    while not begun.exists():
        if _has_ended(process, _POLL_S):
            return False
    return True


def _has_ended(process: subprocess.Popen[bytes], wait_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(wait_s, 0))
        return True
    return False


def _command(chosen: Options, files: Files) -> list[str]:
    prefix = files.csv.with_name(files.csv.stem.removesuffix("_stats"))
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "--csv", str(prefix), "--html", str(files.html),
    ]  # fmt: skip
    if chosen.shape == options.NO_SHAPE:
        users = str(chosen.users)
        command += ["-u", users, "-r", users, "-t", f"{chosen.seconds}s"]
    if chosen.processes > 1:
        port = str(free_port())
        command += ["--processes", str(chosen.processes), "--master-port", port]
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    return command


def _tell_phases(process: subprocess.Popen[bytes], chosen: Options, first_s: float) -> None:
    """Say what begins, as long as Locust runs."""
    for name, at_s in phases.begins(chosen.phases, chosen.seconds).items():
        if _has_ended(process, first_s + at_s - time.time()):
            return
        print(f"{at_s:6.0f} s  {name}", flush=True)


def _cpu_s() -> float:
    """Of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
