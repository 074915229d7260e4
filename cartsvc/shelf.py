"""What Redis keeps of catalogue and stock: the records that an add reads, and the counters."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cartsvc import outcomes
from cartsvc.catalog import Product, records
from cartsvc.errors import Again, CartError, NoCounter, OutcomeUnknown, StockHeld, UnknownSku
from cartsvc.keys import Bucket
from cartsvc.model import Once, StockLevel
from cartsvc.scripts import FAILURES, Argument, Runner, answer

MAX_WATCHED = 50
"""Counters of a bucket that may be watched: each is a line wherever they are shown."""

Watching = Literal["on", "off", "only"]


class Shelf:
    """Records and counters of every bucket.

    Every method raises the `Refused` or `Unavailable` error that a script's reply stands for, or
    `OutcomeUnknown`. Outcomes of requests are kept as a `Store` keeps them.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        outcome_ttl_s: int = outcomes.KEEP_S,
        max_outcomes: int = outcomes.MOST,
    ) -> None:
        self.runner = runner
        self.outcome_ttl_s = outcome_ttl_s
        self.max_outcomes = max_outcomes

    async def open(self, bucket: Bucket) -> None:
        """Make a new bucket warm: its first cart takes the id after its number."""
        await self.runner.run("bucket_open", [bucket.seq], [bucket.number])

    async def synced(self) -> None:
        """Wait for the disk, if what was changed is to be there before it is acknowledged."""
        await self.runner.synced()

    async def is_warm(self, bucket: Bucket) -> bool:
        return await self.runner.value(bucket.seq) is not None

    async def put(
        self, bucket: Bucket, products: Sequence[Product], counters: Mapping[str, int]
    ) -> int:
        """Write products, each in one script; `counters` has the stock of SKUs with a counter.

        A counter that Redis does not know takes its stock from there; returns how many did. Of a
        SKU whose price changed, the carts that hold it are marked for the worker to visit.
        """
        calls = [self._put(bucket, product, counters) for product in products]
        return sum(await self.runner.run_many("product_put", calls))

    @staticmethod
    def _put(
        bucket: Bucket, product: Product, counters: Mapping[str, int]
    ) -> tuple[list[str], list[Argument]]:
        about = records(product, counters)
        arguments: list[Argument] = [product.id, len(about)]
        for record in about.items():
            arguments += record
        for sku in product.skus():
            if sku in counters:
                arguments += (sku, counters[sku])
        keys = [bucket.seq, bucket.catalogue, bucket.stock, bucket.received]
        return [*keys, bucket.holders, bucket.repricing], arguments

    async def set_stock(self, bucket: Bucket, sku: str, units: int) -> StockLevel:
        """Set the units on hand, free and held; a counter that is missing is made.

        Raises:
            StockHeld: carts hold more than that.
        """
        return await self._count("stock_set", bucket, sku, units)

    async def set_stocks(
        self, bucket: Bucket, stocks: Sequence[tuple[str, int]]
    ) -> list[StockLevel | StockHeld]:
        """As `set_stock` for many counters, (SKU, units) each; a refusal is returned in place."""
        calls = [self._counting(bucket, sku, units) for sku, units in stocks]
        results = await self.runner.try_many("stock_set", calls)
        for result in results:
            if isinstance(result, CartError) and not isinstance(result, StockHeld):
                raise result
        return [
            result if isinstance(result, StockHeld) else StockLevel(sku, *result)
            for (sku, _), result in zip(stocks, results, strict=True)
        ]

    async def add_stock(
        self, bucket: Bucket, sku: str, units: int, once: Once | None = None
    ) -> StockLevel:
        """Take units in, or out as far as they are free.

        A request with an idempotency key (`once`) has one outcome: asked again, it gives the
        counter as it was then.
        """
        keys, arguments = self._counting(bucket, sku, units)
        if once is not None:
            keys += bucket.once(once)
            once.at_ms = await self.runner.now_ms()
        arguments += (once.at_ms if once else "", self._terms(once))
        return StockLevel(sku, *await self._run("stock_add", keys, arguments, once))

    async def added_before(self, bucket: Bucket, sku: str, once: Once) -> StockLevel | None:
        """What `add_stock` gave the request before; None if it was not carried out yet.

        Raises the refusal with which it was answered.
        """
        keys, arguments = bucket.once(once), [self._terms(once)]
        found = await self._run("outcome_find", keys, arguments, once)
        return StockLevel(sku, *found) if once.is_replay else None

    async def _run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument], once: Once | None
    ) -> Any:
        """What a script gives, or gave when the request came first."""
        try:
            return await self.runner.run(script, keys, arguments)
        except Again as before:
            assert once is not None  # noqa: S101
            return answer(outcomes.recalled(before, once))

    def _terms(self, once: Once | None) -> str:
        return outcomes.terms(once, keep_s=self.outcome_ttl_s, most=self.max_outcomes)

    async def stock(self, bucket: Bucket, sku: str) -> StockLevel | None:
        """A counter's units, or None where there is no counter."""
        try:
            return await self._count("stock_get", bucket, sku)
        except NoCounter:
            return None

    async def stocks(self, bucket: Bucket, skus: Sequence[str]) -> list[StockLevel | None]:
        """As `stock`, of many counters."""
        calls = [self._counting(bucket, sku) for sku in skus]
        found = await self.runner.try_many("stock_get", calls)
        for level in found:
            if isinstance(level, CartError) and not isinstance(level, NoCounter):
                raise level
        return [
            None if isinstance(level, NoCounter) else StockLevel(sku, *level)
            for sku, level in zip(skus, found, strict=True)
        ]

    async def watched(self, bucket: Bucket) -> list[str]:
        """The counters that are watched (SKUs), in order."""
        try:
            found: Any = await self.runner.redis.smembers(bucket.watched)
        except FAILURES as error:
            raise OutcomeUnknown(str(error)) from error
        return sorted(sku.decode(errors="backslashreplace") for sku in found)

    async def watch(self, bucket: Bucket, skus: Sequence[str], how: Watching = "on") -> None:
        """Watch these counters too, watch them no more ("off"), or them and no others ("only").

        Raises:
            UnknownSku: one is to be watched and has no counter.
            TooManyWatched: they would be more than MAX_WATCHED.
        """
        skus = list(dict.fromkeys(skus))
        if how != "off":
            for sku, level in zip(skus, await self.stocks(bucket, skus), strict=True):
                if level is None:
                    raise UnknownSku(sku)
        await self.runner.run("stock_watch", [bucket.watched], [MAX_WATCHED, how, *skus])

    async def _count(
        self, script: str, bucket: Bucket, sku: str, *arguments: Argument
    ) -> StockLevel:
        counted = await self.runner.run(script, *self._counting(bucket, sku, *arguments))
        return StockLevel(sku, *counted)

    @staticmethod
    def _counting(
        bucket: Bucket, sku: str, *arguments: Argument
    ) -> tuple[list[str], list[Argument]]:
        keys = [bucket.seq, bucket.stock, bucket.held, bucket.sold, bucket.received]
        return keys, [sku, *arguments]
