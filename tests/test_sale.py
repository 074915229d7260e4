"""A sale that is paused: nothing more comes into carts, and all else goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from cartsvc.errors import Invalid, NotWarm, SalePaused, SoldOut
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, LineRequest, LineTerms, Once, Owner, item_id
from cartsvc.sale import Paused, Sale
from tests import carts
from tests.carts import BOB, GUEST, HOLD_MS, USER, books, read, refused, sound, unchanged
from tests.front import front_of
from tests.shop import ANN, LAMP, MUG, Shop
from tests.test_authorization import World
from tests.test_idempotency import CHANGING, request_of
from tests.test_pressure import READING
from tests.test_syncs import Counting
from tests.wait import wait_until

Change = Callable[[Shop], Awaitable[Any]]

REASON = "stocktaking"
TOLD = f"The sale is paused: {REASON}"


def sale_of(shop: Shop) -> Sale:
    return Sale(shop.runner)


async def pause(shop: Shop, reason: str = REASON) -> Paused | None:
    return await sale_of(shop).pause(shop.bucket, reason, "eve")


async def resume(shop: Shop) -> Paused | None:
    return await sale_of(shop).resume(shop.bucket)


async def state(shop: Shop) -> Paused | None:
    return await sale_of(shop).state(shop.bucket)


async def opened(shop: Shop) -> Shop:
    """The shop, in which Ann's cart has a lamp that is held, a mug, and a tee for later."""
    await shop.sell(LAMP, stock=20, stock_policy="hold")
    await shop.sell(MUG, stock=20)
    await shop.sell("tee", stock=20)
    await shop.add_lines(LineRequest(LAMP, 3), LineRequest(MUG, 3), LineRequest("tee", 2))
    await carts.save(shop, "tee")
    return shop


@pytest.fixture
async def ours(either_shop: Shop) -> Shop:
    return await opened(either_shop)


async def described(shop: Shop, sku: str, units: int, *, saved: bool = False) -> Cart:
    cart = await shop.store.peek(shop.bucket, ANN)
    terms = LineTerms(units, saved)
    return await shop.store.add_as(
        shop.bucket, ANN, sku, terms, authority=True, cart_id=cart.id, once=None
    )


async def described_as(shop: Shop, sku: str, units: int, *, saved: bool = False) -> Cart:
    cart = await shop.store.peek(shop.bucket, ANN)
    [line] = [line for line in cart.lines if line.sku == sku]
    item, terms = item_id(cart.id, line.number), LineTerms(units, saved)
    return await shop.store.set_as(shop.bucket, ANN, item, terms, authority=True)


MORE: dict[str, Change] = {
    "an add": lambda shop: shop.add(1),
    "an add of a line that is new": lambda shop: shop.add_lines(LineRequest(LAMP, 1), owner=BOB),
    "an add of two lines": lambda shop: shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 1)),
    "an add with a key": lambda shop: shop.store.add(
        shop.bucket, ANN, [LineRequest(LAMP, 1)], Once(ANN, "a key", "ab")
    ),
    "an add of what is not sold": lambda shop: shop.add(1, "nothing"),
    "an add of too many": lambda shop: shop.add(100),
    "a higher quantity": lambda shop: carts.put(shop, 4),
    "a line that comes back": lambda shop: carts.take_back(shop, "tee"),
    "a line that is described": lambda shop: described(shop, MUG, 1),
    "a line that is described to come back": lambda shop: described(shop, "tee", 1),
    "a line that is described as more": lambda shop: described_as(shop, MUG, 4),
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
async def test_no_more_units_come_into_a_cart(ours: Shop, more: Change) -> None:
    await pause(ours)
    error = await refused(ours, SalePaused, more(ours))
    assert error.reason == REASON


async def other_cart(shop: Shop) -> Owner:
    """A guest whose cart is there."""
    await resume(shop)
    await carts.add(shop, GUEST, 2)
    await pause(shop)
    return GUEST


async def merged(shop: Shop) -> None:
    guest = await other_cart(shop)
    done = await shop.store.merge(shop.bucket, guest, ANN)
    assert (carts.units(done.cart)[LAMP], done.unmerged) == (5, [])


