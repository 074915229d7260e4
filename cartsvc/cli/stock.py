"""Commands on stock counters."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated

import typer

from cartsvc import http
from cartsvc.cli.place import SkuArgument, TenantOption, act, connected, read_settings, run
from cartsvc.cli.terminal import out, plain
from cartsvc.model import MAX_QUANTITY, StockLevel
from cartsvc.stock import Recorded

app = typer.Typer(help="Stock counters.", no_args_is_help=True)

_LOOK_S = 0.5
"""How often counters are looked at that somebody follows."""


@app.command(name="get")
def stock_get(sku: SkuArgument, tenant: TenantOption = None) -> None:
    """Print the units free, held and sold (in Redis) and received (in PostgreSQL)."""
    act(tenant, lambda acts: acts.stock_get(sku), _show)


@app.command(name="set")
def stock_set(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=0, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Set the units on hand: what carts hold stays held, the rest is free."""
    act(tenant, lambda acts: acts.stock_set(sku, units), _show)


@app.command(name="add")
def stock_add(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=-MAX_QUANTITY, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Take units in; after `--`, a negative number takes them out as far as they are free."""
    act(tenant, lambda acts: acts.stock_add(sku, units), _show)


@app.command(name="watch")
def stock_watch(
    skus: Annotated[
        list[str] | None, typer.Argument(help="Counters; if there are none, those watched.")
    ] = None,
    tenant: TenantOption = None,
    off: Annotated[bool, typer.Option("--off", help="Watch these no more.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print each change of them, until Ctrl-C.")
    ] = False,
) -> None:
    """Watch counters: `cartsvc top` and /metrics show them. Prints the levels of all that are."""
    if off and (follow or not skus):
        raise typer.BadParameter("--off takes the counters that are to be watched no more")
    if not skus:
        act(tenant, lambda acts: acts.watched(), _show_watched)
    else:
        act(tenant, lambda acts: acts.watch(skus, "off" if off else "on"), _show_watched)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            run(_follow(tenant))


def _show(found: Recorded) -> None:
    counted = "no counter" if found.level is None else _counted(found.level)
    out.print(f"{found.sku}: {counted}, {found.received} received")


def _counted(level: StockLevel) -> str:
    return f"{level.free} free, {level.held} held, {level.sold} sold"


def _show_watched(levels: Sequence[StockLevel]) -> None:
    for level in levels:
        out.print(plain(f"{level.sku}: {_counted(level)}"))
    if not levels:
        out.print("nothing is watched")


async def _follow(tenant: str | None) -> None:
    """Print the counters that are watched, each whenever it has changed, for ever."""
    seen: dict[str, StockLevel] = {}
    async with connected(read_settings(), tenant) as place:
        while True:
            names = await place.shelf.watched(place.bucket)
            for level in await place.shelf.stocks(place.bucket, names):
                if level is not None and seen.get(level.sku) != level:
                    when = http.timestamp(await place.shelf.runner.now_ms())
                    out.print(plain(f"{when}  {level.sku}: {_counted(level)}"))
                    seen[level.sku] = level
            await asyncio.sleep(_LOOK_S)
