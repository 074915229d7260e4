"""Contract 004, records: carts that are converted, given up and deleted."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from cartsvc import dev, embedded, replay
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.embedded import free_port
from cartsvc.errors import CartClosed, CartExists, NoCart, NoLine
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, ClosedStatus, LineRequest, Owner
from cartsvc.replay import Replayed
from cartsvc.settings import Settings
from cartsvc.worker import Pass, Worker
from tests import examples
from tests.callers import NO_TLS
from tests.carts import books
from tests.records import (
    ADMIN,
    ANN,
    BOB,
    CARTS,
    FIRST_CART,
    FIRST_ITEM,
    ITEMS,
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
from tests.shop import SECRET, Shop
from tests.wait import wait_until

CART, ITEM = f"{CARTS}/{FIRST_CART}", f"{ITEMS}/{FIRST_ITEM}"
OF_CART = f"{ITEMS}/cart/{FIRST_CART}"
PATCH = "PATCH /api/carts/{cart_id}/status/{status}"
OWNER = Owner("customer", "103")
CLOSED = ["CONVERTED", "ABANDONED", "REMOVED"]
AWAY = "Cart service is not available now, please try again"


def path_of(status: str) -> str:
    return f"{CART}/status/{status}"


async def rows(ledger: Ledger) -> list[Any]:
    """What PostgreSQL has of carts and items."""
    carts = await ledger.pool.fetch("SELECT * FROM carts ORDER BY id")
    items = await ledger.pool.fetch("SELECT * FROM cart_items ORDER BY cart_id, id")
    return [dict(row) for row in (*carts, *items)]


async def recorded(ledger: Ledger) -> dict[int, str]:
    """The status that PostgreSQL has of each cart."""
    found = await ledger.pool.fetch("SELECT id, status FROM carts")
    return {row["id"]: row["status"] for row in found}


async def refused_everywhere(shop: Shop, ledger: Ledger, call: Any, body: Any) -> httpx.Response:
    """As `refused`, and nothing is changed in PostgreSQL either."""
    before = await rows(ledger)
    response = await refused(shop, call, body)
    assert await rows(ledger) == before
    return response


@pytest.mark.parametrize("policy", ["check", "hold"])
async def test_a_converted_cart_has_its_units(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, policy: str
) -> None:
    await sell(shop, stock=10, stock_policy=policy)
    await cart_of(http, (205, 2), (206, 3))
    before = timeless((await http.get(CART, headers=ANN)).json())
    done = await set_status(http, FIRST_CART, "CONVERTED")
    # With the answer, it is in PostgreSQL.
    assert await recorded(api_ledger) == {FIRST_CART: "CONVERTED"}
    found = {name: before[name] for name in ("id", "cartItems", "totalItems", "subtotal")}
    assert (done.status_code, timeless(done.json())) == (200, documented(PATCH, 200, **found))
    assert found["subtotal"] == 79.98
    assert [await books(shop, sku) for sku in ("205", "206")] == [(8, 0, 2), (7, 0, 3)]
    # The owner has a new one with the next add, in whichever contract.
    assert (await http.get(f"{CARTS}/user/103/active", headers=ANN)).status_code == 404
    path = "/api/customer/cart/add"
    added = await http.post(path, json={"product": 205, "quantity": 1}, headers=ANN)
    assert added.json()["data"]["cart_id"] == 2 * FIRST_CART
    assert timeless((await http.get(CART, headers=ANN)).json()) == timeless(done.json())


async def test_all_of_a_cart_is_converted_or_none(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger
) -> None:
    await sell(shop, stock=5)
    await shop.sell("207", stock=9)
    await cart_of(http, (205, 5), (207, 9), (206, 2))
    await cart_of(http, (205, 1), (206, 4), who=BOB)
    assert (await set_status(http, 2 * FIRST_CART, "CONVERTED", BOB)).status_code == 200
    message = "Insufficient stock: 205: 5 wanted, 4 available; 206: 2 wanted, 1 available"
    short = {"205": "5 wanted, 4 available", "206": "2 wanted, 1 available"}
    told = failure(409, message, path_of("CONVERTED"), short)
    call = set_status(http, FIRST_CART, "CONVERTED")
    await refused_everywhere(shop, api_ledger, call, told)
    assert await books(shop, "207") == (9, 0, 0)
    await http.put(ITEM, json=item_body(quantity=4), headers=ANN)
    await http.put(f"{ITEMS}/{FIRST_ITEM + 2}", json=item_body(product=206), headers=ANN)
    assert (await set_status(http, FIRST_CART, "CONVERTED")).status_code == 200
    found = [await books(shop, sku) for sku in ("205", "206", "207")]
    assert found == [(0, 0, 5), (0, 0, 5), (0, 0, 9)]


async def test_an_empty_cart_is_converted(http: httpx.AsyncClient, shop: Shop) -> None:
    """As in the document's own example."""
    await sell(shop)
    await make(http)
    # What is saved for later is no part of the order, and stays.
    await put_in(http, savedForLater=True)
    answer = await set_status(http, FIRST_CART, "CONVERTED")
    example = examples.answer("records", PATCH, 200)
    same = ("sessionId", "status", "cartItems", "totalItems", "subtotal")
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in same} == {name: example[name] for name in same}
    [item] = (await http.get(f"/api/cart-items/cart/{FIRST_CART + 256}", headers=ADMIN)).json()
    assert (item["productId"], item["savedForLater"]) == (205, True)


