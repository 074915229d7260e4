"""Whatever is done in whatever order, Redis has what the model says, and its books add up.

The model predicts the whole bucket: a refusal that changed anything would show as a difference.
CARTSVC_EXAMPLES asks for more runs than the usual ones, and for other ones each time.
"""

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import fakeredis
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cartsvc import keys, scripts, upkeep
from cartsvc.cart_hash import cart_of
from cartsvc.catalog import Product, SaleRules, Variant
from cartsvc.embedded import Valkey
from cartsvc.errors import CartError
from cartsvc.model import (
    LINE_BITS,
    Cart,
    ClosedStatus,
    LineRequest,
    LineTerms,
    Once,
    Owner,
    PriceChange,
    item_id,
    line_name,
    sku,
    split_sku,
)
from cartsvc.recent import RecentCarts
from cartsvc.sale import Paused, Sale
from cartsvc.scripts import Runner
from tests.model_shop import ModelShop
from tests.shop import LAMP, MUG, FakeRunner, Mutant, Shop

TEE = "507f1f77bcf86cd799439013"
SHARED = {LAMP: (), MUG: ("s", "m"), TEE: ("a", "b")}
OWN_STOCK = {MUG}
"""Products whose variants have counters of their own; those of the others share the product's."""

SKUS = [sku(product, one) for product, variants in SHARED.items() for one in (None, *variants)]
COUNTERS = [name for name in SKUS if "/" not in name or split_sku(name)[0] in OWN_STOCK]
STRANGE = ["507f1f77bcf86cd799439014", f"{MUG}/xl"]

SESSIONS = [Owner("session", "ann"), Owner("session", "bob")]
USERS = [Owner("user", "7"), Owner("user", "8")]
OWNERS = [*SESSIONS, *USERS]
MAX_LINES = 4
HOLD_TTL_S = 600
TTL_S = {LAMP: None, MUG: 60, TEE: 120}

owners = st.sampled_from(OWNERS)
products = st.sampled_from(list(SHARED))
skus = st.sampled_from(SKUS * 8 + STRANGE)
quantities = st.sampled_from([1, 1, 2, 2, 3, 4])
requests = st.lists(st.tuples(skus, quantities), min_size=1, max_size=3)
shoppers = st.integers(0, 11)
policies = st.sampled_from(["check", "hold", "hold", "hold", "untracked", None])
picks = st.integers(0, 7)

NO_TERMS = dict.fromkeys(
    ("max_per_buyer", "max_per_order", "min_per_order", "starts_ms", "ends_ms")
)
terms = st.fixed_dictionaries(
    {},
    optional={
        "max_per_buyer": st.sampled_from([3, 4, 6]),
        "max_per_order": st.sampled_from([3, 5]),
        "min_per_order": st.sampled_from([2, 3]),
        "starts_ms": st.sampled_from([0, 30]),
        "ends_ms": st.sampled_from([60, 600]),
    },
)

descriptions = st.builds(
    LineTerms,
    quantity=st.integers(1, 5),
    saved=st.sampled_from([False, False, True]),
    price_minor=st.sampled_from([None, None, 100, 900, 901, 950]),
    name=st.sampled_from([None, None, "product 1", "own"]),
    image_url=st.sampled_from([None, None, "own.jpg", "front.jpg"]),
)

if_carts = precondition(lambda self: bool(self.model.carts))
KEYED = ("add", "add", "set", "remove")

Fields = dict[bytes, bytes]


class Asked(NamedTuple):
    """A request with an idempotency key."""

    key: str
    owner: Owner
    what: str
    name: str
    units: int


