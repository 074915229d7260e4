"""New guests: an address begins only so many carts a second, and nobody else notices."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from cartsvc import embedded
from cartsvc.errors import OutOfStock, TooManyGuests
from cartsvc.guests import Client
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, Once, Owner
from cartsvc.settings import Settings
from tests.carts import BOB, refused
from tests.front import ADDRESS, front_of
from tests.mutants import turns_red
from tests.serving import serving
from tests.shop import ANN, LAMP, Mutant, Shop
from tests.test_authorization import Route, World, bearer, token_of
from tests.test_idempotency import ADMIN, CHANGING, request_of
from tests.wait import wait_until

MOST = 2
HERE: Client = (ADDRESS, 1)
CUSTOMER = Owner("customer", "ann")


async def add(
    shop: Shop,
    owner: Owner = ANN,
    client: Client = HERE,
    once: Once | None = None,
    quantity: int = 1,
) -> Cart:
    shop.store.guests.carts_per_s = MOST
    return await shop.store.add(shop.bucket, owner, [LineRequest(LAMP, quantity)], once, client)


async def crowd(shop: Shop, address: str = ADDRESS) -> None:
    """As many as may have begun a cart from there, in a second that does not end."""
    await shop.redis.sadd(shop.bucket.guests(address), *(f"device:{one}" for one in range(MOST)))


async def leave(shop: Shop) -> None:
    await shop.redis.delete(shop.bucket.guests(ADDRESS))


async def test_one_too_many_is_refused(either_shop: Shop) -> None:
    await either_shop.sell()
    key = either_shop.bucket.guests(ADDRESS)
    for name in ("one", "two"):
        await add(either_shop, Owner("session", name))
        await either_shop.redis.persist(key)
    assert await either_shop.redis.smembers(key) == {b"session:one", b"session:two"}
    for kind in ("session", "device"):
        error = await refused(either_shop, TooManyGuests, add(either_shop, Owner(kind, "three")))
        assert error.most == MOST


async def test_a_guest_is_counted_once(either_shop: Shop) -> None:
    await either_shop.sell(stock=0)
    key = either_shop.bucket.guests(ADDRESS)
    for guest in [Owner("session", "one"), *[ANN] * MOST]:
        with pytest.raises(OutOfStock):
            await add(either_shop, guest)
        await either_shop.redis.persist(key)
    assert await either_shop.redis.scard(key) == MOST


async def test_who_has_a_cart_is_not_counted(either_shop: Shop) -> None:
    await either_shop.sell()
    await add(either_shop)
    await leave(either_shop)
    await add(either_shop)
    assert not await either_shop.redis.exists(either_shop.bucket.guests(ADDRESS))
    await crowd(either_shop)
    assert (await add(either_shop)).total_quantity == 3


async def test_nor_who_has_a_cold_one(either_shop: Shop) -> None:
    await either_shop.redis.hset(either_shop.bucket.cold, "session:ann", 256)
    await crowd(either_shop)
    either_shop.store.guests.carts_per_s = MOST
    await either_shop.store.guests.admit(either_shop.bucket, ANN, HERE, None)
    with pytest.raises(TooManyGuests):
        await either_shop.store.guests.admit(either_shop.bucket, BOB, HERE, None)


async def test_nor_a_customer(either_shop: Shop) -> None:
    await either_shop.sell()
    await crowd(either_shop)
    assert (await add(either_shop, CUSTOMER)).total_quantity == 1


async def test_another_address_is_another(either_shop: Shop) -> None:
    await either_shop.sell()
    await crowd(either_shop)
    assert (await add(either_shop, client=("192.0.2.8", 1))).total_quantity == 1


async def test_a_second_ends(either_shop: Shop) -> None:
    await either_shop.sell()
    key = either_shop.bucket.guests(ADDRESS)
    await add(either_shop, Owner("session", "one"))
    assert 0 < await either_shop.redis.pttl(key) <= 1_000
    # It is the first guest's: others do not prolong it.
    await either_shop.redis.pexpire(key, 500)
    await add(either_shop, Owner("session", "two"))
    assert await either_shop.redis.pttl(key) <= 500
    await wait_until(lambda: either_shop.redis.exists(key), 0)
    await add(either_shop, Owner("session", "three"))


async def test_what_was_answered_before_is_answered_again(either_shop: Shop) -> None:
    await either_shop.sell(stock=1)
    with pytest.raises(OutOfStock):
        await add(either_shop, once=Once(ANN, "key", "ab"), quantity=2)
    await leave(either_shop)
    await crowd(either_shop)
    asked = Once(ANN, "key", "ab")
    with pytest.raises(OutOfStock):
        await add(either_shop, once=asked, quantity=2)
    assert asked.is_replay


async def test_such_a_refusal_is_no_answer_that_is_kept(either_shop: Shop) -> None:
    await either_shop.sell()
    await crowd(either_shop)
    await refused(either_shop, TooManyGuests, add(either_shop, once=Once(ANN, "key", "ab")))
    await leave(either_shop)
    assert (await add(either_shop, once=Once(ANN, "key", "ab"))).total_quantity == 1


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("2001:db8::1", "2001:DB8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("nobody", "_hidden", True),
    ],
)
async def test_what_counts_as_one_address(shop: Shop, one: str, other: str, is_same: bool) -> None:
    await shop.sell()
    shop.store.guests.carts_per_s = 1
    await shop.store.guests.admit(shop.bucket, ANN, (one, 1), None)
    [key] = await shop.redis.keys("guests:*")
    await shop.redis.persist(key)
    admitted = shop.store.guests.admit(shop.bucket, BOB, (other, 2), None)
    if is_same:
        await refused(shop, TooManyGuests, admitted)
    else:
        await admitted


async def test_it_is_off_unless_set(either_shop: Shop) -> None:
    await either_shop.sell()
    lines = [LineRequest(LAMP, 1)]
    for number in range(20):
        guest = Owner("session", f"s{number}")
        await either_shop.store.add(either_shop.bucket, guest, lines, None, HERE)
    assert Settings().guest_carts_per_s == 0
    assert not await either_shop.redis.exists(either_shop.bucket.guests(ADDRESS))


GUARDS: list[tuple[str, str, Callable[[Shop], Awaitable[None]]]] = [
    ("if count >= most then", "if count > most then", test_one_too_many_is_refused),
    (" or redis.call('SISMEMBER', begun, guest) == 1", "", test_a_guest_is_counted_once),
    ("if redis.call('EXISTS', key) == 1 then", "if false then", test_who_has_a_cart_is_not_counted),
    ("for i = 3, #KEYS do", "for i = 3, 3 do", test_what_was_answered_before_is_answered_again),
    ("redis.call('HEXISTS', cold, guest) == 1 or", "", test_nor_who_has_a_cold_one),
    ("redis.call('PEXPIRE', begun, SECOND_MS)", "", test_a_second_ends),
    ("if count == 0 then", "if true then", test_a_second_ends),
]


@pytest.mark.parametrize(("old", "new", "case"), GUARDS)
async def test_guards(
    shop: Shop, old: str, new: str, case: Callable[[Shop], Awaitable[None]]
) -> None:
    runner = Mutant(shop.runner, "guest_begin.lua", old, new)
    await turns_red(case(Shop(runner)))


# Over HTTP.


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


@pytest.fixture
async def front(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of all contracts, from an address that has begun as many carts as it may."""
    world.shop.store.guests.carts_per_s = MOST
    await crowd(world.shop)
    async with front_of(world.shop, world.ledger) as client:
        yield client


