"""An audit of a tenant while it runs: what is wrong in Redis, in PostgreSQL, and between the two.

All is read in slices, so that nobody notices. What looks wrong is looked at again, alone, several
times: only what is wrong each time is told, since the rest was on its way.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cartsvc.audit import Audit
from cartsvc.backlog import Backlog
from cartsvc.cart_checks import Carts, Markers, Rows
from cartsvc.errors import NotWarm, UnknownTenant
from cartsvc.event_checks import Letters, PriceChanges
from cartsvc.findings import AT_ONCE, Check, Finding
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.recovery import Recovery
from cartsvc.stock_checks import Counters, Orders

LOOKS = 4
"""How often what looks wrong is looked at again."""

MAX_SUSPECTS = 1_000
"""Of one check. Where more looks wrong, the rest is not looked at."""


@dataclass(slots=True)
class Verdict:
    """How many subjects were looked at, by noun; what is wrong; nouns of which not all was seen."""

    looked_at: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    broken_off: list[str] = field(default_factory=list)


class Verifier:
    """The checks of one bucket. Looks again `pause_s` apart."""

    def __init__(
        self, backlog: Backlog, ledger: Ledger, bucket: Bucket, *, max_lines: int, pause_s: float
    ) -> None:
        self.backlog = backlog
        self.ledger = ledger
        self.bucket = bucket
        self.pause_s = pause_s
        runner = backlog.runner
        self.audit = audit = Audit(ledger, bucket.tenant)
        self.counters = Counters(backlog, bucket, audit)
        self.markers = Markers(runner, bucket, audit)
        self.checks: list[Check] = [
            Carts(runner, bucket, audit, max_lines),
            Rows(runner, bucket, audit, Recovery(ledger, bucket.tenant)),
            self.markers,
            self.counters,
            Orders(audit),
            PriceChanges(backlog, bucket, audit),
            Letters(bucket, audit),
        ]

    async def run(self) -> Verdict:
        """What is wrong.

        Raises:
            UnknownTenant: PostgreSQL does not know the bucket.
            NotWarm: Redis has nothing of it.
        """
        if not await self.ledger.has_bucket(self.bucket):
            raise UnknownTenant(self.bucket.tenant)
        if not await self.backlog.redis.exists(self.bucket.seq):
            raise NotWarm
        verdict = Verdict(Counter({check.noun: 0 for check in self.checks if check.noun}))
        suspects = [(check, await self._suspects(check, verdict)) for check in self.checks]
        verdict.findings = await self._confirmed(suspects)
        return verdict

    async def _suspects(self, check: Check, verdict: Verdict) -> list[Finding]:
        suspects: dict[Any, Finding] = {}
        async for subjects in check.slices():
            if check.noun:
                verdict.looked_at[check.noun] += len(subjects)
            found = await _look(check, subjects)
            suspects |= {one.name: one for one in await _look(check, _subjects(found))}
            if len(suspects) >= MAX_SUSPECTS:
                verdict.broken_off.append(check.noun)
                break
        return list(suspects.values())

    async def _confirmed(
        self, suspects: Sequence[tuple[Check, Sequence[Finding]]]
    ) -> list[Finding]:
        """What is found wrong whenever it is looked at again, as it was found last."""
        for _ in range(LOOKS):
            if not any(found for _, found in suspects):
                break
            await asyncio.sleep(self.pause_s)
            suspects = [(check, await self._still(check, found)) for check, found in suspects]
        return [finding for _, found in suspects for finding in found]

    @staticmethod
    async def _still(check: Check, findings: Sequence[Finding]) -> list[Finding]:
        names = {finding.name for finding in findings}
        return [now for now in await _look(check, _subjects(findings)) if now.name in names]


def _subjects(findings: Sequence[Finding]) -> list[Any]:
    return list(dict.fromkeys(finding.subject for finding in findings))


async def _look(check: Check, subjects: Sequence[Any]) -> list[Finding]:
    found: dict[Finding, None] = {}
    for start in range(0, len(subjects), AT_ONCE):
        found |= dict.fromkeys(await check.look(subjects[start : start + AT_ONCE]))
    return list(found)
