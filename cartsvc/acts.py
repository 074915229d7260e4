"""What operators do to a tenant: each act leaves a row in the audit trail, begun before it.

Where that can't be begun, nothing is done; but for a sale, which is paused all the same when
PostgreSQL is away at three in the morning.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cartsvc import scripts
from cartsvc.archive import ACTIVE, Archive
from cartsvc.errors import (
    CartClosed,
    CartError,
    Invalid,
    LedgerAway,
    NoRight,
    NotRecorded,
    NotWarm,
    OutcomeUnknown,
    UnknownProduct,
    UnknownSku,
    UnknownTenant,
    VerifyRunning,
    VerifyTooLong,
)
from cartsvc.keys import Bucket
from cartsvc.ledger import AWAY, FAILURES, NO_RIGHT
from cartsvc.model import Cart, Once, StockLevel, stored_sku
from cartsvc.money import text
from cartsvc.prices import Prices
from cartsvc.repair import Repair, Repaired
from cartsvc.sale import Paused, Sale
from cartsvc.shelf import Shelf, Watching
from cartsvc.stock import Recorded, Stock
from cartsvc.trail import Actor, Entry, Facts, Trail
from cartsvc.verify import Verdict, Verifier

RECORD_S = 3.0
"""Longest wait for a row of the trail: who pauses a sale waits for it, too."""

_BROKEN_OFF = (OutcomeUnknown, LedgerAway)
"""Whoever gets one of these does not know what was done: the row stays as it was begun."""

_LACKS_A_RIGHT = re.compile(r"NOPERM|no permissions|ACL failure", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Desk:
    """What acts are done with.

    An act may take `timeout_s`, an audit of the data `verify_s`; None: as long as it takes. That
    looks again `pause_s` apart. `verifying` has the tenants whose data is being audited.
    """

    archive: Archive
    pause_s: float
    timeout_s: float | None = None
    verify_s: float | None = None
    verifying: set[str] = field(default_factory=set)


class Shown(NamedTuple):
    """A cart, where it is, and since when (ms) PostgreSQL lacks a change of it, if it does."""

    cart: Cart
    where: Literal["redis", "postgresql", "both"]
    dirty_since_ms: int | None


class SaleChange(NamedTuple):
    """How the sale was paused before, and how it is now; None: it is not."""

    before: Paused | None
    now: Paused | None


class Acts:
    """What `actor` does in one bucket.

    `unrecorded` says why the trail does not have all that was done; it is empty as long as it does,
    and is told once.
    Every method raises what its subject raises, `UnknownTenant`, `NotRecorded` (nothing was done),
    `NoRight`, and `LedgerAway` or `OutcomeUnknown` when a server does not answer.
    """

    def __init__(
        self, desk: Desk, bucket: Bucket, actor: Actor, tell: Callable[[str], object]
    ) -> None:
        self.desk = desk
        self.bucket = bucket
        self.actor = actor
        self.tell = tell
        self.unrecorded = ""
        self.archive = desk.archive
        self.store, self.ledger = desk.archive.store, desk.archive.ledger
        self.backlog, runner = desk.archive.backlog, desk.archive.store.runner
        self.shelf = Shelf(
            runner, outcome_ttl_s=self.store.outcome_ttl_s, max_outcomes=self.store.max_outcomes
        )
        self.stock = Stock(self.ledger, self.shelf, bucket)
        self.sale = Sale(runner)
        self.prices = Prices(self.ledger, self.shelf, bucket)
        self.trail = Trail(self.ledger)

    async def stock_get(self, name: str) -> Recorded:
        name = _sku(name)
        async with self._act("stock.get", name) as row:
            found = await self.stock.get(name)
            row.after = _of_stock(found)
        return found

    async def stock_set(self, name: str, units: int) -> Recorded:
        name = _sku(name)
        async with self._act("stock.set", name) as row:
            await row.found(_of_stock(await self.stock.get(name)))
            found = await self.stock.set(name, units)
            row.after = _of_stock(found)
        return found

    async def stock_add(self, name: str, units: int, once: Once | None = None) -> Recorded:
        """Of a request that comes again with its key, the row says that it is `again`."""
        name = _sku(name)
        async with self._act("stock.add", name) as row:
            await row.found(_of_stock(await self.stock.get(name)))
            found = await self.stock.add(name, units, once)
            row.after = _of_stock(found)
            if once is not None and once.is_replay:
                row.after = {**row.after, "again": True}
        return found

    async def watched(self) -> list[StockLevel]:
        """The counters that are watched; without those that are not there any more."""
        async with self._act("stock.watched") as row:
            found = await self._levels()
            row.after = _of_watched(found)
        return found

    async def watch(self, names: Sequence[str], how: Watching = "on") -> list[StockLevel]:
        """Change which counters are watched; those that are now."""
        names = [_sku(name) for name in names]
        async with self._act("stock.watch", names[0] if len(names) == 1 else "") as row:
            await row.found(_of_watched(await self._levels()))
            await self.shelf.watch(self.bucket, names, how)
            await self.shelf.synced()
            found = await self._levels()
            row.after = _of_watched(found)
        return found

    async def _levels(self) -> list[StockLevel]:
        names = await self.shelf.watched(self.bucket)
        levels = await self.shelf.stocks(self.bucket, names)
        return [level for level in levels if level is not None]

    async def sale_state(self) -> Paused | None:
        async with self._act("sale.state", in_any_case=True) as row:
            found = await self.sale.state(self.bucket)
            row.after = _of_sale(found)
        return found

    async def sale_pause(self, reason: str) -> SaleChange:
        """Pause the sale, for a reason that shoppers are told.

        Raises:
            Invalid: the reason is none.
        """
        if not reason.strip():
            raise Invalid("reason", "must be given: shoppers are told")
        async with self._act("sale.pause", in_any_case=True) as row:
            before = await self.sale.pause(self.bucket, reason, self.actor.name)
            return await self._sale_changed(row, before)

    async def sale_resume(self) -> SaleChange:
        """Let the sale go on."""
        async with self._act("sale.resume", in_any_case=True) as row:
            before = await self.sale.resume(self.bucket)
            return await self._sale_changed(row, before)

    async def _sale_changed(self, row: "_Row", before: Paused | None) -> SaleChange:
        # Not read beforehand: the script that changes it says what was there.
        await row.found(_of_sale(before))
        now = await self.sale.state(self.bucket)
        row.after = _of_sale(now)
        return SaleChange(before, now)

    async def cart_show(self, cart_id: int) -> Shown:
        """A cart that is anywhere, whatever became of it, but for one that was deleted.

        Raises:
            NoCart: there is none.
        """
        async with self._act("cart.show", str(cart_id)) as row:
            found = await self._shown(cart_id)
            row.after = _of_cart(found.cart)
        return found

    async def cart_release(self, cart_id: int) -> Shown:
        """Take the lines from a cart that hold units: they are free again, and its owner is told.

        Raises:
            NoCart: there is none.
            CartClosed: it takes no changes.
        """
        async with self._act("cart.release", str(cart_id)) as row:
            cart = await self.archive.find(self.bucket, cart_id)
            await row.found(_of_cart(cart))
            if cart.status != ACTIVE:
                raise CartClosed(cart.id, cart.status)
            await self.store.release_held(self.bucket, cart.owner, cart_id=cart.id)
            found = await self._shown(cart_id)
            row.after = _of_cart(found.cart)
        return found

    async def _shown(self, cart_id: int) -> Shown:
        cart = await self.archive.find(self.bucket, cart_id)
        key = await self.backlog.place(self.bucket, cart_id)
        if key is None:
            return Shown(cart, "postgresql", None)
        has_row = await self.ledger.status(self.bucket.tenant, cart_id) is not None
        since = await self.backlog.redis.zscore(self.bucket.dirty, key)
        return Shown(cart, "both" if has_row else "redis", None if since is None else int(since))

    async def price_get(self, name: str) -> int:
        """The price of a product or variant, in minor units."""
        name = _sku(name)
        async with self._act("price.get", name) as row, _of_products():
            found = await self.prices.get(name)
            row.after = _of_price(found)
        return found

    async def price_set(self, name: str, price_minor: int) -> int:
        """Give a product or variant another price; what it was. Carts follow within moments."""
        name = _sku(name)
        async with self._act("price.set", name) as row, _of_products():
            await row.found(_of_price(await self.prices.get(name)))
            before = await self.prices.set(name, price_minor)
            row.after = _of_price(price_minor)
        return before

    async def verify(self, *, repair: bool) -> tuple[Verdict, Repaired | None]:
        """Audit the tenant's data, and mend it where nothing has to be guessed.

        Raises:
            VerifyRunning: it is being audited.
            VerifyTooLong: it was given up; what was mended by then is mended.
        """
        action = "verify.repair" if repair else "verify"
        async with self._act(action, is_long=True) as row, self._verifying():
            verifier = Verifier(
                self.backlog,
                self.ledger,
                self.bucket,
                max_lines=self.store.max_lines,
                pause_s=self.desk.pause_s,
            )
            verdict = await verifier.run()
            repaired = None
            if repair:
                repaired = await Repair(verifier, self.store).run(verdict.findings)
            row.after = _of_verdict(verdict, repaired)
        return verdict, repaired

    @contextlib.asynccontextmanager
    async def _verifying(self) -> AsyncIterator[None]:
        tenant, busy = self.bucket.tenant, self.desk.verifying
        if tenant in busy:
            raise VerifyRunning
        busy.add(tenant)
        try:
            async with asyncio.timeout(self.desk.verify_s) as bound:
                yield
        except TimeoutError:
            if bound.expired():
                raise VerifyTooLong(self.desk.verify_s) from None
            raise
        finally:
            busy.discard(tenant)

    async def entries(self, limit: int) -> list[Entry]:
        """What was done in the tenant, the newest first. To read it is no act."""
        with _as_ours():
            async with asyncio.timeout(self.desk.timeout_s):
                return await self.trail.newest(self.bucket.tenant, limit)

    @contextlib.asynccontextmanager
    async def _act(
        self, action: str, subject: str = "", *, in_any_case: bool = False, is_long: bool = False
    ) -> AsyncIterator["_Row"]:
        """An act, whose row is begun before it and finished after it.

        One that is refused leaves the refusal; one that is broken off, a row that is only begun.
        `in_any_case` it is done also where there can be no row.
        """
        row = _Row(self, in_any_case)
        await row.begin(action, subject)
        try:
            with _as_ours():
                async with asyncio.timeout(None if is_long else self.desk.timeout_s):
                    yield row
        except _BROKEN_OFF:
            raise
        except CartError as error:
            refusal = await self._refusal(error)
            await row.finish(f"refused: {refusal}")
            raise refusal from None
        await row.finish("done")

    def lacks(self, reason: str) -> None:
        """The trail does not have all that was done."""
        if not self.unrecorded:
            self.unrecorded = reason
            self.tell(reason)

    async def _refusal(self, error: CartError) -> CartError:
        """The error; of a tenant that Redis does not have, whether there is such a tenant."""
        if isinstance(error, NotWarm):
            with contextlib.suppress(CartError):
                if not await self.archive.has_tenant(self.bucket):
                    return UnknownTenant(self.bucket.tenant)
        return error


class _Row:
    """The row of an act; `after` is written at its end."""

    def __init__(self, acts: Acts, in_any_case: bool) -> None:
        self.acts = acts
        self.in_any_case = in_any_case
        self.number: int | None = None
        self.after: Facts | None = None

    async def begin(self, action: str, subject: str) -> None:
        acts = self.acts
        trail, tenant = acts.trail, acts.bucket.tenant
        with self._written(self.in_any_case):
            async with asyncio.timeout(RECORD_S):
                self.number = await trail.begin(tenant, acts.actor, action, subject)

    async def found(self, before: Facts) -> None:
        """Note how the act found its subject."""
        if self.number is not None:
            with self._written(self.in_any_case):
                async with asyncio.timeout(RECORD_S):
                    await self.acts.trail.found(self.number, before)

    async def finish(self, outcome: str) -> None:
        if self.number is not None:
            with self._written(True):
                async with asyncio.timeout(RECORD_S):
                    await self.acts.trail.finish(self.number, outcome, self.after)

    @contextlib.contextmanager
    def _written(self, in_any_case: bool) -> Iterator[None]:
        """Write to the trail; where that fails, nothing goes on but `in_any_case`.

        Raises:
            NotRecorded, NoRight: it failed.
        """
        try:
            yield
        except FAILURES as error:
            reason = _told(error)
            if not in_any_case:
                kind = NoRight if isinstance(error, NO_RIGHT) else NotRecorded
                raise kind(reason) from error
            self.acts.lacks(reason)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Tell what a server's driver raises as one of our errors."""
    try:
        yield
    except OutcomeUnknown as error:
        if _LACKS_A_RIGHT.search(error.reason):
            raise NoRight(error.reason) from error
        raise
    except scripts.FAILURES as error:
        kind = NoRight if _LACKS_A_RIGHT.search(str(error)) else OutcomeUnknown
        raise kind(str(error)) from error
    except NO_RIGHT as error:
        raise NoRight(_told(error)) from error
    except AWAY as error:
        raise LedgerAway(_told(error)) from error


