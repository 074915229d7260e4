"""The worker's loop: passes, outages, the drain, and death at the worst moment."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from cartsvc import dev, embedded
from cartsvc.backlog import Backlog
from cartsvc.embedded import free_port
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.settings import Settings
from cartsvc.worker import Pass, Worker
from tests.shop import LAMP, Shop
from tests.wait import wait_until


@pytest.fixture
async def open_shop(shop: Shop, ledger: Ledger) -> Shop:
    await ledger.open_bucket(shop.bucket)
    await shop.sell(stock=10_000)
    return shop


def worker_of(shop: Shop, ledger: Ledger, *, batch: int = 100, interval_s: float = 60) -> Worker:
    return Worker(shop.store, Backlog(shop.runner), ledger, batch=batch, interval_s=interval_s)


async def units(ledger: Ledger) -> int:
    query = "SELECT coalesce(sum(quantity), 0)::bigint FROM cart_items"
    return int(await ledger.pool.fetchval(query))


async def test_a_pass_writes_the_whole_backlog(open_shop: Shop, ledger: Ledger) -> None:
    for number in range(7):
        await open_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", f"s{number}"))
    await open_shop.sell(price="1.00")
    for number in range(7):
        await open_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", f"s{number}"))
    worker = worker_of(open_shop, ledger, batch=3)
    assert await worker.run_once() == Pass(carts=7, price_changes=7)
    assert await worker.run_once() == Pass()
    assert await units(ledger) == 14


async def test_every_tenant_is_flushed(open_shop: Shop, ledger: Ledger) -> None:
    other = Shop(open_shop.runner)
    other.bucket = Bucket("acme")
    await other.open()
    await ledger.open_bucket(other.bucket)
    await other.sell()
    await other.add()
    await open_shop.add()
    assert await worker_of(open_shop, ledger).run_once() == Pass(carts=2)
    rows = await ledger.pool.fetch("SELECT tenant FROM carts ORDER BY tenant")
    assert [row["tenant"] for row in rows] == ["acme", "default"]


async def test_the_loop_drains_when_it_is_stopped(open_shop: Shop, ledger: Ledger) -> None:
    worker = worker_of(open_shop, ledger)
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.create_task(worker.run_forever(stop, on_ready=ready.set))
    await ready.wait()
    # Its next pass is a minute away.
    await open_shop.add(3)
    stop.set()
    assert await loop is True
    assert await units(ledger) == 3


async def test_redis_and_postgres_may_go_and_come_back(
    open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    worker = worker_of(open_shop, ledger, interval_s=0.01)
    stop = asyncio.Event()
    loop = asyncio.create_task(worker.run_forever(stop))
    away = await Ledger.connect("postgresql://postgres@127.0.0.1:1/nothing")
    worker.ledger = away
    await wait_until(lambda: "flush waits, nothing is lost" in caplog.text)
    await open_shop.add(2)
    worker.ledger = ledger
    await wait_until(lambda: units(ledger), 2)
    await wait_until(lambda: "flush goes on" in caplog.text)
    stop.set()
    assert await loop is True
    # Told once, however many passes failed.
    assert caplog.text.count("flush waits") == 1
    await away.close()


async def test_a_drain_that_leaves_something_says_so(open_shop: Shop, ledger: Ledger) -> None:
    await open_shop.add()
    stop = asyncio.Event()
    stop.set()
    async with ledger.flush(open_shop.bucket) as another_workers:
        assert another_workers is not None
        assert await worker_of(open_shop, ledger).run_forever(stop) is False
    assert await worker_of(open_shop, ledger).run_forever(stop) is True


async def test_an_error_of_ours_ends_the_loop(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(open_shop, ledger)

    async def broken() -> Pass:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "run_once", broken)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            await worker.run_forever(asyncio.Event())


async def test_a_cancellation_that_is_swallowed_still_ends_the_loop(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, begun, stop = worker_of(open_shop, ledger), asyncio.Event(), asyncio.Event()
    whole_pass = worker.run_once

    async def swallows() -> Pass:
        if stop.is_set():
            return await whole_pass()
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Pass()

    monkeypatch.setattr(worker, "run_once", swallows)
    await open_shop.add()
    loop = asyncio.create_task(worker.run_forever(stop))
    await begun.wait()
    stop.set()
    async with asyncio.timeout(5):
        assert await loop is True


async def test_redis_gone_after_the_last_pass_is_no_traceback(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> int:
        raise RedisConnectionError

    monkeypatch.setattr(Backlog, "count", gone)
    stop = asyncio.Event()
    stop.set()
    assert await worker_of(open_shop, ledger).run_forever(stop) is False


async def test_a_drain_has_an_end(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL hangs: the pass in flight is given up, and so is the drain."""
    monkeypatch.setattr("cartsvc.worker.DRAIN_S", 0.1)
    await open_shop.add()
    stop, begun = asyncio.Event(), asyncio.Event()
    worker = worker_of(open_shop, ledger)

    async def hangs() -> Pass:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("never gets here")

    monkeypatch.setattr(worker, "run_once", hangs)
    loop = asyncio.create_task(worker.run_forever(stop))
    await begun.wait()
    stop.set()
    async with asyncio.timeout(5):
        assert await loop is False


