"""Commands on the product catalogue."""

import contextlib
import sys
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cartsvc import rows
from cartsvc.cli.place import Place, TenantOption, connected, read_settings, run
from cartsvc.cli.terminal import err, out
from cartsvc.importer import Imported, Importer

app = typer.Typer(help="The product catalogue.", no_args_is_help=True)


@app.command(name="import")
def import_command(
    file: Annotated[str, typer.Argument(help="NDJSON, a JSON array or CSV; - reads stdin.")],
    tenant: TenantOption = None,
    set_stock: Annotated[
        bool, typer.Option("--set-stock", help="Set the stock of known SKUs too.")
    ] = False,
) -> None:
    """Import products; status 1 if rows were refused. Known ones are updated in place.

    The file's stock counts only for SKUs that are new.
    """

    async def command() -> Imported:
        async with connected(read_settings(), tenant) as place:
            return await import_into(place, file, set_stock)

    done = run(command())
    out.print(
        f"{done.products} products imported, {done.counters} counters given stock, "
        f"{done.bad_rows} rows refused"
    )
    if done.bad_rows:
        raise typer.Exit(1)


async def import_into(place: Place, file: str, set_stock: bool) -> Imported:
    """Import a file, or (-) stdin; a terminal sees how far it has come."""
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))  # noqa: ASYNC230
        progress = stack.enter_context(
            Progress(
                SpinnerColumn(),
                TextColumn("{task.completed:,.0f} products"),
                TimeElapsedColumn(),
                console=err,
                transient=True,
                disable=not err.is_terminal,
            )
        )
        task = progress.add_task("import", total=None)
        importer = Importer(place.ledger, place.shelf, place.bucket, place.currency)
        return await importer.run(
            rows.read(source),
            set_stock=set_stock,
            on_bad_row=lambda line, problem: err.print(f"line {line}: {problem}", markup=False),
            on_batch=lambda products: progress.advance(task, products),
        )
