"""Commands on the prices of products."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from cartsvc import money
from cartsvc.cli.place import SkuArgument, TenantOption, act
from cartsvc.cli.terminal import out, plain

app = typer.Typer(help="Prices.", no_args_is_help=True)


@app.command()
def get(sku: SkuArgument, tenant: TenantOption = None) -> None:
    """Print the catalogue's price of a product or variant."""

    def show(price_minor: int) -> None:
        out.print(plain(f"{sku}: {money.text(price_minor)}"))

    act(tenant, lambda acts: acts.price_get(sku), show)


@app.command(name="set")
def set_price(
    sku: SkuArgument,
    price: Annotated[str, typer.Argument(help="24.99, say.")],
    tenant: TenantOption = None,
) -> None:
    """Give a product or variant another price; carts that have it follow."""
    price_minor = _minor(price)

    def show(before: int) -> None:
        change = f"{sku}: {money.text(before)} -> {money.text(price_minor)}"
        out.print(plain(f"{change}; carts follow within about two flush intervals"))

    act(tenant, lambda acts: acts.price_set(sku, price_minor), show)


def _minor(price: str) -> int:
    try:
        return money.to_minor(Decimal(price))
    except (InvalidOperation, ValueError):
        told = f"{price!r} is not from 0 to {money.MAX_PRICE} with at most two decimals"
        raise typer.BadParameter(told) from None