@contextlib.asynccontextmanager
async def _of_products() -> AsyncIterator[None]:
    """Without a counter of its own, a SKU may have a price: what is unknown is the product."""
    try:
        yield
    except UnknownSku as error:
        raise UnknownProduct(error.sku) from None


def _told(error: BaseException) -> str:
    """A driver's error in a line; what PostgreSQL adds to it stands in lines of its own."""
    what, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {what}" if what else type(error).__name__


def _sku(name: str) -> str:
    """A SKU as it is stored.

    Raises:
        UnknownSku: nothing has such a name.
    """
    stored = stored_sku(name)
    if stored is None:
        raise UnknownSku(name)
    return stored


def _of_stock(found: Recorded) -> Facts:
    level = found.level
    counted = {} if level is None else {"free": level.free, "held": level.held, "sold": level.sold}
    return {**counted, "received": found.received}


def _of_watched(levels: Sequence[StockLevel]) -> Facts:
    return {"watched": [level.sku for level in levels]}


def _of_sale(found: Paused | None) -> Facts:
    return {"paused": False} if found is None else {"paused": True, "reason": found.reason}


def _of_cart(cart: Cart) -> Facts:
    held = {line.sku: line.quantity for line in cart.lines if line.held_until_ms is not None}
    return {"id": cart.id, "version": cart.version, "status": cart.status, "held": held}


def _of_price(price_minor: int) -> Facts:
    return {"price": text(price_minor)}


def _of_verdict(verdict: Verdict, repaired: Repaired | None) -> Facts:
    told: Facts = {"looked_at": {noun: n for noun, n in verdict.looked_at.items() if noun}}
    if repaired is None:
        return {**told, "wrong": len(verdict.findings)}
    return {**told, "mended": len(repaired.mended), "wrong": len(repaired.left)}
