"""What operators do to a tenant: each act leaves a row in the audit trail, begun before it.

Where that can't be begun, nothing is done; but for a sale, which is paused all the same when
PostgreSQL is away at three in the morning.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cartsvc import act_facts, drivers
from cartsvc.act_row import Row
from cartsvc.archive import ACTIVE, Archive
from cartsvc.errors import (
    CartClosed,
    CartError,
    Invalid,
    LedgerAway,
    NotWarm,
    OutcomeUnknown,
    UnknownProduct,
    UnknownSku,
    UnknownTenant,
    VerifyRunning,
    VerifyTooLong,
)
from cartsvc.findings import Finding
from cartsvc.keys import Bucket
from cartsvc.model import Cart, Once, StockLevel
from cartsvc.prices import Prices
from cartsvc.repair import Repair, Repaired
from cartsvc.sale import Paused, Sale
from cartsvc.shelf import Shelf, Watching
from cartsvc.skus import stored_sku
from cartsvc.stock import Recorded, Stock
from cartsvc.trail import Actor, Entry, Trail
from cartsvc.verify import Verdict, Verifier

_BROKEN_OFF = (OutcomeUnknown, LedgerAway)
"""Whoever gets one of these does not know what was done: the row stays as it was begun."""


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


class Audited(NamedTuple):
    """What an audit of the data found, and what was mended of it; None: nothing was to be."""

    verdict: Verdict
    repaired: Repaired | None

    @property
    def left(self) -> list[Finding]:
        """What is (still) wrong."""
        return self.verdict.findings if self.repaired is None else self.repaired.left

    @property
    def mended(self) -> list[Finding]:
        return [] if self.repaired is None else self.repaired.mended

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong, and all was looked at."""
        return not (self.left or self.verdict.broken_off)


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
        name = stored_sku(name)
        async with self._act("stock.get", name) as row:
            found = await self.stock.get(name)
            row.after = act_facts.of_stock(found)
        return found

    async def stock_set(self, name: str, units: int) -> Recorded:
        name = stored_sku(name)
        async with self._act("stock.set", name) as row:
            await row.found(act_facts.of_stock(await self.stock.get(name)))
            found = await self.stock.set(name, units)
            row.after = act_facts.of_stock(found)
        return found

    async def stock_add(self, name: str, units: int, once: Once | None = None) -> Recorded:
        """Of a request that comes again with its key, the row says that it is `again`."""
        name = stored_sku(name)
        async with self._act("stock.add", name) as row:
            await row.found(act_facts.of_stock(await self.stock.get(name)))
            found = await self.stock.add(name, units, once)
            row.after = act_facts.of_stock(found)
            if once is not None and once.is_replay:
                row.after = {**row.after, "again": True}
        return found

    async def watched(self) -> list[StockLevel]:
        """The counters that are watched; without those that are not there any more."""
        async with self._act("stock.watched") as row:
            found = await self._levels()
            row.after = act_facts.of_watched(found)
        return found

    async def watch(self, names: Sequence[str], how: Watching = "on") -> list[StockLevel]:
        """Change which counters are watched; those that are now."""
        names = [stored_sku(name) for name in names]
        async with self._act("stock.watch", names[0] if len(names) == 1 else "") as row:
            await row.found(act_facts.of_watched(await self._levels()))
            await self.shelf.watch(self.bucket, names, how)
            await self.shelf.synced()
            found = await self._levels()
            row.after = act_facts.of_watched(found)
        return found

    async def _levels(self) -> list[StockLevel]:
        names = await self.shelf.watched(self.bucket)
        levels = await self.shelf.stocks(self.bucket, names)
        return [level for level in levels if level is not None]

    async def sale_state(self) -> Paused | None:
        async with self._act("sale.state", in_any_case=True) as row:
            found = await self.sale.state(self.bucket)
            row.after = act_facts.of_sale(found)
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

    async def _sale_changed(self, row: Row, before: Paused | None) -> SaleChange:
        # Not read beforehand: the script that changes it says what was there.
        await row.found(act_facts.of_sale(before))
        now = await self.sale.state(self.bucket)
        row.after = act_facts.of_sale(now)
        return SaleChange(before, now)

    async def cart_show(self, cart_id: int) -> Shown:
        """A cart that is anywhere, whatever became of it, but for one that was deleted.

        Raises:
            NoCart: there is none.
        """
        async with self._act("cart.show", str(cart_id)) as row:
            found = await self._shown(cart_id)
            row.after = act_facts.of_cart(found.cart)
        return found

    async def cart_release(self, cart_id: int) -> Shown:
        """Take the lines from a cart that hold units: they are free again, and its owner is told.

        Raises:
            NoCart: there is none.
            CartClosed: it takes no changes.
        """
        async with self._act("cart.release", str(cart_id)) as row:
            cart = await self.archive.find(self.bucket, cart_id)
            await row.found(act_facts.of_cart(cart))
            if cart.status != ACTIVE:
                raise CartClosed(cart.id, cart.status)
            await self.store.release_held(self.bucket, cart.owner, cart_id=cart.id)
            found = await self._shown(cart_id)
            row.after = act_facts.of_cart(found.cart)
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
        name = stored_sku(name)
        async with self._act("price.get", name) as row, _of_products():
            found = await self.prices.get(name)
            row.after = act_facts.of_price(found)
        return found

    async def price_set(self, name: str, price_minor: int) -> int:
        """Give a product or variant another price; what it was. Carts follow within moments."""
        name = stored_sku(name)
        async with self._act("price.set", name) as row, _of_products():
            await row.found(act_facts.of_price(await self.prices.get(name)))
            before = await self.prices.set(name, price_minor)
            row.after = act_facts.of_price(price_minor)
        return before

    async def verify(self, *, repair: bool) -> Audited:
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
            row.after = act_facts.of_verdict(verdict, repaired)
        return Audited(verdict, repaired)

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
        with drivers.failures():
            async with asyncio.timeout(self.desk.timeout_s):
                return await self.trail.newest(self.bucket.tenant, limit)

    @contextlib.asynccontextmanager
    async def _act(
        self, action: str, subject: str = "", *, in_any_case: bool = False, is_long: bool = False
    ) -> AsyncIterator[Row]:
        """An act, whose row is begun before it and finished after it.

        One that is refused leaves the refusal; one that is broken off, a row that is only begun.
        `in_any_case` it is done also where there can be no row.
        """
        row = Row(self.trail, self.lacks, in_any_case=in_any_case)
        await row.begin(self.bucket.tenant, self.actor, action, subject)
        try:
            with drivers.failures():
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


@contextlib.asynccontextmanager
async def _of_products() -> AsyncIterator[None]:
    """Without a counter of its own, a SKU may have a price: what is unknown is the product."""
    try:
        yield
    except UnknownSku as error:
        raise UnknownProduct(error.sku) from None
