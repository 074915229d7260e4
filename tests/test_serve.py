"""`cartsvc serve`, in one process and in several: what begins, what ends, and what is finished."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from cartsvc import dev, embedded, process
from cartsvc.embedded import free_port
from cartsvc.settings import SettingError, Settings
from tests.proxy import Proxy
from tests.rush import rush
from tests.shop import LAMP, SECRET, Shop
from tests.wait import wait_until


def adds(count: int) -> list[dict[str, object]]:
    return [{"product_id": LAMP, "quantity": 1, "session_id": f"s{one}"} for one in range(count)]


@asynccontextmanager
async def serving(redis_url: str, workers: int) -> AsyncIterator[tuple[dev.Process, str]]:
    """The service's process, and where it is."""
    settings = Settings(
        port=free_port(), redis_url=redis_url, redis_timeout_s=20, jwt_secret=SECRET
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
        return proxy.connections >= 2 * workers

    await wait_until(asked)


@pytest.mark.parametrize("workers", [1, 2])
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
        # Each process has one link, whatever was asked of it, and looks at Redis by another.
        assert proxy.connections == 2 * workers


async def test_a_process_that_dies_is_started_anew(shop: Shop, valkey: embedded.Valkey) -> None:
    await shop.sell(stock=900)
    async with serving(valkey.url, 2) as (parent, address):
        killed, left = servers(parent)
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: left in servers(parent) and killed not in servers(parent))
        await wait_until(lambda: len(servers(parent)), 2)
        answers = await rush(address, "/api/cart", adds(20))
        assert {answer.status for answer in answers} == {200}


def test_what_a_process_begins_with_is_asked_for_before_there_are_any() -> None:
    settings = Settings(port=free_port())
    with pytest.raises(SettingError, match="CARTSVC_JWT_SECRET"):
        process.serve(settings, workers=2)
