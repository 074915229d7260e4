"""cartsvc without one of the parts that make an add cheap: `python -m ... without PART`.

What it answers stays the same; what the part saves is the difference.
"""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from redis.exceptions import NoScriptError, RedisError
from starlette.applications import Starlette

from cartsvc import adds, app, process, settings
from cartsvc.bounds import Bounded
from cartsvc.errors import OutcomeUnknown
from cartsvc.scripts import Argument, Key, Runner, answer


class _Client(Runner):
    """Runs each script by an ordinary call of redis-py, on a connection from its pool."""

    async def run(self, name: str, keys: Sequence[Key], arguments: Sequence[Argument]) -> Any:
        script, redis = self.script(name), self.redis
        call = (*keys, *arguments)
        try:
            try:
                reply = await redis.evalsha(script.sha, len(keys), *call)
            except NoScriptError:
                reply = await redis.eval(script.source, len(keys), *call)
        except RedisError as error:
            raise OutcomeUnknown(str(error)) from error
        return answer(reply)


def _put(module: ModuleType, name: str, value: object) -> None:
    assert hasattr(module, name)
    setattr(module, name, value)


def _link() -> None:
    _put(app, "Runner", _Client)
    _sharing()


def _sharing() -> None:
    _put(adds, "MOST", 1)


def _short_way() -> None:
    _put(app, "Service", Starlette)


def _rest() -> None:
    _put(process, "_spare_the_collector", lambda: None)


def _whole() -> None:
    _put(process, "Protocol", Bounded)


PARTS: dict[str, tuple[str, Callable[[], None]]] = {
    "link": ("cartsvc, each add a call of redis-py", _link),
    "sharing": ("cartsvc, each add a script call", _sharing),
    "whole": ("cartsvc, requests and responses in pieces", _whole),
    "short-way": ("cartsvc, all ways through Starlette", _short_way),
    "rest": ("cartsvc, Python's collector as it comes", _rest),
}
"""What can be taken away: its title as a contender, and how."""


def main(part: str) -> None:
    _, take_away = PARTS[part]
    take_away()
    process.serve(settings.read())


if __name__ == "__main__":
    main(sys.argv[1])
