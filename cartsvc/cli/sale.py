"""Commands that pause the sale and let it go on, also while PostgreSQL is away."""

from typing import Annotated

import typer

from cartsvc import http
from cartsvc.acts import SaleChange
from cartsvc.cli.place import TenantOption, act
from cartsvc.cli.terminal import out, plain
from cartsvc.sale import Paused

app = typer.Typer(help="The sale of a tenant.", no_args_is_help=True)


@app.command()
def pause(
    reason: Annotated[str, typer.Option("--reason", help="Why; shoppers are told.")],
    tenant: TenantOption = None,
) -> None:
    """Pause the sale: what would come into a cart is 503 with the reason, the rest goes on."""
    act(tenant, lambda acts: acts.sale_pause(reason), _show_paused)


@app.command()
def resume(tenant: TenantOption = None) -> None:
    """Let the sale go on."""
    act(tenant, lambda acts: acts.sale_resume(), _show_resumed)


@app.command()
def state(tenant: TenantOption = None) -> None:
    """Print whether the sale is paused, why, by whom and since when."""
    act(tenant, lambda acts: acts.sale_state(), lambda found: out.print(plain(_told(found))))


def _show_paused(change: SaleChange) -> None:
    out.print(plain(_told(change.now)))
    if change.before is not None:
        out.print(plain(f"before, it was {_told(change.before)}"))


def _show_resumed(change: SaleChange) -> None:
    out.print(plain(f"the sale goes on; it was {_told(change.before)}"))


def _told(found: Paused | None) -> str:
    if found is None:
        return "not paused"
    return f"paused by {found.by} since {http.timestamp(found.since_ms)}: {found.reason}"
