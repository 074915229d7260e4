"""A tenant's requests touch the tenant's keys and no others, whatever they carry."""

import codecs
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin
from urllib.parse import quote

import httpx
import msgspec
import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from cartsvc import dev, embedded, flush, keys, openapi
from cartsvc.backlog import Backlog
from cartsvc.contract import Parameter
from cartsvc.embedded import free_port
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner, is_owner_id, item_id
from cartsvc.settings import TENANT_PATTERN, Settings
from tests.callers import NO_TLS
from tests.carts import sound
from tests.shares import part, shared
from tests.shop import LAMP, SECRET, Shop
from tests.test_authorization import (
    ADMIN,
    ALLOWED,
    BOB,
    BY_SECRET,
    RECORDS,
    ROUTES,
    TENANT,
    Aim,
    Caller,
    Route,
    World,
    ask_for_own,
    bearer,
    callers_of,
    claims_of,
    path_of,
    routes_of,
    token_of,
    told,
)

DEFAULT, ACME = Bucket("default"), Bucket("acme")


@cache
def patterns(bucket: Bucket) -> list[str]:
    """What every key of the bucket looks like, as patterns of Redis."""
    return [
        kind.pattern.replace("{tenant:bucket}", bucket.tag).partition("<")[0]
        + ("*" if "<" in kind.pattern else "")
        for kind in keys.TABLE
    ]


def is_of(bucket: Bucket, key: bytes) -> bool:
    """Whether Redis takes the key for one of the bucket's: by its name, and by its slot."""
    of_family = any(
        key.startswith(pattern[:-1].encode()) if pattern[-1] == "*" else key == pattern.encode()
        for pattern in patterns(bucket)
    )
    return of_family and key_slot(key) == key_slot(bucket.tag.encode())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"cart:{acme:0}:session:ann", True),
        (b"cart:{acme:0}:customer:{default:0}", True),
        (b"seq:{acme:0}", True),
        (b"seq:{acme:0}:more", False),
        (b"cart:{default:0}:customer::{acme:0}:session:ann", False),
        (b"cart:{acme:1}:session:ann", False),
        (b"other:{acme:0}", False),
    ],
)
def test_is_of(key: bytes, expected: bool) -> None:
    assert is_of(ACME, key) == expected


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


# A Redis user who may use the keys of one tenant.


@pytest.fixture(scope="module")
def confined_url(valkey: embedded.Valkey, api_database_url: str) -> Iterator[str]:
    """A service whose Redis user may use the default tenant's keys only."""
    password = "confined"
    commands = ["-@all", "+@read", "+@write", "+@scripting", "+@connection", "-@dangerous"]
    commands += ["+time", "+@transaction"]
    allowed = [f"~{pattern}" for pattern in patterns(DEFAULT)]
    settings = Settings(
        port=free_port(),
        redis_url=valkey.url.replace(f"default:{valkey.password}@", f"confined:{password}@"),
        redis_timeout_s=5,
        database_url=api_database_url,
        jwt_secret=SECRET,
        # The clock of a shop in tests is another.
        max_dirty_age_s=0,
        # How long an audit of the data waits for what is on its way: nobody flushes here.
        flush_interval_s=0.02,
    )
    with Redis.from_url(valkey.url) as redis:
        redis.execute_command(
            "ACL", "SETUSER", "confined", "on", f">{password}", *allowed, *commands
        )
        process = dev.start("serve", settings, os.environ)
        yield dev.url(settings)
        assert embedded.stop(process) == -signal.SIGTERM
        redis.execute_command("ACL", "DELUSER", "confined")


@pytest.fixture
async def confined(confined_url: str, world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=confined_url, verify=NO_TLS) as client:
        yield client


async def test_no_operation_needs_a_key_of_another_tenant(
    confined: httpx.AsyncClient, world: World
) -> None:
    for route, caller in ALLOWED:
        await world.anew()
        answer = await confined.request(**ask_for_own(world, route, caller))
        assert answer.status_code == route.operation.status, route.name


async def test_nor_do_holds_logins_and_orders(confined: httpx.AsyncClient, world: World) -> None:
    """What the other operations do not come by: a release, a merge, and a sale."""
    shop, bob = world.shop, dict(bearer(BOB.token))
    await shop.sell("held", stock=5, stock_policy="hold", max_per_buyer=5)
    # Held until a time that has passed.
    await shop.add_lines(LineRequest("held", 5), owner=Owner("session", "late"))
    headers = {"x-tenant-id": "default", "x-session-id": "guest", **bob}
    body = {"productId": "held", "quantity": 2}
    answer = await confined.post("/cart/items", json=body, headers=headers)
    assert (answer.status_code, "merge" in answer.json()) == (201, True)
    cart = answer.json()["id"]
    answer = await confined.patch(f"/api/carts/{cart}/status/CONVERTED", headers=bob)
    assert answer.status_code == 200
    session = "/api/carts/session/bobs-session/active"
    for path in ("/api/carts", "/api/cart-items", f"/api/carts/{cart}", session):
        answer = await confined.get(path, headers=dict(bearer(ADMIN.token)))
        assert answer.status_code == 200


