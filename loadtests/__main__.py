"""`make load`: Locust without its page, bounded, and then the invariants."""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cartsvc import settings
from cartsvc.keys import Bucket
from loadtests.invariants import violations

RESULTS = Path(__file__).with_name("results")
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ENV = Path(".cartsvc/env")

USERS = os.environ.get("CARTSVC_LOAD_USERS", "100")
SECONDS = os.environ.get("CARTSVC_LOAD_SECONDS", "20")


def main() -> int:
    with _service() as addresses:
        print(f"{USERS} shoppers for {SECONDS} s against {addresses['CARTSVC_URL']}")
        failed = _locust(addresses)
        values = settings.read({**os.environ, **addresses})
        found = asyncio.run(
            violations(
                values.redis_url, values.database_url, Bucket(values.tenant), values.max_lines
            )
        )
    for violation in found:
        print(violation)
    if not found:
        print("nothing oversold, no cart over its cap, PostgreSQL has caught up")
    return 1 if failed or found else 0


@contextlib.contextmanager
def _service() -> Iterator[dict[str, str]]:
    """Addresses of the service that runs here, or of one that runs for as long as this does."""
    addresses = _addresses()
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
        yield _addresses()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def _addresses() -> dict[str, str]:
    """CARTSVC_ variables: those of `make run`, and over them those of the environment."""
    told = {}
    if ENV.exists():
        told = dict(word.split("=", 1) for word in shlex.split(ENV.read_text()))
    given = {name: value for name, value in os.environ.items() if name.startswith("CARTSVC_")}
    return {"CARTSVC_URL": "http://127.0.0.1:8000", **told, **given}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def _locust(addresses: dict[str, str]) -> bool:
    """Whether Locust saw a request fail."""
    RESULTS.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "-u", USERS, "-r", USERS, "-t", f"{SECONDS}s", "--stop-timeout", "5",
        "--csv", str(RESULTS / "load"), "--html", str(RESULTS / "load.html"),
    ]  # fmt: skip
    return subprocess.run(command, env={**os.environ, **addresses}, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
