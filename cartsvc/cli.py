"""The command line. What a user can mend is told in one line on stderr, with status 1."""

import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
import uvloop
from redis.exceptions import RedisError
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from cartsvc import (
    __version__,
    demo,
    dev,
    http,
    identity,
    keys,
    logs,
    process,
    replay,
    rows,
    screen,
    settings,
)
from cartsvc.app import store_of
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.dev import DevError
from cartsvc.embedded import EmbeddedError
from cartsvc.errors import (
    CartError,
    NoCounter,
    NotEmpty,
    NotWarm,
    OutcomeUnknown,
    OutOfStock,
    RowsRefused,
    StockHeld,
    UnknownLetter,
    UnknownSku,
    UnknownTenant,
)
from cartsvc.importer import Imported, Importer
from cartsvc.keys import Bucket
from cartsvc.ledger import FAILURES, Ledger
from cartsvc.model import MAX_QUANTITY, MAX_SAFE_INT, Letter
from cartsvc.readings import MIN_INTERVAL_S
from cartsvc.repair import Repair, Repaired
from cartsvc.replay import Replayed
from cartsvc.settings import SettingError, Settings
from cartsvc.shelf import Shelf
from cartsvc.stock import Recorded, Stock
from cartsvc.verify import Verdict, Verifier
from cartsvc.warm import Warmed
from cartsvc.warm import warm as rebuild

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

