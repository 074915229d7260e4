"""Code with a guard taken out, to see that a test notices."""

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import ModuleType

import msgspec
import pytest

from cartsvc import sql
from cartsvc.errors import Refused


def mutant(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of `module` in which `old`, which stands there once, is replaced by `new`."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} has {old!r} {source.count(old)} times"
    copy = ModuleType(module.__name__)
    copy.__file__ = module.__file__
    exec(compile(source.replace(old, new), str(module.__file__), "exec"), copy.__dict__)  # noqa: S102
    return copy


@contextmanager
def mutant_query(name: str, old: str, new: str) -> Iterator[None]:
    """The named SQL query with `old` replaced by `new`, for as long as the context lasts."""
    queries = sql.queries()
    source = queries[name]
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    queries[name] = source.replace(old, new)
    try:
        yield
    finally:
        queries[name] = source


# A script that merely crashes is OutcomeUnknown, which says nothing about its guard.
# A cart that the script let be broken is not readable.
RED = (AssertionError, pytest.fail.Exception, Refused, msgspec.ValidationError)


async def turns_red(case: Awaitable[None]) -> None:
    with pytest.raises(RED):
        await case
