"""What Redis holds that PostgreSQL does not have yet: dirty carts and price changes."""

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cartsvc.cart_hash import cart_of, fields_of
from cartsvc.keys import Bucket
from cartsvc.model import Cart, PriceChange
from cartsvc.scripts import Argument, Runner

log = logging.getLogger(__name__)

GONE = ("", "")
"""Id and version of a cart that is not there."""

_READ_AT_ONCE = 25
"""Carts that are put together at once: the process does nothing else meanwhile."""

_CLEARED_AT_ONCE = 100
"""Carts that Redis is told of at once: it answers nobody else meanwhile."""

START = "0-0"
"""The offset before a stream's first entry."""


@dataclass(frozen=True, slots=True)
class DirtyCarts:
    """Carts as they were at `read_ms`.

    `seen` has id and version of every cart key that was looked at. Once they are written, `refused`
    has the ids of carts that PostgreSQL does not take, and that are set aside; `ahead`, of those
    that it has at a version as late or later, version and time of the last change (ms).
    """

    read_ms: int
    carts: list[Cart]
    seen: dict[str, tuple[Argument, Argument]]
    refused: frozenset[int] = frozenset()
    ahead: Mapping[int, tuple[int, int]] = field(default_factory=dict)


NO_CARTS = DirtyCarts(0, [], {})


