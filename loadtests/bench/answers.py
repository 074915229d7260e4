"""The same checks on everybody's answers: a fast answer that is wrong is shown as wrong."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
from redis.asyncio import Redis

from cartsvc.keys import Bucket
from cartsvc.model import Owner
from loadtests.bench import wrk
from loadtests.bench.contenders import Running
from loadtests.bench.rivals.contract import MAX_LINES
from loadtests.bench.site import PRODUCTS, SOLD_OUT, Site, about

CROWD = 200
"""Adds at once to one cart."""

FRESH = timedelta(minutes=1)
"""How old an answer's time may be."""

_UNKNOWN = "f" * 24
_ONE, _OTHER = PRODUCTS[1], PRODUCTS[2]
_TIMEOUT_S = 30.0

_MALFORMED: dict[str, dict[str, Any]] = {
    "an id that is too short": {"product_id": _ONE[1:]},
    "an id with a g": {"product_id": f"{_ONE[1:]}g"},
    "an id with a line break": {"product_id": f"{_ONE}\n"},
    "an id that is a number": {"product_id": 1},
    "an id of null": {"product_id": None},
    "quantity 0": {"quantity": 0},
    "quantity -1": {"quantity": -1},
    "quantity 101": {"quantity": 101},
    "quantity true": {"quantity": True},
    "quantity 1.5": {"quantity": 1.5},
    'quantity "1"': {"quantity": "1"},
    "quantity null": {"quantity": None},
    "a session id with a space": {"session_id": "a b"},
    "a session id of 129 characters": {"session_id": "a" * 129},
    "an empty session id": {"session_id": ""},
}

_NO_OBJECT = {"an empty body": b"", "half an object": b"{", "a list": b"[]", "a number": b"1"}

_Lines = Sequence[tuple[str, int]]
"""Products and quantities, in the order in which they came into a cart."""