app = typer.Typer(
    help="A Redis-backed cart cache for flash sales.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(help="The product catalogue.", no_args_is_help=True)
stock_app = typer.Typer(help="Stock counters.", no_args_is_help=True)
letters_app = typer.Typer(help="Rows that PostgreSQL refused.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
app.add_typer(stock_app, name="stock")
app.add_typer(letters_app, name="dead-letter")


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


def main() -> None:
    """Entry point of `cartsvc` and `python -m cartsvc`."""
    try:
        app()
    except (SettingError, DevError, EmbeddedError, CartError, RedisError, *FAILURES) as error:
        err.print(f"cartsvc: {_told(error)}", markup=False)
        sys.exit(1)


def _told(error: Exception) -> str:
    match error:
        case OutcomeUnknown(reason=reason):
            return f"Redis: {reason}"
        case CartError():
            return _told_of_tenant(error)
        case RedisError():
            return f"Redis: {error}"
        case OSError(filename=str() as name, strerror=str() as reason):
            return f"{name}: {reason}"
        case _ if isinstance(error, FAILURES):
            return f"PostgreSQL: {error}" if str(error) else f"PostgreSQL: {type(error).__name__}"
        case _:
            return str(error)


def _told_of_tenant(error: CartError) -> str:
    match error:
        case NotWarm():
            return (
                "Redis has nothing of this tenant, though PostgreSQL knows it: the two do not "
                "belong together, or Redis has lost its data, and `cartsvc warm` rebuilds it"
            )
        case NotEmpty(key=key):
            return f"Redis has {key}, so it did not come back empty: nothing is rebuilt over it"
        case UnknownTenant(tenant=tenant):
            return f"PostgreSQL knows no tenant {tenant!r}"
        case UnknownSku(sku=sku):
            return f"the catalogue has no stock counter {sku!r}"
        case OutOfStock(sku=sku, free=free):
            return f"only {free} units of {sku!r} are free"
        case StockHeld(sku=sku, held=held):
            return f"carts hold {held} units of {sku!r}: it can't be set to fewer"
        case UnknownLetter(number=number):
            return f"nothing is set aside under number {number}"
        case RowsRefused(reason=reason):
            return reason
        case NoCounter(sku=sku):
            return f"Redis has no counter of {sku!r}: set its stock"
        case _:
            return str(error)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command(name="dev")
def dev_command() -> None:
    """Run everything here: embedded servers, demo catalogue, API and worker, until Ctrl-C."""
    values = _settings()
    dev.run(values, os.environ, _prepare, say=lambda text: out.print(text, markup=False))


@app.command()
def serve(
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that serve; one for each core it may use.")
    ] = 1,
) -> None:
    """Run the API."""
    process.serve(_settings(), workers)


@app.command()
def worker() -> None:
    """Run the worker, which writes carts and price changes to PostgreSQL."""
    if not _run(process.work(_settings())):
        raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Bring PostgreSQL's tables up to date."""

    async def command() -> list[str]:
        async with _connected(_settings(), None) as place:
            return await place.ledger.migrate()

    applied = _run(command())
    out.print("applied " + ", ".join(applied) if applied else "already up to date")


@app.command()
def warm(tenant: TenantOption = None) -> None:
    """Rebuild a tenant in a Redis that came back empty; until then, changes are 503.

    Catalogue, stock and carts come from PostgreSQL. What was not written to it is lost.
    """
    values = _settings()

    async def command() -> Warmed | None:
        async with _connected(values, tenant) as place:
            runner, ledger = place.shelf.runner, place.ledger
            store = store_of(values, runner)
            archive = Archive(store, Backlog(runner), ledger, timeout_s=process.BULK_TIMEOUT_S)
            return await rebuild(ledger, archive, place.shelf, place.bucket)

    done = _run(command())
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


@app.command()
def verify(
    tenant: TenantOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is wrong, where nothing has to be guessed.")
    ] = False,
) -> None:
    """Print what is wrong with a tenant's data, a line each, while it runs; then status 1.

    Redis is held to itself and to PostgreSQL. With --repair, status 1 if anything is left.
    """
    values = _settings()

    async def command() -> tuple[Verdict, Repaired | None]:
        async with _connected(values, tenant) as place:
            runner = place.shelf.runner
            verifier = Verifier(
                Backlog(runner),
                place.ledger,
                place.bucket,
                max_lines=values.max_lines,
                pause_s=values.flush_interval_s / 2,
            )
            verdict = await verifier.run()
            if not repair:
                return verdict, None
            mending = Repair(verifier, store_of(values, runner))
            return verdict, await mending.run(verdict.findings)

    verdict, repaired = _run(command())
    left = verdict.findings if repaired is None else repaired.left
    for finding in repaired.mended if repaired else ():
        out.print(_plain(f"mended: {finding.what} {finding.detail}"))
    for finding in left:
        out.print(_plain(f"{'left' if repaired else 'wrong'}: {finding.what} {finding.detail}"))
    for noun in verdict.broken_off:
        out.print(_plain(f"too many are wrong of {noun or 'them'}: not all were looked at"))
    counted = ", ".join(f"{verdict.looked_at[noun]} {noun}" for noun in verdict.looked_at if noun)
    out.print(_plain(f"{counted}: {len(left) or 'nothing'} wrong"))
    if left or verdict.broken_off:
        raise typer.Exit(1)


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
    values = _settings()
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
    values = _settings()
    url, tenant = url or dev.url(values), tenant or values.tenant
    if not _run(screen.watch(values, url, tenant, interval_s=interval, once=once)):
        raise typer.Exit(1)


@catalog_app.command(name="import")
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
        async with _connected(_settings(), tenant) as place:
            return await _import(place, file, set_stock)

    done = _run(command())
    out.print(
        f"{done.products} products imported, {done.counters} counters given stock, "
        f"{done.bad_rows} rows refused"
    )
    if done.bad_rows:
        raise typer.Exit(1)


@stock_app.command(name="get")
def stock_get(sku: SkuArgument, tenant: TenantOption = None) -> None:
    """Print the units free, held and sold (in Redis) and received (in PostgreSQL)."""
    _stock(tenant, lambda stock: stock.get(sku))


