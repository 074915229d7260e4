"""The named queries of `ledger.sql`, what they are given, and the numbered migrations."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_NAMED = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """Name -> SQL, each with the comment lines that describe it."""
    _, *parts = _NAMED.split((_FOLDER / "ledger.sql").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def query(name: str) -> str:
    return queries()[name]


def columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    """Rows turned into one sequence a column, also when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * width


def migrations() -> list[tuple[int, str, str]]:
    """(version, name, SQL), in the order in which they are applied."""
    found = []
    for path in sorted((_FOLDER / "migrations").glob("*.sql")):
        version, _, name = path.stem.partition("_")
        found.append((int(version), name, path.read_text(encoding="utf-8")))
    return found
