"""Shoppers: each asks for one thing after the other, and notes what it was told."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from loadtests import outcomes
from loadtests.chaos import dialects
from loadtests.chaos.dialects import Dialect, Request, Seen
from loadtests.chaos.http import NO_ANSWER, NOT_SENT, Answer, Client
from loadtests.chaos.journal import Change, Journal, Outcome, World
from loadtests.chaos.pauses import Asked
from loadtests.chaos.waits import Wait

_names = itertools.count(1)
_RETRIES = 200
_RETRY_S = 0.05


@dataclass(frozen=True)
class Habits:
    """What shoppers do: how many requests, for which products, with an idempotency key or without.

    Without, who gets no answer never comes back: what came of the request is known in the end only.
    `expires` says that lines may leave carts by themselves. A shopper makes at most `visits`, one
    after the other, or one every `every_s` seconds.
    """

    requests: int
    products: Sequence[str]
    with_keys: bool = False
    converts: float = 0.05
    changes: float = 0.2
    most_units: int = 5
    expires: bool = False
    visits: int = 12
    every_s: float = 0.0


def is_paused(answer: Answer) -> bool:
    if answer.status != 503:
        return False
    return outcomes.reason(answer.status, str(answer.body)) == outcomes.PAUSED


def outcome_of(answer: Answer) -> Outcome:
    if is_paused(answer):
        return "failed"
    if answer.status in (NO_ANSWER, 500, 502, 503, 504):
        return "unknown"
    return "ok" if 200 <= answer.status < 300 else "failed"


class Shopping:
    """One shopper after the other, on one connection."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        dialect: Dialect,
        habits: Habits,
        seed: int,
        stop: asyncio.Event,
    ) -> None:
        self.client, self.journal, self.dialect, self.habits = client, journal, dialect, habits
        self.stop = stop
        self.random = random.Random(seed)
        self.key_prefix = f"{seed}-"
        self.keys = itertools.count(1)
        self.sent_s = 0.0
        self.turn_s = time.perf_counter() + habits.every_s * self.random.random()

    async def run(self) -> None:
        left = self.habits.requests
        while left > 0 and not self.stop.is_set():
            left -= await self._one(left)

    async def _one(self, most: int) -> int:
        """A shopper, from the first request to the last; how many it made."""
        self.shopper = self.journal.shopper(self.dialect.owner(str(next(_names))))
        self.seen: Seen | None = None
        length = self.random.randint(1, self.habits.visits)
        for number in range(1, min(most, length) + 1):
            if not await self._request() or self.stop.is_set():
                return number
        return min(most, length)

    async def _request(self) -> bool:
        """Whether the shopper goes on."""
        draw = self.random.random()
        if self.seen is not None and self.seen.lines:
            if draw < self.habits.converts:
                return await self._convert()
            if draw < self.habits.converts + self.habits.changes:
                return await self._change()
        sku = self.random.choice(self.habits.products)
        units = self.random.randint(1, self.habits.most_units)
        request = self.dialect.add(self.shopper.owner, sku, units)
        return await self._tell(request, partial(_added, sku=sku, units=units), is_more=True)

    async def _change(self) -> bool:
        assert self.seen is not None
        sku = self.random.choice(sorted(self.seen.lines))
        item = self.seen.items.get(sku, "")
        if self.random.random() < 0.5:
            request = self.dialect.remove(self.shopper.owner, sku, item)
            return await self._tell(request, partial(_set, sku=sku, units=0))
        units = self.random.randint(1, self.habits.most_units)
        request = self.dialect.set(self.shopper.owner, sku, item, units)
        is_more = units > self.seen.lines[sku]
        return await self._tell(request, partial(_set, sku=sku, units=units), is_more=is_more)

    async def _convert(self) -> bool:
        cart_id = self.seen.cart_id if self.seen else None
        if cart_id is None:
            answer = await self._send(dialects.active(self.shopper.owner))
            if answer.status != 200:
                return True
            cart_id = dialects.seen_by_admin(answer.body).cart_id
            assert cart_id is not None
        answer = await self._settled(dialects.convert(cart_id))
        outcome = outcome_of(answer)
        if outcome == "ok":
            # What was sold is what was in the cart.
            self.journal.see(self.shopper, dialects.seen_by_admin(answer.body).lines)
        self.journal.note(self.shopper, outcome, World.ordered)
        return False

    async def _tell(self, request: Request, change: Change, *, is_more: bool = False) -> bool:
        answer = await self._settled(request, is_more=is_more)
        if answer.status == NOT_SENT:
            await asyncio.sleep(_RETRY_S)
            return True
        outcome = outcome_of(answer)
        shown = None
        if outcome == "ok":
            seen = self.dialect.seen(answer.body)
            shown = seen.lines
            self.seen = self._joined(seen, request)
            if self.habits.expires:
                self.shopper.expiring |= seen.lines.keys()
        is_whole = request.is_whole
        self.journal.note(self.shopper, outcome, change, shown, is_whole=is_whole)
        return outcome != "unknown"

    def _joined(self, seen: Seen, request: Request) -> Seen:
        """What the shopper knows by now."""
        if request.is_whole or self.seen is None:
            return seen
        lines, items = self.seen.lines | seen.lines, self.seen.items | seen.items
        return Seen(lines, items, seen.cart_id)

    async def _settled(self, request: Request, *, is_more: bool = False) -> Answer:
        """The answer, of which the journal keeps when it was asked for."""
        first_s = time.perf_counter()
        answer = await self._answered(request)
        outcome = outcome_of(answer)
        begun_s = first_s if answer.is_replay and outcome == "ok" else self.sent_s
        told = "paused" if is_paused(answer) else outcome
        self.journal.asked.append(Asked(begun_s, time.perf_counter(), is_more, told))
        return answer

    async def _answered(self, request: Request) -> Answer:
        """With a key the request is sent again until there is an answer, and the sale goes on."""
        if not self.habits.with_keys:
            return await self._send(request)
        key = {"Idempotency-Key": f"{self.key_prefix}{next(self.keys)}"}
        keyed = request._replace(headers={**request.headers, **key})
        for _ in range(_RETRIES):
            answer = await self._send(keyed)
            is_known = outcome_of(answer) != "unknown" and answer.status != NOT_SENT
            if (is_known and not is_paused(answer)) or self.stop.is_set():
                break
            await asyncio.sleep(_RETRY_S)
        return answer

    async def _send(self, request: Request) -> Answer:
        begun_s = await self._turn()
        self.sent_s = time.perf_counter()
        method, path, headers, content, _ = request
        answer = await self.client.send(method, path, headers, content)
        self.journal.statuses[answer.status] += 1
        if self.habits.every_s:
            self.journal.waits.append(Wait(begun_s, time.perf_counter(), answer.status))
        return answer

    async def _turn(self) -> float:
        """Wait until it is time for the next request; when that was, or should have been."""
        if not self.habits.every_s:
            return 0.0
        begun_s = self.turn_s
        self.turn_s += self.habits.every_s
        await asyncio.sleep(begun_s - time.perf_counter())
        return begun_s


def _added(world: World, *, sku: str, units: int) -> World:
    lines = dict(world.lines)
    return world.with_lines(lines | {sku: lines.get(sku, 0) + units})


def _set(world: World, *, sku: str, units: int) -> World:
    return world.with_lines(dict(world.lines) | {sku: units})


async def crowd(
    url: str,
    journal: Journal,
    habits: Habits,
    *,
    at_once: int,
    seed: int = 0,
    stop: asyncio.Event | None = None,
) -> None:
    """As many shoppers at once, of all contracts, each with the habits; until `stop` is set."""
    stopped = stop or asyncio.Event()

    async def one(number: int) -> None:
        dialect = dialects.ALL[number % len(dialects.ALL)]
        async with Client(url) as client:
            await Shopping(client, journal, dialect, habits, seed * 100_000 + number, stopped).run()

    await asyncio.gather(*(one(number) for number in range(at_once)))