@stock_app.command(name="set")
def stock_set(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=0, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Set the units on hand: what carts hold stays held, the rest is free."""
    _stock(tenant, lambda stock: stock.set(sku, units))


@stock_app.command(name="add")
def stock_add(
    sku: SkuArgument,
    units: Annotated[int, typer.Argument(min=-MAX_QUANTITY, max=MAX_QUANTITY)],
    tenant: TenantOption = None,
) -> None:
    """Take units in; after `--`, a negative number takes them out as far as they are free."""
    _stock(tenant, lambda stock: stock.add(sku, units))


@letters_app.command(name="list")
def letters_list(tenant: AnyTenantOption = None) -> None:
    """Print what is set aside: number, tenant, kind, cart id, version, when, why; a line each."""

    async def command() -> list[Letter]:
        async with _connected(_settings(), tenant) as place:
            return await place.ledger.letters(tenant)

    for letter in _run(command()):
        when = http.timestamp(letter.set_aside_ms)
        about = f"{letter.number}  {letter.tenant}  {letter.kind}  {letter.cart_id}"
        out.print(_plain(f"{about}  {letter.version}  {when}  {letter.reason}"))


@letters_app.command(name="replay")
def letters_replay(
    numbers: Annotated[
        list[int] | None,
        typer.Argument(min=1, max=MAX_SAFE_INT, help="As `list` has them; if there are none, all."),
    ] = None,
    tenant: AnyTenantOption = None,
) -> None:
    """Write what is set aside once more; status 1 if any is still refused, and so stays.

    What PostgreSQL has already, as it is or newer, is superseded, and goes.
    """

    async def command() -> Replayed:
        async with _connected(_settings(), tenant) as place:
            letters = await place.ledger.letters(tenant, numbers or [])
            backlog = Backlog(place.shelf.runner)
            return await replay.run(place.ledger, backlog, letters, on_refused=_tell_refused)

    done = _run(command())
    out.print(f"{done.written} written, {done.superseded} superseded, {done.refused} still refused")
    if done.refused:
        raise typer.Exit(1)


def _tell_refused(letter: Letter, reason: str) -> None:
    err.print(_plain(f"number {letter.number}: {reason}"))


def _plain(text: str) -> Text:
    """A text that a terminal shows as it is, whatever characters it has."""
    return Text("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text))


class _Place(NamedTuple):
    """One tenant's bucket, with what leads to it."""

    ledger: Ledger
    shelf: Shelf
    bucket: Bucket
    currency: str

    def importer(self) -> Importer:
        return Importer(self.ledger, self.shelf, self.bucket, self.currency)


@contextlib.asynccontextmanager
async def _connected(values: Settings, tenant: str | None) -> AsyncIterator[_Place]:
    ledger = await Ledger.connect(values.database_url)
    runner = process.bulk_runner(values)
    try:
        yield _Place(ledger, Shelf(runner), Bucket(tenant or values.tenant), values.currency)
    finally:
        await runner.aclose()
        await ledger.close()


async def _import(place: _Place, file: str, set_stock: bool) -> Imported:
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
        return await place.importer().run(
            rows.read(source),
            set_stock=set_stock,
            on_bad_row=lambda line, problem: err.print(f"line {line}: {problem}", markup=False),
            on_batch=lambda products: progress.advance(task, products),
        )


def _prepare(values: Settings) -> None:
    """Migrate, and import the demo catalogue into a tenant that has none.

    Raises:
        NotWarm: the tenant has a catalogue, but not in this Redis.
    """

    async def command() -> None:
        async with _connected(values, None) as place:
            await place.ledger.migrate()
            if not await place.ledger.has_products(place.bucket.tenant):
                await _import(place, str(demo.FILE), set_stock=False)
            elif not await place.shelf.is_warm(place.bucket):
                raise NotWarm

    _run(command())


def _stock(tenant: str | None, change: Callable[[Stock], Coroutine[Any, Any, Recorded]]) -> None:
    async def command() -> Recorded:
        async with _connected(_settings(), tenant) as place:
            return await change(Stock(place.ledger, place.shelf, place.bucket))

    found = _run(command())
    if found.level is None:
        counted = "no counter"
    else:
        counted = f"{found.level.free} free, {found.level.held} held, {found.level.sold} sold"
    out.print(f"{found.sku}: {counted}, {found.received} received")


def _settings() -> Settings:
    values = settings.read()
    logs.to_stderr(values.log_level, values.log_format)
    return values


def _run(main: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(main)
