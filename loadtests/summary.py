"""A rehearsal in a few lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from loadtests import samples
from loadtests.samples import Run

_ERRORS = 10
"""Shown, the most frequent; load.txt has all."""


def of_run(run: Run, generator_cpu_s: float) -> Iterator[str]:
    """What was asked for, and what became of it."""
    refused = sum(run.refusals.values())
    seconds = max(len(run.samples), 1)
    most = max((one.granted + one.refused for one in run.samples), default=0.0)
    yield _row("requests", f"{run.requests:,}, of which {run.failures:,} failed")
    yield _row("adds", f"{run.granted:,} granted, {refused:,} refused")
    yield _row("adds/s", f"{(run.granted + refused) / seconds:,.0f}; at the most {most:,.0f}")
    for why, count in sorted(run.refusals.items(), key=lambda one: -one[1]):
        yield _row("refused", f"{count:,} {why}")
    if run.times_ms:
        p50, p99 = (samples.percentile(run.times_ms, share) for share in (0.5, 0.99))
        yield _row("an add's answer", f"p50 {p50:g} ms, p99 {p99:g} ms")
    yield from _stock(run)
    for error, count in sorted(run.errors.items(), key=lambda one: -one[1])[:_ERRORS]:
        yield _row("failed", f"{count:,} times {error}")
    yield _row("Locust", f"{generator_cpu_s / seconds:.0%} of a core on average")


def _stock(run: Run) -> Iterator[str]:
    """Of this sale: what was sold before it began is not counted."""
    if not run.samples:
        return
    for counter, before in run.samples[0].stock.items():
        after = run.samples[-1].stock[counter]
        received = after.free + after.held + after.sold - before.sold
        sold = after.sold - before.sold
        parts = f"{sold:,} sold, {after.held:,} held, {after.free:,} left"
        yield _row(counter, f"{received:,} on sale: {parts}")


def of_rules(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line each, and what breaks it."""
    for rule, broken in found.items():
        yield f"{'violated' if broken else 'ok':10}{rule}"
        yield from (f"          {one}" for one in broken)


def _row(what: str, text: str) -> str:
    return f"{what:26}{text}"