class Carts(RuleBasedStateMachine):
    """Each rule does one thing in the shop and in the model, and compares what was answered."""

    def __init__(self, loop: asyncio.Runner, runner: Runner) -> None:
        super().__init__()
        self.loop = loop
        self.shop = Shop(runner, max_lines=MAX_LINES)
        self.bucket = self.shop.bucket
        self.store = self.shop.store
        self.sale = Sale(runner)
        # Small as they are here: what is remembered must never be told when it is not so.
        self.store.recent = RecentCarts(large=0)
        self.model = ModelShop(self.shop.clock.ms, max_lines=MAX_LINES, hold_ttl_s=HOLD_TTL_S)
        self.cooled: dict[int, Cart] = {}
        self.asked: list[Asked] = []
        self.steps_paused = 0
        self.loop.run(self.shop.redis.flushall())
        self.loop.run(self.shop.open())
        self.found: dict[bytes, Any] = {}
        self.look()

    @initialize(
        stocks=st.lists(st.integers(2, 7), min_size=len(COUNTERS), max_size=len(COUNTERS)),
        policy=st.tuples(policies, policies, policies),
        lines=st.lists(st.tuples(owners, skus, st.integers(1, 2)), min_size=6, max_size=12),
    )
    def open(
        self,
        stocks: list[int],
        policy: tuple[str | None, ...],
        lines: list[tuple[Owner, str, int]],
    ) -> None:
        """A catalogue, and shoppers who have begun."""
        stock = dict(zip(COUNTERS, stocks, strict=True))
        images = ["front.jpg", "back.jpg"]
        for product_id, one in zip(SHARED, policy, strict=True):
            variants = [
                Variant(id_, f"size {id_}", 900 + i, stock.get(sku(product_id, id_)))
                for i, id_ in enumerate(SHARED[product_id], start=1)
            ]
            rules = SaleRules(stock_policy=one, hold_ttl_s=TTL_S[product_id])
            name = f"product {product_id[-1]}"
            self.put(
                Product(product_id, name, 900, images, True, stock[product_id], variants, rules),
                {name: units for name, units in stock.items() if split_sku(name)[0] == product_id},
            )
        for owner, name, units in lines:
            self.add_lines(owner, [(name, units)])

    # What shoppers do.

    @rule(owner=owners, lines=requests)
    def add(self, owner: Owner, lines: list[tuple[str, int]]) -> None:
        self.add_lines(owner, lines)

    @rule(owner=owners, name=skus)
    def add_one(self, owner: Owner, name: str) -> None:
        self.add_lines(owner, [(name, 1)])

    @rule(shopper=shoppers, pick=picks, units=quantities)
    @if_carts
    def add_more(self, shopper: int, pick: int, units: int) -> None:
        """To a line that the cart has, saved ones too, in one request twice."""
        owner = self.owner(shopper)
        name = self.line(owner, pick, by_item=False)
        self.add_lines(owner, [(str(name), 1)] * units)

    def add_lines(self, owner: Owner, lines: list[tuple[str, int]]) -> None:
        wanted = [LineRequest(split_sku(name)[0], n, split_sku(name)[1]) for name, n in lines]
        self.same(self.store.add(self.bucket, owner, wanted), lambda: self.model.add(owner, lines))

    @rule(shopper=shoppers, pick=picks, by_item=st.booleans(), units=st.integers(1, 5))
    @if_carts
    def set_quantity(self, shopper: int, pick: int, by_item: bool, units: int) -> None:
        owner = self.owner(shopper)
        name = self.line(owner, pick, by_item)
        self.same(
            self.store.set_quantity(self.bucket, owner, told(name), units),
            lambda: self.model.set_quantity(owner, name, units),
        )

    @rule(shopper=shoppers, lines=st.lists(st.tuples(picks, st.booleans()), min_size=1, max_size=3))
    @if_carts
    def remove(self, shopper: int, lines: list[tuple[int, bool]]) -> None:
        owner = self.owner(shopper)
        names = [self.line(owner, *line) for line in lines]
        self.same(
            self.store.remove(self.bucket, owner, *(told(name) for name in names)),
            lambda: self.model.remove(owner, names),
        )

    @rule(shopper=shoppers, pick=picks, what=st.sampled_from(KEYED), units=quantities)
    @if_carts
    def ask_with_key(self, shopper: int, pick: int, what: str, units: int) -> None:
        owner = self.owner(shopper)
        name = str(self.line(owner, pick, by_item=False))
        self.asked.append(Asked(str(len(self.asked)), owner, what, name, units))
        self.ask(self.asked[-1])

    @precondition(lambda self: bool(self.asked))
    @rule(pick=picks, more=st.sampled_from([0, 0, 0, 1]))
    def ask_again(self, pick: int, more: int) -> None:
        """With the key of one of the last requests; now and then for something else."""
        before = self.asked[-1 - pick % len(self.asked)]
        self.ask(before._replace(units=before.units + more))

    def ask(self, asked: Asked) -> None:
        key, owner, what, name, units = asked
        once = Once(owner, key, repr(asked).encode().hex())

        async def answered() -> tuple[Cart, bool]:
            match what:
                case "add":
                    line = LineRequest(split_sku(name)[0], units, split_sku(name)[1])
                    cart = await self.store.add(self.bucket, owner, [line], once)
                case "set":
                    cart = await self.store.set_quantity(self.bucket, owner, name, units, once)
                case _:
                    cart = await self.store.remove(self.bucket, owner, name, once=once)
            return cart, once.is_replay

        def predicted() -> Cart:
            match what:
                case "add":
                    return self.model.add(owner, [(name, units)])
                case "set":
                    return self.model.set_quantity(owner, name, units)
                case _:
                    return self.model.remove(owner, [name])

        self.same(answered(), lambda: self.model.once(key, asked, predicted))

    @rule(owner=owners)
    def make(self, owner: Owner) -> None:
        self.same(self.store.make(self.bucket, owner), lambda: self.model.make(owner))

    @rule(shopper=shoppers, name=skus, said=descriptions, authority=st.booleans())
    @if_carts
    def add_as(self, shopper: int, name: str, said: LineTerms, authority: bool) -> None:
        owner = self.owner(shopper)
        cart = self.model.carts.get(owner)
        cart_id = cart.id if cart else 256
        self.same(
            self.store.add_as(self.bucket, owner, name, said, authority=authority, cart_id=cart_id),
            lambda: self.model.describe(owner, name, said, cart_id=cart_id, authority=authority),
        )

    @rule(shopper=shoppers, pick=picks, said=descriptions, authority=st.booleans())
    @if_carts
    def set_as(self, shopper: int, pick: int, said: LineTerms, authority: bool) -> None:
        owner = self.owner(shopper)
        item = self.line(owner, pick, by_item=True)
        if not isinstance(item, int):
            return
        cart_id = item >> LINE_BITS
        self.same(
            self.store.set_as(self.bucket, owner, item, said, authority=authority),
            lambda: self.model.describe(owner, item, said, cart_id=cart_id, authority=authority),
        )

    @rule(shopper=shoppers, by_owner=st.booleans())
    @if_carts
    def clear(self, shopper: int, by_owner: bool) -> None:
        owner = self.owner(shopper)
        self.same(
            self.store.clear(self.bucket, owner, by_owner=by_owner),
            lambda: self.model.clear(owner, by_owner=by_owner),
        )

    @rule(shopper=shoppers, pick=picks, by_item=st.booleans())
    @if_carts
    def save_for_later(self, shopper: int, pick: int, by_item: bool) -> None:
        owner = self.owner(shopper)
        name = self.line(owner, pick, by_item)
        self.same(
            self.store.save_for_later(self.bucket, owner, told(name)),
            lambda: self.model.save_for_later(owner, name),
        )

    @rule(shopper=shoppers, pick=picks, by_item=st.booleans())
    @if_carts
    def take_back(self, shopper: int, pick: int, by_item: bool) -> None:
        owner = self.saver(shopper)
        name = self.line(owner, pick, by_item, saved=True)
        self.same(
            self.store.take_back(self.bucket, owner, told(name)),
            lambda: self.model.take_back(owner, name),
        )

    @rule(shopper=shoppers, pick=st.integers(0, 12))
    def read(self, shopper: int, pick: int) -> None:
        """As the owner, and as somebody who has the cart's id."""
        owner, cart_id = self.owner(shopper), self.cart_id(pick)
        self.same(self.store.find(self.bucket, cart_id), lambda: self.model.find(cart_id))
        self.same(self.store.read(self.bucket, owner), lambda: self.model.read(owner))

    @rule(guest=shoppers, shopper=shoppers)
    @if_carts
    def merge(self, guest: int, shopper: int) -> None:
        owner, user = self.owner(guest, SESSIONS), self.owner(shopper, USERS)
        self.same(self.store.merge(self.bucket, owner, user), lambda: self.model.merge(owner, user))

    @rule(shopper=shoppers, pick=st.integers(-8, 4))
    @if_carts
    def convert(self, shopper: int, pick: int) -> None:
        self.close(self.owner(shopper), "CONVERTED", pick)

    @rule(shopper=shoppers, status=st.sampled_from(["ABANDONED", "REMOVED"]), pick=picks)
    @if_carts
    def give_up(self, shopper: int, status: ClosedStatus, pick: int) -> None:
        self.close(self.owner(shopper), status, pick - 6)

    def close(self, owner: Owner, status: ClosedStatus, pick: int) -> None:
        cart_id = None if pick < 0 else self.cart_id(pick)
        self.same(
            self.store.close(self.bucket, owner, status, cart_id=cart_id),
            lambda: self.model.close(owner, status, cart_id),
        )

    # What time and the service do.

    @rule(seconds=st.sampled_from([1, 30, 60, 120, 600]))
    def wait(self, seconds: int) -> None:
        self.clock(self.model.now + 1000 * seconds)

    @rule(short=st.integers(0, 1), pick=st.integers(0, 3))
    def wait_for(self, short: int, pick: int) -> None:
        self.wait_for_a_deadline(short, pick)

    def wait_for_a_deadline(self, short: int, pick: int) -> None:
        """To the instant at which a hold runs out, or just not yet."""
        deadlines = sorted({one for cart in self.model.carts.values() for one in cart.deadlines()})
        ahead = [one - short for one in deadlines if one - short > self.model.now]
        if ahead:
            self.clock(ahead[pick % len(ahead)])

    @rule(pick=st.integers(-1, 3))
    def release(self, pick: int) -> None:
        """Now, or at the instant at which a hold runs out."""
        if pick >= 0:
            self.wait_for_a_deadline(0, pick)
        self.same(upkeep.release(self.store, self.bucket), self.model.release)

    @precondition(lambda self: bool(self.model.repricing))
    @rule()
    def reprice(self) -> None:
        _, walks = self.loop.run(self.shop.redis.hscan(self.bucket.repricing, count=100))
        self.loop.run(upkeep.reprice(self.store, self.bucket))
        self.model.reprice([name.decode() for name in walks])
        self.look()

    @rule(shopper=shoppers)
    @if_carts
    def cool(self, shopper: int) -> None:
        """A cart that is flushed leaves Redis; what it held is free."""
        owner = self.owner(shopper)
        cart = self.same(self.store.read(self.bucket, owner), lambda: self.model.read(owner))
        if cart is not None:
            self.cooled[cart.id] = cart
            self.model.cool(owner)
            self.loop.run(self.take_out(cart))
            self.look()

    async def take_out(self, cart: Cart) -> None:
        bucket, redis = self.bucket, self.shop.redis
        key = bucket.cart(cart.owner)
        fields = await redis.hgetall(key)
        for line in cart.lines:
            await redis.zrem(bucket.holders, f"{line.sku} {key}")
            if line.held_until_ms is not None:
                deadline, counter = fields[f"h:{line.sku}".encode()].decode().split()
                await redis.zrem(bucket.holds_by_sku, f"{counter} {deadline} {line.sku} {key}")
                await redis.hincrby(bucket.stock, counter, line.quantity)
                await redis.hincrby(bucket.held, counter, -line.quantity)
        await redis.zrem(bucket.holds, key)
        await redis.zrem(bucket.dirty, key)
        await redis.hdel(bucket.carts, cart.id)
        await redis.delete(key)

    @precondition(lambda self: bool(self.cooled))
    @rule(pick=picks)
    def restore(self, pick: int) -> None:
        """A cart that was cooled once; it may be back, closed, or its owner may have another."""
        cart = list(self.cooled.values())[pick % len(self.cooled)]
        self.same(self.store.restore(self.bucket, cart), lambda: self.model.restore(cart))

    # What operators do.

    @rule(reason=st.sampled_from(["a wrong price", ""]), steps=st.integers(2, 12))
    def pause(self, reason: str, steps: int) -> None:
        """For a few steps: what is played while no more comes into carts finds little else."""
        self.steps_paused = steps
        pausing = self.reason_before(self.sale.pause(self.bucket, reason, "eve"))
        self.same(pausing, lambda: self.model.pause(reason))

    @precondition(lambda self: self.model.paused is not None)
    @rule()
    def resume(self) -> None:
        resuming = self.reason_before(self.sale.resume(self.bucket))
        self.same(resuming, self.model.resume)

    @staticmethod
    async def reason_before(change: Coroutine[Any, Any, Paused | None]) -> str | None:
        before = await change
        return None if before is None else before.reason

    @rule(shopper=shoppers, pick=st.integers(-8, 4))
    @if_carts
    def release_held(self, shopper: int, pick: int) -> None:
        """What a cart holds, which its owner is told of when it answers the owner."""
        owner, cart_id = self.owner(shopper), None if pick < 0 else self.cart_id(pick)
        self.same(
            self.store.release_held(self.bucket, owner, cart_id=cart_id),
            lambda: self.model.release_held(owner, cart_id),
        )

    # What the merchant does.

    @rule(counter=st.sampled_from([*COUNTERS, f"{TEE}/a"]), units=st.integers(-4, 3))
    def add_stock(self, counter: str, units: int) -> None:
        self.same(
            self.shop.shelf.add_stock(self.bucket, counter, units),
            lambda: self.model.add_stock(counter, units),
        )

    @rule(counter=st.sampled_from(COUNTERS), units=st.integers(0, 6))
    def set_stock(self, counter: str, units: int) -> None:
        self.same(
            self.shop.shelf.set_stock(self.bucket, counter, units),
            lambda: self.model.set_stock(counter, units),
        )

    @rule(product_id=products, price=st.integers(900, 902))
    def change_price(self, product_id: str, price: int) -> None:
        product = self.model.products[product_id]
        variants = [
            msgspec.structs.replace(variant, price_minor=price + i)
            for i, variant in enumerate(product.variants, start=1)
        ]
        self.change(product_id, price_minor=price, variants=variants)

    @rule(product_id=products, policy=policies, ttl_s=st.sampled_from([None, 60, 120]))
    def change_policy(self, product_id: str, policy: str | None, ttl_s: int | None) -> None:
        self.change_rules(product_id, stock_policy=policy, hold_ttl_s=ttl_s)

    @rule(product_id=products, terms=terms)
    def change_terms(self, product_id: str, terms: dict[str, int]) -> None:
        """What limits the sale; `starts_ms` and `ends_ms` are given as seconds from now."""
        now = self.model.now
        for name in terms.keys() & {"starts_ms", "ends_ms"}:
            terms[name] = now + 1000 * terms[name]
        self.change_rules(product_id, **NO_TERMS | terms)

    @rule(product_id=products, active=st.sampled_from([True, False]), pick=picks)
    def change_range(self, product_id: str, active: bool, pick: int) -> None:
        """A product leaves the range, or a variant does; what had left comes back first."""
        product = self.model.products[product_id]
        ids = [one.id for one in product.variants]
        gone = [id_ for id_ in SHARED[product_id] if id_ not in ids]
        if not product.active:
            self.change(product_id, active=True)
        elif gone:
            back = Variant(gone[0], f"size {gone[0]}", product.price_minor + 1, None)
            self.change(product_id, variants=[*product.variants, back])
        elif active and ids:
            left = [one for one in product.variants if one.id != ids[pick % len(ids)]]
            self.change(product_id, variants=left)
        else:
            self.change(product_id, active=False)

    # After every step.

    @invariant()
    def a_pause_ends(self) -> None:
        self.steps_paused -= 1
        if self.model.paused is not None and self.steps_paused < 0:
            self.resume()

    @invariant()
    def the_books_add_up(self) -> None:
        books = Books(self.shop, self.found)
        books.check()
        self.expect_the_model(books)

    def expect_the_model(self, books: "Books") -> None:
        model = self.model
        carts = {cart.id: cart for cart in (*model.carts.values(), *model.closed.values())}
        assert books.carts == {cart.id: cart.cart() for cart in carts.values()}
        assert {books.ids[key]: since for key, since in books.zset("dirty").items()} == {
            cart.id: cart.dirty_since for cart in carts.values() if cart.dirty_since is not None
        }
        assert books.counts("stock") == model.free
        assert books.counts("received") == model.received
        assert Counter(books.counts("held")) == Counter(model.held)
        assert Counter(books.counts("sold")) == Counter(model.sold)
        assert books.counts("buyers") == {
            f"{product_id} {start} {owner.kind}:{owner.id}": units
            for (product_id, start, owner), units in model.bought.items()
        }
        assert books.hash("repricing").keys() == {name.encode() for name in model.repricing}
        assert Counter(books.price_changes()) == Counter(model.price_changes)
        assert int(self.found[self.bucket.seq.encode()]) == model.last_id
        pause = self.found.get(self.bucket.paused.encode())
        assert (pause and Paused.of(pause.decode()).reason) == model.paused
        self.expect_outcomes()

    def expect_outcomes(self) -> None:
        """Those that the model has, and no others: a pause is none."""
        names: set[str] = set()
        used: Counter[str] = Counter()
        for asked in self.asked:
            if asked.key in self.model.outcomes:
                name, count = self.bucket.once(Once(asked.owner, asked.key, ""))
                names.add(name)
                used[count] += 1
        found = {key.decode(): value for key, value in self.found.items() if is_of_outcomes(key)}
        assert set(found) == names | set(used)
        assert {count: int(found[count]) for count in used} == used

    # How the rules do it.

    def same(self, operation: Coroutine[Any, Any, Any], predicted: Callable[[], Any]) -> Any:
        """What the shop answered, which must be what the model says; None for a refusal."""
        before, version = self.found, self.releases()
        answer, refusal = outcome(lambda: self.loop.run(operation))
        self.look()
        expected, expected_refusal = outcome(predicted)
        assert (answer, refusal) == (expected, expected_refusal)
        if refusal is not None and self.releases() == version and refusal[0] != "CartChanged":
            assert but_outcomes(self.found) == but_outcomes(before)
        return answer

    def look(self) -> None:
        self.found = self.loop.run(everything(self.shop.redis))

    def releases(self) -> int:
        """Changes so far: those that a refused operation makes are releases."""
        return sum(cart.version for cart in self.model.carts.values())

    def owner(self, pick: int, among: Sequence[Owner] = OWNERS) -> Owner:
        """Somebody whose cart has lines, mostly."""
        carts = self.model.carts
        with_lines = [owner for owner in among if owner in carts and carts[owner].items]
        choice = with_lines if with_lines and pick < 11 else among
        return choice[pick % len(choice)]

    def saver(self, pick: int) -> Owner:
        """Somebody who has saved a line for later, if there is anybody."""
        carts = self.model.carts.values()
        return self.owner(pick, [cart.owner for cart in carts if cart.saved()] or OWNERS)

    def line(self, owner: Owner, pick: int, by_item: bool, *, saved: bool = False) -> str | int:
        """A line of the owner's cart, mostly; by its SKU or its item id."""
        cart = self.model.carts.get(owner)
        if cart is None or not cart.items or pick == 7:
            return item_id(self.model.last_id, pick) if by_item else SKUS[pick % len(SKUS)]
        items = (saved and cart.saved()) or cart.in_order()
        item = items[pick % len(items)]
        return item_id(cart.id, item.number) if by_item else item.sku

    def cart_id(self, pick: int) -> int:
        """An id, of the youngest carts first; at the end, one that was not given yet."""
        return max(1, self.model.last_id // 256 + 1 - pick) * 256 + (pick == 4)

    def clock(self, ms: int) -> None:
        self.model.now = self.shop.clock.ms = ms

    def change_rules(self, product_id: str, **changes: Any) -> None:
        rules = msgspec.structs.replace(self.model.products[product_id].rules, **changes)
        self.change(product_id, rules=rules)

    def change(self, product_id: str, **changes: Any) -> None:
        product = msgspec.structs.replace(self.model.products[product_id], **changes)
        # Their stock is not taken again: the counters are there.
        self.put(product, {name: 7 for name in product.skus() if name in COUNTERS})

    def put(self, product: Product, counters: dict[str, int]) -> None:
        self.same(
            self.shop.shelf.put(self.bucket, [product], counters),
            lambda: self.model.put(product, counters),
        )


class Books:
    """A bucket as it was found in Redis, read without the model."""

    def __init__(self, shop: Shop, found: dict[bytes, Any]) -> None:
        self.bucket = shop.bucket
        self.found = found
        self.ids = {
            key.decode(): int(fields[b"id"])
            for key, fields in found.items()
            if key.startswith((b"cart:", b"closed:"))
        }
        self.fields: dict[str, Fields] = {key: found[key.encode()] for key in self.ids}
        self.carts = {
            self.ids[key]: cart_of(self.bucket.owner(key), fields)
            for key, fields in self.fields.items()
        }

    def hash(self, name: str) -> Fields:
        fields: Fields = self.found.get(getattr(self.bucket, name).encode(), {})
        return fields

    def zset(self, name: str) -> dict[str, float]:
        members = self.found.get(getattr(self.bucket, name).encode(), [])
        return {member.decode(): score for member, score in members}

    def counts(self, name: str) -> dict[str, int]:
        return {field.decode(): int(units) for field, units in self.hash(name).items()}

    def price_changes(self) -> Iterator[PriceChange]:
        for _, event in self.found.get(self.bucket.prices.encode(), []):
            cart, line, version, name, old, new, at = event.values()
            yield PriceChange(
                int(cart), int(line), int(version), name.decode(), int(old), int(new), int(at)
            )

    def check(self) -> None:
        free, received = self.counts("stock"), self.counts("received")
        held, sold = Counter(self.counts("held")), Counter(self.counts("sold"))
        assert all(units >= 0 for units in (*free.values(), *held.values(), *sold.values()))
        assert {name: free[name] + held[name] + sold[name] for name in free} == received
        # Every cart is found by its id, and every one that a test's flush did not take is dirty.
        assert self.hash("carts") == {
            str(cart_id).encode(): key.encode() for key, cart_id in self.ids.items()
        }
        assert self.zset("dirty").keys() <= self.ids.keys()
        self.check_lines(held)
        named = [(one.cart_id, one.line_number, one.cart_version) for one in self.price_changes()]
        assert len(named) == len(set(named))

    def check_lines(self, held: Counter[str]) -> None:
        """Sums and indexes are exactly what the carts' own fields say."""
        in_carts: Counter[str] = Counter()
        holds, holds_by_sku, holders = {}, set(), set()
        for key, fields in self.fields.items():
            cart = self.carts[self.ids[key]]
            is_active = key.startswith("cart:")
            assert (cart.status == "ACTIVE") == is_active
            assert int(fields[b"lines"]) == len(cart.lines)
            numbers = [line.number for line in cart.lines]
            assert all(0 < one <= cart.last_line for one in numbers)
            assert len(set(numbers)) == len(numbers)
            expected = {b"id", b"status", b"version", b"created", b"updated", b"lines"}
            expected |= {b"last_line"} | fields.keys() & {b"notices"}
            deadlines = []
            for line in cart.lines:
                assert line.quantity > 0
                kind = "s" if line.saved else "q"
                expected |= {f"{kind}:{line.sku}".encode(), f"l:{line.sku}".encode()}
                expected |= fields.keys() & {f"u:{line.sku}".encode()}
                if line.sold_from is not None:
                    expected.add(f"c:{line.sku}".encode())
                if is_active:
                    holders.add(f"{line.sku} {key}")
                if line.held_until_ms is not None:
                    expected.add(f"h:{line.sku}".encode())
                    deadline, counter = fields[f"h:{line.sku}".encode()].decode().split()
                    deadlines.append(int(deadline))
                    holds_by_sku.add(f"{counter} {deadline} {line.sku} {key}")
                    in_carts[counter] += line.quantity
            if deadlines:
                holds[key] = min(deadlines)
                expected.add(b"due")
                assert int(fields[b"due"]) == min(deadlines)
            assert fields.keys() == expected
        assert in_carts == held
        assert self.zset("holds") == holds
        assert self.zset("holds_by_sku").keys() == holds_by_sku
        assert self.zset("holders").keys() == holders


def is_of_outcomes(key: bytes) -> bool:
    return key.startswith(b"idem")


def but_outcomes(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """A refusal changes nothing else."""
    return {key: value for key, value in found.items() if not is_of_outcomes(key)}


def told(name: str | int) -> str:
    """A line's name as the store takes it."""
    return name if isinstance(name, str) else line_name(name)


def outcome(act: Callable[[], Any]) -> tuple[Any, tuple[Any, ...] | None]:
    """What it returns, or the refusal with its facts and what it tells the owner."""
    try:
        return act(), None
    except CartError as error:
        return None, (type(error).__name__, error.args, error.notices)


TYPES = {kind.pattern.partition(":")[0].encode(): kind.type for kind in keys.TABLE}


async def everything(redis: Any) -> dict[bytes, Any]:
    """All keys and their values, in two round trips."""
    names = sorted(await redis.keys("*"))
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        match TYPES[name.partition(b":")[0]]:
            case "hash":
                pipeline.hgetall(name)
            case "zset":
                pipeline.zrange(name, 0, -1, withscores=True)
            case "stream":
                pipeline.xrange(name)
            case _:
                pipeline.get(name)
    return dict(zip(names, await pipeline.execute(), strict=True))


MORE = os.environ.get("CARTSVC_EXAMPLES")
EXAMPLES = int(MORE or 50)
ROUND = 10
"""Examples that are generated afresh. Hypothesis follows more of them with look-alikes."""

USUAL = settings(
    max_examples=ROUND,
    stateful_step_count=50,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def connected(valkey: Valkey) -> Iterator[tuple[asyncio.Runner, Runner]]:
    """Scripts on the real server, and the loop in which to run them."""
    with asyncio.Runner() as loop:
        runner = Runner(scripts.connect(valkey.url, timeout_s=5), timeout_s=5)
        try:
            yield loop, runner
        finally:
            loop.run(runner.aclose())


def play(
    loop: asyncio.Runner, runner: Runner, how: settings = USUAL, examples: int = EXAMPLES
) -> None:
    """The same games every time, unless there are to be more."""

    class Here(Carts):
        def __init__(self) -> None:
            super().__init__(loop, runner)

    first = secrets.randbits(32) if MORE else 0
    for number in range(first, first + examples // ROUND):
        run_state_machine_as_test(seed(number)(Here), settings=how)


def test_valkey_has_what_the_model_says(valkey: Valkey) -> None:
    with connected(valkey) as (loop, runner):
        play(loop, runner)


@pytest.mark.slow
def test_fakeredis_has_what_the_model_says() -> None:
    with asyncio.Runner() as loop:
        redis = fakeredis.FakeAsyncRedis()
        play(loop, FakeRunner(redis, timeout_s=5), examples=EXAMPLES if MORE else EXAMPLES // 2)
        loop.run(redis.aclose())


# What each mutant leaves out, and the file, the guard and what stands there instead.
GUARDS = {
    "a release looks at the deadline again": (
        "hold_release.lua",
        "held_lines(cart, fields, now, ",
        "held_lines(cart, fields, math.huge, ",
    ),
    "a merge keeps to the cap on lines": (
        "cart_merge.lua",
        "or not line.facts and no_place(cart, new_lines + 1)\n",
        "\n",
    ),
    "a merge gives back what did not fit": ("cart_merge.lua", "  hold(guest, theirs, 0)\n", ""),
    "what is sold leaves the stock": (
        "cart_close.lua",
        "redis.call('HINCRBY', taken_from, counter, -line.units)",
        "",
    ),
    "a hold that ends is given back": (
        "lib/line.lua",
        "      take(line.counter, -line.units)\n",
        "",
    ),
    "no more comes in while the sale is paused": (
        "lib/terms.lua",
        "return sale_paused() or decide(",
        "return decide(",
    ),
    "what an operator takes from a cart is told": (
        "lib/line.lua",
        "    add_notice(cart, line.sku, line.units, reason)\n",
        "",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS)
def test_finds_that_a_guard_is_missing(valkey: Valkey, guard: str) -> None:
    with connected(valkey) as (loop, runner):
        mutant = Mutant(runner, *GUARDS[guard])
        with pytest.raises(AssertionError):
            play(loop, mutant, settings(USUAL, phases=[Phase.generate]))
