"""What is malformed gets a clear error in the contract's shape, and changes nothing."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from cartsvc import contract
from cartsvc.contracts import session
from tests.shop import LAMP, Shop, core_of

QUANTITY = "quantity must be a whole number from 1 to 100"
PRODUCT = "product_id must be a string of 24 hexadecimal digits"
SESSION = "session_id must be a string of 1 to 128 letters, digits, '.', '_', '~' or '-'"
NOT_JSON = "Request body is not valid JSON"
NOT_OBJECT = "Request body must be a JSON object"
TWICE = "Request body has a key twice"
DEEP = "Request body is nested too deeply"


def body(product_id: str = f'"{LAMP}"', quantity: str = "1", rest: str = "") -> bytes:
    return f'{{"product_id":{product_id},"quantity":{quantity}{rest}}}'.encode()


BAD = {
    "empty": (b"", NOT_JSON),
    "no JSON": (b"product_id=1&quantity=2", NOT_JSON),
    "cut short": (body()[:-1], NOT_JSON),
    "more behind": (body() + b"{}", NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + body(), NOT_JSON),
    "utf-16": (body().decode().encode("utf-16"), NOT_JSON),
    "null": (b"null", NOT_OBJECT),
    "array": (b"[]", NOT_OBJECT),
    "string": (b'"add"', NOT_OBJECT),
    "no product": (b'{"quantity":1}', PRODUCT),
    "no quantity": (b'{"product_id":"%s"}' % LAMP.encode(), QUANTITY),
    "float": (body(quantity="1.0"), QUANTITY),
    "exponent": (body(quantity="1e1"), QUANTITY),
    "text": (body(quantity='"1"'), QUANTITY),
    "true": (body(quantity="true"), QUANTITY),
    "null quantity": (body(quantity="null"), QUANTITY),
    "list": (body(quantity="[1]"), QUANTITY),
    "zero": (body(quantity="0"), QUANTITY),
    "negative": (body(quantity="-1"), QUANTITY),
    "101": (body(quantity="101"), QUANTITY),
    "2^63": (body(quantity=str(2**63)), QUANTITY),
    "2^64": (body(quantity=str(2**64)), QUANTITY),
    "huge": (body(quantity="9" * 60_000), QUANTITY),
    "NaN": (body(quantity="NaN"), NOT_JSON),
    "Infinity": (body(quantity="Infinity"), NOT_JSON),
    "key twice": (body(rest=',"quantity":1'), TWICE),
    "key twice, once escaped": (body(rest=',"quan\\u0074ity":1'), TWICE),
    "other key twice": (body(rest=',"a":1,"a":1'), TWICE),
    "key twice, inside": (body(rest=',"a":[{"b":1,"b":2}]'), TWICE),
    "deep in a field": (body(rest=',"a":' + "[" * 30_000 + "]" * 30_000), DEEP),
    "deep objects": (body(rest=',"a":' + '{"a":' * 9_000 + "1" + "}" * 9_000), DEEP),
    "deep and cut": (body(rest=',"a":' + "[" * 60_000), DEEP),
    "deep array": (b"[" * 60_000, NOT_OBJECT),
    "product as number": (body(product_id="123"), PRODUCT),
    "product as list": (body(product_id="[]"), PRODUCT),
    "product empty": (body(product_id='""'), PRODUCT),
    "product too short": (body(product_id='"507f1f77bcf86cd79943901"'), PRODUCT),
    "product too long": (body(product_id=f'"{LAMP}0"'), PRODUCT),
    "product not hexadecimal": (body(product_id='"507f1f77bcf86cd79943901g"'), PRODUCT),
    "product with newline": (body(product_id=f'"{LAMP}\\n"'), PRODUCT),
    "product with NUL": (body(product_id='"507f1f77bcf86cd79943901\\u0000"'), PRODUCT),
    "product with other digits": (body(product_id='"' + "\\u0661" * 24 + '"'), PRODUCT),
    "product with braces": (body(product_id='"{default:0}:507f1f77bcf8"'), PRODUCT),
    "lone surrogate": (body(product_id='"\\ud800"'), NOT_JSON),
    "bad UTF-8": (b'{"product_id":"\xff","quantity":1}', NOT_JSON),
    "bad UTF-8 elsewhere": (body(rest=',"a":"?"').replace(b"?", b"\xff"), NOT_JSON),
    "session as number": (body(rest=',"session_id":1'), SESSION),
    "session empty": (body(rest=',"session_id":""'), SESSION),
    "session too long": (body(rest=f',"session_id":"{"a" * 129}"'), SESSION),
    "session with braces": (body(rest=',"session_id":"{other:0}"'), SESSION),
    "session with colon": (body(rest=',"session_id":"a:b"'), SESSION),
    "session with NUL": (body(rest=',"session_id":"a\\u0000"'), SESSION),
    "session with newline": (body(rest=',"session_id":"a\\n"'), SESSION),
    "session with space": (body(rest=',"session_id":"a b"'), SESSION),
    "session with slash": (body(rest=',"session_id":"../a"'), SESSION),
    "session with surrogate": (body(rest=',"session_id":"\\udfff"'), NOT_JSON),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_body_is_400(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    content, message = BAD[name]
    await shop.sell()
    before = await shop.everything()
    answer = await http.post("/api/cart", content=content)
    assert answer.status_code == 400, answer.text
    assert answer.json()["success"] is False
    assert answer.json()["message"] == message
    assert await shop.everything() == before


@pytest.mark.parametrize(
    "rest",
    [
        ',"price":0.01,"product_name":"free"',
        ',"a":{"quantity":2,"b":[1,2.5,null,true]}',
        ',"n":' + "9" * 10_000,
        ',"a":":::"',
    ],
)
async def test_unknown_fields_are_ignored(http: httpx.AsyncClient, shop: Shop, rest: str) -> None:
    await shop.sell(price="29.99")
    answer = await http.post("/api/cart", content=body(rest=rest))
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["cart"]["total_amount"] == 29.99


async def test_longest_session_id_is_taken(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell()
    session_id = ("aZ09._~-" * 16)[:128]
    answer = await http.post("/api/cart", content=body(rest=f',"session_id":"{session_id}"'))
    assert answer.json()["data"]["session_id"] == session_id
    assert await shop.redis.exists(f"cart:{{default:0}}:session:{session_id}") == 1


@pytest.mark.parametrize("size", [65_536, 65_537, 1_000_000])
async def test_bodies_over_64_kib_are_413(http: httpx.AsyncClient, shop: Shop, size: int) -> None:
    await shop.sell()
    content = body().ljust(size)
    answer = await http.post("/api/cart", content=content)
    assert answer.status_code == (200 if size == 65_536 else 413)
    if answer.status_code == 413:
        assert answer.json() == {
            "success": False,
            "message": "Request body is over 65536 bytes",
            "error": {"code": "body_too_large"},
        }


async def test_a_body_of_unknown_length_is_cut_off(http: httpx.AsyncClient, shop: Shop) -> None:
    async def pieces() -> Any:
        yield body()
        for _ in range(70):
            yield b" " * 1_000

    await shop.sell()
    before = await shop.everything()
    answer = await http.post("/api/cart", content=pieces())
    assert answer.status_code == 413
    assert await shop.everything() == before


async def refused_unread(app: ASGIApp) -> None:
    """A body that says itself that it is too long gets its answer before a byte of it is read."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/cart",
        "headers": [(b"content-length", b"65537")],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_a_body_announced_too_long_is_not_read(shop: Shop) -> None:
    routes = contract.routes([session.contract(core_of(shop))], 65_536)
    await refused_unread(Starlette(routes=routes))


async def test_nesting_beyond_the_largest_body(http: httpx.AsyncClient, shop: Shop) -> None:
    before = await shop.everything()
    answer = await http.post("/api/cart", content=body(rest=',"a":' + "[" * 100_000))
    assert (answer.status_code, answer.json()["success"]) == (413, False)
    assert await shop.everything() == before


async def test_a_client_that_leaves_half_way_changes_nothing(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell()
    before = await shop.everything()
    url = http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /api/cart HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n" + body())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    # The service has read to the end of that connection once it answers on the next.
    assert (await http.get("/healthz")).status_code == 200
    assert await shop.everything() == before


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_the_content_type_does_not_matter(
    http: httpx.AsyncClient, shop: Shop, content_type: str
) -> None:
    await shop.sell()
    headers = {"content-type": content_type}
    assert (await http.post("/api/cart", content=body(), headers=headers)).status_code == 200
