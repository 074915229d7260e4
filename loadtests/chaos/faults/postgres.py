"""PostgreSQL is away, or slow, or does not take a row."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cartsvc import replay
from cartsvc.backlog import Backlog
from cartsvc.keys import Bucket
from cartsvc.model import Owner
from cartsvc.scripts import Runner
from loadtests.chaos import dialects
from loadtests.chaos.faults.fault import (
    Result,
    adding,
    compare_waits,
    ended,
    lasting,
    refuses,
    result_of,
    until,
)
from loadtests.chaos.http import Client
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import Place, opened
from loadtests.chaos.proxy import BadProxy
from loadtests.chaos.shoppers import Habits, crowd
from loadtests.chaos.waits import Window, Windows

_SLOWER = 1.2
"""How much longer adds, which do without PostgreSQL, may take while it is not well."""

_REPLY_S = 0.05
"""How long a slow PostgreSQL takes for a reply, at least."""

_CAUGHT_UP_S = 1.0
"""Dirty carts that are not older are the flush's usual pace."""

_NOTICED_S = 3.0
"""How long it takes at most until a mark that is passed is noticed."""

_POISON = "s-poison"


async def away_and_slow(scale: float, tree: Path | None = None) -> Result:
    """PostgreSQL is stopped for a minute, back, slow for a minute, and well again."""
    minute, mark_s = 60 * scale, max(1, int(40 * scale))
    async with opened(tree=tree, max_dirty_age_s=mark_s) as place:
        async with BadProxy(place.postgres.url) as proxy:
            place.settings = replace(place.settings, database_url=proxy.url)
            load = await adding(place)
            before = await lasting(minute / 6)
            await asyncio.to_thread(place.postgres.stop)
            away = await lasting(minute)
            wrong = await _refused(place)
            begun = time.perf_counter()
            await asyncio.to_thread(place.postgres.start)
            wrong += await _caught_up(place)
            drained_s = time.perf_counter() - begun
            if not await until(partial(_takes_changes, place), place):
                wrong.append("changes are not taken again")
            proxy.delay_s = _REPLY_S
            slow = await lasting(minute)
            proxy.delay_s = 0.0
            wrong += await _caught_up(place)
            after = await lasting(minute / 6)
            result = await ended("PostgreSQL away, and slow", place, load)
            result.is_measured = scale >= 1
        _judge(result, [before, after], away, slow, mark_s)
        result.notes.append(f"caught up in {drained_s:.1f} s")
        result.wrong += wrong
        if drained_s > 2 * minute:
            result.wrong.append(f"it took {drained_s:.1f} s to catch up")
        return result


async def _refused(place: Place) -> list[str]:
    """What is not as it should be past the mark: changes are 503, and reads go on."""
    found = []
    if not await refuses(place):
        found.append("changes are taken past the mark")
    async with Client(place.url) as client:
        answer = await client.send("GET", "/api/cart?session_id=s-asker", {})
    if answer.status != 200:
        found.append(f"a read past the mark was answered {answer.status}")
    return found


def _judge(result: Result, usual: Windows, away: Window, slow: Window, mark_s: float) -> None:
    """What shoppers noticed: up to the mark, nothing; past it, that all is refused."""
    waits = result.journal.waits
    past = [one.status for one in waits.within((away[0] + mark_s + _NOTICED_S, away[1]))]
    result.notes.append(f"{past.count(503):,} refused past the mark of {mark_s} s")
    if set(past) - {503}:
        result.wrong.append(f"{len(past) - past.count(503)} were not refused past the mark")
    for name, window in (("away", (away[0], away[0] + mark_s)), ("slow", slow)):
        compare_waits(result, f"while {name}", usual, [window], most=_SLOWER)
        early = [one.status for one in waits.within(window)].count(503)
        if result.is_measured and early:
            result.wrong.append(f"{early} answers 503 while {name}, before the mark")


async def _takes_changes(place: Place) -> bool:
    return not await refuses(place)


async def _caught_up(place: Place) -> list[str]:
    """Wait until no cart has been dirty for long; what is wrong if it does not come to that."""
    async with place.runner() as runner:

        async def is_so() -> bool:
            now_ms = await runner.now_ms()
            oldest: Any = await runner.redis.zrange(place.bucket.dirty, 0, 0, withscores=True)
            return not oldest or now_ms - oldest[0][1] < 1000 * _CAUGHT_UP_S

        return [] if await until(is_so, place) else ["the worker does not catch up"]


async def poison(scale: float, tree: Path | None = None) -> Result:
    """Of a thousand carts PostgreSQL refuses one, until somebody mends that."""
    others = max(20, int(1_000 * scale)) - 1
    async with opened(tree=tree) as place:
        products = await place.stock_up(5)
        await asyncio.to_thread(place.start_api)
        execute, fetchval = place.ledger.pool.execute, place.ledger.pool.fetchval
        await execute(f"ALTER TABLE carts ADD CONSTRAINT poison CHECK (owner_id <> '{_POISON}')")
        journal = Journal()
        await _add(place, journal, products[0])
        habits = Habits(others, products, converts=0.0, visits=1)
        await crowd(place.url, journal, habits, at_once=1)
        await asyncio.to_thread(place.start_worker)
        async with place.runner() as runner:
            # Whether it came is told by what is written.
            await until(partial(_is_flushed, runner, place.bucket), place)
            written = await fetchval("SELECT count(*) FROM carts")
            letters = await place.ledger.letters(None)
            await execute("ALTER TABLE carts DROP CONSTRAINT poison")
            replayed = await replay.run(place.ledger, Backlog(runner), letters)
        result = await result_of("poison row", place, journal)
        result.notes.append(f"{written} written, {len(letters)} set aside")
        if (written, len(letters), replayed.written) != (others, 1, 1):
            result.wrong.append(f"{replayed.written} of them replayed")
        return result


async def _is_flushed(runner: Runner, bucket: Bucket) -> bool:
    return not await runner.redis.zcard(bucket.dirty)


async def _add(place: Place, journal: Journal, sku: str) -> None:
    """To the cart that is going to be refused."""
    owner = Owner("session", _POISON)
    async with Client(place.url) as client:
        request = dialects.SESSION.add(owner, sku, 1)
        answer = await client.send(request.method, request.path, {}, request.content)
    assert answer.status == 200, answer
    shopper = journal.shopper(owner)
    journal.note(shopper, "ok", lambda world: world.with_lines({sku: 1}), {sku: 1})
