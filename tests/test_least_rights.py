"""The programs under the rights that `docs/operations.md` gives them, as it gives them."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from cartsvc import dev, embedded, flush, scripts, upkeep
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.clock import wall_ms
from cartsvc.embedded import free_port
from cartsvc.errors import SalePaused
from cartsvc.idle import IdleCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.prices import Prices
from cartsvc.sale import Sale
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.worker import Pass
from tests.callers import NO_TLS
from tests.command import run
from tests.scraped import scrape
from tests.serving import serving
from tests.shop import ANN, LAMP, MUG, SECRET, Shop
from tests.test_authorization import (
    ADMIN,
    ALLOWED,
    BOB,
    OPERATORS,
    Caller,
    Route,
    World,
    ask_for_own,
    bearer,
    token_of,
)
from tests.test_dead_letter import poison, worker_of
from tests.test_tenant_isolation import patterns
from tests.test_verify import MENDED, Audited, Damage, new_price
from tests.test_verify import audited as audited
from tests.test_warm import Lost
from tests.test_warm import lost as lost

DOCUMENT = (Path(__file__).parent.parent / "docs/operations.md").read_text()
DATABASE = "least_rights"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


RULES = [line.split() for block in blocks("acl") for line in block.splitlines() if line]
USERS = sorted({rule[2] for rule in RULES})
ADMINISTRATOR, SCHEMA, GRANTS = (
    block.replace("DATABASE cartsvc", f"DATABASE {DATABASE}") for block in blocks("sql")
)
ROLES = re.findall(r"CREATE ROLE (\w+)", ADMINISTRATOR)
PASSWORDS = dict(re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD '(.+)'", ADMINISTRATOR))


class Rights(NamedTuple):
    """Where the servers are, for who may do everything there, and for the document's users."""

    redis_url: str
    database_url: str

    def redis_of(self, user: str) -> str:
        [password] = [
            part[1:] for rule in RULES if rule[2] == user for part in rule if part[0] == ">"
        ]
        return re.sub("//.*@", f"//{user}:{password}@", self.redis_url)

    def database_of(self, role: str) -> str:
        return re.sub("//.*@", f"//{role}:{PASSWORDS[role]}@", self.database_url)


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        # One by one: a database is made outside of a transaction.
        for statement in filter(str.strip, sql.split(";")):
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def rights(valkey: embedded.Valkey, postgres: embedded.Postgres) -> Iterator[Rights]:
    rights = Rights(valkey.url, postgres.url_of(DATABASE))
    admin = postgres.url_of("postgres")
    with Redis.from_url(valkey.url) as redis:
        for rule in RULES:
            redis.execute_command(*rule)
        asyncio.run(execute(admin, ADMINISTRATOR))
        asyncio.run(execute(rights.database_url, SCHEMA))
        owner = rights.database_of("cartsvc_owner")
        done = run("migrate", CARTSVC_DATABASE_URL=owner)
        assert done.stdout.startswith("applied 0001_carts"), done.stderr
        asyncio.run(execute(owner, GRANTS))
        yield rights
        asyncio.run(execute(admin, f"DROP DATABASE {DATABASE} WITH (FORCE)"))
        asyncio.run(execute(admin, ";".join(f"DROP ROLE {role}" for role in ROLES)))
        redis.execute_command("ACL", "DELUSER", *USERS)


@pytest.fixture
async def ledger(rights: Rights) -> AsyncIterator[Ledger]:
    """The document's database, empty, by who may do everything."""
    ledger = await Ledger.connect(rights.database_url)
    tables = "buckets, carts, cart_items, price_history, dead_letter, products, stock, audit"
    await ledger.pool.execute(f"TRUNCATE {tables} CASCADE")
    yield ledger
    await ledger.close()


@pytest.fixture
async def unrefused(shop: Shop) -> AsyncIterator[None]:
    """Nothing is refused to the document's users."""
    await shop.redis.acl_log_reset()
    yield
    assert await shop.redis.acl_log() == []


@pytest.fixture(scope="module")
def settings(rights: Rights) -> Settings:
    """Those of the service."""
    return Settings(
        port=free_port(),
        redis_url=rights.redis_of("cartsvc"),
        redis_timeout_s=5,
        database_url=rights.database_of("cartsvc_api"),
        jwt_secret=SECRET,
        guest_carts_per_s=1_000,
        # The shop's clock stands still, long ago.
        max_dirty_age_s=0,
    )


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    process = dev.start("serve", settings, os.environ)
    yield dev.url(settings)
    assert embedded.stop(process) == -signal.SIGTERM


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS) as client:
        yield client


