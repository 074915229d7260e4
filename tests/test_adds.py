"""Adds of one turn share script calls, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from cartsvc.adds import MOST, Adds
from cartsvc.errors import Busy, OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.scripts import Argument, Key, Runner, connect

BUCKET = Bucket("default")


class Redis:
    """It answers each add with its key; less so many as it `forgets`."""

    def __init__(self) -> None:
        self.calls: list[list[Key]] = []
        self.forgets = 0

    async def run(
        self, _: str, __: Bucket, keys: Sequence[Key], ___: Sequence[Argument]
    ) -> list[Any]:
        self.calls.append(list(keys))
        return [[b"OK", key] for key in keys[self.forgets :]]


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
async def adds(redis: Redis) -> AsyncIterator[Adds]:
    runner = Runner(connect("redis://127.0.0.1:1", timeout_s=1), timeout_s=1, in_flight=40)
    yield Adds(runner, redis.run)
    await runner.aclose()


async def asked(adds: Adds, names: Sequence[str]) -> list[Any]:
    waiting = [adds.add(BUCKET, [name], [name]) for name in names]
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_turns_adds_are_as_few_calls_as_they_fit_into(redis: Redis, adds: Adds) -> None:
    names = [str(number) for number in range(MOST + 2)]
    assert await asked(adds, names) == names
    assert redis.calls == [names[:MOST], names[MOST:]]


async def test_who_was_cancelled_meanwhile_asks_for_nothing(redis: Redis, adds: Adds) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asked(adds, ["a", "c"]))
        left = asyncio.ensure_future(adds.add(BUCKET, ["b"], ["b"]))
        asyncio.get_running_loop().call_soon(left.cancel)
    assert redis.calls == [["a", "c"]]


async def test_no_more_wait_than_may(adds: Adds) -> None:
    most = adds.runner.in_flight
    found = await asked(adds, [str(number) for number in range(most + 1)])
    assert [type(one) for one in found] == [str] * most + [Busy]


async def test_adds_that_were_not_replied_to_have_an_unknown_outcome(
    redis: Redis, adds: Adds
) -> None:
    """Nobody waits for ever, and nobody takes another's reply."""
    redis.forgets = 1
    found = await asyncio.wait_for(asked(adds, ["a", "b", "c"]), 5)
    assert [type(one) for one in found] == [OutcomeUnknown] * 3
    assert len({id(one) for one in found}) == 3
