"""The row that an act leaves in the audit trail: begun before the act, finished after it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cartsvc import drivers
from cartsvc.errors import NoRight, NotRecorded
from cartsvc.ledger import FAILURES, NO_RIGHT
from cartsvc.trail import Actor, Facts, Trail

T = TypeVar("T")

RECORD_S = 3.0
"""Longest wait for a row of the trail: who pauses a sale waits for it, too."""


class Row:
    """The row of one act; `after` is written at its end.

    Where it can't be written, the act does not go on, unless it is done `in_any_case`; then, as at
    its end, `lacks` is told why.
    """

    def __init__(self, trail: Trail, lacks: Callable[[str], object], *, in_any_case: bool) -> None:
        self.trail = trail
        self.lacks = lacks
        self.in_any_case = in_any_case
        self.number: int | None = None
        self.after: Facts | None = None

    async def begin(self, tenant: str, actor: Actor, action: str, subject: str) -> None:
        """Write that the act is begun.

        Raises:
            NotRecorded, NoRight: it can't be written.
        """
        begun = self.trail.begin(tenant, actor, action, subject)
        self.number = await self._written(begun, self.in_any_case)

    async def found(self, before: Facts) -> None:
        """Note how the act found its subject. Raises as `begin` does."""
        if self.number is not None:
            await self._written(self.trail.found(self.number, before), self.in_any_case)

    async def finish(self, outcome: str) -> None:
        if self.number is not None:
            await self._written(self.trail.finish(self.number, outcome, self.after), True)

    async def _written(self, writing: Awaitable[T], in_any_case: bool) -> T | None:
        try:
            async with asyncio.timeout(RECORD_S):
                return await writing
        except FAILURES as error:
            reason = drivers.in_a_line(error)
            if not in_any_case:
                kind = NoRight if isinstance(error, NO_RIGHT) else NotRecorded
                raise kind(reason) from error
            self.lacks(reason)
            return None
