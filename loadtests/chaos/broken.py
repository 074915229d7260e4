"""The service as it should not be: it kills itself at some point, or lacks one of its guards.

A copy of the package is changed and run in place of it.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cartsvc import scripts

Edit = tuple[str, str, str]
"""A file, by its path from the project's folder, what stands there once, and what is to."""


def _crash(indent: int, chance: float) -> str:
    """A line that ends the process as SIGKILL does, sometimes."""
    os, random = '__import__("os")', '__import__("random")'
    code = f"{random}.random() < {chance} and {os}.kill({os}.getpid(), 9)"
    return f"{' ' * indent}{code}\n"


class Guard(NamedTuple):
    """Edits that take a guard out. `fault` is the one under which that shows, by the `rules`."""

    edits: tuple[Edit, ...]
    fault: str
    rules: tuple[str, ...]


_AFTER = """\
        except ReplyError as error:
            reply = await self._after(error, name, call)
"""
_AGAIN = """\
        except OutcomeUnknown:
            reply = await self.link.send(pack(("EVALSHA", script.sha, *call)))
"""

_ADD = """\
        key = bucket.cart(owner)
        units: """
_LOOK = """\
        from cartsvc.errors import OutOfStock
        for name, wanted in quantities.items():
            free = int(await self.runner.redis.hget(bucket.stock, name) or 0)
            if free < wanted:
                raise OutOfStock(name, free, 0)
"""

_VERSION = "(carts.version < excluded.version OR excluded.status <> 'ACTIVE')"

_WRITE = "            done = await _write(transaction, bucket, batch)\n"
_CLEAR = "            await backlog.flushed(bucket, batch.dirty)\n"

_CHANGES = "            if batch.changes:\n"
_TRIM = "                await backlog.trim_prices(bucket, batch.last)\n"

_OUR_TIME = "return int((self._offset_s + self.monotonic()) * 1000)"
_OWN_TIME = "return wall_ms()"

_PAUSED = "sale_paused() or decide("

STORE, FLUSH = "cartsvc/store.py", "cartsvc/flush.py"

GUARDS = {
    "blind retry": Guard(
        (("cartsvc/scripts.py", _AFTER, _AFTER + _AGAIN),), "lost-replies", ("C3",)
    ),
    "stock check outside the script": Guard(
        (
            ("lua/lib/terms.lua", "if units - line.units > most then", "if false then"),
            (STORE, _ADD, _LOOK + _ADD),
        ),
        "sell-out",
        ("C1",),
    ),
    "no version check": Guard(
        (("cartsvc/sql/ledger.sql", _VERSION, "true"),), "two-workers", ("C4",)
    ),
    "a clock of its own": Guard((("cartsvc/clock.py", _OUR_TIME, _OWN_TIME),), "clocks", ("C3",)),
    "no look at the pause": Guard((("lua/lib/terms.lua", _PAUSED, "decide("),), "pauses", ("C6",)),
    "clear before commit": Guard(
        ((FLUSH, _WRITE, _CLEAR + _crash(12, 0.3) + _WRITE),), "points", ("C4",)
    ),
    "trim early": Guard(
        ((FLUSH, _CHANGES, _CHANGES + _TRIM + _crash(16, 0.3)),), "points", ("C4",)
    ),
}
"""Without these, one of the rules must be found broken."""

_COMMITTED = "        # Cleared from here on: before the commit,"
_BOTH = '        ids = [row["id"] for row in written]\n'
_PRICED = "    if batch.last != START:\n        await backlog.trim_prices"
_REPLIED = "        return answer(reply)\n\n    async def hash"
_CLOSED = "        await flush.closed(self.backlog"

POINTS: dict[str, Edit] = {
    "before the transaction": (FLUSH, _WRITE, _crash(12, 0.2) + _WRITE),
    "mid-batch": ("cartsvc/flush_rows.py", _BOTH, _BOTH + _crash(8, 0.2)),
    "between commit and clearing": (FLUSH, _COMMITTED, _crash(8, 0.2) + _COMMITTED),
    "between commit and trimming": (FLUSH, _PRICED, _crash(4, 0.5) + _PRICED),
    "between script and answer": ("cartsvc/scripts.py", _REPLIED, _crash(8, 0.01) + _REPLIED),
    "between script and row of a conversion": (
        "cartsvc/archive.py",
        _CLOSED,
        _crash(8, 0.2) + _CLOSED,
    ),
}
"""Where a process is killed, again and again, by itself."""


def edited(edits: Iterable[Edit], folder: Path) -> Path:
    """A copy of the package, in `folder`, with these edits."""
    project = scripts.FOLDER.parent
    for part in ("cartsvc", "lua"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(project / part, folder / part, ignore=ignored)
    for path, old, new in edits:
        file = folder / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new), encoding="utf-8")
    return folder
