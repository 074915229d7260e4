"""The audit of a tenant: what is wrong is found, and mended where it is safe."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from cartsvc import flush, upkeep
from cartsvc.cart_checks import Place
from cartsvc.errors import NotWarm, Refused, RowsRefused, Unavailable, UnknownTenant
from cartsvc.findings import Finding
from cartsvc.held_lines import HeldLines
from cartsvc.idle import IdleCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, Owner
from cartsvc.repair import Repair, Repaired
from cartsvc.scripts import Argument
from cartsvc.stock import Stock
from cartsvc.verify import Verdict, Verifier
from tests import carts
from tests.carts import BOB, sound
from tests.mutants import turns_red
from tests.shop import ANN, LAMP, MUG, Mutant
from tests.test_warm import EVE, Lost, a_sale, add
from tests.test_warm import lost as lost

IDLE = Owner("user", "idle")


class Audited(Lost):
    """A shop that is audited without pauses."""

    def verifier(self, max_lines: int = 50) -> Verifier:
        return Verifier(self.backlog, self.ledger, self.bucket, max_lines=max_lines, pause_s=0)

    async def verify(self) -> list[str]:
        """What is wrong, as it is told."""
        return told(await self.verifier().run())

    async def repair(self) -> Repaired:
        verifier = self.verifier()
        found = (await verifier.run()).findings
        return await Repair(verifier, self.shop.store).run(found)

    async def write(self) -> None:
        """All that is dirty, and what that shows to be older than its row."""
        for _ in range(2):
            await self.flush()


def told(verdict: Verdict) -> list[str]:
    return [f"{one.what} {one.detail}" for one in verdict.findings]


@pytest.fixture
async def audited(lost: Lost) -> Audited:
    """Carts in every state: hot and held, cold, converted, closed, and one with a new price."""
    found = Audited(lost.shop, lost.ledger)
    await a_sale(found)
    await add(found, IDLE, (MUG, 2))
    await found.flush()
    cart = await found.shop.store.peek(found.bucket, IDLE)
    at = {found.bucket.cart(IDLE): (cart.id, cart.version)}
    assert await found.shop.store.cool(found.bucket, at) == 1
    await new_price(found, 13)
    await new_price(found, 14)
    await found.flush()
    return found


async def new_price(audited: Lost, price: float) -> None:
    await audited.file({"id": MUG, "name": "Mug", "price": price})
    while await upkeep.reprice(audited.shop.store, audited.bucket):
        pass


async def key_of(audited: Audited, owner: Owner = ANN) -> str:
    return audited.bucket.cart(owner)


async def test_a_healthy_tenant_has_nothing_wrong(audited: Audited) -> None:
    verdict = await audited.verifier().run()
    assert verdict.findings == []
    nouns = ("counters", "carts in Redis", "active rows", "markers", "lines with new prices")
    assert [verdict.looked_at[noun] for noun in nouns] == [6, 3, 4, 1, 3]


async def test_what_waits_to_be_written_is_not_wrong(audited: Audited) -> None:
    await add(audited, EVE, (LAMP, 1), ("tee", 1))
    await carts.close(audited.shop, owner=EVE)
    await add(audited, BOB, ("gift", 1))
    await new_price(audited, 15)
    assert await audited.verify() == []


Damage = Callable[[Any, Bucket, Ledger], Awaitable[object]]


def hot(bucket: Bucket) -> str:
    """The key of a cart that holds two lamps, and has three mugs."""
    return bucket.cart(ANN)


async def take_hold(redis: Any, bucket: Bucket, _: Ledger) -> None:
    [name] = await redis.zrange(bucket.holds_by_sku, 0, -1)
    await redis.zrem(bucket.holds_by_sku, name)


async def other_row(redis: Any, bucket: Bucket, ledger: Ledger) -> None:
    await ledger.pool.execute("UPDATE cart_items SET quantity = 9 WHERE product_id = 'gift'")


async def lose_cart(redis: Any, bucket: Bucket, _: Ledger) -> None:
    """All that Redis has of Bob's cart."""
    key = bucket.cart(BOB)
    cart_id = await redis.hget(key, "id")
    for sku in (MUG, "tee/m", "gift"):
        await redis.zrem(bucket.holders, f"{sku} {key}")
    await redis.delete(key)
    await redis.hdel(bucket.carts, cart_id)


async def close_row(ledger: Ledger, status: str, owner_id: str) -> None:
    query = "UPDATE carts SET status = $1, version = version + 1 WHERE owner_id = $2"
    await ledger.pool.execute(f"{query} AND status = 'ACTIVE'", status, owner_id)


async def convert_row(
    _: Any, _bucket: Bucket, ledger: Ledger, sold: Sequence[tuple[str, int]] = ((LAMP, 2), (MUG, 3))
) -> None:
    """PostgreSQL has Ann's cart as an order; Redis came back as it was before."""
    await close_row(ledger, "CONVERTED", ANN.id)
    for sku, units in sold:
        await ledger.pool.execute(
            "UPDATE cart_items SET sold_from = product_id WHERE cart_id = 256 AND product_id = $1",
            sku,
        )
        await ledger.pool.execute("UPDATE stock SET sold = sold + $2 WHERE sku = $1", sku, units)


