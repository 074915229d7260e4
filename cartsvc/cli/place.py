"""Where commands work: their options, the settings, and one tenant's place in both servers."""

import contextlib
import os
import pwd
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
import uvloop

from cartsvc import logs, process, settings
from cartsvc.acts import Acts, Desk
from cartsvc.app import store_of
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.cli.terminal import err, plain
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf
from cartsvc.trail import Actor

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
    archive: Archive


@contextlib.asynccontextmanager
async def connected(values: Settings, tenant: str | None) -> AsyncIterator[Place]:
    ledger = await Ledger.connect(values.database_url)
    runner = process.bulk_runner(values)
    store = store_of(values, runner)
    archive = Archive(store, Backlog(runner), ledger, timeout_s=process.BULK_TIMEOUT_S)
    bucket = Bucket(tenant or values.tenant)
    try:
        yield Place(ledger, Shelf(runner), bucket, values.currency, archive)
    finally:
        await runner.aclose()
        await ledger.close()


def act(
    tenant: str | None, do: Callable[[Acts], Awaitable[T]], show: Callable[[T], object]
) -> None:
    """Let whoever types this do something to a tenant, and show what it gave.

    Status 1 if it was done, and the audit trail does not say so.
    """
    values = read_settings()

    async def command() -> tuple[T, str]:
        async with connected(values, tenant) as place:
            desk = Desk(place.archive, pause_s=values.flush_interval_s / 2)
            acts = Acts(desk, place.bucket, Actor(whoami(), "cli"), _lacking)
            return await do(acts), acts.unrecorded

    done, unrecorded = run(command())
    show(done)
    if unrecorded:
        raise typer.Exit(1)


def _lacking(reason: str) -> None:
    err.print(plain(f"cartsvc: this is not recorded in the audit trail: PostgreSQL: {reason}"))


def whoami() -> str:
    """The login of whoever runs this process, not as its environment has it, and the host."""
    uid = os.getuid()
    try:
        login = pwd.getpwuid(uid).pw_name
    except KeyError:
        login = str(uid)
    return f"{login}@{socket.gethostname()}"


def read_settings() -> Settings:
    """Those of the environment; from now on the log goes to stderr, as they say."""
    values = settings.read()
    logs.to_stderr(values.log_level, values.log_format)
    return values


def run(main: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(main)
