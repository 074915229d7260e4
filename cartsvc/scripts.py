"""The Lua scripts: loaded from `lua/`, called by name, their reply codes turned into errors."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import hiredis
import msgspec
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cartsvc.clock import Clock
from cartsvc.errors import REPLIES, CartError, OutcomeUnknown
from cartsvc.link import Link, ReplyError, pack
from cartsvc.metrics import SCRIPTS
from cartsvc.model import Notice
from cartsvc.settings import SettingError, variable
from cartsvc.syncs import TIMEOUT_S, Syncs

Key = str | bytes
"""Of Redis. Bytes are one that Redis has told: it may be somebody else's, and no text."""

Argument = str | int | bytes

IN_FLIGHT = 4096
"""Scripts that may wait for Redis at once, where nothing else is said."""

FAILURES = (RedisError,)
"""What a call of the client raises when Redis is away, or refuses."""

_PACKAGE = Path(__file__).parent
# The wheel carries the folder inside the package; a checkout has it beside the package.
FOLDER = _PACKAGE / "lua" if (_PACKAGE / "lua").is_dir() else _PACKAGE.parent / "lua"


_USES = re.compile(r"^-- uses (.+)$", re.MULTILINE)
_PLACE = re.compile(r"user_script:(\d+)")


@dataclass(frozen=True)
class Script:
    """What Redis runs: the pieces that the script's header names, and behind them the script.

    `places` are (first line, file) of each, in order.
    """

    source: str
    places: tuple[tuple[int, str], ...]

    @cached_property
    def sha(self) -> str:
        # SHA-1 is what Redis names scripts by; nothing is secured with it.
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def located(self, message: str) -> str:
        """An error message of Redis, in which lines are those of the files."""
        return _PLACE.sub(self._place, message)

    def _place(self, found: re.Match[str]) -> str:
        line = int(found[1])
        first, file = [place for place in self.places if place[0] <= line][-1]
        return f"{file}:{line - first + 1}"


def compiled(name: str, read: Callable[[str], str]) -> Script:
    """The script `name`, joined with what it uses; `read` gives the text of a file."""
    main = f"{name}.lua"
    body = read(main)
    found = _USES.search(body)
    files = [*(f"lib/{piece}.lua" for piece in (found[1].split(", ") if found else ())), main]
    source = "#!lua\n"
    places = []
    for file in files:
        # Where the file's first line is; in a script, not in a piece, that is its `#!lua`.
        places.append((source.count("\n") + (file != main), file))
        source += read(file).removeprefix("#!lua\n")
    return Script(source, tuple(places))


def read(file: str) -> str:
    return (FOLDER / file).read_text(encoding="utf-8")


@cache
def load(name: str) -> Script:
    return compiled(name, read)


def connect(url: str, *, timeout_s: float, silence_s: float | None = None) -> Redis:
    """A client that opens connections when they are needed; nothing happens before that.

    `timeout_s` bounds the connecting, `silence_s` the wait for any reply.

    Raises:
        SettingError: the URL has an option that there is not.
    """
    try:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=timeout_s,
            socket_timeout=silence_s,
            protocol=2,
            # Said outright, since the client's default elsewhere is to repeat a command whose reply
            # was lost: an add would count twice.
            retry=Retry(NoBackoff(), 0),
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        raise SettingError(f"{variable('redis_url')}: {error}") from None
    return Redis.from_pool(pool)