async def sell_more(redis: Any, bucket: Bucket, ledger: Ledger) -> None:
    """PostgreSQL has an order of two mugs, which Redis does not know."""
    await ledger.pool.execute("UPDATE stock SET sold = sold + 2 WHERE sku = $1", MUG)
    await ledger.pool.execute(
        "INSERT INTO carts (tenant, id, owner_kind, owner_id, status, version, created_at, "
        "updated_at, last_line) VALUES ('default', 512000, 'user', 'x', 'CONVERTED', 1, now(), "
        "now(), 1)"
    )
    await ledger.pool.execute(
        "INSERT INTO cart_items (tenant, cart_id, id, product_id, quantity, price_minor, name, "
        "images, added_at, updated_at, saved, fixed_price, sold_from) VALUES ('default', 512000, "
        "512000 * 4096 + 1, $1, 2, 1250, 'Mug', '{}', now(), now(), false, false, $1)",
        MUG,
    )


MENDED: dict[str, tuple[Damage, list[str]]] = {
    "a line is not in holders": (
        lambda redis, bucket, _: redis.zrem(bucket.holders, f"{LAMP} {hot(bucket)}"),
        ["is missing in 'holders'"],
    ),
    "holders has what is no line": (
        lambda redis, bucket, _: redis.zadd(bucket.holders, {f"tee {hot(bucket)}": 0}),
        ["stands in 'holders', where it does not belong"],
    ),
    "holders has a cart that is not there": (
        lambda redis, bucket, _: redis.zadd(bucket.holders, {f"tee {bucket.cart(EVE)}": 0}),
        ["stands in 'holders', where it does not belong"],
    ),
    "a hold is not in holds_by_sku": (
        take_hold,
        ["is missing in 'holds_by_sku'", f"{LAMP} has 2 held, and carts hold 0"],
    ),
    "holds_by_sku has what is not held": (
        lambda redis, bucket, _: redis.zadd(
            bucket.holds_by_sku, {f"{LAMP} 1763640700000 {LAMP} {hot(bucket)}": 0}
        ),
        ["stands in 'holds_by_sku', where it does not belong"],
    ),
    "a cart that holds is not in holds": (
        lambda redis, bucket, _: redis.zrem(bucket.holds, hot(bucket)),
        ["is missing in 'holds'"],
    ),
    "holds has another deadline": (
        lambda redis, bucket, _: redis.zadd(bucket.holds, {hot(bucket): 1}),
        ["stands wrongly in 'holds'"],
    ),
    "holds has a cart that holds nothing": (
        lambda redis, bucket, _: redis.zadd(bucket.holds, {bucket.cart(BOB): 1}),
        ["stands in 'holds', where it does not belong"],
    ),
    "holds has a deadline that is none": (
        lambda redis, bucket, _: redis.zadd(bucket.holds, {hot(bucket): "inf"}),
        ["stands wrongly in 'holds'"],
    ),
    "due is another deadline": (
        lambda redis, bucket, _: redis.hset(hot(bucket), "due", 1_763_640_700_000),
        ["stands wrongly in 'due'"],
    ),
    "due is missing": (
        lambda redis, bucket, _: redis.hdel(hot(bucket), "due"),
        ["is missing in 'due'"],
    ),
    "lines are miscounted": (
        lambda redis, bucket, _: redis.hset(hot(bucket), "lines", 7),
        ["stands wrongly in 'lines'"],
    ),
    "a cart is not known by its id": (
        lambda redis, bucket, _: redis.hdel(bucket.carts, "256"),
        ["is missing in 'carts'"],
    ),
    "an id leads nowhere": (
        lambda redis, bucket, _: redis.hset(bucket.carts, "999936", bucket.cart(EVE)),
        ["stands in 'carts', where it does not belong"],
    ),
    "an id leads to another cart": (
        lambda redis, bucket, _: redis.hset(bucket.carts, "999936", hot(bucket)),
        ["stands in 'carts', where it does not belong"],
    ),
    "a hot cart has a marker": (
        lambda redis, bucket, _: redis.hset(bucket.cold, "session:ann", "256"),
        ["stands in 'cold', where it does not belong"],
    ),
    "held is too high": (
        lambda redis, bucket, _: redis.hincrby(bucket.held, LAMP, 1),
        ["has 7 free, 3 held, 1 sold, and 10 received", "has 3 held, and carts hold 2"],
    ),
    "held is too low, and free the more": (
        lambda redis, bucket, _: asyncio.gather(
            redis.hincrby(bucket.held, LAMP, -1), redis.hincrby(bucket.stock, LAMP, 1)
        ),
        ["has 1 held, and carts hold 2"],
    ),
    "free is too low": (
        lambda redis, bucket, _: redis.hincrby(bucket.stock, LAMP, -1),
        ["has 6 free, 2 held, 1 sold, and 10 received"],
    ),
    "held is negative": (
        lambda redis, bucket, _: redis.hset(bucket.held, MUG, -1),
        ["-1 held, 0 sold", "-1 held, 0 sold, and 50 received", "-1 held, and carts hold 0"],
    ),
    "PostgreSQL has received less": (
        lambda _, _bucket, ledger: ledger.pool.execute(
            "UPDATE stock SET received = 49 WHERE sku = $1", MUG
        ),
        ["has received 50 in Redis, 49 in PostgreSQL"],
    ),
    "PostgreSQL has sold more": (sell_more, ["has 0 sold in Redis, and orders have 2"]),
    "a cart is neither dirty nor written": (
        lambda _, _bucket, ledger: ledger.pool.execute("DELETE FROM carts WHERE owner_id = 'bob'"),
        ["is not dirty, and PostgreSQL does not have it"],
    ),
    "a row is older": (
        lambda _, _bucket, ledger: ledger.pool.execute(
            "UPDATE carts SET version = 1 WHERE owner_id = 'bob'"
        ),
        ["is at version 3 in Redis, and at 1 in PostgreSQL"],
    ),
    "a row is newer": (
        lambda _, _bucket, ledger: ledger.pool.execute(
            "UPDATE carts SET version = 9 WHERE owner_id = 'bob'"
        ),
        ["is at version 3 in Redis, and at 9 in PostgreSQL"],
    ),
    "a row has other lines": (
        other_row,
        ["has other lines in PostgreSQL, at the same version 3"],
    ),
    "an order is active in Redis": (
        convert_row,
        [
            "is active in Redis, and CONVERTED in PostgreSQL",
            "has 1 sold in Redis, and orders have 3",
            "has 0 sold in Redis, and orders have 3",
        ],
    ),
    "an abandoned cart is active in Redis": (
        lambda _, _bucket, ledger: close_row(ledger, "ABANDONED", ANN.id),
        ["is active in Redis, and ABANDONED in PostgreSQL"],
    ),
    "a cart is nowhere in Redis": (
        lose_cart,
        ["is active in PostgreSQL, and Redis does not know it"],
    ),
    "a marker is of a closed cart": (
        lambda _, _bucket, ledger: close_row(ledger, "REMOVED", IDLE.id),
        ["has a marker in Redis, and is REMOVED in PostgreSQL"],
    ),
}


