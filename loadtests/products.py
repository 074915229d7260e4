"""What shoppers ask for: the demo's products, or those that CARTSVC_LOAD_PRODUCTS names."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cartsvc import demo, rows
from cartsvc.model import object_id

_DEMO_HOT = ("507f1f77bcf86cd799439020", "210")
"""The sneaker, which is held, and five kettles for contract 003, which can't name a sneaker."""


class Choice(NamedTuple):
    """What everybody wants, and the rest."""

    hot: str
    others: Sequence[str]


_CAN_NAME: dict[str, Callable[[str], bool]] = {
    "000": lambda sku: object_id(sku) is not None,
    "001": lambda sku: True,  # noqa: ARG005
    "002": lambda sku: "/" not in sku,
    "003": lambda sku: sku.partition("/")[0].isdecimal(),
    "004": lambda sku: "/" not in sku,
}


def choice(contract: str, skus: Sequence[str]) -> Choice | None:
    """Of `skus`, hot ones first, what the contract can name; None if that is nothing."""
    named = [sku for sku in skus if _CAN_NAME[contract](sku)]
    return Choice(named[0], named[1:] or named) if named else None


def hot(skus: Sequence[str]) -> list[str]:
    """What everybody wants, of all contracts."""
    choices = (choice(contract, skus) for contract in _CAN_NAME)
    return list(dict.fromkeys(one.hot for one in choices if one))


def of_demo() -> tuple[str, ...]:
    """The demo's SKUs that can be bought."""
    found = []
    with demo.FILE.open("rb") as file:
        for _, row, _ in rows.read(file):
            if row is not None and row.active:
                found += [f"{row.id}/{one.id}" for one in row.variants or ()] or [str(row.id)]
    return tuple(sorted(found, key=lambda sku: sku not in _DEMO_HOT))