PRODUCT = {"id": "tee", "name": "Tee", "price": 10, "stock": 5, "variants": [{"id": "s"}]}


@pytest.fixture
def told(rights: Rights) -> Callable[..., Awaitable[str]]:
    """What a command prints for an operator."""
    servers = {
        "CARTSVC_REDIS_URL": rights.redis_of("cartsvc_operator"),
        "CARTSVC_DATABASE_URL": rights.database_of("cartsvc_operator"),
    }

    async def told(*arguments: str, stdin: str = "", **more: str) -> str:
        done = await asyncio.to_thread(run, *arguments, stdin=stdin, **servers, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return told


@pytest.mark.usefixtures("unrefused")
async def test_the_service(http: httpx.AsyncClient, shop: Shop, ledger: Ledger) -> None:
    for route, caller in ALLOWED:
        if route.contract.name != OPERATORS:
            await granted_twice(http, World(shop, ledger), route, caller)


async def granted_twice(
    http: httpx.AsyncClient, world: World, route: Route, caller: Caller
) -> None:
    await world.anew()
    request = ask_for_own(world, route, caller)
    if route.operation.changes:
        request["headers"].append(("Idempotency-Key", "once"))
    for _ in range(2):
        answer = await http.request(**request)
        assert answer.status_code == route.operation.status, (route.name, answer.text)


@pytest.mark.usefixtures("unrefused")
async def test_the_service_with_its_operators(
    rights: Rights, settings: Settings, shop: Shop, ledger: Ledger
) -> None:
    url, database_url = rights.redis_of("cartsvc_admin"), rights.database_of("cartsvc_admin")
    own = replace(settings, redis_url=url, database_url=database_url, flush_interval_s=0.02)
    async with serving(own) as http:
        for route, caller in ALLOWED:
            await granted_twice(http, World(shop, ledger), route, caller)
        # What an audit has to mend, of all kinds that there are in Redis.
        await shop.redis.hincrby(shop.bucket.stock, LAMP, -1)
        await shop.redis.delete(shop.bucket.holders, shop.bucket.carts)
        headers = dict(bearer(token_of("backoffice", "service")))
        answer = await http.post("/admin/verify", json={"repair": True}, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["mended"]


async def test_a_service_without_the_rights_says_so(
    http: httpx.AsyncClient,
    shop: Shop,
    ledger: Ledger,
    rights: Rights,
    settings: Settings,
) -> None:
    """By PostgreSQL, which has no row of it; and, where that takes the row, by Redis."""
    world = World(shop, ledger)
    await world.anew()
    before = await world.state()
    database_url = rights.database_of("cartsvc_admin")
    async with serving(replace(settings, database_url=database_url)) as half:
        for client in (http, half):
            for route, caller in ALLOWED:
                if route.name in ("admin PUT /admin/stock", "admin PUT /admin/price"):
                    answer = await client.request(**ask_for_own(world, route, caller))
                    assert (answer.status_code, answer.json()) == (503, LACKS), route.name
    assert await world.state() == before
    outcomes = await ledger.pool.fetch("SELECT outcome FROM audit")
    assert [row["outcome"].partition("(")[0] for row in outcomes] == ["refused: NoRight"] * 2
    await shop.redis.acl_log_reset()


LACKS = {
    "success": False,
    "message": "This process may not do that; its log says which right it lacks",
    "error": {"code": "not_permitted"},
}


@pytest.mark.usefixtures("unrefused")
async def test_the_service_as_it_is_watched(http: httpx.AsyncClient, open_shop: Shop) -> None:
    assert (await http.get("/readyz")).json()["ready"]
    found = await scrape(http)
    assert found("cartsvc_redis_up") == found("cartsvc_postgresql_up") == 1


@pytest.mark.usefixtures("unrefused")
async def test_the_service_and_what_takes_it_further(
    http: httpx.AsyncClient, open_shop: Shop, ledger: Ledger
) -> None:
    shop, bob, admin = open_shop, dict(bearer(BOB.token)), dict(bearer(ADMIN.token))
    await shop.sell("held", stock=5, stock_policy="hold", max_per_buyer=5)
    # Held until a time that has passed.
    await shop.add_lines(LineRequest("held", 5), owner=Owner("session", "late"))
    guest = {"x-tenant-id": "default", "x-session-id": "late"}
    body = {"productId": "held", "quantity": 2}
    answer = await http.post("/cart/items", json=body, headers=guest)
    assert answer.status_code == 201
    # A login, a price that changes, a price of its own, and an order.
    answer = await http.get("/cart", headers={**guest, **bob})
    assert "merge" in answer.json()
    cart, [item] = answer.json()["id"], answer.json()["cartItems"]
    await shop.sell("held", price="1.00", stock_policy="hold")
    assert await upkeep.reprice(shop.store, shop.bucket) == 1
    url = f"/api/cart-items/{item['id']}"
    line = {"cartId": int(cart), "productId": "held", "quantity": 1, "priceAtAddition": 0.5}
    assert (await http.put(url, json=line, headers=admin)).status_code == 200
    answer = await http.get(f"/api/price-history/cart-item/{item['id']}", headers=admin)
    assert len(answer.json()) == 2
    for status in ("CONVERTED", "CONVERTED"):
        answer = await http.patch(f"/api/carts/{cart}/status/{status}", headers=admin)
        assert answer.status_code == 200
    # What PostgreSQL refuses, with a list; and what it takes then.
    await shop.add()
    await poison(shop)
    assert (await http.get("/api/carts", headers=admin)).status_code == 200
    [_] = await ledger.letters(None)
    await poison(shop, name="Lamp")
    await shop.add()
    assert (await http.get("/api/carts", headers=admin)).status_code == 200
    assert await ledger.letters(None) == []
    # A cart that has left Redis.
    walks = IdleCarts(archive_of(shop, ledger), ledger, cool_after_s=1, abandon_after_s=0)
    shop.clock.ms += 10_000
    await worker_of(shop, ledger).run_once()
    await walks.cool(shop.store, shop.bucket)
    assert await shop.redis.hlen(shop.bucket.cold) == 1
    answer = await http.get("/api/cart?session_id=ann")
    assert answer.json()["data"]["cart"]["total_items"] == 2
    assert await shop.redis.hlen(shop.bucket.cold) == 0


@pytest.fixture
async def syncing(shop: Shop) -> AsyncIterator[None]:
    """Redis keeps a file, and syncs it before it answers."""
    before = await shop.redis.config_get("append*")
    for name, value in (("appendfsync", "always"), ("appendonly", "yes")):
        await shop.redis.config_set(name, value)
    yield
    for name in ("appendonly", "appendfsync"):
        await shop.redis.config_set(name, before[name])


@pytest.mark.usefixtures("syncing", "ledger")
async def test_changes_that_wait_for_the_disk(
    shop: Shop, settings: Settings, told: Callable[..., Awaitable[str]]
) -> None:
    file = json.dumps(PRODUCT)
    await told("catalog", "import", "-", stdin=file, CARTSVC_DURABILITY="fsync")
    assert await shop.redis.delete(shop.bucket.sync) == 1
    body = {"productId": "tee", "quantity": 1}
    async with serving(replace(settings, durability="fsync")) as http:
        headers = {"x-tenant-id": "default"}
        assert (await http.post("/cart/items", json=body, headers=headers)).status_code == 201
    assert await shop.redis.exists(shop.bucket.sync)


def archive_of(shop: Shop, ledger: Ledger) -> Archive:
    return Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)


@pytest.fixture
async def own(rights: Rights) -> AsyncIterator[tuple[Shop, Ledger]]:
    """A shop and its PostgreSQL by the worker's rights."""
    runner = Runner(scripts.connect(rights.redis_of("cartsvc"), timeout_s=5), timeout_s=5)
    ledger = await Ledger.connect(rights.database_of("cartsvc_worker"))
    yield Shop(runner), ledger
    await ledger.close()
    await runner.aclose()


@pytest.mark.usefixtures("unrefused")
async def test_the_worker(
    open_shop: Shop, ledger: Ledger, own: tuple[Shop, Ledger], rights: Rights
) -> None:
    shop, (mine, its) = open_shop, own
    worker = worker_of(mine, its)
    await shop.sell("held", stock=5, stock_policy="hold")
    await shop.add_lines(LineRequest(LAMP, 1), LineRequest("held", 2))
    await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "bob"))
    await shop.sell(LAMP, price="9.99")
    assert await upkeep.reprice(mine.store, mine.bucket) == 2
    assert await worker.run_once() == Pass(carts=2, price_changes=2)
    # An order that was not written by who closed it.
    await shop.add_lines(LineRequest(LAMP, 1), owner=BOB.owner)
    await shop.store.close(shop.bucket, BOB.owner, "CONVERTED")
    assert await worker.run_once() == Pass(carts=1)
    mine.clock.ms += 3_600_000
    assert await upkeep.release(mine.store, mine.bucket) == 1
    await poison(shop)
    assert (await worker.run_once()).refused == 1
    await poison(shop, name="Lamp")
    assert (await worker.run_once()).carts == 0
    await shop.add()
    assert (await worker.run_once()).carts == 1
    assert await ledger.letters(None) == []
    walks = IdleCarts(archive_of(mine, its), its, cool_after_s=1, abandon_after_s=4_000)
    while await walks.cool(mine.store, mine.bucket):
        pass
    assert await shop.redis.hlen(shop.bucket.cold) == 2
    mine.clock.ms += 3_600_000
    while await walks.abandon(mine.store, mine.bucket):
        pass
    assert await shop.redis.hlen(shop.bucket.cold) == 0
    rows = await ledger.pool.fetch("SELECT status FROM carts ORDER BY id")
    assert [row["status"] for row in rows] == ["ABANDONED", "ABANDONED", "CONVERTED"]
    settings = Settings(
        redis_url=rights.redis_of("cartsvc"), database_url=rights.database_of("cartsvc_worker")
    )
    process = await asyncio.to_thread(dev.start, "worker", settings, os.environ)
    assert await asyncio.to_thread(embedded.stop, process) == 0


