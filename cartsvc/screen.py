"""How `cartsvc top` looks: a frame for a terminal of at least 80 columns and 24 lines."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from cartsvc import top
from cartsvc.hottest import Hot
from cartsvc.readings import Standing, Traffic
from cartsvc.settings import Settings
from cartsvc.top import Frame

_OTHER_LINES = 12
"""Lines of a frame that are no SKU's."""

_FEWEST, _MOST = 3, 30
"""SKUs that are shown, however low or high the terminal is."""

_BAR = 12
_REASONS = 4

_LATE_S, _TOO_LATE_S = 5.0, 60.0
"""From when on what waits for PostgreSQL is yellow, and red: some passes; and what alerts."""

_FULL = 0.8
"""A share of memory, or of Redis's time, that is yellow."""

_NONE = "-"


class _Marks(NamedTuple):
    """What a bar is made of: units that are free, held and sold."""

    free: str
    held: str
    sold: str


_BLOCKS = _Marks("█", "▓", "░")
_ASCII = _Marks("#", "=", ".")
_COLOURS = _Marks("green", "yellow", "bright_black")


async def watch(
    settings: Settings, url: str, tenant: str, *, interval_s: float, once: bool
) -> bool:
    """Show a tenant of the service at `url` until SIGINT or SIGTERM, or `once`.

    Where stdout is no terminal, it is once. Returns as `Watch.run` does.

    Raises:
        SettingError: Redis's address can't be used.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal has no character for must not end the program.
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    once = once or not console.is_terminal
    async with top.watching(settings, url, tenant) as watched:
        with _shown(console, once) as show:
            return await watched.run(show, lambda: _room(console), interval_s=interval_s, once=once)


@contextlib.contextmanager
def _shown(console: Console, once: bool) -> Iterator[Callable[[Frame], None]]:
    if once:
        yield lambda frame: console.print(draw(frame, console))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda frame: live.update(draw(frame, console), refresh=True)


def _room(console: Console) -> int:
    return min(max(console.height - _OTHER_LINES, _FEWEST), _MOST)


def draw(frame: Frame, console: Console) -> RenderableType:
    """The frame, as wide as the console."""
    return Group(_head(frame), _service(frame), "", _shelves(frame, console))


def _head(frame: Frame) -> Text:
    head = Text(f"{plain(frame.url)}  tenant {frame.tenant}  ", style="bold")
    if frame.service.standing is not None:
        head.append_text(_state(frame.service.standing))
    return _in_a_line(head)


def _state(now: Standing) -> Text:
    if now.is_paused or now.is_overloaded:
        return _row(
            ("SALE PAUSED" if now.is_paused else "", "bold yellow"),
            ("OVERLOADED" if now.is_overloaded else "", "bold red"),
        )
    return Text("carts take changes", "green")


def _service(frame: Frame) -> RenderableType:
    service = frame.service
    if service.standing is None:
        return Text(f"service: {plain(service.problem)}", "bold red")
    facts = Table.grid(Column(style="bold", no_wrap=True), Column(), padding=(0, 2, 0, 0))
    for name, value in _facts(service.standing, service.traffic, frame.shelves.now_s):
        facts.add_row(name, _in_a_line(value))
    return facts


def _facts(now: Standing, went: Traffic | None, now_s: float | None) -> Iterator[tuple[str, Text]]:
    yield "requests/s", _requests(went)
    yield "  of", _each(went.requests if went else {})
    yield "adds/s", _adds(went)
    yield "refused/s", _each(went.refusals if went else {})
    yield "processes", _processes(now, went)
    yield "flush", _flush(now, now_s)
    yield "  waiting", _waiting(now)
    yield "Redis", _redis(now, went)


def _requests(went: Traffic | None) -> Text:
    if went is None:
        return Text("rates come with the next look", "bright_black")
    return _row(
        f"{_rate(sum(went.requests.values()))}",
        f"p50 {_ms(went.p50_s)}",
        f"p99 {_ms(went.p99_s)}",
        (f"turned away {_rate(went.turned_away)}", "yellow" if went.turned_away else ""),
    )


def _adds(went: Traffic | None) -> Text:
    if went is None:
        return Text(_NONE)
    return _row(
        (f"granted {_rate(went.granted)}", "green"),
        f"refused {_rate(went.refused)}",
        f"answered again {_rate(went.replays)}",
    )


def _each(rates: Mapping[str, float]) -> Text:
    shown = [f"{plain(of)} {_rate(rate)}" for of, rate in list(rates.items())[:_REASONS]]
    more = len(rates) - len(shown)
    return _row(*(shown or [_NONE]), *([f"and {more} more"] if more else []))


def _processes(now: Standing, went: Traffic | None) -> Text:
    cpu = f"{went.cpu_share:.0%} CPU" if went else ""
    in_flight = f"{now.in_flight:,.0f} in flight to Redis"
    return _row(f"{now.processes:.0f}", cpu, _bytes(now.resident_bytes), in_flight)


def _flush(now: Standing, now_s: float | None) -> Text:
    if not now.redis_up:
        return Text("the service does not reach Redis", "bold red")
    away = [] if now.postgresql_up else [("PostgreSQL is away", "bold red")]
    lag_s = now.lag_s or 0
    return _row(
        *away,
        f"{now.dirty_carts or 0:,.0f} dirty carts",
        (f"lag {lag_s:.1f} s", _colour(lag_s, _LATE_S, _TOO_LATE_S)),
        _last_pass(now, now_s),
    )


def _waiting(now: Standing) -> Text:
    letters = now.dead_letters
    return _row(
        f"price changes {_NONE if now.price_changes is None else f'{now.price_changes:,.0f}'}",
        (
            f"dead letters {_NONE if letters is None else f'{letters:,.0f}'}",
            "red" if letters else "",
        ),
    )


def _last_pass(now: Standing, now_s: float | None) -> tuple[str, str]:
    if now.last_pass_s is None:
        return "no worker has passed", "red"
    if now_s is None:
        return "last pass: age unknown", ""
    age_s = max(0.0, now_s - now.last_pass_s)
    told = f"last pass {age_s:.1f} s ago, {now.last_pass_carts or 0:,.0f} carts"
    return told, _colour(age_s, _LATE_S, _TOO_LATE_S)


def _redis(now: Standing, went: Traffic | None) -> Text:
    if now.memory_bytes is None:
        return Text(_NONE)
    most = now.max_memory_bytes or 0
    share = now.memory_bytes / most if most else 0
    memory = f"{_bytes(now.memory_bytes)} of {_bytes(most)}" if most else _bytes(now.memory_bytes)
    busy = went.redis_share if went else 0
    return _row(
        (memory, _colour(share, _FULL, _FULL + 0.1)),
        (f"scripts {busy:.0%} of its time", _colour(busy, _FULL, _FULL + 0.1)) if went else "",
    )


def _shelves(frame: Frame, console: Console) -> RenderableType:
    if frame.shelves.problem:
        return Text(f"stock: Redis: {plain(frame.shelves.problem)}", "bold red")
    if not frame.shelves.hot:
        return Text("stock: nothing is watched, and no cart is dirty", "bright_black")
    marks = _ASCII if console.options.ascii_only else _BLOCKS
    return _stock(frame.shelves.hot, marks, console.width)


def _stock(hot: Sequence[Hot], marks: _Marks, width: int) -> Table:
    numbers = [
        Column(f"{mark} {name}", justify="right", no_wrap=True, style=colour)
        for mark, name, colour in zip(marks, _Marks._fields, _COLOURS, strict=True)
    ]
    sku = Column("SKU", no_wrap=True, max_width=max(24, width // 3))
    columns = [Column("stock", ratio=1, no_wrap=True), sku, Column("", min_width=_BAR), *numbers]
    table = Table(*columns, box=None, expand=True, padding=(0, 1, 0, 0), header_style="bold")
    for one in hot:
        name = Text(("* " if one.is_watched else "") + (plain(one.name) or _NONE))
        table.add_row(name, plain(one.sku), *_units(one, marks))
    return table


def _units(one: Hot, marks: _Marks) -> list[Text]:
    if one.free is None:
        return [Text("not counted", "bright_black"), *[Text(_NONE)] * 3]
    units = (one.free, one.held, one.sold)
    parts = zip(marks, _cells(units, _BAR), _COLOURS, strict=True)
    bar = Text.assemble(*((mark * cells, colour) for mark, cells, colour in parts))
    return [bar, *(Text(f"{count:,}", "" if count else "bright_black") for count in units)]


def _cells(units: Sequence[int], width: int) -> list[int]:
    """How many cells of a bar each has; one that has anything has one at least."""
    total = sum(max(one, 0) for one in units)
    if not total:
        return [0 for _ in units]
    cells = [max(1, round(width * one / total)) if one > 0 else 0 for one in units]
    cells[cells.index(max(cells))] += width - sum(cells)
    return cells


def _row(*facts: str | tuple[str, str]) -> Text:
    """Facts beside each other, with their styles; without the empty ones."""
    told = [Text(one) if isinstance(one, str) else Text(*one) for one in facts]
    return Text("   ").join(one for one in told if one)


def _in_a_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _colour(value: float, yellow: float, red: float) -> str:
    return "red" if value >= red else "yellow" if value >= yellow else ""


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def _ms(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds * 1000:,.{1 if seconds < 0.01 else 0}f} ms"


def _bytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def plain(text: str) -> str:
    """A text that a terminal shows as it is, whatever characters it has."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
