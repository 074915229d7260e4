"""Who may do what: every operation of every contract, asked for by those who may not.

The operations are the contracts' own, so a new one is here too: one with a body has to say which
body only the authorization could refuse. After a refusal nothing is changed, neither in Redis nor
in PostgreSQL.
"""

import hmac
import json
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cartsvc import contracts, dev, embedded, flush, identity
from cartsvc.acts import Desk
from cartsvc.backlog import Backlog
from cartsvc.contract import Contract, Operation
from cartsvc.core import Core
from cartsvc.embedded import free_port
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import (
    MAX_LINE,
    MAX_SAFE_INT,
    Cart,
    ClosedStatus,
    LineRequest,
    Owner,
    item_id,
)
from cartsvc.settings import Settings
from tests import databases
from tests.shares import part, shared
from tests.shop import LAMP, MUG, SECRET, Shop
from tests.test_identity import Private, jwk, public_pem, segment

ISSUER, AUDIENCE = "https://id.example.com", "carts"
KINDS = identity.TOKEN_TYPES
TENANT, CUSTOMER, RECORDS, OPERATORS = "tenant", "customer", "records", "admin"

STEPS = (-4096, -256, -1, 1, 256, 4096)
"""How far apart ids are that somebody might guess from an own one."""

ABSENT = 1_000_000 << 8
"""The id of a cart that there is not."""

Headers = list[tuple[str, str]]
Body = dict[str, Any]

Sign = Callable[[Body], str]
"""Makes a token of claims."""


# Every operation, and a request for it.


class Route(NamedTuple):
    contract: Contract
    operation: Operation

    @property
    def name(self) -> str:
        return f"{self.contract.name} {self.operation.method} {self.operation.path}"


def every_route() -> list[Route]:
    nothing = cast(Any, None)
    core = Core(nothing, nothing, nothing, Bucket("default"), Desk(nothing, pause_s=0))
    return [
        Route(contract, operation)
        for contract in contracts.all_of(core)
        for operation in contract.operations
    ]


ROUTES = every_route()


def routes_of(contract: str) -> list[Route]:
    return [route for route in ROUTES if route.contract.name == contract]


class Aim(NamedTuple):
    """What a request is aimed at: a cart and one of its items, by id, and who owns it."""

    cart: int
    item: int
    owner: str
    product: str = LAMP


BODIES: dict[str, Callable[[Aim], Body]] = {
    "session POST /api/cart": lambda aim: {
        "product_id": aim.product,
        "quantity": 1,
        "session_id": aim.owner,
    },
    "session PUT /api/cart/items/{product_id}": lambda _: {"quantity": 3},
    "tenant POST /cart/items": lambda aim: {"productId": aim.product, "quantity": 1},
    "tenant PUT /cart/items/{item_id}": lambda _: {"quantity": 3},
    "device POST /cart/items": lambda aim: {"product_id": aim.product, "quantity": 1},
    "device PUT /cart/items/{item_id}": lambda _: {"quantity": 3},
    "customer POST /api/customer/cart": lambda _: {
        "product": 201,
        "quantity": 1,
        "variations": [{"id": "s", "quantity": 1}],
    },
    "customer POST /api/customer/cart/add": lambda _: {"product": 202, "quantity": 1},
    "customer PUT /api/customer/cart/items/{item_id}": lambda _: {"quantity": 3},
    "records POST /api/carts": lambda aim: {"userId": aim.owner},
    "records PUT /api/carts/{cart_id}": lambda _: {"status": "ABANDONED"},
    "records POST /api/cart-items": lambda aim: {
        "cartId": aim.cart,
        "productId": LAMP,
        "quantity": 1,
    },
    "records PUT /api/cart-items/{item_id}": lambda aim: {
        "cartId": aim.cart,
        "productId": LAMP,
        "quantity": 3,
    },
    "admin PUT /admin/stock": lambda aim: {"sku": aim.product, "units": 50},
    "admin POST /admin/stock": lambda aim: {"sku": aim.product, "units": 10},
    "admin PUT /admin/stock/watched": lambda aim: {"skus": [aim.product]},
    "admin PUT /admin/sale": lambda _: {"paused": True, "reason": "stocktaking"},
    "admin PUT /admin/price": lambda aim: {"sku": aim.product, "price": 24.99},
    "admin POST /admin/verify": lambda _: {"repair": False},
}