class Backlog:
    """The write-behind backlog of every bucket. Raises the client's own errors, and a runner's."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.redis = runner.redis

    async def count(self, bucket: Bucket) -> int:
        """Carts and price changes that wait."""
        return await self.dirty_count(bucket) + await self.price_count(bucket)

    async def price_count(self, bucket: Bucket) -> int:
        return int(await self.redis.xlen(bucket.prices))

    async def dirty_count(self, bucket: Bucket) -> int:
        return int(await self.redis.zcard(bucket.dirty))

    async def dirty_carts(
        self, bucket: Bucket, limit: int, *, besides: Collection[str] = ()
    ) -> DirtyCarts:
        """The carts that have been dirty for longest, at most `limit`, besides some (keys)."""
        last = limit + len(besides) - 1
        marked: Any = await self.redis.zrange(bucket.dirty, 0, last)
        keys = [key for key in _texts(bucket, marked) if key not in besides][:limit]
        found = await self.carts(bucket, keys)
        for key in keys:
            # A cart that is closed while this looks at it takes its mark along.
            if found.seen.get(key) == GONE and await self.redis.zscore(bucket.dirty, key):
                log.error("%s is marked dirty but is not there", bucket.shown(key))
        return found

    async def place(self, bucket: Bucket, cart_id: int) -> str | None:
        """The key of a cart that is in Redis."""
        key: Any = await self.redis.hget(bucket.carts, str(cart_id))
        return key.decode() if key else None

    async def carts(self, bucket: Bucket, keys: Sequence[str]) -> DirtyCarts:
        """The carts at these keys."""
        read_ms = await self.runner.now_ms()
        carts: list[Cart] = []
        seen: dict[str, tuple[Argument, Argument]] = {}
        async for key, flat in self._hashes(keys):
            if flat == []:
                seen[key] = GONE
                continue
            try:
                if flat is None:
                    raise ValueError("it is no hash")
                cart = cart_of(bucket.owner(key), fields_of(flat))
            except (KeyError, ValueError) as error:
                # Somebody else's hand: left dirty, and no reason to keep the others waiting.
                log.error("%s is not readable as a cart: %r", bucket.shown(key), error)
                continue
            carts.append(cart)
            seen[key] = (cart.id, cart.version)
        return DirtyCarts(read_ms, carts, seen)

    async def flushed(self, bucket: Bucket, dirty: DirtyCarts) -> None:
        """Clear the marks of carts that are written and have not changed since they were read.

        Those of them that are closed leave Redis, unless they are set aside. One that PostgreSQL
        has at a later version than Redis, which came back older, goes on behind that.
        """
        seen = dirty.seen.items()
        written = [key for key, (cart_id, _) in seen if cart_id not in dirty.refused]
        set_aside = [key for key, (cart_id, _) in seen if cart_id in dirty.refused]
        for keys in _slices(written, _CLEARED_AT_ONCE):
            facts = [part for key in keys for part in (*dirty.seen[key], *_row_of(dirty, key))]
            shared = [bucket.dirty, bucket.carts]
            await self.runner.run("cart_flushed", [*shared, *keys], [dirty.read_ms, *facts])
        for keys in _slices(set_aside, _CLEARED_AT_ONCE):
            facts = [part for key in keys for part in dirty.seen[key]]
            shared = [bucket.dirty]
            await self.runner.run("cart_set_aside", [*shared, *keys], [dirty.read_ms, *facts])

    async def note(self, bucket: Bucket, done: Mapping[str, int], last: Mapping[str, int]) -> None:
        """Add to what workers did for a bucket, and tell of the last pass."""
        pipeline = self.redis.pipeline(transaction=False)
        for name, count in done.items():
            pipeline.hincrby(bucket.flush, name, count)
        if last:
            pipeline.hset(bucket.flush, items=[part for item in last.items() for part in item])
        # It is for people and graphs: whatever is in its place, the work goes on.
        await pipeline.execute(raise_on_error=False)

    async def mark(self, bucket: Bucket, cart_id: int) -> None:
        """Mark a cart as dirty, if it is in Redis: the next flush looks at it."""
        key = await self.place(bucket, cart_id)
        if key is not None:
            await self.redis.zadd(bucket.dirty, {key: await self.runner.now_ms()}, nx=True)

    async def _hashes(self, keys: Sequence[str]) -> AsyncIterator[tuple[str, list[bytes] | None]]:
        for some in _slices(keys, _READ_AT_ONCE):
            for found in zip(some, await self.runner.hashes(some), strict=True):
                yield found

    async def price_changes(
        self, bucket: Bucket, after: str, limit: int
    ) -> tuple[list[PriceChange], str]:
        """Changes in the `limit` entries behind stream id `after`, and the id of the last entry.

        An entry that no script of ours has written is left out, and logged with all it holds.
        """
        entries: Any = await self.redis.xrange(bucket.prices, f"({after}", "+", limit)
        changes = []
        for entry, fields in entries:
            try:
                changes.append(_price_change(fields))
            except (KeyError, ValueError):
                name = f"{bucket.prices} {entry.decode()}"
                log.error("%s is not readable as a price change: %r", name, fields)
        return changes, entries[-1][0].decode() if entries else after

    async def trim_prices(self, bucket: Bucket, offset: str) -> None:
        """Drop the stream's entries up to `offset`, that one included."""
        milliseconds, _, sequence = offset.partition("-")
        first_kept = f"{milliseconds}-{int(sequence) + 1}"
        await self.redis.xtrim(bucket.prices, minid=first_kept, approximate=False)


def _row_of(dirty: DirtyCarts, key: str) -> tuple[Argument, Argument]:
    """The row that was found instead of written."""
    cart_id, _ = dirty.seen[key]
    return dirty.ahead.get(cart_id, GONE) if isinstance(cart_id, int) else GONE


def _texts(bucket: Bucket, keys: Iterable[bytes]) -> Iterator[str]:
    """The keys, but for those that are no text, and so none of ours."""
    for key in keys:
        try:
            yield key.decode()
        except UnicodeDecodeError:
            log.error("%s has a member that is no text: it is left there", bucket.dirty)


def _slices(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _price_change(fields: dict[bytes, bytes]) -> PriceChange:
    return PriceChange(
        cart_id=int(fields[b"cart"]),
        line_number=int(fields[b"line"]),
        cart_version=int(fields[b"version"]),
        sku=fields[b"sku"].decode(),
        old_minor=int(fields[b"old"]),
        new_minor=int(fields[b"new"]),
        changed_ms=int(fields[b"at"]),
    )
