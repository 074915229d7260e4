"""`make bench`: cartsvc beside its rivals, its cost by itself, its flush, and the marks."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cartsvc.embedded import EmbeddedError
from loadtests.bench import cpu, flushing, marks, report, rounds, scaling, site, wrk
from loadtests.bench.contenders import ALL, Contender
from loadtests.bench.sample import Effort

PARTS = ("rounds", "scaling", "flushing")

_QUICK = Effort(rounds=2, seconds=1)
_QUICK_CARTS = 2_000

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command()
def bench(
    rounds_: Annotated[int, typer.Option("--rounds", min=1, help="Samples of each.")] = 15,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds of a sample.")] = 1,
    connections: Annotated[int, typer.Option(min=1, help="Connections of wrk.")] = 64,
    only: Annotated[str, typer.Option(help="Contenders, by commas; all if not given.")] = "",
    parts: Annotated[str, typer.Option(help="What to measure, by commas.")] = ",".join(PARTS),
    quick: Annotated[bool, typer.Option("--quick", help="Only see that all of it runs.")] = False,
) -> None:
    """Measure, print the tables and the marks, and write them to loadtests/results/."""
    effort = _QUICK if quick else Effort(rounds_, seconds, connections)
    chosen, wanted = _chosen(only), _listed(parts, PARTS, "part")
    for reason in (cpu.missing(), wrk.missing()):
        if reason:
            _end(f"the benchmark needs {reason}")
    began = time.monotonic()

    def said(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    try:
        with _interruptible():
            results = _measured(chosen, wanted, effort, said, quick=quick)
    except KeyboardInterrupt:
        _end("stopped", 130)
    except (EmbeddedError, wrk.WrkError) as error:
        _end(str(error))
    # Half a run must not take the place of a whole one.
    name = "partial" if quick or only or wanted != list(PARTS) else "bench"
    files = report.write(results, name)
    print(f"\n{report.markdown(results)}")
    print(f"written: {', '.join(os.path.relpath(file) for file in files)}")


def _measured(
    chosen: list[Contender], wanted: list[str], effort: Effort, said: Any, *, quick: bool
) -> dict[str, Any]:
    """The results, as bench.json has them."""
    results: dict[str, Any] = {
        "machine": report.machine(),
        "versions": report.versions(),
        "effort": asdict(effort),
        "missing": {},
    }
    own = next((one for one in chosen if one.name == "cartsvc"), None)
    with site.opened() as place:
        if "rounds" in wanted:
            results |= rounds.measured(place, chosen, effort, said)
        if "scaling" in wanted and own:
            results["scaling"] = scaling.measured(place, own, effort, said, quick=quick)
        if "flushing" in wanted and own:
            carts = _QUICK_CARTS if quick else flushing.CARTS
            results["flushing"] = flushing.measured(place, own, effort, said, carts=carts)
    results["marks"] = marks.judged(results)
    return results


def _chosen(only: str) -> list[Contender]:
    names = _listed(only, [one.name for one in ALL], "contender")
    return [one for one in ALL if one.name in names]


def _listed(text: str, known: list[str] | tuple[str, ...], what: str) -> list[str]:
    """The names in `text`, in the order of those known; all if there are none."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in known:
            _end(f"no {what} {name!r}; there are {', '.join(known)}")
    return [name for name in known if name in named or not named]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop everything in order, which another must not spoil."""

    def interrupt(_signal: int, _frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(message: str, status: int = 2) -> Any:
    print(message, file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    _app()