@pytest.mark.usefixtures("unrefused")
async def test_an_operators_day(
    open_shop: Shop, ledger: Ledger, told: Callable[..., Awaitable[str]]
) -> None:
    shop = open_shop
    shop.clock.ms = wall_ms()
    held = await shop.sell("tee", stock=5, stock_policy="hold", variants=[("s", None)])
    await shop.record(ledger, held)
    for owner in (ANN, BOB.owner):
        await shop.add_lines(LineRequest("tee", 2), owner=owner)
    assert "1 free, 4 held" in await told("stock", "watch", "tee")
    assert await told("stock", "watch", "--off", "tee") == "nothing is watched\n"
    await told("sale", "pause", "--reason", "stocktaking")
    assert "stocktaking" in await told("sale", "state")
    await told("sale", "resume")
    assert "29.99 -> 24.99" in await told("price", "set", "tee/s", "24.99")
    assert "2 x" in await told("carts", "show", "256")
    assert "0 units" in await told("carts", "release", "256")
    # One whose hold has run out is shown without what it held.
    shop.clock.ms -= 3_600_000
    late = await shop.add_lines(LineRequest("tee", 2), owner=Owner("session", "late"))
    assert "0 units" in await told("carts", "show", str(late.id))
    assert len((await told("audit")).splitlines()) == 9


