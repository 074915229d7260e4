"""A tenant by its rules alone, on plain dictionaries: what carts must be, wherever they are.

Products are simple here: of each, one line a cart, and a counter of its own.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cartsvc.model import Owner


class Rules(NamedTuple):
    """A product on sale; `ttl_s` belongs to the policy `hold`."""

    policy: str
    stock: int
    ttl_s: int = 0


@dataclass(frozen=True)
class Item:
    """Units of a line; `until_ms` is when they are held no more, None if they are not."""

    units: int
    saved: bool = False
    until_ms: int | None = None


Items = dict[str, Item]


class Refused(Exception):
    """The name of the error that answers."""


@dataclass
class PlainShop:
    """`rows` are the carts as PostgreSQL has them; `untold` owners have not heard of a loss.

    While it `is_paused`, no more comes into carts.
    """

    rules: Mapping[str, Rules]
    max_lines: int
    now_ms: int
    prices: dict[str, int]
    carts: dict[Owner, Items] = field(default_factory=dict)
    ids: dict[Owner, int] = field(default_factory=dict)
    rows: dict[int, tuple[Owner, Items]] = field(default_factory=dict)
    sold: Counter[str] = field(default_factory=Counter)
    untold: set[Owner] = field(default_factory=set)
    is_paused: bool = False

    def free(self, sku: str) -> int:
        held = sum(
            cart[sku].units
            for cart in self.carts.values()
            if sku in cart and cart[sku].until_ms is not None
        )
        return self.rules[sku].stock - self.sold[sku] - held

    # What shoppers do.

    def add(self, owner: Owner, sku: str, units: int) -> Items:
        cart = self.carts.get(owner, {})
        item = cart.get(sku)
        granted = self._more(cart, sku, units + (item.units if item else 0))
        if item is None and len(cart) >= self.max_lines:
            raise Refused("CartFull")
        self.carts.setdefault(owner, {})[sku] = granted
        return self._told(owner)

    def set(self, owner: Owner, sku: str, units: int) -> Items:
        cart, item = self._line(owner, sku)
        if item.saved or units < item.units:
            cart[sku] = replace(item, units=units)
        elif units > item.units:
            cart[sku] = self._more(cart, sku, units)
        return self._told(owner)

    def remove(self, owner: Owner, sku: str) -> Items:
        cart, _ = self._line(owner, sku)
        del cart[sku]
        return self._told(owner)

    def save(self, owner: Owner, sku: str) -> Items:
        cart, item = self._line(owner, sku)
        cart[sku] = Item(item.units, saved=True)
        return self._told(owner)

    def take_back(self, owner: Owner, sku: str) -> Items:
        cart, item = self._line(owner, sku)
        if item.saved:
            cart[sku] = self._more(cart, sku, item.units)
        return self._told(owner)

    def read(self, owner: Owner) -> Items:
        self._cart(owner)
        return self._told(owner)

    def merge(self, guest: Owner, owner: Owner) -> Items:
        theirs = dict(self._cart(guest))
        self._close(guest)
        cart = self._begun(owner)
        for sku, item in theirs.items():
            self._move_over(cart, sku, item)
        return self._told(owner)

    def _move_over(self, cart: Items, sku: str, item: Item) -> None:
        """As much of a guest's line as there is a place and stock for."""
        mine = cart.get(sku)
        if mine is None and len(cart) >= self.max_lines:
            return
        if item.saved:
            if mine is None or mine.saved:
                cart[sku] = Item(item.units + (mine.units if mine else 0), saved=True)
        elif mine is None and item.until_ms is not None:
            cart[sku] = item
        else:
            has = mine.units if mine else 0
            moved = min(item.units, self._most(cart, sku) - has)
            if moved > 0:
                granted = self._granted(cart, sku, has + moved)
                own = mine.until_ms if mine else None
                if item.until_ms is not None:
                    granted = replace(granted, until_ms=own or item.until_ms)
                cart[sku] = granted

    def convert(self, owner: Owner) -> Items:
        """What was ordered, and is held no more."""
        cart = self._cart(owner)
        if owner in self.untold:
            self.untold.remove(owner)
            raise Refused("CartChanged")
        ordered = {sku: item for sku, item in cart.items() if not item.saved}
        if any(item.units > self._most(cart, sku) for sku, item in ordered.items()):
            raise Refused("CartShort")
        saved = {sku: item for sku, item in cart.items() if item.saved}
        self._close_at_once(owner)
        for sku, item in ordered.items():
            if self.rules[sku].policy != "untracked":
                self.sold[sku] += item.units
        if saved:
            self._begun(owner).update(saved)
        return _not_held(ordered)

    def abandon(self, owner: Owner) -> Items:
        """What was in it, and is held no more."""
        cart = self._cart(owner)
        self._close_at_once(owner)
        return _not_held(cart)

    # What operators do.

    def release(self, owner: Owner) -> Items:
        """What is left; the owner does not know yet."""
        cart = self._cart(owner)
        held = [sku for sku, item in cart.items() if item.until_ms is not None]
        self._take_away(owner, held)
        return dict(cart)

    # What time and the service do.

    def expire(self, seconds: int) -> None:
        self.now_ms += 1000 * seconds
        for owner, cart in self.carts.items():
            self._take_away(owner, _due(cart, self.now_ms))

    def flush(self) -> None:
        """What PostgreSQL has from now on."""
        self.rows = {self.ids[owner]: (owner, dict(cart)) for owner, cart in self.carts.items()}

    def lose(self) -> None:
        """Redis forgets everything, a pause too, and gets what PostgreSQL has."""
        self.is_paused = False
        self.carts, self.ids, self.untold = {}, {}, set()
        for cart_id, (owner, items) in sorted(self.rows.items()):
            self.ids[owner] = cart_id
            cart = self._begun(owner)
            for sku, item in items.items():
                if item.until_ms is not None and (
                    item.until_ms <= self.now_ms or self.free(sku) < item.units
                ):
                    self.untold.add(owner)
                else:
                    cart[sku] = item

    # How the rules do it.

    def _cart(self, owner: Owner) -> Items:
        if owner not in self.carts:
            raise Refused("NoCart")
        return self.carts[owner]

    def _line(self, owner: Owner, sku: str) -> tuple[Items, Item]:
        cart = self._cart(owner)
        if sku not in cart:
            raise Refused("NoLine")
        return cart, cart[sku]

    def _begun(self, owner: Owner) -> Items:
        return self.carts.setdefault(owner, {})

    def _told(self, owner: Owner) -> Items:
        self.untold.discard(owner)
        return dict(self.carts[owner])

    def _most(self, cart: Items, sku: str) -> int:
        """Units that the line may have."""
        if self.rules[sku].policy == "untracked":
            return 10**9
        item = cart.get(sku)
        return self.free(sku) + (item.units if item and item.until_ms is not None else 0)

    def _more(self, cart: Items, sku: str, units: int) -> Item:
        if self.is_paused:
            raise Refused("SalePaused")
        return self._granted(cart, sku, units)

    def _granted(self, cart: Items, sku: str, units: int) -> Item:
        if units > self._most(cart, sku):
            raise Refused("OutOfStock")
        if self.rules[sku].policy != "hold":
            return Item(units)
        item = cart.get(sku)
        until_ms = item.until_ms if item else None
        return Item(units, until_ms=until_ms or self.now_ms + 1000 * self.rules[sku].ttl_s)

    def _take_away(self, owner: Owner, names: list[str]) -> None:
        for sku in names:
            del self.carts[owner][sku]
            self.untold.add(owner)

    def _close(self, owner: Owner) -> None:
        del self.carts[owner]
        self.ids.pop(owner, None)
        self.untold.discard(owner)

    def _close_at_once(self, owner: Owner) -> None:
        """PostgreSQL hears of it before the owner."""
        self.rows.pop(self.ids[owner], None)
        self._close(owner)


def _not_held(items: Items) -> Items:
    return {sku: replace(item, until_ms=None) for sku, item in items.items()}


def _due(cart: Items, now_ms: int) -> list[str]:
    return [
        sku for sku, item in cart.items() if item.until_ms is not None and item.until_ms <= now_ms
    ]


def outcome(act: Callable[[], Items]) -> Items | str:
    """What it gives, or the name of the refusal."""
    try:
        return act()
    except Refused as refusal:
        return str(refusal)
