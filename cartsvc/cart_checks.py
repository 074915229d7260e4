"""Checks of carts: in Redis against its indexes, and against their rows, and rows against Redis."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from cartsvc.audit import NO_ROW, Audit, RowState
from cartsvc.cart_hash import cart_of, fields_of
from cartsvc.findings import Finding, number_of, pages, text_of
from cartsvc.keys import Bucket
from cartsvc.model import Cart, Owner
from cartsvc.recovery import Recovery
from cartsvc.scripts import Argument, Runner

ACTIVE = "ACTIVE"


class Place(NamedTuple):
    """Where a cart is (its key). `member` is how an index names it, `named_in`: carts, holds,
    holds_by_sku or holders; '' where none is meant."""

    key: str
    named_in: str = ""
    member: str = ""


class Seen(NamedTuple):
    """A cart at one instant; None where it is not there, or not readable.

    `number` is its id, as far as it is known. `wrong` are entries of indexes, or fields: (index,
    member, what is there, what should be). A cart that is broken by itself has a `problem`.
    """

    place: Place
    number: str
    cart: Cart | None
    is_dirty: bool
    wrong: Sequence[tuple[str, str, str, str]]
    problem: str = ""

    @property
    def what(self) -> str:
        """Without the owner, whose id may be a secret."""
        return f"cart {self.number}" if self.number else "a cart"


async def inspect(
    runner: Runner, bucket: Bucket, places: Sequence[Place], *, mend: bool = False
) -> list[Seen]:
    """Carts, each at one instant; with `mend`, what indexes say of them is made right."""
    shared = [bucket.seq, bucket.carts, bucket.dirty, bucket.holds, bucket.holds_by_sku]
    shared += [bucket.holders, bucket.cold]
    calls: list[tuple[list[str], list[Argument]]] = [
        ([*shared, place.key], [int(mend), place.named_in, place.member]) for place in places
    ]
    replies = await runner.run_many("cart_mend", calls)
    return [_seen(bucket, place, *reply) for place, reply in zip(places, replies, strict=True)]


def _seen(
    bucket: Bucket, place: Place, flat: list[bytes], is_dirty: int, entries: list[list[bytes]]
) -> Seen:
    fields, wrong = fields_of(flat), [_four(entry) for entry in entries]
    named = [member for index, member, *_ in wrong if index == "carts"]
    number = text_of(fields[b"id"]) if b"id" in fields else "".join(named)
    if not fields:
        return Seen(place, number, None, bool(is_dirty), wrong)
    try:
        cart = cart_of(bucket.owner(place.key), fields)
    except (KeyError, ValueError):
        return Seen(place, number, None, bool(is_dirty), wrong, "is not readable")
    problem = _problem(bucket, place, cart, fields)
    return Seen(place, number, cart, bool(is_dirty), wrong, problem)


def _four(texts: list[bytes]) -> tuple[str, str, str, str]:
    index, member, there, ought = (text_of(text) for text in texts)
    return index, member, there, ought


def _problem(bucket: Bucket, place: Place, cart: Cart, fields: dict[bytes, bytes]) -> str:
    """What is wrong with a cart by itself; '' if nothing is."""
    skus = {kind: {name[2:] for name in fields if name.startswith(kind)} for kind in _LINE_PARTS}
    if len(cart.lines) != len(skus[b"l:"]) or not skus[b"h:"] <= skus[b"q:"] <= skus[b"l:"]:
        return "has parts of lines, which belong to none"
    if (cart.status == ACTIVE) != (bucket.cart(cart.owner) == place.key):
        return f"is {cart.status} at another place than such carts are"
    return ""


_LINE_PARTS = (b"l:", b"q:", b"s:", b"h:")


class Carts:
    """Carts in Redis: indexes name what they have, and nothing else, and PostgreSQL has those that
    are not dirty as they are. Subjects are places."""

    noun = "carts in Redis"

    def __init__(self, runner: Runner, bucket: Bucket, audit: Audit, max_lines: int) -> None:
        self.runner = runner
        self.redis: Any = runner.redis
        self.bucket = bucket
        self.audit = audit
        self.max_lines = max_lines

    async def slices(self) -> AsyncIterator[list[Place]]:
        """All that `carts` names; and of what is named elsewhere, that which looks wrong."""
        bucket = self.bucket
        async for found in pages(self.redis.hscan, bucket.carts):
            yield [Place(text_of(key), "carts", cart_id) for cart_id, key in found]
        for index, key, line in (
            ("holders", bucket.holders, _of_holders),
            ("holds_by_sku", bucket.holds_by_sku, _of_holds_by_sku),
            ("holds", bucket.holds, _of_holds),
            ("", bucket.dirty, _of_dirty),
        ):
            async for found in pages(self.redis.zscan, key):
                yield await self._odd(index, [line(name, score) for name, score in found])

    async def _odd(self, index: str, named: Sequence["_Named"]) -> list[Place]:
        """Places at which a cart does not say what it is named for, or is not known by its id."""
        asked = self.redis.pipeline(transaction=False)
        for one in named:
            asked.hmget(one.key, "id", one.field or "id")
        answers = await asked.execute() if named else []
        ids = [cart_id or b"" for cart_id, _ in answers]
        places = await self.redis.hmget(self.bucket.carts, ids) if ids else []
        return [
            Place(one.key, index, one.member)
            for one, (cart_id, value), place in zip(named, answers, places, strict=True)
            if (index if cart_id is None else place != one.key.encode() or not one.fits(value))
        ]

    async def look(self, subjects: Sequence[Place]) -> list[Finding]:
        seen = await inspect(self.runner, self.bucket, subjects)
        found = [finding for one in seen for finding in self._of_itself(one)]
        beside = await self._beside_rows(seen)
        # What Redis changed meanwhile was not compared with its own row.
        again = await inspect(self.runner, self.bucket, [one.place for one, _ in beside])
        for now, (one, finding) in zip(again, beside, strict=True):
            if (now.cart, now.is_dirty) == (one.cart, one.is_dirty):
                found.append(finding)
        return found

    def _of_itself(self, seen: Seen) -> list[Finding]:
        cart, subject, what = seen.cart, Place(seen.place.key), seen.what
        if seen.problem:
            # What else is wrong comes of that, and is not to be mended by it.
            return [Finding("cart", subject, what, seen.problem)]
        found = []
        if cart is not None and len(cart.lines) > self.max_lines:
            told = f"has {len(cart.lines)} lines, and {self.max_lines} are allowed"
            found.append(Finding("full", subject, what, told))
        return found + [_of_entry(seen, *entry) for entry in seen.wrong]

    async def _beside_rows(self, seen: Sequence[Seen]) -> list[tuple[Seen, Finding]]:
        carts = [(one, one.cart) for one in seen if one.cart is not None and not one.problem]
        rows = await self.audit.row_states([cart.id for _, cart in carts])
        found = []
        for one, cart in carts:
            kind, detail = difference(cart, rows.get(cart.id, NO_ROW), is_dirty=one.is_dirty)
            if kind:
                finding = Finding(kind, Place(one.place.key), one.what, detail, True)
                found.append((one, finding))
        return found


def difference(cart: Cart, row: RowState, *, is_dirty: bool) -> tuple[str, str]:
    """What is wrong with a cart beside its row: "closed" or "row", and in words; or '' twice."""
    is_open = row.status in (None, ACTIVE)
    if cart.status == ACTIVE and not is_open:
        return "closed", f"is active in Redis, and {row.status} in PostgreSQL"
    if is_dirty:
        if cart.status == ACTIVE and row.version is not None and row.version > cart.version:
            return "row", _versions(cart, row)
        return "", ""
    if row.set_aside == cart.version:
        return "", ""
    if row.status is None:
        return "row", "is not dirty, and PostgreSQL does not have it"
    if cart.status != ACTIVE:
        told = "waits for a flush that has done it" if not is_open else "is active in PostgreSQL"
        return "row", f"is {cart.status} in Redis and not dirty, and {told}"
    if row.version != cart.version:
        return "row", _versions(cart, row)
    if row.lines != cart.lines:
        return "row", f"has other lines in PostgreSQL, at the same version {cart.version}"
    return "", ""


def _versions(cart: Cart, row: RowState) -> str:
    return f"is at version {cart.version} in Redis, and at {row.version} in PostgreSQL"


def _of_entry(seen: Seen, index: str, member: str, there: str, ought: str) -> Finding:
    # What no part of the cart leads to can be looked at again only by its name.
    is_named = (index, member) == seen.place[1:] and not (ought or (seen.cart and index == "holds"))
    subject = seen.place if is_named else Place(seen.place.key)
    if not ought:
        told = f"stands in {index!r}, where it does not belong"
    elif not there:
        told = f"is missing in {index!r}"
    else:
        told = f"stands wrongly in {index!r}"
    # Not where the id of one cart leads to another, which is there.
    can_be_mended = index != "carts" or not (there and ought)
    return Finding("index", subject, seen.what, told, can_be_mended)


class _Named(NamedTuple):
    """A cart (its key) as a `member` of an index names it, and for what: a field ('' for none), and
    whether its value is such."""

    key: str
    member: str
    field: str
    fits: Callable[[bytes | None], bool]


def _of_holders(member: str, _score: float) -> _Named:
    sku, _, key = member.partition(" ")
    return _Named(key, member, f"l:{sku}", lambda value: value is not None)


def _of_holds_by_sku(member: str, _: float) -> _Named:
    # Somebody else's hand may have written it.
    counter, deadline, sku, key = (*member.split(" ", 3), "", "", "")[:4]
    ought = f"{deadline} {counter}".encode()
    return _Named(key, member, f"h:{sku}", lambda value: value == ought)


def _of_holds(member: str, score: float) -> _Named:
    return _Named(member, member, "due", lambda value: number_of(value) == score)


def _of_dirty(member: str, _: float) -> _Named:
    return _Named(member, member, "", lambda _: True)


class Rows:
    """Active rows: each is in Redis, or has a marker there. Subjects are (id, owner)."""

    noun = "active rows"

    def __init__(self, runner: Runner, bucket: Bucket, audit: Audit, recovery: Recovery) -> None:
        self.redis: Any = runner.redis
        self.bucket = bucket
        self.audit = audit
        self.recovery = recovery

    async def slices(self) -> AsyncIterator[list[tuple[int, Owner]]]:
        async for found in self.recovery.active_carts(0):
            yield [(cart.id, cart.owner) for cart in found]

    async def look(self, subjects: Sequence[tuple[int, Owner]]) -> list[Finding]:
        both = self.redis.pipeline(transaction=True)
        for cart_id, owner in subjects:
            both.hget(self.bucket.carts, str(cart_id))
            both.hget(self.bucket.cold, self.bucket.marked(owner))
            both.hget(self.bucket.cart(owner), "id")
        answers = await both.execute()
        found = {}
        for number, (cart_id, owner) in enumerate(subjects):
            place, marker, other = answers[3 * number : 3 * number + 3]
            if place is None and cart_id not in (_marked(marker), number_of(other)):
                found[cart_id, owner] = marker is None and other is None
        rows = await self.audit.row_states([cart_id for cart_id, _ in found])
        return [
            Finding("nowhere", subject, f"cart {subject[0]}", _lost(is_free), is_free)
            for subject, is_free in found.items()
            if rows.get(subject[0], NO_ROW).status == ACTIVE
        ]


def _lost(is_free: bool) -> str:
    told = "is active in PostgreSQL, and Redis does not know it"
    return told if is_free else f"{told}; its owner has another cart"


class Markers:
    """Markers of carts that only PostgreSQL has: each leads to an active row of that owner.

    Subjects are the owners as `cold` names them.
    """

    noun = "markers"

    def __init__(self, runner: Runner, bucket: Bucket, audit: Audit) -> None:
        self.redis: Any = runner.redis
        self.bucket = bucket
        self.audit = audit

    async def slices(self) -> AsyncIterator[list[str]]:
        async for found in pages(self.redis.hscan, self.bucket.cold):
            yield [owner for owner, _ in found]

    async def look(self, subjects: Sequence[str]) -> list[Finding]:
        before = await self.ids(subjects)
        rows = await self.audit.row_states(list(before.values()))
        after = await self.ids(list(before))
        return [
            Finding(
                "cold", owner, f"cart {cart_id}", f"has a marker in Redis, and {told}", can_mend
            )
            for owner, cart_id in before.items()
            if after.get(owner) == cart_id
            for told, can_mend in _of_marker(owner, rows.get(cart_id, NO_ROW))
        ]

    async def ids(self, owners: Sequence[str]) -> dict[str, int]:
        """Owner -> cart id, of those that have a marker."""
        if not owners:
            return {}
        markers = await self.redis.hmget(self.bucket.cold, owners)
        found = zip(owners, markers, strict=True)
        return {owner: _marked(marker) for owner, marker in found if marker is not None}


def _marked(marker: bytes | None) -> int:
    """The cart id that a marker has; 0 for none."""
    return number_of((marker or b"").partition(b" ")[0]) or 0


def _of_marker(owner: str, row: RowState) -> list[tuple[str, bool]]:
    """What is wrong with a marker, and whether it can be mended."""
    if row.owner is None:
        return [("PostgreSQL does not have it", False)]
    if row.status != ACTIVE:
        return [(f"is {row.status} in PostgreSQL", True)]
    if Bucket.marked(row.owner) != owner:
        return [("is another owner's in PostgreSQL", False)]
    return []
