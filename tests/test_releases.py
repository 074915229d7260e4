"""Making way for those who want units whose holds have run out."""

import asyncio
from collections.abc import Sequence

import pytest

from cartsvc.errors import HoldsDue, OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.model import LineRequest, Owner, StockLevel
from cartsvc.releases import Releases
from cartsvc.scripts import Key
from tests.shop import LAMP, Shop

BUCKET = Bucket("default")


class Holds:
    """So many carts with a hold on each counter; a release waits until it is let go."""

    def __init__(self, **counters: int) -> None:
        self.left = {
            counter: [f"{counter}-{number}".encode() for number in range(many)]
            for counter, many in counters.items()
        }
        self.go = asyncio.Event()
        self.released: list[bytes] = []

    async def find(self, _: Bucket, counter: str) -> list[bytes]:
        return self.left[counter][:10]

    async def release(self, _: Bucket, carts: list[bytes]) -> int:
        await self.go.wait()
        for cart in carts:
            self.left[cart.partition(b"-")[0].decode()].remove(cart)
        self.released += carts
        return len(carts)


async def waiting(releases: Releases, *counters: str) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(releases.make_way(BUCKET, counter)) for counter in counters]
    await asyncio.wait(tasks, timeout=0)  # All have begun.
    return tasks


async def test_as_many_are_released_as_wait() -> None:
    holds = Holds(lamp=100)
    tasks = await waiting(Releases(holds.find, holds.release), *["lamp"] * 35)
    holds.go.set()
    assert await asyncio.gather(*tasks) == [True] * 35
    assert len(holds.released) == 40


async def test_each_counter_has_a_release_of_its_own() -> None:
    holds = Holds(lamp=5, mug=5)
    releases = Releases(holds.find, holds.release)
    lamp, mug = await waiting(releases, "lamp", "mug")
    holds.go.set()
    assert (await lamp, await mug) == (True, True)
    assert len(holds.released) == 10
    # Nothing is under way any more: the next one finds that there is nothing left.
    assert await releases.make_way(BUCKET, "lamp")


async def test_whoever_leaves_keeps_nobody_waiting() -> None:
    holds = Holds(lamp=5)
    first, second = await waiting(Releases(holds.find, holds.release), "lamp", "lamp")
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    holds.go.set()
    assert await second


async def test_everybody_hears_that_it_failed() -> None:
    async def away(*_: object) -> int:
        raise OutcomeUnknown("away")

    holds = Holds(lamp=5)
    tasks = await waiting(Releases(holds.find, away), "lamp", "lamp")
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, OutcomeUnknown)


async def test_what_is_not_to_be_released_ends_it() -> None:
    async def none(*_: object) -> int:
        return 0

    holds = Holds(lamp=5)
    assert not await Releases(holds.find, none).make_way(BUCKET, "lamp")


async def test_a_hold_whose_cart_is_lost_is_not_asked_for_again_and_again(
    either_shop: Shop,
) -> None:
    """Somebody removed the cart by hand: neither sold out nor free is true."""
    await either_shop.sell(stock=2, stock_policy="hold")
    await either_shop.add(2)
    await either_shop.redis.delete("cart:{default:0}:session:ann")
    either_shop.clock.ms += 600_000
    with pytest.raises(HoldsDue):
        await either_shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "bob"))
    level = await either_shop.shelf.stock(either_shop.bucket, LAMP)
    assert level == StockLevel(LAMP, 0, 2, 0)


async def test_a_release_that_somebody_else_did_is_none_that_failed(either_shop: Shop) -> None:
    """The worker is faster with the shopper's own cart, and another one is in the way next."""
    bob = Owner("session", "bob")
    await either_shop.sell(stock=2, stock_policy="hold")
    await either_shop.add(1)
    await either_shop.add_lines(LineRequest(LAMP, 1), owner=bob)
    either_shop.clock.ms += 600_000
    store, release = either_shop.store, either_shop.store.release

    async def second(bucket: Bucket, carts: Sequence[Key]) -> int:
        await release(bucket, carts)
        return await release(bucket, carts)

    store.release = second  # type: ignore[method-assign]
    assert (await either_shop.add(2)).total_quantity == 2


async def test_what_is_no_text_in_the_index_keeps_none_waiting(shop: Shop) -> None:
    await shop.sell(stock=2, stock_policy="hold")
    await shop.add(2)
    strange = f"{LAMP} {shop.clock.ms} {LAMP} cart:{{default:0}}:session:".encode() + b"\xff"
    await shop.redis.zadd(shop.bucket.holds_by_sku, {strange: 0})
    shop.clock.ms += 600_000
    cart = await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("session", "bob"))
    assert cart.total_quantity == 1
    assert await shop.shelf.stock(shop.bucket, LAMP) == StockLevel(LAMP, 1, 1, 0)