@pytest.mark.usefixtures("unrefused", "ledger")
async def test_an_operator(shop: Shop, told: Callable[..., Awaitable[str]]) -> None:
    await shop.redis.flushall()
    file = json.dumps(PRODUCT)
    assert (await told("catalog", "import", "-", stdin=file)).startswith("1 products imported")
    await shop.add_lines(LineRequest("tee", 1), LineRequest("tee", 1, "s"))
    dearer = json.dumps({**PRODUCT, "price": 11})
    await told("catalog", "import", "--set-stock", "-", stdin=dearer)
    assert await shop.redis.hkeys(shop.bucket.repricing) == [b"tee", b"tee/s"]
    assert "5 free" in await told("stock", "get", "tee")
    assert "9 free" in await told("stock", "set", "tee", "9")
    assert "10 free" in await told("stock", "add", "tee", "1")


@pytest.mark.usefixtures("unrefused")
async def test_an_operator_with_dead_letters(
    open_shop: Shop, ledger: Ledger, told: Callable[..., Awaitable[str]]
) -> None:
    shop, worker = open_shop, worker_of(open_shop, ledger)
    await shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 1))
    await worker.run_once()
    # Refused now, and not when it is replayed: a line less, and a price that changed.
    await shop.sell(LAMP, price="9.99")
    await shop.store.remove(shop.bucket, ANN, MUG)
    await upkeep.reprice(shop.store, shop.bucket)
    tables = {"cart_items": "quantity", "price_history": "new_price_minor"}
    for table, column in tables.items():
        rule = f"ALTER TABLE {table} ADD CONSTRAINT none CHECK ({column} > 999) NOT VALID"
        await ledger.pool.execute(rule)
    assert (await worker.run_once()).refused == 2
    assert len((await told("dead-letter", "list")).splitlines()) == 2
    for table in tables:
        await ledger.pool.execute(f"ALTER TABLE {table} DROP CONSTRAINT none")
    assert await told("dead-letter", "replay") == "2 written, 0 superseded, 0 still refused\n"


