"""What a shopper has put into a cart, and so has to see there."""

import re
from collections.abc import Mapping

_LEFT = re.compile(r"sku=([^;]+); quantity=(\d+)")


class Basket:
    """`lines` are units by SKU."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def put(self, sku: str, units: int) -> None:
        self.set(sku, self.lines.get(sku, 0) + units)

    def take(self, sku: str, units: int) -> None:
        """Units that are not there; that may be said before they are put in."""
        self.put(sku, -units)

    def set(self, sku: str, units: int) -> None:
        self.lines[sku] = units
        if not units:
            del self.lines[sku]

    def join(self, other: "Basket") -> None:
        """All that another has, as at a login."""
        for sku, units in other.lines.items():
            self.put(sku, units)

    def told(self, notice: str) -> None:
        """What has left the cart by itself, in the words of X-Cart-Notice."""
        for sku, units in _LEFT.findall(notice):
            self.take(sku, int(units))

    def problem(self, shown: Mapping[str, int], *, is_whole: bool = True) -> str:
        """What is wrong with an answer that shows these lines; '' if nothing.

        Not whole is one that shows only what it has changed.
        """
        for sku in sorted(shown.keys() | (self.lines.keys() if is_whole else ())):
            shows, has = shown.get(sku, 0), self.lines.get(sku, 0)
            if shows != has:
                return f"wrong cart: it shows {shows} of {sku}, and not {has}"
        return ""
