"""The command that shows who did what."""

from typing import Annotated

import typer

from cartsvc import http
from cartsvc.cli.place import AnyTenantOption, connected, read_settings, run
from cartsvc.cli.terminal import out, plain
from cartsvc.trail import Entry, Trail

app = typer.Typer()


@app.command()
def audit(
    tenant: AnyTenantOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows, the newest.")] = 50,
) -> None:
    """Print what operators did and looked at, the newest first, a line each.

    Number, when, tenant, who, what, of what, what came of it, and how it was before and after.
    """

    async def command() -> list[Entry]:
        async with connected(read_settings(), tenant) as place:
            return await Trail(place.ledger).newest(tenant, limit)

    for entry in run(command()):
        out.print(plain(_line(entry)))


def _line(entry: Entry) -> str:
    when = http.timestamp(entry.at_ms)
    parts = [str(entry.number), when, entry.tenant, entry.actor, entry.action, entry.subject or "-"]
    parts.append(entry.outcome)
    if entry.before is not None:
        parts.append(f"{entry.before} ->")
    if entry.after is not None:
        parts.append(entry.after)
    return "  ".join(parts)
