"""Adds of one turn of the event loop, a bucket's in as few script calls as they fit into.

A good part of what Redis does for an add it does for the call: it reads the keys and makes the
script's functions. Adds that come together share that, and nothing else: each is decided on what
those before it left, as if it had been sent alone, and is refused, or fails, alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

from cartsvc.errors import Busy, OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.scripts import Argument, Key, Runner, answer

MOST = 16
"""Adds that one call takes: what bounds how long it blocks Redis. More would save little."""

_SCRIPT = "cart_add"

Run = Callable[[str, Bucket, Sequence[Key], Sequence[Argument]], Awaitable[Any]]


class _Add(NamedTuple):
    future: asyncio.Future[Any]
    keys: Sequence[str]
    arguments: Sequence[Argument]


class Adds:
    """Collects adds and has `run` run them; at most `runner.in_flight` wait at once."""

    def __init__(self, runner: Runner, run: Run) -> None:
        self.runner = runner
        self.run = run
        self._collected: dict[tuple[str, int], list[_Add]] = {}
        self._waiting = 0
        self._calls: set[asyncio.Task[None]] = set()

    async def add(self, bucket: Bucket, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The fields of a cart once the lines in `arguments` are in it; its key is the first.

        Raises:
            CartError: as `Runner.run` does.
        """
        if self._waiting >= self.runner.in_flight:
            raise Busy(self.runner.in_flight)
        loop = asyncio.get_running_loop()
        place = (bucket.tenant, bucket.number)
        collected = self._collected.get(place)
        if collected is None:
            collected = self._collected[place] = []
            loop.call_soon(self._send, bucket, place)
        future = loop.create_future()
        collected.append(_Add(future, keys, arguments))
        self._waiting += 1
        try:
            return answer(await future)
        except OutcomeUnknown as failed:
            located = self.runner.script(_SCRIPT).located(failed.reason)
            raise OutcomeUnknown(located) from None
        finally:
            self._waiting -= 1

    def _send(self, bucket: Bucket, place: tuple[str, int]) -> None:
        # Whoever was cancelled meanwhile has not asked for anything.
        adds = [add for add in self._collected.pop(place) if not add.future.done()]
        for first in range(0, len(adds), MOST):
            call = asyncio.ensure_future(self._call(bucket, adds[first : first + MOST]))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, bucket: Bucket, adds: Sequence[_Add]) -> None:
        keys = [key for add in adds for key in add.keys]
        arguments = [argument for add in adds for argument in add.arguments]
        try:
            replies = await self.run(_SCRIPT, bucket, keys, arguments)
            if len(replies) != len(adds):
                raise OutcomeUnknown(f"{len(replies)} replies to {len(adds)} adds")
        except Exception as error:
            for add in adds:
                if not add.future.done():
                    # One of its own for each: what a request learns is added to its error.
                    add.future.set_exception(copy(error))
        else:
            for add, reply in zip(adds, replies, strict=True):
                if not add.future.done():
                    add.future.set_result(reply)