@pytest.mark.parametrize(("damage", "told"), MENDED.values(), ids=MENDED)
async def test_what_is_wrong_is_told_and_mended(
    audited: Audited, damage: Damage, told: list[str]
) -> None:
    await damage(audited.shop.redis, audited.bucket, audited.ledger)
    found = await audited.verify()
    assert len(found) == len(told), found
    for line, words in zip(found, told, strict=True):
        assert words in line
    done = await audited.repair()
    assert done.left == []
    assert {f"{one.what} {one.detail}" for one in done.mended} <= set(found)
    assert done.mended
    await audited.write()
    assert await audited.verify() == []
    await sound(audited.shop)


async def order_that_is_lost(redis: Any, bucket: Bucket, _: Ledger) -> None:
    await redis.hincrby(bucket.sold, MUG, 2)
    await redis.hincrby(bucket.stock, MUG, -2)


async def another_cart(redis: Any, bucket: Bucket, ledger: Ledger) -> None:
    """Bob has two active rows."""
    await ledger.pool.execute(
        "INSERT INTO carts (tenant, id, owner_kind, owner_id, status, version, created_at, "
        "updated_at, last_line) VALUES ('default', 512000, 'session', 'bob', 'ACTIVE', 1, now(), "
        "now(), 0)"
    )


async def both_received_and_held(redis: Any, bucket: Bucket, _: Ledger) -> None:
    await redis.hincrby(bucket.held, LAMP, 1)
    await redis.hset(bucket.received, LAMP, 9)


async def convert_too_much(redis: Any, bucket: Bucket, ledger: Ledger) -> None:
    """Of the three mugs that PostgreSQL has sold in Ann's order, two are there."""
    await convert_row(redis, bucket, ledger, [(MUG, 3)])
    await redis.hset(bucket.stock, MUG, 2)
    await redis.hset(bucket.received, MUG, 2)
    await ledger.pool.execute("UPDATE stock SET received = 3 WHERE sku = $1", MUG)


def on_events(query: str) -> Damage:
    async def damage(_: Any, _bucket: Bucket, ledger: Ledger) -> None:
        done = await ledger.pool.execute(f"{query} AND cart_id = 256")
        assert done.endswith(" 1")

    return damage


