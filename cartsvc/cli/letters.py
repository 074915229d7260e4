"""Commands on the rows that PostgreSQL refused."""

from typing import Annotated

import typer

from cartsvc import http, replay
from cartsvc.backlog import Backlog
from cartsvc.cli.place import AnyTenantOption, connected, read_settings, run
from cartsvc.cli.terminal import err, out, plain
from cartsvc.model import MAX_SAFE_INT, Letter
from cartsvc.replay import Replayed

app = typer.Typer(help="Rows that PostgreSQL refused.", no_args_is_help=True)


@app.command(name="list")
def letters_list(tenant: AnyTenantOption = None) -> None:
    """Print what is set aside: number, tenant, kind, cart id, version, when, why; a line each."""

    async def command() -> list[Letter]:
        async with connected(read_settings(), tenant) as place:
            return await place.ledger.letters(tenant)

    for letter in run(command()):
        when = http.timestamp(letter.set_aside_ms)
        about = f"{letter.number}  {letter.tenant}  {letter.kind}  {letter.cart_id}"
        out.print(plain(f"{about}  {letter.version}  {when}  {letter.reason}"))


@app.command(name="replay")
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
        async with connected(read_settings(), tenant) as place:
            letters = await place.ledger.letters(tenant, numbers or [])
            backlog = Backlog(place.shelf.runner)
            return await replay.run(place.ledger, backlog, letters, on_refused=_tell_refused)

    done = run(command())
    out.print(f"{done.written} written, {done.superseded} superseded, {done.refused} still refused")
    if done.refused:
        raise typer.Exit(1)


def _tell_refused(letter: Letter, reason: str) -> None:
    err.print(plain(f"number {letter.number}: {reason}"))
