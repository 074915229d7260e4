"""Make things go wrong, one after the other, and print what held: `make chaos`."""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cartsvc.dev import DevError
from cartsvc.embedded import EmbeddedError
from loadtests.chaos import faults
from loadtests.chaos.broken import GUARDS, Guard, edited
from loadtests.chaos.checker import RULES
from loadtests.chaos.faults.fault import Result

_GUARDS_SCALE = 0.2
"""How much of a fault is enough to show that a guard is missing."""

_TRIES = 3

RESULTS = Path(__file__).parent.parent / "results" / "chaos.json"
LOG = RESULTS.with_suffix(".log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=scale_of, default=1.0, help="how much of each; 1: all")
    parser.add_argument("--only", default="", help=", ".join(faults.ALL))
    parser.add_argument("--no-save", action="store_true", help="print only")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(faults.ALL)
    if unknown := set(names) - faults.ALL.keys():
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(faults.ALL)}")
    _log_apart()
    # As Ctrl-C does, it has the servers stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        sys.exit(_run(names, chosen.scale, is_saved=not chosen.no_save and not chosen.only))
    except KeyboardInterrupt:
        sys.exit("broken off")
    except (EmbeddedError, DevError) as error:
        sys.exit(str(error))


def scale_of(text: str) -> float:
    """How much of each fault, as it was asked for.

    Raises:
        ArgumentTypeError: it is no such number.
    """
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, and at most 1")


def _run(names: Sequence[str], scale: float, *, is_saved: bool) -> bool:
    """Whether anything is not as promised."""
    done = []
    # Looking through all that shoppers noted takes as long as many of their requests.
    gc.disable()
    for name in names:
        gc.collect()
        begun = time.monotonic()
        result = asyncio.run(faults.ALL[name](scale))
        done.append((result, time.monotonic() - begun))
        _tell(result)
    _print(done)
    without = _without_guards() if len(names) == len(faults.ALL) else {}
    if is_saved:
        RESULTS.write_text(json.dumps(_saved(done, scale, without), indent=2) + "\n")
    is_noticed = all(set(GUARDS[name].rules) <= set(found) for name, found in without.items())
    return not (is_noticed and all(result.holds for result, _ in done))


def _log_apart() -> None:
    """Have what the services log in a file of its own."""
    sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    with LOG.open("wb") as log:
        os.dup2(log.fileno(), 2)


def _without_guards() -> dict[str, list[str]]:
    """What is found broken without each of the guards."""
    without = {}
    for name, guard in GUARDS.items():
        without[name] = _found_without(guard)
        print(f"without a guard ({name}): {', '.join(without[name]) or 'nothing'} found broken")
    return without


def _found_without(guard: Guard) -> list[str]:
    """Rules that were found broken; some take a race, so it is tried more than once."""
    found: set[str] = set()
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory(prefix="cartsvc-broken-") as folder:
            tree = edited(guard.edits, Path(folder))
            result = asyncio.run(faults.ALL[guard.fault](_GUARDS_SCALE, tree))
        found |= result.verdict.broken.keys()
        if found >= set(guard.rules):
            break
    return sorted(found)


def _tell(result: Result) -> None:
    for text in (*result.wrong, result.verdict.told()):
        if text:
            print(f"{result.name}: {text}", file=sys.stderr)


def _print(done: list[tuple[Result, float]]) -> None:
    table = Table("fault", "ok", "failed", "unknown", *RULES, "s", "")
    for result, seconds in done:
        counts = [f"{result.journal.outcomes[one]:,}" for one in ("ok", "failed", "unknown")]
        notes = "; ".join(result.notes)
        table.add_row(result.name, *counts, *_marks(result), f"{seconds:.0f}", notes)
    Console(width=160).print(table)


def _marks(result: Result) -> list[str]:
    """Whether each rule holds; in brackets where it is not asked for."""
    found = {rule: "broken" if rule in result.verdict.broken else "holds" for rule in RULES}
    return [found[rule] if rule in result.rules else f"({found[rule]})" for rule in RULES]


def _saved(
    done: list[tuple[Result, float]], scale: float, without: dict[str, list[str]]
) -> dict[str, object]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {python}",
        "scale": scale,
        "faults": [
            {
                "fault": result.name,
                "seconds": round(seconds, 1),
                "outcomes": dict(result.journal.outcomes),
                "rules": dict(zip(RULES, _marks(result), strict=True)),
                "holds": result.holds,
                "notes": result.notes,
            }
            for result, seconds in done
        ],
        "broken without": without,
    }


if __name__ == "__main__":
    main()
