"""Redis slow, lost, gone and back: a clear answer in time, and nothing done twice."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cartsvc import dev, embedded, scripts
from cartsvc.embedded import free_port
from cartsvc.errors import OutcomeUnknown
from cartsvc.scripts import Runner, Script
from cartsvc.settings import Settings
from tests.proxy import Proxy
from tests.rush import rush
from tests.serving import serving
from tests.shop import LAMP, SECRET, Shop

REQUEST = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}


async def test_a_lost_reply_of_bulk_work_is_not_asked_for_again(
    shop: Shop, valkey: embedded.Valkey
) -> None:
    await lost_in_bulk(scripts, shop, valkey)


class Counting(Runner):
    """Its script counts its runs."""

    def script(self, _: str) -> Script:
        source = "#!lua\nreturn { 'OK', redis.call('INCR', KEYS[1]) }\n"
        return Script(source, ((1, "counting.lua"),))


async def lost_in_bulk(scripts: ModuleType, shop: Shop, valkey: embedded.Valkey) -> None:
    async with Proxy(valkey.url) as proxy:
        runner = Counting(scripts.connect(proxy.url, timeout_s=5), timeout_s=5)
        try:
            await lose_in_bulk(runner, proxy)
            # Done once, and said to be unknown; the next finds a connection that works.
            assert await shop.redis.mget(["first", "second"]) == [b"2", b"2"]
            assert await runner.run_many("counting", CALLS) == [3, 3]
        finally:
            await runner.aclose()


CALLS: list[tuple[list[str], list[str]]] = [(["first"], []), (["second"], [])]


async def lose_in_bulk(runner: Runner, proxy: Proxy) -> None:
    """Two runs of each whose second reply is lost."""
    assert await runner.run_many("counting", CALLS) == [1, 1]
    proxy.drop_replies, proxy.drop_only = True, b"OK\r\n:2"
    with pytest.raises(OutcomeUnknown):
        await runner.run_many("counting", CALLS)
    proxy.drop_replies = False
    assert proxy.dropped == 1


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
    runner = Runner(scripts.connect(service.valkey.url, timeout_s=5), timeout_s=5)
    await (await Shop(runner).open()).sell()
    await runner.aclose()
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
        async with serving(Settings(redis_url=proxy.url)) as client:
            answers = await rush(str(client.base_url), "/api/cart", [REQUEST] * 50)
            assert {answer.status for answer in answers} == {503}
            assert max(answer.seconds for answer in answers) < 1
