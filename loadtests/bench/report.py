"""What is left of a run: bench.json, a table in Markdown, and a plot."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

Results = Mapping[str, Any]

FOLDER = Path(__file__).parent.parent / "results"

_PACKAGES = (
    "cartsvc",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "redis",
    "hiredis",
    "asyncpg",
)
_PROGRAMS = {
    "node": ["node", "--version"],
    "nginx": ["nginx", "-v"],
    "redis-benchmark": ["redis-benchmark", "--version"],
    "webdis": ["dpkg-query", "-W", "-f", "${Version}", "webdis"],
    "wrk": ["wrk", "--version"],
}


def machine() -> dict[str, Any]:
    """Where and when: processor, cores, memory, system, date."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    """Of what took part, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for name, command in _PROGRAMS.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            continue
        lines = (done.stdout or done.stderr).strip().splitlines()
        if lines:
            found[name] = lines[0]
    return found


def write(results: Results, name: str) -> list[Path]:
    """Write everything into the folder of results; returns the files."""
    FOLDER.mkdir(exist_ok=True)
    files = [FOLDER / f"{name}.json", FOLDER / f"{name}.md"]
    files[0].write_text(json.dumps(results, indent=2) + "\n")
    files[1].write_text(markdown(results))
    if results.get("contenders"):
        files.append(FOLDER / f"{name}.svg")
        plot(results, files[-1])
    return files


def markdown(results: Results) -> str:
    """All tables, for a page and for a terminal."""
    parts = [_heading(results)]
    if results.get("contenders"):
        parts += [_contenders(results), _missing(results)]
    if "scaling" in results:
        parts += [_questions(results["scaling"]["questions"]), _carts(results["scaling"]["carts"])]
    if "flushing" in results:
        parts += [_flush(results["flushing"])]
    parts.append(_marks(results["marks"]))
    return "\n".join(part for part in parts if part)


def _heading(results: Results) -> str:
    where, effort = results["machine"], results["effort"]
    return (
        f"{where['cores']} cores of {where['cpu']}, {where['system']}, {where['date']}. "
        f"{effort['connections']} connections, medians of {effort['rounds']} rounds of "
        f"{effort['seconds']} s, least to most in brackets.\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns also line up in a terminal; figures to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (header, *rows)
    ]
    lines.insert(1, rule)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _contenders(results: Results) -> str:
    header = [
        "",
        "adds/s",
        "p50 ms",
        "p99 ms",
        "app us",
        "Redis us",
        "DB us",
        "MB",
        "not 2xx",
        "answers",
    ]
    rows = [
        [
            figures["title"],
            _spread(figures["per_s"], 0),
            _median(figures["p50_ms"], 1),
            _median(figures["p99_ms"], 1),
            _spread(figures["app_us"], 1),
            _spread(figures["redis_us"], 1),
            _spread(figures["database_us"], 1) if _uses_database(figures) else "",
            _median(figures["rss_mb"], 0),
            f"{figures['refused']:,}",
            _verdict(figures),
        ]
        for figures in results["contenders"].values()
    ]
    limits = {
        "pipelined": "redis-benchmark, bare script, pipelined as cartsvc",
        "connections": "redis-benchmark, bare script, one call a connection",
    }
    for name, figures in results.get("bare", {}).items():
        rows.append(
            [
                limits[name],
                _spread(figures["per_s"], 0),
                _median(figures["p50_ms"], 1),
                _median(figures["p99_ms"], 1),
                "",
                _spread(figures["redis_us"], 1),
                *[""] * 4,
            ]
        )
    return table(header, rows)


def _uses_database(figures: Results) -> bool:
    """Whether PostgreSQL keeps its carts; if not, it was cleaning up after another's turn."""
    return float(figures["database_us"]["median"]) > float(figures["redis_us"]["median"])


def _verdict(figures: Results) -> str:
    """What was wrong with a contender's answers."""
    found = list(figures["wrong"])
    if figures["lost"]:
        found.append(f"lost at least {figures['lost']:,} of {figures['acknowledged']:,} adds")
    if figures["extra"]:
        found.append(f"{figures['extra']:,} units that nobody added")
    return "; ".join(found) or "right"


def _missing(results: Results) -> str:
    return "".join(f"- without {name}: {why}\n" for name, why in results["missing"].items())