async def released(shop: Shop) -> None:
    shop.clock.ms += HOLD_MS
    assert await shop.store.release(shop.bucket, [shop.bucket.cart(ANN)]) == 1


async def repriced(shop: Shop) -> None:
    await shop.sell(MUG, price="1.00", stock=20)
    key = shop.bucket.cart(ANN)
    assert await shop.store.reprice(shop.bucket, MUG, [key], done="", next_done="") == 1


GOES_ON: dict[str, Change] = {
    "a read": read,
    "a lower quantity": lambda shop: carts.put(shop, 2),
    "the same quantity": lambda shop: carts.put(shop, 3),
    "more of what is for later": lambda shop: carts.put(shop, 5, "tee"),
    "a line that goes": lambda shop: carts.remove(shop, MUG),
    "a line for later": lambda shop: carts.save(shop, MUG),
    "a line that is described as fewer": lambda shop: described_as(shop, MUG, 1),
    "a line that is described for later": lambda shop: described_as(shop, MUG, 5, saved=True),
    "clearing": lambda shop: shop.store.clear(shop.bucket, ANN),
    "emptying": lambda shop: shop.store.empty(shop.bucket, ANN),
    "an empty cart": lambda shop: shop.store.make(shop.bucket, BOB),
    "a login": merged,
    "an order": lambda shop: carts.close(shop, "CONVERTED"),
    "a cart that is given up": lambda shop: carts.close(shop, "ABANDONED"),
    "a hold that runs out": released,
    "a release": lambda shop: shop.store.release_held(shop.bucket, ANN),
    "a new price": repriced,
}


@pytest.mark.parametrize("change", GOES_ON.values(), ids=GOES_ON)
async def test_all_else_goes_on(ours: Shop, change: Change) -> None:
    await pause(ours)
    await change(ours)
    await sound(ours)


async def test_an_order_of_what_is_not_held_goes_on(ours: Shop) -> None:
    await pause(ours)
    [order] = await asyncio.gather(carts.close(ours), return_exceptions=True)
    assert isinstance(order, Cart)
    assert (await books(ours, LAMP), await books(ours, MUG)) == ((17, 0, 3), (17, 0, 3))


async def test_after_the_pause_all_is_as_before(ours: Shop) -> None:
    await pause(ours)
    await refused(ours, SalePaused, ours.add(2))
    await resume(ours)
    assert carts.units(await ours.add(2))[LAMP] == 5


async def test_a_pause_is_one_tenants(ours: Shop) -> None:
    acme = Shop(ours.runner)
    acme.bucket = Bucket("acme")
    await acme.open()
    await acme.sell()
    await pause(acme)
    await ours.add()
    await refused(acme, SalePaused, acme.add())


async def test_who_pauses_is_told_what_was_there(ours: Shop) -> None:
    assert await state(ours) is None
    assert await pause(ours, "a wrong price") is None
    first = await state(ours)
    assert first is not None
    assert (first.reason, first.by) == ("a wrong price", "eve")
    assert abs(first.since_ms - await ours.runner.now_ms()) < 60_000
    assert await pause(ours) == first
    second = await state(ours)
    assert second is not None
    assert (second.reason, second.since_ms >= first.since_ms) == (REASON, True)
    assert await resume(ours) == second
    assert (await state(ours), await resume(ours)) == (None, None)


async def test_a_pause_is_there_to_be_read(ours: Shop) -> None:
    await pause(ours, 'Ann said "no", caf\u00e9')
    since = Paused.of((await ours.redis.get(ours.bucket.paused)).decode()).since_ms
    told = '{"reason":"Ann said \\"no\\", caf\u00e9","by":"eve","since_ms":' + f"{since}}}"
    assert await ours.redis.get("paused:{default:0}") == told.encode()
    assert await ours.redis.ttl(ours.bucket.paused) == -1