async def test_a_drain_that_fails_says_so(open_shop: Shop) -> None:
    away = await Ledger.connect("postgresql://postgres@127.0.0.1:1/nothing")
    stop = asyncio.Event()
    stop.set()
    assert await worker_of(open_shop, away).run_forever(stop) is False
    await away.close()


@pytest.fixture
async def settings(valkey: embedded.Valkey, database_url: str) -> Settings:
    return Settings(
        port=free_port(),
        redis_url=valkey.url,
        database_url=database_url,
        flush_interval_s=0.05,
    )


async def test_the_process_drains_on_sigterm(
    open_shop: Shop, ledger: Ledger, settings: Settings
) -> None:
    settings = replace(settings, flush_interval_s=60.0)
    process = await asyncio.to_thread(dev.start, "worker", settings, os.environ)
    await open_shop.add(5)
    assert await asyncio.to_thread(embedded.stop, process) == 0
    assert await units(ledger) == 5


# The worker as it is, but killed by the kernel at one point of its pass.
KILLED_AT = """
import os, signal
from cartsvc.backlog import Backlog
from cartsvc.flush_rows import Flush

async def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr({owner}, {method!r}, killed)
from cartsvc.cli import main
main()
"""


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        ("Backlog", "flushed"),  # between commit and acknowledgement
        ("Backlog", "trim_prices"),  # between commit and trim
        ("Flush", "write_rows"),  # inside the transaction
        ("Flush", "write_prices"),
    ],
)
async def test_a_worker_that_was_killed_has_changed_nothing_twice(
    open_shop: Shop, ledger: Ledger, settings: Settings, owner: str, method: str
) -> None:
    await open_shop.add(1)
    await open_shop.sell(price="24.50")
    await open_shop.add(1)
    process = await asyncio.to_thread(
        embedded.spawn,
        [sys.executable, "-c", KILLED_AT.format(owner=owner, method=method), "worker"],
        env={
            **os.environ,
            "CARTSVC_REDIS_URL": settings.redis_url,
            "CARTSVC_DATABASE_URL": settings.database_url,
        },
    )
    assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL
    await worker_of(open_shop, ledger).run_once()
    [cart] = await ledger.pool.fetch("SELECT version FROM carts")
    assert cart["version"] == 2
    assert await units(ledger) == 2
    history = await ledger.pool.fetch("SELECT old_price_minor, new_price_minor FROM price_history")
    assert [tuple(row) for row in history] == [(2999, 2450)]
    assert await open_shop.redis.zcard("dirty:{default:0}") == 0
    assert await open_shop.redis.xlen("prices:{default:0}") == 0


async def test_adds_and_flush_at_once_end_equal(
    open_shop: Shop, ledger: Ledger, settings: Settings
) -> None:
    process = await asyncio.to_thread(dev.start, "worker", settings, os.environ)
    owners = [Owner("session", f"s{number}") for number in range(25)]

    async def shop_along(owner: Owner) -> None:
        for _ in range(20):
            await open_shop.add_lines(LineRequest(LAMP, 1), owner=owner)

    await asyncio.gather(*(shop_along(owner) for owner in owners))
    await wait_until(lambda: units(ledger), 500)
    assert await asyncio.to_thread(embedded.stop, process) == 0
    rows = await ledger.pool.fetch("SELECT version FROM carts")
    assert [row["version"] for row in rows] == [20] * 25


# Killed in the middle of a walk: at its third batch of five carts.
KILLED_IN_A_WALK = """
import os, signal
from cartsvc import upkeep
from cartsvc.store import Store

upkeep.REPRICE_CARTS = 5
reprice, batches = Store.reprice, []

async def killed(*arguments, **named):
    batches.append(arguments)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return await reprice(*arguments, **named)

Store.reprice = killed
from cartsvc.cli import main
main()
"""


async def test_a_walk_of_a_worker_that_was_killed_is_ended_by_another(
    open_shop: Shop, ledger: Ledger, settings: Settings
) -> None:
    for number in range(23):
        await open_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", f"s{number}"))
    await open_shop.sell(price="24.50")
    process = await asyncio.to_thread(
        embedded.spawn,
        [sys.executable, "-c", KILLED_IN_A_WALK, "worker"],
        env={
            **os.environ,
            "CARTSVC_REDIS_URL": settings.redis_url,
            "CARTSVC_DATABASE_URL": settings.database_url,
        },
    )
    assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL
    assert await open_shop.redis.exists(open_shop.bucket.repricing) == 1
    another = await asyncio.to_thread(dev.start, "worker", settings, os.environ)
    await wait_until(lambda: open_shop.redis.exists(open_shop.bucket.repricing), 0)
    assert await asyncio.to_thread(embedded.stop, another) == 0
    rows = await ledger.pool.fetch(
        "SELECT i.id, i.price_minor, count(h.cart_item_id) AS events FROM cart_items i"
        " LEFT JOIN price_history h ON h.cart_item_id = i.id GROUP BY i.id, i.price_minor"
    )
    assert [(row["price_minor"], row["events"]) for row in rows] == [(2450, 1)] * 23
