"""Checks of price changes, and of what PostgreSQL refused."""

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

from cartsvc.audit import Audit, Chain, add_change
from cartsvc.backlog import START, Backlog
from cartsvc.findings import Finding
from cartsvc.keys import Bucket
from cartsvc.model import LINE_BITS, MAX_LINE

_ENTRIES = 1_000
"""Entries of the stream that are read at once."""


class PriceChanges:
    """Lines (item ids) whose price has changed: each change begins where the one before ended, and
    the last ends at the line's price."""

    noun = "lines with new prices"

    def __init__(self, backlog: Backlog, bucket: Bucket, audit: Audit) -> None:
        self.backlog = backlog
        self.bucket = bucket
        self.audit = audit

    async def slices(self) -> AsyncIterator[list[int]]:
        async for items in self.audit.priced_lines():
            yield items

    async def look(self, subjects: Sequence[int]) -> list[Finding]:
        chains = await self.audit.chains(subjects)
        if not any(map(broken, chains.values())):
            return []
        # What is not written yet is in the stream before, or behind what is written by then.
        before: dict[int, Chain] = {item: Chain() for item in subjects}
        await self._add_unwritten(before)
        chains = await self.audit.chains(subjects)
        await self._add_unwritten(chains)
        for item, chain in chains.items():
            chain.changes = before[item].changes | chain.changes
        return [
            Finding("prices", item, _name(item), told)
            for item, chain in chains.items()
            if (told := broken(chain))
        ]

    async def _add_unwritten(self, chains: dict[int, Chain]) -> None:
        """Put what stands in the stream behind what is written."""
        offset = START
        while True:
            changes, last = await self.backlog.price_changes(self.bucket, offset, _ENTRIES)
            for change in changes:
                add_change(chains, change)
            if last == offset:
                return
            offset = last


def broken(chain: Chain) -> str:
    """What is wrong with a line's price changes; '' if nothing is."""
    in_order = sorted(chain.changes.items())
    for (version, (_, new)), (next_version, (old, _)) in pairwise(in_order):
        if new != old:
            return (
                f"has price {new} by its change of version {version}, and {old} by {next_version}"
            )
    prices = [new for version, (_, new) in in_order if version <= (chain.version or 0)]
    if prices and chain.price_minor not in (None, prices[-1]):
        return f"has price {chain.price_minor}, and by its last change {prices[-1]}"
    return ""


def _name(item: int) -> str:
    return f"line {item & MAX_LINE} of cart {item >> LINE_BITS}"


class Letters:
    """What PostgreSQL refused: nothing is lost, but nobody else will see to it."""

    noun = ""

    def __init__(self, bucket: Bucket, audit: Audit) -> None:
        self.bucket = bucket
        self.audit = audit

    async def slices(self) -> AsyncIterator[list[None]]:
        yield [None]

    async def look(self, _subjects: Sequence[None]) -> list[Finding]:
        count = await self.audit.letters()
        command = f"`cartsvc dead-letter list --tenant {self.bucket.tenant}` shows why"
        told = f"{count} rows are set aside; {command}"
        return [Finding("letters", None, "dead letters", told)] if count else []