@pytest.mark.parametrize(
    ("written", "paused"),
    [
        ("because", Paused("because")),
        ('"because"', Paused('"because"')),
        ("", Paused()),
        ('{"reason": "because"}', Paused("because")),
        ('{"by": "bob", "more": 1}', Paused("", "bob")),
        ('{"reason": 5}', Paused('{"reason": 5}')),
        ('{"reason": "cut', Paused('{"reason": "cut')),
        (b"\xff\x00\r\nno", Paused("\\xffno")),
        ('{"reason": "a\\nb\\u0007", "by": "\\u0000"}', Paused("ab")),
        ("x" * 10_000, Paused("x" * 200)),
    ],
)
async def test_a_pause_by_hand(ours: Shop, written: str | bytes, paused: Paused) -> None:
    await ours.redis.set("paused:{default:0}", written)
    error = await refused(ours, SalePaused, ours.add())
    assert (error.reason, await state(ours)) == (paused.reason, paused)
    assert await resume(ours) == paused
    await ours.add()


@pytest.mark.parametrize("text", ["x" * 201, "a\nb", "\x1b[2J", "\ud800"])
async def test_a_reason_can_be_read_by_everybody(ours: Shop, text: str) -> None:
    sale, bucket = sale_of(ours), ours.bucket
    told = (await refused(ours, Invalid, sale.pause(bucket, text, "eve"))).field
    assert told == "reason"
    assert (await refused(ours, Invalid, sale.pause(bucket, REASON, text))).field == "by"
    await sale.pause(bucket, "x" * 200, "")


async def test_what_is_not_warm_is_not_paused(ours: Shop) -> None:
    await ours.redis.delete(ours.bucket.seq)
    await refused(ours, NotWarm, pause(ours))
    assert await resume(ours) is None


# With what else an add meets.


async def test_a_pause_is_no_outcome(ours: Shop) -> None:
    await pause(ours)
    lines = [LineRequest(LAMP, 1)]

    async def add() -> Cart:
        return await ours.store.add(ours.bucket, ANN, lines, Once(ANN, "a key", "ab"))

    await refused(ours, SalePaused, add())
    await resume(ours)
    cart = await add()
    assert carts.units(cart)[LAMP] == 4
    # What was granted before is told once more.
    await pause(ours)
    assert await unchanged(ours, add()) == cart


async def test_a_refusal_tells_what_the_cart_lost(ours: Shop) -> None:
    await pause(ours)
    ours.clock.ms += HOLD_MS
    with pytest.raises(SalePaused) as error:
        await ours.add()
    assert [notice.sku for notice in error.value.notices] == [LAMP]
    assert (await books(ours))[:2] == (20, 0)


async def test_a_hold_that_has_run_out_is_left_to_the_worker(ours: Shop) -> None:
    """Nobody makes way for an add that is not going to be granted."""
    await carts.add(ours, BOB, 17)
    await pause(ours)
    ours.clock.ms += HOLD_MS
    await refused(ours, SalePaused, carts.add(ours, GUEST, 1))


async def test_a_sold_out_product_may_be_told_as_sold_out(shop: Shop) -> None:
    await shop.sell(stock=1, stock_policy="hold")
    shop.store.sold_out.memory_ms = 1_000
    await shop.add()
    with pytest.raises(SoldOut):
        await carts.add(shop, BOB)
    await pause(shop)
    with pytest.raises(SoldOut):
        await carts.add(shop, BOB)
    shop.clock.ms += 1_001
    await refused(shop, SalePaused, carts.add(shop, BOB))


async def calls_of(shop: Shop, command: str) -> int:
    stats: dict[str, Any] = await shop.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("is_paused", [False, True])
