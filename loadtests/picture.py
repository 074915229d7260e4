"""A rehearsal as a picture: four panels over the time of the sale."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from loadtests.samples import Level, Run, Sample

_BLUE, _ORANGE, _VIOLET = "#3b82f6", "#e0782f", "#8b7fd6"
_GREY = "#7d838c"
"""Readable on white and on black."""

_INCHES = (9, 8.5)


def plot(run: Run, file: Path) -> None:
    """Adds, their times, the stock of what everybody wants, and what PostgreSQL does not have."""
    figure = Figure(figsize=_INCHES, layout="constrained")
    panels = figure.subplots(4, sharex=True)
    for panel, draw in zip(panels, (_adds, _times, _stock, _lag), strict=True):
        _quiet(panel)
        draw(panel, run.samples)
        _legend(panel)
    _phases(panels, run)
    panels[-1].set_xlabel("seconds", color=_GREY)
    panels[-1].set_xlim(left=0)
    with rc_context({"svg.hashsalt": file.name}):
        figure.savefig(file, transparent=True, metadata={"Date": None})


def _adds(panel: Any, samples: Sequence[Sample]) -> None:
    granted, refused = _of(samples, "granted"), _of(samples, "refused")
    panel.stackplot(
        _of(samples, "at_s"),
        granted,
        refused,
        labels=("granted", "refused"),
        colors=(_BLUE, _ORANGE),
        alpha=0.75,
        linewidth=0,
    )
    panel.set_ylabel("adds a second", color=_GREY)


def _times(panel: Any, samples: Sequence[Sample]) -> None:
    for name, colour in (("p50", _BLUE), ("p99", _ORANGE)):
        known = [one for one in samples if getattr(one, f"{name}_ms") is not None]
        panel.plot(_of(known, "at_s"), _of(known, f"{name}_ms"), color=colour, label=name)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_ylabel("an add's answer, ms", color=_GREY)


def _stock(panel: Any, samples: Sequence[Sample]) -> None:
    """Without what was sold in sales before."""
    before = _units(samples[0], lambda level: level.sold) if samples else 0
    panel.stackplot(
        _of(samples, "at_s"),
        [_units(one, lambda level: level.free) for one in samples],
        [_units(one, lambda level: level.held) for one in samples],
        [_units(one, lambda level: level.sold) - before for one in samples],
        labels=("left", "held by carts", "sold"),
        colors=(_BLUE, _VIOLET, _ORANGE),
        alpha=0.75,
        linewidth=0,
    )
    panel.set_ylabel("units of the bargain", color=_GREY)


def _lag(panel: Any, samples: Sequence[Sample]) -> None:
    times = _of(samples, "at_s")
    dirty = panel.twinx()
    _quiet(dirty)
    dirty.grid(visible=False)
    dirty.fill_between(times, _of(samples, "dirty"), color=_GREY, alpha=0.25, linewidth=0)
    dirty.set_ylabel("dirty carts (grey)", color=_GREY)
    dirty.set_ylim(bottom=0)
    panel.plot(times, _of(samples, "lag_s"), color=_BLUE, label="age of the oldest dirty cart")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("flush lag, s", color=_GREY)


def _units(sample: Sample, part: Callable[[Level], int]) -> int:
    return sum(part(level) for level in sample.stock.values())


def _of(samples: Sequence[Sample], name: str) -> list[Any]:
    return [getattr(sample, name) for sample in samples]


def _quiet(panel: Any) -> None:
    panel.spines[:].set_visible(False)
    panel.tick_params(colors=_GREY, length=0)
    panel.grid(color=_GREY, alpha=0.25, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0)


def _legend(panel: Any) -> None:
    panel.legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.97),
        ncols=3,
        frameon=False,
        labelcolor=_GREY,
        fontsize="small",
    )


def _phases(panels: Sequence[Any], run: Run) -> None:
    """A line where each phase begins, named above the first panel."""
    for name, at_s in run.phases.items():
        for panel in panels:
            panel.axvline(at_s, color=_GREY, linewidth=0.8, linestyle=(0, (4, 4)))
        panels[0].annotate(
            name,
            (at_s, 1.03),
            xycoords=("data", "axes fraction"),
            color=_GREY,
            fontsize="small",
            annotation_clip=False,
        )