@dataclass(frozen=True)
class _Shopper:
    """Adds to a cart over HTTP, and says what of the answer is not as it should be."""

    client: httpx.AsyncClient
    session_id: str

    async def add(self, product_id: str = _ONE, quantity: int = 1, **fields: Any) -> httpx.Response:
        body = {"product_id": product_id, "quantity": quantity, "session_id": self.session_id}
        return await self.send(json.dumps({**body, **fields}).encode())

    async def send(self, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return await self.client.post(wrk.PATH, content=body, headers=headers)

    def found(self, what: str, answer: httpx.Response, lines: _Lines) -> list[str]:
        """What is wrong with the answer to an add that makes the cart these lines."""
        if answer.status_code != 200:
            return [f"{what}: status {answer.status_code} instead of 200"]
        try:
            body = json.loads(answer.content, parse_float=Decimal)
            cart = body["data"]["cart"]
            written = datetime.fromisoformat(cart.pop("updated_at"))
        except (ValueError, KeyError, TypeError) as error:
            return [f"{what}: the answer is not readable: {error!r}"]
        told = []
        if abs(datetime.now(UTC) - written) > FRESH:
            told.append(f"{what}: updated at {written}")
        if cart != _cart(lines):
            told.append(f"{what}: the cart is {_short(cart)} instead of {_short(_cart(lines))}")
        if not body["success"] or body["data"]["session_id"] != self.session_id:
            told.append(f"{what}: it is not success, or another session's")
        return told


def _cart(lines: _Lines) -> dict[str, Any]:
    """A cart as contract 000 shows it, without its time."""
    items = []
    for product_id, quantity in lines:
        name, price = about(product_id)
        items.append(
            {
                "product_id": product_id,
                "product_name": name,
                "price": price,
                "quantity": quantity,
                "subtotal": price * quantity,
            }
        )
    return {
        "items": items,
        "total_items": sum(quantity for _, quantity in lines),
        "total_amount": sum(item["subtotal"] for item in items),
    }


def _short(cart: Any) -> str:
    text = json.dumps(cart, default=float)
    return text if len(text) <= 200 else f"{text[:200]}..."


async def wrong(running: Running, site: Site) -> list[str]:
    """What is wrong with a contender's answers, in words; nothing if all are right."""
    checks = _CHECKS if running.contender.speaks_contract else ()
    limits = httpx.Limits(max_connections=CROWD)
    found: list[str] = []
    async with httpx.AsyncClient(base_url=running.url, limits=limits, timeout=_TIMEOUT_S) as client:
        try:
            for check in checks:
                shopper = _Shopper(client, f"check-{secrets.token_hex(8)}")
                found += [told async for told in check(shopper)]
            if not running.contender.speaks_contract:
                found += await _wrong_sum(client, running, site)
        except httpx.HTTPError as error:
            found.append(f"no answer: {error!r}")
    return found


def _refused(what: str, answer: httpx.Response, status: int) -> list[str]:
    """What is wrong with an answer that should refuse."""
    if answer.status_code != status:
        return [f"{what}: status {answer.status_code} instead of {status}"]
    try:
        body = answer.json()
        said = body["success"] is False and body["message"] and body["error"]["code"]
    except (ValueError, KeyError, TypeError):
        said = False
    return [] if said else [f"{what}: the refusal does not say why"]


async def _adds(shopper: _Shopper) -> AsyncIterator[str]:
    steps: list[tuple[str, int, _Lines]] = [
        (_ONE, 3, [(_ONE, 3)]),
        (_ONE, 2, [(_ONE, 5)]),
        (_OTHER, 100, [(_ONE, 5), (_OTHER, 100)]),
        (_ONE.upper(), 1, [(_ONE, 6), (_OTHER, 100)]),
    ]
    for product_id, quantity, lines in steps:
        answer = await shopper.add(product_id, quantity)
        for told in shopper.found(f"an add of {quantity}", answer, lines):
            yield told


async def _new_sessions(shopper: _Shopper) -> AsyncIterator[str]:
    made = set()
    for _ in range(2):
        answer = await shopper.add(session_id=None)
        if answer.status_code != 200:
            yield f"an add without a session: status {answer.status_code} instead of 200"
            return
        session_id = answer.json()["data"]["session_id"]
        made.add(session_id)
        own = _Shopper(shopper.client, session_id)
        for told in own.found("an add without a session", answer, [(_ONE, 1)]):
            yield told
    if len(made) < 2:
        yield "two adds without a session are given one"


async def _malformed(shopper: _Shopper) -> AsyncIterator[str]:
    for what, fields in _MALFORMED.items():
        for told in _refused(what, await shopper.add(**fields), 400):
            yield told
    for what, body in _NO_OBJECT.items():
        for told in _refused(what, await shopper.send(body), 400):
            yield told
    for told in shopper.found("an add after malformed ones", await shopper.add(), [(_ONE, 1)]):
        yield told


async def _not_to_be_had(shopper: _Shopper) -> AsyncIterator[str]:
    for told in _refused("an unknown product", await shopper.add(_UNKNOWN), 404):
        yield told
    for told in _refused("what is sold out", await shopper.add(SOLD_OUT), 400):
        yield told
    for told in shopper.found("an add after refused ones", await shopper.add(), [(_ONE, 1)]):
        yield told


async def _cap(shopper: _Shopper) -> AsyncIterator[str]:
    full = PRODUCTS[:MAX_LINES]
    for product_id in full:
        answer = await shopper.add(product_id)
        if answer.status_code != 200:
            yield f"a cart of at most {MAX_LINES} products: status {answer.status_code}"
            return
    too_many = await shopper.add(PRODUCTS[MAX_LINES])
    for told in _refused(f"product number {MAX_LINES + 1}", too_many, 400):
        yield told
    lines = [(full[0], 2), *((product_id, 1) for product_id in full[1:])]
    for told in shopper.found("an add to a full cart", await shopper.add(full[0]), lines):
        yield told


async def _crowd(shopper: _Shopper) -> AsyncIterator[str]:
    """Adds at once to one cart that exists."""
    await shopper.add(_OTHER)
    answers = await asyncio.gather(*(shopper.add() for _ in range(CROWD)))
    done = sum(answer.status_code == 200 for answer in answers)
    if done < CROWD:
        yield f"{CROWD - done} of {CROWD} adds at once to one cart were refused"
    last = await shopper.add()
    if last.status_code == 200:
        items = last.json()["data"]["cart"]["items"]
        units = next(item["quantity"] for item in items if item["product_id"] == _ONE)
        if units != done + 1:
            yield f"lost {done + 1 - units} of {done} updates to one cart at once"


_CHECKS: tuple[Callable[[_Shopper], AsyncIterator[str]], ...] = (
    _adds,
    _new_sessions,
    _malformed,
    _not_to_be_had,
    _cap,
    _crowd,
)


async def _wrong_sum(client: httpx.AsyncClient, running: Running, site: Site) -> list[str]:
    """What is wrong with the script's own reply, of a contender that only passes it on."""
    adds = 5
    session_id = f"check-{secrets.token_hex(8)}"
    method, path, body = running.contender.add(site, session_id, _ONE)
    answers = [await client.request(method, path, content=body) for _ in range(adds)]
    found = []
    key = Bucket(running.contender.name).cart(Owner("session", session_id))
    async with Redis.from_url(site.redis_url) as redis:
        units = int(await redis.hget(key, f"q:{_ONE}") or 0)
    if units != adds:
        found.append(f"{adds} adds make {units}")
    try:
        replies = [answer.json()["EVALSHA"] for answer in answers]
        if any(reply[0] != "OK" for reply in replies):
            found.append(f"not all of {adds} adds are answered with OK")
        if not any(reply[1] for reply in replies):
            found.append("the cart is not in the answer: a list within a list becomes null")
    except (ValueError, LookupError, TypeError) as error:
        found.append(f"the answer is not readable: {error!r}")
    return found