async def test_what_is_no_longer_sold_is_not_converted(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await cart_of(http, (205, 1))
    await sell(shop, active=False)
    told = failure(400, "Product is not available", path_of("CONVERTED"))
    await refused(shop, set_status(http, FIRST_CART, "CONVERTED"), told)


async def test_saved_items_stay_with_their_owner(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await cart_of(http, (205, 1))
    await put_in(http, product=206, quantity=7, savedForLater=True)
    done = (await set_status(http, FIRST_CART, "CONVERTED")).json()
    assert [one["productId"] for one in done["cartItems"]] == [205]
    rest = (await http.get(f"{CARTS}/user/103/active", headers=ANN)).json()
    [saved] = rest["cartItems"]
    assert (rest["id"], rest["totalItems"]) == (2 * FIRST_CART, 0)
    assert (saved["productId"], saved["quantity"], saved["savedForLater"]) == (206, 7, True)


async def test_what_has_left_the_cart_is_told_first(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=5, stock_policy="hold", hold_ttl_s=1)
    # By the test's clock, which stands long before the service's.
    await shop.sell("207")
    lines = [LineRequest("205", 2), LineRequest("207", 1)]
    await shop.store.add(shop.bucket, OWNER, lines)
    told = await set_status(http, FIRST_CART, "CONVERTED")
    message = "Lines have left the cart, please look at it again"
    assert told.status_code == 409
    assert timeless(told.json()) == failure(409, message, path_of("CONVERTED"))
    assert told.headers["x-cart-notice"] == "hold_expired; sku=205; quantity=2"
    done = await set_status(http, FIRST_CART, "CONVERTED")
    assert [one["productId"] for one in done.json()["cartItems"]] == [207]
    assert await books(shop, "205") == (5, 0, 0)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_who_was_told_so_by_a_key_is_told_so_again(
    http: httpx.AsyncClient, shop: Shop, method: str
) -> None:
    """It is not converted, and a 200 would say that it is."""
    await sell(shop, stock=5, stock_policy="hold", hold_ttl_s=1)
    await shop.store.add(shop.bucket, OWNER, [LineRequest("205", 2)])
    path = path_of("CONVERTED") if method == "PATCH" else CART
    headers = {**ANN, "Idempotency-Key": "9c2e"}
    body = {"status": "CONVERTED"}
    answers = [await http.request(method, path, json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[0].content == answers[1].content
    told = [answer.headers["x-cart-notice"] for answer in answers]
    assert told == ["hold_expired; sku=205; quantity=2"] * 2
    assert [one.headers.get("idempotent-replay") for one in answers] == [None, "true"]


@pytest.mark.parametrize("status", ["ABANDONED", "REMOVED"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_cart_that_is_given_up_frees_what_it_held(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, method: str, status: str
) -> None:
    await sell(shop, stock=10, stock_policy="hold")
    await cart_of(http, (205, 4))
    assert await books(shop, "205") == (6, 4, 0)
    before = timeless((await http.get(CART, headers=ANN)).json())
    path = path_of(status) if method == "PATCH" else CART
    done = await http.request(method, path, json={"status": status}, headers=ANN)
    assert (done.status_code, timeless(done.json())) == (200, {**before, "status": status})
    assert await books(shop, "205") == (10, 0, 0)
    assert await recorded(api_ledger) == {FIRST_CART: status}
    assert await make(http) == 2 * FIRST_CART


async def test_a_put_converts_too(http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger) -> None:
    await sell(shop)
    await cart_of(http, (205, 4))
    body = {**examples.request("records", "PUT /api/carts/{cart_id}"), "status": "CONVERTED"}
    done = await http.put(CART, json=body, headers=ANN)
    assert (done.status_code, done.json()["status"]) == (200, "CONVERTED")
    assert await books(shop, "205") == (96, 0, 4)
    assert await recorded(api_ledger) == {FIRST_CART: "CONVERTED"}


@pytest.fixture(params=CLOSED)
async def closed(request: pytest.FixtureRequest, http: httpx.AsyncClient, shop: Shop) -> str:
    """The status as which a cart with an item is closed."""
    await sell(shop)
    await cart_of(http, (205, 2))
    status: str = request.param
    assert (await set_status(http, FIRST_CART, status)).status_code == 200
    return status


async def test_a_closed_cart_takes_no_changes(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, closed: str
) -> None:
    others = [status for status in ("ACTIVE", *CLOSED) if status != closed]
    for _ in range(2):  # its owner has no other cart at first, and then one
        for method, path, body in (
            *(("PATCH", path_of(status), None) for status in others),
            *(("PUT", CART, {"status": status}) for status in others),
            ("POST", ITEMS, item_body()),
            ("PUT", ITEM, item_body(quantity=1)),
            ("DELETE", ITEM, None),
            ("DELETE", OF_CART, None),
        ):
            message = f"Cart {FIRST_CART} is {closed} and takes no changes"
            told = documented(PATCH, 409, "Cart closed", message=message, path=path)
            call = http.request(method, path, json=body, headers=ANN)
            await refused_everywhere(shop, api_ledger, call, told)
        await http.post(CARTS, json={}, headers=ANN)


async def test_the_same_status_again_changes_nothing(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, closed: str
) -> None:
    before = await http.get(CART, headers=ANN)
    everything = await shop.everything(), await rows(api_ledger)
    for again in (
        await set_status(http, FIRST_CART, closed),
        await http.put(CART, json={"status": closed}, headers=ANN),
        await http.put(CART, json={}, headers=ANN),
    ):
        assert (again.status_code, again.content) == (200, before.content)
    assert (await shop.everything(), await rows(api_ledger)) == everything


async def test_active_stays_active(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    before = await http.get(CART, headers=ANN)
    everything = await shop.everything()
    again = await set_status(http, FIRST_CART, "ACTIVE")
    assert (again.status_code, again.content) == (200, before.content)
    assert await shop.everything() == everything


@pytest.mark.parametrize("status", ["OPEN", "active", "DELETED", " ", "ACTIVE,REMOVED"])
async def test_a_status_that_there_is_not(http: httpx.AsyncClient, shop: Shop, status: str) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    told = documented(PATCH, 400, "Unknown status", path=path_of(status))
    await refused(shop, set_status(http, FIRST_CART, status), told)
    put = http.put(CART, json={"status": status}, headers=ANN)
    await refused(shop, put, {**told, "path": CART})


@pytest.mark.parametrize("status", ["ACTIVE", "ABANDONED", "REMOVED"])
async def test_a_deleted_cart_is_not_there(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, status: str
) -> None:
    await sell(shop, stock=10, stock_policy="hold")
    await cart_of(http, (205, 2))
    await set_status(http, FIRST_CART, status)
    gone = await http.delete(CART, headers=ANN)
    assert (gone.status_code, gone.content) == (204, b"")
    assert await recorded(api_ledger) == {FIRST_CART: "DELETED"}
    assert await books(shop, "205") == (10, 0, 0)
    for who in (ANN, ADMIN):
        for method, path, body in (
            ("GET", CART, None),
            ("PUT", CART, {"status": "REMOVED"}),
            ("PATCH", path_of("ACTIVE"), None),
            ("PATCH", path_of("REMOVED"), None),
            ("DELETE", CART, None),
            ("GET", ITEM, None),
            ("PUT", ITEM, item_body()),
            ("DELETE", ITEM, None),
            ("POST", ITEMS, item_body()),
            ("GET", OF_CART, None),
            ("DELETE", OF_CART, None),
            ("GET", f"/api/price-history/cart-item/{FIRST_ITEM}", None),
            ("GET", f"{CARTS}/user/103/active", None),
        ):
            call = http.request(method, path, json=body, headers=who)
            what = "Cart item with ID" if str(FIRST_ITEM) in path else "Cart with ID"
            number = FIRST_ITEM if str(FIRST_ITEM) in path else FIRST_CART
            message = f"{what} {number} not found"
            if path.endswith("active"):
                message = "Active cart for user 103 not found"
            told = failure(404, message, path)
            await refused_everywhere(shop, api_ledger, call, told)
        for path in (CARTS, ITEMS):
            found = await http.get(path, headers=who)
            assert (found.json(), found.headers["x-total-count"]) == ([], "0")
    mine = await http.get("/api/customer/cart", headers=ANN)
    assert mine.json()["data"]["cart_id"] is None
    assert await make(http) == 2 * FIRST_CART


async def test_a_converted_cart_is_not_deleted(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger
) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    await set_status(http, FIRST_CART, "CONVERTED")
    message = f"Cart {FIRST_CART} is CONVERTED and takes no changes"
    told = documented("DELETE /api/carts/{cart_id}", 409, message=message, path=CART)
    for who in (ANN, ADMIN):
        await refused_everywhere(shop, api_ledger, http.delete(CART, headers=who), told)
    assert (await http.get(CART, headers=ANN)).json()["status"] == "CONVERTED"


async def test_conversions_at_once_are_one(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=10)
    await cart_of(http, (205, 2))
    asked = (set_status(http, FIRST_CART, "CONVERTED") for _ in range(8))
    done = await asyncio.gather(*asked)
    assert {answer.status_code for answer in done} == {200}
    assert len({answer.content for answer in done}) == 1
    assert await books(shop, "205") == (8, 0, 2)


async def test_one_of_two_statuses_at_once_wins(http: httpx.AsyncClient, shop: Shop) -> None:
    await sell(shop, stock=10)
    await cart_of(http, (205, 2))
    asked = [set_status(http, FIRST_CART, status) for status in CLOSED * 3]
    done = await asyncio.gather(*asked)
    assert Counter(answer.status_code for answer in done) == {200: 3, 409: 6}
    [won] = {answer.json()["status"] for answer in done if answer.status_code == 200}
    assert (await http.get(CART, headers=ANN)).json()["status"] == won
    assert await books(shop, "205") == ((8, 0, 2) if won == "CONVERTED" else (10, 0, 0))


@pytest.fixture(scope="module")
def url_without_postgres(valkey: embedded.Valkey) -> Iterator[str]:
    """The service on the same Valkey, while PostgreSQL is away."""
    settings = Settings(
        port=free_port(),
        redis_url=valkey.url,
        redis_timeout_s=5,
        database_url=f"postgresql://postgres@127.0.0.1:{free_port()}/api",
        jwt_secret=SECRET,
    )
    process = dev.start("serve", settings, os.environ)
    yield dev.url(settings)
    embedded.stop(process)


@pytest.fixture
async def without_postgres(url_without_postgres: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url_without_postgres, verify=NO_TLS) as client:
        yield client


async def test_without_postgres_nothing_is_closed(
    http: httpx.AsyncClient, shop: Shop, without_postgres: httpx.AsyncClient
) -> None:
    await sell(shop, stock=10, stock_policy="hold")
    await cart_of(http, (205, 2))
    for method, path in (
        *(("PATCH", path_of(status)) for status in CLOSED),
        ("DELETE", CART),
        ("GET", CARTS),
        ("GET", ITEMS),
        ("GET", f"/api/price-history/cart-item/{FIRST_ITEM}"),
    ):
        call = without_postgres.request(method, path, headers=ANN)
        away = await refused(shop, call, failure(503, AWAY, path))
        assert away.headers["retry-after"] == "1"
    # Whether a new owner has a cart in PostgreSQL can't be known.
    call = without_postgres.post(CARTS, json={}, headers=BOB)
    await refused(shop, call, failure(503, AWAY, CARTS))
    # What Redis has is read and changed as ever.
    await put_in(without_postgres, product=206)
    found = [await one.get(CART, headers=ANN) for one in (http, without_postgres)]
    assert found[0].content == found[1].content
    assert (await set_status(http, FIRST_CART, "CONVERTED")).status_code == 200
    assert await books(shop, "205") == (8, 0, 2)


async def test_a_conversion_that_postgres_does_not_have_is_not_answered(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, without_postgres: httpx.AsyncClient
) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    # Done, but for the answer: as after a crash of the process.
    await shop.store.close(shop.bucket, OWNER, "CONVERTED")
    call = set_status(without_postgres, FIRST_CART, "CONVERTED")
    await refused(shop, call, failure(503, AWAY, path_of("CONVERTED")))
    assert (await set_status(http, FIRST_CART, "CONVERTED")).status_code == 200
    assert await recorded(api_ledger) == {FIRST_CART: "CONVERTED"}
    assert await books(shop, "205") == (98, 0, 2)


@pytest.mark.parametrize("status", ["CONVERTED", "DELETED"])
async def test_postgres_has_not_heard_of_the_close_yet(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, status: ClosedStatus
) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    await http.get(CARTS, headers=ANN)
    await shop.store.close(shop.bucket, OWNER, status)
    assert await recorded(api_ledger) == {FIRST_CART: "ACTIVE"}
    for path, found in (
        (f"{CARTS}/user/103/active", False),
        (CART, status == "CONVERTED"),
        (ITEM, status == "CONVERTED"),
    ):
        answer = await http.get(path, headers=ANN)
        assert answer.status_code == (200 if found else 404)
    second = await make(http)
    shown = [(one["id"], one["status"]) for one in (await http.get(CARTS, headers=ADMIN)).json()]
    first = [(FIRST_CART, status)] if status == "CONVERTED" else []
    assert shown == [*first, (second, "ACTIVE")]


async def test_postgres_is_lost_after_the_conversion(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger
) -> None:
    await sell(shop)
    await cart_of(http, (205, 2))
    waiting = (
        "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    async with api_ledger.pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE carts IN SHARE MODE")
        asked = asyncio.create_task(set_status(http, FIRST_CART, "CONVERTED"))
        await wait_until(lambda: other.fetchval(f"SELECT count(*) {waiting}"), 1)
        await other.execute(f"SELECT pg_terminate_backend(pid) {waiting}")
        answer = await asked
    assert answer.status_code == 503
    assert timeless(answer.json()) == failure(503, AWAY, path_of("CONVERTED"))
    # It has happened, and is not in PostgreSQL.
    assert await books(shop, "205") == (98, 0, 2)
    assert await recorded(api_ledger) == {}
    again = await set_status(http, FIRST_CART, "CONVERTED")
    assert (again.status_code, again.json()["status"]) == (200, "CONVERTED")
    assert await recorded(api_ledger) == {FIRST_CART: "CONVERTED"}
    assert await books(shop, "205") == (98, 0, 2)


NO_206 = "ALTER TABLE cart_items ADD CONSTRAINT no_206 CHECK (product_id <> '206') NOT VALID"
TAKE_206 = "ALTER TABLE cart_items DROP CONSTRAINT IF EXISTS no_206"


@pytest.fixture
async def worker(shop: Shop, api_ledger: Ledger) -> AsyncIterator[Worker]:
    """A worker, and a PostgreSQL that has Ann's cart, but not as it is: it takes no product 206."""
    await sell(shop)
    worker = Worker(shop.store, Backlog(shop.runner), api_ledger, batch=9, interval_s=60)
    await shop.store.add(shop.bucket, OWNER, [LineRequest("205", 2)])
    await worker.run_once()
    await api_ledger.pool.execute(NO_206)
    await shop.store.add(shop.bucket, OWNER, [LineRequest("206", 1)])
    yield worker
    await api_ledger.pool.execute(TAKE_206)


@pytest.mark.parametrize("status", CLOSED)
async def test_a_close_that_postgres_refuses_is_not_acknowledged(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, worker: Worker, status: str
) -> None:
    before = await rows(api_ledger)
    for refused_now in (1, 0):
        answer = await set_status(http, FIRST_CART, status)
        assert timeless(answer.json()) == failure(503, AWAY, path_of(status))
        assert answer.headers["retry-after"] == "1"
        # It is the worker that sets it aside, once.
        assert len(await api_ledger.letters(None)) == 1 - refused_now
        assert await worker.run_once() == Pass(refused=refused_now)
        assert await rows(api_ledger) == before
    await api_ledger.pool.execute(TAKE_206)
    letters = await api_ledger.letters(None)
    assert await replay.run(api_ledger, worker.backlog, letters) == Replayed(written=1)
    for _ in ("in Redis", "in PostgreSQL only"):
        assert (await set_status(http, FIRST_CART, status)).status_code == 200
        await worker.run_once()
    assert await recorded(api_ledger) == {FIRST_CART: status}
    assert await books(shop, "205") == ((98, 0, 2) if status == "CONVERTED" else (100, 0, 0))


async def test_a_deletion_that_postgres_refuses_is_not_acknowledged(
    http: httpx.AsyncClient, api_ledger: Ledger, worker: Worker
) -> None:
    answer = await http.delete(CART, headers=ANN)
    assert timeless(answer.json()) == failure(503, AWAY, CART)
    assert await worker.run_once() == Pass(refused=1)
    assert await recorded(api_ledger) == {FIRST_CART: "ACTIVE"}
    # For who asks, it is not there all the same: Redis has it, and as deleted.
    assert (await http.delete(CART, headers=ANN)).status_code == 404


async def test_lists_with_a_cart_that_postgres_refuses(
    http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger, worker: Worker
) -> None:
    for path in (CARTS, ITEMS):
        # The one cart that a shopper asks for can't be shown as it is.
        answer = await http.get(path, headers=ANN)
        assert timeless(answer.json()) == failure(503, AWAY, path)
    assert await api_ledger.letters(None) == []
    # A list of all is a flush of all: it sets aside what stands in its way.
    for path in (CARTS, ITEMS):
        answer = await http.get(path, headers=ADMIN)
        assert (answer.status_code, len(answer.json())) == (200, 1)
    assert len(await api_ledger.letters(None)) == 1


@pytest.fixture
async def archive(shop: Shop, api_ledger: Ledger) -> Archive:
    await sell(shop)
    return Archive(shop.store, Backlog(shop.runner), api_ledger, timeout_s=5)


async def active(shop: Shop) -> Cart:
    return await shop.store.add(shop.bucket, OWNER, [LineRequest("205", 2)])


async def test_a_cart_that_is_closed_after_it_was_found(shop: Shop, archive: Archive) -> None:
    bucket = shop.bucket
    found = await active(shop)

    async def close() -> Cart:
        return await shop.store.close(bucket, OWNER, "REMOVED", cart_id=found.id)

    async def clear() -> Cart:
        return await shop.store.clear(bucket, OWNER, cart_id=found.id)

    async def late() -> Cart:
        await close()
        return await clear()

    with pytest.raises(CartClosed):  # between the look and the change
        await archive.change(bucket, found, late)
    with pytest.raises(CartClosed):  # and before both, in Redis
        await archive.change(bucket, found, clear)
    with pytest.raises(CartClosed):
        await archive.close(bucket, found, "CONVERTED")
    assert (await archive.close(bucket, found, "REMOVED")).status == "REMOVED"


@pytest.mark.parametrize("status", ["CONVERTED", "ABANDONED"])
async def test_a_cart_that_has_left_redis_is_not_put_back_as_it_was_read_before(
    shop: Shop, archive: Archive, status: ClosedStatus
) -> None:
    found = await active(shop)
    await archive.close(shop.bucket, found, status)
    before = await shop.everything()
    with pytest.raises(CartClosed):
        await archive.open(shop.bucket, found)
    assert await shop.everything() == before
    with pytest.raises(CartClosed):
        await archive.close(shop.bucket, found, "REMOVED")
    # Asked for twice, it is closed once.
    assert (await archive.close(shop.bucket, found, status)).status == status
    assert await shop.everything() == before


async def test_a_line_that_is_gone_after_it_was_found(shop: Shop, archive: Archive) -> None:
    found = await active(shop)
    await shop.store.clear(shop.bucket, OWNER)
    line = f"#{FIRST_CART}#1"
    with pytest.raises(NoLine):
        await archive.change(
            shop.bucket, found, lambda: shop.store.remove(shop.bucket, OWNER, line)
        )


async def test_a_cart_is_begun_while_another_is_made(
    shop: Shop, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begun(*_: object) -> Cart:
        await active(shop)
        raise NoCart

    monkeypatch.setattr(archive, "active", begun)
    with pytest.raises(CartExists) as refusal:
        await archive.make(shop.bucket, OWNER)
    assert refusal.value.cart_id == FIRST_CART


@pytest.mark.parametrize("path", [f"{CARTS}/{FIRST_CART}", f"{CARTS}/user/103/active", OF_CART])
async def test_its_owner_is_told_once_of_what_has_left(
    http: httpx.AsyncClient, shop: Shop, path: str
) -> None:
    await sell(shop, stock=5, stock_policy="hold", hold_ttl_s=1)
    await shop.store.add(shop.bucket, OWNER, [LineRequest("205", 2)])
    told = "hold_expired; sku=205; quantity=2"
    for who, header in ((ADMIN, told), (ADMIN, told), (ANN, told), (ANN, None), (ADMIN, None)):
        answer = await http.get(path, headers=who)
        assert (answer.status_code, answer.headers.get("x-cart-notice")) == (200, header)
    # What was told stands against nothing.
    assert (await set_status(http, FIRST_CART, "CONVERTED")).status_code == 200