LEFT: dict[str, tuple[Damage, list[str]]] = {
    "free is negative, and adds up": (
        lambda redis, bucket, _: asyncio.gather(
            redis.hset(bucket.stock, "pin", -1), redis.hset(bucket.held, "pin", 10)
        ),
        ["has -1 free, 10 held", "has 10 held, and carts hold 0"],
    ),
    "free is negative, and does not add up": (
        lambda redis, bucket, _: redis.hset(bucket.stock, LAMP, -1),
        ["has -1 free", "has -1 free, 2 held, 1 sold, and 10 received"],
    ),
    "a counter is missing": (
        lambda redis, bucket, _: redis.hdel(bucket.stock, LAMP),
        ["is missing in Redis; set its stock"],
    ),
    "nothing of a counter is in Redis": (
        lambda redis, bucket, _: asyncio.gather(
            redis.hdel(bucket.stock, MUG), redis.hdel(bucket.received, MUG)
        ),
        ["is missing in Redis; set its stock"],
    ),
    "a counter is unknown": (
        lambda redis, bucket, _: redis.hset(bucket.stock, "unknown", 1),
        ["counter unknown is not known to PostgreSQL"],
    ),
    "Redis has sold more": (order_that_is_lost, ["has 2 sold in Redis, and orders have 0"]),
    "received is less than sold": (
        lambda redis, bucket, _: asyncio.gather(
            redis.hset(bucket.received, "tee/s", 2),
            redis.hset(bucket.stock, "tee/s", 2),
            redis.hdel(bucket.sold, "tee/s"),
        ),
        ["has received 2 in Redis, 4 in PostgreSQL", "has 0 sold in Redis, and orders have 3"],
    ),
    "received and held are wrong": (
        both_received_and_held,
        [
            "has received 9 in Redis, 10 in PostgreSQL",
            "has 7 free, 3 held, 1 sold, and 9 received",
            "has 3 held, and carts hold 2",
        ],
    ),
    "PostgreSQL has sold what nobody ordered": (
        lambda _, _bucket, ledger: ledger.pool.execute(
            "UPDATE stock SET sold = sold + 1 WHERE sku = $1", LAMP
        ),
        ["has 1 sold in Redis, and orders have 2", "has 2 sold, and orders have 1"],
    ),
    "a cart is not readable": (
        lambda redis, bucket, _: redis.hset(hot(bucket), f"l:{LAMP}", "{"),
        ["cart 256 is not readable"],
    ),
    "a line has no quantity": (
        lambda redis, bucket, _: redis.hdel(bucket.cart(BOB), "q:gift"),
        ["cart 512 has parts of lines, which belong to none"],
    ),
    "a hold has no line": (
        lambda redis, bucket, _: asyncio.gather(
            redis.hset(bucket.cart(BOB), "h:pin", "1763640700000 pin"),
            redis.hset(bucket.cart(BOB), "due", "1763640700000"),
            redis.zadd(bucket.holds, {bucket.cart(BOB): 1_763_640_700_000}),
            redis.zadd(bucket.holds_by_sku, {f"pin 1763640700000 pin {bucket.cart(BOB)}": 0}),
        ),
        ["has parts of lines, which belong to none"],
    ),
    "a closed cart stands as an active one": (
        lambda redis, bucket, _: redis.hset(bucket.cart(BOB), "status", "REMOVED"),
        ["is REMOVED at another place"],
    ),
    "a marker is of no cart": (
        lambda redis, bucket, _: redis.hset(bucket.cold, "user:x", "999936"),
        ["has a marker in Redis, and PostgreSQL does not have it"],
    ),
    "a marker is of another's cart": (
        lambda redis, bucket, _: redis.hset(bucket.cold, "user:x", "512"),
        ["has a marker in Redis, and is another owner's in PostgreSQL"],
    ),
    "an owner has two carts": (another_cart, ["its owner has another cart"]),
    "too little is free for an order": (
        convert_too_much,
        [
            "is active in Redis, and CONVERTED in PostgreSQL",
            "has received 2 in Redis, 3 in PostgreSQL",
            "has 0 sold in Redis, and orders have 3",
        ],
    ),
    "a price change is missing": (
        on_events("DELETE FROM price_history WHERE new_price_minor = 1300"),
        [],
    ),
    "price changes do not follow each other": (
        on_events("UPDATE price_history SET new_price_minor = 1301 WHERE new_price_minor = 1300"),
        ["line 2 of cart 256 has price 1301 by its change of version 2, and 1300 by 3"],
    ),
    "the last price is not the line's": (
        on_events("DELETE FROM price_history WHERE new_price_minor = 1400"),
        ["line 2 of cart 256 has price 1400, and by its last change 1300"],
    ),
    "something is set aside": (
        lambda _, _bucket, ledger: ledger.pool.execute(
            "INSERT INTO dead_letter (tenant, bucket, kind, cart_id, version, body, reason) "
            "VALUES ('default', 0, 'price', 7, 1, $1, 'x')",
            b'{"cart_id":7,"line_number":1,"cart_version":1,"sku":"a","old_minor":1,'
            b'"new_minor":2,"changed_ms":1}',
        ),
        ["1 rows are set aside; `cartsvc dead-letter list --tenant default` shows why"],
    ),
}


@pytest.mark.parametrize(("damage", "told"), LEFT.values(), ids=LEFT)
async def test_what_would_be_guessed_is_left(
    audited: Audited, damage: Damage, told: list[str]
) -> None:
    await damage(audited.shop.redis, audited.bucket, audited.ledger)
    found = await audited.verify()
    books = [await audited.shop.redis.hgetall(key) for key in books_of(audited.bucket)]
    done = await audited.repair()
    assert [f"{one.what} {one.detail}" for one in done.left] == found
    assert done.mended == []
    assert [await audited.shop.redis.hgetall(key) for key in books_of(audited.bucket)] == books
    assert len(found) == len(told), found
    for line, words in zip(found, told, strict=True):
        assert words in line


