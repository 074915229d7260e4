"""Requests and replies: what every contract shares of HTTP."""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cartsvc.errors import CartError, Invalid, Unavailable
from cartsvc.model import Notice

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_AFTER = (b"retry-after", b"1")
NOTICE = b"x-cart-notice"

_encode = msgspec.json.Encoder().encode
_FIELD = re.compile(r"at `\$\.(\w+)|required field `(\w+)`")


class BodyTooLarge(CartError):
    facts = (("limit_bytes", int),)
    limit_bytes: int


class Disconnected(Exception):
    """The client left before its request was complete: there is nobody to answer."""


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def reply(status: int, content: Any, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status, _encode(content), headers)


def notice_header(notices: Sequence[Notice]) -> tuple[tuple[bytes, bytes], ...]:
    """The header that tells an owner what happened to the cart; none where nothing did."""
    if not notices:
        return ()
    told = (f"{notice.reason}; sku={notice.sku}; quantity={notice.quantity}" for notice in notices)
    return ((NOTICE, ", ".join(told).encode()),)


def retry_after(wait_ms: int) -> tuple[bytes, bytes]:
    """Whole seconds, rounded up: whoever comes back then is not too early."""
    return (b"retry-after", b"%d" % -(-wait_ms // 1000))


Handle = Callable[[Scope, bytes], Awaitable[Reply]]


Refuse = Callable[[Exception], Reply]


def route(path: str, methods: Mapping[str, Handle], refuse: Refuse, max_body_bytes: int) -> Route:
    """A path with what answers each of its methods; any other is 405."""
    found = Route(path, Endpoint(methods, refuse, max_body_bytes), methods=list(methods))
    # Starlette adds it to GET. To read a cart tells its owner, which a head alone would swallow.
    assert found.methods is not None  # noqa: S101
    found.methods.discard("HEAD")
    return found


class Endpoint:
    """An ASGI application of one path: read the body, handle it, answer.

    `methods` are called with the scope and the body. `refuse` turns an error into the contract's
    reply, and is given whatever they raise: no request ends without an answer.
    """

    def __init__(self, methods: Mapping[str, Handle], refuse: Refuse, max_body_bytes: int) -> None:
        self.methods = methods
        self.refuse = refuse
        self.max_body_bytes = max_body_bytes
        self._quiet_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self.methods[scope["method"]]
        try:
            answer = await handle(scope, await _body(scope, receive, self.max_body_bytes))
        except Disconnected:
            return
        except Exception as error:
            self._tell(error, scope)
            answer = self.refuse(error)
            if isinstance(error, CartError) and error.notices:
                answer = answer._replace(headers=(*answer.headers, *notice_header(error.notices)))
        await answer.send(send)

    def _tell(self, error: Exception, scope: Scope) -> None:
        """Log what an operator must know; a server that is away is told once a second."""
        if not isinstance(error, CartError):
            log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        elif isinstance(error, Unavailable) and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + 1
            log.warning("%s %s answered 503: %s", scope["method"], scope["path"], error)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise BodyTooLarge(limit)
    chunks = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as the decoder's Struct.

    Raises:
        Invalid: names the field, or no field ('') where the body itself is not what was asked for.
    """
    try:
        value = decoder.decode(body)
        # A repeated key leaves one colon more than there are fields; only then look closely.
        if body.count(b":") > _fields_set(value):
            json.loads(body, object_pairs_hook=_no_repeats, parse_int=str, parse_float=str)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        field = (found[1] or found[2]) if found else ""
        raise Invalid(field, "is missing or has the wrong type" if field else _NOT_OBJECT) from None
    except RecursionError:
        raise Invalid("", "is nested too deeply") from None
    except ValueError as error:
        problem = str(error) if isinstance(error, _RepeatedKey) else "is not valid JSON"
        raise Invalid("", problem) from None
    return value


_NOT_OBJECT = "must be a JSON object"


class _RepeatedKey(ValueError):
    pass


def _fields_set(value: Any) -> int:
    return sum(getattr(value, name) is not None for name in value.__struct_fields__)


def _no_repeats(pairs: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        raise _RepeatedKey("has a key twice")
