"""The faults: each has a service of its own, a load, and something that goes wrong."""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.model import Owner
from cartsvc.shelf import Shelf
from cartsvc.store import Store
from cartsvc.warm import warm
from loadtests.chaos import checker, dialects
from loadtests.chaos.broken import POINTS, edited
from loadtests.chaos.checker import RULES, Verdict
from loadtests.chaos.http import Client
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import Place, opened, row, skus
from loadtests.chaos.proxy import LossyProxy
from loadtests.chaos.shoppers import Habits, crowd

HOT = skus(1)[0]
PLENTY = 100_000_000
_ENDLESS = 10**9


@dataclass
class Result:
    """What a fault came to. `rules` are those that are asked for; `wrong` is what else is wrong."""

    name: str
    journal: Journal
    verdict: Verdict
    rules: tuple[str, ...] = RULES
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.wrong and not self.verdict.broken.keys() & set(self.rules)


class Load:
    """Shoppers without end, until they are told."""

    def __init__(self, place: Place, journal: Journal, habits: Habits, seed: int = 0) -> None:
        self.stop = asyncio.Event()
        shopping = crowd(place.url, journal, habits, at_once=20, seed=seed, stop=self.stop)
        self.task = asyncio.create_task(shopping)

    async def end(self) -> None:
        """Let the shoppers go, each with the answer that it waits for."""
        self.stop.set()
        await self.task


class Fault(Protocol):
    """Does as much of it as `scale` says, 1 being all, to the package in `tree` or to this one."""

    async def __call__(self, scale: float, tree: Path | None = None) -> Result: ...