TENANT = {"x-tenant-id": "default"}
BEGINNING: list[tuple[str, dict[str, str], dict[str, Any], set[str]]] = [
    (
        "/api/cart",
        {},
        {"product_id": LAMP, "quantity": 1},
        {"success", "message", "error"},
    ),
    (
        "/api/cart",
        {},
        {"product_id": LAMP, "quantity": 1, "session_id": "new"},
        {"success", "message", "error"},
    ),
    ("/cart/items", TENANT, {"productId": LAMP, "quantity": 1}, {"statusCode", "message", "error"}),
    ("/cart/items", {"DeviceID": "new"}, {"product_id": "202", "quantity": 1}, {"error"}),
    (
        "/api/carts",
        ADMIN,
        {"sessionId": "new"},
        {"timestamp", "status", "error", "message", "path"},
    ),
]


@pytest.mark.parametrize(("path", "headers", "body", "shape"), BEGINNING)
async def test_each_contract_says_429(
    front: httpx.AsyncClient,
    world: World,
    path: str,
    headers: dict[str, str],
    body: dict[str, Any],
    shape: set[str],
) -> None:
    before = await world.state()
    answer = await front.post(path, json=body, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert "At most 2 new carts a second from one address" in answer.text
    assert set(answer.json()) == shape
    assert await world.state() == before
    await leave(world.shop)
    assert (await front.post(path, json=body, headers=headers)).is_success


@pytest.mark.parametrize("route", CHANGING, ids=lambda route: route.name)
async def test_who_has_a_cart_or_a_token_goes_on(
    front: httpx.AsyncClient, world: World, route: Route
) -> None:
    asked, _ = request_of(route, world)
    assert (await front.request(**asked)).status_code == route.operation.status


async def test_a_new_customer_goes_on(front: httpx.AsyncClient) -> None:
    headers = [*TENANT.items(), *bearer(token_of("new"))]
    body = {"productId": LAMP, "quantity": 1}
    assert (await front.post("/cart/items", json=body, headers=headers)).status_code == 201
    body = {"product": 202, "quantity": 1}
    headers = bearer(token_of("newer"))
    answer = await front.post("/api/customer/cart/add", json=body, headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("proxies", "crowded", "forwarded", "status"),
    [
        # Nobody is trusted, or somebody else.
        ("", "127.0.0.1", "192.0.2.8", 429),
        ("", ADDRESS, ADDRESS, 200),
        ("10.0.0.1", "127.0.0.1", "192.0.2.8", 429),
        # What the trusted one added last counts, and not what its client wrote.
        ("10.0.0.0/8,127.0.0.1", "127.0.0.1", "192.0.2.8", 200),
        ("10.0.0.0/8,127.0.0.1", ADDRESS, f"192.0.2.8, {ADDRESS}, 10.0.0.1", 429),
        ("127.0.0.1", "127.0.0.1", None, 429),
    ],
)
async def test_an_address_is_the_peers_or_what_a_trusted_proxy_says(
    shop: Shop,
    valkey: embedded.Valkey,
    proxies: str,
    crowded: str,
    forwarded: str | None,
    status: int,
) -> None:
    await shop.sell()
    await crowd(shop, crowded)
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    settings = Settings(redis_url=valkey.url, guest_carts_per_s=MOST, trusted_proxies=proxies)
    async with serving(settings) as client:
        body = {"product_id": LAMP, "quantity": 1}
        answer = await client.post("/api/cart", json=body, headers=headers)
    assert answer.status_code == status
