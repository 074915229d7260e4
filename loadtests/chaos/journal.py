"""What shoppers asked for and were told, and what may be true of their carts by that.

A shopper does one thing after the other, so each answer leaves few carts that are possible: one,
unless an answer never came (then the request was carried out or not), or a hold has run out. A cart
that is not among them is an update that was lost, or applied twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cartsvc.model import Owner
from loadtests.chaos.pauses import Asked, Pause
from loadtests.chaos.waits import Waits

Outcome = Literal["ok", "failed", "unknown"]

Lines = Mapping[str, int]
"""SKU -> units."""


class World(NamedTuple):
    """A state that a shopper's carts may be in: lines of the active one, and orders; sorted."""

    lines: tuple[tuple[str, int], ...] = ()
    orders: tuple[tuple[tuple[str, int], ...], ...] = ()

    def with_lines(self, lines: Lines) -> "World":
        return self._replace(lines=pairs(lines))

    def ordered(self) -> "World":
        return World((), (*self.orders, self.lines))


Change = Callable[[World], World]


def pairs(lines: Lines) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((sku, units) for sku, units in lines.items() if units))


@dataclass(slots=True)
class Shopper:
    """`worlds` are the states that are possible; `expiring` are SKUs whose line may be gone."""

    owner: Owner
    worlds: set[World] = field(default_factory=lambda: {World()})
    expiring: set[str] = field(default_factory=set)

    def possible(self) -> set[World]:
        """With the lines that may have left by themselves, and without."""
        found = set(self.worlds)
        for sku in self.expiring:
            found |= {world.with_lines(_without(world.lines, sku)) for world in found}
        return found


def _shows(world: World, shown: Lines, *, is_whole: bool) -> bool:
    return world.lines == pairs(shown) if is_whole else set(pairs(shown)) <= set(world.lines)


def _without(lines: Iterable[tuple[str, int]], sku: str) -> dict[str, int]:
    return {name: units for name, units in lines if name != sku}


class Journal:
    """All shoppers of a run, how often they were told what, and what can't be.

    `asked` is what they asked for and when, and `pauses` when operators paused the sale.
    """

    def __init__(self) -> None:
        self.shoppers: dict[Owner, Shopper] = {}
        self.outcomes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.waits = Waits()
        self.asked: list[Asked] = []
        self.pauses: list[Pause] = []
        self.wrong: list[str] = []

    def shopper(self, owner: Owner) -> Shopper:
        return self.shoppers.setdefault(owner, Shopper(owner))

    def note(
        self,
        shopper: Shopper,
        outcome: Outcome,
        change: Change,
        shown: Lines | None = None,
        *,
        is_whole: bool = True,
    ) -> None:
        """What a request for a change came to.

        `shown` are the lines of the answer, where it has any: the cart's, or only some of them.
        """
        self.outcomes[outcome] += 1
        before = shopper.possible()
        after = {change(world) for world in before}
        if outcome == "failed":
            return
        if outcome == "unknown":
            shopper.worlds = before | after
            return
        if shown is not None:
            seen = {world for world in after if _shows(world, shown, is_whole=is_whole)}
            if not seen:
                told = f"{shopper.owner} was shown {dict(shown)}"
                self.wrong.append(f"{told}, possible: {[dict(world.lines) for world in after]}")
            after = seen or after
        shopper.worlds = after

    def see(self, shopper: Shopper, shown: Lines) -> None:
        """A cart as it was shown, unchanged."""
        seen = {world for world in shopper.possible() if _shows(world, shown, is_whole=True)}
        if not seen:
            self.wrong.append(f"{shopper.owner} was shown {dict(shown)}, which can't be")
        shopper.worlds = seen or shopper.worlds

    def check(self, owner: Owner, lines: Lines, orders: Iterable[Lines]) -> None:
        """Compare with what the stores have of an owner in the end."""
        found = World(pairs(lines), tuple(sorted(pairs(order) for order in orders)))
        known = {
            world._replace(orders=tuple(sorted(world.orders)))
            for world in self.shopper(owner).possible()
        }
        if found not in known:
            self.wrong.append(f"{owner} has {found}, possible: {sorted(known)}")
