"""Contract 004, records: lists and their pages, carts that have left Redis, price history."""

import random
from typing import Any

import httpx
import pytest

from cartsvc import upkeep
from cartsvc.contracts.records import STATUSES
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, LineTerms, Owner
from tests import examples
from tests.callers import bearer
from tests.records import (
    ADMIN,
    ANN,
    BOB,
    CARTS,
    FIRST_CART,
    FIRST_ITEM,
    ITEMS,
    SERVICE,
    cart_of,
    documented,
    failure,
    item_body,
    make,
    put_in,
    refused,
    sell,
    set_status,
    timeless,
)
from tests.shop import Shop

CART, ITEM = f"{CARTS}/{FIRST_CART}", f"{ITEMS}/{FIRST_ITEM}"
OF_CART = f"{ITEMS}/cart/{FIRST_CART}"
PRICES = f"/api/price-history/cart-item/{FIRST_ITEM}"
ACTIVE = f"{CARTS}/user/103/active"
OWNER = Owner("customer", "103")


async def listed(
    http: httpx.AsyncClient, path: str, who: dict[str, str] = ADMIN, **params: int
) -> Any:
    found = await http.get(path, headers=who, params=params)
    assert found.status_code == 200
    return found.json()


async def test_an_admin_sees_all_and_a_customer_its_own(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await cart_of(http, (205, 1), (206, 2))
    await set_status(http, FIRST_CART, "CONVERTED")
    await cart_of(http, (205, 3))
    await cart_of(http, (206, 4), who=BOB)
    guest = await make(http, ADMIN, sessionId="103")
    await put_in(http, guest, who=ADMIN)
    carts = [(await http.get(f"{CARTS}/{256 * n}", headers=ADMIN)).json() for n in (1, 2, 3, 4)]
    items = [item for cart in carts for item in cart["cartItems"]]
    assert [len(cart["cartItems"]) for cart in carts] == [2, 1, 1, 1]
    for who, mine in (
        (ADMIN, {256, 512, 768, 1024}),
        (SERVICE, {256, 512, 768, 1024}),
        (ANN, {256, 512}),
        (BOB, {768}),
        (bearer("105"), set()),
    ):
        assert await listed(http, CARTS, who) == [one for one in carts if one["id"] in mine]
        assert await listed(http, ITEMS, who) == [one for one in items if one["cartId"] in mine]


async def change_at_random(http: httpx.AsyncClient, chance: random.Random, user: int) -> int:
    """A change to the active cart of a user, who has one afterwards or not; its id."""
    who = bearer(str(user))
    found = await http.get(f"{CARTS}/user/{user}/active", headers=who)
    if found.status_code == 404:
        return await make(http, who)
    cart = found.json()
    number: int = cart["id"]
    body = item_body(number, chance.choice([205, 206]), chance.randint(1, 3))
    method, path = "POST", ITEMS
    if cart["cartItems"] and chance.random() < 0.6:
        item = chance.choice(cart["cartItems"])
        body["productId"] = item["productId"]
        method, path = chance.choice(
            [
                ("PUT", f"{ITEMS}/{item['id']}"),
                ("DELETE", f"{ITEMS}/{item['id']}"),
                ("DELETE", f"{ITEMS}/cart/{number}"),
                ("DELETE", f"{CARTS}/{number}"),
                *(("PATCH", f"{CARTS}/{number}/status/{status}") for status in STATUSES[1:]),
            ]
        )
    changed = await http.request(method, path, json=body, headers=who)
    assert changed.status_code in (200, 201, 204)
    return number


async def test_a_change_is_listed_when_it_is_answered(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=1_000)
    chance = random.Random(4)
    known: dict[int, Any] = {}
    for _ in range(100):
        user = chance.choice([101, 102, 103])
        cart = await change_at_random(http, chance, user)
        found = await http.get(f"{CARTS}/{cart}", headers=ADMIN)
        known.pop(cart, None)
        if found.status_code == 200:
            known[cart] = found.json()
        carts = [known[number] for number in sorted(known)]
        mine = [one for one in carts if one["userId"] == user]
        # The customer's first: it writes no more than it has to.
        assert await listed(http, CARTS, bearer(str(user))) == mine
        assert await listed(http, CARTS) == carts
        assert await listed(http, ITEMS) == [item for one in carts for item in one["cartItems"]]
    assert {cart["status"] for cart in known.values()} == set(STATUSES)


@pytest.fixture
async def many(http: httpx.AsyncClient, shop: Shop) -> None:
    """250 carts, of which 200 have two items and the others one; the first 50 are one owner's."""
    await sell(shop, stock=1_000)
    for number in range(250):
        owner = OWNER if number < 50 else Owner("session", f"s{number}")
        lines = [LineRequest("205", 1), LineRequest("206", 1)][: 1 if number % 5 == 4 else 2]
        cart = await shop.store.add(shop.bucket, owner, lines)
        if number < 49:
            await set_status(http, cart.id, "REMOVED")


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("path", "who", "size", "total", "pages"),
    [
        (CARTS, ADMIN, None, 250, 2),
        (CARTS, ADMIN, 125, 250, 2),
        (CARTS, ADMIN, 83, 250, 4),
        (ITEMS, ADMIN, None, 450, 3),
        (ITEMS, ADMIN, 31, 450, 15),
        (ITEMS, ADMIN, 150, 450, 3),
        (CARTS, ANN, None, 50, 1),
        (CARTS, ANN, 7, 50, 8),
        (ITEMS, ANN, 45, 90, 2),
        (ITEMS, BOB, 45, 0, 0),
    ],
)
async def test_pages_have_no_gaps_and_no_doubles(
    http: httpx.AsyncClient, path: str, who: Any, size: int | None, total: int, pages: int
) -> None:
    seen = []
    params = {} if size is None else {"size": size}
    for page in range(pages + 1):
        found = await http.get(path, headers=who, params={**params, "page": page})
        totals = [found.headers[f"x-total-{what}"] for what in ("count", "pages")]
        assert (found.status_code, totals) == (200, [str(total), str(pages)])
        rest = total - page * (size or 200)
        assert len(found.json()) == max(0, min(rest, size or 200))
        seen += [one["id"] for one in found.json()]
    assert seen == sorted(set(seen))
    assert len(seen) == total
    first = await http.get(path, headers=who, params=params)
    assert [one["id"] for one in first.json()] == seen[: size or 200]


