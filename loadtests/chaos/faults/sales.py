"""A sale that everybody wants something of, and a request that is sent too often."""

import asyncio
from pathlib import Path
from typing import Any

from loadtests.chaos import dialects
from loadtests.chaos.faults.fault import HOT, Result, result_of
from loadtests.chaos.http import Client
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import opened, row
from loadtests.chaos.shoppers import Habits, crowd

_HOLD_S = 2


async def sell_out(scale: float, tree: Path | None = None) -> Result:
    """A thousand units of a held product, wanted twenty times over, by five hundred at once."""
    units, at_once = int(1_000 * scale), max(20, int(500 * scale))
    requests = int(20_000 * scale) // at_once
    async with opened(tree=tree) as place:
        await place.sell(row(HOT, units, stock_policy="hold", hold_ttl_s=_HOLD_S))
        await place.start()
        journal = Journal()
        # Few buy what they hold, and it is free again; then most do.
        for seed, converts in enumerate((0.02, 0.3)):
            await asyncio.sleep(seed * 1.5 * _HOLD_S)
            habits = Habits(requests // 2, [HOT], converts=converts, changes=0.1, expires=True)
            await crowd(place.url, journal, habits, at_once=at_once, seed=seed)
        result = await result_of("sell-out of a held product", place, journal)
        result.wrong += _no_5xx(journal)
        sold, there = (await place.ledger.pool.fetch("SELECT sold, received FROM stock"))[0]
        result.notes.append(f"{sold} of {there} sold")
        return result


def _no_5xx(journal: Journal) -> list[str]:
    return [
        f"{times} answers {status}" for status, times in journal.statuses.items() if status >= 500
    ]


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
        result = await result_of("one key, sent many times at once", place, journal)
        result.wrong += [f"answers differ: {found}" for found in answers if len(found) != 1]
        result.notes.append(f"{sum(map(len, answers))} different answers to {4 * times} requests")
        return result
