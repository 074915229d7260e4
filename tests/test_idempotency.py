"""A request with an idempotency key is carried out once, and always gets its first answer."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from cartsvc import dev, embedded, flush, scripts
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.embedded import free_port
from cartsvc.errors import (
    CartExists,
    KeyReused,
    KeysSpent,
    LedgerAway,
    NoCounter,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
)
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, LineTerms, Merged, Once, Owner, item_id
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store
from tests import carts
from tests.callers import NO_TLS
from tests.carts import BOB, GUEST, refused
from tests.mutants import turns_red
from tests.proxy import Proxy
from tests.shop import ANN, LAMP, MUG, SECRET, Mutant, Shop
from tests.test_authorization import CALLERS, ROUTES, Route, World, aim_at, token_of

PRINT, OTHER_PRINT = "ab" * 16, "cd" * 16
KEY = "9c2e7f0a"


def once(key: str = KEY, fingerprint: str = PRINT, caller: Owner = ANN) -> Once:
    return Once(caller, key, fingerprint)


async def add(shop: Shop, asked: Once, quantity: int = 1, owner: Owner = ANN) -> Cart:
    return await shop.store.add(shop.bucket, owner, [LineRequest(LAMP, quantity)], asked)


# In the store.


async def test_a_second_request_of_a_key_changes_nothing(either_shop: Shop) -> None:
    await either_shop.sell(stock=10, stock_policy="hold")
    first, second = once(), once()
    cart = await add(either_shop, first, 3)
    either_shop.clock.ms += 5_000
    before = await either_shop.everything()
    assert await add(either_shop, second, 3) == cart
    assert await either_shop.everything() == before
    assert (first.is_replay, second.is_replay) == (False, True)
    assert second.at_ms == cart.updated_ms


async def test_the_first_answer_is_given_after_the_sell_out(either_shop: Shop) -> None:
    await either_shop.sell(stock=3, stock_policy="hold")
    cart = await add(either_shop, once(), 3)
    with pytest.raises(OutOfStock):
        await add(either_shop, once(caller=BOB), 1, BOB)
    assert await add(either_shop, once(), 3) == cart


async def test_a_refusal_is_an_outcome_too(either_shop: Shop) -> None:
    await either_shop.sell(stock=2)
    with pytest.raises(OutOfStock):
        await add(either_shop, once(), 3)
    await either_shop.shelf.add_stock(either_shop.bucket, LAMP, 10)
    again = once()
    error = await refused(either_shop, OutOfStock, add(either_shop, again, 3))
    assert (error.free, again.is_replay) == (2, True)
    assert (await add(either_shop, once("another"), 3)).total_quantity == 3


async def test_a_key_is_for_one_request(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop, once())
    await refused(either_shop, KeyReused, add(either_shop, once(fingerprint=OTHER_PRINT), 2))


async def test_others_may_use_the_same_key(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop, once(), 2)
    cart = await add(either_shop, once(caller=BOB), 3, BOB)
    assert (cart.owner, cart.total_quantity) == (BOB, 3)
    # A colon in an owner's id, or in a key, makes no name that is another's.
    odd = Owner("customer", "7:a")
    await add(either_shop, once("b", caller=odd), 1, odd)
    plain = Owner("customer", "7")
    assert (await add(either_shop, once("a:b", caller=plain), 4, plain)).total_quantity == 4


async def test_an_outcome_is_kept_for_as_long_as_is_set(either_shop: Shop) -> None:
    await either_shop.sell()
    either_shop.store.outcome_ttl_s = 50
    await add(either_shop, once())
    for key in either_shop.bucket.once(once()):
        assert 49_000 < await either_shop.redis.pttl(key) <= 50_000
    await either_shop.redis.delete(either_shop.bucket.once(once())[0])
    assert (await add(either_shop, once())).total_quantity == 2


async def test_keys_come_to_an_end(either_shop: Shop) -> None:
    await either_shop.sell()
    either_shop.store.max_outcomes = 2
    first = await add(either_shop, once("1"))
    await add(either_shop, once("2"))
    error = await refused(either_shop, KeysSpent, add(either_shop, once("3")))
    assert (error.max_keys, error.wait_ms > 86_000_000) == (2, True)
    assert await add(either_shop, once("1")) == first
    assert (await add(either_shop, once("3", caller=BOB), 1, BOB)).total_quantity == 1


async def test_what_decides_nothing_is_no_outcome(either_shop: Shop) -> None:
    await either_shop.sell()
    bucket, redis = either_shop.bucket, either_shop.redis
    await redis.hdel(bucket.stock, LAMP)
    await refused(either_shop, NoCounter, add(either_shop, once()))
    await redis.hset(bucket.stock, LAMP, 100)
    seq = await redis.getdel(bucket.seq)
    await refused(either_shop, NotWarm, add(either_shop, once()))
    await redis.set(bucket.seq, seq)
    assert (await add(either_shop, once())).total_quantity == 1


async def test_a_hold_that_has_run_out_is_released_first(either_shop: Shop) -> None:
    await either_shop.sell(stock=1, stock_policy="hold")
    await add(either_shop, once(caller=BOB), 1, BOB)
    either_shop.clock.ms += carts.HOLD_MS
    asked = once()
    assert (await add(either_shop, asked)).total_quantity == 1
    assert not asked.is_replay


TERMS = LineTerms(quantity=4, saved=False, price_minor=None, name=None, image_url=None)

Change = Callable[[Store, Any, Once], Awaitable[Any]]

CHANGES: dict[str, Change] = {
    "add": lambda store, b, o: store.add(b, ANN, [LineRequest(LAMP, 1), LineRequest(MUG, 2)], o),
    "set": lambda store, b, o: store.set_quantity(b, ANN, LAMP, 7, o),
    "remove": lambda store, b, o: store.remove(b, ANN, LAMP, MUG, once=o),
    "clear": lambda store, b, o: store.clear(b, ANN, cart_id=256, once=o),
    "empty": lambda store, b, o: store.empty(b, ANN, o),
    "make": lambda store, b, o: store.make(b, BOB, o),
    "add as": lambda store, b, o: store.add_as(
        b, ANN, LAMP, TERMS, authority=True, cart_id=256, once=o
    ),
    "set as": lambda store, b, o: store.set_as(
        b, ANN, item_id(256, 1), TERMS, authority=False, once=o
    ),
    "merge": lambda store, b, o: store.merge(b, GUEST, ANN, o),
    "convert": lambda store, b, o: store.close(b, ANN, "CONVERTED", once=o),
    "abandon": lambda store, b, o: store.close(b, ANN, "ABANDONED", cart_id=256, once=o),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_every_change_is_made_once(either_shop: Shop, name: str) -> None:
    await either_shop.sell(LAMP, stock=20, stock_policy="hold")
    await either_shop.sell(MUG, stock=20)
    lines = [LineRequest(LAMP, 2), LineRequest(MUG, 3)]
    assert (await either_shop.add_lines(*lines)).id == 256
    await either_shop.add_lines(*lines, owner=GUEST)
    change = CHANGES[name]
    first = await change(either_shop.store, either_shop.bucket, once())
    before = await either_shop.everything()
    again = once()
    assert await change(either_shop.store, either_shop.bucket, again) == first
    assert again.is_replay
    assert await either_shop.everything() == before
    reused = change(either_shop.store, either_shop.bucket, once(fingerprint=OTHER_PRINT))
    await refused(either_shop, KeyReused, reused)
    if not isinstance(first, Merged):
        assert await either_shop.store.outcome(either_shop.bucket, once()) == first


async def test_a_hundred_at_once_are_one(shop: Shop) -> None:
    await shop.sell(stock=1_000)
    asked = [once() for _ in range(100)]
    found = await asyncio.gather(*(add(shop, one, 3) for one in asked))
    assert {cart.version for cart in found} == {1}
    assert sum(one.is_replay for one in asked) == 99
    assert (await carts.read(shop)).total_quantity == 3


async def test_what_was_answered_is_looked_up(either_shop: Shop) -> None:
    await either_shop.sell()
    assert await either_shop.store.outcome(either_shop.bucket, once()) is None
    cart = await add(either_shop, once())
    asked = once()
    assert await either_shop.store.outcome(either_shop.bucket, asked) == cart
    assert asked.is_replay
    with pytest.raises(CartExists):
        await either_shop.store.make(either_shop.bucket, ANN, once("make"))
    with pytest.raises(CartExists):
        await either_shop.store.outcome(either_shop.bucket, once("make"))


async def test_a_large_cart_is_answered_whole(shop: Shop) -> None:
    """Another process may ask again, which has not seen the cart."""
    names = [f"p{number}" for number in range(12)]
    for name in names:
        await shop.sell(name)
    lines = [LineRequest(name, 1) for name in names]
    await shop.add_lines(*lines)
    await shop.store.read(shop.bucket, ANN)
    cart = await shop.store.add(shop.bucket, ANN, lines[:1], once())
    assert len(cart.lines) == 12
    assert await Shop(shop.runner).store.outcome(shop.bucket, once()) == cart


async def test_sold_out_is_not_remembered_for_a_request_with_a_key(shop: Shop) -> None:
    """Its first answer may have been another; and it may be asked for again."""
    shop.store = Store(shop.runner, max_lines=50, sold_out_memory_ms=1_000, clock_ms=shop.clock)
    await shop.sell(stock=1, stock_policy="hold")
    cart = await add(shop, once())
    with pytest.raises(OutOfStock):
        await shop.add_lines(LineRequest(LAMP, 1), owner=BOB)
    assert await add(shop, once()) == cart


async def lossy(shop: Shop, proxy: Proxy) -> Shop:
    """The shop, through a proxy; its next reply is lost."""
    through = Shop(Runner(scripts.connect(proxy.url, timeout_s=5), timeout_s=5))
    await through.add_lines(LineRequest(LAMP, 1), owner=BOB)
    proxy.drop_replies = True
    proxy.drop_only = b"id"
    return through


async def test_a_request_with_a_key_is_asked_again_when_its_reply_was_lost(
    shop: Shop, valkey: embedded.Valkey
) -> None:
    await shop.sell()
    async with Proxy(valkey.url) as proxy:
        through = await lossy(shop, proxy)
        proxy.most_dropped = 1
        cart = await add(through, asked := once(), 2)
        await through.runner.aclose()
    assert (cart.total_quantity, asked.is_replay) == (2, True)
    assert await carts.read(shop) == cart


async def test_one_without_a_key_is_not(shop: Shop, valkey: embedded.Valkey) -> None:
    await shop.sell()
    async with Proxy(valkey.url) as proxy:
        through = await lossy(shop, proxy)
        with pytest.raises(OutcomeUnknown):
            await through.add(2)
        await through.runner.aclose()
    assert (await carts.read(shop)).total_quantity == 2


GUARDS: list[tuple[str, str, str, Callable[[Shop], Awaitable[None]]]] = [
    (
        "lib/once.lua",
        "if not kept then",
        "if true then",
        test_a_second_request_of_a_key_changes_nothing,
    ),
    ("lib/once.lua", "~= once.fingerprint then", "== '' then", test_a_key_is_for_one_request),
    (
        "lib/once.lua",
        "if once and not UNDECIDED[reply[1]] then",
        "if once then",
        test_what_decides_nothing_is_no_outcome,
    ),
    (
        "lib/once.lua",
        "if once and not UNDECIDED[reply[1]] then",
        "if once and reply[1] == 'OK' then",
        test_a_refusal_is_an_outcome_too,
    ),
    ("lib/once.lua", ">= once.max_keys", ">= math.huge", test_keys_come_to_an_end),
]


@pytest.mark.parametrize(("file", "old", "new", "case"), GUARDS)
async def test_guards(
    shop: Shop, file: str, old: str, new: str, case: Callable[[Shop], Awaitable[None]]
) -> None:
    await turns_red(case(Shop(Mutant(shop.runner, file, old, new))))


# Over HTTP, every operation of every contract.

CHANGING = [route for route in ROUTES if route.operation.changes]
ADMIN = {"Authorization": f"Bearer {token_of('1', 'user')}"}


def request_of(route: Route, world: World) -> tuple[dict[str, Any], Owner]:
    """A request that is granted, and whose cart it changes."""
    [caller, *_] = [one for one in CALLERS if route.contract.name in one.contracts]
    asked = caller.ask(route, world.own(caller))
    if route.name == "records POST /api/carts":
        asked["json"] = {"userId": "new"}
        asked["headers"] = list(ADMIN.items())
    return asked, caller.owner


def seen(answer: httpx.Response) -> tuple[int, bytes, str | None]:
    return answer.status_code, answer.content, answer.headers.get("x-cart-notice")


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


@pytest.mark.parametrize("route", CHANGING, ids=lambda route: route.name)
async def test_every_operation_is_answered_alike(
    http: httpx.AsyncClient, world: World, route: Route
) -> None:
    asked, _ = request_of(route, world)
    asked["headers"] = [*asked["headers"], ("Idempotency-Key", KEY)]
    answers = await asyncio.gather(*(http.request(**asked) for _ in range(8)))
    answers.append(await http.request(**asked))
    assert len({seen(answer) for answer in answers}) == 1, [one.text for one in answers]
    assert answers[0].status_code == route.operation.status
    told = [answer.headers.get("idempotent-replay") for answer in answers]
    assert told.count("true") >= 1
    assert told[-1] == "true"
    before = await world.state()
    # With another body, or query, it is another request.
    other = asked | {"params": [*asked["params"], ("other", "1")]}
    answer = await http.request(**other)
    assert answer.status_code == 422, answer.text
    assert "Idempotency-Key" in answer.text
    assert "idempotent-replay" not in answer.headers
    assert await world.state() == before


@pytest.mark.parametrize("route", CHANGING, ids=lambda route: route.name)
async def test_what_is_no_key_is_told(http: httpx.AsyncClient, world: World, route: Route) -> None:
    asked, _ = request_of(route, world)
    before = await world.state()
    sent = [(name.encode(), value.encode("latin-1")) for name, value in asked["headers"]]
    for key in ("", "a" * 256, "caf\xe9", "a\tb"):
        asked["headers"] = [*sent, (b"Idempotency-Key", key.encode("latin-1"))]
        answer = await http.request(**asked)
        assert answer.status_code == 400, (key, answer.text)
        assert "Idempotency-Key" in answer.text
        assert await world.state() == before, key


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/api/cart", {}, {"product_id": LAMP, "quantity": 1}),
        ("/cart/items", {"x-tenant-id": "default"}, {"productId": LAMP, "quantity": 1}),
    ],
)
async def test_a_key_without_a_session_is_nobodys(
    http: httpx.AsyncClient, shop: Shop, path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    await shop.sell()
    before = await shop.everything()
    answer = await http.post(path, json=body, headers={**headers, "Idempotency-Key": KEY})
    assert answer.status_code == 400
    assert "Idempotency-Key header needs a session" in answer.text
    assert await shop.everything() == before
    assert (await http.post(path, json=body, headers=headers)).is_success


async def test_a_login_is_done_once_too(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=5)
    guest = {"x-tenant-id": "default", "x-session-id": "guest"}
    body = {"productId": LAMP, "quantity": 2}
    await http.post("/cart/items", json=body, headers=guest)
    both = {**guest, "Authorization": f"Bearer {token_of('bob')}", "Idempotency-Key": KEY}
    first = await http.post("/cart/items", json=body, headers=both)
    assert first.json()["merge"] == {"sessionId": "guest", "clamped": []}
    # Whatever the guest does meanwhile comes with the next request.
    await http.post("/cart/items", json=body, headers=guest)
    again = await http.post("/cart/items", json=body, headers=both)
    assert (again.status_code, again.content) == (201, first.content)
    assert [item["quantity"] for item in again.json()["cartItems"]] == [4]


async def test_an_authoritys_keys_are_its_own(http: httpx.AsyncClient, world: World) -> None:
    [bob, *_] = CALLERS
    aim = world.own(bob)
    path = f"/api/cart-items/{aim.item}"
    body = {"cartId": aim.cart, "productId": LAMP, "quantity": 5}
    own = {"Authorization": f"Bearer {bob.token}", "Idempotency-Key": KEY}
    await http.put(path, json=body, headers=own)
    other = {**ADMIN, "Idempotency-Key": KEY}
    answer = await http.put(path, json={**body, "quantity": 6}, headers=other)
    assert (answer.status_code, answer.json()["quantity"]) == (200, 6)


async def test_a_deleted_cart_that_postgresql_had_is_deleted_once(
    http: httpx.AsyncClient, world: World
) -> None:
    [eve] = [cart for cart in world.carts if cart.owner.id == "eve"]
    asked = {**ADMIN, "Idempotency-Key": KEY}
    path = f"/api/carts/{aim_at(eve).cart}"
    answers = [await http.delete(path, headers=asked) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [204] * 3
    told = [answer.headers.get("idempotent-replay") for answer in answers]
    assert told == [None, "true", "true"]
    assert (await http.delete(path, headers=ADMIN)).status_code == 404


async def test_a_cart_that_was_deleted_since_was_closed_all_the_same(
    http: httpx.AsyncClient, world: World
) -> None:
    [bob, *_] = CALLERS
    cart = world.own(bob).cart
    path, headers = f"/api/carts/{cart}/status/ABANDONED", {**ADMIN, "Idempotency-Key": KEY}
    first = await http.patch(path, headers=headers)
    assert first.status_code == 200
    assert (await http.delete(f"/api/carts/{cart}", headers=ADMIN)).status_code == 204
    again = await http.patch(path, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)


async def test_a_conversion_that_was_not_written_is_when_it_is_asked_for_again(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script had decided; only then is it acknowledged."""
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=5)
    cart = await open_shop.add(2)

    async def close(asked: Once) -> Cart:
        return await archive.close(open_shop.bucket, cart, "CONVERTED", asked)

    async def away(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as broken:
        broken.setattr(flush, "closed", away)
        with pytest.raises(LedgerAway):
            await archive.answer(open_shop.bucket, once(), close)
    assert await ledger.status("default", cart.id) is None
    found = await archive.answer(open_shop.bucket, asked := once(), close)
    assert found is not None
    assert (found.status, asked.is_replay) == ("CONVERTED", True)
    assert await ledger.status("default", cart.id) == "CONVERTED"


async def test_who_finds_it_done_by_the_same_key_is_told_so(
    open_shop: Shop, ledger: Ledger
) -> None:
    """Neither had found an outcome when they began."""
    archive = Archive(open_shop.store, Backlog(open_shop.runner), ledger, timeout_s=5)
    cart = await open_shop.add(2)

    async def close(asked: Once) -> Cart:
        found = await archive.find(open_shop.bucket, cart.id)
        return await archive.close(open_shop.bucket, found, "CONVERTED", asked)

    async def close_late(asked: Once) -> Cart:
        first = await archive.answer(open_shop.bucket, once(), close)
        assert first is not None
        assert first.status == "CONVERTED"
        return await close(asked)

    found = await archive.answer(open_shop.bucket, asked := once(), close_late)
    assert found is not None
    assert (found.status, asked.is_replay) == ("CONVERTED", True)


async def test_a_refusal_that_was_not_decided_by_a_script_takes_no_key(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    headers = {"DeviceID": "phone", "Idempotency-Key": KEY}
    assert (await http.post("/cart/items", json={}, headers=headers)).status_code == 400
    await shop.sell("7")
    body = {"product_id": 7, "quantity": 1}
    answer = await http.post("/cart/items", json=body, headers=headers)
    assert answer.status_code == 201
    assert "idempotent-replay" not in answer.headers


async def test_keys_are_kept_for_as_long_as_the_settings_say(
    valkey: embedded.Valkey, api_database_url: str, shop: Shop
) -> None:
    await shop.sell()
    settings = Settings(
        port=free_port(),
        redis_url=valkey.url,
        database_url=api_database_url,
        jwt_secret=SECRET,
        idempotency_ttl_s=7,
        idempotency_keys=1,
    )
    process = dev.start("serve", settings, os.environ)
    try:
        async with httpx.AsyncClient(base_url=dev.url(settings), verify=NO_TLS) as client:
            body = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}
            for key, status in ((KEY, 200), (KEY, 200), ("another", 429)):
                answer = await client.post("/api/cart", json=body, headers={"Idempotency-Key": key})
                assert answer.status_code == status
    finally:
        embedded.stop(process)
    assert json.loads(answer.text)["error"]["code"] == "too_many_idempotency_keys"
    assert 1 <= int(answer.headers["retry-after"]) <= 7
    assert 0 < await shop.redis.pttl(shop.bucket.once(once())[0]) <= 7_000