@pytest.mark.usefixtures("many")
async def test_a_page_far_behind_the_last_is_empty(http: httpx.AsyncClient) -> None:
    for path in (CARTS, ITEMS):
        assert await listed(http, path, page=2**53 - 1) == []
        assert len(await listed(http, path, size=1)) == 1


PAGE = {"page": "Page must be a whole number from 0"}
SIZE = {"size": "Size must be a whole number from 1 to 200"}


@pytest.mark.parametrize("path", [CARTS, ITEMS])
@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("page=-1", PAGE),
        ("page=x", PAGE),
        ("page=1.0", PAGE),
        ("page=01", PAGE),
        (f"page={2**53}", PAGE),
        ("size=0", SIZE),
        ("size=-1", SIZE),
        ("size=201", SIZE),
        ("size=ten", SIZE),
        ("page=x&size=0", {**PAGE, **SIZE}),
        ("page=0&page=1", {"page": "page must be given once"}),
    ],
)
async def test_pages_that_can_not_be(
    http: httpx.AsyncClient, shop: Shop, path: str, query: str, errors: Any
) -> None:
    told = failure(400, "Validation failed", path, errors)
    await refused(shop, http.get(f"{path}?{query}", headers=ANN), told)
    if errors == SIZE:
        assert told == documented(f"GET {path}", 400)


