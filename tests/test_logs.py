"""Logs, and the ids by which a request is found in them."""

import json
import logging
import re
from typing import Any

import httpx
import pytest

from cartsvc import logs
from cartsvc.http import Endpoint, Reply, reply
from tests.shop import LAMP, Shop

ADD = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}


def line(form: str, message: str, request_id: str = "", **more: object) -> str:
    """What a handler of that form writes."""
    handler = logs.handler(form)
    record = logging.makeLogRecord(
        {"name": "cartsvc.x", "levelname": "WARNING", "levelno": 30, "msg": message, **more}
    )
    token = logs.REQUEST_ID.set(request_id)
    try:
        assert handler.filter(record)
        return handler.format(record)
    finally:
        logs.REQUEST_ID.reset(token)


def test_people_get_a_line_with_the_requests_id() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING cartsvc\.x: a b \[abc\]",
        line("console", "a %s", "abc", args=("b",)),
    )
    assert line("console", "alone").endswith("cartsvc.x: alone")


def test_programs_get_an_object_a_line() -> None:
    found = json.loads(line("json", 'a\n"b"', "abc"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", found.pop("time"))
    assert isinstance(found.pop("process"), int)
    assert found == {
        "level": "WARNING",
        "logger": "cartsvc.x",
        "message": 'a\n"b"',
        "request_id": "abc",
    }
    assert "request_id" not in json.loads(line("json", "alone"))


def test_a_traceback_is_in_the_object_too() -> None:
    try:
        raise ValueError("x\ny")
    except ValueError as error:
        told = (ValueError, error, error.__traceback__)
    text = line("json", "failed", exc_info=told)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: x\ny")


# -- X-Request-ID


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/cart", 200),
        ("GET", "/api/cart", 400),
        ("PUT", "/api/cart", 405),
        ("GET", "/cart", 400),
        ("GET", "/api/carts/1", 401),
        ("DELETE", "/api/cart/items/x?session_id=a", 400),
        ("GET", "/nowhere", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/docs", 200),
    ],
)
async def test_every_answer_has_the_requests_id(
    http: httpx.AsyncClient, shop: Shop, method: str, path: str, status: int
) -> None:
    await shop.sell(stock=9)
    body = ADD if method == "POST" else None
    given = await http.request(method, path, json=body, headers={"X-Request-ID": "edge-1:a/b"})
    assert (given.status_code, given.headers.get_list("x-request-id")) == (status, ["edge-1:a/b"])
    made = [
        (await http.request(method, path, json=body)).headers.get_list("x-request-id")
        for _ in range(2)
    ]
    assert [len(one) for one in made] == [1, 1]
    assert made[0] != made[1]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "\xe9"])
async def test_an_id_that_is_none_is_replaced(http: httpx.AsyncClient, bad: str) -> None:
    answer = await http.get("/healthz", headers={b"X-Request-ID": bad.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["x-request-id"])


def an_endpoint(handle: Any) -> Endpoint:
    return Endpoint("session", "/x/{id}", {"POST": handle}, lambda *_: reply(500, {}), 9)


async def headers_of(endpoint: Endpoint) -> list[tuple[bytes, bytes]]:
    """The headers of its answer to a request whose id is "mine"."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"x-request-id", b"mine")]}
    await endpoint(scope, receive, send)
    found: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return found


async def test_what_fails_is_logged_with_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("ours")

    caplog.handler.addFilter(logs.with_request_id)
    try:
        assert (b"x-request-id", b"mine") in await headers_of(an_endpoint(fail))
    finally:
        caplog.handler.removeFilter(logs.with_request_id)
    [record] = caplog.records
    assert (record.levelname, vars(record)["request_id"]) == ("ERROR", "mine")


async def test_at_debug_every_request_is_told_by_its_route(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(*_: object) -> Reply:
        return reply(200, {})

    await headers_of(an_endpoint(answer))
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG, "cartsvc.http")
    await headers_of(an_endpoint(answer))
    [told] = caplog.messages
    assert re.fullmatch(r"POST /x/\{id\} 200 \d+\.\d ms", told)
