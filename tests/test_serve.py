"""`cartsvc serve`, in one process and in several: what begins, what ends, and what is finished."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cartsvc import dev, embedded, process
from cartsvc.embedded import free_port
from cartsvc.settings import SettingError, Settings
from tests.proxy import Proxy
from tests.raw import exchange
from tests.rush import rush
from tests.shop import LAMP, SECRET, Shop
from tests.wait import wait_until


def adds(count: int) -> list[dict[str, object]]:
    return [{"product_id": LAMP, "quantity": 1, "session_id": f"s{one}"} for one in range(count)]


@asynccontextmanager
async def serving(
    redis_url: str, workers: int, **bounds: Any
) -> AsyncIterator[tuple[dev.Process, str]]:
    """The service's process, and where it is."""
    settings = Settings(
        port=free_port(), redis_url=redis_url, redis_timeout_s=20, jwt_secret=SECRET, **bounds
    )
    options = ("--workers", str(workers))
    parent = await asyncio.to_thread(dev.start, "serve", settings, os.environ, *options)
    try:
        yield parent, dev.url(settings)
    finally:
        await asyncio.to_thread(embedded.stop, parent)


def servers(parent: dev.Process) -> list[int]:
    """Those of its processes that serve."""
    return [child.pid for child in psutil.Process(parent.pid).children() if is_server(child)]


def is_server(child: psutil.Process) -> bool:
    try:
        return "--multiprocessing-fork" in child.cmdline()
    except psutil.Error:
        return False  # It has ended.


def is_refused(url: str) -> Callable[[], object]:
    async def attempt() -> bool:
        host, port = url.removeprefix("http://").split(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False  # It came while the socket was being closed.
        writer.close()
        return False

    return attempt


async def warm(proxy: Proxy, address: str, workers: int) -> None:
    """Have every process make its link."""

    async def asked() -> bool:
        answers = await rush(address, "/api/cart", adds(20))
        assert {answer.status for answer in answers} == {200}
        # One was for the check at the start.
        return proxy.connections > 2 * workers

    await wait_until(asked)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_stop_finishes_what_is_in_flight(
    shop: Shop, valkey: embedded.Valkey, workers: int
) -> None:
    await shop.sell(stock=900)
    async with Proxy(valkey.url) as proxy, serving(proxy.url, workers) as (parent, address):
        await warm(proxy, address, workers)
        await shop.redis.delete(shop.bucket.dirty)
        proxy.passing.clear()
        answers = asyncio.create_task(rush(address, "/api/cart", adds(20)))
        await wait_until(lambda: shop.redis.zcard(shop.bucket.dirty), 20)
        parent.terminate()
        await wait_until(is_refused(address))
        assert parent.poll() is None
        proxy.passing.set()
        assert Counter(answer.status for answer in await answers) == {200: 20}
        status = await asyncio.to_thread(parent.wait, 20)
        assert status == (-signal.SIGTERM if workers == 1 else 0)
        # Each process has one link, whatever was asked of it, and looks at Redis by another; beside
        # that of the check.
        assert proxy.connections == 2 * workers + 1


@pytest.mark.slow
async def test_a_process_that_dies_is_started_anew(shop: Shop, valkey: embedded.Valkey) -> None:
    await shop.sell(stock=900)
    async with serving(valkey.url, 2) as (parent, address):
        killed, left = servers(parent)
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: left in servers(parent) and killed not in servers(parent))
        await wait_until(lambda: len(servers(parent)), 2)
        answers = await rush(address, "/api/cart", adds(20))
        assert {answer.status for answer in answers} == {200}


@pytest.mark.slow
async def test_processes_that_find_no_folder_to_share_serve_all_the_same(
    shop: Shop, valkey: embedded.Valkey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await shop.sell(stock=900)
    # Not the parent's `tempfile`, but the folders that a process looks into.
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
    (tmp_path / "sitecustomize.py").write_text(nowhere)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with serving(valkey.url, 2) as (_, address):
        answers = await rush(address, "/api/cart", adds(20))
        assert {answer.status for answer in answers} == {200}


def test_what_a_process_begins_with_is_asked_for_before_there_are_any() -> None:
    settings = Settings(port=free_port())
    with pytest.raises(SettingError, match="CARTSVC_JWT_SECRET"):
        process.serve(settings, workers=2)


GET = b"GET /healthz HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_connection_is_within_the_bounds_that_are_set(
    valkey: embedded.Valkey, workers: int
) -> None:
    bounds = {"max_head_bytes": 2_000, "request_timeout_s": 0.5, "keep_alive_s": 1}
    async with serving(valkey.url, workers, **bounds) as (_, url):
        for size, status in ((1_900, b"200"), (2_100, b"431")):
            answer = await exchange(url, GET[:-2] + b"X: " + b"a" * size + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status)
        assert (await exchange(url, GET[:-2])).startswith(b"HTTP/1.1 408 ")
        assert await exchange(url) == b""


async def test_there_are_as_many_connections_as_is_set(valkey: embedded.Valkey) -> None:
    async with serving(valkey.url, 1, max_connections=3, keep_alive_s=60) as (_, url):
        many = [asyncio.create_task(exchange(url)) for _ in range(9)]
        await wait_until(lambda: sum(one.done() for one in many), 6)
        answer = await exchange(url, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        for one in many:
            one.cancel()
        await asyncio.gather(*many, return_exceptions=True)


ENDLESS = {
    "a header": (b"GET / HTTP/1.1\r\nX: ", b"a"),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
    "trailers": (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
    "requests": (b"", GET),
    "requests for much": (b"", b"GET /openapi.json HTTP/1.1\r\n\r\n"),
    "empty lines": (b"", b"\r\n"),
}


async def test_what_has_no_end_takes_no_memory(valkey: embedded.Valkey) -> None:
    async with serving(valkey.url, 1) as (parent, url):
        await exchange(url, b"no HTTP\r\n\r\n")
        memory = psutil.Process(parent.pid).memory_info
        before = memory().rss
        for what, (begin, more) in ENDLESS.items():
            await exchange(url, begin, *[more * (500_000 // len(more))] * 100)
            assert memory().rss < before + 20_000_000, what


def test_a_process_has_files_for_its_connections() -> None:
    script = """
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from cartsvc.process import _connections
from cartsvc.settings import Settings
for soft, connections in ((256, 300), (600, 300), (256, 10**6)):
    setrlimit(RLIMIT_NOFILE, (soft, 2_000))
    print(_connections(Settings(max_connections=connections)), getrlimit(RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["300 428", "300 600", "1872 2000"]


@pytest.mark.parametrize("option", ["db=first", "nothing=known"])
def test_so_is_where_redis_is(option: str) -> None:
    url = f"redis://127.0.0.1/?{option}"
    settings = Settings(port=free_port(), redis_url=url, jwt_secret=SECRET)
    with pytest.raises(SettingError, match=r"CARTSVC_REDIS_URL: .*(db|nothing)"):
        process.serve(settings, workers=2)
