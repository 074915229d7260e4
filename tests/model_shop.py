"""The shop by its rules alone: what an operation must make of carts, counters and catalogue.

Written without a look at the scripts' way of doing it: an operation is carried out line by line on
plain dictionaries, and undone as a whole when a line is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from cartsvc.catalog import Product
from cartsvc.errors import (
    REPLIES,
    BelowMinimum,
    BuyerLimit,
    CartChanged,
    CartError,
    CartExists,
    CartFull,
    CartShort,
    InactiveProduct,
    KeyReused,
    NoCart,
    NoCounter,
    NoLine,
    OrderLimit,
    OutOfStock,
    PriceDiffers,
    Refused,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    SoldOut,
    StockHeld,
    UnknownProduct,
    UnknownVariant,
)
from cartsvc.model import (
    CART_ID_STEP,
    LINE_BITS,
    MAX_QUANTITY,
    Cart,
    Line,
    LineTerms,
    Merged,
    Notice,
    Owner,
    PriceChange,
    Shortage,
    StockLevel,
    Unmerged,
    line_name,
    split_sku,
)

Result = TypeVar("Result")
CODES = {kind: code for code, kind in REPLIES.items()}


@dataclass
class Item:
    """A line; `counter` is the one that it holds units of until `deadline`."""

    number: int
    sku: str
    quantity: int
    price: int
    name: str
    variant_name: str | None
    added: int
    saved: bool = False
    deadline: int | None = None
    counter: str | None = None
    changed: int = 0
    fixed: bool = False
    images: tuple[str, ...] = ()
    sold_from: str | None = None

    @property
    def product_id(self) -> str:
        return split_sku(self.sku)[0]

    @property
    def ordered(self) -> int:
        """Units that are part of the order: saved ones are none."""
        return 0 if self.saved else self.quantity

    def line(self) -> Line:
        return Line(
            self.number,
            *split_sku(self.sku),
            self.quantity,
            self.price,
            self.name,
            self.variant_name,
            self.images,
            self.added,
            max(self.added, self.changed),
            self.deadline,
            self.saved,
            self.fixed,
            self.sold_from,
        )


@dataclass
class Basket:
    """A cart; `dirty_since` is its oldest change that is not flushed."""

    id: int
    owner: Owner
    created: int
    updated: int
    status: str = "ACTIVE"
    version: int = 0
    last_line: int = 0
    dirty_since: int | None = None
    items: dict[str, Item] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)

    def copy(self) -> "Basket":
        items = {sku: replace(item) for sku, item in self.items.items()}
        return replace(self, items=items, notices=list(self.notices))

    def cart(self) -> Cart:
        return Cart(
            self.id,
            self.owner,
            self.status,
            self.version,
            self.created,
            self.updated,
            self.last_line,
            [item.line() for item in self.in_order()],
            tuple(self.notices),
        )

    def in_order(self) -> list[Item]:
        return sorted(self.items.values(), key=lambda item: item.number)

    def saved(self) -> list[Item]:
        return [item for item in self.in_order() if item.saved]

    def units_of(self, product_id: str) -> int:
        return sum(item.ordered for item in self.items.values() if item.product_id == product_id)

    def deadlines(self) -> list[int]:
        return [item.deadline for item in self.items.values() if item.deadline is not None]


class Room(NamedTuple):
    """Units that a line may have in all, and the refusal of more."""

    most: int
    refusal: CartError


class Outcome(NamedTuple):
    """What a request with an idempotency key came to: `told` is a cart or a refusal."""

    asked: object
    told: Cart | CartError


class _InTheWay(Exception):
    """These owners' holds have run out, and an operation lacks the units."""

    def __init__(self, owners: list[Owner]) -> None:
        super().__init__(owners)
        self.owners = owners