async def test_closed_carts_read_the_same_from_postgres(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop, stock_policy="hold")
    await shop.sell("207", variants=[("s", None)])
    for status in ("CONVERTED", "ABANDONED", "REMOVED"):
        found = await shop.store.add(shop.bucket, OWNER, [LineRequest("207", 2, "s")])
        path = f"{CARTS}/{found.id}"
        await put_in(http, found.id, 205, 1)
        await put_in(http, found.id, 206, 2, ADMIN, priceAtAddition=1.5, productName="Sechs")
        if status != "CONVERTED":  # what is saved is no part of an order
            await put_in(http, found.id, 206, 1, savedForLater=True)
        answered = await set_status(http, found.id, status)
        place = await shop.redis.hget(shop.bucket.carts, str(found.id))
        assert (answered.status_code, place) == (200, None)
        everything = await shop.everything()
        read = await http.get(path, headers=ANN)
        assert (read.status_code, read.content) == (200, answered.content)
        cart = read.json()
        assert cart["status"] == status
        assert len(cart["cartItems"]) == 3
        assert await listed(http, f"{ITEMS}/cart/{found.id}", ANN) == cart["cartItems"]
        for item in cart["cartItems"]:
            assert await listed(http, f"{ITEMS}/{item['id']}", ANN) == item
        assert await shop.everything() == everything


async def forget(shop: Shop, owner: Owner) -> None:
    """Redis loses an active cart that PostgreSQL has."""
    key = shop.bucket.cart(owner)
    cart = await shop.store.peek(shop.bucket, owner)
    assert await shop.redis.zscore(shop.bucket.dirty, key) is None
    await shop.redis.delete(key)
    await shop.redis.hdel(shop.bucket.carts, str(cart.id))
    await shop.redis.zrem(shop.bucket.holders, *(f"{line.sku} {key}" for line in cart.lines))


@pytest.fixture
async def cold(http: httpx.AsyncClient, shop: Shop) -> bytes:
    """An active cart that only PostgreSQL has, as it was answered before."""
    await sell(shop)
    await cart_of(http, (205, 2), (206, 3))
    await put_in(http, product=206, savedForLater=True)
    terms = LineTerms(2, saved=False, price_minor=150, name="Fünf", image_url="https://a.b/5")
    await shop.store.set_as(shop.bucket, OWNER, FIRST_ITEM, terms, authority=True)
    before = await http.get(CART, headers=ANN)
    await listed(http, CARTS)
    await forget(shop, OWNER)
    return before.content


async def test_an_active_cart_reads_the_same_from_postgres(
    http: httpx.AsyncClient, shop: Shop, cold: bytes
) -> None:
    everything = await shop.everything()
    for path in (CART, ACTIVE):
        for who in (ANN, ADMIN):
            read = await http.get(path, headers=who)
            assert (read.status_code, read.content) == (200, cold)
    cart = (await http.get(CART, headers=ANN)).json()
    assert await listed(http, CARTS, ANN) == [cart]
    assert await listed(http, OF_CART, ANN) == await listed(http, ITEMS, ANN) == cart["cartItems"]
    assert await listed(http, ITEM, ANN) == cart["cartItems"][0]
    # To read it does not bring it back.
    assert await shop.everything() == everything
    told = documented("POST /api/carts", 409, message=f"The owner's active cart is {FIRST_CART}")
    await refused(shop, http.post(CARTS, json={}, headers=ANN), told)


CHANGES: list[tuple[str, str, Any, int, list[tuple[int, int, bool]]]] = [
    ("POST", ITEMS, item_body(), 201, [(205, 3, False), (206, 4, True)]),
    ("PUT", ITEM, item_body(quantity=5), 200, [(205, 5, False), (206, 4, True)]),
    ("DELETE", ITEM, None, 204, [(206, 4, True)]),
    ("DELETE", OF_CART, None, 204, []),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "left"), CHANGES)
