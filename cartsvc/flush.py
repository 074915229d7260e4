"""The flush: a bucket's carts, and its price changes, into PostgreSQL, a batch a transaction.

For each batch the order is: read, write, commit, and only then take it off the backlog. A crash in
between repeats work that changes nothing the second time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from cartsvc.backlog import NO_CARTS, START, Backlog, DirtyCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import CartRows, Ledger, rows_of
from cartsvc.model import Cart

T = TypeVar("T")


async def carts(
    backlog: Backlog,
    ledger: Ledger,
    bucket: Bucket,
    limit: int,
    *,
    batches: int = 1,
    wait: bool = False,
) -> int:
    """Write the carts that have been dirty for longest, in batches of at most `limit`; returns how
    many rows were behind.

    Leaves them to another flush of the bucket if there is one, or waits for that with `wait`.
    """
    behind = 0
    written, batch = NO_CARTS, await _read(backlog, bucket, limit)
    for left in reversed(range(batches)):
        if not batch.dirty.seen:
            break
        turn = _turn(backlog, bucket, written, batch.dirty, limit if left else 0)
        async with _beside(turn) as turning:
            rows = await _write(ledger, bucket, batch.rows, wait=wait)
            ahead = await turning
        if rows is None:
            return behind
        # Cleared from here on: before the commit, a crash would leave a change that nobody writes.
        behind += rows
        written, batch = batch.dirty, ahead
    await backlog.flushed(bucket, written)
    return behind


class _Batch(NamedTuple):
    dirty: DirtyCarts
    rows: CartRows


async def _read(
    backlog: Backlog, bucket: Bucket, limit: int, besides: Collection[str] = ()
) -> _Batch:
    dirty = await backlog.dirty_carts(bucket, limit, besides=besides) if limit else NO_CARTS
    return _Batch(dirty, rows_of(dirty.carts))


async def _write(ledger: Ledger, bucket: Bucket, rows: CartRows, *, wait: bool) -> int | None:
    """Write a batch; returns how many rows were behind, None if it was left to another flush."""
    async with ledger.flush(bucket, wait=wait) as flush:
        return None if flush is None else await flush.write_rows(rows)


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
        await flush.write_carts(found.carts)
    await backlog.flushed(bucket, found)


async def closed(backlog: Backlog, ledger: Ledger, bucket: Bucket, cart: Cart) -> None:
    """Write a cart as the script that closed it replied it.

    Not as Redis has it by now: after a failover that may be the cart before.
    """
    async with ledger.write(bucket) as flush:
        await flush.write_carts([cart])
    key = await backlog.place(bucket, cart.id)
    if key is not None:
        written = DirtyCarts(cart.updated_ms, [cart], {key: (cart.id, cart.version)})
        await backlog.flushed(bucket, written)


async def prices(
    backlog: Backlog, ledger: Ledger, bucket: Bucket, limit: int, *, wait: bool = False
) -> int:
    """Write price changes, each exactly once; returns how many. `wait` as for carts."""
    async with ledger.flush(bucket, wait=wait) as flush:
        if flush is None:
            return 0
        # The offset commits with the rows, so what it covers is in PostgreSQL, once.
        offset = await flush.prices_offset()
        changes, last = await backlog.price_changes(bucket, offset, limit)
        if changes:
            await flush.write_prices(changes, last)
    if last != START:
        await backlog.trim_prices(bucket, last)
    return len(changes)
