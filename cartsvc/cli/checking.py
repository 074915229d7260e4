"""The command that audits a tenant's data."""

from typing import Annotated

import typer

from cartsvc.acts import Audited
from cartsvc.cli.place import TenantOption, act
from cartsvc.cli.terminal import out, plain

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


def _show(found: Audited) -> None:
    for finding in found.mended:
        out.print(plain(f"mended: {finding.what} {finding.detail}"))
    wrong = "left" if found.repaired else "wrong"
    for finding in found.left:
        out.print(plain(f"{wrong}: {finding.what} {finding.detail}"))
    for noun in found.verdict.broken_off:
        out.print(plain(f"too many are wrong of {noun or 'them'}: not all were looked at"))
    counted = ", ".join(f"{units} {noun}" for noun, units in found.verdict.looked_at.items())
    out.print(plain(f"{counted}: {len(found.left) or 'nothing'} wrong"))
    if not found.is_well:
        raise typer.Exit(1)