async def test_another_tenants_keys_are_refused(confined: httpx.AsyncClient, world: World) -> None:
    before = await world.state()
    for route in routes_of(TENANT):
        for caller in callers_of(route):
            answer = await confined.request(**caller.ask(route, world.own(caller), tenant="acme"))
            message = "Cart service is not available now, please try again"
            assert told(answer) == (
                503,
                {"statusCode": 503, "message": message, "error": "Service Unavailable"},
            )
            assert answer.headers["retry-after"] == "1"
    assert await world.state() == before


# Every key that Redis is asked for.


END = b"the end of what is watched"
KEYLESS = {b"AUTH", b"HELLO", b"SCRIPT", b"PING", b"CLIENT", b"SELECT", b"TIME"}
_PART = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@asynccontextmanager
async def watched(shop: Shop) -> AsyncIterator[list[list[bytes]]]:
    """The commands that Redis runs, those of scripts too; they are there at the end.

    Not those by which the service looks, once a second, whether it may take changes: of all tenants
    that it served lately.
    """
    commands: list[list[bytes]] = []
    async with shop.redis.monitor() as monitor:
        yield commands
        await shop.redis.echo(END)
        while True:
            line = await monitor.connection.read_response(disable_decoding=True)
            command = [_unescaped(part) for part in _PART.findall(line)]
            if command == [b"ECHO", END]:
                return
            if not _looks(command):
                commands.append(command)


def _looks(command: list[bytes]) -> bool:
    name, *arguments = command
    return name.upper() in (b"INFO", b"XLEN") or (
        name.upper() == b"ZRANGE" and arguments[1:] == [b"0", b"0", b"WITHSCORES"]
    )


def _unescaped(part: bytes) -> bytes:
    return codecs.escape_decode(part)[0]


async def _keys_of(shop: Shop, command: list[bytes]) -> list[bytes]:
    try:
        found: list[str] = await shop.redis.command_getkeys(*command)
    except ResponseError:
        assert command[0].upper() in KEYLESS, command
        return []
    return [key.encode() for key in found]


async def test_a_tenants_requests_name_its_own_keys(http: httpx.AsyncClient, world: World) -> None:
    """Contract 001, by customers, guests, and a guest who logs in."""
    acme = Shop(world.shop.runner)
    acme.bucket = ACME
    default = await others_than_acmes(world)
    login = {"x-tenant-id": "acme", "x-session-id": "guest", **dict(bearer(BOB.token))}
    async with watched(world.shop) as commands:
        for route in routes_of(TENANT):
            for caller in callers_of(route):
                cart = await acme.add_lines(LineRequest(LAMP, 1), owner=caller.owner)
                aim = Aim(cart.id, item_id(cart.id, cart.lines[-1].number), caller.owner.id)
                answer = await http.request(**caller.ask(route, aim, tenant="acme"))
                assert answer.status_code == route.operation.status
        await acme.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "guest"))
        answer = await http.get("/cart", headers=login)
        assert "merge" in answer.json()
    named = {key for command in commands for key in await _keys_of(world.shop, command)}
    assert [key for key in named if not is_of(ACME, key)] == []
    assert ACME.cart(BOB.owner).encode() in named
    # Not only what scripts are called with, but what they do.
    assert {b"EVALSHA", b"HSET", b"ZADD", b"RENAME"} <= {one[0].upper() for one in commands}
    assert await others_than_acmes(world) == default


async def others_than_acmes(world: World) -> dict[bytes, Any]:
    everything = await world.shop.everything()
    return {key: value for key, value in everything.items() if not is_of(ACME, key)}


# Ids that want to be more than ids.

