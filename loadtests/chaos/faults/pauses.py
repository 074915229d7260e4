"""The sale is paused, and something is killed meanwhile."""

import asyncio
import random
import time
from pathlib import Path

from loadtests.chaos import dialects
from loadtests.chaos.faults.fault import ENDLESS, HOT, Load, Result, ended, until
from loadtests.chaos.http import Client
from loadtests.chaos.journal import Journal
from loadtests.chaos.pauses import Pause, covered
from loadtests.chaos.place import PLENTY, Place, opened, row, skus
from loadtests.chaos.shoppers import Habits
from loadtests.chaos.waits import Window

_HOLD_S = 1_800
_PAUSED_S = 0.3
"""How long a pause lasts at least once all is up again."""


async def killed_while_paused(scale: float, tree: Path | None = None) -> Result:
    """API, Redis or worker is killed while an operator pauses the sale; those who have a key ask
    again until it goes on."""
    pauses = max(2, int(9 * scale))
    async with opened(durable=True, always=True, tree=tree, durability="fsync") as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products[1:]))
        await place.sell(row(HOT, int(600 * scale), stock_policy="hold", hold_ttl_s=_HOLD_S))
        await place.start()
        journal = Journal()
        loads = [
            Load(
                place, journal, Habits(ENDLESS, products, with_keys, changes=0.5, visits=100), seed
            )
            for seed, with_keys in enumerate((False, True))
        ]
        chance = random.Random(4)
        for number in range(pauses):
            await asyncio.sleep(chance.uniform(0.2, 0.6))
            begun = asyncio.create_task(_set(place, is_paused=True))
            await asyncio.sleep(chance.uniform(0, 0.05))
            await asyncio.to_thread(_kill, place, number)
            begun_s = await begun
            await asyncio.sleep(_PAUSED_S)
            journal.pauses.append(Pause(*begun_s, *await _set(place, is_paused=False)))
        await asyncio.sleep(1)
        await loads[0].end()
        result = await ended("killed, sale paused", place, loads[1])
        _tell(result, journal)
        return result


async def _set(place: Place, *, is_paused: bool) -> Window:
    """Pause the sale or resume it, asking until that is done: from when to when it took."""
    asked = {"paused": True, "reason": "a wrong price"} if is_paused else {"paused": False}
    begun_s = time.perf_counter()

    async def is_done() -> bool:
        async with Client(place.url) as client:
            answer = await client.send("PUT", "/admin/sale", dialects.OPERATOR, asked)
            return answer.status == 200

    await until(is_done, place)
    return begun_s, time.perf_counter()


def _kill(place: Place, number: int) -> None:
    match number % 3:
        case 0:
            place.kill_api()
            place.start_api()
        case 1:
            place.kill_redis()
            place.valkey.start()
        case _:
            place.kill_workers()
            place.start_worker()


def _tell(result: Result, journal: Journal) -> None:
    """How many were refused meanwhile, and how many were not: both are promised."""
    meanwhile = covered(journal.asked, journal.pauses)
    refused = sum(one.is_more and one.told == "paused" for one in meanwhile)
    others = sum(not one.is_more and one.told == "ok" for one in meanwhile)
    kills = f"{len(journal.pauses)} pauses and kills"
    result.notes.append(f"{kills}; meanwhile {refused} refused, {others} others granted")
    if not refused or not others:
        result.wrong.append("a pause refused nobody, or everybody")