def books_of(bucket: Bucket) -> list[str]:
    return [bucket.stock, bucket.held, bucket.sold, bucket.received]


class Trade:
    """Everybody at once: shoppers, buyers, the worker, an operator; until `stop`."""

    def __init__(self, audited: Audited) -> None:
        self.audited, self.shop, self.bucket = audited, audited.shop, audited.bucket
        self.random = random.Random(7)
        self.done: Counter[str] = Counter()
        self.stop = False
        self.owners = [Owner("session", f"s{n}") for n in range(20)]
        self.buyers = [Owner("customer", f"c{n}") for n in range(5)]

    async def go_on(self, work: Callable[[], Awaitable[object]]) -> None:
        while not self.stop:
            with contextlib.suppress(Refused, Unavailable):
                await work()
                self.done[work.__name__] += 1
            await asyncio.sleep(0)

    async def change(self) -> None:
        owner = self.random.choice(self.owners)
        sku = self.random.choice([LAMP, MUG, "tee/m", "gift"])
        await add(self.audited, owner, (sku, self.random.randint(1, 2)))
        if self.random.random() < 0.3:
            await carts.remove(self.shop, sku, owner=owner)

    async def merge(self) -> None:
        guest, owner = self.random.choice(self.owners), self.random.choice(self.buyers)
        await self.shop.store.merge(self.bucket, guest, owner)

    async def buy(self) -> None:
        owner = self.random.choice([*self.owners, *self.buyers])
        await carts.close(self.shop, self.random.choice(["CONVERTED", "ABANDONED"]), owner)

    async def order(self) -> None:
        owner = self.random.choice(self.buyers)
        cart = await self.shop.store.peek(self.bucket, owner)
        await self.audited.archive.close(self.bucket, cart, "CONVERTED")

    async def write(self) -> None:
        await self.audited.flush()

    async def release(self) -> None:
        self.shop.clock.ms += 20_000
        await upkeep.release(self.shop.store, self.bucket)

    async def cool(self) -> None:
        walks = IdleCarts(
            self.audited.archive, self.audited.ledger, cool_after_s=60, abandon_after_s=0
        )
        await walks.cool(self.shop.store, self.bucket)

    async def price(self) -> None:
        await new_price(self.audited, self.random.randint(1, 99))

    async def deliver(self) -> None:
        stock = Stock(self.audited.ledger, self.shop.shelf, self.bucket)
        await stock.add(self.random.choice([LAMP, MUG, "tee"]), self.random.randint(1, 5))


