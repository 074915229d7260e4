"""Where commands work: their options, the settings, and one tenant's place in both servers."""

import contextlib
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
import uvloop

from cartsvc import process, settings
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf

T = TypeVar("T")


def _tenant(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(settings.TENANT_PATTERN, value):
        raise typer.BadParameter(f"{value!r} is not a tenant id")
    return value


TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", callback=_tenant, help="Tenant; if not given, CARTSVC_TENANT."),
]
AnyTenantOption = Annotated[
    str | None,
    typer.Option("--tenant", callback=_tenant, help="Only this tenant's; if not given, all."),
]
SkuArgument = Annotated[str, typer.Argument(help="<product>, or <product>/<variant>.")]


class Place(NamedTuple):
    """One tenant's bucket, with what leads to it."""

    ledger: Ledger
    shelf: Shelf
    bucket: Bucket
    currency: str


@contextlib.asynccontextmanager
async def connected(values: Settings, tenant: str | None) -> AsyncIterator[Place]:
    ledger = await Ledger.connect(values.database_url)
    runner = process.bulk_runner(values)
    try:
        yield Place(ledger, Shelf(runner), Bucket(tenant or values.tenant), values.currency)
    finally:
        await runner.aclose()
        await ledger.close()


def read_settings() -> Settings:
    """Those of the environment; from now on the log goes to stderr, as they say."""
    values = settings.read()
    process.log_to_stderr(values)
    return values


def run(main: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(main)
