"""Redis slow, lost, gone and back: a clear answer in time, and nothing done twice."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cartsvc import dev, embedded, scripts
from cartsvc.embedded import free_port
from cartsvc.errors import OutcomeUnknown
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from tests.proxy import Proxy
from tests.rush import rush
from tests.shop import LAMP, SECRET, Shop

REQUEST = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}


@pytest.fixture
async def proxy(valkey: embedded.Valkey) -> AsyncIterator[Proxy]:
    async with Proxy(valkey.url) as proxy:
        yield proxy


@pytest.fixture
async def proxied(shop: Shop, proxy: Proxy) -> AsyncIterator[Shop]:
    """The same shop, whose adds go through the proxy."""
    await shop.sell()
    redis = scripts.connect(proxy.url, timeout_s=5)
    yield Shop(Runner(redis, timeout_s=5))
    await redis.aclose()


async def test_a_lost_reply_is_not_asked_for_again(shop: Shop, proxied: Shop, proxy: Proxy) -> None:
    await proxied.add()
    proxy.drop_replies = True
    with pytest.raises(OutcomeUnknown):
        await proxied.add()
    proxy.drop_replies = False
    assert proxy.dropped == 1
    # Done once, and said to be unknown; the next add finds a connection that works.
    assert (await shop.redis.hget("cart:{default:0}:session:ann", f"q:{LAMP}")) == b"2"
    assert (await proxied.add()).total_quantity == 3


async def test_a_reply_that_came_too_late_is_not_the_next_ones(
    shop: Shop, proxied: Shop, proxy: Proxy
) -> None:
    await proxied.add()
    proxied.runner.timeout_s = 0.05
    proxy.hang = True
    with pytest.raises(OutcomeUnknown):
        await proxied.add()
    proxy.hang = False
    proxied.runner.timeout_s = 5
    assert (await proxied.add()).total_quantity == 3


async def test_a_cancelled_request_does_not_shift_replies(shop: Shop, proxied: Shop) -> None:
    await proxied.add()
    # At every point that an add waits at, in turn.
    for waits in range(1, 6):
        add = asyncio.create_task(proxied.add())
        for _ in range(waits):
            await asyncio.sleep(0)
        add.cancel()
        await asyncio.gather(add, return_exceptions=True)
    held = int(await shop.redis.hget("cart:{default:0}:session:ann", f"q:{LAMP}"))
    assert (await proxied.add()).total_quantity == held + 1


class Service:
    """A service with a Redis of its own, which a test may stop."""

    def __init__(self, folder: Path) -> None:
        self.valkey = embedded.Valkey(folder)
        self.valkey.start()
        self.settings = Settings(port=free_port(), redis_url=self.valkey.url, jwt_secret=SECRET)
        self.process = dev.start("serve", self.settings, os.environ)

    def stop(self) -> None:
        embedded.stop(self.process)
        self.valkey.stop()


@pytest.fixture
def service(servers_folder: Path, tmp_path: Path) -> Iterator[Service]:
    service = Service(servers_folder / tmp_path.name)
    yield service
    service.stop()


async def test_without_redis_it_is_503_at_once_and_it_recovers(service: Service) -> None:
    redis = scripts.connect(service.valkey.url, timeout_s=5)
    await (await Shop(Runner(redis, timeout_s=5)).open()).sell()
    await redis.aclose()
    url = dev.url(service.settings)

    answers = await rush(url, "/api/cart", [REQUEST] * 20)
    assert {answer.status for answer in answers} == {200}

    service.valkey.stop()
    answers = await rush(url, "/api/cart", [REQUEST] * 20)
    assert {(answer.status, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
    assert max(answer.seconds for answer in answers) < 1
    assert answers[0].body["error"] == {"code": "unavailable"}

    service.valkey.start()
    [answer] = await rush(url, "/api/cart", [REQUEST])
    # The append-only file brought back all that was acknowledged.
    assert answer.body["data"]["cart"]["total_items"] == 21


async def test_a_redis_that_hangs_is_503_within_a_second(valkey: embedded.Valkey) -> None:
    async with Proxy(valkey.url) as proxy:
        proxy.hang = True
        settings = Settings(port=free_port(), redis_url=proxy.url, jwt_secret=SECRET)
        process = await asyncio.to_thread(dev.start, "serve", settings, os.environ)
        try:
            answers = await rush(dev.url(settings), "/api/cart", [REQUEST] * 50)
            assert {answer.status for answer in answers} == {503}
            assert max(answer.seconds for answer in answers) < 1
        finally:
            await asyncio.to_thread(embedded.stop, process)
