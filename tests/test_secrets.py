"""What is secret is in no log and in no refusal: keys, passwords, tokens, sessions."""

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cartsvc import dev, embedded
from cartsvc.embedded import free_port
from cartsvc.errors import Cold, HoldsDue
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.settings import Settings
from tests import test_authorization as authorization
from tests.command import run
from tests.serving import serving
from tests.shop import LAMP, SECRET, Shop
from tests.test_authorization import (
    OPERATORS,
    RECORDS,
    ROUTES,
    Aim,
    Caller,
    World,
    bearer,
    token_of,
)
from tests.test_identity import segment
from tests.wait import wait_until

PASSWORD = "a-password-that-nobody-reads"
WRONG = f"u:{PASSWORD}@127.0.0.1"


def secret(caller: Caller) -> Caller:
    """The caller, under a name that nobody else is to know."""
    owner = Owner(caller.owner.kind, f"secret-{caller.owner.id}")
    kind = "service" if OPERATORS in caller.contracts else "customer"
    return caller._replace(owner=owner, token=token_of(owner.id, kind) if caller.token else "")


CALLERS = [secret(caller) for caller in authorization.CALLERS]
ADMIN = Caller("admin", CALLERS[0].owner, (), token_of("secret-admin", "user"))
BAD_TOKEN = token_of("secret-ann")[:-3] + segment("no")


def requests() -> Iterator[dict[str, Any]]:
    """Of every route, by each who may ask for it, and with a token that is no good."""
    for route in ROUTES:
        for caller in CALLERS:
            if route.contract.name in caller.contracts:
                aim = Aim(256, 256 << 12 | 1, caller.owner.id)
                yield caller.ask(route, aim)
                yield caller.ask(route, aim, bearer(BAD_TOKEN))
        if route.contract.name == RECORDS:
            yield ADMIN.ask(route, Aim(256, 256 << 12 | 1, CALLERS[1].owner.id))


async def answers(settings: Settings) -> list[httpx.Response]:
    async with serving(replace(settings, log_level="DEBUG")) as client:
        return [await client.request(**request) for request in requests()]


def kept(log: str, told: list[httpx.Response], *passwords: str) -> None:
    """Nothing secret is in the log, nor what a client may not know in what it was told."""
    secrets = [SECRET, *passwords, BAD_TOKEN, ADMIN.token, *(one.token for one in CALLERS)]
    for one in filter(None, secrets):
        assert one not in log
        assert all(one not in answer.text + str(answer.headers) for answer in told)
    assert "secret-" not in log