async def test_an_active_cart_comes_back_when_it_is_changed(
    http: httpx.AsyncClient,
    shop: Shop,
    api_ledger: Ledger,
    cold: bytes,
    method: str,
    path: str,
    body: Any,
    status: int,
    left: list[tuple[int, int, bool]],
) -> None:
    version = await api_ledger.pool.fetchval("SELECT version FROM carts")
    changed = await http.request(method, path, json=body, headers=ANN)
    assert changed.status_code == status
    cart = await listed(http, CART, ANN)
    found = [(one["productId"], one["quantity"], one["savedForLater"]) for one in cart["cartItems"]]
    assert found == left
    if changed.content:
        assert cart["cartItems"][0] == changed.json()
        # What was fixed about it before, still is.
        assert changed.json()["productName"] == "Fünf"
        assert changed.json()["priceAtAddition"] == 1.5
    assert await listed(http, ACTIVE, ANN) == cart
    assert await listed(http, CARTS, ANN) == [cart]
    assert (await shop.store.peek(shop.bucket, OWNER)).version == version + 1
    assert await api_ledger.pool.fetchval("SELECT version FROM carts") == version + 1
    customer = (await http.get("/api/customer/cart", headers=ANN)).json()["data"]
    headers = {**ANN, "x-tenant-id": "default"}
    tenant = (await http.get("/cart", headers=headers)).json()
    in_order = [(product, quantity) for product, quantity, saved in left if not saved]
    assert [(one["product_id"], one["quantity"]) for one in customer["items"]] == in_order
    shown = [(int(one["productId"]), one["quantity"]) for one in tenant["cartItems"]]
    assert shown == in_order
    assert (customer["cart_id"], tenant["id"]) == (FIRST_CART, str(FIRST_CART))


@pytest.mark.parametrize("status", ["ACTIVE", "CONVERTED", "ABANDONED", "REMOVED"])
async def test_an_active_cart_that_only_postgres_has_gets_a_status(
    http: httpx.AsyncClient, shop: Shop, cold: bytes, status: str
) -> None:
    before = timeless((await http.get(CART, headers=ANN)).json())
    if status == "CONVERTED":
        before["cartItems"].pop()  # saved for later
    answered = await set_status(http, FIRST_CART, status)
    assert (answered.status_code, timeless(answered.json())) == (200, {**before, "status": status})
    read = await http.get(CART, headers=ANN)
    assert read.content == answered.content
    level = await shop.shelf.stock(shop.bucket, "205")
    assert level
    assert level.sold == (2 if status == "CONVERTED" else 0)


async def test_an_active_cart_that_only_postgres_has_is_deleted(
    http: httpx.AsyncClient, shop: Shop, cold: bytes
) -> None:
    assert (await http.delete(CART, headers=ANN)).status_code == 204
    assert (await http.get(CART, headers=ANN)).status_code == 404
    assert await listed(http, CARTS) == []


async def test_a_guests_cart_comes_back_too(http: httpx.AsyncClient, shop: Shop) -> None:
    product = "507f1f77bcf86cd799439011"
    await shop.sell(product)
    cart = await make(http, ADMIN, sessionId="guest")
    item = (await http.post(ITEMS, json=item_body(cart, product), headers=ADMIN)).json()
    await listed(http, CARTS)
    await forget(shop, Owner("session", "guest"))
    path = f"{ITEMS}/{item['id']}"
    changed = await http.put(path, json=item_body(cart, product, 4), headers=ADMIN)
    assert (changed.status_code, changed.json()["quantity"]) == (200, 4)
    session = await http.get("/api/cart", params={"session_id": "guest"})
    headers = {"x-tenant-id": "default", "x-session-id": "guest"}
    tenant = await http.get("/cart", headers=headers)
    assert session.json()["data"]["cart"]["total_items"] == 4
    assert [one["quantity"] for one in tenant.json()["cartItems"]] == [4]
    found = await listed(http, f"{CARTS}/session/guest/active")
    assert found["cartItems"] == [changed.json()]


