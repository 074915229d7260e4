"""What a process remembers as sold out: a moment, never longer than it may be true."""

from typing import Any

import pytest

from cartsvc.app import store_of
from cartsvc.errors import OutOfStock, SoldOut
from cartsvc.keys import Bucket
from cartsvc.model import LineRequest, Owner
from cartsvc.settings import Settings
from cartsvc.store import Store
from tests.mutants import turns_red
from tests.shop import ANN, LAMP, MUG, NOW_MS, Shop

BOB = Owner("session", "bob")
CAT = Owner("session", "cat")
HOLD_MS = 600_000


@pytest.fixture
async def sale(shop: Shop) -> Shop:
    """A shop that remembers, with two lamps on hold policy, of which Ann holds both."""
    shop.store = Store(
        shop.runner, max_lines=50, sold_out_memory_ms=1_000, clock_ms=shop.clock, hold_ttl_s=600
    )
    await shop.sell(stock=2, stock_policy="hold")
    await shop.sell(MUG, stock=1)
    await shop.add(2)
    return shop


async def scripts_run(shop: Shop) -> int:
    stats: dict[str, Any] = await shop.redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def is_asked(shop: Shop, owner: Owner = BOB, *lines: LineRequest) -> bool:
    """Whether Redis is asked for an add that is refused as sold out."""
    before = await scripts_run(shop)
    with pytest.raises(SoldOut):
        await shop.add_lines(*(lines or [LineRequest(LAMP, 1)]), owner=owner)
    return await scripts_run(shop) > before


async def test_the_second_who_asks_costs_redis_nothing(sale: Shop) -> None:
    assert await is_asked(sale)
    assert not await is_asked(sale, CAT)
    assert not await is_asked(sale, CAT, LineRequest(MUG, 1), LineRequest(LAMP, 1))


async def test_the_answer_is_the_scripts(sale: Shop) -> None:
    told = []
    for owner in (BOB, CAT):
        with pytest.raises(OutOfStock) as refused:
            await sale.add_lines(LineRequest(LAMP, 1), owner=owner)
        told.append((str(refused.value.sku), refused.value.free, refused.value.in_cart))
    assert told == [(LAMP, 0, 0)] * 2


async def test_it_is_forgotten_after_its_time(sale: Shop) -> None:
    assert await is_asked(sale)
    sale.clock.ms += 999
    assert not await is_asked(sale)
    sale.clock.ms += 1
    assert await is_asked(sale)


async def test_it_ends_with_the_first_hold(sale: Shop) -> None:
    sale.clock.ms = NOW_MS + HOLD_MS - 300
    assert await is_asked(sale)
    sale.clock.ms += 300
    # Ann's hold has run out: nobody is told "sold out" while that keeps the units.
    assert (await sale.add_lines(LineRequest(LAMP, 2), owner=BOB)).total_quantity == 2


async def test_a_clock_that_steps_back_does_not_prolong_it(sale: Shop) -> None:
    assert await is_asked(sale)
    sale.clock.ms -= 3_600_000
    assert await is_asked(sale)


async def test_what_this_process_frees_is_there_at_once(sale: Shop) -> None:
    assert await is_asked(sale)
    await sale.store.set_quantity(sale.bucket, ANN, LAMP, 1)
    assert (await sale.add_lines(LineRequest(LAMP, 1), owner=BOB)).total_quantity == 1


async def test_what_was_asked_before_units_came_free_is_not_remembered(sale: Shop) -> None:
    known = sale.store.sold_out.of(sale.bucket)
    await sale.store.remove(sale.bucket, ANN, LAMP)
    sale.store.sold_out.remember(known, SoldOut(LAMP, 0))
    assert (await sale.add_lines(LineRequest(LAMP, 1), owner=BOB)).total_quantity == 1


async def test_an_owner_who_holds_some_is_told_of_them(sale: Shop) -> None:
    with pytest.raises(OutOfStock) as refused:
        await sale.add_lines(LineRequest(LAMP, 1), owner=ANN)
    assert refused.value.in_cart == 2
    # Which says nothing of others, so nothing was remembered.
    assert await is_asked(sale)


async def test_what_is_only_checked_is_asked_each_time(sale: Shop) -> None:
    await sale.shelf.set_stock(sale.bucket, MUG, 0)
    for owner in (BOB, CAT):
        before = await scripts_run(sale)
        with pytest.raises(OutOfStock):
            await sale.add_lines(LineRequest(MUG, 1), owner=owner)
        assert await scripts_run(sale) > before


async def test_another_bucket_is_another_matter(sale: Shop) -> None:
    assert await is_asked(sale)
    other = type(sale.bucket)("acme")
    assert sale.store.sold_out.of(other) == {}
    sale.store.sold_out.forget(other)
    assert not await is_asked(sale)


async def test_it_has_an_end(sale: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants and SKUs are what requests name."""
    monkeypatch.setattr("cartsvc.sold_out._MOST", 3)
    memory = sale.store.sold_out
    for name in "abcdefgh":
        memory.remember(memory.of(Bucket("acme")), SoldOut(name, 0))
        memory.of(Bucket(name))
    assert len(memory._buckets) <= 3
    memory.remember(memory.of(sale.bucket), SoldOut(LAMP, 0))
    for name in "abc":
        memory.remember(memory.of(sale.bucket), SoldOut(name, 0))
    assert len(memory.of(sale.bucket)) <= 3
    assert await is_asked(sale)


async def test_without_a_memory_it_asks_each_time(sale: Shop) -> None:
    sale.store.sold_out.memory_ms = 0
    assert await is_asked(sale)
    assert await is_asked(sale)


async def test_the_service_remembers_for_a_second(sale: Shop) -> None:
    assert store_of(Settings(), sale.runner).sold_out.memory_ms == 1_000


async def test_guards(sale: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without forgetting, what this process frees would be there a second later."""
    monkeypatch.setattr(sale.store.sold_out, "forget", lambda _: None)
    await turns_red(test_what_this_process_frees_is_there_at_once(sale))
