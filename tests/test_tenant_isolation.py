"""A tenant's requests touch the tenant's keys and no others, whatever they carry."""

import codecs
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from cartsvc import dev, embedded, keys
from cartsvc.embedded import free_port
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner, is_owner_id, item_id
from cartsvc.settings import Settings
from tests.carts import sound
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
    Route,
    World,
    ask_for_own,
    bearer,
    callers_of,
    claims_of,
    routes_of,
    token_of,
    told,
)

DEFAULT, ACME = Bucket("default"), Bucket("acme")


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
    allowed = [f"~{pattern}" for pattern in patterns(DEFAULT)]
    settings = Settings(
        port=free_port(),
        redis_url=valkey.url.replace(f"default:{valkey.password}@", f"confined:{password}@"),
        redis_timeout_s=5,
        database_url=api_database_url,
        jwt_secret=SECRET,
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
    async with httpx.AsyncClient(base_url=confined_url) as client:
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


class Seen:
    """The commands that Redis ran, those of scripts too, and the keys that they name."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.keys: set[bytes] = set()


END = b"the end of what is watched"
KEYLESS = {b"AUTH", b"HELLO", b"SCRIPT", b"PING", b"CLIENT", b"SELECT"}
_PART = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@asynccontextmanager
async def watched(shop: Shop) -> AsyncIterator[Seen]:
    seen = Seen()
    async with shop.redis.monitor() as monitor:
        yield seen
        await shop.redis.echo(END)
        while True:
            line = await monitor.connection.read_response(disable_decoding=True)
            command = [_unescaped(part) for part in _PART.findall(line)]
            if command == [b"ECHO", END]:
                return
            seen.commands.append(command[0].upper())
            seen.keys.update(await _keys_of(shop, command))


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
    async with watched(world.shop) as seen:
        for route in routes_of(TENANT):
            for caller in callers_of(route):
                cart = await acme.add_lines(LineRequest(LAMP, 1), owner=caller.owner)
                aim = Aim(cart.id, item_id(cart.id, cart.lines[-1].number), caller.owner.id)
                answer = await http.request(**caller.ask(route, aim, tenant="acme"))
                assert answer.status_code == route.operation.status
        await acme.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "guest"))
        answer = await http.get("/cart", headers=login)
        assert "merge" in answer.json()
    assert [key for key in seen.keys if not is_of(ACME, key)] == []
    assert ACME.cart(BOB.owner).encode() in seen.keys
    # Not only what scripts are called with, but what they do.
    assert {b"EVALSHA", b"HSET", b"ZADD", b"RENAME"} <= set(seen.commands)
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
    "a b",
    "507f1f77bcf86cd799439011 cart:{default:0}:session:guest",
    "*",
    "#256#1",
    "a/b",
    "..",
    '","fixed":1,"name":"',
    "a\r\nSET x 1",
    "a\x00b",
    "\u540d\u524d",
    "\U0001f6d2",
    "a\u202eb",
    "\ud800",
    "0256",
    "-1",
    "\u0662\u0665\u0666",
    str(2**53),
    "a" * 129,
    "a" * 5_000,
]


class Injection(NamedTuple):
    """A place of a request of `route` in which a text stands that wants to be more than an id."""

    route: Route
    request: dict[str, Any]


def in_header(value: str) -> str | None:
    """The text, if a client can send it in a header."""
    sent = value.isprintable() and value == value.strip() and "\ud800" not in value
    return value if sent else None


def in_path(value: str) -> str | None:
    """The text as a part of a path, if it does not change what the parts are."""
    if value in ("", "..") or "/" in value:
        return None
    return quote(value, safe="", errors="surrogatepass")


def injections(value: str, world: World) -> Iterator[Injection]:
    for route in ROUTES:
        for caller in [ADMIN] if route.contract.name == RECORDS else callers_of(route):
            owner = BOB if caller is ADMIN else caller
            request = caller.ask(route, world.own(owner))
            yield from _in_headers(route, request, value)
            yield from _in_query(route, request, value)
            yield from _in_body(route, request, value)
            yield from _in_path(route, request, value, world.own(owner))
        if route.contract.bearer:
            yield from _in_token(route, value, world.own(BOB))


def _in_headers(route: Route, request: dict[str, Any], value: str) -> Iterator[Injection]:
    sent = in_header(value)
    for name, _ in request["headers"]:
        if sent is not None and name in ("x-tenant-id", "x-session-id", "DeviceID"):
            headers = [one for one in request["headers"] if one[0] != name]
            raw = [(key.encode(), text.encode()) for key, text in [*headers, (name, sent)]]
            yield Injection(route, {**request, "headers": raw})


def _in_query(route: Route, request: dict[str, Any], value: str) -> Iterator[Injection]:
    for name, _ in request["params"]:
        if "\ud800" not in value:
            yield Injection(route, {**request, "params": [(name, value)]})


def _in_body(route: Route, request: dict[str, Any], value: str) -> Iterator[Injection]:
    body = request["json"] or {}
    extra = {
        "session POST /api/cart": ["session_id"],
        "tenant POST /cart/items": ["productVariantId"],
        "customer POST /api/customer/cart/add": ["variation"],
        "records POST /api/carts": ["userId", "sessionId"],
        "records PUT /api/carts/{cart_id}": ["userId", "sessionId"],
        "records POST /api/cart-items": ["productName", "productImageUrl"],
        "records PUT /api/cart-items/{item_id}": ["productName", "productImageUrl"],
    }
    for name in [*body, *extra.get(route.name, [])]:
        changed = {key: one for key, one in body.items() if key not in ("userId", "sessionId")}
        yield Injection(route, {**request, "json": {**changed, name: value}})
    if "variations" in body:
        variations = [{"id": value, "quantity": 1}]
        yield Injection(route, {**request, "json": {**body, "variations": variations}})


def _in_path(route: Route, request: dict[str, Any], value: str, aim: Aim) -> Iterator[Injection]:
    part = in_path(value)
    for name in re.findall(r"{(\w+)}", route.operation.path):
        if part is not None:
            places = {
                "cart_id": aim.cart,
                "item_id": aim.item,
                "product_id": LAMP,
                "user_id": aim.owner,
                "session_id": aim.owner,
                "status": "ACTIVE",
            }
            url = route.operation.path.format(**{**places, name: part})
            yield Injection(route, {**request, "url": url})


def _in_token(route: Route, value: str, aim: Aim) -> Iterator[Injection]:
    if "\ud800" in value:
        return
    headers = bearer(BY_SECRET(claims_of("customer", sub=value)))
    yield Injection(route, BOB.ask(route, aim, headers))


def in_its_words(route: Route, answer: httpx.Response) -> bool:
    """Whether a refusal is one of the contract's own."""
    refusal = route.contract.refusal
    body = msgspec.json.decode(answer.content, type=refusal)
    names = {field.encode_name for field in msgspec.structs.fields(refusal)}
    return bool(body) and answer.json().keys() <= names


@pytest.mark.parametrize("value", NASTY, ids=lambda value: ascii(value)[1:30])
async def test_an_id_is_an_id(http: httpx.AsyncClient, world: World, value: str) -> None:
    """It is refused, or ends as a part of a key of the tenant that was asked for."""
    acme = {key: one for key, one in (await world.shop.everything()).items() if is_of(ACME, key)}
    count = 0
    for route, request in injections(value, world):
        # With escapes: a surrogate has no other way through.
        body = None if request["json"] is None else json.dumps(request["json"])
        answer = await http.request(**{**request, "json": None, "content": body})
        count += 1
        if answer.status_code != route.operation.status:
            assert 400 <= answer.status_code < 500, (route.name, request)
            assert in_its_words(route, answer)
    assert count > 10
    everything = await world.shop.everything()
    assert [key for key in everything if not (is_of(DEFAULT, key) or is_of(ACME, key))] == []
    assert {key: one for key, one in everything.items() if is_of(ACME, key)} == acme
    tenants = await world.ledger.pool.fetch("SELECT DISTINCT tenant FROM carts")
    assert [row["tenant"] for row in tenants] == ["default"]


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