async def test_adds_that_share_a_call_share_the_look(shop: Shop, is_paused: bool) -> None:
    await shop.sell(LAMP, stock=100)
    await shop.sell(MUG, stock=100)
    await shop.add()
    if is_paused:
        await pause(shop)
    before = [await calls_of(shop, name) for name in ("evalsha", "get")]
    lines = [LineRequest(LAMP, 1), LineRequest(MUG, 1)]
    owners = [Owner("session", f"shopper-{number}") for number in range(16)]
    adds = [shop.store.add(shop.bucket, owner, lines) for owner in owners]
    told = await asyncio.gather(*adds, return_exceptions=True)
    assert {type(one) for one in told} == {SalePaused if is_paused else Cart}
    after = [await calls_of(shop, name) for name in ("evalsha", "get")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


async def test_no_add_is_granted_once_the_pause_is_told(shop: Shop) -> None:
    await shop.sell(stock=1_000_000)
    granted, is_told = 0, asyncio.Event()

    async def shopper(owner: Owner) -> None:
        nonlocal granted
        while True:
            was_told = is_told.is_set()
            try:
                await carts.add(shop, owner)
            except SalePaused:
                # Refused while the pause was on its way, too: what counts is asked behind it.
                if was_told:
                    return
                await is_told.wait()
            else:
                assert not was_told
                granted += 1

    owners = [Owner("session", f"shopper-{number}") for number in range(40)]
    shoppers = [asyncio.create_task(shopper(owner)) for owner in owners]
    await wait_until(lambda: granted > 200)
    await pause(shop)
    is_told.set()
    await asyncio.gather(*shoppers)
    found = [await shop.store.peek(shop.bucket, owner) for owner in owners]
    assert sum(cart.total_quantity for cart in found) == granted


async def test_pauses_and_resumes_that_meet(shop: Shop) -> None:
    """Each is told what the one before it left."""
    await shop.sell()
    reasons = [str(number) for number in range(50)]
    told = await asyncio.gather(*(pause(shop, reason) for reason in reasons))
    last = await resume(shop)
    left = [one.reason for one in [*told, last] if one is not None]
    assert sorted(left, key=int) == reasons


async def test_a_pause_is_told_once_it_is_on_the_disk(shop: Shop) -> None:
    shop.runner.syncs = counting = Counting()  # type: ignore[assignment]
    await pause(shop)
    assert counting.waited == 1
    await state(shop)
    assert counting.waited == 1
    await resume(shop)
    assert counting.waited == 2
    shop.runner.syncs = None


# In the contracts.


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return World(shop, api_ledger)


@pytest.fixture
async def front(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with front_of(world.shop, world.ledger) as client:
        yield client


ADDS = {
    "session POST /api/cart",
    "session PUT /api/cart/items/{product_id}",
    "tenant POST /cart/items",
    "tenant PUT /cart/items/{item_id}",
    "device POST /cart/items",
    "device PUT /cart/items/{item_id}",
    "customer POST /api/customer/cart",
    "customer POST /api/customer/cart/add",
    "customer PUT /api/customer/cart/items/{item_id}",
    "records POST /api/cart-items",
    "records PUT /api/cart-items/{item_id}",
}
"""Those whose requests ask for more."""


async def test_adds_are_503_with_the_reason_and_all_else_goes_on(
    front: httpx.AsyncClient, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told = set()
    for route in [*CHANGING, *READING]:
        if "{session_id}" in route.name and route not in CHANGING:
            continue  # a guest's cart is none that a customer, who comes first, may see
        await world.anew()
        await pause(world.shop)
        asked, _ = request_of(route, world)
        answer = await front.request(**asked)
        if answer.status_code != 503:
            assert answer.status_code == route.operation.status, route.name
            continue
        told.add(route.name)
        assert answer.headers["retry-after"] == "10"
        body = answer.json()
        # The shape of the contract's other refusals; 003 has a sentence of its own before it.
        assert (body["error"] if route.contract.name == "customer" else shown(body)) == TOLD
    assert told == ADDS
    assert not caplog.records


def shown(body: dict[str, Any]) -> str:
    return str(body.get("message", body["error"]))


async def test_a_reason_is_not_asked_for(front: httpx.AsyncClient, world: World) -> None:
    await world.anew()
    await pause(world.shop, "")
    body = {"product_id": LAMP, "quantity": 1, "session_id": USER.id}
    answer = await front.post("/api/cart", json=body)
    assert (answer.status_code, answer.json()) == (
        503,
        {"success": False, "message": "The sale is paused", "error": {"code": "sale_paused"}},
    )


async def test_the_service_answers_as_the_store_does(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    await pause(shop)
    body = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}
    answer = await http.post("/api/cart", json=body)
    assert (answer.status_code, answer.json()["message"]) == (503, TOLD)
    await resume(shop)
    assert (await http.post("/api/cart", json=body)).status_code == 200
