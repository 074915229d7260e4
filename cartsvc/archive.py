"""Carts wherever they are: in Redis, or only in PostgreSQL. For who knows a cart by its id.

What Redis has counts; PostgreSQL answers for carts that have left Redis, and for lists.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from cartsvc import drivers, flush
from cartsvc.backlog import Backlog
from cartsvc.errors import (
    CartClosed,
    CartError,
    CartExists,
    LedgerAway,
    NoCart,
    NoLine,
    Rebuilt,
)
from cartsvc.guests import Client
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import (
    LINE_BITS,
    MAX_SAFE_INT,
    Cart,
    ClosedStatus,
    Line,
    Once,
    Owner,
    PriceEvent,
    line_name,
)
from cartsvc.store import Store

ACTIVE = "ACTIVE"
DELETED: Final = "DELETED"

_BATCH = 100
"""Carts, or price changes, that are written at once: few, since shoppers wait beside it."""

P = ParamSpec("P")
T = TypeVar("T")


def _answered(
    method: "Callable[Concatenate[Archive, P], Coroutine[Any, Any, T]]",
) -> "Callable[Concatenate[Archive, P], Coroutine[Any, Any, T]]":
    """Within the archive's time, and with a server's silence told as one of our errors."""

    async def wrapper(self: "Archive", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with drivers.silence():
            async with asyncio.timeout(self.timeout_s):
                return await method(self, *args, **kwargs)

    functools.update_wrapper(wrapper, method)
    return wrapper


class Archive:
    """Every method raises `LedgerAway` or `OutcomeUnknown` when a server does not answer.

    Both have `timeout_s`, in seconds, together.
    """

    def __init__(self, store: Store, backlog: Backlog, ledger: Ledger, *, timeout_s: float) -> None:
        self.store = store
        # Carts that the store does not find in Redis, but a marker of them, it asks for here.
        store.bring_back = self.bring_back
        self.backlog = backlog
        self.ledger = ledger
        self.timeout_s = timeout_s

    @_answered
    async def has_tenant(self, bucket: Bucket) -> bool:
        return await self.ledger.has_bucket(bucket)

    @_answered
    async def find(self, bucket: Bucket, cart_id: int) -> Cart:
        """A cart by its id, active or closed.

        Raises:
            NoCart: there is none, or it is deleted.
        """
        if not 0 < cart_id <= MAX_SAFE_INT:
            raise NoCart  # PostgreSQL does not take every number there is.
        try:
            cart: Cart | None = await self.store.find(bucket, cart_id)
        except NoCart:
            cart = await self.ledger.cart(bucket.tenant, cart_id)
        if cart is None or cart.status == DELETED:
            raise NoCart
        return cart

    @_answered
    async def find_item(self, bucket: Bucket, item: int) -> tuple[Cart, Line]:
        """A line by its item id, and the cart that it is in.

        Raises:
            NoCart, NoLine: there is none.
        """
        cart = await self.find(bucket, item >> LINE_BITS)
        line = cart.line(item)
        if line is None:
            raise NoLine(line_name(item))
        return cart, line

    @_answered
    async def active(self, bucket: Bucket, owner: Owner) -> Cart:
        """The owner's active cart, without telling the owner of it.

        Raises:
            NoCart: there is none.
        """
        try:
            return await self.store.peek(bucket, owner)
        except NoCart:
            cart = await self.ledger.active_cart(bucket.tenant, owner)
            # Redis may have closed it meanwhile, and not written that yet.
            if cart is None or (await self.find(bucket, cart.id)).status != ACTIVE:
                raise
            return cart

    @_answered
    async def answer(
        self, bucket: Bucket, once: Once, change: Callable[[Once], Awaitable[Cart | None]]
    ) -> Cart | None:
        """What a change gives; or gave, if the request was answered before.

        It is looked up beforehand, since what it changed may not be found any more. A cart that it
        closed is in PostgreSQL before it is answered again, too.
        """
        # Who was told so may have been answered all the same, by what PostgreSQL has.
        with contextlib.suppress(NoCart):
            cart = await self.store.outcome(bucket, once)
            if once.is_replay:
                return await self._closed(bucket, cart)
        try:
            changed = await change(once)
        except CartError:
            if once.at_ms:  # A script has decided.
                raise
            # One of the same key may have been faster, and is what was in the way.
            cart = await self.store.outcome(bucket, once)
            if not once.is_replay:
                raise
            return await self._closed(bucket, cart)
        if not once.at_ms:
            # Nothing was left to do; one of the same key may have done it.
            with contextlib.suppress(NoCart):
                cart = await self.store.outcome(bucket, once)
                if once.is_replay:
                    return await self._closed(bucket, cart)
        return changed

    async def _closed(self, bucket: Bucket, cart: Cart | None) -> Cart | None:
        if cart is not None and cart.status != ACTIVE:
            await self._record(bucket, cart.id)
            # Deleted since, it was closed all the same.
            if await self.ledger.status(bucket.tenant, cart.id) in (None, ACTIVE):
                raise Rebuilt
        return cart

    @_answered
    async def make(
        self, bucket: Bucket, owner: Owner, once: Once | None = None, client: Client = None
    ) -> Cart:
        """An empty cart for an owner who has none.

        Raises:
            CartExists: the owner has an active cart.
            TooManyGuests: the client begins too many carts.
        """
        with contextlib.suppress(NoCart):
            raise CartExists((await self.active(bucket, owner)).id)
        return await self.store.make(bucket, owner, once, client)

    @_answered
    async def open(self, bucket: Bucket, cart: Cart) -> Cart:
        """See that an active cart is in Redis, where it can be changed; the cart as it is there.

        Raises:
            Overloaded: it can't be changed now.
            NoCart: it is deleted.
            CartClosed: it takes no changes any more.
            CartExists: its owner has begun another one.
        """
        self.store.pressure.check(bucket)
        try:
            cart = await self.store.find(bucket, cart.id)
        except NoCart:
            await self._restore(bucket, cart.id)
            cart = await self.find(bucket, cart.id)
        if cart.status == DELETED:
            raise NoCart
        if cart.status != ACTIVE:
            raise CartClosed(cart.id, cart.status)
        return cart

    @_answered
    async def change(
        self, bucket: Bucket, cart: Cart, operation: Callable[[], Awaitable[Cart]]
    ) -> Cart:
        """What an operation on an active cart gives.

        Raises as the operation, and as `open` does, also when the cart is closed meanwhile.
        """
        await self.open(bucket, cart)
        try:
            return await operation()
        except (NoCart, NoLine):
            await self.open(bucket, await self.find(bucket, cart.id))
            raise

    @_answered
    async def close(
        self,
        bucket: Bucket,
        cart: Cart,
        status: ClosedStatus,
        once: Once | None = None,
        *,
        version: int | None = None,
    ) -> Cart:
        """Close a cart, and see that PostgreSQL has it so. What is closed like that already, stays.

        Raises:
            NoCart: it has another version than `version`.
            CartClosed: it is closed as something else.
            CartShort, CartChanged: as `Store.close`.
        """
        if cart.status == status:
            await self._record(bucket, cart.id)
            return cart
        # While PostgreSQL is away, nothing is closed.
        epoch = await self.ledger.epoch(bucket)
        try:
            await self.open(bucket, cart)
            closed = await self.store.close(
                bucket, cart.owner, status, cart_id=cart.id, version=version, once=once
            )
        except (NoCart, CartClosed):
            # Somebody was faster; if with the same status, all is as asked for.
            closed = await self.find(bucket, cart.id)
            if closed.status == ACTIVE:
                raise
            if closed.status != status:
                raise CartClosed(closed.id, closed.status) from None
        await flush.closed(self.backlog, self.ledger, bucket, closed, epoch=epoch)
        return closed

    @_answered
    async def delete(self, bucket: Bucket, cart: Cart, once: Once | None = None) -> None:
        """Let a cart be there for nobody any more. What it held is free again.

        Raises:
            CartClosed: it is converted, and stays.
        """
        if cart.status == ACTIVE:
            await self.close(bucket, cart, DELETED, once)
        elif cart.status == "CONVERTED":
            raise CartClosed(cart.id, cart.status)
        else:
            self.store.pressure.check(bucket)
            await self._record(bucket, cart.id)
            if once is not None:
                await self.store.keep_outcome(bucket, once)
            await self.ledger.delete_cart(bucket.tenant, cart.id)

    @_answered
    async def carts(
        self, bucket: Bucket, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[Cart], int]:
        """Carts in the order of their ids, all or an owner's, and how many there are."""
        await self._catch_up(bucket, owner)
        return await self.ledger.carts(bucket.tenant, owner, limit=limit, offset=offset)

    @_answered
    async def items(
        self, bucket: Bucket, owner: Owner | None, *, limit: int, offset: int
    ) -> tuple[list[tuple[Cart, Line]], int]:
        """Lines in the order of their item ids, each with its cart, and how many there are."""
        await self._catch_up(bucket, owner)
        return await self.ledger.items(bucket.tenant, owner, limit=limit, offset=offset)

    @_answered
    async def prices(self, bucket: Bucket, item: int) -> list[PriceEvent]:
        """The price changes of a line, the newest first."""
        # Counted beforehand: prices that change all the time must not keep it going.
        for _ in range(-(-await self.backlog.price_count(bucket) // _BATCH)):
            await flush.prices(self.backlog, self.ledger, bucket, _BATCH, wait=True)
        return await self.ledger.price_history(bucket.tenant, item)

    @_answered
    async def bring_back(self, bucket: Bucket, owner: Owner, cart_id: int) -> None:
        """Put a cart back of which Redis has a marker; if it is closed by now, forget the marker.

        Raises:
            LedgerAway: PostgreSQL does not know it. So this is not its PostgreSQL, or an older one.
        """
        await self._restore(bucket, cart_id)
        status = await self.ledger.status(bucket.tenant, cart_id)
        if status is None:
            raise LedgerAway(f"it has no cart {cart_id}, which Redis left to it")
        if status != ACTIVE:
            await self.store.unmark(bucket, owner, cart_id)

    async def _restore(self, bucket: Bucket, cart_id: int) -> None:
        """Put an active cart back that only PostgreSQL has; nothing where it is not active.

        Redis knows of one that is closed until that is written, and it is not written meanwhile: so
        either this is the cart as it is, or Redis refuses it.
        """
        async with self.ledger.held_cart(bucket.tenant, cart_id) as found:
            if found is None or found.cart.status != ACTIVE:
                return
            with contextlib.suppress(NoCart):
                cart, is_as_flushed = found
                restored = await self.store.restore(bucket, cart, is_as_flushed=is_as_flushed)
                if restored.id != cart_id:
                    raise CartExists(restored.id)

    async def put_back(self, bucket: Bucket, ids: Sequence[int]) -> None:
        """Put active carts back while the bucket is being rebuilt."""
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            for cart, is_as_flushed in await self.ledger.restorable(bucket.tenant, some):
                await self.store.restore(bucket, cart, is_as_flushed=is_as_flushed, warming=True)

    async def _catch_up(self, bucket: Bucket, owner: Owner | None) -> None:
        """Write what is not in PostgreSQL yet of the carts that are to be listed.

        A list is PostgreSQL's; without this it would lack the change that was just answered.
        """
        if owner is not None:
            await flush.these(self.backlog, self.ledger, bucket, [bucket.cart(owner)])
            return
        # Counted beforehand: carts that change all the time must not keep it going.
        batches = -(-await self.backlog.dirty_count(bucket) // _BATCH)
        await flush.carts(self.backlog, self.ledger, bucket, _BATCH, batches=batches, wait=True)

    async def _record(self, bucket: Bucket, cart_id: int) -> None:
        """See that PostgreSQL has the cart as Redis has it."""
        key = await self.backlog.place(bucket, cart_id)
        if key is not None:
            await flush.these(self.backlog, self.ledger, bucket, [key])
