"""The flush: one batch of a bucket's carts, or of its price changes, into PostgreSQL.

In both the order is: read, write, commit, and only then take it off the backlog. A crash in
between repeats work that changes nothing the second time.
"""

from collections.abc import Sequence

from cartsvc.backlog import START, Backlog, DirtyCarts
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart


async def carts(
    backlog: Backlog, ledger: Ledger, bucket: Bucket, limit: int, *, wait: bool = False
) -> int:
    """Write the carts that have been dirty for longest; returns how many rows were behind.

    Leaves it to another flush of the bucket if there is one, or waits for that with `wait`.
    """
    async with ledger.flush(bucket, wait=wait) as flush:
        if flush is None:
            return 0
        dirty = await backlog.dirty_carts(bucket, limit)
        if not dirty.seen:
            return 0
        written = await flush.write_carts(dirty.carts)
    # After the commit: cleared before it, a crash would leave a change that nobody writes.
    await backlog.flushed(bucket, dirty)
    return written


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
