"""Requests and replies: what every contract shares of HTTP."""

import functools
import hashlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial
from time import perf_counter
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from cartsvc import logs, metrics
from cartsvc.errors import CartError, Invalid, Overloaded, SalePaused, Unavailable
from cartsvc.model import Line, Notice, Once, Owner

log = logging.getLogger(__name__)

T = TypeVar("T")

NO_CONTENT = 204
"""The status whose answer has no body, and says nothing of one."""

RETRY_AFTER = (b"retry-after", b"1")
NOTICE = b"x-cart-notice"

REQUEST_ID = b"x-request-id"
"""The header with a request's id: the client's or its proxy's, else one of ours. Logs have it."""

EXCHANGE = "cartsvc.exchange"
"""Where a request's scope has the `wire.Exchange` that it came by; a server that is not ours has
none."""

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header by which a request that is sent again is known; on every operation that changes."""

REPLAY = (b"idempotent-replay", b"true")
"""What says that a request had been answered before, like this."""

MAX_KEY = 255
"""Longest idempotency key, in characters."""

Key = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^[ -~]{{1,{MAX_KEY}}}$"})]
"""An idempotency key, as machines are told of it; `once` checks it."""

_KEY_MUST = f"header must be 1 to {MAX_KEY} printable ASCII characters"
_KEY_NEEDS_OWNER = "header needs a session: without, each request would begin another cart"

_encode = msgspec.json.Encoder().encode
_FIELD = re.compile(r"at `\$\.(\w+)|required field `(\w+)`")


class BodyTooLarge(CartError):
    facts = (("limit_bytes", int),)
    limit_bytes: int


class MethodNotAllowed(CartError):
    """`allowed` are the methods that the path takes, by commas."""

    facts = (("allowed", str),)
    allowed: str


class Disconnected(Exception):
    """The client left before its request was complete: there is nobody to answer."""


Headers = Sequence[tuple[bytes, bytes]]


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def send(self, scope: Scope, send: Send) -> Awaitable[None]:
        headers = [(REQUEST_ID, scope["request_id"].encode()), *self.headers]
        if self.status != NO_CONTENT:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", b"%d" % len(self.body)))
        respond = scope[EXCHANGE].respond if EXCHANGE in scope else partial(_respond, send)
        sent: Awaitable[None] = respond(self.status, headers, self.body)
        return sent


async def _respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """As `wire.Exchange` does, by the messages of ASGI."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