NASTY = [
    "",
    "}",
    "a}b",
    "{acme:0}",
    "}:{acme:0}:customer:ann",
    "\uff5bacme\uff1a0\uff5d",
    "%7Bacme:0%7D",
    "a:b",
    "a b",
    "507f1f77bcf86cd799439011 cart:{default:0}:session:guest",
    "*",
    "%d+",
    "#256#1",
    "a/b",
    "..",
    "../../carts/256",
    "a?session_id=guest",
    '","fixed":1,"name":"',
    "'; DROP TABLE carts; --",
    "\\",
    "a\r\nSET x 1",
    "a%0d%0aSET%20x%201",
    "a\x00b",
    "%00",
    "\x7f",
    "a\tb",
    "\u540d\u524d",
    "\U0001f6d2",
    "\u0430cme",
    "a\u200bb",
    "a\u202eb",
    "\ufeff256",
    "\ud800",
    "0256",
    "+256",
    "-1",
    "2.56e2",
    "256_000",
    "\u0662\u0665\u0666",
    "\uff12\uff15\uff16",
    "NaN",
    "true",
    "__proto__",
    str(2**53),
    str(2**63),
    "9" * 400,
    "a" * 129,
    "a" * 5_000,
    "\U0001f6d2" * 1_000,
]


SHARE = 1 if os.environ.get("CARTSVC_EXAMPLES") else 3
"""One of so many texts is tried at a route where slow tests run; or all, where more is asked for
than usual, as of `test_state_machine`."""


class Injection(NamedTuple):
    """A request with a text in one place that wants to be more than an id."""

    place: str
    request: dict[str, Any]


def in_header(value: str) -> str | None:
    """The text, if a client can send it in a header."""
    sent = value.isprintable() and value == value.strip() and "\ud800" not in value
    return value if sent else None


def in_path(value: str) -> str | None:
    """The text as a part of a path, if it does not change what the parts are."""
    if value in ("", ".."):
        return None
    return quote(value, safe="", errors="surrogatepass")


def injections(route: Route, caller: Caller, aim: Aim, value: str) -> Iterator[Injection]:
    """The text in each place of a request for the route, as the contract's own types name them."""
    request = caller.ask(route, aim)
    for one in openapi._parameters_of(route.contract, route.operation):
        yield from _in_parameter(route, request, one, aim, value)
    for body in bodies(route.operation.body, request["json"], value):
        yield Injection("body", {**request, "json": body})
    if route.contract.bearer and not _is_surrogate(value):
        for claim in ("sub", "type", "tenant"):
            token = BY_SECRET(claims_of("customer", **{claim: value}))
            yield Injection(claim, BOB.ask(route, aim, bearer(token)))


def _in_parameter(
    route: Route, request: dict[str, Any], one: Parameter, aim: Aim, value: str
) -> Iterator[Injection]:
    match one.place:
        case "header" if in_header(value) is not None:
            others = [header for header in request["headers"] if header[0] != one.name]
            raw = [(name.encode(), text.encode()) for name, text in [*others, (one.name, value)]]
            yield Injection(one.name, {**request, "headers": raw})
        case "query" if not _is_surrogate(value):
            others = [parameter for parameter in request["params"] if parameter[0] != one.name]
            yield Injection(one.name, {**request, "params": [*others, (one.name, value)]})
        case "path":
            part = in_path(value)
            if part is not None:
                url = path_of(route, aim, **{one.name: part})
                yield Injection(one.name, {**request, "url": url})


def _is_surrogate(value: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in value)


def bodies(kind: Any, body: Any, value: str) -> Iterator[Any]:
    """The body with the text for each of its fields, of those within it too, and for itself.

    A field also stands alone with those that are needed: some exclude each other.
    """
    yield value
    if get_origin(kind) is list:
        for inner in bodies(get_args(kind)[0], body[0], value):
            yield [inner, *body[1:]]
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        needed = {one.encode_name: body[one.encode_name] for one in fields if one.required}
        for one in fields:
            for inner in bodies(one.type, body.get(one.encode_name), value):
                changed = {**body, one.encode_name: inner}
                alone = {**needed, one.encode_name: inner}
                yield from [changed] if alone == changed else [changed, alone]


def in_its_words(route: Route, answer: httpx.Response) -> bool:
    """Whether a refusal is one of the contract's own."""
    refusal = route.contract.refusal
    body = msgspec.json.decode(answer.content, type=refusal)
    names = {field.encode_name for field in msgspec.structs.fields(refusal)}
    return bool(body) and answer.json().keys() <= names


def callers_for(route: Route) -> list[tuple[Caller, Caller]]:
    """Who asks, and whose carts are asked for."""
    if route.contract.name == RECORDS:
        return [(ADMIN, BOB)]
    return [(caller, caller) for caller in callers_of(route)]


@shared(9, SHARE)
@pytest.mark.parametrize("value", NASTY, ids=lambda value: ascii(value)[1:30])
async def test_an_id_is_an_id(
    http: httpx.AsyncClient, world: World, value: str, share: int
) -> None:
    """It is refused and changes nothing, or ends as a part of keys and rows of its own owner."""
    async with watched(world.shop) as commands:
        await inject(http, world, value, share)
    families = tuple(kind.pattern.partition("{")[0].encode() for kind in keys.TABLE)
    buckets = [DEFAULT, ACME]
    if re.fullmatch(TENANT_PATTERN, value):
        buckets.append(Bucket(value))
    for command in commands:
        for word in command:
            if word.startswith(families):
                assert any(is_of(bucket, word) for bucket in buckets), word