def _questions(questions: Results) -> str:
    return table(
        ["cartsvc", "answers/s", "p99 ms", "app us", "Redis us", "bytes a cart"],
        [[name, *_cells(figures)] for name, figures in questions.items()],
    )


def _carts(carts: Results) -> str:
    return table(
        ["carts in Redis", "adds/s", "p99 ms", "app us", "Redis us", "bytes a cart"],
        [[f"{int(count):,}", *_cells(figures)] for count, figures in carts.items()],
    )


def _cells(figures: Results) -> list[str]:
    return [
        _median(figures["per_s"], 0),
        _median(figures["p99_ms"], 1),
        _spread(figures["app_us"], 1),
        _spread(figures["redis_us"], 1),
        f"{figures['bytes_a_cart']:,}" if "bytes_a_cart" in figures else "",
    ]


def _flush(flushing: Results) -> str:
    names = {"flush": "flush", "bare": "bare COPY and upsert"}
    rates = table(
        ["", "new rows/s", "changed rows/s", "both rows/s", "carts/s"],
        [
            [
                title,
                *(
                    _spread(flushing[name][figure], 0)
                    for figure in (
                        "new_rows_per_s",
                        "changed_rows_per_s",
                        "both_rows_per_s",
                        "carts_per_s",
                    )
                ),
            ]
            for name, title in names.items()
        ],
    )
    adds = table(
        ["adds", "adds/s", "p99 ms", "app us", "Redis us", "DB us"],
        [
            [
                title,
                _spread(figures["per_s"], 0),
                _spread(figures["p99_ms"], 1),
                _spread(figures["app_us"], 1),
                _spread(figures["redis_us"], 1),
                _median(figures["database_us"], 1),
            ]
            for title, figures in (
                ("without a worker", flushing["adds"]["alone"]),
                ("while it flushes", flushing["adds"]["beside"]),
            )
        ],
    )
    return f"{rates}\n{adds}"


def _marks(marks: Sequence[Results]) -> str:
    return table(
        ["mark", "", "value", ""],
        [
            [
                mark["name"],
                mark["mark"],
                "-" if mark["value"] is None else f"{mark['value']:.3f}",
                "met" if mark["met"] else "NOT MET" if mark["value"] is not None else mark["how"],
            ]
            for mark in marks
        ],
    )


def _spread(figure: Results, digits: int) -> str:
    return f"{_median(figure, digits)} ({figure['min']:,.{digits}f}..{figure['max']:,.{digits}f})"


def _median(figure: Results, digits: int) -> str:
    return f"{figure['median']:,.{digits}f}"


_COLOURS = {"app": "#3b82f6", "Redis": "#e0782f", "PostgreSQL": "#8b7fd6"}
_GREY = "#7d838c"
"""Readable on white and on black."""


def cpu_parts(figures: Results) -> dict[str, float]:
    """CPU microseconds an add, by whose they are."""
    names = {"app": "app_us", "Redis": "redis_us", "PostgreSQL": "database_us"}
    parts = {part: float(figures[name]["median"]) for part, name in names.items()}
    return parts if _uses_database(figures) else {**parts, "PostgreSQL": 0.0}


def plot(results: Results, file: Path) -> None:
    """Bars of the CPU time an add, by contender and part; the shortest on top."""
    bars = {one["title"]: cpu_parts(one) for one in results["contenders"].values()}
    titles = sorted(bars, key=lambda title: -sum(bars[title].values()))
    figure = Figure(figsize=(9, 1.3 + 0.42 * len(titles)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(titles)
    for part, colour in _COLOURS.items():
        widths = [bars[title][part] for title in titles]
        axes.barh(titles, widths, left=left, color=colour, label=part, height=0.66)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:,.0f}", va="center", color=_GREY)
    axes.set_xlabel("CPU microseconds an acknowledged add", color=_GREY)
    axes.set_xlim(0, max(left) * 1.08)
    axes.tick_params(colors=_GREY, length=0)
    axes.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, labelcolor=_GREY)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == _own_title(results) else "normal")
    with rc_context({"svg.hashsalt": file.name}):
        figure.savefig(file, transparent=True, metadata={"Date": None})


def _own_title(results: Results) -> str:
    return str(results["contenders"].get("cartsvc", {}).get("title", ""))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
