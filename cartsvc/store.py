"""Carts in Redis: an operation is one script, one round trip, all or nothing, and returns the cart.

When a hold that has run out stands in the way, the script says so and changes nothing; the hold is
released and the script is run again. `find` takes a second round trip; `release` and `reprice` are
the worker's, for many carts, and return how many lines they changed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from cartsvc import outcomes
from cartsvc.adds import Adds
from cartsvc.cart_hash import cart_of, facts_of, fields_of
from cartsvc.errors import Again, CartChanged, Cold, HoldsDue, NoCart, OutcomeUnknown, SoldOut
from cartsvc.guests import Client, Guests
from cartsvc.keys import Bucket
from cartsvc.model import (
    LINE_BITS,
    Cart,
    ClosedStatus,
    LineRequest,
    LineTerms,
    Merged,
    Once,
    Owner,
    Unmerged,
    line_name,
    sku,
)
from cartsvc.pressure import NO_MARKS, Marks, Pressure
from cartsvc.recent import STATE, RecentCarts, is_same, joined, known
from cartsvc.releases import Releases
from cartsvc.scripts import Argument, Key, Runner, answer
from cartsvc.sold_out import SoldOutSkus

RELEASE_LINES = 50
"""Held lines that one script may release: with the next, what bounds how long it blocks Redis."""

RELEASE_FIELDS = 10_000
"""Fields of carts that it may look at."""


BringBack = Callable[[Bucket, Owner, int], Awaitable[None]]
"""Puts the owner's cart back from PostgreSQL, by its id, where a marker says that it is."""


async def _nowhere(bucket: Bucket, owner: Owner, cart_id: int) -> None:
    raise Cold(bucket.cart(owner), cart_id)