class Runner:
    """Runs the scripts: one by one over the link, each within `timeout_s`; many at once, and
    whatever else is asked of Redis, with the client.

    With `sync_key` there are `syncs`, for whoever acknowledges a change; else they are None.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        timeout_s: float,
        in_flight: int = IN_FLIGHT,
        sync_key: str | None = None,
    ) -> None:
        self.redis = redis
        self.timeout_s = timeout_s
        self.in_flight = in_flight
        pool = redis.connection_pool
        self.link = Link(pool, timeout_s=timeout_s, in_flight=in_flight)
        self.syncs: Syncs | None = None
        if sync_key is not None:
            # A moment longer than WAITAOF itself may take.
            link = Link(pool, timeout_s=TIMEOUT_S + timeout_s, in_flight=in_flight)
            self.syncs = Syncs(link, sync_key, in_flight=in_flight)

    async def aclose(self) -> None:
        await self.link.aclose()
        if self.syncs is not None:
            await self.syncs.aclose()
        await self.redis.aclose()

    @property
    def clock(self) -> Clock:
        """Redis's time, as the link knows it."""
        return self.link.clock

    async def time_known(self) -> None:
        """Wait for the link's first connection, if there was none yet: with it the time is known.

        Raises as `run` does.
        """
        if not self.clock.is_known:
            await self._ask("TIME")

    async def now_ms(self) -> int:
        """What time it is, once Redis has told it. Raises as `run` does."""
        await self.time_known()
        return self.clock.ms()

    async def synced(self) -> None:
        """Wait for the disk, if changes are to be there before they are acknowledged.

        Raises as `Syncs.synced` does.
        """
        if self.syncs is not None:
            await self.syncs.synced()

    def script(self, name: str) -> Script:
        return load(name)

    async def run(self, name: str, keys: Sequence[Key], arguments: Sequence[Argument]) -> Any:
        """What the script returns beside its code OK.

        Raises:
            CartError: the one that the reply code stands for.
            OutcomeUnknown: Redis could not be reached, failed or did not answer in time.
            Busy: too many scripts wait for Redis already.
        """
        script = self.script(name)
        call = (len(keys), *keys, *arguments)
        begun = perf_counter()
        try:
            reply = await self.link.send(pack(("EVALSHA", script.sha, *call)))
        except ReplyError as error:
            reply = await self._after(error, name, call)
        finally:
            SCRIPTS[name,].observe(perf_counter() - begun)
        return answer(reply)

    async def hash(self, key: str) -> list[bytes]:
        """Fields and values of a hash; none where there is no such key.

        Raises as `run` does.
        """
        fields: list[bytes] = await self._ask("HGETALL", key)
        return fields

    async def value(self, key: str) -> bytes | None:
        """What a string holds; None where there is no such key.

        Raises as `run` does.
        """
        value: bytes | None = await self._ask("GET", key)
        return value

    async def values(self, key: str, fields: Sequence[bytes]) -> list[bytes | None]:
        """What these fields of a hash hold; None where there is no such key or field.

        Raises as `run` does.
        """
        values: list[bytes | None] = await self._ask("HMGET", key, *fields)
        return values

    async def _ask(self, *command: str | bytes) -> Any:
        try:
            return await self.link.send(pack(command))
        except ReplyError as error:
            raise OutcomeUnknown(str(error)) from error

    async def hashes(self, keys: Iterable[str]) -> list[list[bytes] | None]:
        """As `hash`, of many that are asked for at once; None where a key holds something else."""
        asked = [self.link.send(pack(("HGETALL", key))) for key in keys]
        return [_hash(reply) for reply in await asyncio.gather(*asked, return_exceptions=True)]

    async def run_many(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """Run one script many times in one round trip, each run on its own; for bulk work.

        Waits for no turn and has no deadline: the client's own limits hold.

        Raises as `run` does, at the first run that failed; the others are done all the same.
        """
        results = await self.try_many(name, calls)
        for result in results:
            if isinstance(result, CartError):
                raise result
        return results

    async def try_many(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """As `run_many`, but a run that was refused gives its error instead of a result."""
        script = self.script(name)
        try:
            await self.redis.script_load(script.source)
            pipeline = self.redis.pipeline(transaction=False)
            for keys, arguments in calls:
                pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            replies = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise OutcomeUnknown(f"{name}: {script.located(str(error))}") from error
        return [_attempt(reply) for reply in replies]

    async def _after(self, error: ReplyError, name: str, call: tuple[Argument, ...]) -> list[Any]:
        """The reply of a script that Redis did not know; any other error stays one."""
        script = self.script(name)
        try:
            if not str(error).startswith("NOSCRIPT"):
                raise error
            # Nothing ran, so running it now is no repeat. EVAL also caches it for the next call.
            reply: list[Any] = await self.link.send(pack(("EVAL", script.source, *call)))
        except ReplyError as error:
            raise OutcomeUnknown(f"{name}: {script.located(str(error))}") from error
        return reply


def answer(reply: list[Any]) -> Any:
    """What stands behind the code OK; any other code is raised as its error."""
    if reply[0] == b"OK":
        return reply[1] if len(reply) == 2 else reply[1:]
    kind = REPLIES[reply[0].decode()]
    values = reply[1:]
    error = kind(
        *(told(_text(value)) for (_, told), value in zip(kind.facts, values, strict=False))
    )
    if len(values) > len(kind.facts):
        error.notices = notices(values[-1])
    raise error


def sent(reply: bytes) -> list[Any]:
    """A reply that is given as Redis sends it."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return cast(list[Any], reader.gets())


def _hash(reply: list[bytes] | BaseException) -> list[bytes] | None:
    if isinstance(reply, ReplyError):
        if str(reply).startswith("WRONGTYPE"):
            return None
        raise OutcomeUnknown(str(reply)) from reply
    if isinstance(reply, BaseException):
        raise reply
    return reply


def _attempt(reply: list[Any]) -> Any:
    try:
        return answer(reply)
    except CartError as error:
        return error


_notices = msgspec.json.Decoder(tuple[Notice, ...])


def notices(text: bytes) -> tuple[Notice, ...]:
    """What a script has to tell an owner: JSON objects, by commas."""
    return _notices.decode(b"[%b]" % text) if text else ()


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(one) for one in value]
    # What somebody wrote into Redis by hand may be no text.
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