def timestamp(ms: int) -> str:
    """ISO 8601 with Z, in whole seconds, as every contract writes it."""
    return _timestamp(ms // 1000)


# Most of a sale's answers name the same few seconds.
@lru_cache(maxsize=1024)
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def held_until(line: Line) -> str | UnsetType:
    """Until when the line's units are the shopper's own; UNSET where they are not."""
    return UNSET if line.held_until_ms is None else timestamp(line.held_until_ms)


Handle = Callable[[Scope, bytes], Awaitable[Reply]]
Refuse = Callable[[Exception, Scope], Reply]


class Endpoint:
    """An ASGI application of one path: read the body, handle it, answer.

    `methods` are called with the scope and the body. `refuse` turns an error into the contract's
    reply, and is given whatever they raise: no request ends without an answer. HEAD is not taken
    for GET: to read a cart tells its owner, which a head alone would swallow.

    `path` is the route's. A request's own is not logged: it may have somebody's session in it, or
    line breaks. `contract` is the contract's name, for `metrics`.
    """

    def __init__(
        self,
        contract: str,
        path: str,
        methods: Mapping[str, Handle],
        refuse: Refuse,
        max_body_bytes: int,
    ) -> None:
        self.contract = contract
        self.path = path
        self.methods = methods
        self.refuse = refuse
        self.max_body_bytes = max_body_bytes
        self._took: dict[tuple[str, int], metrics.Duration] = {}
        # There before the first one, which would be no increase otherwise.
        metrics.REFUSALS[contract, INTERNAL_ERROR] += 0
        self._quiet_until = 0.0
        self._is_told = log.isEnabledFor(logging.DEBUG)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self.methods.get(scope["method"], self._no_method)
        begun = perf_counter()
        identify(scope)
        try:
            body = scope[EXCHANGE].body() if EXCHANGE in scope else None
            if body is None:
                body = await _body(scope, receive, self.max_body_bytes)
            elif len(body) > self.max_body_bytes:
                raise BodyTooLarge(self.max_body_bytes)
            begun = perf_counter()
            answer = await handle(scope, body)
        except Disconnected:
            return
        except Exception as error:
            answer = self._refusal(error, scope)
        if "once" in scope and scope["once"].is_replay:
            answer = answer._replace(headers=(*answer.headers, REPLAY))
            metrics.REPLAYS[self.contract,] += 1
        await answer.send(scope, send)
        self._observe(scope["method"], answer.status, perf_counter() - begun)

    async def turn_away(self, error: CartError, scope: Scope, send: Send) -> None:
        """Refuse a request that is no operation's."""
        begun = perf_counter()
        identify(scope)
        answer = self._refusal(error, scope)
        await answer.send(scope, send)
        self._observe(scope["method"], answer.status, perf_counter() - begun)

    def _refusal(self, error: Exception, scope: Scope) -> Reply:
        metrics.REFUSALS[self.contract, reason_of(type(error))] += 1
        self._tell(error, scope)
        answer = self.refuse(error, scope)
        if isinstance(error, CartError) and error.notices:
            answer = answer._replace(headers=(*answer.headers, *notice_header(error.notices)))
        return answer

    def _observe(self, method: str, status: int, seconds: float) -> None:
        took = self._took.get((method, status))
        if took is None:
            known = method if method in self.methods else "other"
            took = metrics.REQUESTS[self.contract, known, self.path, str(status)]
            self._took[method, status] = took
        took.observe(seconds)
        if self._is_told:
            log.debug("%s %s %d %.1f ms", method, self.path, status, seconds * 1000)

    async def _no_method(self, _: Scope, __: bytes) -> NoReturn:
        raise MethodNotAllowed(", ".join(self.methods))

    def _tell(self, error: Exception, scope: Scope) -> None:
        """Log what an operator must know; a server that is away is told once a second."""
        if not isinstance(error, CartError):
            log.error("%s %s failed", scope["method"], self.path, exc_info=error)
        elif isinstance(error, (Overloaded, SalePaused)):
            pass  # `pressure` has told it, once; and who has paused the sale knows.
        elif isinstance(error, Unavailable) and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + 1
            log.warning("%s %s answered 503: %s", scope["method"], self.path, error)


INTERNAL_ERROR = "internal_error"
"""How `metrics` names an error that nobody meant to raise."""


def reason_of(kind: type[Exception]) -> str:
    """How `metrics` names an error: as errors.py does, in small letters."""
    return _spelled(kind.__name__) if issubclass(kind, CartError) else INTERNAL_ERROR


@functools.cache
def _spelled(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def identify(scope: Scope) -> None:
    """Give a request its id, and its headers by their names: of one sent twice, the last."""
    named = scope["named"] = dict(scope["headers"])
    given = named.get(REQUEST_ID, b"")
    is_id = _REQUEST_ID.fullmatch(given)
    request_id = scope["request_id"] = given.decode() if is_id else logs.new_request_id()
    logs.REQUEST_ID.set(request_id)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    if int(scope["named"].get(b"content-length", 0)) > limit:
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


def header(scope: Scope, name: str) -> str | None:
    """The value of a header, None where the request does not have it.

    Raises:
        Invalid: it is there more than once, with different values.
    """
    wanted, headers = _raw(name), scope["headers"]
    found: bytes | None = scope["named"].get(wanted)
    if found is None:
        return None
    if any(key == wanted and value != found for key, value in headers):
        raise Invalid(name, "header must be sent once")
    return found.decode("latin-1")


@functools.cache
def _raw(name: str) -> bytes:
    return name.lower().encode()


def once(scope: Scope, body: bytes, caller: Owner | None) -> Once | None:
    """The request, if it has an idempotency key; None if it has not.

    Raises:
        Invalid: the key has not the form of one, or there is no caller whose it could be.
    """
    key = header(scope, IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY):
        raise Invalid(IDEMPOTENCY_KEY, _KEY_MUST)
    if caller is None:
        raise Invalid(IDEMPOTENCY_KEY, _KEY_NEEDS_OWNER)
    parts = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
    fingerprint = hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()
    asked = scope["once"] = Once(caller, key, fingerprint)
    return asked


def answered_ms(scope: Scope, now_ms: int) -> int:
    """When a request is answered: now, or when it was answered first."""
    asked: Once | None = scope.get("once")
    return asked.at_ms or now_ms if asked else now_ms


def query(scope: Scope, name: str) -> str | None:
    """The value of a query parameter, None where the request does not have it.

    Raises:
        Invalid: it is there more than once.
    """
    values = QueryParams(scope["query_string"]).getlist(name)
    if len(values) > 1:
        raise Invalid(name, "must be given once")
    return values[0] if values else None


def fields(body: bytes) -> dict[str, Any]:
    """The body as a dictionary, for contracts that tell all that is wrong with it at once.

    Numbers that are not whole come as Decimal.

    Raises:
        Invalid: it is no JSON object, or has a key twice.
    """
    try:
        # Stricter: half a surrogate pair, which json lets through, is no text.
        msgspec.json.decode(body)
        value = json.loads(
            body, object_pairs_hook=_no_repeats, parse_float=_decimal, parse_constant=_no_number
        )
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None
    if not isinstance(value, dict):
        raise Invalid("", _NOT_OBJECT)
    return value


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
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None
    return value


def _unreadable(error: RecursionError | ValueError) -> Invalid:
    if isinstance(error, RecursionError):
        return Invalid("", "is nested too deeply")
    return Invalid("", str(error) if isinstance(error, _RepeatedKey) else "is not valid JSON")


_NOT_OBJECT = "must be a JSON object"


class _RepeatedKey(ValueError):
    pass


def _fields_set(value: Any) -> int:
    values = msgspec.structs.astuple(value)
    return len(values) - values.count(None)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKey("has a key twice")
    return found


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError(text) from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