class Store:
    """The cart operations of every tenant.

    A `line` is named by its SKU or, from `model.line_name`, by its item id. Every method raises the
    `Refused` or `Unavailable` error that its script's reply stands for; `NoCart` where the owner
    has no active cart, `NoLine` where the cart has no such line. What is not asked `by_owner`, or
    with `authority`, leaves the cart's notices: its owner is still to be told. For
    `sold_out_memory_ms` an add is refused without asking where one before it was sold out.

    A request with an idempotency key (`once`) has one outcome, which is kept for `outcome_ttl_s`;
    an owner may have `max_outcomes` of them.

    `clock_ms` tells the time to the scripts: the runner's, which is Redis's, where nothing is said.

    While `pressure` finds one of the `marks` passed, requests that change a cart are `Overloaded`.
    Only a process that polls finds that.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_lines: int,
        stock_policy: str = "check",
        hold_ttl_s: int = 600,
        sold_out_memory_ms: int = 0,
        outcome_ttl_s: int = outcomes.KEEP_S,
        max_outcomes: int = outcomes.MOST,
        marks: Marks = NO_MARKS,
        guest_carts_per_s: int = 0,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self.runner = runner
        self.max_lines = max_lines
        self.stock_policy = stock_policy
        self.hold_ttl_s = hold_ttl_s
        self.outcome_ttl_s = outcome_ttl_s
        self.max_outcomes = max_outcomes
        self.clock_ms = clock_ms or runner.clock.ms
        self.bring_back: BringBack = _nowhere
        self.recent = RecentCarts()
        self.sold_out = SoldOutSkus(sold_out_memory_ms, self.clock_ms)
        self.pressure = Pressure(runner, marks, self.clock_ms)
        self.guests = Guests(runner, guest_carts_per_s)
        self.adds = Adds(runner, self._once)
        self.releases = Releases(self._due, self.release)

    async def now_ms(self) -> int:
        """What time it is, once Redis has told it."""
        await self.runner.time_known()
        return self.clock_ms()

    async def rehearse(self, bucket: Bucket) -> None:
        """Have Redis run the script of an add, for no cart: nothing is read or written."""
        await self._once("cart_add", bucket, [], [])

    async def add(
        self,
        bucket: Bucket,
        owner: Owner,
        lines: Sequence[LineRequest],
        once: Once | None = None,
        client: Client = None,
    ) -> Cart:
        """Put `lines` into the owner's cart, all or none.

        Raises:
            TooManyGuests: the client begins too many carts.
        """
        self.pressure.check(bucket)
        quantities: dict[str, int] = {}
        for line in lines:
            name = sku(line.product_id, line.variant_id)
            again = name in quantities
            quantities[name] = quantities[name] + line.quantity if again else line.quantity
        key = bucket.cart(owner)
        units: list[Argument] = []
        for asked in quantities.items():
            units += asked
        if once is not None:
            if self.guests.carts_per_s:
                await self.guests.admit(bucket, owner, client, once)
            keys = (key, *bucket.once(once))
            arguments = [known(None), self._terms(once), len(quantities), *units]
            flat = await self._answered(
                lambda: self._kept(bucket, lambda: self.adds.add(bucket, keys, arguments)), once
            )
            self.pressure.watch(bucket)
            return cart_of(owner, fields_of(flat))
        seen = self.recent.get(key)
        told = [known(seen), "", len(quantities), *units]
        sold_out = self.sold_out.of(bucket)
        self.sold_out.refuse(sold_out, quantities)
        if self.guests.carts_per_s:
            await self.guests.admit(bucket, owner, client, once)
        try:
            flat = await self._kept(bucket, lambda: self.adds.add(bucket, (key,), told))
        except SoldOut as error:
            self.sold_out.remember(sold_out, error)
            raise
        self.pressure.watch(bucket)
        fields = fields_of(flat)
        cart = cart_of(owner, fields)
        if seen is not None and b"since" in fields:
            cart = joined(seen, cart)
        self.recent.remember(key, cart)
        return cart

    async def set_quantity(
        self, bucket: Bucket, owner: Owner, line: str, quantity: int, once: Once | None = None
    ) -> Cart:
        """Give a line another quantity, at least 1. Fewer is never refused for lack of stock."""
        return await self._change("cart_set", bucket, owner, [line, quantity], once)

    async def remove(
        self,
        bucket: Bucket,
        owner: Owner,
        line: str,
        *more: str,
        by_owner: bool = True,
        once: Once | None = None,
    ) -> Cart:
        """Take lines out of the cart, all or none of them."""
        arguments: list[Argument] = ["", int(by_owner), 1, line, *more]
        return await self._change("cart_remove", bucket, owner, arguments, once)

    async def clear(
        self,
        bucket: Bucket,
        owner: Owner,
        *,
        cart_id: int | None = None,
        by_owner: bool = True,
        once: Once | None = None,
    ) -> Cart:
        """Take every line out of the cart, saved ones too; if it is `cart_id`, where given."""
        arguments = [_only(cart_id), int(by_owner), 1]
        return await self._change("cart_remove", bucket, owner, arguments, once)

    async def empty(self, bucket: Bucket, owner: Owner, once: Once | None = None) -> Cart:
        """Take every line out of the cart that is not saved for later."""
        return await self._change("cart_remove", bucket, owner, ["", 1, 0], once)

    async def make(
        self, bucket: Bucket, owner: Owner, once: Once | None = None, client: Client = None
    ) -> Cart:
        """An empty cart.

        Raises:
            CartExists: the owner has one.
            TooManyGuests: the client begins too many carts.
        """
        self.pressure.check(bucket)
        if self.guests.carts_per_s:
            await self.guests.admit(bucket, owner, client, once)
        return await self._change("cart_make", bucket, owner, [], once)

    async def add_as(
        self,
        bucket: Bucket,
        owner: Owner,
        sku: str,
        terms: LineTerms,
        *,
        authority: bool,
        cart_id: int,
        once: Once | None = None,
    ) -> Cart:
        """Put a line into the owner's cart, or more units into it, as `terms` describes it.

        Raises:
            PriceDiffers: without authority, for a price, name or image that is not the catalogue's.
        """
        arguments = _described(cart_id, sku, "add", terms, authority)
        return await self._change("cart_line", bucket, owner, arguments, once)

    async def set_as(
        self,
        bucket: Bucket,
        owner: Owner,
        item: int,
        terms: LineTerms,
        *,
        authority: bool,
        once: Once | None = None,
    ) -> Cart:
        """Make a line what `terms` describes. Raises as `add_as` does."""
        arguments = _described(item >> LINE_BITS, line_name(item), "set", terms, authority)
        return await self._change("cart_line", bucket, owner, arguments, once)

    async def save_for_later(self, bucket: Bucket, owner: Owner, line: str) -> Cart:
        """Set a line aside: it stays in the cart, counts for nothing, and holds nothing."""
        return await self._change("cart_save", bucket, owner, [line, 1])

    async def take_back(self, bucket: Bucket, owner: Owner, line: str) -> Cart:
        """Bring back a line that was saved for later, if an add of its units would be granted."""
        return await self._change("cart_save", bucket, owner, [line, 0])

    async def read(self, bucket: Bucket, owner: Owner) -> Cart:
        """The owner's cart, for the owner: notices count as told.

        Only what there is to do, tell or refuse takes a script; that is three times as dear.
        """
        key = bucket.cart(owner)
        seen = self.recent.get(key)
        if seen is not None and await self._is_as_seen(key, seen):
            return seen
        fields = fields_of(await self.runner.hash(key))
        if not _can_be_shown(fields, self.clock_ms()):
            fields = await self._read(bucket, owner)
        cart = cart_of(owner, fields)
        self.recent.remember(key, cart)
        return cart

    async def _is_as_seen(self, key: str, cart: Cart) -> bool:
        values = zip(STATE, await self.runner.values(key, STATE), strict=True)
        state = {field: value for field, value in values if value is not None}
        return is_same(cart, state) and _can_be_shown(state, self.clock_ms())

    async def _read(self, bucket: Bucket, owner: Owner) -> dict[bytes, bytes]:
        keys = [bucket.cart(owner), bucket.seq, bucket.cold]

        async def attempt() -> Any:
            return await self.runner.run("cart_read", keys, (self.clock_ms(), bucket.marked(owner)))

        return fields_of(await self._decided(bucket, attempt))

    async def peek(self, bucket: Bucket, owner: Owner) -> Cart:
        """The owner's cart, for others: its owner is told nothing by it."""
        _, fields = await self._find(bucket, bucket.cart(owner), "")
        return cart_of(owner, fields_of(fields))

    async def find(self, bucket: Bucket, cart_id: int) -> Cart:
        """A cart by its id, for others than its owner; active, or closed and not flushed yet.

        Takes two round trips, since an id leads to a key, and the key to the cart.
        """
        fields: list[bytes] = []
        place, key = "", bucket.carts
        while key != place:
            place = key
            key, fields = await self._find(bucket, place, cart_id)
        return cart_of(bucket.owner(key), fields_of(fields))

    async def _find(self, bucket: Bucket, place: str, cart_id: Argument) -> tuple[str, list[bytes]]:
        """Where the cart is, and its fields if that is the `place`."""
        keys = [bucket.carts, bucket.seq, place]

        async def attempt() -> Any:
            return await self.runner.run("cart_find", keys, [cart_id, await self.now_ms()])

        key, fields = await self._released(bucket, attempt)
        return key.decode(), fields

    async def merge(
        self, bucket: Bucket, guest: Owner, owner: Owner, once: Once | None = None
    ) -> Merged:
        """Move the guest's cart into the owner's: each line as far as it fits.

        The guest's cart is gone afterwards.

        Raises:
            NoCart: the guest has none, or is the owner.
        """
        if guest == owner:
            raise NoCart
        keys = [bucket.cart(owner), bucket.cart(guest), bucket.closed(guest)]
        fields, report = await self._run("cart_merge", bucket, keys, [], once)
        unmerged = [
            Unmerged(name.decode(), asked, moved, reason.decode())
            for name, asked, moved, reason in report
        ]
        return Merged(cart_of(owner, fields_of(fields)), unmerged)

    async def release_held(
        self, bucket: Bucket, owner: Owner, *, cart_id: int | None = None
    ) -> Cart:
        """Take every line that holds units out of the cart, if it is `cart_id`, where given.

        Whatever their deadlines; the owner will be told. A mark that is passed is no reason against
        it: it takes no room.
        """
        keys, arguments = [bucket.cart(owner)], [_only(cart_id)]
        fields = await self._kept(
            bucket, lambda: self._once("cart_release", bucket, keys, arguments)
        )
        return cart_of(owner, fields_of(fields))

    async def close(
        self,
        bucket: Bucket,
        owner: Owner,
        status: ClosedStatus,
        *,
        cart_id: int | None = None,
        version: int | None = None,
        once: Once | None = None,
    ) -> Cart:
        """Close the owner's cart, if it is `cart_id`, still at `version`, where these are given.

        Converted, its units are sold, all or none. Otherwise, what it held is free again.

        Raises:
            CartShort: the stock does not cover these lines.
            CartChanged: the cart lost lines that the owner did not know of; asked again, it goes.
        """
        keys = [bucket.cart(owner), bucket.closed(owner)]
        arguments = [status, _only(cart_id), _only(version)]
        fields = await self._run("cart_close", bucket, keys, arguments, once)
        return closed_as(status, cart_of(owner, fields_of(fields)))

    async def restore(
        self, bucket: Bucket, cart: Cart, *, is_as_flushed: bool = True, warming: bool = False
    ) -> Cart:
        """Put a cart back that PostgreSQL has and Redis has not; the one in Redis stays.

        It is written anew if it is not `is_as_flushed`. `warming` says that the bucket is being
        rebuilt. Whoever read it from PostgreSQL has to know that it was not closed since: one that
        was, and has been flushed, is not known to Redis any more.

        Raises:
            NoCart: it was closed, and waits to be flushed.
        """
        arguments: list[Argument] = [cart.id, cart.version, cart.created_ms, cart.updated_ms]
        arguments += (cart.last_line, int(is_as_flushed), int(warming))
        for line in cart.lines:
            deadline = "" if line.held_until_ms is None else line.held_until_ms
            kind = "s" if line.saved else "q"
            changed = "" if line.updated_ms == line.added_ms else line.updated_ms
            arguments += (line.sku, line.quantity, kind, deadline, changed, facts_of(line))
        keys = [bucket.cart(cart.owner)]
        fields = await self._released(
            bucket, lambda: self._once("cart_restore", bucket, keys, arguments)
        )
        return cart_of(cart.owner, fields_of(fields))

    async def unmark(self, bucket: Bucket, owner: Owner, cart_id: int) -> None:
        """Forget that the owner's cart is cold: PostgreSQL has closed it."""
        await self.runner.run("cart_unmark", [bucket.cold], [bucket.marked(owner), cart_id])

    async def forget(self, bucket: Bucket, cart: Cart, sold: Mapping[str, tuple[int, int]]) -> bool:
        """Take an active cart out of Redis that PostgreSQL has closed.

        `sold` has units sold as Redis counts them, and units that are to be counted besides, by
        counter. Whether it was done: not if the cart, or the count, has changed, or too little is
        free.
        """
        parts = [part for item in sold.items() for part in (item[0], *item[1])]
        arguments: list[Argument] = [cart.id, cart.version, *parts]
        return bool(await self._once("cart_forget", bucket, [bucket.cart(cart.owner)], arguments))

    async def cool(self, bucket: Bucket, carts: Mapping[str, tuple[int, int]]) -> int:
        """Let go of active carts, but for a marker: key -> id and version as PostgreSQL has them.

        Returns how many were let go. Those that are not as they are there, or hold units, stay.
        """
        versions = [part for flushed in carts.values() for part in flushed]
        cooled: int = await self._once("cart_cool", bucket, list(carts), versions)
        return cooled

    async def release(self, bucket: Bucket, carts: Sequence[Key]) -> int:
        """Take lines whose hold has run out from these carts (keys), at most RELEASE_LINES.

        Returns how many were taken.
        """
        bounds = [RELEASE_LINES, RELEASE_FIELDS]
        released: int = await self._once("hold_release", bucket, carts, bounds)
        return released

    async def reprice(
        self, bucket: Bucket, name: Key, carts: Sequence[Key], *, done: Key, next_done: Key
    ) -> int:
        """Give the lines of a SKU in these carts (keys) the catalogue's price.

        `done` and `next_done` are how far the walk over its holders had come, and comes by this.
        Returns how many lines changed.
        """
        keys = [bucket.repricing, *carts]
        changed: int = await self._once("cart_reprice", bucket, keys, [name, done, next_done])
        return changed

    async def outcome(self, bucket: Bucket, once: Once) -> Cart | None:
        """The cart with which a request was answered before; None if it was not answered yet.

        Raises the refusal with which it was.
        """
        keys = bucket.once(once)

        def attempt() -> Awaitable[Any]:
            return self.runner.run("outcome_find", keys, [self._terms(once)])

        flat = await self._answered(lambda: self._decided(bucket, attempt), once)
        return cart_of(bucket.owner(once.cart_key), fields_of(flat)) if flat else None

    async def keep_outcome(self, bucket: Bucket, once: Once) -> None:
        """Let a request that no script decides count as answered."""

        async def attempt() -> Any:
            once.at_ms = await self.now_ms()
            arguments = (once.at_ms, self._terms(once))
            return await self.runner.run("outcome_keep", bucket.once(once), arguments)

        await self._answered(lambda: self._kept(bucket, attempt), once)

    async def _change(
        self,
        script: str,
        bucket: Bucket,
        owner: Owner,
        arguments: Sequence[Argument],
        once: Once | None = None,
    ) -> Cart:
        fields = await self._run(script, bucket, [bucket.cart(owner)], arguments, once)
        return cart_of(owner, fields_of(fields))

    async def _run(
        self,
        script: str,
        bucket: Bucket,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        once: Once | None,
    ) -> Any:
        """What a script gives that decides a request; its first key is the cart's."""
        self.pressure.check(bucket)
        outcome = () if once is None else bucket.once(once)

        async def attempt() -> Any:
            if once is not None:
                once.at_ms = await self.now_ms()
            terms = self._terms(once)
            return await self._once(script, bucket, (*keys, *outcome), (terms, *arguments))

        decided = await self._answered(lambda: self._kept(bucket, attempt), once)
        self.pressure.watch(bucket)
        return decided

    def _terms(self, once: Once | None) -> str:
        """How a script is told of a request's idempotency key."""
        return outcomes.terms(once, keep_s=self.outcome_ttl_s, most=self.max_outcomes)

    async def _answered(self, decide: Callable[[], Awaitable[Any]], once: Once | None) -> Any:
        """What is decided, or was when the request came first."""
        if once is None:
            return await decide()
        begun = time.monotonic()
        try:
            try:
                return await decide()
            except OutcomeUnknown:
                # Its key makes it safe to ask again: once, if Redis was lost and not just slow.
                if time.monotonic() - begun > self.runner.timeout_s / 2:
                    raise
                return await decide()
        except Again as before:
            reply = outcomes.recalled(before, once)
            # When it came first, that may have failed.
            await self.runner.synced()
        return answer(reply)

    def _kept(self, bucket: Bucket, attempt: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """As `_decided`, for what is acknowledged: once it is on the disk, if it is to be."""
        if self.runner.syncs is None:
            return self._decided(bucket, attempt)
        return self.runner.syncs.after(lambda: self._decided(bucket, attempt))

    async def _decided(self, bucket: Bucket, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """What an attempt gives, once the carts that it needs are in Redis.

        Raises:
            Cold: one that was brought back is not there; its marker names another owner's, say.
        """
        try:
            return await self._released(bucket, attempt)
        except Cold as cold:
            return await self._after_return(bucket, cold, attempt)

    async def _after_return(
        self, bucket: Bucket, cold: Cold, attempt: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Bring carts back until the attempt lacks none; each once."""
        brought_back: set[tuple[str, int]] = set()
        while (cold.cart, cold.cart_id) not in brought_back:
            await self.bring_back(bucket, bucket.owner(cold.cart), cold.cart_id)
            brought_back.add((cold.cart, cold.cart_id))
            try:
                return await self._released(bucket, attempt)
            except Cold as another:
                cold = another
        raise cold

    async def _released(self, bucket: Bucket, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """What an attempt gives, once no hold that has run out is in its way."""
        try:
            return await attempt()
        except HoldsDue as due:
            return await self._after_release(bucket, due, attempt)

    async def _after_release(
        self, bucket: Bucket, due: HoldsDue, attempt: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Release what is in the way and attempt again, as long as there is something.

        Raises:
            HoldsDue: it has run out but is not to be released.
            OutcomeUnknown: it took longer than one script may.
        """
        try:
            async with asyncio.timeout(self.runner.timeout_s):
                while True:
                    if due.cart:
                        released = await self.release(bucket, [due.cart]) > 0
                    else:
                        released = await self.releases.make_way(bucket, due.counter)
                    try:
                        return await attempt()
                    except HoldsDue as again:
                        # What somebody else has released is not in the way: something else is.
                        if not released and again.args == due.args:
                            raise
                        due = again
        except TimeoutError:
            raise OutcomeUnknown("holds that have run out are still being released") from None

    async def _due(self, bucket: Bucket, counter: str) -> list[bytes]:
        """Carts (keys) whose hold on the counter has run out, some of them."""
        found = await self._once("hold_due", bucket, [], [counter, RELEASE_LINES])
        return list(dict.fromkeys(found))

    def _once(
        self, script: str, bucket: Bucket, keys: Sequence[Key], arguments: Sequence[Argument]
    ) -> Awaitable[Any]:
        if script != "cart_add":
            self.sold_out.forget(bucket)
        if not self.runner.clock.is_known:
            return self._first(script, bucket, keys, arguments)
        terms = (self.clock_ms(), self.max_lines, self.stock_policy, self.hold_ttl_s * 1000)
        return self.runner.run(script, (*bucket.shared, *keys), (*terms, *arguments))

    async def _first(
        self, script: str, bucket: Bucket, keys: Sequence[Key], arguments: Sequence[Argument]
    ) -> Any:
        """As `_once`, while the time is not known."""
        await self.runner.time_known()
        return await self._once(script, bucket, keys, arguments)


def closed_as(status: str, cart: Cart) -> Cart:
    """The cart that a script gave for one that was to have this status.

    Raises:
        CartChanged: it was told what it lost, not closed.
    """
    if cart.status != status:
        error = CartChanged()
        error.notices = cart.notices
        raise error
    return cart


def _can_be_shown(fields: dict[bytes, bytes], now_ms: int) -> bool:
    """Whether there is a cart, no news for its owner, and no hold that has run out."""
    due = fields.get(b"due")
    return b"id" in fields and b"notices" not in fields and (due is None or int(due) > now_ms)


def _only(number: int | None) -> Argument:
    """How a script is told that only this cart, or version, is meant."""
    return "" if number is None else number


def _described(
    cart_id: int, name: str, how: str, terms: LineTerms, authority: bool
) -> list[Argument]:
    """How `cart_line` is told what a line is to be."""
    texts = [_json(text) for text in (terms.name, terms.image_url)]
    price = "" if terms.price_minor is None else terms.price_minor
    flags = [int(terms.saved), int(authority)]
    return [cart_id, name, terms.quantity, how, *flags, price, *texts]


def _json(text: str | None) -> str:
    return "" if text is None else msgspec.json.encode(text).decode()
