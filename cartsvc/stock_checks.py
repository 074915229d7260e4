"""Checks of stock: a counter's units in Redis, in carts, and in PostgreSQL."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Self

from cartsvc.audit import Audit
from cartsvc.backlog import Backlog
from cartsvc.findings import Finding, number_of, pages
from cartsvc.held_lines import HeldLines
from cartsvc.keys import Bucket
from cartsvc.recovery import Books, units_sold

MAX_HOLDS = 5_000
"""Lines whose units are added up in one script, which takes some 10 ms. More are added up in
slices; if they do not stand still meanwhile, only the books of their counter are looked at."""

_ATTEMPTS = 5
"""How often a counter that moves is looked at, until it stands still for one look."""


class Counted(NamedTuple):
    """A counter's units in Redis at one instant; None where one is missing, or not known."""

    free: int | None
    held: int
    sold: int
    received: int | None
    in_carts: int | None

    @classmethod
    def of(cls, units: Sequence[bytes | None], in_carts: int | None) -> Self:
        """As they are written in Redis."""
        free, held, sold, received = map(number_of, units)
        return cls(free, held or 0, sold or 0, received, in_carts)


class Level(NamedTuple):
    """A counter's units in Redis, None where one is missing, and what they ought to be.

    `in_carts` is what lines hold, None where that is not known; `books` are PostgreSQL's, None
    where it has none; `sold_next` is what orders have sold, written or not.
    """

    free: int | None
    held: int
    sold: int
    received: int | None
    in_carts: int | None
    books: Books | None
    sold_next: int

    @property
    def adds_up(self) -> bool:
        return self.received == (self.free or 0) + self.held + self.sold

    @property
    def can_be_counted_anew(self) -> bool:
        """Whether held and sold can be written as they ought to be, and free as the rest."""
        if self.in_carts is None or self.books is None or self.received != self.books.received:
            return False
        if self.free is None or self.free < 0:
            return False
        return self.received - self.in_carts - max(self.sold, self.sold_next) >= 0

    @property
    def can_be_recorded(self) -> bool:
        """Whether PostgreSQL can take what Redis has received."""
        if self.books is None or self.received is None or not self.adds_up:
            return False
        return self.received >= self.books.sold and min(self.free or 0, self.held, self.sold) >= 0


