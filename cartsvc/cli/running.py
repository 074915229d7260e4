"""Commands that run the programs, and prepare what they run on."""

import os
from typing import Annotated

import typer

from cartsvc import demo, dev, process
from cartsvc.cli.catalogue import import_into
from cartsvc.cli.place import TenantOption, connected, read_settings, run
from cartsvc.cli.terminal import err, out
from cartsvc.errors import NotWarm
from cartsvc.settings import Settings
from cartsvc.warm import Warmed
from cartsvc.warm import warm as rebuild

app = typer.Typer()


@app.command(name="dev")
def dev_command() -> None:
    """Run everything here: embedded servers, demo catalogue, API and worker, until Ctrl-C."""
    values = read_settings()
    dev.run(values, os.environ, _prepare, say=lambda text: out.print(text, markup=False))


@app.command()
def serve(
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that serve; one for each core it may use.")
    ] = 1,
) -> None:
    """Run the API."""
    process.serve(read_settings(), workers)


@app.command()
def worker() -> None:
    """Run the worker, which writes carts and price changes to PostgreSQL."""
    if not run(process.work(read_settings())):
        raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Bring PostgreSQL's tables up to date."""

    async def command() -> list[str]:
        async with connected(read_settings(), None) as place:
            return await place.ledger.migrate()

    applied = run(command())
    out.print("applied " + ", ".join(applied) if applied else "already up to date")


@app.command()
def warm(tenant: TenantOption = None) -> None:
    """Rebuild a tenant in a Redis that came back empty; until then, changes are 503.

    Catalogue, stock and carts come from PostgreSQL. What was not written to it is lost.
    """

    async def command() -> Warmed | None:
        async with connected(read_settings(), tenant) as place:
            return await rebuild(place.ledger, place.archive, place.shelf, place.bucket)

    done = run(command())
    if done is None:
        out.print("Redis has this tenant: there is nothing to rebuild")
        return
    out.print(
        f"{done.products} products, {done.counters} counters, {done.holding_carts} carts that hold "
        f"units, {done.cold_carts} others, which come back when they are touched"
    )
    for sku in done.oversold:
        err.print(f"{sku}: more was sold than received; set its stock", markup=False)
    if done.oversold:
        raise typer.Exit(1)


def _prepare(values: Settings) -> None:
    """Migrate, and import the demo catalogue into a tenant that has none.

    Raises:
        NotWarm: the tenant has a catalogue, but not in this Redis.
    """

    async def command() -> None:
        async with connected(values, None) as place:
            await place.ledger.migrate()
            if not await place.ledger.has_products(place.bucket.tenant):
                await import_into(place, str(demo.FILE), set_stock=False)
            elif not await place.shelf.is_warm(place.bucket):
                raise NotWarm

    run(command())
