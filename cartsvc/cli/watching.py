"""The command that shows a service as it runs."""

import re
from typing import Annotated

import typer

from cartsvc import dev, screen
from cartsvc.cli.place import TenantOption, read_settings, run
from cartsvc.readings import MIN_INTERVAL_S

app = typer.Typer()


def _url(value: str | None) -> str | None:
    if value is not None and not re.match("https?://[^/]", value):
        raise typer.BadParameter(f"{value!r} is no http:// or https:// URL")
    return value


@app.command()
def top(
    url: Annotated[
        str | None,
        typer.Option(
            callback=_url, help="Of the service; if not given, by CARTSVC_HOST and _PORT."
        ),
    ] = None,
    tenant: TenantOption = None,
    interval: Annotated[
        float, typer.Option(min=MIN_INTERVAL_S, help="Seconds between two looks.")
    ] = MIN_INTERVAL_S,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame, as where stdout is no terminal.")
    ] = False,
) -> None:
    """Watch the service, its worker, Redis and what sells, until Ctrl-C.

    Printed once, status 1 says that the service or Redis was away.
    """
    values = read_settings()
    url, tenant = url or dev.url(values), tenant or values.tenant
    if not run(screen.watch(values, url, tenant, interval_s=interval, once=once)):
        raise typer.Exit(1)
