"""Waiting for a condition, not for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

LONGEST_S = 20


async def wait_until(value: Callable[[], Any | Awaitable[Any]], expected: Any = True) -> None:
    """Return once `value()` equals `expected`; fail after LONGEST_S."""
    found = None
    try:
        async with asyncio.timeout(LONGEST_S):
            while True:
                found = value()
                found = await found if inspect.isawaitable(found) else found
                if found == expected:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still {found!r}, not {expected!r}, after {LONGEST_S} s") from None