@pytest.mark.usefixtures("unrefused")
async def test_an_operator_when_redis_came_back_empty(
    open_shop: Shop, ledger: Ledger, told: Callable[..., Awaitable[str]]
) -> None:
    shop, worker = open_shop, worker_of(open_shop, ledger)
    shop.clock.ms = wall_ms()
    product = {**PRODUCT, "stock_policy": "hold", "max_per_buyer": 9, "variants": []}
    await told("catalog", "import", "-", stdin=json.dumps(product))
    await shop.add_lines(LineRequest("tee", 1), owner=BOB.owner)
    await shop.store.close(shop.bucket, BOB.owner, "CONVERTED")
    await shop.add_lines(LineRequest("tee", 1))
    await shop.add_lines(LineRequest(LAMP, 1), owner=BOB.owner)
    await shop.sell("tee", price="9.99", stock_policy="hold")
    await upkeep.reprice(shop.store, shop.bucket)
    await worker.run_once()
    await shop.redis.flushall()
    # As if it had been broken off.
    await shop.redis.set(shop.bucket.warming, 1)
    await shop.redis.hset(shop.bucket.carts, "256", shop.bucket.cart(ANN))
    done = await told("warm")
    assert done.startswith("1 products, 1 counters, 1 carts that hold units, 1 others")


@pytest.mark.usefixtures("unrefused")
async def test_an_operator_who_acts(lost: Lost, auditor: Audited) -> None:
    shop, its = lost.shop, auditor.shop
    sale = Sale(its.runner)
    await sale.pause(shop.bucket, "stocktaking", "eve")
    with pytest.raises(SalePaused):
        await shop.add()
    assert await sale.state(shop.bucket)
    await sale.resume(shop.bucket)
    await shop.add()
    prices = Prices(auditor.ledger, its.shelf, shop.bucket)
    for sku in (LAMP, "tee/s"):
        assert await prices.set(sku, 5) != await prices.get(sku) == 5
    released = await its.store.release_held(shop.bucket, ANN)
    assert [notice.reason for notice in released.notices] == ["released"]


@pytest.fixture
async def auditor(rights: Rights) -> AsyncIterator[Audited]:
    """A shop that is audited by the operator's rights."""
    url = rights.redis_of("cartsvc_operator")
    runner = Runner(scripts.connect(url, timeout_s=5), timeout_s=5)
    ledger = await Ledger.connect(rights.database_of("cartsvc_operator"))
    yield Audited(Shop(runner), ledger)
    await ledger.close()
    await runner.aclose()


@pytest.mark.usefixtures("unrefused")
@pytest.mark.parametrize("damage", [damage for damage, _ in MENDED.values()], ids=MENDED)
async def test_an_operator_who_audits(audited: Audited, auditor: Audited, damage: Damage) -> None:
    await damage(audited.shop.redis, audited.bucket, audited.ledger)
    assert (await auditor.repair()).left == []


@pytest.mark.usefixtures("unrefused")
async def test_an_operator_who_audits_what_is_not_written_yet(
    audited: Audited, auditor: Audited
) -> None:
    await audited.shop.add_lines(LineRequest(MUG, 1), owner=BOB.owner)
    await new_price(audited, 15)
    # The carts are, and the changes of their prices are not.
    await flush.carts(audited.backlog, audited.ledger, audited.bucket, 100)
    assert await auditor.verify() == []


# What they may not.


def given(user: str, sign: str) -> set[str]:
    return {part[1:] for rule in RULES if rule[2] == user for part in rule if part[0] == sign}


def test_the_keys_are_those_that_there_are() -> None:
    families = set(patterns(Bucket("default")))
    # What is an operator's business, and what is not.
    own, others = ("received", "warming"), ("idem", "idem_count", "guests", "flush")
    assert given("cartsvc_admin", "~") == {one for one in families if not one.startswith("warming")}
    assert given("cartsvc", "~") == {one for one in families if not one.startswith(own)}
    assert given("cartsvc_operator", "~") == {one for one in families if not one.startswith(others)}


