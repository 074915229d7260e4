"""The flush: a bucket's carts, and its price changes, into PostgreSQL, a batch a transaction.

For each batch the order is: read, write, commit, and only then take it off the backlog. A crash in
between repeats work that changes nothing the second time. What PostgreSQL refuses is looked for by
halving its batch, and set aside, by whoever flushes; a request that writes one cart only says so.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cartsvc.backlog import NO_CARTS, START, Backlog, DirtyCarts
from cartsvc.errors import RowsRefused
from cartsvc.flush_rows import CartRows, Flush, Written, rows_of
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, PriceChange

log = logging.getLogger(__name__)

T = TypeVar("T")


class Flushed(NamedTuple):
    """How many rows were written (of carts, those that were behind), and how many set aside."""

    written: int = 0
    refused: int = 0


async def carts(
    backlog: Backlog,
    ledger: Ledger,
    bucket: Bucket,
    limit: int,
    *,
    batches: int = 1,
    wait: bool = False,
) -> Flushed:
    """Write the carts that have been dirty for longest, in batches of at most `limit`.

    Leaves them to another flush of the bucket if there is one, or waits for that with `wait`.
    """
    behind = refused = 0
    epoch = await ledger.epoch(bucket)
    written, batch = NO_CARTS, await _read(backlog, bucket, limit)
    for left in reversed(range(batches)):
        if not batch.dirty.seen:
            break
        turn = _turn(backlog, bucket, written, batch.dirty, limit if left else 0)
        async with _beside(turn) as turning:
            transaction = partial(ledger.flush, bucket, epoch=epoch, wait=wait)
            done = await _write(transaction, bucket, batch)
            ahead = await turning
        if done is None:
            return Flushed(behind, refused)
        # Cleared from here on: before the commit, a crash would leave a change that nobody writes.
        behind += done.written.behind
        refused += len(done.refused)
        written = replace(batch.dirty, refused=done.refused, ahead=done.written.ahead)
        batch = ahead
    await backlog.flushed(bucket, written)
    return Flushed(behind, refused)


class _Batch(NamedTuple):
    """Carts to write, of those that were `dirty`, and their rows."""

    carts: Sequence[Cart]
    dirty: DirtyCarts
    rows: CartRows


class _Done(NamedTuple):
    """What became of carts: what was written, and the ids of those that are set aside instead."""

    written: Written
    refused: frozenset[int] = frozenset()

    def and_(self, other: "_Done") -> "_Done":
        behind = self.written.behind + other.written.behind
        ahead = self.written.ahead | other.written.ahead
        return _Done(Written(behind, ahead), self.refused | other.refused)


_NOTHING = _Done(Written(0, {}))


async def _read(
    backlog: Backlog, bucket: Bucket, limit: int, besides: Collection[str] = ()
) -> _Batch:
    dirty = await backlog.dirty_carts(bucket, limit, besides=besides) if limit else NO_CARTS
    return _Batch(dirty.carts, dirty, rows_of(dirty.carts))


Transaction = Callable[[], AbstractAsyncContextManager[Flush | None]]


async def _write(transaction: Transaction, bucket: Bucket, batch: _Batch) -> _Done | None:
    """Write carts, or set aside what is refused of them.

    None if they were left to another flush; some may be written by then.
    """
    try:
        async with transaction() as flush:
            return None if flush is None else _Done(await flush.write_rows(batch.rows))
    except RowsRefused as error:
        return await _write_apart(transaction, bucket, batch, error.reason)


async def _write_apart(
    transaction: Transaction, bucket: Bucket, batch: _Batch, reason: str
) -> _Done | None:
    """Write carts of which some are refused, half of them at a time; one is set aside."""
    carts, middle = batch.carts, len(batch.carts) // 2
    if not middle:
        return await _set_aside(transaction, bucket, carts[0], reason)
    done = _NOTHING
    for half in (carts[:middle], carts[middle:]):
        written = await _write(transaction, bucket, batch._replace(carts=half, rows=rows_of(half)))
        if written is None:
            return None
        done = done.and_(written)
    return done


async def _set_aside(
    transaction: Transaction, bucket: Bucket, cart: Cart, reason: str
) -> _Done | None:
    async with transaction() as flush:
        if flush is None:
            return None
        number = await flush.set_aside(cart, reason)
    _tell(bucket, "cart", cart.id, cart.version, number, reason)
    return _NOTHING._replace(refused=frozenset([cart.id]))


async def _turn(
    backlog: Backlog, bucket: Bucket, written: DirtyCarts, batch: DirtyCarts, limit: int
) -> _Batch:
    """What is done while PostgreSQL writes `batch`: the one before, which is `written`, leaves the
    backlog, and the one behind is read, at most `limit` carts, if any."""
    await backlog.flushed(bucket, written)
    return await _read(backlog, bucket, limit, batch.seen)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Work that goes on beside the context, and not beyond it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def these(backlog: Backlog, ledger: Ledger, bucket: Bucket, keys: Sequence[str]) -> None:
    """Write some carts now (keys), as far as they are in Redis."""
    async with ledger.write(bucket) as flush:
        found = await backlog.carts(bucket, keys)
        written = await flush.write_carts(found.carts)
    await backlog.flushed(bucket, replace(found, ahead=written.ahead))


async def closed(
    backlog: Backlog, ledger: Ledger, bucket: Bucket, cart: Cart, *, epoch: int | None
) -> None:
    """Write a cart as the script that closed it replied it, in that epoch of the bucket.

    Not as Redis has it by now: after a failover that may be the cart before.
    """
    async with ledger.write(bucket, epoch=epoch) as flush:
        await flush.write_carts([cart])
    key = await backlog.place(bucket, cart.id)
    if key is not None:
        written = DirtyCarts(cart.updated_ms, [cart], {key: (cart.id, cart.version)})
        await backlog.flushed(bucket, written)


class _Prices(NamedTuple):
    """Price changes behind an offset of their stream, and where the last of them stands."""

    offset: str
    changes: list[PriceChange]
    last: str


async def prices(
    backlog: Backlog, ledger: Ledger, bucket: Bucket, limit: int, *, wait: bool = False
) -> Flushed:
    """Write at most `limit` price changes, each exactly once; `wait` as for carts."""
    batch = _Prices(START, [], START)
    try:
        async with ledger.flush(bucket, wait=wait) as flush:
            if flush is None:
                return Flushed()
            # The offset commits with the rows, so what it covers is in PostgreSQL, once.
            offset = await flush.prices_offset()
            batch = _Prices(offset, *await backlog.price_changes(bucket, offset, limit))
            if batch.changes:
                await flush.write_prices(batch.changes)
                await flush.advance_prices(batch.last)
    except RowsRefused as error:
        return await _prices_apart(backlog, ledger, bucket, batch, error.reason, wait=wait)
    if batch.last != START:
        await backlog.trim_prices(bucket, batch.last)
    return Flushed(len(batch.changes))


async def _prices_apart(
    backlog: Backlog, ledger: Ledger, bucket: Bucket, batch: _Prices, reason: str, *, wait: bool
) -> Flushed:
    """Write price changes of which some are refused, half of them at a time; one is set aside."""
    if len(batch.changes) > 1:
        middle = len(batch.changes) // 2
        first = await prices(backlog, ledger, bucket, middle, wait=wait)
        rest = await prices(backlog, ledger, bucket, len(batch.changes) - middle, wait=wait)
        return Flushed(first.written + rest.written, first.refused + rest.refused)
    [change] = batch.changes
    async with ledger.flush(bucket, wait=wait) as flush:
        # Another flush may have been here since: what stands behind its offset is another change.
        if flush is None or await flush.prices_offset() != batch.offset:
            return Flushed()
        number = await flush.set_aside(change, reason)
        await flush.advance_prices(batch.last)
    _tell(bucket, "price change of cart", change.cart_id, change.cart_version, number, reason)
    await backlog.trim_prices(bucket, batch.last)
    return Flushed(refused=1)


def _tell(
    bucket: Bucket, what: str, cart_id: int, version: int, number: int | None, reason: str
) -> None:
    """Log what is set aside, without what it holds, unless it was before, as after a crash."""
    if number is not None:
        where = f"{what} {cart_id} of {bucket.tenant} at version {version}"
        log.error("%s is set aside as dead letter %d: %s", where, number, reason)
