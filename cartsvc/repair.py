"""Mending what an audit found, where nothing has to be guessed. Each step is a script, or a
transaction, that looks again before it writes."""

from collections.abc import Sequence
from typing import NamedTuple

from cartsvc.audit import NO_ROW
from cartsvc.backlog import DirtyCarts
from cartsvc.cart_checks import ACTIVE, Place, inspect
from cartsvc.findings import Finding
from cartsvc.model import Owner, StockLevel
from cartsvc.recovery import units_sold
from cartsvc.scripts import Argument
from cartsvc.store import Store
from cartsvc.verify import Verifier

ORDER = (
    "index",
    "row",
    "closed",
    "nowhere",
    "cold",
    "received",
    "negative",
    "books",
    "held",
    "sold",
)
"""Kinds of what can be mended. Carts first: counters are counted from them."""

_NEVER_MS = -1
"""No row was changed at this time."""


class Repaired(NamedTuple):
    """What was mended, and what is still wrong."""

    mended: list[Finding]
    left: list[Finding]


class Repair:
    """Mends the bucket that a verifier looks at."""

    def __init__(self, verifier: Verifier, store: Store) -> None:
        self.verifier = verifier
        self.store = store
        self.ledger = verifier.ledger
        self.bucket = verifier.bucket
        self.backlog = verifier.backlog
        self.runner = verifier.backlog.runner
        self.audit = verifier.audit
        self.counters = verifier.counters

    async def run(self, findings: Sequence[Finding]) -> Repaired:
        """Mend what can be, and look at all again, since that may show more; until it does not."""
        mended: dict[object, Finding] = {}
        left = list(findings)
        while True:
            # Where PostgreSQL's own orders and books differ, neither says what was sold.
            in_doubt = {one.what for one in left if one.kind == "orders"}
            plain = [one for one in left if one.can_be_mended and one.name not in mended]
            done = [
                one
                for one in sorted(plain, key=_turn)
                if one.what not in in_doubt and await self._mend(one)
            ]
            mended |= {one.name: one for one in done}
            if not done:
                return Repaired(list(mended.values()), left)
            left = (await self.verifier.run()).findings

    async def _mend(self, finding: Finding) -> bool:
        """Whether anything was done."""
        match finding.kind:
            case "index":
                [seen] = await inspect(self.runner, self.bucket, [finding.subject], mend=True)
                return bool(seen.wrong)
            case "row":
                return await self._write_again(finding.subject)
            case "closed":
                return await self._forget(finding.subject)
            case "nowhere":
                return await self._mark(*finding.subject)
            case "cold":
                return await self._unmark(finding.subject)
            case "received":
                return await self._record(finding.subject)
            case _:
                return await self._count_anew(finding.subject)

    async def _write_again(self, place: Place) -> bool:
        """Let the next flush write a cart; behind its row, where that is as late or later."""
        [seen] = await inspect(self.runner, self.bucket, [place])
        cart = seen.cart
        if cart is None or seen.problem:
            return False
        row = (await self.audit.row_states([cart.id])).get(cart.id, NO_ROW)
        if cart.status == ACTIVE and row.version is not None and row.version >= cart.version:
            # As a flush does that found a row of another time instead.
            now_ms, ahead = self.store.clock_ms(), {cart.id: (row.version, _NEVER_MS)}
            found = DirtyCarts(now_ms, [cart], {place.key: (cart.id, cart.version)}, ahead=ahead)
            await self.backlog.flushed(self.bucket, found)
        else:
            await self.backlog.mark(self.bucket, cart.id)
        return True

    async def _forget(self, place: Place) -> bool:
        """Take a cart out of Redis that PostgreSQL has closed, and count what it sold."""
        [seen] = await inspect(self.runner, self.bucket, [place])
        cart = seen.cart
        if cart is None or cart.status != ACTIVE:
            return False
        row = (await self.audit.row_states([cart.id])).get(cart.id, NO_ROW)
        if row.status in (None, ACTIVE):
            return False
        orders = units_sold(row.lines or [])
        levels = await self.counters.levels(list(orders))
        if levels.keys() != orders.keys():
            return False
        # At most what Redis lacks: it may have counted the order, and lost the rest.
        sold = {
            sku: (level.sold, max(0, min(orders[sku], level.sold_next - level.sold)))
            for sku, level in levels.items()
        }
        return await self.store.forget(self.bucket, cart, sold)

    async def _mark(self, cart_id: int, owner: Owner) -> bool:
        """Leave a marker of an active row that Redis does not know."""
        bucket = self.bucket
        keys = [bucket.seq, bucket.carts, bucket.cold, bucket.cart(owner)]
        # Held, so that nobody closes and writes it meanwhile.
        async with self.ledger.held_cart(bucket.tenant, cart_id) as found:
            if found is None or found.cart.status != ACTIVE:
                return False
            return bool(await self.runner.run("cart_mark", keys, [bucket.marked(owner), cart_id]))

    async def _unmark(self, marked: str) -> bool:
        """Forget the marker of a cart that PostgreSQL has closed."""
        cart_id = (await self.verifier.markers.ids([marked])).get(marked)
        if cart_id is None:
            return False
        status = await self.ledger.status(self.bucket.tenant, cart_id)
        if status in (None, ACTIVE):
            return False
        return bool(await self.runner.run("cart_unmark", [self.bucket.cold], [marked, cart_id]))

    async def _record(self, sku: str) -> bool:
        """Let PostgreSQL have received what Redis has."""
        async with self.ledger.catalogue_change(self.bucket.tenant) as change:
            level = (await self.counters.levels([sku])).get(sku)
            if level is None or level.free is None or not level.can_be_recorded:
                return False
            await change.record_stock([StockLevel(sku, level.free, level.held, level.sold)])
        return True

    async def _count_anew(self, sku: str) -> bool:
        """Count held, sold and free as carts and orders have them."""
        level = (await self.counters.levels([sku])).get(sku)
        if level is None or not level.can_be_counted_anew:
            return False
        keys = self.counters.keys(await self.counters.carts_with(sku))
        sold_next = max(level.sold, level.sold_next)
        arguments: list[Argument] = [sku, str(level.received), level.sold, sold_next]
        return bool(await self.runner.run("counter_mend", keys, arguments))


def _turn(finding: Finding) -> int:
    return ORDER.index(finding.kind)
