"""Much of everything, in every place: it is refused or does no harm, and takes no time."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cartsvc.ledger import Ledger
from tests.shares import part, shared
from tests.shop import Shop
from tests.test_authorization import (
    OPERATORS,
    RECORDS,
    ROUTES,
    Aim,
    Caller,
    Route,
    World,
    bearer,
    token_of,
)
from tests.test_tenant_isolation import bodies, callers_for, in_its_words

LONGEST_S = 10.0
"""For one answer; they take milliseconds, and on a machine that others use, sometimes seconds."""


def digits(count: int) -> str:
    return "9" * count


VALUES = {
    "400 digits": digits(400),
    "as many digits as Python reads": digits(4_300),
    "one more": digits(4_301),
    "60,000 digits": digits(60_000),
    "60,000 digits below zero": "-" + digits(60_000),
    "a fraction of 60,000 digits": "0." + digits(60_000),
    "zeros before a fraction": "0." + "0" * 60_000 + "1",
    "a large exponent": "1e999999999",
    "a larger exponent": "1e99999999999999999999",
    "a small exponent": "1e-999999999",
    "nothing, by a large exponent": "0e999999999",
    "a large exponent below zero": "-1E+999999999",
    "a text": json.dumps("a" * 60_000),
    "a text of escapes": '"' + "\\u0000" * 10_000 + '"',
    "a text of pairs": '"' + "\\ud83d\\uded2" * 5_000 + '"',
    "an array": f"[{'0,' * 30_000}0]",
    "an array of objects": f"[{'{},' * 20_000}{{}}]",
    "variations": json.dumps([{"id": str(one), "quantity": 1} for one in range(1_800)]),
    "the same variation": json.dumps([{"id": "s", "quantity": 1}] * 2_000),
    "an object": json.dumps(dict.fromkeys(map(str, range(5_000)), 0)),
    "the same key": "{" + ",".join(['"a":0'] * 10_000) + "}",
    "keys that are long": json.dumps({"a" * 30_000: 0, "b" * 30_000: 0}),
    "deep arrays": "[" * 30_000 + "]" * 30_000,
    "deep objects": '{"a":' * 9_000 + "0" + "}" * 9_000,
    "an array without an end": "[" * 60_000,
}
"""JSON."""

HERE = "the place of a value"

WITH_BODY = [route for route in ROUTES if route.operation.body]


@pytest.fixture
async def world(shop: Shop, api_ledger: Ledger) -> World:
    return await World(shop, api_ledger).make()


async def answered(
    http: httpx.AsyncClient, route: Route, request: dict[str, Any]
) -> httpx.Response:
    """The answer, in time, and in the contract's words if it is a refusal."""
    begun = time.monotonic()
    answer = await http.request(**request)
    assert time.monotonic() - begun < LONGEST_S
    if answer.status_code != route.operation.status:
        assert 400 <= answer.status_code < 500, (route.name, answer.text[:200])
        assert in_its_words(route, answer)
    return answer


@shared(4)
@pytest.mark.parametrize("name", VALUES)
async def test_a_body(http: httpx.AsyncClient, world: World, name: str, share: int) -> None:
    for route in part(WITH_BODY, [*VALUES].index(name), share):
        for caller, whose in callers_for(route):
            aim = world.own(whose)
            request = caller.ask(route, aim)
            before, statuses = await world.state(), set()
            for body in bodies(route.operation.body, request["json"], HERE):
                content = json.dumps(body).replace(f'"{HERE}"', VALUES[name])
                asked = {**request, "json": None, "content": content}
                statuses.add((await answered(http, route, asked)).status_code)
            # A price of 0, however it is written, is one; and some bodies need not every field.
            if route.operation.status not in statuses:
                assert await world.state() == before, route.name
            else:
                assert route.contract.name in (RECORDS, OPERATORS)


@shared(4)
@pytest.mark.parametrize("name", VALUES)
async def test_a_field_that_is_not_read(
    http: httpx.AsyncClient, world: World, name: str, share: int
) -> None:
    for route in part(WITH_BODY, [*VALUES].index(name), share):
        for caller, whose in callers_for(route):
            request = caller.ask(route, world.own(whose))
            content = json.dumps({**request["json"], "x": HERE})
            content = content.replace(f'"{HERE}"', VALUES[name])
            await answered(http, route, {**request, "json": None, "content": content})


QUERIES = {
    "many": "&".join(f"a{one}=1" for one in range(2_000)),
    "the same": "&".join(["session_id=me", "page=0", "size=1"] * 500),
    "long": "&".join(f"{name}={'9' * 5_000}" for name in ("session_id", "page", "size")),
    "no names": "&=" * 7_000,
    "escapes": "session_id=" + "%00" * 5_000,
    "half escapes": "session_id=%" * 1_000,
}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query(http: httpx.AsyncClient, world: World, name: str) -> None:
    for route in ROUTES:
        for caller, whose in callers_for(route):
            request = caller.ask(route, world.own(whose))
            url = request["url"] + "?" + QUERIES[name]
            await answered(http, route, {**request, "params": None, "url": url})


async def test_a_path_and_headers(http: httpx.AsyncClient, world: World) -> None:
    for route in ROUTES:
        for caller, whose in callers_for(route):
            for request in long_ones(route, caller, world.own(whose)):
                await answered(http, route, request)


def long_ones(route: Route, caller: Caller, aim: Aim) -> Iterator[dict[str, Any]]:
    request = caller.ask(route, aim)
    headers = request["headers"]
    yield {**request, "headers": [*headers, *((f"x-{one}", "a") for one in range(80))]}
    yield {**request, "headers": [*headers, ("cookie", "a" * 14_000)]}
    for name, _ in headers:
        others = [one for one in headers if one[0] != name]
        yield {**request, "headers": [*others, (name, "a" * 14_000)]}
        yield {**request, "headers": [*headers, *[(name, str(one)) for one in range(50)]]}
    if route.contract.name == RECORDS:
        long = bearer(token_of("a" * 9_000))
        yield {**request, "headers": long}


async def test_a_body_that_is_too_large(http: httpx.AsyncClient, world: World) -> None:
    before = await world.state()
    for route in ROUTES:
        for caller, whose in callers_for(route):
            request = {**caller.ask(route, world.own(whose)), "json": None}
            for size in (65_537, 500_000):
                answer = await answered(http, route, {**request, "content": b"[" * size})
                assert answer.status_code == 413, route.name
    assert await world.state() == before
