"""What the worker does beside the flush: holds that have run out, and new prices."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartsvc import upkeep, worker
from cartsvc.backlog import Backlog
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner, StockLevel
from cartsvc.store import Store
from cartsvc.worker import Worker
from tests.shop import ANN, LAMP, MUG, Shop
from tests.wait import LONGEST_S, wait_until


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "REPRICE_CARTS", 5)
    monkeypatch.setattr(upkeep, "RELEASE_CARTS", 5)


def shopper(number: int) -> Owner:
    return Owner("session", f"shopper-{number:03d}")


async def fill(shop: Shop, *lines: LineRequest, carts: int = 13) -> list[Owner]:
    owners = [shopper(number) for number in range(carts)]
    for owner in owners:
        await shop.add_lines(*(lines or [LineRequest(LAMP, 1)]), owner=owner)
    return owners


async def prices(shop: Shop, owners: list[Owner], sku: str = LAMP) -> set[int]:
    carts = [await shop.store.read(shop.bucket, owner) for owner in owners]
    return {line.price_minor for cart in carts for line in cart.lines if line.sku == sku}


async def events(shop: Shop) -> Counter[tuple[bytes, bytes, bytes]]:
    """(cart, line, new price) of every price change."""
    entries = [event for _, event in await shop.redis.xrange(shop.bucket.prices)]
    return Counter((event[b"cart"], event[b"line"], event[b"new"]) for event in entries)


async def finish(work: Callable[[Store, Bucket], Awaitable[int]], shop: Shop) -> int:
    """Work until there is nothing to do; how much there was."""
    done = 0
    while found := await work(shop.store, shop.bucket):
        done += found
    return done


class TestRelease:
    async def test_takes_every_hold_that_has_run_out(self, either_shop: Shop) -> None:
        shop = either_shop
        await shop.sell(stock=100, stock_policy="hold", hold_ttl_s=10)
        await shop.sell(MUG, stock=100, stock_policy="hold", hold_ttl_s=20)
        owners = await fill(shop, LineRequest(LAMP, 2), LineRequest(MUG, 1))
        shop.clock.ms += 9_999
        assert await finish(upkeep.release, shop) == 0
        shop.clock.ms += 1
        assert await finish(upkeep.release, shop) == 13
        assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 100, 0, 0)
        assert await shop.shelf.stock(shop.bucket, MUG) == StockLevel(MUG, 87, 13, 0)
        cart = await shop.store.read(shop.bucket, owners[0])
        assert ([line.sku for line in cart.lines], cart.version) == ([MUG], 2)
        assert [(told.sku, told.quantity) for told in cart.notices] == [(LAMP, 2)]
        scores = dict(await shop.redis.zrange(shop.bucket.holds, 0, -1, withscores=True))
        assert set(scores.values()) == {shop.clock.ms + 10_000}

    async def test_leaves_out_of_a_script_what_would_block_redis(self, shop: Shop) -> None:
        """A cart has more due lines than one script may take: the others take none meanwhile."""
        skus = [f"p{number}" for number in range(60)]
        shop.store.max_lines = 100
        for sku in skus:
            await shop.sell(sku, stock=10, stock_policy="hold")
        await shop.add_lines(*(LineRequest(sku, 1) for sku in skus))
        shop.clock.ms += 600_000
        keys = [shop.bucket.cart(ANN)]
        assert await shop.store.release(shop.bucket, keys) == 50
        assert await finish(upkeep.release, shop) == 10
        assert await shop.redis.exists(shop.bucket.holds, shop.bucket.holds_by_sku) == 0

    async def test_a_released_line_is_flushed(self, open_shop: Shop, ledger: Ledger) -> None:
        await open_shop.sell(stock=5, stock_policy="hold")
        await open_shop.add(2)
        flushing = worker_of(open_shop, ledger)
        await flushing.run_once()
        held = await ledger.active_cart("default", ANN)
        assert held
        assert held.lines[0].held_until_ms == open_shop.clock.ms + 600_000
        open_shop.clock.ms += 600_000
        await finish(upkeep.release, open_shop)
        await flushing.run_once()
        cart = await ledger.active_cart("default", ANN)
        assert cart
        assert (cart.version, cart.lines) == (2, [])

    async def test_what_stands_wrongly_in_the_index_does_not_stop_it(self, shop: Shop) -> None:
        await shop.sell(stock=100, stock_policy="hold")
        await fill(shop)
        shop.clock.ms += 600_000
        gone = {f"cart:{{default:0}}:session:a{number}": 1 for number in range(12)}
        await shop.redis.zadd(shop.bucket.holds, gone)
        await shop.redis.hset(shop.bucket.cart(shopper(3)), f"l:{LAMP}", "not JSON")
        released = 0
        # A batch of nothing but wrong entries ends a look, and clears them away.
        while more := await finish(upkeep.release, shop) or await shop.redis.zcard(
            shop.bucket.holds
        ):
            released += more
        assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 100, 0, 0)

    async def test_what_is_no_text_in_the_index_is_cleared_away(self, shop: Shop) -> None:
        await shop.sell(stock=100, stock_policy="hold")
        await fill(shop)
        shop.clock.ms += 600_000
        strange = {b"cart:{default:0}:session:\xff%d" % number: 1 for number in range(5)}
        await shop.redis.zadd(shop.bucket.holds, strange)
        assert await finish(upkeep.release, shop) == 0
        assert await finish(upkeep.release, shop) == 13
        assert await shop.redis.zcard(shop.bucket.holds) == 0

    async def test_a_hold_that_is_not_readable_ends_once(self, shop: Shop) -> None:
        """By somebody else's hand; the units are for an audit to find, not for a loop."""
        await shop.sell(stock=100, stock_policy="hold")
        await fill(shop)
        await shop.redis.hset(shop.bucket.cart(shopper(3)), f"h:{LAMP}", "never")
        shop.clock.ms += 600_000
        assert await finish(upkeep.release, shop) == 13
        assert await finish(upkeep.release, shop) == 0
        cart = await shop.store.read(shop.bucket, shopper(3))
        assert (cart.version, cart.lines, len(cart.notices)) == (2, [], 1)
        assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 99, 1, 0)

    async def test_two_at_once_release_once(self, shop: Shop) -> None:
        await shop.sell(stock=100, stock_policy="hold")
        await fill(shop, carts=40)
        shop.clock.ms += 600_000
        adding = asyncio.create_task(shop.add_lines(LineRequest(LAMP, 100), owner=ANN))
        done = await asyncio.gather(
            *(finish(upkeep.release, shop) for _ in range(3)),
        )
        await adding
        assert sum(done) <= 40
        assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 0, 100, 0)


