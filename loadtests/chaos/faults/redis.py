"""Redis is killed, and Redis forgets everything."""

import asyncio
import random
from pathlib import Path

from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.shelf import Shelf
from cartsvc.store import Store
from cartsvc.warm import warm
from loadtests.chaos.faults.fault import ENDLESS, HOT, Load, Result, ended, refuses
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import PLENTY, Place, opened, row, skus
from loadtests.chaos.shoppers import Habits


async def killed_redis(scale: float, tree: Path | None = None) -> Result:
    """Redis is killed with SIGKILL; what was lost of a second is counted."""
    async with opened(durable=True, tree=tree) as place:
        result = await _killed(place, "Redis killed, everysec", scale)
        lost = len(result.verdict.broken.get("C3", ()))
        shoppers = len(result.journal.shoppers)
        result.rules = ("C1", "C5")
        result.notes.append(f"{lost} of {shoppers} shoppers lost something")
        return result


async def killed_redis_fsync(scale: float, tree: Path | None = None) -> Result:
    """Redis is killed with SIGKILL, and nothing that was acknowledged may be lost."""
    async with opened(durable=True, always=True, tree=tree, durability="fsync") as place:
        return await _killed(place, "Redis killed, fsync", scale)


async def _killed(place: Place, name: str, scale: float) -> Result:
    """Kill Redis, again and again, under load."""
    kills = max(1, int(20 * scale))
    products = await place.stock_up(20)
    await place.start()
    journal = Journal()
    load = Load(place, journal, Habits(ENDLESS, products))
    chance = random.Random(2)
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        await asyncio.to_thread(place.kill_redis)
        await asyncio.to_thread(place.valkey.start)
    result = await ended(name, place, load)
    result.notes.append(f"{kills} kills")
    return result


async def emptied_redis(scale: float, tree: Path | None = None) -> Result:
    """FLUSHALL under load, `cartsvc warm`, and on it goes."""
    async with opened(tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products[1:]))
        await place.sell(row(HOT, int(600 * scale) + 50, stock_policy="hold", hold_ttl_s=60))
        await place.start()
        before, after = Journal(), Journal()
        habits = Habits(ENDLESS, products, converts=0.3)
        load = Load(place, before, habits)
        await asyncio.sleep(3 * scale + 0.5)
        async with place.runner() as runner:
            await runner.redis.flushall()
            refused = await refuses(place)
            await load.end()
            store = Store(runner, max_lines=50)
            archive = Archive(store, Backlog(runner), place.ledger, timeout_s=30)
            done = await warm(place.ledger, archive, Shelf(runner), place.bucket)
        load = Load(place, after, habits, seed=9)
        await asyncio.sleep(3 * scale + 0.5)
        result = await ended("Redis emptied, warmed", place, load)
        result.notes.append(f"{done and done.cold_carts} cold carts, refused meanwhile: {refused}")
        if not refused:
            result.wrong.append("an empty Redis was not refused")
        return result