async def inject(http: httpx.AsyncClient, world: World, value: str, share: int) -> None:
    named = {Owner(kind, value) for kind in ("session", "device", "customer")}
    count = 0
    for route in part(ROUTES, NASTY.index(value), share):
        for caller, whose in callers_for(route):
            # Idempotency keys are the caller's, who may be an admin or a service.
            callers = {Owner(kind, caller.owner.id) for kind in ("user", "service")}
            own = {whose.owner, *callers, *named}
            # Or a list would write what others have changed.
            await flush.carts(Backlog(world.shop.runner), world.ledger, DEFAULT, 100)
            before = await stored(world)
            done = False
            for place, request in injections(route, caller, world.own(whose), value):
                # With escapes: a surrogate has no other way through.
                body = None if request["json"] is None else json.dumps(request["json"])
                answer = await http.request(**{**request, "json": None, "content": body})
                count += 1
                if answer.status_code == route.operation.status:
                    done = True
                else:
                    assert 400 <= answer.status_code < 500, (route.name, place, answer.text)
                    # With a slash, the path is another one.
                    assert "/" in value or in_its_words(route, answer), (route.name, place)
            after = await stored(world)
            changed = {
                owner
                for place, owner in before.keys() | after.keys()
                if before.get((place, owner)) != after.get((place, owner))
            }
            assert changed <= ({None, *own} if done else set()), route.name
    assert count > 100 / share


Place = tuple[str, Owner | None]


async def stored(world: World) -> dict[Place, Any]:
    """What is stored in Redis and in PostgreSQL, by place and owner.

    None owns what is the whole of the default tenant's.
    """
    redis = world.shop.redis
    keys = await redis.keys("*")
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.dump(key)
    found = {
        (key.decode(), owner_of(key)): dump
        for key, dump in zip(keys, await pipeline.execute(), strict=True)
    }
    for row in await world.ledger.pool.fetch(ROWS):
        tenant, number, kind, owner, *values = row
        assert tenant == DEFAULT.tenant
        found[f"cart {number}", Owner(kind, owner)] = values
    return found


ROWS = """
SELECT tenant, id, owner_kind, owner_id, carts::text,
       (SELECT array_agg(one::text ORDER BY id) FROM cart_items AS one WHERE cart_id = carts.id),
       (SELECT array_agg(one::text ORDER BY id) FROM price_history AS one WHERE cart_id = carts.id)
FROM carts
"""

NOBODY = Owner("nobody", "")


def owner_of(key: bytes) -> Owner | None:
    """Whose the key is: a cart's or an idempotency key's owner, None of the tenant's others."""
    if not is_of(DEFAULT, key):
        assert is_of(ACME, key), key
        return NOBODY
    family, _, rest = key.decode().partition(f":{DEFAULT.tag}:")
    if family in ("cart", "closed"):
        return DEFAULT.owner(key.decode())
    if not family.startswith("idem"):
        return None
    owner = rest.rpartition(":")[0] if family == "idem" else rest
    return Owner(*owner.split(":", 1))


async def test_a_customer_may_be_called_anything(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger
) -> None:
    """Each has a cart of its own: in Redis, in PostgreSQL, and when a hold runs out."""
    await shop.sell("201", stock_policy="hold")
    await shop.sell("202")
    customers = [value for value in NASTY if is_owner_id(value)]
    assert len(customers) > 10
    for customer in customers:
        owner, headers = Owner("customer", customer), dict(bearer(token_of(customer)))
        body = {"product": 202, "quantity": 1}
        answer = await http.post("/api/customer/cart/add", json=body, headers=headers)
        assert answer.status_code == 201
        assert await shop.redis.exists(DEFAULT.cart(owner))
        # Held until a time that has passed: the next request releases it, and says so.
        await shop.add_lines(LineRequest("201", 2), owner=owner)
        answer = await http.get("/api/customer/cart", headers=headers)
        assert [item["product_id"] for item in answer.json()["data"]["items"]] == [202]
        assert answer.headers["x-cart-notice"] == "hold_expired; sku=201; quantity=2"
        [cart] = (await http.get("/api/carts", headers=headers)).json()
        assert (str(cart["userId"]), cart["totalItems"]) == (customer, 1)
    await sound(shop)
    rows = await api_ledger.pool.fetch("SELECT owner_kind, owner_id FROM carts ORDER BY id")
    assert [tuple(row) for row in rows] == [("customer", customer) for customer in customers]