async def test_a_cart_that_comes_back_has_the_prices_of_today(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await cart_of(http, (205, 2), (206, 3))
    await listed(http, CARTS)
    await forget(shop, OWNER)
    await shop.sell("206", name="Product 6", price="11.00")
    assert (await listed(http, CART))["subtotal"] == 79.98
    changed = await http.put(ITEM, json=item_body(quantity=1), headers=ANN)
    assert changed.json()["totalPrice"] == 24.99
    cart = await listed(http, CART)
    assert cart["subtotal"] == 57.99
    assert await listed(http, CARTS) == [cart]
    [event] = await listed(http, f"/api/price-history/cart-item/{FIRST_ITEM + 1}", ANN)
    assert (event["oldPrice"], event["newPrice"]) == (10, 11)


async def test_a_cart_is_not_put_back_over_another(
    http: httpx.AsyncClient, shop: Shop, cold: bytes
) -> None:
    # The shop's scripts know of Redis alone.
    begun = await shop.store.add(shop.bucket, OWNER, [LineRequest("205", 1)])
    message = f"The owner's active cart is {begun.id}"
    for method, path, body in (
        ("PUT", ITEM, item_body()),
        ("DELETE", OF_CART, None),
        ("PATCH", f"{CART}/status/CONVERTED", None),
    ):
        told = failure(409, message, path)
        await refused(shop, http.request(method, path, json=body, headers=ANN), told)
    assert (await http.get(CART, headers=ANN)).content == cold
    assert (await listed(http, ACTIVE, ANN))["id"] == begun.id


async def new_price(shop: Shop, price: str) -> None:
    """The catalogue's price changes, and the worker takes it to the carts."""
    await shop.sell("205", name="Product 5", price=price)
    while await upkeep.reprice(shop.store, shop.bucket):
        pass


def without_ids(events: Any) -> Any:
    return [{name: value for name, value in one.items() if name != "id"} for one in events]


async def test_price_history(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, price="15.99")
    await cart_of(http, (205, 1), (206, 1))
    assert await listed(http, PRICES, ANN) == []
    await new_price(shop, "17.99")
    await http.put(ITEM, json=item_body(priceAtAddition=19.99), headers=ADMIN)
    found = await http.get(PRICES, headers=ANN)
    assert b'"oldPrice":17.99,"newPrice":19.99,' in found.content
    events = timeless(found.json())
    expected = examples.answer("records", "GET /api/price-history/cart-item/{item_id}", 200)
    expected = [{**one, "cartItemId": FIRST_ITEM} for one in timeless(expected)]
    assert without_ids(events) == without_ids(expected)
    ids = [one["id"] for one in events]
    assert all(isinstance(one, int) for one in ids)
    assert len(set(ids)) == 2
    # Read again, nothing is there twice; and another item has none.
    assert (await http.get(PRICES, headers=ADMIN)).content == found.content
    other = f"/api/price-history/cart-item/{FIRST_ITEM + 1}"
    assert await listed(http, other, ANN) == []


async def test_price_history_is_complete_at_once(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await cart_of(http, (205, 1))
    await new_price(shop, "1.00")
    for cents in range(101, 350):
        await new_price(shop, f"{cents / 100:.2f}")
    changes = [(one["oldPrice"], one["newPrice"]) for one in await listed(http, PRICES, ANN)]
    expected = [(cents / 100 - 0.01, cents / 100) for cents in range(349, 100, -1)]
    assert changes[-1] == (24.99, 1)
    assert changes[:-1] == [(pytest.approx(old), new) for old, new in expected]


async def test_price_history_outlives_the_cart_but_not_the_item(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await sell(shop)
    await cart_of(http, (205, 1), (206, 1))
    await new_price(shop, "20.00")
    before = await listed(http, PRICES, ANN)
    assert len(before) == 1
    assert (await http.delete(f"{ITEMS}/{FIRST_ITEM + 1}", headers=ANN)).status_code == 204
    await set_status(http, FIRST_CART, "CONVERTED")
    assert await listed(http, PRICES, ANN) == before
    # Added again, it is another item.
    await cart_of(http, (205, 1))
    second = 2 * FIRST_CART << 12 | 1
    await http.delete(f"{ITEMS}/{second}", headers=ANN)
    path = f"/api/price-history/cart-item/{second}"
    told = failure(404, f"Cart item with ID {second} not found", path)
    await refused(shop, http.get(path, headers=ANN), told)
    item = await put_in(http, 2 * FIRST_CART)
    assert item == second + 1
    assert await listed(http, f"/api/price-history/cart-item/{item}", ANN) == []