async def sell_out(scale: float, tree: Path | None = None) -> Result:
    """A thousand units of a held product, wanted twenty times over, by five hundred at once."""
    units, at_once = int(1_000 * scale), max(20, int(500 * scale))
    requests = int(20_000 * scale) // at_once
    async with opened(tree=tree) as place:
        await place.sell(row(HOT, units, stock_policy="hold", hold_ttl_s=2))
        await place.start()
        journal = Journal()
        for seed, converts in enumerate((0.02, 0.1)):
            habits = Habits(requests // 2, [HOT], converts=converts, changes=0.1, expires=True)
            await crowd(place.url, journal, habits, at_once=at_once, seed=seed)
        result = await _result("sell-out of a held product", place, journal)
        result.wrong += _no_5xx(journal)
        sold, there = (await place.ledger.pool.fetch("SELECT sold, received FROM stock"))[0]
        result.notes.append(f"{sold} of {there} sold")
        return result


async def lost_replies(scale: float, tree: Path | None, *, with_keys: bool) -> Result:
    """Redis does what it is asked, and one answer of twenty never arrives."""
    async with opened(tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        async with LossyProxy(place.valkey.url, loss=0.05) as proxy:
            await place.start(redis_url=proxy.url)
            journal = Journal()
            habits = Habits(int(150 * scale), products, with_keys=with_keys)
            await crowd(place.url, journal, habits, at_once=30)
            how = "with keys" if with_keys else "without keys"
            result = await _result(f"lost replies, {how}", place, journal)
            result.notes.append(f"{proxy.lost} replies lost")
            if not proxy.lost:
                result.wrong.append("no reply was lost")
            if with_keys and journal.outcomes["unknown"]:
                result.wrong.append("a request with a key was never answered")
            return result


async def lost_replies_with_keys(scale: float, tree: Path | None = None) -> Result:
    return await lost_replies(scale, tree, with_keys=True)


async def lost_replies_without_keys(scale: float, tree: Path | None = None) -> Result:
    return await lost_replies(scale, tree, with_keys=False)


async def one_key(scale: float, tree: Path | None = None) -> Result:
    """A request that is sent a hundred times at once is carried out once."""
    times = max(20, int(100 * scale))
    async with opened(tree=tree) as place:
        await place.sell(row(HOT, 1_000))
        await place.start()
        journal, answers = Journal(), []
        for number, dialect in enumerate(dialects.ALL):
            owner = dialect.owner(str(number))
            request = dialect.add(owner, HOT, 3)
            headers = {**request.headers, "Idempotency-Key": "the one"}

            async def ask(
                path: str = request.path,
                headers: dict[str, str] = headers,
                content: Any = request.content,
            ) -> tuple[int, str]:
                async with Client(place.url) as client:
                    answer = await client.send("POST", path, headers, content)
                    return answer.status, str(answer.body)

            answers.append(set(await asyncio.gather(*(ask() for _ in range(times)))))
            shopper = journal.shopper(owner)
            journal.note(shopper, "ok", lambda world: world.with_lines({HOT: 3}), {HOT: 3})
        result = await _result("one key, sent many times at once", place, journal)
        result.wrong += [f"answers differ: {found}" for found in answers if len(found) != 1]
        result.notes.append(f"{sum(map(len, answers))} different answers to {4 * times} requests")
        return result


async def killed_processes(scale: float, tree: Path | None = None) -> Result:
    """API and worker are killed with SIGKILL, again and again, under load."""
    kills = max(2, int(50 * scale))
    async with opened(tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        await place.start()
        journal = Journal()
        chance = random.Random(1)
        habits = Habits(_ENDLESS, products)
        load = Load(place, journal, habits)
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            if number % 2:
                await asyncio.to_thread(place.kill_workers)
                await asyncio.to_thread(place.start_worker)
            else:
                await asyncio.to_thread(place.kill_api)
                await asyncio.to_thread(place.start_api)
        result = await _ended("API and worker killed", place, journal, load)
        result.notes.append(f"{kills} kills")
        return result


async def killed_at_points(scale: float, tree: Path | None = None) -> Result:
    """Processes kill themselves where it hurts most; somebody starts them again."""
    async with opened() as place:
        products = skus(10)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        journal = Journal()
        with tempfile.TemporaryDirectory(prefix="cartsvc-points-") as name:
            trees = [tree] if tree else []
            for point, edit in {} if tree else POINTS.items():
                folder = Path(name) / point.replace(" ", "-")
                trees.append(edited([edit], folder))
            kills = 0
            for seed, place.tree in enumerate(trees):
                kills += await _until_killed(place, journal, products, seed, max(2, int(8 * scale)))
        await asyncio.to_thread(place.stop)
        place.tree = None
        await place.start()
        result = await _result("killed at named points", place, journal)
        result.notes.append(f"{kills} kills at {len(trees)} points")
        return result


async def _until_killed(
    place: Place, journal: Journal, products: Sequence[str], seed: int, kills: int
) -> int:
    """Shop until processes have ended that often, starting them again."""
    load = Load(place, journal, Habits(_ENDLESS, products, converts=0.3), seed)
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
        products = skus(3)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        await asyncio.to_thread(place.start_api)
        for _ in range(2):
            await asyncio.to_thread(place.start_worker, flush_interval_s=0.01, flush_batch=5)
        journal = Journal()
        habits = Habits(_ENDLESS, products, converts=0.0, visits=400)
        load = Load(place, journal, habits)
        await asyncio.sleep(10 * scale)
        return await _ended("two workers, busy carts", place, journal, load)


async def killed_while_repricing(scale: float, tree: Path | None = None) -> Result:
    """While prices change, the worker is killed, and cut off from PostgreSQL in the midst."""
    async with opened(tree=tree) as place:
        products = skus(5)
        await place.sell(*(row(sku, PLENTY) for sku in products))
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
        return await _result("worker killed, prices change", place, journal)


async def _cut_off(place: Place) -> None:
    """End transactions of the worker in their midst, again and again."""
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE state = 'idle in transaction' AND query LIKE '%price_history%'
    """
    while True:
        await place.ledger.pool.execute(query)
        await asyncio.sleep(0.001)


async def killed_redis(scale: float, tree: Path | None = None) -> Result:
    """Redis is killed with SIGKILL; what was lost of a second is counted."""
    kills = max(1, int(20 * scale))
    async with opened(durable=True, tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products))
        await place.start()
        journal = Journal()
        load = Load(place, journal, Habits(_ENDLESS, products))
        chance = random.Random(2)
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            await asyncio.to_thread(place.kill_redis)
            await asyncio.to_thread(place.valkey.start)
        result = await _ended("Redis killed, everysec", place, journal, load)
        lost = len(result.verdict.broken.get("C3", ()))
        result.rules = ("C1", "C5")
        result.notes.append(
            f"{kills} kills, {lost} of {len(journal.shoppers)} shoppers lost something"
        )
        return result


async def emptied_redis(scale: float, tree: Path | None = None) -> Result:
    """FLUSHALL under load, `cartsvc warm`, and on it goes."""
    async with opened(tree=tree) as place:
        products = skus(20)
        await place.sell(*(row(sku, PLENTY) for sku in products[1:]))
        await place.sell(row(HOT, int(600 * scale) + 50, stock_policy="hold", hold_ttl_s=60))
        await place.start()
        before, after = Journal(), Journal()
        habits = Habits(_ENDLESS, products, converts=0.3)
        load = Load(place, before, habits)
        await asyncio.sleep(3 * scale + 0.5)
        async with place.runner() as runner:
            await runner.redis.flushall()
            refused = await _until_refused(place)
            await load.end()
            store = Store(runner, max_lines=50)
            archive = Archive(store, Backlog(runner), place.ledger, timeout_s=30)
            done = await warm(place.ledger, archive, Shelf(runner), place.bucket)
        load = Load(place, after, habits, seed=9)
        await asyncio.sleep(3 * scale + 0.5)
        result = await _ended("Redis emptied, warmed", place, after, load)
        result.notes.append(f"{done and done.cold_carts} cold carts, refused meanwhile: {refused}")
        if not refused:
            result.wrong.append("an empty Redis was not refused")
        return result


async def _until_refused(place: Place) -> bool:
    """Whether a change is 503 while Redis is empty."""
    async with Client(place.url) as client:
        request = dialects.SESSION.add(Owner("session", "asker"), HOT, 1)
        answer = await client.send(request.method, request.path, {}, request.content)
        return answer.status == 503


async def _ended(name: str, place: Place, journal: Journal, load: Load) -> Result:
    await load.end()
    return await _result(name, place, journal)


async def _result(name: str, place: Place, journal: Journal) -> Result:
    took = await checker.drained(place.valkey.url, place.bucket)
    verdict = await checker.check(place.valkey.url, place.ledger, place.bucket, journal)
    result = Result(name, journal, verdict)
    if took is None:
        result.wrong.append("not all was flushed within a minute")
    return result


def _no_5xx(journal: Journal) -> list[str]:
    return [
        f"{times} answers {status}" for status, times in journal.statuses.items() if status >= 500
    ]


ALL: dict[str, Fault] = {
    "sell-out": sell_out,
    "lost-replies-keys": lost_replies_with_keys,
    "lost-replies": lost_replies_without_keys,
    "one-key": one_key,
    "kills": killed_processes,
    "points": killed_at_points,
    "two-workers": two_workers,
    "price-kills": killed_while_repricing,
    "redis-kills": killed_redis,
    "flushall": emptied_redis,
}
