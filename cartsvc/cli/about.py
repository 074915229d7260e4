"""Commands that ask no server: tokens, and what the keys in Redis are."""

from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cartsvc import identity, keys
from cartsvc.cli.place import TenantOption, read_settings
from cartsvc.cli.terminal import out
from cartsvc.settings import SettingError

app = typer.Typer()


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="Whom it speaks for.")],
    kind: Annotated[
        str, typer.Option("--type", help="customer, user (an admin) or service.")
    ] = "customer",
    tenant: TenantOption = None,
    ttl_s: Annotated[int, typer.Option(help="Seconds until it expires.", min=1)] = 86_400,
) -> None:
    """Print a signed token."""
    values = read_settings()
    if not values.jwt_secret:
        raise SettingError("CARTSVC_JWT_SECRET: is not set")
    if kind not in identity.TOKEN_TYPES:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(identity.TOKEN_TYPES)}")
    signed = identity.issue_token(
        values.jwt_secret,
        subject=sub,
        kind=kind,
        tenant=tenant,
        ttl_s=ttl_s,
        issuer=values.jwt_issuer,
        audience=values.jwt_audience,
    )
    out.print(signed)


@app.command(name="keys")
def keys_command() -> None:
    """Print what each key in Redis is."""
    page = Console(highlight=False)
    for row in keys.TABLE:
        page.print(row.pattern, style="bold", soft_wrap=True, markup=False)
        page.print(Padding(f"{row.type}, written by {row.writer}", (0, 0, 0, 4), expand=False))
        page.print(Padding(Text(row.holds), (0, 0, 0, 4), expand=False))
