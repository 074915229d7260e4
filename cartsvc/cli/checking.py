"""The command that audits a tenant's data."""

from typing import Annotated

import typer

from cartsvc.app import store_of
from cartsvc.backlog import Backlog
from cartsvc.cli.place import TenantOption, connected, read_settings, run
from cartsvc.cli.terminal import out, plain
from cartsvc.repair import Repair, Repaired
from cartsvc.verify import Verdict, Verifier

app = typer.Typer()


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
    values = read_settings()

    async def command() -> tuple[Verdict, Repaired | None]:
        async with connected(values, tenant) as place:
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

    verdict, repaired = run(command())
    left = verdict.findings if repaired is None else repaired.left
    for finding in repaired.mended if repaired else ():
        out.print(plain(f"mended: {finding.what} {finding.detail}"))
    for finding in left:
        out.print(plain(f"{'left' if repaired else 'wrong'}: {finding.what} {finding.detail}"))
    for noun in verdict.broken_off:
        out.print(plain(f"too many are wrong of {noun or 'them'}: not all were looked at"))
    counted = ", ".join(f"{verdict.looked_at[noun]} {noun}" for noun in verdict.looked_at if noun)
    out.print(plain(f"{counted}: {len(left) or 'nothing'} wrong"))
    if left or verdict.broken_off:
        raise typer.Exit(1)
