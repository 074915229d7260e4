"""The audit trail: who did what as an operator, in PostgreSQL's table `audit`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from cartsvc.ledger import Ledger
from cartsvc.sql import query as _q

MAX_OUTCOME = 500
"""Characters of an outcome: a refusal may quote what it was given."""

Facts = Mapping[str, Any]
"""What there is of an act's subject, in short; as JSON."""

_encode = msgspec.json.Encoder().encode


class Actor(NamedTuple):
    """Who acts, by which way ("cli" or "http"), and the request's id where it has one."""

    name: str
    via: str
    request_id: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """A row. `outcome` is "begun", "done" or "refused: ..."; `before` and `after` are JSON."""

    number: int
    at_ms: int
    tenant: str
    actor: str
    via: str
    action: str
    subject: str
    before: str | None
    after: str | None
    outcome: str
    request_id: str | None


class Trail:
    """The rows of every tenant. Raises the driver's errors (`ledger.FAILURES`)."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def begin(self, tenant: str, actor: Actor, action: str, subject: str) -> int:
        """A new row's number."""
        number: int = await self.ledger.pool.fetchval(
            _q("begin_act"), tenant, actor.name, actor.via, action, subject, actor.request_id
        )
        return number

    async def found(self, number: int, before: Facts) -> None:
        """Note how the act found its subject."""
        await self.ledger.pool.execute(_q("note_before"), number, _encode(before).decode())

    async def finish(self, number: int, outcome: str, after: Facts | None = None) -> None:
        told = None if after is None else _encode(after).decode()
        await self.ledger.pool.execute(_q("finish_act"), number, told, outcome[:MAX_OUTCOME])

    async def newest(self, tenant: str | None, limit: int) -> list[Entry]:
        """Rows of a tenant, or of all."""
        rows = await self.ledger.pool.fetch(_q("acts"), tenant, limit)
        return [Entry(**{**row, "at_ms": int(row["at_ms"])}) for row in rows]
