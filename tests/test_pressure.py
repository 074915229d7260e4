"""High-water marks: past one, nothing changes a cart for a shopper; reads and the worker go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from cartsvc import embedded, flush, scripts
from cartsvc.backlog import Backlog
from cartsvc.errors import NotWarm, Overloaded
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest
from cartsvc.pressure import IDLE_POLLS, MOST, Marks, Pressure
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store
from cartsvc.worker import Worker
from tests.carts import BOB
from tests.front import front_of
from tests.serving import serving
from tests.shop import ANN, LAMP, Shop
from tests.test_authorization import ANN as CUSTOMER
from tests.test_authorization import DORA, OPERATORS, ROUTES, World, aim_at, callers_of, token_of
from tests.test_idempotency import ADMIN, CHANGING, request_of
from tests.wait import wait_until

CARTS_CHANGING = [route for route in CHANGING if route.contract.name != OPERATORS]
READING = [route for route in ROUTES if not route.operation.changes]
EVENTS = 10


def pressure_of(shop: Shop) -> Pressure:
    return shop.store.pressure


@asynccontextmanager
async def old(shop: Shop) -> AsyncIterator[None]:
    """A cart waits for longer than it may."""
    pressure_of(shop).marks = Marks(dirty_age_s=10)
    await shop.redis.zadd(shop.bucket.dirty, {"a cart": shop.clock.ms - 10_001})
    yield
    await shop.redis.zrem(shop.bucket.dirty, "a cart")


@asynccontextmanager
async def many_prices(shop: Shop) -> AsyncIterator[None]:
    pressure_of(shop).marks = Marks(price_events=EVENTS)
    await add_prices(shop, EVENTS + 1)
    yield
    await shop.redis.delete(shop.bucket.prices)


async def add_prices(shop: Shop, count: int) -> None:
    change = {"cart": 1, "line": 1, "sku": LAMP, "old": 1, "new": 2, "at": shop.clock.ms}
    for version in range(count):
        await shop.redis.xadd(shop.bucket.prices, {**change, "version": version})


@asynccontextmanager
async def maxmemory(shop: Shop, policy: str) -> AsyncIterator[None]:
    """Redis may use twice of what it does."""
    used = (await shop.redis.info("memory"))["used_memory"]
    await shop.redis.config_set("maxmemory-policy", policy)
    await shop.redis.config_set("maxmemory", 2 * used)
    try:
        yield
    finally:
        await shop.redis.config_set("maxmemory", 0)
        await shop.redis.config_set("maxmemory-policy", "noeviction")


@asynccontextmanager
async def full(shop: Shop) -> AsyncIterator[None]:
    pressure_of(shop).marks = Marks(memory_percent=40)
    async with maxmemory(shop, "noeviction"):
        yield


@asynccontextmanager
async def evicting(shop: Shop) -> AsyncIterator[None]:
    async with maxmemory(shop, "allkeys-lru"):
        yield


MARKS: dict[str, Callable[[Shop], AbstractAsyncContextManager[None]]] = {
    "age": old,
    "prices": many_prices,
    "memory": full,
    "eviction": evicting,
}


@asynccontextmanager
async def pressed(shop: Shop, mark: str = "prices") -> AsyncIterator[None]:
    """The mark is passed, and the shop's store knows."""
    pressure_of(shop).watch(shop.bucket)
    async with MARKS[mark](shop):
        await pressure_of(shop).poll()
        yield
    await pressure_of(shop).poll()


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


