"""The command that audits a tenant's data."""

from typing import Annotated

import typer

from cartsvc.cli.place import TenantOption, act
from cartsvc.cli.terminal import out, plain
from cartsvc.repair import Repaired
from cartsvc.verify import Verdict

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
    act(tenant, lambda acts: acts.verify(repair=repair), _show)


def _show(found: tuple[Verdict, Repaired | None]) -> None:
    verdict, repaired = found
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
