"""Commands on single carts, by their ids."""

from typing import Annotated

import msgspec
import typer

from cartsvc import http, money
from cartsvc.acts import Shown
from cartsvc.cli.place import TenantOption, act
from cartsvc.cli.terminal import out, plain
from cartsvc.contracts import admin
from cartsvc.errors import Invalid
from cartsvc.keys import shown_id
from cartsvc.model import Line, whole_number

app = typer.Typer(help="Carts.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The cart's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As /admin gives it, for programs.")]

_WHERE = {"redis": "Redis only", "postgresql": "PostgreSQL only", "both": "Redis and PostgreSQL"}


@app.command()
def show(cart_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Print a cart, wherever it is and whatever became of it."""
    number = _number(cart_id)
    act(tenant, lambda acts: acts.cart_show(number), _show_json if as_json else _show)


@app.command()
def release(cart_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Take the lines that hold units from a cart: they are free again, and its owner is told."""
    number = _number(cart_id)
    act(tenant, lambda acts: acts.cart_release(number), _show_json if as_json else _show)


def _number(text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise Invalid("the id of a cart", f"is a whole number, and not {text!r}")
    return number


def _show_json(shown: Shown) -> None:
    out.print(msgspec.json.encode(admin.cart_view(shown)).decode(), markup=False)


def _show(shown: Shown) -> None:
    cart, since_ms = shown.cart, shown.dirty_since_ms
    facts = {
        "owner": f"{cart.owner.kind} {shown_id(cart.owner.id)}",
        "status": f"{cart.status}, version {cart.version}",
        "created": http.timestamp(cart.created_ms),
        "changed": http.timestamp(cart.updated_ms),
        "where": _WHERE[shown.where],
        "dirty": "no" if since_ms is None else f"since {http.timestamp(since_ms)}",
    }
    out.print(f"cart {cart.id}")
    for name, fact in facts.items():
        out.print(plain(f"  {name:<8}{fact}"))
    for line in cart.lines:
        out.print(plain(f"  {_line(line)}"))
    total = f"{cart.total_quantity} units, {money.text(cart.total_minor)}"
    out.print(f"  {'total':<8}{total}")


def _line(line: Line) -> str:
    counted = (
        f"{line.quantity} x {money.text(line.price_minor)} = {money.text(line.subtotal_minor)}"
    )
    parts = [line.sku, admin.name_of(line), counted]
    if line.held_until_ms is not None:
        parts.append(f"held until {http.timestamp(line.held_until_ms)}")
    if line.saved:
        parts.append("saved for later")
    return "  ".join(parts)
