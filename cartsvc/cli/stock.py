"""Commands on stock counters."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from cartsvc.cli.place import SkuArgument, TenantOption, connected, read_settings, run
from cartsvc.cli.terminal import out
from cartsvc.model import MAX_QUANTITY
from cartsvc.stock import Recorded, Stock

app = typer.Typer(help="Stock counters.", no_args_is_help=True)


@app.command(name="get")
def stock_get(sku: SkuArgument, tenant: TenantOption = None) -> None:
    """Print the units free, held and sold (in Redis) and received (in PostgreSQL)."""
    _stock(tenant, lambda stock: stock.get(sku))


@app.command(name="set")
def stock_set(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=0, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Set the units on hand: what carts hold stays held, the rest is free."""
    _stock(tenant, lambda stock: stock.set(sku, units))


@app.command(name="add")
def stock_add(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=-MAX_QUANTITY, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Take units in; after `--`, a negative number takes them out as far as they are free."""
    _stock(tenant, lambda stock: stock.add(sku, units))


def _stock(tenant: str | None, change: Callable[[Stock], Coroutine[Any, Any, Recorded]]) -> None:
    async def command() -> Recorded:
        async with connected(read_settings(), tenant) as place:
            return await change(Stock(place.ledger, place.shelf, place.bucket))

    found = run(command())
    if found.level is None:
        counted = "no counter"
    else:
        counted = f"{found.level.free} free, {found.level.held} held, {found.level.sold} sold"
    out.print(f"{found.sku}: {counted}, {found.received} received")
