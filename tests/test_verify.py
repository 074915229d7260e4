"""The audit of a tenant: what is wrong is found, and mended where it is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from cartsvc import upkeep
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Owner
from cartsvc.repair import Repair, Repaired
from cartsvc.verify import Verdict, Verifier
from tests import carts
from tests.carts import BOB, sound
from tests.shop import ANN, LAMP, MUG
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
