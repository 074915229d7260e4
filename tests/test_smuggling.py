"""A request that is not what it seems: it is refused, or is one request and the next is the next.

What a proxy takes for the body of one request must not be another one here, or the other way round.
So each of these is sent with a request behind it that a proxy did not see, if it is not the one
that closes the connection.
"""

import re

import httpx
import pytest

from cartsvc.model import LineRequest, Owner
from tests.raw import exchange, statuses
from tests.shop import LAMP, Shop
from tests.test_authorization import ROUTES, Aim, callers_of

VICTIM = Owner("session", "victim")
BODY = b'{"product_id":"%b","quantity":1,"session_id":"me"}' % LAMP.encode()
INNER = b"DELETE /api/cart?session_id=victim HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def add(*headers: bytes, body: bytes = BODY, line: bytes = b"POST /api/cart HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *headers, b"", body])


def chunked(*headers: bytes, body: bytes = CHUNKS) -> bytes:
    return add(CHUNKED, *headers, body=body)


def in_chunk(size: bytes, end: bytes = b"\r\n") -> bytes:
    """An add in one chunk, whose size is written like that."""
    return chunked(body=size % len(BODY) + end + BODY + b"\r\n0\r\n\r\n")


REFUSED = {
    "length of letters": add(b"Content-Length: many"),
    "length below zero": add(b"Content-Length: -1"),
    "length with a plus": add(b"Content-Length: +%d" % len(BODY)),
    "length in hexadecimal": add(b"Content-Length: 0x%x" % len(BODY)),
    "length with an underscore": add(b"Content-Length: 7_0"),
    "length with a space": add(b"Content-Length: 7 0"),
    "length with a fraction": add(b"Content-Length: 70.0"),
    "length without a number": add(b"Content-Length:"),
    "length as a list": add(b"Content-Length: 70, 70"),
    "length beyond 64 bits": add(b"Content-Length: %d" % (2**64 + len(BODY))),
    "length of many digits": add(b"Content-Length: " + b"9" * 5_000),
    "length twice": add(LENGTH, LENGTH),
    "two lengths": add(LENGTH, b"Content-Length: 0"),
    "length zero before the length": add(b"Content-Length: 0", LENGTH),
    "length and chunks": add(LENGTH, CHUNKED, body=CHUNKS),
    "chunks and length": chunked(LENGTH),
    "chunks and length zero": chunked(b"Content-Length: 0"),
    "chunks and nothing": chunked(b"Transfer-Encoding: identity"),
    "chunks twice": chunked(CHUNKED),
    "chunks, then nothing": add(CHUNKED + b", identity", body=CHUNKS),
    "nothing": add(b"Transfer-Encoding: identity", LENGTH),
    "something like chunks": add(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunks by a vertical tab": add(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "chunks in quotes": add(b'Transfer-Encoding: "chunked"', body=CHUNKS),
    "an empty encoding": add(b"Transfer-Encoding:", LENGTH),
    "space before the colon of a length": add(b"Content-Length : %d" % len(BODY)),
    "space before the colon of chunks": add(b"Transfer-Encoding : chunked", body=CHUNKS),
    "tab before the colon": add(b"Transfer-Encoding\t: chunked", body=CHUNKS),
    "a name with a NUL": add(b"Content-Length\0: 0", LENGTH),
    "a header without a name": add(b": chunked", LENGTH),
    "a header without a colon": add(b"chunked", LENGTH),
    "a folded header": add(b"X: a\r\n b", LENGTH),
    "folded chunks": add(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "a folded length": add(b"Content-Length:\r\n\t%d" % len(BODY)),
    "a folded first header": add(LENGTH).replace(b"Host", b" Host"),
    "a line feed alone": add(LENGTH).replace(b"Host: a\r\n", b"Host: a\n"),
    "line feeds alone": add(LENGTH).replace(b"\r\n", b"\n"),
    "a line feed before the body": add(LENGTH).replace(b"\r\n\r\n", b"\r\n\n"),
    "a carriage return alone": add(b"X: a\rContent-Length: 0", LENGTH),
    "a NUL in a value": add(b"X: a\0b", LENGTH),
    "a size of other digits": in_chunk(b"%xg"),
    "a size with 0x": in_chunk(b"0x%x"),
    "a size below zero": in_chunk(b"-%x"),
    "a size with a plus": in_chunk(b"+%x"),
    "a size with a space": in_chunk(b"%x "),
    "a size behind a space": in_chunk(b" %x"),
    "a size beyond 64 bits": in_chunk(b"1" + b"0" * 14 + b"%x"),
    "no size": chunked(body=b"\r\n" + CHUNKS),
    "a line feed behind a size": in_chunk(b"%x", b"\n"),
    "a line feed in an extension": in_chunk(b"%x;a=\nb"),
    "a carriage return in an extension": in_chunk(b"%x;a=\rb"),
    "nothing behind a chunk": chunked(body=CHUNKS.replace(b"}\r\n", b"}")),
    "more behind a chunk": chunked(body=CHUNKS.replace(b"}\r\n", b"}XX\r\n")),
    "a line feed behind a chunk": chunked(body=CHUNKS.replace(b"}\r\n", b"}\n")),
    "a length in a trailer": chunked(body=CHUNKS[:-2] + b"Content-Length: 9\r\n\r\n"),
    "chunks in a trailer": chunked(body=CHUNKS[:-2] + CHUNKED + b"\r\n\r\n"),
    "a request as an extension": in_chunk(b"%x;" + INNER.replace(b"\r\n", b";")),
    "a tab in the first line": add(LENGTH, line=b"POST\t/api/cart HTTP/1.1"),
    "another method": add(LENGTH, line=b"ADD /api/cart HTTP/1.1"),
    "another version": add(LENGTH, line=b"POST /api/cart HTTP/1.2"),
    "a path with a NUL": add(LENGTH, line=b"POST /api/cart\0 HTTP/1.1"),
    "a path with other letters": add(LENGTH, line=b"POST /api/\xc3\xa4 HTTP/1.1"),
    "no path": add(LENGTH, line=b"POST HTTP/1.1"),
    "no host": add(LENGTH, line=b"POST http:///api/cart HTTP/1.1"),
    "a tunnel": add(LENGTH, line=b"CONNECT /api/cart HTTP/1.1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing that is known": b"\0" * 100,
}


@pytest.mark.parametrize("name", REFUSED)
async def test_is_refused(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    await shop.sell()
    await shop.add_lines(LineRequest(LAMP, 1), owner=VICTIM)
    before = await shop.everything()
    answer = await exchange(str(http.base_url), REFUSED[name] + INNER + LAST)
    assert statuses(answer) == [400]
    assert b'{"success":false,"message":"Request is not valid HTTP",' in answer
    assert await shop.everything() == before


# The parser is lenient, and it does no harm: they are one request each, as a proxy that lets them
# through has it.
ONE = {
    "a length": add(LENGTH),
    "chunks": chunked(),
    "a length with zeros before it": add(b"Content-Length: 000%d" % len(BODY)),
    "a length with spaces behind it": add(LENGTH + b" \t"),
    "chunks in capitals": add(b"TRANSFER-ENCODING: CHUNKED", body=CHUNKS),
    "a size with zeros before it": in_chunk(b"000%x"),
    "extensions of a chunk": in_chunk(b'%x;a;b=c;d="e"'),
    # They are dropped.
    "trailers": chunked(body=CHUNKS[:-2] + b"X-Tenant-ID: acme\r\nX: b\r\n\r\n"),
    # What is inside is not unpacked; no JSON if it is packed.
    "another encoding inside of chunks": add(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    # Nothing here asks for the host.
    "no host": add(LENGTH).replace(b"Host: a\r\n", b""),
    "two hosts": add(b"Host: b", LENGTH),
    "another host in the path": add(LENGTH, line=b"POST http://b/api/cart HTTP/1.1"),
    "a fragment": add(LENGTH, line=b"POST /api/cart#a HTTP/1.1"),
    "two spaces": add(LENGTH, line=b"POST  /api/cart  HTTP/1.1"),
    "empty lines before it": b"\r\n" * 10 + add(LENGTH),
    "other letters in a value": add(LENGTH, b"X: \xc3\xa4\xff"),
    "another protocol asked for": add(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH),
    "a websocket asked for": add(b"Connection: upgrade", b"Upgrade: websocket", LENGTH),
    "another protocol and chunks": chunked(b"Upgrade: h2c", b"Connection: Upgrade"),
    "something else expected": add(b"Expect: 200-ok", LENGTH),
}


@pytest.mark.parametrize("name", ONE)
async def test_is_one_request(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    await shop.sell()
    answer = await exchange(str(http.base_url), ONE[name] + LAST)
    assert statuses(answer) == [200, 200]
    cart = await shop.store.read(shop.bucket, Owner("session", "me"))
    assert (cart.total_quantity, cart.version) == (1, 1)


LARGE = INNER * 1_400
"""Over the largest body: the answer comes first."""

UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c"

BODIES = {
    "by length": (add(b"Content-Length: %d" % len(INNER), body=INNER), 400),
    "in chunks": (chunked(body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)), 400),
    "of another protocol": (add(UPGRADE, b"Content-Length: %d" % len(INNER), body=INNER), 400),
    "of a websocket": (
        add(
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
            b"Content-Length: %d" % len(INNER),
            body=INNER,
        ),
        400,
    ),
    "of a GET": (
        add(
            b"Content-Length: %d" % len(INNER),
            body=INNER,
            line=b"GET /api/cart?session_id=me HTTP/1.1",
        ),
        200,
    ),
    "of another path": (
        add(b"Content-Length: %d" % len(INNER), body=INNER, line=b"POST /nowhere HTTP/1.1"),
        404,
    ),
    "of a method that the path has not": (
        add(b"Content-Length: %d" % len(INNER), body=INNER, line=b"PATCH /api/cart HTTP/1.1"),
        405,
    ),
    "too large": (add(b"Content-Length: %d" % len(LARGE), body=LARGE), 413),
    "in chunks, too large": (
        chunked(body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)),
        413,
    ),
    "of another protocol, too large": (
        add(UPGRADE, b"Content-Length: %d" % len(LARGE), body=LARGE),
        413,
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_is_no_request(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    await shop.sell()
    await shop.add_lines(LineRequest(LAMP, 1), owner=VICTIM)
    sent, status = BODIES[name]
    answer = await exchange(str(http.base_url), sent + LAST)
    assert statuses(answer) == [status, 200]
    assert (await shop.store.read(shop.bucket, VICTIM)).total_quantity == 1


CLOSED = {
    "as it asks for": add(LENGTH, b"Connection: close"),
    "of the first version": add(LENGTH, line=b"POST /api/cart HTTP/1.0"),
    # Which has no chunks; what is behind them is nobody's.
    "of the first version, in chunks": chunked().replace(b"HTTP/1.1", b"HTTP/1.0"),
    # Not of the first version is not known to be the next.
    "of a version before the first": add(LENGTH, line=b"POST /api/cart HTTP/0.9"),
    "of the second version": add(LENGTH, line=b"POST /api/cart HTTP/2.0"),
    "with no HTTP behind it": add(LENGTH) + b"\0",
}


@pytest.mark.parametrize("name", CLOSED)
async def test_is_the_last_request(http: httpx.AsyncClient, shop: Shop, name: str) -> None:
    await shop.sell()
    await shop.add_lines(LineRequest(LAMP, 1), owner=VICTIM)
    answer = await exchange(str(http.base_url), CLOSED[name] + INNER + LAST)
    assert statuses(answer) == [200]
    assert b"\r\nconnection: close\r\n" in answer
    assert (await shop.store.read(shop.bucket, VICTIM)).total_quantity == 1


# Headers that are ids, and come back.

BY_HEADER = {
    one.name: route
    for route in reversed(ROUTES)
    if route.operation.method == "GET"
    for one in (*route.contract.parameters, *route.operation.parameters)
    if one.place == "header"
}
"""A route that changes nothing, for each header that is an id."""

SENT = {"date", "content-type", "content-length", "connection", "x-session-id", "retry-after"}
SENT |= {"x-request-id"}


def test_every_header_that_is_an_id_is_tried() -> None:
    assert set(BY_HEADER) == {"x-tenant-id", "x-session-id", "DeviceID"}


@pytest.mark.parametrize("name", BY_HEADER)
async def test_no_byte_of_an_id_becomes_more(
    http: httpx.AsyncClient, shop: Shop, name: str
) -> None:
    route = BY_HEADER[name]
    request = callers_of(route)[-1].ask(route, Aim(1, 1, "me"))
    headers = [(one, text.encode()) for one, text in request["headers"] if one != name]
    before = await shop.everything()
    for byte in range(256):
        sent = [*headers, (name, b"a%cb" % byte), ("connection", b"close")]
        lines = [b"GET %b HTTP/1.1" % request["url"].encode()]
        lines += [b"%b: %b" % (one.encode(), text) for one, text in sent]
        answer = await exchange(str(http.base_url), b"\r\n".join([*lines, b"", b""]))
        [status] = statuses(answer)
        assert status in (200, 400, 404), bytes([byte])
        taken = rb"[\w-]" if name == "x-tenant-id" else rb"[\w.~-]"
        assert (status == 400) == (re.fullmatch(taken, bytes([byte])) is None)
        _, *answered = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert {line.partition(b":")[0].decode() for line in answered} <= SENT
    assert await shop.everything() == before
