"""The contracts' own examples, as the files beside their modules have them."""

import json
from pathlib import Path
from typing import Any

from cartsvc import contracts

FOLDER = Path(contracts.__file__).parent
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


def of(contract: str) -> dict[str, Any]:
    """All examples of a contract, by "METHOD path"."""
    examples: dict[str, Any] = json.loads((FOLDER / f"{contract}.json").read_text())
    return examples


def request(contract: str, operation: str) -> Any:
    """The example of an operation's request body."""
    return of(contract)[operation]["request"]


def answer(contract: str, operation: str, status: int, name: str | None = None) -> Any:
    """The example of a response body; without a name, the first of its status."""
    named = of(contract)[operation]["answers"][str(status)]
    return next(iter(named.values())) if name is None else named[name]