CATALOGUE = {"bucket_open", "product_put", "stock_add", "stock_get", "stock_set"}
ACTS = {"cart_release", "sale_pause", "sale_resume", "stock_watch"}
AUDIT = {"cart_forget", "cart_mark", "cart_mend", "counter_look", "counter_mend"}
SHARED = {"cart_find", "cart_flushed", "cart_restore", "cart_unmark", "hold_release"}
EVERY = {file.stem for file in scripts.FOLDER.glob("*.lua")}
SCRIPTS_OF = {
    "cartsvc": EVERY - CATALOGUE - AUDIT - ACTS,
    # With those that they share: of carts that are found, come back, or were written.
    "cartsvc_operator": CATALOGUE | AUDIT | ACTS | SHARED,
    "cartsvc_admin": EVERY - {"bucket_open"},
}
ALWAYS = {
    *("ping", "select", "client|setinfo", "script|load", "eval", "evalsha"),
    *("time", "waitaof", "set"),
}
SERVING = {"hlen", "info", "hscan", "smembers", "xlen", "xrange", "xtrim", "zcard", "zrange"}
BY_CLIENT = {
    "cartsvc": SERVING,
    "cartsvc_operator": {
        *("del", "exec", "hscan", "multi", "smembers", "xdel", "xrange", "zrange", "zscan"),
    },
    "cartsvc_admin": SERVING | {"exec", "multi", "zscan"},
}
"""Commands that no script has."""


@pytest.mark.parametrize("user", BY_CLIENT)
def test_the_commands_are_those_that_are_used(user: str) -> None:
    texts = [scripts.load(name).source for name in SCRIPTS_OF[user]]
    called = {name.lower() for text in texts for name in re.findall(r"redis\.call\('(\w+)'", text)}
    assert given(user, "+") == called | ALWAYS | BY_CLIENT[user]


@pytest.mark.parametrize("user", USERS)
def test_a_redis_user_may_not(rights: Rights, user: str) -> None:
    with Redis.from_url(rights.redis_of(user)) as redis:
        assert redis.ping()
        for command in (
            "HGETALL cart:{acme:0}:session:ann",
            "HGETALL cart:{acme:0}:customer:{default:0}",
            "EXISTS seq:{acme:0}",
            "EXISTS seq:{default:0}:more",
            "GET other",
            "KEYS *",
            "SCAN 0",
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET *",
            "ACL LIST",
            "MONITOR",
            "SHUTDOWN NOSAVE",
            "SCRIPT FLUSH",
            "SUBSCRIBE all",
            "EVAL return(redis.call('GET','other')) 0",
        ):
            with pytest.raises(ResponseError, match=r"(?i)no permissions"):
                redis.execute_command(*command.split(" "))


MAY_NOT = {
    "cartsvc_api": [
        "SELECT * FROM products",
        "DELETE FROM carts",
        "UPDATE price_history SET tenant = 'acme'",
    ],
    "cartsvc_worker": [
        "SELECT * FROM products",
        "UPDATE stock SET received = 1",
        "DELETE FROM buckets",
    ],
    "cartsvc_operator": [
        "TRUNCATE products",
        "DELETE FROM products",
        "DELETE FROM buckets",
        *(erasing := ["DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"]),
    ],
    "cartsvc_admin": ["DELETE FROM products", "INSERT INTO stock VALUES ('a', 'b', 1)", *erasing],
}
NOBODY_MAY = [
    "CREATE TABLE public.more (id integer)",
    "DROP TABLE carts",
    "ALTER TABLE carts ADD COLUMN more integer",
    "TRUNCATE carts",
    "SELECT * FROM schema_migrations",
    "COPY carts TO PROGRAM 'cat'",
    "CREATE ROLE more",
    "UPDATE buckets SET tenant = 'acme'",
]


@pytest.mark.parametrize("role", MAY_NOT)
async def test_a_role_of_postgresql_may_not(rights: Rights, role: str) -> None:
    for statement in (*MAY_NOT[role], *NOBODY_MAY):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(rights.database_of(role), statement)


async def test_others_may_not_even_connect(rights: Rights, postgres: embedded.Postgres) -> None:
    admin = await asyncpg.connect(postgres.url)
    await admin.execute("CREATE ROLE stranger LOGIN PASSWORD 'known'")
    url = re.sub("//.*@", "//stranger:known@", rights.database_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(url)
    await admin.execute("DROP ROLE stranger")
    await admin.close()
