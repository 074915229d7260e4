"""API and worker are killed, and a worker is not alone."""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.chaos.broken import POINTS, edited
from loadtests.chaos.faults.fault import ENDLESS, Load, Result, ended, result_of
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import PLENTY, Place, opened, row
from loadtests.chaos.shoppers import Habits, crowd


async def killed_processes(scale: float, tree: Path | None = None) -> Result:
    """API and worker are killed with SIGKILL, again and again, under load."""
    kills = max(2, int(50 * scale))
    async with opened(tree=tree) as place:
        products = await place.stock_up(20)
        await place.start()
        journal = Journal()
        chance = random.Random(1)
        habits = Habits(ENDLESS, products)
        load = Load(place, journal, habits)
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            if number % 2:
                await asyncio.to_thread(place.kill_workers)
                await asyncio.to_thread(place.start_worker)
            else:
                await asyncio.to_thread(place.kill_api)
                await asyncio.to_thread(place.start_api)
        result = await ended("API and worker killed", place, load)
        result.notes.append(f"{kills} kills")
        return result


async def killed_at_points(scale: float, tree: Path | None = None) -> Result:
    """Processes kill themselves where it hurts most; somebody starts them again."""
    async with opened() as place:
        products = await place.stock_up(10)
        journal = Journal()
        with tempfile.TemporaryDirectory(prefix="cartsvc-points-") as name:
            trees = [tree] if tree else []
            for point, edit in {} if tree else POINTS.items():
                folder = Path(name) / point.replace(" ", "-")
                trees.append(edited([edit], folder))
            kills = 0
            for seed, place.tree in enumerate(trees):
                kills += await _until_killed(place, journal, products, seed, max(2, int(3 * scale)))
        await asyncio.to_thread(place.stop)
        place.tree = None
        await place.start()
        result = await result_of("killed at named points", place, journal)
        result.notes.append(f"{kills} kills at {len(trees)} points")
        return result


async def _until_killed(
    place: Place, journal: Journal, products: Sequence[str], seed: int, kills: int
) -> int:
    """Shop until processes have ended that often, starting them again."""
    load = Load(place, journal, Habits(ENDLESS, products, converts=0.3), seed)
    seen = 0
    for number in range(10**6):
        if number % 20 == 0:
            await place.sell(*(row(sku, PLENTY) | {"price": 20 + number} for sku in products))
        seen += await asyncio.to_thread(place.revive)
        if seen >= kills:
            break
        await asyncio.sleep(0.02)
    await load.end()
    await asyncio.to_thread(place.kill_api)
    await asyncio.to_thread(place.kill_workers)
    return seen


async def two_workers(scale: float, tree: Path | None = None) -> Result:
    """Two workers without a pause, and shoppers who can't leave their carts alone."""
    async with opened(tree=tree) as place:
        products = await place.stock_up(3)
        await asyncio.to_thread(place.start_api)
        for _ in range(2):
            await asyncio.to_thread(place.start_worker, flush_interval_s=0.01, flush_batch=5)
        journal = Journal()
        habits = Habits(ENDLESS, products, converts=0.0, visits=400)
        load = Load(place, journal, habits)
        await asyncio.sleep(10 * scale)
        return await ended("two workers, busy carts", place, load)


async def killed_while_repricing(scale: float, tree: Path | None = None) -> Result:
    """While prices change, the worker is killed, and cut off from PostgreSQL in the midst."""
    async with opened(tree=tree) as place:
        products = await place.stock_up(5)
        await place.start()
        journal = Journal()
        await crowd(place.url, journal, Habits(40, products, converts=0.0), at_once=20)
        chance, cutting = random.Random(3), asyncio.create_task(_cut_off(place))
        for number in range(max(3, int(20 * scale))):
            prices = [row(sku, PLENTY) | {"price": 20 + number} for sku in products]
            await place.sell(*prices)
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            await asyncio.to_thread(place.kill_workers)
            await asyncio.to_thread(place.start_worker)
        cutting.cancel()
        return await result_of("worker killed, prices change", place, journal)


async def _cut_off(place: Place) -> None:
    """End transactions of the worker in their midst, again and again."""
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE state = 'idle in transaction' AND query LIKE '%price_history%'
    """
    while True:
        await place.ledger.pool.execute(query)
        await asyncio.sleep(0.001)
