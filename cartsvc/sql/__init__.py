"""The named queries of `ledger.sql` and the numbered migrations."""

import re
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_NAMED = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """Name -> SQL, each with the comment lines that describe it."""
    _, *parts = _NAMED.split((_FOLDER / "ledger.sql").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def migrations() -> list[tuple[int, str, str]]:
    """(version, name, SQL), in the order in which they are applied."""
    found = []
    for path in sorted((_FOLDER / "migrations").glob("*.sql")):
        version, _, name = path.stem.partition("_")
        found.append((int(version), name, path.read_text(encoding="utf-8")))
    return found