class ModelShop:
    """One bucket. A line is named by its SKU or by its item id, a number."""

    def __init__(self, now: int, *, max_lines: int, hold_ttl_s: int) -> None:
        self.now = now
        self.max_lines = max_lines
        self.hold_ttl_s = hold_ttl_s
        self.products: dict[str, Product] = {}
        self.free: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.sold: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.bought: dict[tuple[str, int, Owner], int] = {}
        self.carts: dict[Owner, Basket] = {}
        self.closed: dict[int, Basket] = {}
        self.last_id = 0
        self.paused: str | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.repricing: set[str] = set()
        self.price_changes: list[PriceChange] = []

    # What carts do.

    def add(self, owner: Owner, wanted: Sequence[tuple[str, int]]) -> Cart:
        def change() -> Cart:
            basket = self._changed(self.carts.get(owner) or self._new_basket(owner))
            known = set(basket.items)
            more: dict[str, int] = {}
            for sku, units in wanted:
                more[sku] = more.get(sku, 0) + units
            for sku, units in more.items():
                item = basket.items.get(sku)
                self._decide(basket, sku, units + (item.quantity if item else 0))
            for sku in more:
                self._expect_enough(basket, sku)
            if basket.items.keys() - known and len(basket.items) > self.max_lines:
                raise CartFull(self.max_lines)
            return self._tell(basket)

        try:
            return self._attempt([owner], change)
        except OutOfStock as refusal:
            # Told as it is, not as the lines before would have made it.
            basket = self.carts.get(owner) or Basket(0, owner, 0, 0)
            again = self._out_of_stock(basket, refusal)
            again.notices = refusal.notices
            raise again from None

    def _out_of_stock(self, basket: Basket, refusal: OutOfStock) -> OutOfStock:
        room = self._stock_room(basket, refusal.sku)
        told = room.refusal if room else refusal
        assert isinstance(told, OutOfStock)
        policy = self._product(told.sku).rules.stock_policy
        if policy != "hold" or told.free or told.in_cart:
            return told
        counter = self._counter(told.sku)
        holds = [
            item.deadline
            for other in self.carts.values()
            for item in other.items.values()
            if item.counter == counter and item.deadline
        ]
        return SoldOut(told.sku, min(holds, default=0))

    def set_quantity(self, owner: Owner, name: str | int, units: int) -> Cart:
        def change() -> Cart:
            basket, item = self._find(owner, name)
            if units == item.quantity:
                return self._tell(basket)
            self._changed(basket)
            item.changed = self.now
            if item.saved:
                item.quantity = units
            elif units > item.quantity:
                self._decide(basket, item.sku, units)
                self._expect_enough(basket, item.sku)
            else:
                self._fewer(item, units)
                if self._is_known(item.sku):
                    self._expect_enough(basket, item.sku)
                    self._take_price(basket, item)
            return self._tell(basket)

        return self._attempt([owner], change)

    def make(self, owner: Owner) -> Cart:
        def change() -> Cart:
            if owner in self.carts:
                raise CartExists(self.carts[owner].id)
            return self._tell(self._changed(self._new_basket(owner)))

        return self._attempt([owner], change)

    def describe(
        self, owner: Owner, name: str | int, terms: LineTerms, *, cart_id: int, authority: bool
    ) -> Cart:
        """`name` is a SKU, to which units are added, or the item id of a line that has them."""

        def change() -> Cart:
            basket = self.carts.get(owner)
            if basket is None or basket.id != cart_id:
                raise NoCart
            item = basket.items.get(name) if isinstance(name, str) else self._find(owner, name)[1]
            sku = item.sku if item else str(name)
            if item is None:
                self._product(sku)
            due = self._price_due(sku, item)
            if not (authority or self._is_as_known(sku, item, terms, due)):
                raise PriceDiffers(sku, due)
            units = terms.quantity
            if item and isinstance(name, str):
                units += item.quantity
            self._changed(basket)
            if item and authority:
                self._put_facts(basket, item, terms)
            self._have(basket, sku, units, saved=terms.saved)
            if item is None:
                self._put_facts_of_new(basket.items[sku], terms, authority=authority)
                if len(basket.items) > self.max_lines:
                    raise CartFull(self.max_lines)
            # From somebody else's response the owner has not heard anything.
            return basket.cart() if authority else self._tell(basket)

        return self._attempt([owner], change)

    def _price_due(self, sku: str, item: Item | None) -> int:
        """The line's price if nobody with authority names another."""
        return item.price if item and (item.fixed or not self._is_known(sku)) else self._price(sku)

    def _is_as_known(self, sku: str, item: Item | None, terms: LineTerms, due: int) -> bool:
        names, images = set(), set()
        if item:
            names.add(item.name)
            images.add(item.images[:1])
        if self._is_known(sku):
            names.add(self._product(sku).name)
            images.add(tuple(self._product(sku).images[:1]))
        return (
            terms.price_minor in (None, due)
            and (terms.name is None or terms.name in names)
            and (terms.image_url is None or (terms.image_url,) in images)
        )

    def _put_facts(self, basket: Basket, item: Item, terms: LineTerms) -> None:
        self._put_texts(item, terms)
        price = terms.price_minor
        if price is not None:
            item.fixed = not self._is_known(item.sku) or price != self._price(item.sku)
            self._change_price(basket, item, price)

    @staticmethod
    def _put_texts(item: Item, terms: LineTerms) -> None:
        item.name = terms.name or item.name
        if terms.image_url and item.images[:1] != (terms.image_url,):
            item.images = (terms.image_url,)

    def _put_facts_of_new(self, item: Item, terms: LineTerms, *, authority: bool) -> None:
        if authority:
            self._put_texts(item, terms)
            if terms.price_minor is not None:
                item.fixed = terms.price_minor != item.price
                item.price = terms.price_minor

    def _have(self, basket: Basket, sku: str, units: int, *, saved: bool) -> None:
        """The line gets so many units, in the order or saved for later."""
        item = basket.items.get(sku)
        ordered = item.ordered if item else 0
        if saved:
            if item is None and not self._product(sku).active:
                raise InactiveProduct(split_sku(sku)[0])
            item = item or self._new_item(basket, sku)
            self._give_back(item)
            item.quantity, item.saved = units, True
        elif units > ordered:
            self._decide(basket, sku, units)
            self._expect_enough(basket, sku)
        elif item and units < ordered:
            self._fewer(item, units)
            if self._is_known(sku):
                self._expect_enough(basket, sku)
        item = basket.items[sku]
        item.changed = self.now
        if self._is_known(sku):
            self._take_price(basket, item)

    def _fewer(self, item: Item, units: int) -> None:
        if item.counter:
            self._move(item.counter, item.quantity - units)
        item.quantity = units

    def remove(self, owner: Owner, names: Sequence[str | int]) -> Cart:
        def change() -> Cart:
            found = {item.sku: item for _, item in (self._find(owner, name) for name in names)}
            self._without(self.carts[owner], list(found.values()))
            return self._tell(self.carts[owner])

        return self._attempt([owner], change)

    def clear(self, owner: Owner, *, by_owner: bool) -> Cart:
        def change() -> Cart:
            basket = self._basket(owner)
            self._without(basket, list(basket.items.values()))
            return self._tell(basket) if by_owner else basket.cart()

        return self._attempt([owner], change)

    def save_for_later(self, owner: Owner, name: str | int) -> Cart:
        def change() -> Cart:
            basket, item = self._find(owner, name)
            if not item.saved:
                self._changed(basket)
                self._give_back(item)
                item.saved, item.changed = True, self.now
            return self._tell(basket)

        return self._attempt([owner], change)

    def take_back(self, owner: Owner, name: str | int) -> Cart:
        def change() -> Cart:
            basket, item = self._find(owner, name)
            if item.saved:
                self._changed(basket)
                self._decide(basket, item.sku, item.quantity)
                self._expect_enough(basket, item.sku)
            return self._tell(basket)

        return self._attempt([owner], change)

    def read(self, owner: Owner) -> Cart:
        return self._attempt([owner], lambda: self._tell(self._basket(owner)))

    def find(self, cart_id: int) -> Cart:
        for basket in (*self.carts.values(), *self.closed.values()):
            if basket.id == cart_id:
                if basket.status == "ACTIVE":
                    self._release(basket.owner)
                return basket.cart()
        raise NoCart

    def merge(self, guest: Owner, owner: Owner) -> Merged:
        def change() -> Merged:
            source = self.carts.get(guest)
            if source is None:
                raise NoCart
            basket = self._changed(self.carts.get(owner) or self._new_basket(owner))
            report = []
            for theirs in source.in_order():
                asked = theirs.quantity
                moved, reason = self._move_over(theirs, basket)
                if moved < asked:
                    report.append(Unmerged(theirs.sku, asked, moved, reason))
            basket.notices += source.notices
            source.notices = []
            self._close_as("REMOVED", source)
            return Merged(self._tell(basket), report)

        return self._attempt([owner, guest], change)

    def close(self, owner: Owner, status: str, cart_id: int | None) -> Cart:
        def change() -> Cart | None:
            basket = self._basket(owner)
            if cart_id is not None and cart_id != basket.id:
                raise NoCart
            if status == "CONVERTED":
                if basket.notices:
                    return None
                self._decide_sale(basket)
                self._sell(basket)
            for item in basket.items.values():
                self._give_back(item)
            if status == "CONVERTED":
                return self._close_but_saved(basket)
            return self._close_as(status, basket)

        cart = self._attempt([owner], change)
        if cart is None:
            changed = CartChanged()
            changed.notices = self._tell(self.carts[owner]).notices
            raise changed
        return cart

    def once(self, key: str, asked: object, act: Callable[[], Cart]) -> tuple[Cart, bool]:
        """Do what was asked under the key, or tell what came of it; whether it had been done."""
        before = self.outcomes.get(key)
        if before is None:
            try:
                cart = act()
            except Refused as refusal:
                self.outcomes[key] = Outcome(asked, refusal)
                raise
            self.outcomes[key] = Outcome(asked, cart)
            return cart, False
        if before.asked != asked:
            raise KeyReused
        if isinstance(before.told, CartError):
            raise before.told
        return before.told, True

    # What the worker and operators do.

    def pause(self, reason: str) -> str | None:
        """For what reason the sale was paused before."""
        before, self.paused = self.paused, reason
        return before

    def resume(self) -> str | None:
        before, self.paused = self.paused, None
        return before

    def release_held(self, owner: Owner, cart_id: int | None) -> Cart:
        """Whatever their deadlines: those that have run out go with the others."""
        basket = self._basket(owner)
        if cart_id not in (None, basket.id):
            refusal = NoCart()
            refusal.notices = tuple(basket.notices)
            raise refusal
        self._take_away(basket, [item for item in basket.in_order() if item.counter], "released")
        return basket.cart()

    def release(self) -> int:
        return sum(self._release(owner) for owner in list(self.carts))

    def reprice(self, walks: Sequence[str]) -> None:
        """`walks` are all SKUs that are to be repriced; which goes first, nobody promises."""
        for sku in walks:
            for basket in self.carts.values():
                item = basket.items.get(sku)
                if item and self._is_known(sku) and self._price_due(sku, item) != item.price:
                    self._take_price(self._changed(basket), item)
        self.repricing.clear()

    def cool(self, owner: Owner) -> None:
        """The cart is in PostgreSQL alone; what it held is free."""
        for item in self.carts.pop(owner).items.values():
            self._give_back(item)

    def restore(self, cart: Cart) -> Cart:
        if cart.owner in self.carts:
            return self.carts[cart.owner].cart()
        if cart.id in self.closed:
            raise NoCart
        return self._attempt([], lambda: self._put_back(cart))

    def _put_back(self, cart: Cart) -> Cart:
        basket = Basket(cart.id, cart.owner, cart.created_ms, cart.updated_ms)
        basket.version, basket.last_line = cart.version, cart.last_line
        free = dict(self.free)
        for line in cart.lines:
            counter = self._counter(line.sku)
            deadline = line.held_until_ms
            if deadline is not None and deadline > self.now and self._is_known(line.sku):
                due = self._due_on(counter) if free[counter] < line.quantity else []
                if due:
                    raise _InTheWay(due)
            gone = deadline is not None and (
                deadline <= self.now
                or not self._is_known(line.sku)
                or free[counter] < line.quantity
            )
            if gone:
                basket.notices.append(Notice(line.sku, line.quantity, "hold_expired"))
                continue
            item = Item(
                line.number,
                line.sku,
                line.quantity,
                line.price_minor,
                line.name,
                line.variant_name,
                line.added_ms,
                line.saved,
                changed=line.updated_ms,
                fixed=line.fixed_price,
                images=line.images,
            )
            basket.items[line.sku] = item
            if deadline is not None:
                free[counter] -= line.quantity
                self._hold(item, counter, deadline)
        known = [item for item in basket.items.values() if self._is_known(item.sku)]
        if basket.notices or any(item.price != self._price_due(item.sku, item) for item in known):
            self._changed(basket)
        for item in known:
            self._take_price(basket, item)
        self.last_id = max(self.last_id, cart.id)
        self.carts[cart.owner] = basket
        return basket.cart()

    def put(self, product: Product, counters: dict[str, int]) -> int:
        old = self.products.get(product.id)
        prices = {sku: self._price(sku) for sku in old.skus()} if old else {}
        self.products[product.id] = product
        for sku in product.skus():
            has_carts = any(sku in basket.items for basket in self.carts.values())
            if has_carts and prices.get(sku) != self._price(sku):
                self.repricing.add(sku)
        new = counters.keys() - self.free.keys()
        for counter in new:
            self.free[counter] = self.received[counter] = counters[counter]
            self.held[counter] = self.sold[counter] = 0
        return len(new)

    def add_stock(self, counter: str, units: int) -> StockLevel:
        if counter not in self.free:
            raise NoCounter(counter)
        if self.free[counter] + units < 0:
            raise OutOfStock(counter, self.free[counter], 0)
        self.free[counter] += units
        self.received[counter] += units
        return self._level(counter)

    def set_stock(self, counter: str, units: int) -> StockLevel:
        if units < self.held[counter]:
            raise StockHeld(counter, self.held[counter])
        self.received[counter] = units + self.sold[counter]
        self.free[counter] = units - self.held[counter]
        return self._level(counter)

    # An operation as a whole.

    def _attempt(self, owners: Sequence[Owner], change: Callable[[], Result]) -> Result:
        """Carry out or leave all as it was; holds that have run out go before."""
        while True:
            for owner in owners:
                self._release(owner)
            before = dict(vars(self))
            for name, value in before.items():
                setattr(self, name, value.copy() if hasattr(value, "copy") else value)
            self.carts = {owner: basket.copy() for owner, basket in self.carts.items()}
            try:
                return change()
            except _InTheWay as way:
                vars(self).update(before)
                for owner in way.owners:
                    self._release(owner)
            except (Refused, SalePaused) as refusal:
                vars(self).update(before)
                if owners and owners[0] in self.carts:
                    refusal.notices = tuple(self.carts[owners[0]].notices)
                raise

    def _release(self, owner: Owner) -> int:
        basket = self.carts.get(owner)
        if basket is None:
            return 0
        due = [item for item in basket.in_order() if item.deadline and item.deadline <= self.now]
        self._take_away(basket, due, "hold_expired")
        return len(due)

    def _take_away(self, basket: Basket, items: list[Item], reason: str) -> None:
        """Take lines whose owner did not ask for it, and will be told."""
        self._without(basket, items)
        basket.notices += [Notice(item.sku, item.quantity, reason) for item in items]

    def _new_basket(self, owner: Owner) -> Basket:
        self.last_id += CART_ID_STEP
        self.carts[owner] = Basket(self.last_id, owner, self.now, self.now)
        return self.carts[owner]

    def _changed(self, basket: Basket) -> Basket:
        basket.version += 1
        basket.updated = self.now
        if basket.dirty_since is None:
            basket.dirty_since = self.now
        return basket

    @staticmethod
    def _tell(basket: Basket) -> Cart:
        cart = basket.cart()
        basket.notices = []
        return cart

    def _basket(self, owner: Owner) -> Basket:
        if owner not in self.carts:
            raise NoCart
        return self.carts[owner]

    def _find(self, owner: Owner, name: str | int) -> tuple[Basket, Item]:
        basket = self._basket(owner)
        for item in basket.items.values():
            if name in (item.sku, basket.id << LINE_BITS | item.number):
                return basket, item
        raise NoLine(name if isinstance(name, str) else line_name(name))

    def _without(self, basket: Basket, items: list[Item]) -> None:
        if items:
            self._changed(basket)
        for item in items:
            self._give_back(item)
            del basket.items[item.sku]

    def _close_as(self, status: str, basket: Basket) -> Cart:
        self._changed(basket)
        basket.status = status
        basket.dirty_since = self.now
        self.closed[basket.id] = self.carts.pop(basket.owner)
        return self._tell(basket)

    def _close_but_saved(self, basket: Basket) -> Cart:
        """Close as converted; what was saved for later stays, in the owner's next cart."""
        saved = basket.saved()
        for item in saved:
            del basket.items[item.sku]
        closed = self._close_as("CONVERTED", basket)
        if saved:
            rest = self._changed(self._new_basket(basket.owner))
            for item in saved:
                kept = self._moved_item(rest, item)
                kept.quantity, kept.saved = item.quantity, True
        return closed

    # A line.

    def _decide(self, basket: Basket, sku: str, units: int) -> None:
        """Let the line have so many units, which are more than it has, or raise why not."""
        if self.paused is not None:
            raise SalePaused(self.paused)
        product = self._product(sku)
        self._expect_sale(product)
        room = self._room(basket, sku)
        if units > room.most:
            raise self._refusal(room, sku)
        self._grant(basket, sku, units)

    def _grant(self, basket: Basket, sku: str, units: int) -> Item:
        """Give the line its units, under the policy and at the price of today."""
        item = basket.items.get(sku)
        if item is None:
            item = self._new_item(basket, sku)
        else:
            self._take_price(basket, item)
        deadline = item.deadline
        self._give_back(item)
        item.quantity, item.saved, item.changed = units, False, self.now
        rules = self.products[item.product_id].rules
        if rules.stock_policy == "hold":
            ttl_s = rules.hold_ttl_s or self.hold_ttl_s
            self._hold(item, self._counter(sku), deadline or self.now + 1000 * ttl_s)
        return item

    def _new_item(self, basket: Basket, sku: str) -> Item:
        product = self._product(sku)
        basket.last_line += 1
        variant_id = split_sku(sku)[1]
        variant_name = next((one.name for one in product.variants if one.id == variant_id), None)
        item = Item(
            basket.last_line,
            sku,
            0,
            self._price(sku),
            product.name,
            variant_name,
            self.now,
            images=tuple(product.images),
        )
        basket.items[sku] = item
        return item

    def _room(self, basket: Basket, sku: str) -> Room:
        """The tightest of the limits; of equal ones stock, then order, then buyer."""
        item = basket.items.get(sku)
        mine = item.ordered if item else 0
        stock = self._stock_room(basket, sku)
        return min(
            ([stock] if stock else []) + self._rule_rooms(basket, sku),
            key=lambda room: room.most,
            default=Room(MAX_QUANTITY, OutOfStock(sku, MAX_QUANTITY, mine)),
        )

    def _stock_room(self, basket: Basket, sku: str) -> Room | None:
        """What the stock allows; None where it is not tracked."""
        rules = self._product(sku).rules
        if rules.stock_policy == "untracked":
            return None
        item = basket.items.get(sku)
        mine = item.ordered if item else 0
        counter = self._counter(sku)
        free = self.free[counter]
        if item and item.counter == counter:
            free += mine
        others = 0
        if rules.stock_policy != "hold":
            others = sum(
                other.ordered
                for other in basket.items.values()
                if other.sku != sku and not other.counter and self._counter(other.sku) == counter
            )
        return Room(free - others, OutOfStock(sku, free, others + mine))

    def _rule_rooms(self, basket: Basket, sku: str) -> list[Room]:
        product = self._product(sku)
        rules = product.rules
        item = basket.items.get(sku)
        mine = item.ordered if item else 0
        rooms = []
        in_cart = basket.units_of(product.id)
        if rules.max_per_order is not None:
            most = rules.max_per_order
            rooms.append(Room(most - in_cart + mine, OrderLimit(product.id, most, in_cart)))
        if rules.max_per_buyer is not None:
            most = rules.max_per_buyer
            has = in_cart + self.bought.get((product.id, rules.starts_ms or 0, basket.owner), 0)
            rooms.append(Room(most - has + mine, BuyerLimit(product.id, most, has)))
        return rooms

    def _refusal(self, room: Room, sku: str) -> Exception:
        """What more than the room is answered with: with holds that are due, not yet a refusal."""
        due = self._due_on(self._counter(sku))
        return _InTheWay(due) if due and isinstance(room.refusal, OutOfStock) else room.refusal

    def _due_on(self, counter: str) -> list[Owner]:
        return [
            owner
            for owner, basket in self.carts.items()
            for item in basket.items.values()
            if item.counter == counter and item.deadline and item.deadline <= self.now
        ]

    def _move_over(self, theirs: Item, basket: Basket) -> tuple[int, str]:
        """Move a guest's line as far as it fits: (units moved, why not all)."""
        deadline, counter = theirs.deadline, theirs.counter
        self._give_back(theirs)
        mine = basket.items.get(theirs.sku)
        try:
            if not deadline or mine:
                self._product(theirs.sku)
            if mine is None and len(basket.items) >= self.max_lines:
                raise CartFull(self.max_lines)
            if not (theirs.saved or deadline):
                self._expect_sale(self._product(theirs.sku))
        except CartError as refusal:
            return 0, CODES[type(refusal)]
        if theirs.saved:
            if mine and not mine.saved:
                return 0, "ALREADY_IN_CART"
            mine = mine or self._moved_item(basket, theirs)
            mine.saved, mine.changed = True, self.now
            mine.quantity += theirs.quantity
            return theirs.quantity, ""
        if deadline and counter and mine is None:
            # As it is, whatever its stock and its policy are by now.
            rooms = self._rule_rooms(basket, theirs.sku) if self._is_known(theirs.sku) else []
            tightest = min(rooms, key=lambda room: room.most, default=None)
            moved = max(0, min(theirs.quantity, tightest.most if tightest else MAX_QUANTITY))
            if moved:
                mine = self._moved_item(basket, theirs)
                mine.quantity = moved
                self._hold(mine, counter, deadline)
            return moved, CODES[type(tightest.refusal)] if tightest else ""
        return self._join(theirs, basket, deadline)

    def _join(self, theirs: Item, basket: Basket, deadline: int | None) -> tuple[int, str]:
        """Add a guest's units to the owner's, as an add would."""
        mine = basket.items.get(theirs.sku)
        has = mine.quantity if mine else 0
        room = self._room(basket, theirs.sku)
        moved = max(0, min(theirs.quantity, room.most - has))
        if moved < theirs.quantity:
            why = self._refusal(room, theirs.sku)
            if not isinstance(why, CartError):
                raise why
            if not moved:
                return 0, CODES[type(why)]
        own_deadline = mine.deadline if mine else None
        if mine is None:
            self._moved_item(basket, theirs)
        mine = self._grant(basket, theirs.sku, has + moved)
        if deadline and mine.deadline:
            mine.deadline = own_deadline or deadline
        return moved, CODES[type(room.refusal)]

    def _moved_item(self, basket: Basket, theirs: Item) -> Item:
        """A line for a guest's, of no units; a price that is on its way arrives with it."""
        basket.last_line += 1
        item = Item(
            basket.last_line,
            theirs.sku,
            0,
            theirs.price,
            theirs.name,
            theirs.variant_name,
            self.now,
            fixed=theirs.fixed,
            images=theirs.images,
        )
        basket.items[theirs.sku] = item
        if self._is_known(theirs.sku):
            self._take_price(basket, item)
        return item

    def _decide_sale(self, basket: Basket) -> None:
        short = []
        for item in basket.in_order():
            if item.saved:
                continue
            if self._is_known(item.sku):
                self._expect_enough(basket, item.sku)
            if item.counter:
                continue
            self._expect_sale(self._product(item.sku))
            room = self._room(basket, item.sku)
            if item.quantity <= room.most:
                if self.products[item.product_id].rules.stock_policy == "hold":
                    self._hold(item, self._counter(item.sku), self.now)
                continue
            refusal = self._refusal(room, item.sku)
            if not isinstance(refusal, OutOfStock):
                raise refusal
            short.append(Shortage(item.sku, refusal.free, refusal.in_cart))
        if short:
            raise CartShort(short)

    def _sell(self, basket: Basket) -> None:
        for item in basket.items.values():
            if item.saved:
                continue
            rules = self.products[item.product_id].rules
            if item.counter or rules.stock_policy != "untracked":
                counter = item.counter or self._counter(item.sku)
                self._give_back(item)
                self.free[counter] -= item.quantity
                self.sold[counter] += item.quantity
                item.sold_from = counter
            if rules.max_per_buyer is not None:
                buyer = item.product_id, rules.starts_ms or 0, basket.owner
                self.bought[buyer] = self.bought.get(buyer, 0) + item.quantity

    def _hold(self, item: Item, counter: str, deadline: int) -> None:
        self._move(counter, -item.quantity)
        item.counter, item.deadline = counter, deadline

    def _give_back(self, item: Item) -> None:
        if item.counter:
            self._move(item.counter, item.quantity)
        item.counter = item.deadline = None

    def _move(self, counter: str, units: int) -> None:
        """Units from held to free."""
        self.free[counter] += units
        self.held[counter] -= units

    def _take_price(self, basket: Basket, item: Item) -> None:
        if not item.fixed:
            self._change_price(basket, item, self._price(item.sku))

    def _change_price(self, basket: Basket, item: Item, new: int) -> None:
        old = item.price
        if old != new:
            item.price, item.changed = new, self.now
            self.price_changes.append(
                PriceChange(basket.id, item.number, basket.version, item.sku, old, new, self.now)
            )

    # The catalogue.

    def _is_known(self, sku: str) -> bool:
        product = self.products.get(split_sku(sku)[0])
        return product is not None and sku in product.skus()

    def _product(self, sku: str) -> Product:
        product_id, variant_id = split_sku(sku)
        if product_id not in self.products:
            raise UnknownProduct(product_id)
        if variant_id is not None and not self._is_known(sku):
            raise UnknownVariant(product_id, variant_id)
        return self.products[product_id]

    def _counter(self, sku: str) -> str:
        """Whose stock it draws on, also when it has left the catalogue."""
        return sku if sku in self.free else split_sku(sku)[0]

    def _price(self, sku: str) -> int:
        product_id, variant_id = split_sku(sku)
        product = self.products[product_id]
        prices = {variant.id: variant.price_minor for variant in product.variants}
        return product.price_minor if variant_id is None else prices[variant_id]

    def _expect_sale(self, product: Product) -> None:
        rules = product.rules
        if not product.active:
            raise InactiveProduct(product.id)
        if rules.starts_ms is not None and self.now < rules.starts_ms:
            raise SaleNotStarted(product.id, rules.starts_ms, rules.starts_ms - self.now)
        if rules.ends_ms is not None and self.now >= rules.ends_ms:
            raise SaleEnded(product.id, rules.ends_ms)

    def _expect_enough(self, basket: Basket, sku: str) -> None:
        product_id = split_sku(sku)[0]
        least = self.products[product_id].rules.min_per_order
        if least is not None and basket.units_of(product_id) < least:
            raise BelowMinimum(product_id, least)

    def _level(self, counter: str) -> StockLevel:
        return StockLevel(counter, self.free[counter], self.held[counter], self.sold[counter])