class Counters:
    """Counters (SKUs): free + held + sold = received, as carts, orders and PostgreSQL have them."""

    noun = "counters"

    def __init__(self, backlog: Backlog, bucket: Bucket, audit: Audit) -> None:
        self.backlog = backlog
        self.runner = backlog.runner
        self.redis: Any = backlog.redis
        self.bucket = bucket
        self.audit = audit
        self.lines = HeldLines(self.redis, bucket)

    async def slices(self) -> AsyncIterator[list[str]]:
        """What Redis has received, and what only others know."""
        bucket = self.bucket
        async for found in pages(self.redis.hscan, bucket.received):
            yield [sku for sku, _ in found]
        for key in (bucket.stock, bucket.held, bucket.sold):
            async for found in pages(self.redis.hscan, key):
                yield await self._not_received([sku for sku, _ in found])
        async for skus in self.audit.counters():
            yield await self._not_received(skus)

    async def _not_received(self, skus: Sequence[str]) -> list[str]:
        known = await self.redis.hmget(self.bucket.received, skus) if skus else []
        return [sku for sku, units in zip(skus, known, strict=True) if units is None]

    async def look(self, subjects: Sequence[str]) -> list[Finding]:
        levels = await self.levels(subjects)
        return [
            Finding(kind, sku, f"counter {sku}", detail, can_be_mended)
            for sku, level in levels.items()
            for kind, detail, can_be_mended in _wrong(level)
        ]

    async def levels(self, skus: Sequence[str]) -> dict[str, Level]:
        """Counters that stood still while both servers were asked."""
        found: dict[str, Level] = {}
        for _ in range(_ATTEMPTS):
            left = [sku for sku in skus if sku not in found]
            if not left:
                break
            found |= await self._levels(left)
        return found

    async def _levels(self, skus: Sequence[str]) -> dict[str, Level]:
        counted = [await self._counted(sku) for sku in skus]
        orders = await self._unwritten()
        recorded = await self.audit.recorded(skus, orders)
        sold_after = await self.redis.hmget(self.bucket.sold, skus)
        levels = {}
        for sku, units, after in zip(skus, counted, sold_after, strict=True):
            # Orders are made, and written, all the time: they are compared where none was made.
            if units is None or units.sold != (number_of(after) or 0):
                continue
            books = recorded.books.get(sku)
            sold = sum(order[sku] for order in recorded.not_counted.values())
            levels[sku] = Level(*units, books, sold + (books.sold if books else 0))
        return levels

    def keys(self, carts: Sequence[str]) -> list[str]:
        """What a script that counts a counter anew is given."""
        bucket = self.bucket
        shared = [bucket.seq, bucket.stock, bucket.held, bucket.sold, bucket.received]
        return [*shared, bucket.holds_by_sku, *dict.fromkeys(carts)]

    async def carts_with(self, sku: str, most: int | None = None) -> list[str]:
        """Carts (keys) that hold units of a counter, one a line; of at most so many lines."""
        return [line.key for line in await self.lines.of(sku, most)]

    async def _counted(self, sku: str) -> Counted | None:
        """None where carts came in between."""
        carts = await self.carts_with(sku, MAX_HOLDS + 1)
        if len(carts) <= MAX_HOLDS:
            counted = await self._looked(sku, carts)
            return None if counted.in_carts is None else counted
        at_rest = await self.lines.units_at_rest(sku)
        if at_rest is None:
            return await self._looked(sku, [])
        units, in_carts = at_rest
        return Counted.of(units, in_carts)

    async def _looked(self, sku: str, carts: Sequence[str]) -> Counted:
        """What is in carts is known only if no others hold units."""
        [units] = await self.runner.run_many("counter_look", [(self.keys(carts), [sku])])
        return Counted.of(units[:4], units[4])

    async def _unwritten(self) -> dict[int, Counter[str]]:
        """Orders that are dirty: cart id -> units by counter."""
        orders: dict[int, Counter[str]] = {}
        async for marked in pages(self.redis.zscan, self.bucket.dirty):
            keys = [key for key, _ in marked if self.bucket.cart(self.bucket.owner(key)) != key]
            found = await self.backlog.carts(self.bucket, keys)
            orders |= {cart.id: units_sold(cart.lines) for cart in found.carts}
        return orders


def _wrong(level: Level) -> list[tuple[str, str, bool]]:
    """What is wrong with a counter: kind, in words, whether it can be mended."""
    if level.books is None:
        return [("counter", "is not known to PostgreSQL", False)]
    if level.free is None or level.received is None:
        return [("counter", "is missing in Redis; set its stock", False)]
    found = []
    units = f"{level.free} free, {level.held} held, {level.sold} sold"
    if level.received != level.books.received:
        told = f"has received {level.received} in Redis, {level.books.received} in PostgreSQL"
        found.append(("received", told, level.can_be_recorded))
    again = level.can_be_counted_anew
    if min(level.free, level.held, level.sold) < 0:
        found.append(("negative", f"has {units}", again))
    if not level.adds_up:
        found.append(("books", f"has {units}, and {level.received} received", again))
    if level.in_carts is not None and level.held != level.in_carts:
        found.append(("held", f"has {level.held} held, and carts hold {level.in_carts}", again))
    if level.sold != level.sold_next:
        told = f"has {level.sold} sold in Redis, and orders have {level.sold_next}"
        found.append(("sold", told, again and level.sold < level.sold_next))
    return found


class Orders:
    """What PostgreSQL counts as sold, beside the orders that it has."""

    noun = ""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit

    async def slices(self) -> AsyncIterator[list[None]]:
        yield [None]

    async def look(self, _subjects: Sequence[None]) -> list[Finding]:
        return [
            Finding("orders", None, f"counter {sku}", f"has {sold} sold, and orders have {units}")
            for sku, sold, units in await self.audit.sold_otherwise()
        ]
