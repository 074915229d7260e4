"""The command line. What a user can mend is told in one line on stderr, with status 1."""

import sys
from typing import Annotated

import typer
from redis.exceptions import RedisError

from cartsvc import __version__
from cartsvc.cli import (
    about,
    carts,
    catalogue,
    checking,
    letters,
    price,
    running,
    sale,
    stock,
    trail,
    watching,
)
from cartsvc.cli.terminal import err, out, told
from cartsvc.dev import DevError
from cartsvc.embedded import EmbeddedError
from cartsvc.errors import CartError
from cartsvc.ledger import FAILURES
from cartsvc.settings import SettingError

app = typer.Typer(
    help="A Redis-backed cart cache for flash sales.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(running.app)
app.add_typer(watching.app)
app.add_typer(checking.app)
app.add_typer(trail.app)
app.add_typer(about.app)
app.add_typer(catalogue.app, name="catalog")
app.add_typer(stock.app, name="stock")
app.add_typer(price.app, name="price")
app.add_typer(sale.app, name="sale")
app.add_typer(carts.app, name="carts")
app.add_typer(letters.app, name="dead-letter")


def main() -> None:
    """Entry point of `cartsvc` and `python -m cartsvc`."""
    try:
        app()
    except (SettingError, DevError, EmbeddedError, CartError, RedisError, *FAILURES) as error:
        err.print(f"cartsvc: {told(error)}", markup=False)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