class TestReprice:
    async def test_reaches_every_cart_once(self, either_shop: Shop) -> None:
        shop = either_shop
        await shop.sell(price="5.00")
        await shop.sell(LAMP + "0", price="5.00")
        owners = await fill(shop, LineRequest(LAMP, 1), LineRequest(LAMP + "0", 1))
        await shop.store.save_for_later(shop.bucket, owners[1], LAMP)
        await shop.store.remove(shop.bucket, owners[2], LAMP)
        await shop.store.close(shop.bucket, owners[3], "ABANDONED")
        await shop.sell(price="4.00")
        assert await finish(upkeep.reprice, shop) == 11
        assert await finish(upkeep.reprice, shop) == 0
        active = [owner for owner in owners if owner != owners[3]]
        assert await prices(shop, active) == {400}
        assert await prices(shop, active, LAMP + "0") == {500}
        assert set((await events(shop)).values()) == {1}
        assert len(await events(shop)) == 11
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    async def test_what_is_no_text_among_the_holders_does_not_stop_it(self, shop: Shop) -> None:
        await shop.sell(price="5.00")
        owners = await fill(shop)
        strange = {b"%b cart:{default:0}:\xff%d" % (LAMP.encode(), n): 0 for n in range(7)}
        await shop.redis.zadd(shop.bucket.holders, strange)
        await shop.sell(price="4.00")
        await finish(upkeep.reprice, shop)
        assert await prices(shop, owners) == {400}
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    async def test_a_price_nobody_holds_asks_for_no_walk(self, shop: Shop) -> None:
        await shop.sell(price="5.00")
        await shop.sell(price="4.00")
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    async def test_the_same_price_again_asks_for_no_walk(self, shop: Shop) -> None:
        await shop.sell(price="5.00")
        await fill(shop)
        await shop.sell(price="5.00", name="Another name")
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    @pytest.mark.parametrize("batches", [0, 1, 2])
    async def test_broken_off_it_goes_on_there(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, batches: int
    ) -> None:
        """The worker dies before a batch: none of those before it is done again."""
        await shop.sell(price="5.00")
        owners = await fill(shop)
        await shop.sell(price="4.00")
        left = [batches]
        reprice = Store.reprice

        async def dies(*arguments: Any, **named: Any) -> int:
            if not left[0]:
                raise asyncio.CancelledError
            left[0] -= 1
            return await reprice(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "reprice", dies)
            with pytest.raises(asyncio.CancelledError):
                await finish(upkeep.reprice, shop)
        assert sum((await events(shop)).values()) == 5 * batches
        assert await finish(upkeep.reprice, shop) == 13 - 5 * batches
        assert await prices(shop, owners) == {400}
        assert set((await events(shop)).values()) == {1}

    async def test_a_price_that_changes_again_meanwhile(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await shop.sell(price="5.00")
        owners = await fill(shop)
        await shop.sell(price="4.00")
        reprice, times = Store.reprice, Counter[str]()

        async def meanwhile(*arguments: Any, **named: Any) -> int:
            changed = await reprice(*arguments, **named)
            times["batches"] += 1
            if times["batches"] == 2:
                await shop.sell(price="3.00")
            return changed

        monkeypatch.setattr(Store, "reprice", meanwhile)
        while await shop.redis.exists(shop.bucket.repricing):
            await finish(upkeep.reprice, shop)
        assert await prices(shop, owners) == {300}
        # Ten had 4.00 in between; nobody has an event twice.
        found = await events(shop)
        assert Counter(new for _, _, new in found) == {b"400": 10, b"300": 13}
        assert set(found.values()) == {1}

    async def test_the_walk_begins_again(self, shop: Shop) -> None:
        """A walk that is late, and whose price is not the last any more, moves no mark."""
        await shop.sell(price="5.00")
        carts = [shop.bucket.cart(owner) for owner in await fill(shop)]
        await shop.sell(price="4.00")
        walk = {"done": "", "next_done": carts[4]}
        assert await shop.store.reprice(shop.bucket, LAMP, carts[:5], **walk) == 5
        assert await shop.redis.hget(shop.bucket.repricing, LAMP) == carts[4].encode()
        await shop.sell(price="3.00")
        late = {"done": carts[4], "next_done": ""}
        assert await shop.store.reprice(shop.bucket, LAMP, carts[5:], **late) == 8
        assert await shop.redis.hget(shop.bucket.repricing, LAMP) == b""

    async def test_carts_that_change_at_the_same_moment(self, shop: Shop) -> None:
        await shop.sell(price="5.00", stock=10_000)
        owners = await fill(shop, carts=60)
        await shop.sell(price="4.00", stock=10_000)

        async def shopping(owner: Owner) -> None:
            await shop.add_lines(LineRequest(LAMP, 1), owner=owner)

        await asyncio.gather(
            finish(upkeep.reprice, shop),
            finish(upkeep.reprice, shop),
            *(shopping(owner) for owner in reversed(owners)),
        )
        assert await prices(shop, owners) == {400}
        assert set((await events(shop)).values()) == {1}
        assert len(await events(shop)) == 60

    async def test_a_line_that_is_not_readable_does_not_stop_it(self, shop: Shop) -> None:
        await shop.sell(price="5.00")
        owners = await fill(shop)
        await shop.redis.hset(shop.bucket.cart(owners[3]), f"l:{LAMP}", "not JSON")
        await shop.sell(price="4.00")
        await finish(upkeep.reprice, shop)
        assert sum((await events(shop)).values()) == 12
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    async def test_a_variant_that_comes_back_brings_its_price(self, shop: Shop) -> None:
        await shop.sell("tee", price="5.00", variants=[("s", None)])
        owners = await fill(shop, LineRequest("tee", 1, "s"), carts=2)
        await shop.sell("tee", price="5.00")
        await shop.sell("tee", price="4.00", variants=[("s", None)])
        await finish(upkeep.reprice, shop)
        assert await prices(shop, owners, "tee/s") == {400}

    async def test_a_variant_that_left_keeps_its_price(self, shop: Shop) -> None:
        await shop.sell("tee", price="5.00", variants=[("s", None)])
        await fill(shop, LineRequest("tee", 1, "s"), carts=2)
        await shop.sell("tee", price="4.00", variants=[("s", None)])
        await shop.sell("tee", price="4.00")
        await finish(upkeep.reprice, shop)
        assert await events(shop) == {}
        assert await shop.redis.exists(shop.bucket.repricing) == 0

    async def test_a_short_walk_does_not_wait_for_a_long_one(self, shop: Shop) -> None:
        await shop.sell(price="5.00")
        await shop.sell(MUG, price="5.00")
        owners = await fill(shop)
        await shop.add(1, MUG)
        await shop.sell(price="4.00")
        await shop.sell(MUG, price="4.00")
        await upkeep.reprice(shop.store, shop.bucket)
        assert await prices(shop, [ANN], MUG) == {400}
        assert await prices(shop, owners) == {400, 500}


def worker_of(shop: Shop, ledger: Ledger) -> Worker:
    return Worker(shop.store, Backlog(shop.runner), ledger, batch=100, interval_s=0.01)


@contextlib.asynccontextmanager
async def running(one: Worker) -> Any:
    stop = asyncio.Event()
    loop = asyncio.create_task(one.run_forever(stop))
    yield
    stop.set()
    await loop


class TestWorker:
    async def test_releases_and_reprices_by_itself(self, open_shop: Shop, ledger: Ledger) -> None:
        await open_shop.sell(MUG, price="12.50", stock=5, stock_policy="hold")
        await open_shop.add_lines(LineRequest(LAMP, 1), LineRequest(MUG, 2))
        await open_shop.sell(price="1.00")
        open_shop.clock.ms += 600_000
        async with running(worker_of(open_shop, ledger)):
            # With the release and the new price flushed as well.
            async def flushed() -> tuple[int, list[tuple[str, int]]]:
                cart = await ledger.active_cart("default", ANN)
                lines = cart.lines if cart else []
                return len(lines), [(line.sku, line.price_minor) for line in lines]

            await wait_until(flushed, (1, [(LAMP, 100)]))
            count = "SELECT count(*) FROM price_history"
            await wait_until(lambda: ledger.pool.fetchval(count), 1)

    async def test_a_release_without_end_does_not_keep_the_flush(
        self, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def endless(*_: Any) -> int:
            await asyncio.Event().wait()
            return 0

        monkeypatch.setattr(upkeep, "release", endless)
        monkeypatch.setattr(upkeep, "reprice", endless)
        async with running(worker_of(open_shop, ledger)):
            await open_shop.add()
            await wait_until(lambda: ledger.pool.fetchval("SELECT count(*) FROM carts"), 1)

    async def test_stops_in_the_middle_of_a_sweep(
        self, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when the client swallows the cancellation, as a wait of its own may."""
        begun = asyncio.Event()

        async def swallows(*_: Any) -> int:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return 1

        monkeypatch.setattr(upkeep, "release", swallows)
        stop = asyncio.Event()
        one = worker_of(open_shop, ledger)
        one.buckets = [open_shop.bucket]
        await open_shop.add()
        running = asyncio.create_task(one.run_forever(stop))
        await begun.wait()
        stop.set()
        async with asyncio.timeout(LONGEST_S):
            assert await running
        assert await ledger.pool.fetchval("SELECT count(*) FROM carts") == 1

    async def test_a_bucket_that_fails_keeps_no_other_from_its_turn(
        self, open_shop: Shop, ledger: Ledger, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = Bucket("broken")
        await open_shop.redis.set(broken.seq, 0)
        await open_shop.redis.set(broken.holds, "no zset")
        await open_shop.sell(MUG, stock=100, stock_policy="hold")
        await open_shop.add(2, MUG)
        open_shop.clock.ms += 600_000
        one = worker_of(open_shop, ledger)
        one.buckets = [broken, open_shop.bucket]
        await ledger.open_bucket(broken)
        async with running(one):
            level = StockLevel(MUG, 100, 0, 0)
            await wait_until(lambda: open_shop.shelf.stock(open_shop.bucket, MUG), level)
        told = [text for text in caplog.messages if text.startswith("release of")]
        assert len(told) == 1

    async def test_holds_are_released_before_postgres_was_there(self, shop: Shop) -> None:
        nowhere = await Ledger.connect("postgresql://postgres@127.0.0.1:1/cartsvc")
        await shop.sell(stock_policy="hold")
        await shop.add(2)
        shop.clock.ms += 600_000
        one = Worker(
            shop.store,
            Backlog(shop.runner),
            nowhere,
            batch=100,
            interval_s=0.01,
            buckets=[shop.bucket],
        )
        async with running(one):
            level = StockLevel(LAMP, 100, 0, 0)
            await wait_until(lambda: shop.shelf.stock(shop.bucket, LAMP), level)
        await nowhere.close()

    async def test_holds_are_released_while_postgres_is_away(
        self, open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "RELEASE_INTERVAL_S", 0.01)
        await open_shop.sell(MUG, stock=5, stock_policy="hold")
        one = worker_of(open_shop, ledger)
        async with running(one):
            await wait_until(lambda: bool(one.buckets))
            with monkeypatch.context() as patch:

                async def away(*_: Any) -> Any:
                    raise ConnectionRefusedError

                patch.setattr(Ledger, "buckets", away)
                await open_shop.add(2, MUG)
                open_shop.clock.ms += 600_000
                level = StockLevel(MUG, 100, 0, 0)
                await wait_until(lambda: open_shop.shelf.stock(open_shop.bucket, MUG), level)