@pytest.fixture
async def front(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with front_of(world.shop, world.ledger) as client:
        yield client


@pytest.mark.parametrize("mark", MARKS)
async def test_past_a_mark_nothing_changes_a_cart(
    front: httpx.AsyncClient, world: World, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with pressed(world.shop, mark):
        before = await world.state()
        for route in CARTS_CHANGING:
            asked, _ = request_of(route, world)
            for key in ([], [("Idempotency-Key", route.name)]):
                answer = await front.request(**asked | {"headers": [*asked["headers"], *key]})
                assert answer.status_code == 503, route.name
                assert answer.headers["retry-after"] == "10"
                assert "Carts can be read and not changed now" in answer.text
        # The log told it when the mark was passed.
        assert [one.name for one in caplog.records] == ["cartsvc.pressure"]
        assert await world.state() == before
        for route in READING:
            # Its guest's cart is none that a customer, who comes first, may see.
            caller = callers_of(route)[0]
            status = 404 if "{session_id}" in route.name else 200
            answer = await front.request(**caller.ask(route, world.own(caller)))
            assert answer.status_code == status, route.name


@pytest.mark.parametrize("mark", MARKS)
async def test_once_it_is_left_all_goes_on(
    front: httpx.AsyncClient, world: World, mark: str
) -> None:
    async with pressed(world.shop, mark):
        pass
    for route in CHANGING:
        if "POST" in route.name:
            asked, _ = request_of(route, world)
            answer = await front.request(**asked)
            assert answer.status_code == route.operation.status, route.name


async def test_a_refusal_has_the_shape_of_its_contract(
    front: httpx.AsyncClient, world: World
) -> None:
    told = {}
    async with pressed(world.shop):
        for route in CARTS_CHANGING:
            asked, _ = request_of(route, world)
            told[route.contract.name] = set((await front.request(**asked)).json())
    assert told == {
        "session": {"success", "message", "error"},
        "tenant": {"statusCode", "message", "error"},
        "device": {"error"},
        "customer": {"success", "message", "error"},
        "records": {"timestamp", "status", "error", "message", "path"},
    }


async def test_a_cart_that_only_postgresql_has_stays_there(
    front: httpx.AsyncClient, world: World
) -> None:
    aim = aim_at(world.active[DORA])
    body = {"cartId": aim.cart, "productId": LAMP, "quantity": 5}
    [eve] = [cart for cart in world.carts if cart.owner.id == "eve"]
    async with pressed(world.shop):
        before = await world.state()
        put = await front.put(f"/api/cart-items/{aim.item}", json=body, headers=ADMIN)
        opened = await front.patch(f"/api/carts/{aim.cart}/status/ACTIVE", headers=ADMIN)
        # It is closed already, and would only be hidden.
        deleted = await front.delete(f"/api/carts/{aim_at(eve).cart}", headers=ADMIN)
        assert [one.status_code for one in (put, opened, deleted)] == [503] * 3
        assert await world.state() == before


async def test_a_read_with_a_login_leaves_the_guests_cart(
    front: httpx.AsyncClient, world: World
) -> None:
    sent = {"x-tenant-id": "default", "x-session-id": "guest"}
    sent["Authorization"] = f"Bearer {token_of('bob')}"
    async with pressed(world.shop):
        before = await world.state()
        answer = await front.get("/cart", headers=sent)
        assert (answer.status_code, answer.json()["userId"]) == (200, "bob")
        assert "merge" not in answer.json()
        assert await world.state() == before
    answer = await front.get("/cart", headers=sent)
    assert answer.json()["merge"] == {"sessionId": "guest", "clamped": []}


async def test_what_the_worker_writes_goes_on(world: World) -> None:
    shop = world.shop
    await shop.sell("7", stock=5, stock_policy="hold")
    held = await shop.add_lines(LineRequest("7", 5), owner=BOB)
    shop.clock.ms += 600_000
    async with pressed(shop):
        store, bucket = shop.store, shop.bucket
        assert await store.release(bucket, [bucket.cart(held.owner)]) == 1
        await shop.sell(LAMP, price="1.00")
        found = await flush.carts(Backlog(shop.runner), world.ledger, bucket, 100)
        assert found.written > 0
        assert await shop.redis.zcard(bucket.dirty) == 0
        ann = await store.peek(bucket, CUSTOMER)
        flushed = {bucket.cart(ann.owner): (ann.id, ann.version)}
        assert await store.cool(bucket, flushed) == 1
        with pytest.raises(Overloaded):
            await shop.add()


async def test_a_mark_is_left_below_it(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody goes to and fro about it, and the log tells it once."""
    caplog.set_level("INFO")
    pressure = pressure_of(shop)
    pressure.marks = Marks(price_events=EVENTS)
    pressure.watch(shop.bucket)
    await add_prices(shop, EVENTS)
    await pressure.poll()
    pressure.check(shop.bucket)
    assert not caplog.records
    await add_prices(shop, 1)
    for left in (EVENTS + 1, EVENTS, EVENTS + 1):
        await shop.redis.xtrim(shop.bucket.prices, maxlen=left, approximate=False)
        await pressure.poll()
        with pytest.raises(Overloaded):
            pressure.check(shop.bucket)
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    assert "unflushed price changes of default is 11, and the mark is 10" in caplog.text
    await shop.redis.xtrim(shop.bucket.prices, maxlen=EVENTS - 1, approximate=False)
    for _ in range(3):
        await pressure.poll()
        pressure.check(shop.bucket)
    assert [one.levelname for one in caplog.records] == ["ERROR", "WARNING"]


async def test_each_bucket_has_its_own_marks(shop: Shop) -> None:
    acme = Bucket("acme")
    pressure_of(shop).watch(acme)
    async with pressed(shop):
        pressure_of(shop).check(acme)
        with pytest.raises(Overloaded):
            pressure_of(shop).check(shop.bucket)


async def test_a_name_that_somebody_made_up_is_not_looked_at(shop: Shop) -> None:
    """Its keys may be none that this Redis user may ask for: nobody would be looked at any more."""
    await shop.sell()
    await shop.add()
    with pytest.raises(NotWarm):
        await shop.store.add(Bucket("made-up"), ANN, [LineRequest(LAMP, 1)])
    assert list(pressure_of(shop)._watched) == [shop.bucket.seq]


async def test_a_bucket_that_is_new_meets_what_is_known_of_redis(shop: Shop) -> None:
    async with pressed(shop, "memory"):
        with pytest.raises(Overloaded):
            pressure_of(shop).check(Bucket("new"))


async def test_no_more_is_looked_at_than_a_poll_can_be(shop: Shop) -> None:
    pressure = pressure_of(shop)
    pressure.watch(shop.bucket)
    async with pressed(shop):
        for number in range(2 * MOST):
            pressure.watch(Bucket(f"tenant-{number}"))
        assert len(pressure._watched) == MOST
        for _ in range(IDLE_POLLS + 1):
            await pressure.poll()
        # Of the one that is past a mark, it has to be known when it is left.
        assert list(pressure._watched) == [shop.bucket.seq]
    await pressure.poll()
    assert not pressure._watched


async def test_while_redis_can_not_be_asked_nothing_changes(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartsvc.pressure.POLL_S", 0.01)
    pressure = pressure_of(shop)
    acme = Bucket("acme")
    pressure.check(acme)
    nowhere = Runner(scripts.connect("redis://127.0.0.1:1/0", timeout_s=1), timeout_s=1)
    async with pressed(shop):
        pressure.runner = nowhere
        with pytest.raises(scripts.FAILURES):
            await pressure.poll()
        loop = asyncio.create_task(pressure.run_forever())
        polls = 0
        poll = pressure.poll

        async def counted() -> None:
            nonlocal polls
            polls += 1
            await poll()

        monkeypatch.setattr(pressure, "poll", counted)
        await wait_until(lambda: polls > 3)
        assert caplog.text.count("is not looked at") == 1
        with pytest.raises(Overloaded):
            pressure.check(shop.bucket)
        pressure.check(acme)
        pressure.runner = shop.runner
        await shop.redis.delete(shop.bucket.prices)
        await wait_until(lambda: "take changes again" in caplog.text)
        loop.cancel()
    await nowhere.aclose()


async def test_adds_go_on_until_the_mark_and_once_postgresql_is_back(
    shop: Shop, ledger: Ledger, valkey: embedded.Valkey, database_url: str
) -> None:
    await shop.sell(LAMP, stock=1_000_000)
    await ledger.open_bucket(shop.bucket)
    backlog = Backlog(shop.runner)
    away = await Ledger.connect("postgresql://postgres@127.0.0.1:1/nothing")
    store = Store(shop.runner, max_lines=50)
    worker = Worker(store, backlog, away, batch=100, interval_s=0.05, buckets=[shop.bucket])
    stop = asyncio.Event()
    loop = asyncio.create_task(worker.run_forever(stop))
    settings = Settings(redis_url=valkey.url, database_url=database_url, max_dirty_age_s=1)
    async with serving(settings) as client:
        acknowledged = 0

        async def add() -> int:
            nonlocal acknowledged
            body = {"product_id": LAMP, "quantity": 1, "session_id": ANN.id}
            status = (await client.post("/api/cart", json=body)).status_code
            acknowledged += status == 200
            return status

        assert await add() == 200
        await wait_until(add, 503)
        params = {"session_id": ANN.id}
        assert (await client.get("/api/cart", params=params)).status_code == 200
        # The worker goes on writing in Redis: the new price arrives, and waits there.
        await shop.sell(LAMP, price="1.00", stock=1_000_000)
        await wait_until(lambda: backlog.price_count(shop.bucket), 1)
        assert await backlog.dirty_count(shop.bucket) == 1
        worker.ledger = ledger
        await wait_until(lambda: backlog.count(shop.bucket), 0)
        await wait_until(add, 200)
    stop.set()
    assert await loop is True
    await away.close()
    count = "SELECT sum(quantity) FROM cart_items"
    assert await ledger.pool.fetchval(count) == acknowledged
    assert await ledger.pool.fetchval("SELECT count(*) FROM price_history") == 1