@pytest.mark.slow
async def test_a_busy_tenant_gives_no_false_alarm(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartsvc.idle._PAUSE_S", 0)
    trade = Trade(audited)
    work = [trade.change, trade.change, trade.change, trade.merge, trade.buy, trade.order]
    work += [trade.write, trade.release, trade.cool, trade.price, trade.deliver]
    verifier = audited.verifier()
    verifier.pause_s = 0.02
    async with asyncio.TaskGroup() as going:
        for one in work:
            going.create_task(trade.go_on(one))
        for _ in range(8):
            assert told(await verifier.run()) == []
        trade.stop = True
    assert min(trade.done[one.__name__] for one in work) > 0
    await audited.write()
    assert await audited.verify() == []
    await sound(audited.shop)


async def test_a_rebuilt_tenant_has_nothing_wrong(audited: Audited) -> None:
    await audited.lose()
    await audited.warm()
    assert await audited.verify() == []
    await add(audited, IDLE, (LAMP, 1))
    assert await audited.verify() == []


async def test_a_redis_that_came_back_older_is_told_and_mended(audited: Audited) -> None:
    """Two carts are older than their rows; one of them was converted since."""
    before = {key: await audited.shop.redis.dump(key) for key in await audited.shop.redis.keys("*")}
    await add(audited, BOB, (MUG, 1))
    cart = await carts.read(audited.shop, ANN)
    await audited.archive.close(audited.bucket, cart, "CONVERTED")
    await audited.flush()
    await audited.lose()
    for key, value in before.items():
        await audited.shop.redis.restore(key, 0, value)
    assert await audited.verify() == [
        "cart 256 is active in Redis, and CONVERTED in PostgreSQL",
        "cart 512 is at version 3 in Redis, and at 4 in PostgreSQL",
        f"counter {LAMP} has 1 sold in Redis, and orders have 3",
        f"counter {MUG} has 0 sold in Redis, and orders have 3",
    ]
    assert (await audited.repair()).left == []
    await audited.write()
    assert await audited.verify() == []
    assert await carts.books(audited.shop, LAMP) == (7, 0, 3)
    assert await carts.books(audited.shop, MUG) == (47, 0, 3)


async def test_an_order_that_is_set_aside_counts_as_sold(audited: Audited) -> None:
    await audited.ledger.pool.execute(
        "ALTER TABLE cart_items ADD CONSTRAINT few CHECK (quantity <> 5)"
    )
    await add(audited, EVE, (MUG, 5))
    await audited.flush()
    await carts.close(audited.shop, owner=EVE)
    # Before a flush, the letter is the cart's as it was; behind it, the order's.
    for _ in range(2):
        [found] = await audited.verify()
        assert found.startswith("dead letters 1 rows are set aside")
        await audited.flush()


async def test_a_price_change_that_is_set_aside_is_no_gap(audited: Audited) -> None:
    await audited.ledger.pool.execute(
        "ALTER TABLE price_history ADD CONSTRAINT few CHECK (new_price_minor <> 1500)"
    )
    await new_price(audited, 15)
    await new_price(audited, 16)
    await audited.flush()
    assert [line[:12] for line in await audited.verify()] == ["dead letters"]


@pytest.mark.parametrize("body", [b"{}", b"\xff"])
@pytest.mark.parametrize("kind", ["cart", "price"])
async def test_a_letter_that_is_not_readable_is_told_as_one(
    audited: Audited, kind: str, body: bytes
) -> None:
    await set_aside(audited, kind, body)
    for left in (await audited.verify(), [one.what for one in (await audited.repair()).left]):
        assert [line[:12] for line in left] == ["dead letters"]


async def set_aside(lost: Lost, kind: str, body: bytes) -> None:
    await lost.ledger.pool.execute(
        "INSERT INTO dead_letter (tenant, bucket, kind, cart_id, version, body, reason)"
        " VALUES ('default', 0, $1, 9, 9, $2, '')",
        kind,
        body,
    )


async def test_what_an_unreadable_order_sold_is_not_guessed(audited: Audited) -> None:
    await set_aside(audited, "cart", b"{}")
    await audited.lose()
    told = "is not readable as a cart: Object missing required field `id`"
    with pytest.raises(RowsRefused, match=told):
        await audited.warm()
    assert not await audited.shop.redis.exists(audited.bucket.seq)
    await audited.ledger.pool.execute("DELETE FROM dead_letter")
    assert await audited.warm()


async def test_a_cart_over_the_cap_is_told(audited: Audited) -> None:
    verdict = await audited.verifier(max_lines=2).run()
    assert told(verdict) == ["cart 512 has 3 lines, and 2 are allowed"]


async def test_no_owner_is_told(audited: Audited) -> None:
    """A session's id is a secret."""
    for damage, _ in [*MENDED.values(), *LEFT.values()]:
        # Some do not go together.
        with contextlib.suppress(AssertionError, asyncpg.IntegrityConstraintViolationError):
            await damage(audited.shop.redis, audited.bucket, audited.ledger)
    found = " ".join(await audited.verify())
    assert "is not readable" in found
    for owner in (ANN, BOB, EVE, IDLE):
        assert owner.id not in found


async def test_where_too_much_is_wrong_it_is_broken_off(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartsvc.verify.MAX_SUSPECTS", 1)
    await audited.shop.redis.zrem(audited.bucket.holds, hot(audited.bucket))
    assert (await audited.verifier().run()).broken_off == ["carts in Redis"]


@pytest.fixture
def many_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many lines for one script, and for one page."""
    monkeypatch.setattr("cartsvc.stock_checks.MAX_HOLDS", 0)
    monkeypatch.setattr("cartsvc.held_lines._AT_ONCE", 1)


@pytest.mark.usefixtures("many_hold")
async def test_a_counter_that_many_hold_is_added_up_in_slices(audited: Audited) -> None:
    assert await audited.verify() == []
    await add(audited, BOB, (LAMP, 3))
    await audited.flush()
    assert await audited.verify() == []
    await audited.shop.redis.hincrby(audited.bucket.held, LAMP, 1)
    await audited.shop.redis.hincrby(audited.bucket.stock, LAMP, -1)
    assert await audited.verify() == [f"counter {LAMP} has 6 held, and carts hold 5"]
    assert (await audited.repair()).left == []
    assert await audited.verify() == []


@pytest.mark.parametrize(
    ("behind", "owner", "units"),
    [("of", BOB, None), ("of", ANN, 3), ("_states", BOB, None), ("_states", ANN, None)],
)
async def test_what_many_hold_is_added_up_only_while_it_stands_still(
    audited: Audited,
    monkeypatch: pytest.MonkeyPatch,
    behind: str,
    owner: Owner,
    units: int | None,
) -> None:
    """Another cart comes, or one that is there changes, behind a step."""
    lines = HeldLines(audited.shop.redis, audited.bucket)
    assert (await lines.units_at_rest(LAMP) or (0, 0))[1] == 2

    async def change() -> None:
        await add(audited, owner, (LAMP, 1))

    meanwhile(monkeypatch, lines, behind, change, before=False)
    found = await lines.units_at_rest(LAMP)
    assert (found and found[1]) == units


async def test_a_name_of_no_line_leads_to_none() -> None:
    """A score that is not 0 lets Redis find it under any counter."""

    class Odd:
        async def zrange(self, *_: object, **__: object) -> list[bytes]:
            return [b"x"]

    found = await HeldLines(Odd(), Bucket("default")).of(LAMP)
    assert [line.key for line in found] == [""]


async def test_who_is_not_there_is_not_audited(audited: Audited) -> None:
    await audited.lose()
    with pytest.raises(NotWarm):
        await audited.verifier().run()
    audited.bucket = Bucket("acme")
    with pytest.raises(UnknownTenant):
        await audited.verifier().run()


# What moves while it is looked at.


def meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    change: Callable[[], Awaitable[object]],
    *,
    before: bool = True,
) -> None:
    """Let something change just before `place` is asked for `name`, once; or just behind it."""
    ask, left = getattr(place, name), [change]

    async def and_change(*arguments: Any) -> Any:
        if before and left:
            await left.pop()()
        answer = await ask(*arguments)
        if left:
            await left.pop()()
        return answer

    monkeypatch.setattr(place, name, and_change)


async def test_a_cart_that_is_written_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change() -> None:
        await add(audited, BOB, (MUG, 1))
        await audited.flush()

    verifier = audited.verifier()
    meanwhile(monkeypatch, verifier.audit, "row_states", change)
    assert await verifier.checks[0].look([Place(audited.bucket.cart(BOB))]) == []


@pytest.mark.parametrize("written", [True, False])
async def test_an_order_that_is_made_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    async def change() -> None:
        await carts.close(audited.shop, owner=ANN)
        if written:
            await audited.flush()

    verifier = audited.verifier()
    meanwhile(monkeypatch, verifier.audit, "recorded", change)
    assert await verifier.counters.look([LAMP, MUG]) == []


async def test_an_order_that_is_written_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was dirty when it was looked for, and its row is closed by then."""
    await carts.close(audited.shop, owner=ANN)
    verifier = audited.verifier()
    meanwhile(monkeypatch, verifier.audit, "recorded", audited.flush)
    assert await verifier.counters.look([LAMP, MUG]) == []


async def test_a_cart_that_takes_units_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = audited.verifier()

    async def change() -> None:
        await add(audited, EVE, (LAMP, 1))

    meanwhile(monkeypatch, verifier.counters, "carts_with", change, before=False)
    levels = await verifier.counters.levels([LAMP])
    assert (levels[LAMP].held, levels[LAMP].in_carts) == (3, 3)


async def test_a_price_change_that_is_written_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    await new_price(audited, 15)
    backlog, ledger, bucket = audited.backlog, audited.ledger, audited.bucket
    await flush.carts(backlog, ledger, bucket, 100)
    verifier = audited.verifier()
    reads = []

    async def on_second() -> None:
        """Behind the second time that PostgreSQL is asked."""
        reads.append(1)
        meanwhile(monkeypatch, verifier.audit, "chains", audited.flush, before=False)

    meanwhile(monkeypatch, verifier.audit, "chains", on_second, before=False)
    check = verifier.checks[5]
    assert [await check.look(items) async for items in check.slices()] == [[]]
    assert reads
    assert await backlog.price_count(bucket) == 0


async def test_a_marker_whose_cart_comes_back_meanwhile_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change() -> None:
        await carts.read(audited.shop, IDLE)
        await carts.close(audited.shop, "ABANDONED", IDLE)
        await audited.flush()

    verifier = audited.verifier()
    meanwhile(monkeypatch, verifier.audit, "row_states", change)
    assert await verifier.markers.look(["user:idle"]) == []


async def test_a_row_that_is_closed_meanwhile_is_not_told(audited: Audited) -> None:
    cart = await audited.shop.store.peek(audited.bucket, BOB)
    await carts.close(audited.shop, "ABANDONED", BOB)
    await audited.flush()
    assert await audited.verifier().checks[1].look([(cart.id, BOB)]) == []


async def test_what_is_wrong_only_once_is_not_told(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery is recorded in PostgreSQL, and on its way to Redis."""
    await audited.ledger.pool.execute("UPDATE stock SET received = 11 WHERE sku = $1", LAMP)
    verifier = audited.verifier()
    look, found = verifier.counters.look, []

    async def look_and_arrive(skus: Sequence[str]) -> list[Finding]:
        wrong = await look(skus)
        found.append(len(wrong))
        if len(found) == 4:
            await audited.shop.shelf.add_stock(audited.bucket, LAMP, 1)
        return wrong

    monkeypatch.setattr(verifier.counters, "look", look_and_arrive)
    assert (await verifier.run()).findings == []
    assert sum(found) > 1


# What a script finds otherwise than the audit did, it leaves.


async def test_a_counter_that_moved_is_left(audited: Audited) -> None:
    shop, counters = audited.shop, audited.verifier().counters
    keys = counters.keys(await counters.carts_with(LAMP))

    async def mend(keys: list[str], *arguments: int) -> int:
        done: int = await shop.runner.run("counter_mend", keys, [LAMP, *arguments])
        return done

    before = await shop.everything()
    assert await mend(counters.keys([]), 10, 1, 1) == 0  # A cart came in between.
    assert await mend(keys, 9, 1, 1) == 0  # PostgreSQL has received others.
    assert await mend(keys, 10, 0, 1) == 0  # One more was sold.
    assert await mend(keys, 10, 1, 0) == 0  # Fewer, never.
    assert await mend(keys, 10, 1, 9) == 0  # More than there are.
    assert await shop.everything() == before
    assert await mend(keys, 10, 1, 8) == 1
    await shop.redis.hset(audited.bucket.stock, LAMP, -1)
    assert await mend(keys, 10, 8, 8) == 0  # Nobody knows why it is negative.


async def test_a_cart_that_moved_is_not_forgotten(audited: Audited) -> None:
    shop = audited.shop
    cart = await shop.store.peek(audited.bucket, ANN)
    before = await shop.everything()
    for other in (replace(cart, id=512), replace(cart, version=cart.version + 1)):
        assert not await shop.store.forget(audited.bucket, other, {})
    assert not await shop.store.forget(audited.bucket, cart, {LAMP: (0, 1)})
    assert not await shop.store.forget(audited.bucket, cart, {LAMP: (1, 10)})
    assert not await shop.store.forget(audited.bucket, cart, {"none": (0, 1)})
    assert await shop.everything() == before
    # What it held is free for what it sold.
    assert await shop.store.forget(audited.bucket, cart, {LAMP: (1, 9)})
    assert await carts.books(shop, LAMP) == (0, 0, 10)


@pytest.mark.parametrize("owner", [ANN, IDLE])
async def test_an_owner_who_has_a_cart_gets_no_marker(audited: Audited, owner: Owner) -> None:
    bucket = audited.bucket
    keys = [bucket.seq, bucket.carts, bucket.cold, bucket.cart(owner)]
    before = await audited.shop.everything()
    for cart_id in (256, 999_936):
        arguments: list[Argument] = [bucket.marked(owner), cart_id]
        assert await audited.shop.runner.run("cart_mark", keys, arguments) == 0
    assert await audited.shop.everything() == before


async def test_a_closed_cart_that_waits_gets_no_marker(audited: Audited) -> None:
    """Its row is active until it is flushed."""
    bucket = audited.bucket
    await carts.close(audited.shop, "ABANDONED", BOB)
    keys = [bucket.seq, bucket.carts, bucket.cold, bucket.cart(BOB)]
    assert await audited.shop.runner.run("cart_mark", keys, ["session:bob", 512]) == 0
    assert await audited.verify() == []


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("counter_look", [LAMP]),
        ("counter_mend", [LAMP, 10, 1, 1]),
        ("cart_mend", [1, "", ""]),
        ("cart_mark", ["user:x", 1]),
    ],
)
async def test_a_bucket_that_is_being_rebuilt_is_left_alone(
    audited: Audited, script: str, arguments: list[Argument]
) -> None:
    await audited.shop.redis.delete(audited.bucket.seq)
    before = await audited.shop.everything()
    keys = [audited.bucket.seq, *(f"{{default:0}}:{n}" for n in range(7))]
    with pytest.raises(NotWarm):
        await audited.shop.runner.run(script, keys, arguments)
    with pytest.raises(NotWarm):
        await audited.shop.store.forget(audited.bucket, NO_CART, {})
    assert await audited.shop.everything() == before


NO_CART = Cart(1, ANN, "ACTIVE", 1, 0, 0, 0, [])

GUARDS = [
    ("counter_mend.lua", "units_free < 0 or ", "", test_a_counter_that_moved_is_left),
    (
        "counter_mend.lua",
        "units_received ~= recorded\n  or ",
        "",
        test_a_counter_that_moved_is_left,
    ),
    (
        "counter_mend.lua",
        "\n  or units_sold ~= tonumber(sold_seen)",
        "",
        test_a_counter_that_moved_is_left,
    ),
    ("counter_mend.lua", "rest < 0 or ", "", test_a_counter_that_moved_is_left),
    (
        "counter_mend.lua",
        " or tonumber(sold_next) < units_sold",
        "",
        test_a_counter_that_moved_is_left,
    ),
    ("cart_forget.lua", "cart.id ~= cart_id or ", "", test_a_cart_that_moved_is_not_forgotten),
    (
        "cart_forget.lua",
        " or cart.version - 1 ~= tonumber(version)",
        "",
        test_a_cart_that_moved_is_not_forgotten,
    ),
    (
        "cart_forget.lua",
        "units_free + (freed[counter] or 0) < units",
        "false",
        test_a_cart_that_moved_is_not_forgotten,
    ),
    (
        "cart_forget.lua",
        "(redis.call('HGET', sold, counter) or '0') ~= ARGV[i + 1]",
        "false",
        test_a_cart_that_moved_is_not_forgotten,
    ),
    (
        "cart_mark.lua",
        "redis.call('HEXISTS', carts, cart_id) == 1 or ",
        "",
        test_a_closed_cart_that_waits_gets_no_marker,
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "case"), GUARDS)
async def test_guards_of_the_scripts(
    audited: Audited, file: str, old: str, new: str, case: Callable[[Audited], Awaitable[None]]
) -> None:
    runner = Mutant(audited.shop.runner, file, old, new)
    audited.shop.runner = audited.shop.store.runner = runner
    await turns_red(case(audited))
