"""`make load`: a sale without Locust's page, bounded, written down, and then the invariants."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping

from redis.exceptions import RedisError

from cartsvc import settings
from cartsvc.errors import CartError
from cartsvc.keys import Bucket
from cartsvc.ledger import FAILURES
from cartsvc.settings import SettingError, Settings
from loadtests import generator, invariants, options, picture, sale, samples, summary
from loadtests.generator import Generated
from loadtests.options import Options


class NoService(RuntimeError):
    """There is none, and none could be started."""


def main() -> int:
    # As Ctrl-C does, it has the service stopped that was started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        chosen = options.read()
        with _service() as addresses:
            return rehearse(addresses, chosen)
    except (SettingError, NoService, sale.Refused) as error:
        return _ended(str(error), 2)
    except (CartError, RedisError, *FAILURES) as error:
        return _ended(f"Redis or PostgreSQL of the service: {error or type(error).__name__}", 2)
    except KeyboardInterrupt:
        return _ended("broken off", 130)


def rehearse(addresses: Mapping[str, str], chosen: Options) -> int:
    """The exit status: 0 if all went well, and all holds."""
    values = settings.read({**os.environ, **addresses})
    print(f"{chosen.users} shoppers at the most, {chosen.seconds} s: {addresses['CARTSVC_URL']}")
    if not values.jwt_secret:
        print(options.WITHOUT_TOKENS)
    files = generator.Files(chosen.results)
    generated = _generated(values, addresses, chosen, files)
    if not files.samples.exists():
        return _ended(f"{files.output.read_text()}\n{generated.problem}", 1)
    run = samples.read(files.samples)
    picture.plot(run, files.picture)
    found = asyncio.run(
        invariants.checked(
            values.redis_url, values.database_url, Bucket(values.tenant), values.max_lines
        )
    )
    for line in (*summary.of_run(run, generated.cpu_s), *summary.of_rules(found)):
        print(line)
    if generated.problem:
        print(f"{generated.problem}: see {os.path.relpath(files.output)}")
    written = (files.picture, files.html, files.csv, files.output)
    print(f"written: {', '.join(os.path.relpath(file) for file in written)}")
    return 1 if generated.problem or any(found.values()) else 0


def _generated(
    values: Settings, addresses: Mapping[str, str], chosen: Options, files: generator.Files
) -> Generated:
    """Shoppers for products that are named; or for a sale, which opens as the shape says."""
    environ = {**os.environ, **addresses}
    if chosen.products:
        return generator.run(environ, chosen, files, lambda _: None)

    def put(opens_in_s: float, *, is_fresh: bool) -> None:
        asyncio.run(sale.put(values, chosen.users, chosen.seconds, opens_in_s, is_fresh=is_fresh))

    # Locust takes some seconds to start, or more: until then nobody can say when the sale opens.
    put(sale.LATER_S, is_fresh=True)
    environ["CARTSVC_LOAD_PRODUCTS"] = ",".join(sale.SKUS)
    return generator.run(
        environ, chosen, files, lambda at_s: put(chosen.opening_s - at_s, is_fresh=False)
    )


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
            raise NoService("the service did not start")
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
