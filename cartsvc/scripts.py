"""The Lua scripts: loaded from `lua/`, called by name, their reply codes turned into errors."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from cartsvc.errors import REPLIES, OutcomeUnknown

Argument = str | int

_PACKAGE = Path(__file__).parent
# The wheel carries the folder inside the package; a checkout has it beside the package.
FOLDER = _PACKAGE / "lua" if (_PACKAGE / "lua").is_dir() else _PACKAGE.parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: str
    sha: str


def compiled(name: str, source: str) -> Script:
    # SHA-1 is what Redis names scripts by; nothing is secured with it.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@cache
def load(name: str) -> Script:
    return compiled(name, (FOLDER / f"{name}.lua").read_text(encoding="utf-8"))


def connect(url: str, *, timeout_s: float, silence_s: float | None = None) -> Redis:
    """A client that opens connections when they are needed; nothing happens before that.

    `timeout_s` bounds the connecting. `silence_s` bounds the wait for any reply, for those who do
    not only call through a `Runner`, which has its deadline. Requests go without it: to keep it the
    client uses `asyncio.wait_for`, and that can swallow the deadline of the Runner in Python 3.11.
    """
    pool = ConnectionPool.from_url(
        url,
        socket_connect_timeout=timeout_s,
        socket_timeout=silence_s,
        protocol=2,
        # Said outright, since the client's default elsewhere is to repeat a command whose reply
        # was lost: an add would count twice.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


class Runner:
    """Runs the scripts on one Redis client, each within `timeout_s`, waiting for a turn included.

    At most `connections` run at once, the others wait in the order in which they came: the pool
    that the client offers for that serves whoever asks at the right moment, and a rush leaves
    some waiting until their time is up.
    """

    def __init__(self, redis: Redis, *, timeout_s: float, connections: int = 16) -> None:
        self.redis = redis
        self.timeout_s = timeout_s
        self._turns = asyncio.Semaphore(connections)

    def script(self, name: str) -> Script:
        return load(name)

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """What the script returns beside its code OK.

        Raises:
            CartError: the one that the reply code stands for.
            OutcomeUnknown: Redis could not be reached, failed or did not answer in time.
        """
        try:
            async with asyncio.timeout(self.timeout_s), self._turns:
                reply = await self._evaluate(self.script(name), keys, arguments)
        except TimeoutError:
            raise OutcomeUnknown(f"{name}: no answer within {self.timeout_s} s") from None
        except (RedisError, OSError) as error:
            raise OutcomeUnknown(f"{name}: {error}") from error
        return answer(reply)

    async def run_many(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """Run one script many times in one round trip, each run on its own; for bulk work.

        Waits for no turn and has no deadline: the client's own limits hold.

        Raises as `run` does, at the first run that failed; the others are done all the same.
        """
        script = self.script(name)
        try:
            await self.redis.script_load(script.source)
            pipeline = self.redis.pipeline(transaction=False)
            for keys, arguments in calls:
                pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            replies = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise OutcomeUnknown(f"{name}: {error}") from error
        return [answer(reply) for reply in replies]

    async def _evaluate(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> list[Any]:
        call = (len(keys), *keys, *arguments)
        reply: list[Any]
        execute: Callable[..., Awaitable[Any]] = self.redis.execute_command
        try:
            reply = await execute("EVALSHA", script.sha, *call)
        except NoScriptError:
            # Nothing ran, so running it now is no repeat. EVAL also caches it for the next call.
            reply = await execute("EVAL", script.source, *call)
        return reply


def answer(reply: list[Any]) -> Any:
    """What stands behind the code OK; any other code is raised as its error."""
    code = reply[0].decode()
    if code == "OK":
        return reply[1]
    error = REPLIES[code]
    facts = zip(error.facts, reply[1:], strict=True)
    raise error(*(kind(_text(value)) for (_, kind), value in facts))


def _text(value: bytes | int) -> str | int:
    return value.decode() if isinstance(value, bytes) else value
