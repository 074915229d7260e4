"""Large carts as this process saw them last.

To read a cart of fifty lines costs some four times what one of a line costs, most of it for putting
the lines together. A shopper looks at a cart more often than changing it: then Redis is only asked
whether it is still the same. And of an add to it, only what that changed is told.
"""

from collections.abc import Mapping

import msgspec
from cachetools import LRUCache

from cartsvc.model import Cart

LARGE = 10
"""Lines from which on a cart is remembered: one of fewer is read as fast."""

_MOST_LINES = 100_000
"""Lines of carts that are remembered, of some 400 bytes each."""

STATE = (b"id", b"version", b"updated", b"due", b"notices")
"""The fields that tell whether a cart is as it was, and what a read has to look at anyway."""


class RecentCarts:
    """Carts by their keys, those that were seen last; of at least `large` lines."""

    def __init__(self, large: int = LARGE) -> None:
        self.large = large
        self._carts: LRUCache[str, Cart] = LRUCache(_MOST_LINES, getsizeof=_lines)

    def get(self, key: str) -> Cart | None:
        cart: Cart | None = self._carts.get(key)
        return cart

    def remember(self, key: str, cart: Cart) -> None:
        """Keep the cart if it is a large one, and was not told what is told once."""
        if len(cart.lines) >= self.large and not cart.notices:
            self._carts[key] = cart


def _lines(cart: Cart) -> int:
    return len(cart.lines)


def known(cart: Cart | None) -> str:
    """How `cart_add` is told which cart the process has."""
    return "-" if cart is None else f"{cart.id} {cart.version} {cart.updated_ms}"


def joined(seen: Cart, changed: Cart) -> Cart:
    """The cart that was seen, with what has changed of it: all but lines is whole in `changed`."""
    lines = {line.number: line for line in (*seen.lines, *changed.lines)}
    return msgspec.structs.replace(changed, lines=list(lines.values()))


def is_same(cart: Cart, state: Mapping[bytes, bytes]) -> bool:
    """Whether fields of the cart's hash say that it has not changed.

    The time beside the version: after a failover a version may come a second time.
    """
    told = (state.get(b"id"), state.get(b"version"), state.get(b"updated"))
    return told == (b"%d" % cart.id, b"%d" % cart.version, b"%d" % cart.updated_ms)
