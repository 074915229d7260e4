"""`make load`: a sale without Locust's page, bounded, written down, and then the invariants."""

import asyncio
import contextlib
import csv
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from cartsvc import settings
from cartsvc.embedded import free_port
from cartsvc.keys import Bucket
from cartsvc.settings import SettingError, Settings
from loadtests import invariants, options, phases, picture, sale, samples, summary
from loadtests.options import Options

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

_START_S = 4.0
"""What Locust may take to start: its sale begins that much later."""


def main() -> int:
    # As Ctrl-C does, it has the service stopped that was started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        chosen = options.read()
        with _service() as addresses:
            return rehearse(addresses, chosen)
    except (SettingError, sale.Refused) as error:
        return _ended(str(error), 2)
    except OSError as error:
        return _ended(f"the service's Redis or PostgreSQL does not answer: {error}", 2)
    except KeyboardInterrupt:
        return _ended("broken off", 130)


class Files:
    """What a rehearsal writes, in `folder`; `output` is what Locust prints: its tables."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.csv_prefix = folder / "load"
        self.samples = folder / "load.json"
        self.picture = folder / "load.svg"
        self.html = folder / "load.html"
        self.output = folder / "load.txt"
        self.stats = folder / "load_stats.csv"
        self.failures = folder / "load_failures.csv"


def rehearse(addresses: Mapping[str, str], chosen: Options) -> int:
    """The exit status: 0 if all went well, and all holds."""
    values = settings.read({**os.environ, **addresses})
    print(f"{chosen.users} shoppers at the most, {chosen.seconds} s: {addresses['CARTSVC_URL']}")
    if not values.jwt_secret:
        print(options.WITHOUT_TOKENS)
    files = Files(chosen.results)
    files.samples.unlink(missing_ok=True)
    told = _prepared(values, chosen) | {"CARTSVC_LOAD_SAMPLES": str(files.samples)}
    begun_s = _cpu_s()
    is_well = _locust({**os.environ, **addresses, **told}, chosen, files)
    cpu_s = _cpu_s() - begun_s
    if not files.samples.exists():
        return _ended(f"{files.output.read_text()}\nLocust did not run", 1)
    run = samples.read(files.samples)
    picture.plot(run, files.picture)
    found = asyncio.run(
        invariants.checked(
            values.redis_url, values.database_url, Bucket(values.tenant), values.max_lines
        )
    )
    for line in (*summary.of_run(run, cpu_s), *_failures(files.failures), *summary.of_rules(found)):
        print(line)
    written = (files.picture, files.html, files.stats, files.output)
    print(f"written: {', '.join(os.path.relpath(file) for file in written)}")
    return 0 if is_well and not any(found.values()) else 1


def _prepared(values: Settings, chosen: Options) -> dict[str, str]:
    """What Locust is told of the sale; its products are put on sale, if no others are named."""
    opens_in_s = _START_S + chosen.opening_s
    if not chosen.products:
        asyncio.run(sale.prepare(values, chosen.users, chosen.seconds, opens_in_s))
    return {
        "CARTSVC_LOAD_OPENS": str(time.time() + opens_in_s),
        "CARTSVC_LOAD_PRODUCTS": ",".join(chosen.products or sale.SKUS),
    }


def _locust(environ: Mapping[str, str], chosen: Options, files: Files) -> bool:
    """Whether Locust saw nothing wrong."""
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "--csv", str(files.csv_prefix), "--html", str(files.html),
    ]  # fmt: skip
    if chosen.shape == options.NO_SHAPE:
        users = str(chosen.users)
        command += ["-u", users, "-r", users, "-t", f"{chosen.seconds}s"]
    if chosen.processes > 1:
        port = str(free_port())
        command += ["--processes", str(chosen.processes), "--master-port", port]
        command += ["--master-bind-port", port]
    with (
        OUTPUT.open("w") as output,
        subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        _tell_phases(process, chosen, float(environ["CARTSVC_LOAD_OPENS"]))
        return process.wait() == 0


def _tell_phases(process: subprocess.Popen[bytes], chosen: Options, opens: float) -> None:
    """Say what begins, as long as Locust runs."""
    for name, at_s in phases.begins(chosen.phases, chosen.seconds).items():
        due_s = opens - chosen.opening_s + at_s - time.time()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(due_s, 0))
            return
        print(f"{at_s:6.0f} s  {name}", flush=True)


def _cpu_s() -> float:
    """Of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _failures(file_of_locust: Path) -> list[str]:
    """What Locust saw fail, the most frequent first."""
    with file_of_locust.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -int(row["Occurrences"]))
    return [f"failed {row['Occurrences']} times: {row['Name']}: {row['Error']}" for row in rows]


@contextlib.contextmanager
def _service() -> Iterator[dict[str, str]]:
    """Addresses of the service that runs here, or of one that runs for as long as this does."""
    addresses = options.addresses()
    if _answers(addresses["CARTSVC_URL"]):
        yield addresses
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "cartsvc", "dev"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        if not any(line.startswith("ready") for line in process.stdout):
            sys.exit("the service did not start")
        yield options.addresses()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def _ended(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