async def test_while_redis_and_postgresql_are_away(capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(
        redis_url=f"redis://{WRONG}:{free_port()}/0",
        database_url=f"postgresql://{WRONG}:{free_port()}/cartsvc",
    )
    told = await answers(settings)
    log = capfd.readouterr().err
    assert {answer.status_code for answer in told} >= {401, 503}
    assert "GET /api/carts/session/{session_id}/active answered 503: " in log
    kept(log, told, PASSWORD)


async def test_while_they_want_another_password(
    capfd: pytest.CaptureFixture[str], valkey: embedded.Valkey, postgres: embedded.Postgres
) -> None:
    settings = Settings(
        redis_url=valkey.url.replace(valkey.password, PASSWORD),
        database_url=postgres.url.replace(postgres.password, PASSWORD),
    )
    told = await answers(settings)
    kept(capfd.readouterr().err, told, PASSWORD)
    assert {answer.status_code for answer in told} >= {401, 503}


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


async def test_when_something_fails(
    capfd: pytest.CaptureFixture[str],
    world: World,
    valkey: embedded.Valkey,
    api_database_url: str,
) -> None:
    shop = world.shop
    settings = Settings(
        redis_url=valkey.url,
        redis_timeout_s=5,
        database_url=api_database_url,
        # The clock of a shop in tests is another.
        max_dirty_age_s=0,
        # How long an audit of the data waits for what is on its way: nobody flushes here.
        flush_interval_s=0.02,
    )
    numbers = []
    for caller in CALLERS:
        cart = await shop.add_lines(LineRequest(LAMP, 1), owner=caller.owner)
        await shop.redis.hset(shop.bucket.cart(caller.owner), f"l:{LAMP}", "no line")
        numbers.append(cart.id)
    unreadable = await answers(settings)
    # A key of another type makes every script fail that reads it.
    await shop.redis.delete(shop.bucket.catalogue)
    await shop.redis.set(shop.bucket.catalogue, "no hash")
    broken = await answers(settings)
    log = capfd.readouterr().err
    assert {answer.status_code for answer in unreadable} >= {401, 500}
    assert {answer.status_code for answer in broken} >= {401, 503}
    assert re.search(r"GET /api/cart failed \[\S+\]\nTraceback", log)
    assert any(f"line {LAMP} of cart {number} is not readable" in log for number in numbers)
    assert "Operation against a key holding the wrong kind of value" in log
    kept(log, [*unreadable, *broken], valkey.password)


async def test_what_the_worker_says(
    capfd: pytest.CaptureFixture[str], open_shop: Shop, valkey: embedded.Valkey, database_url: str
) -> None:
    shop = open_shop
    settings = Settings(redis_url=valkey.url, database_url=database_url, log_level="DEBUG")
    for caller in CALLERS:
        await shop.add_lines(LineRequest(LAMP, 1), owner=caller.owner)
        await shop.redis.hset(shop.bucket.cart(caller.owner), f"l:{LAMP}", "no line")
    gone = shop.bucket.cart(Owner("session", "secret-that-is-gone"))
    await shop.redis.zadd(shop.bucket.dirty, {gone: 1})
    process = await asyncio.to_thread(dev.start, "worker", settings, os.environ)
    await wait_until(lambda: shop.redis.zscore(shop.bucket.dirty, gone), None)
    await asyncio.to_thread(embedded.stop, process)
    log = capfd.readouterr().err
    assert "cart:{default:0}:session:secret... is marked dirty but is not there" in log
    assert "cart:{default:0}:session:secret... is not readable as a cart: " in log
    kept(log, [], valkey.password, urlsplit(database_url).password or "")


def test_what_a_log_may_have_of_a_cart() -> None:
    bucket = Bucket("default")
    key = bucket.cart(Owner("session", "secret-session"))
    for error in (HoldsDue(key, LAMP), Cold(key, 256)):
        assert "secret" not in str(error)
    assert str(HoldsDue(key, LAMP)) == f"HoldsDue(counter={LAMP!r})"
    assert bucket.shown(key) == "cart:{default:0}:session:secret..."
    closed = bucket.shown(bucket.closed(Owner("session", "secret-session")))
    assert re.fullmatch(r"closed:{default:0}:\w{16}:session:secret\.\.\.", closed)
    short = bucket.cart(Owner("customer", "101"))
    assert bucket.shown(short) == short


PLACES = [
    f"u:{PASSWORD}@127.0.0.1:{{port}}/0",
    f":{PASSWORD}@127.0.0.1:{{port}}/0",
    f"u:{PASSWORD}/x@127.0.0.1:{{port}}/0",
    f"u:{PASSWORD}@127.0.0.1:{{port}}/x?db=y&sslmode=z&timeout=never",
    f"127.0.0.1:{{port}}/0?password={PASSWORD}",
    f"u:{PASSWORD}@127.0.0.1:{{port}}/0?nothing=known",
    f"u:{PASSWORD}@nowhere.invalid/0",
    f"u:{PASSWORD}@127.0.0.1:http/0",
    f"u:{PASSWORD}@[::1",
    f"u:{PASSWORD}@/nowhere",
]


@pytest.mark.parametrize("place", PLACES)
def test_addresses_that_lead_nowhere(place: str, database_url: str) -> None:
    place = place.format(port=free_port())
    for command, variables in (
        (["migrate"], {"CARTSVC_DATABASE_URL": f"postgresql://{place}"}),
        (
            ["stock", "get", LAMP],
            {"CARTSVC_DATABASE_URL": database_url, "CARTSVC_REDIS_URL": f"redis://{place}"},
        ),
    ):
        done = run(*command, **variables)
        assert done.returncode == 1
        assert done.stderr.startswith("cartsvc: ")
        assert PASSWORD not in done.stdout + done.stderr