def test_every_operation_has_its_row() -> None:
    with_body = [route.name for route in ROUTES if route.operation.body]
    assert sorted(with_body) == sorted(BODIES)
    assert len({route.name for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:  # nor is there a contract, or a parameter of a path, not known here
        assert callers_of(route)
        assert path_of(route, Aim(1, 1, "bob")).startswith("/")


class Caller(NamedTuple):
    """Who asks, and the owner of the carts that are the caller's own."""

    name: str
    owner: Owner
    contracts: tuple[str, ...]
    token: str = ""

    def ask(
        self,
        route: Route,
        aim: Aim,
        authorization: Headers | None = None,
        tenant: str = "default",
    ) -> dict[str, Any]:
        """A request of the route that only the authorization could refuse."""
        if authorization is None:
            authorization = bearer(self.token) if self.token else []
        values = {"session_id": self.owner.id, "DeviceID": self.owner.id, "x-tenant-id": tenant}
        values["sku"] = aim.product
        if self.owner.kind == "session":
            values["x-session-id"] = self.owner.id
        asked = (*route.contract.parameters, *route.operation.parameters)
        needed = [one for one in asked if one.required or one.name in values]
        sent = {
            place: [(one.name, values[one.name]) for one in needed if one.place == place]
            for place in ("header", "query")
        }
        return {
            "method": route.operation.method,
            "url": path_of(route, aim),
            "headers": [*authorization, *sent["header"]],
            "params": sent["query"],
            "json": BODIES[route.name](aim) if route.operation.body else None,
        }


def path_of(route: Route, aim: Aim, **changes: str) -> str:
    """The path of the route that leads to the aim, but for the changes."""
    values = {
        "cart_id": aim.cart,
        "item_id": aim.item,
        "product_id": aim.product,
        "user_id": aim.owner,
        "session_id": aim.owner,
        "status": "ABANDONED",
    }
    return route.operation.path.format(**{**values, **changes})


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def token_of(subject: str, kind: str = "customer", tenant: str | None = None) -> str:
    return identity.issue_token(SECRET, subject=subject, kind=kind, tenant=tenant, ttl_s=86_400)


ANN, DORA = Owner("customer", "ann"), Owner("customer", "dora")
BOB = Caller("customer", Owner("customer", "bob"), (TENANT, CUSTOMER, RECORDS), token_of("bob"))
SHOPPERS = [
    BOB,
    Caller("guest", Owner("session", "bobs-session"), ("session", TENANT)),
    Caller("device", Owner("device", "bobs-device"), ("device",)),
]
OPERATOR = Caller(
    "operator", Owner("customer", "backoffice"), (OPERATORS,), token_of("backoffice", "service")
)
CALLERS = [*SHOPPERS, OPERATOR]


def callers_of(route: Route) -> list[Caller]:
    return [caller for caller in CALLERS if route.contract.name in caller.contracts]


def aim_at(cart: Cart) -> Aim:
    return Aim(cart.id, item_id(cart.id, 1), cart.owner.id)


# The carts that there are.


class World:
    """Carts of all kinds of owners and in every state, in Redis and in PostgreSQL.

    `active` are the owners' active carts; `carts` are all that there are.
    """

    def __init__(self, shop: Shop, ledger: Ledger) -> None:
        self.shop, self.ledger = shop, ledger
        self.active: dict[Owner, Cart] = {}
        self.carts: list[Cart] = []

    async def anew(self) -> None:
        """Make it again, as it was."""
        await self.shop.redis.flushall()
        await databases.empty(self.ledger)
        await self.shop.open()
        await self.ledger.open_bucket(self.shop.bucket)
        self.active, self.carts = {}, []
        await self.make()

    async def make(self) -> "World":
        shop = self.shop
        sold = [await shop.sell(name) for name in (LAMP, MUG, "202")]
        sold.append(await shop.sell("201", variants=[("s", None)]))
        await shop.record(self.ledger, *sold)
        acme = Shop(shop.runner)
        acme.bucket = Bucket("acme")
        await acme.open()
        await acme.record(self.ledger, await acme.sell(LAMP))
        await self.ledger.open_bucket(acme.bucket)
        await self.cart(ANN, "CONVERTED")
        await self.cart(ANN, "DELETED")
        await self.cart(BOB.owner, "CONVERTED")
        # Before and after the callers' carts there are others'.
        await self.cart(ANN, products=(LAMP, MUG))
        for caller in CALLERS:
            await self.cart(caller.owner)
        await self.cart(Owner("session", "guest"), products=(LAMP, MUG))
        await self.cart(Owner("device", "phone"), products=(LAMP, MUG))
        await self.cart(DORA)
        await flush.carts(Backlog(shop.runner), self.ledger, shop.bucket, 100)
        # As if its owner had been away for long, it is in PostgreSQL only; this one, not yet.
        await shop.redis.hdel(shop.bucket.carts, self.active[DORA].id)
        await shop.redis.delete(shop.bucket.cart(DORA))
        await self.cart(Owner("customer", "eve"), "ABANDONED")
        return self

    async def cart(
        self,
        owner: Owner,
        status: ClosedStatus | Literal["ACTIVE"] = "ACTIVE",
        products: Collection[str] = (LAMP, "202"),
    ) -> None:
        store, bucket = self.shop.store, self.shop.bucket
        cart = await store.add(bucket, owner, [LineRequest(one, 2) for one in products])
        if status == "ACTIVE":
            self.active[owner] = cart
        else:
            cart = await store.close(bucket, owner, status)
        self.carts.append(cart)

    def own(self, caller: Caller) -> Aim:
        return aim_at(self.active[caller.owner])

    def foreign(self, caller: Caller) -> list[Aim]:
        """Carts and items that are not the caller's: others', neighbouring ids, and none at all.

        The last one is a cart that there is not.
        """
        mine = {cart.id for cart in self.carts if cart.owner == caller.owner}
        own = self.active[caller.owner]
        carts = {cart.id: cart.owner.id for cart in self.carts}
        carts |= {own.id + step: "nobody" for step in STEPS if own.id + step not in carts}
        carts |= {0: "nobody", MAX_SAFE_INT: "nobody"}
        aims = [
            Aim(cart, min(item_id(cart, 1), MAX_SAFE_INT), owner, MUG)
            for cart, owner in carts.items()
            if cart >= 0 and cart not in mine
        ]
        items = {item_id(own.id, line) for line in (0, len(own.lines) + 1, MAX_LINE)}
        items |= {item_id(own.id, 1) + step for step in STEPS}
        items -= {
            item_id(cart.id, line.number)
            for cart in self.carts
            if cart.id in mine
            for line in cart.lines
        }
        nowhere = Aim(ABSENT, item_id(ABSENT, 1), "absent", MUG)
        return [*aims, *(nowhere._replace(item=item) for item in sorted(items)), nowhere]

    async def state(self) -> tuple[Any, ...]:
        """All that is stored."""
        tables = ("buckets", "carts", "cart_items", "price_history")
        query = "SELECT * FROM {} ORDER BY 1, 2, 3"
        rows = [await self.ledger.pool.fetch(query.format(table)) for table in tables]
        return await self.shop.everything(), *rows


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


def told(answer: httpx.Response) -> tuple[int, Any]:
    """Status and body, without the time at which it was."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    body.pop("timestamp", None)
    return answer.status_code, body


def words(answer: httpx.Response) -> dict[str, str]:
    """The headers, without those that differ by the time, the request or the length of an id."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name not in ("date", "content-length", "x-request-id")
    }


# Tokens that are no good.


class Service(NamedTuple):
    """A service, how its tokens are signed, and what somebody might try instead.

    `forged` are tokens that a stranger makes of claims.
    """

    url: str
    sign: Sign
    forged: dict[str, Sign]


def claims_of(kind: str, **changes: Any) -> Body:
    """A token's claims that are good, but for the changes; a claim that is None is left out."""
    claims = {"sub": "bob", "type": kind, "exp": int(time.time()) + 600, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def wrong_claims() -> dict[str, Body]:
    now = int(time.time())
    return {
        "expired": {"exp": now - 1},
        "expires at a text": {"exp": "never"},
        "not yet valid": {"nbf": now + 600},
        "no type": {"type": None},
        "unknown type": {"type": "root"},
        "type in capitals": {"type": "Customer"},
        "two types": {"type": ["customer", "user"]},
        "no subject": {"sub": None},
        "empty subject": {"sub": ""},
        "subject of two": {"sub": ["bob", "ann"]},
        "subject with a line break": {"sub": "ann\n"},
        "subject too long": {"sub": "a" * 129},
        "another tenant": {"tenant": "acme"},
        "no tenant's name": {"tenant": "default:0}"},
    }


def without_signature(algorithm: str, **header: Any) -> Sign:
    head = json.dumps({"alg": algorithm, **header})
    return lambda claims: f"{segment(head)}.{segment(json.dumps(claims))}."


def by_hmac(secret: bytes, algorithm: str = "HS256", **header: Any) -> Sign:
    def sign(claims: Body) -> str:
        parts = [json.dumps({"alg": algorithm, **header}), json.dumps(claims)]
        text = ".".join(segment(part) for part in parts)
        digest = "sha" + algorithm.removeprefix("HS")
        return f"{text}.{segment(hmac.digest(secret, text.encode(), digest))}"

    return sign


def signed(key: Private | str, algorithm: str, claims: Body | None = None, **header: Any) -> Sign:
    return lambda given: jwt.encode(
        {**given, **(claims or {})}, key, algorithm=algorithm, headers=header
    )


def with_other_claims(sign: Sign, **changes: Any) -> Sign:
    """The signature is that of other claims."""

    def forge(claims: Body) -> str:
        head, _, signature = sign(claims).split(".")
        return f"{head}.{segment(json.dumps({**claims, **changes}))}.{signature}"

    return forge


BY_SECRET = signed(SECRET, "HS256")
NO_SIGNATURE = {
    "alg none": without_signature("none"),
    "alg None": without_signature("None"),
    "alg HS256 without signature": without_signature("HS256"),
}
STRANGER = rsa.generate_private_key(65_537, 2048)


def own_key(key: Private, **header: Any) -> Sign:
    """Signed by a stranger, who sends the key along."""
    return signed(key, "RS256", jwk=jwk(key), **header)


@pytest.fixture
def by_secret(api_url: str) -> Service:
    forged = {
        **NO_SIGNATURE,
        "another secret": signed(SECRET + "!", "HS256"),
        "an empty secret": by_hmac(b""),
        "another algorithm": by_hmac(SECRET.encode(), "HS384"),
        "a longer hash": by_hmac(SECRET.encode(), "HS512"),
        "other claims": with_other_claims(BY_SECRET, sub="ann"),
        "a key of its own": own_key(STRANGER),
    }
    return Service(api_url, BY_SECRET, forged)


@pytest.fixture(scope="module")
def by_rsa(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with an RSA key, an issuer and an audience."""
    key = rsa.generate_private_key(65_537, 2048)
    pem = public_pem(key)
    file = tmp_path_factory.mktemp("rsa") / "key.pem"
    file.write_bytes(pem)
    names = {"iss": ISSUER, "aud": AUDIENCE}
    sign = signed(key, "RS256", names)

    def but(**changes: Any) -> Sign:
        kept = {name: value for name, value in {**names, **changes}.items() if value is not None}
        return signed(key, "RS256", kept)

    forged = {
        **NO_SIGNATURE,
        "the public key as secret": lambda given: by_hmac(pem)({**given, **names}),
        "the public key, stripped": lambda given: by_hmac(pem.strip())({**given, **names}),
        "the other services' secret": signed(SECRET, "HS256", names),
        "another key": signed(STRANGER, "RS256", names),
        "another algorithm": signed(key, "RS512", names),
        "another padding": signed(key, "PS256", names),
        "a key of its own": lambda given: own_key(STRANGER)({**given, **names}),
        "other claims": with_other_claims(sign, **names, sub="ann"),
        "another issuer": but(iss="https://id.example.org"),
        "no issuer": but(iss=None),
        "a longer issuer": but(iss=ISSUER + "/"),
        "another audience": but(aud="shop"),
        "other audiences": but(aud=["shop", "stock"]),
        "no audience": but(aud=None),
    }
    yield from serve(
        replace(
            settings,
            jwt_public_key_file=str(file),
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
        ),
        sign,
        forged,
    )


@pytest.fixture(scope="module")
def by_jwks(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two keys, told apart by their ids."""
    one, two = rsa.generate_private_key(65_537, 2048), ec.generate_private_key(ec.SECP256R1())
    file = tmp_path_factory.mktemp("jwks") / "jwks.json"
    keys = json.dumps({"keys": [jwk(one, kid="one"), jwk(two, kid="two")]})
    file.write_text(keys)
    forged = {
        "alg none": without_signature("none", kid="one"),
        "the secret of another": signed(SECRET, "HS256", kid="one"),
        "the public key as secret": by_hmac(public_pem(one), kid="one"),
        "the EC key as secret": by_hmac(public_pem(two), kid="two"),
        "the file as secret": by_hmac(keys.encode(), kid="one"),
        "no kid": signed(one, "RS256"),
        "unknown kid": signed(one, "RS256", kid="three"),
        "kid of the other key": signed(one, "RS256", kid="two"),
        "EC key with the other's kid": signed(two, "ES256", kid="one"),
        "kid that is a file": by_hmac(b"", kid="/dev/null"),
        "kid that is a number": by_hmac(b"", kid=1),
        "kid that is a list": by_hmac(b"", kid=["one"]),
        "another key": signed(STRANGER, "RS256", kid="one"),
        "a key of its own": own_key(STRANGER, kid="one"),
        "a key elsewhere": signed(STRANGER, "RS256", kid="one", jku="file://" + str(file)),
    }
    settings = replace(settings, jwt_jwks_file=str(file))
    yield from serve(settings, signed(two, "ES256", kid="two"), forged)


@pytest.fixture
def services(by_secret: Service, by_rsa: Service, by_jwks: Service) -> list[Service]:
    return [by_secret, by_rsa, by_jwks]


@pytest.fixture(scope="module")
def settings(valkey: embedded.Valkey, api_database_url: str) -> Settings:
    """Those of another service on the servers of `api_url`; it has no key yet."""
    return Settings(redis_url=valkey.url, redis_timeout_s=5, database_url=api_database_url)


def serve(settings: Settings, sign: Sign, forged: dict[str, Sign]) -> Iterator[Service]:
    settings = replace(settings, port=free_port())
    process = dev.start("serve", settings, os.environ)
    yield Service(dev.url(settings), sign, forged)
    assert embedded.stop(process) == -signal.SIGTERM


BAD_HEADERS: dict[str, Headers] = {
    "empty": [("Authorization", "")],
    "no token": [("Authorization", "Bearer")],
    "basic": [("Authorization", "Basic x")],
    "basic with a password": [("Authorization", "Basic Ym9iOmJvYg==")],
    "a good token, another scheme": [("Authorization", f"Token {token_of('bob')}")],
    "a good token, no scheme": [("Authorization", token_of("bob"))],
    "a good token twice": bearer(token_of("bob")) * 2,
    "a good token and another": bearer(token_of("bob")) + bearer(token_of("ann")),
    "a good token and a password": [*bearer(token_of("bob")), ("Authorization", "Basic x")],
}
BAD_TOKENS: dict[str, Headers] = {
    "no JWT": bearer("abc"),
    "dots": bearer(".."),
    "a good token with more": bearer(token_of("bob") + ".x"),
    "two tokens": bearer(token_of("bob") + " " + token_of("bob")),
    "two tokens by comma": bearer(token_of("bob") + ", Bearer " + token_of("bob")),
    "too long": bearer("a" * 8_193),
}


def unauthorized(route: Route, aim: Aim, problem: str) -> tuple[int, Body]:
    """What the contract says to a token that is "missing", "wrong" or of type "user", say."""
    match route.contract.name, problem:
        case "tenant", _:
            message = "Invalid authentication token"
            return 401, {"statusCode": 401, "message": message, "error": "Unauthorized"}
        case "admin", ("missing" | "wrong"):
            message = "Invalid authentication token"
            return 401, {"success": False, "message": message, "error": {"code": "unauthorized"}}
        case "admin", kind:
            message = f"A token of type service is needed, not {kind}"
            return 403, {"success": False, "message": message, "error": {"code": "forbidden"}}
        case "customer", "missing":
            return 401, {"message": "Unauthenticated. No token provided."}
        case "customer", "wrong":
            return 401, {"message": "Unauthenticated. Invalid token."}
        case "customer", kind:
            return 401, {
                "message": "Unauthenticated. Customer authentication required.",
                "error": f"Token belongs to App\\Models\\{kind.capitalize()}, "
                "but Customer is required.",
            }
    return 401, {
        "status": 401,
        "error": "Unauthorized",
        "message": "Authentication required",
        "path": path_of(route, aim),
    }


def named(routes: list[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", routes, ids=[route.name for route in routes])


class Attempt(NamedTuple):
    """An Authorization header that is refused by the service at `url`, and for which problem."""

    what: str
    headers: Headers
    problem: str
    url: str = ""


def bad_headers() -> Iterator[Attempt]:
    for what, headers in BAD_HEADERS.items():
        yield Attempt(what, headers, "missing")
    for what, headers in BAD_TOKENS.items():
        yield Attempt(what, headers, "wrong")


def bad_tokens(service: Service, kind: str) -> Iterator[Attempt]:
    for what, changes in wrong_claims().items():
        token = service.sign(claims_of(kind, **changes))
        yield Attempt(what, bearer(token), "wrong", service.url)
    for what, forge in service.forged.items():
        token = forge(claims_of(kind))
        yield Attempt(what, bearer(token), "wrong", service.url)


def other_types(service: Service, kind_asked: str) -> Iterator[Attempt]:
    for kind in set(KINDS) - {kind_asked}:
        yield Attempt(kind, bearer(service.sign(claims_of(kind))), kind, service.url)


@shared(4)
@pytest.mark.parametrize(
    ("contract", "kind"),
    [(TENANT, "customer"), (CUSTOMER, "customer"), (RECORDS, "user"), (OPERATORS, "service")],
)
async def test_a_token_that_is_no_good(
    http: httpx.AsyncClient,
    world: World,
    contract: str,
    kind: str,
    services: list[Service],
    share: int,
) -> None:
    attempts = [*bad_headers()]
    for service in services:
        attempts += bad_tokens(service, kind)
        if contract != RECORDS:
            attempts += other_types(service, kind)
    if contract != TENANT:
        attempts.append(Attempt("nothing", [], "missing"))
    aim, before = world.own(BOB), await world.state()
    routes = routes_of(contract)
    assert len(routes) >= share
    for number, route in enumerate(routes):
        assert route.contract.bearer == ("optional" if contract == TENANT else "required")
        for what, headers, problem, url in part(attempts, number, share):
            request = BOB.ask(route, aim, headers)
            answer = await http.request(**{**request, "url": url + request["url"]})
            assert told(answer) == unauthorized(route, aim, problem), (route.name, what, url)
        assert await world.state() == before


def test_every_contract_with_tokens_is_tried() -> None:
    with_tokens = {route.contract.name for route in ROUTES if route.contract.bearer}
    assert with_tokens == {TENANT, CUSTOMER, RECORDS, OPERATORS}


async def test_the_services_take_tokens_that_are_good(
    http: httpx.AsyncClient, world: World, services: list[Service]
) -> None:
    """What the other tests change of them is what they are refused for."""
    for service in services:
        for tenant in (None, "default"):
            headers = dict(bearer(service.sign(claims_of("customer", tenant=tenant))))
            answer = await http.get(service.url + "/api/customer/cart", headers=headers)
            cart = answer.json()["data"]["cart_id"]
            assert (answer.status_code, cart) == (200, world.own(BOB).cart)
            for kind in KINDS:
                headers = dict(bearer(service.sign(claims_of(kind, tenant=tenant))))
                answer = await http.get(service.url + "/api/carts?size=1", headers=headers)
                assert answer.status_code == 200


async def test_no_bad_token_makes_a_guest(http: httpx.AsyncClient, world: World) -> None:
    """Contract 001: a guest's session beside it does not count, and is not merged."""
    guest, bob = CALLERS[1], world.own(CALLERS[1])
    before = await world.state()
    for route in routes_of(TENANT):
        for what, headers, problem, _ in bad_headers():
            answer = await http.request(**guest.ask(route, bob, headers))
            assert told(answer) == unauthorized(route, bob, problem), (route.name, what)
    assert await world.state() == before


async def test_a_token_of_another_tenant(http: httpx.AsyncClient, world: World) -> None:
    """Contract 001: the store that is asked for is not the token's."""
    aim, before = world.own(BOB), await world.state()
    headers = bearer(token_of("bob", tenant="default"))
    for route in routes_of(TENANT):
        for tenant in ("acme", "Default", "nowhere"):
            answer = await http.request(**BOB.ask(route, aim, headers, tenant=tenant))
            assert told(answer) == unauthorized(route, aim, "wrong"), (route.name, tenant)
    assert await world.state() == before


async def test_ids_lead_nowhere_in_another_tenant(http: httpx.AsyncClient, world: World) -> None:
    """Contract 001, with a token that names no tenant, and as a guest."""
    before = await world.state()
    for route in routes_of(TENANT):
        if "{item_id}" in route.operation.path:
            for caller in callers_of(route):
                aim = world.own(caller)
                answer = await http.request(**caller.ask(route, aim, tenant="acme"))
                assert told(answer) == not_found(route, aim)
    assert await world.state() == before


# Contracts that know no tokens.


@named([*routes_of("session"), *routes_of("device")])
async def test_a_token_changes_nothing_where_none_is_known(
    http: httpx.AsyncClient, world: World, route: Route
) -> None:
    [caller] = callers_of(route)
    expired = BY_SECRET(claims_of("customer", exp=1))
    headers: list[Headers] = [[], *BAD_HEADERS.values(), *BAD_TOKENS.values(), bearer(expired)]
    headers += [bearer(token_of("ann", kind)) for kind in KINDS]
    headers.append(bearer(token_of("ann", tenant="acme")))
    others, answers = await others_than(world, None), []
    for number, authorization in enumerate(headers):
        owner = Owner(caller.owner.kind, f"owner-{number}")
        cart = await world.shop.add_lines(LineRequest(LAMP, 2), owner=owner)
        aim = aim_at(cart)
        request = caller._replace(owner=owner).ask(route, aim, authorization)
        answer = await http.request(**request)
        text = answer.text.replace(f'"{owner.id}"', '"owner"')
        text = text.replace(f'"id":{aim.item},', '"id":2,').replace(f'"id":{aim.cart},', '"id":1,')
        answers.append((answer.status_code, without_times(text)))
    assert answers == [answers[0]] * len(headers)
    assert answers[0][0] == route.operation.status
    assert await others_than(world, None) == others


def without_times(text: str) -> str:
    return re.sub(r'"updated_at":"[^"]*"', '"updated_at":""', text)


async def others_than(world: World, own: Owner | None) -> list[Any]:
    """What is stored of the world's carts that have another owner."""
    shop, pool = world.shop, world.ledger.pool
    everything = await shop.everything()
    found: list[Any] = [
        everything.get(shop.bucket.cart(owner).encode()) for owner in world.active if owner != own
    ]
    for cart in world.carts:
        if cart.owner != own:
            found += await pool.fetch("SELECT * FROM carts WHERE id = $1", cart.id)
            found += await pool.fetch("SELECT * FROM cart_items WHERE cart_id = $1", cart.id)
    found.append([value for key, value in everything.items() if b"{acme:0}" in key])
    return found


# Carts and items of others.


def not_found(route: Route, aim: Aim) -> tuple[int, Body]:
    """What the contract says of a cart, or an item, that is not there."""
    message = "Item not found in cart"
    match route.contract.name:
        case "session":
            error = {"code": "item_not_found"}
            return 404, {"success": False, "message": message, "error": error}
        case "tenant":
            return 404, {"statusCode": 404, "message": message, "error": "Not Found"}
        case "device":
            return 404, {"error": message}
        case "customer":
            return 404, {"success": False, "message": "Cart item not found"}
    place = route.operation.path if "{" in route.operation.path else route.name
    [what] = [what for part, what in MISSING.items() if part in place]
    return 404, {
        "status": 404,
        "error": "Not Found",
        "message": what.format(**aim._asdict()) + " not found",
        "path": path_of(route, aim),
    }


MISSING = {
    "{cart_id}": "Cart with ID {cart}",
    "{item_id}": "Cart item with ID {item}",
    "{user_id}": "Active cart for user {owner}",
    "{session_id}": "Active cart for session {owner}",
    "records POST /api/carts": "User with ID {owner}",
    "records POST /api/cart-items": "Cart with ID {cart}",
}


def aimed_by(caller: Caller) -> list[Route]:
    """Routes that name a cart, an item or an owner; the others have no way to mean another's."""
    return [
        route
        for route in ROUTES
        if caller in callers_of(route) and ("{" in route.operation.path or route.name in MISSING)
    ]


@pytest.mark.parametrize("caller", SHOPPERS, ids=[caller.name for caller in SHOPPERS])
async def test_what_is_anothers_is_not_there(
    http: httpx.AsyncClient, world: World, caller: Caller
) -> None:
    """What is another's answers as what there is not, which is the last that is asked for."""
    before = await world.state()
    for route in aimed_by(caller):
        headers = []
        for aim in world.foreign(caller):
            answer = await http.request(**caller.ask(route, aim))
            assert told(answer) == not_found(route, aim), route.name
            headers.append(words(answer))
        assert headers == [headers[-1]] * len(headers)
        assert await world.state() == before


async def test_what_is_anothers_is_there(http: httpx.AsyncClient, world: World) -> None:
    """For who may see it: what the tests before aim at are carts and items that there are."""
    admin = dict(bearer(token_of("admin", "user")))
    for cart in world.carts:
        there = 404 if cart.status == "DELETED" else 200
        item = item_id(cart.id, 1)
        for path in (f"/api/carts/{cart.id}", f"/api/cart-items/{item}"):
            assert (await http.get(path, headers=admin)).status_code == there


async def test_a_session_is_no_customers(http: httpx.AsyncClient, world: World) -> None:
    before = await world.state()
    for session in ("guest", "bobs-session", "bob", "absent"):
        answer = await http.post(
            "/api/carts", json={"sessionId": session}, headers=dict(bearer(BOB.token))
        )
        message = f"Session with ID {session} not found"
        assert told(answer) == (
            404,
            {"status": 404, "error": "Not Found", "message": message, "path": "/api/carts"},
        )
    assert await world.state() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "wrong"),
    [
        (
            "PUT",
            "/api/cart-items/{own.item}",
            lambda other: {"cartId": other.cart, "productId": LAMP, "quantity": 3},
            {"cartId": "The cart of an item cannot be changed"},
        ),
        (
            "PUT",
            "/api/carts/{own.cart}",
            lambda other: {"userId": other.owner},
            {"userId": "The owner of a cart cannot be changed"},
        ),
        (
            "PUT",
            "/api/carts/{own.cart}",
            lambda other: {"sessionId": other.owner},
            {"userId": "The owner of a cart cannot be changed"},
        ),
    ],
)
async def test_a_body_that_names_anothers(
    http: httpx.AsyncClient,
    world: World,
    method: str,
    path: str,
    body: Callable[[Aim], Body],
    wrong: dict[str, str],
) -> None:
    """An own item or cart is not moved to another's, whether there is one or not."""
    own, before = world.own(BOB), await world.state()
    path = path.format(own=own)
    for aim in world.foreign(BOB):
        answer = await http.request(method, path, json=body(aim), headers=dict(bearer(BOB.token)))
        assert told(answer) == (
            400,
            {
                "status": 400,
                "error": "Bad Request",
                "message": "Validation failed",
                "path": path,
                "errors": wrong,
            },
        )
    assert await world.state() == before


# Who may.

AUTHORITIES_ONLY = ["records GET /api/carts/session/{session_id}/active"]
MAKES_A_CART = "records POST /api/carts"
ADMIN = Caller("admin", Owner("customer", "admin"), (), token_of("admin", "user"))
CARL = Caller("customer without a cart", Owner("customer", "carl"), (), token_of("carl"))


ALLOWED = [
    (route, caller)
    for route in ROUTES
    for caller in callers_of(route)
    if route.name not in AUTHORITIES_ONLY
]
"""Every operation, and each shopper who may."""


def ask_for_own(world: World, route: Route, caller: Caller) -> dict[str, Any]:
    """A request that succeeds, for the caller's own cart."""
    if route.name == MAKES_A_CART:
        return CARL.ask(route, Aim(0, 0, CARL.owner.id))
    return caller.ask(route, world.own(caller))


async def test_who_may_touches_what_is_its_own(http: httpx.AsyncClient, world: World) -> None:
    """The same requests succeed with an own cart; nothing of others changes, or is shown."""
    for route, caller in ALLOWED:
        await world.anew()
        others = await others_than(world, caller.owner)
        answer = await http.request(**ask_for_own(world, route, caller))
        assert answer.status_code == route.operation.status, route.name
        assert await others_than(world, caller.owner) == others, route.name
        if route.name == "admin POST /admin/verify":
            continue  # It names every cart of which something is wrong.
        numbers = set(re.findall(r"\d+", answer.text))
        for cart in world.carts:
            if cart.owner != caller.owner:
                items = {str(item_id(cart.id, line.number)) for line in cart.lines}
                assert not numbers & ({str(cart.id)} | items), route.name
                assert f'"{cart.owner.id}"' not in answer.text, route.name


async def test_authorities_may(http: httpx.AsyncClient, world: World) -> None:
    """Contract 004: with an admin's token the same requests succeed with anybody's cart."""
    for route in routes_of(RECORDS):
        await world.anew()
        guests = route.name in AUTHORITIES_ONLY
        aim = aim_at(world.active[Owner("session", "guest") if guests else ANN])
        if route.name == MAKES_A_CART:
            aim = Aim(0, 0, "carl")
        answer = await http.request(**ADMIN.ask(route, aim))
        assert answer.status_code == route.operation.status, route.name
