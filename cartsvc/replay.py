"""Replaying dead letters: writing once more what PostgreSQL refused."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cartsvc.backlog import Backlog
from cartsvc.errors import RowsRefused
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import Cart, Letter


@dataclass(slots=True)
class Replayed:
    """How many dead letters were written, or there already, or newer; or are refused again."""

    written: int = 0
    superseded: int = 0
    refused: int = 0


async def run(
    ledger: Ledger,
    backlog: Backlog,
    letters: Iterable[Letter],
    *,
    on_refused: Callable[[Letter, str], None] = lambda _letter, _reason: None,
) -> Replayed:
    """Write what letters hold, each in a transaction that removes it; what is refused stays."""
    done = Replayed()
    for letter in letters:
        try:
            if await _write(ledger, backlog, letter):
                done.written += 1
            else:
                done.superseded += 1
        except RowsRefused as error:
            done.refused += 1
            on_refused(letter, error.reason)
    return done


async def _write(ledger: Ledger, backlog: Backlog, letter: Letter) -> bool:
    """Whether it was written: not if it is there already, or its letter is gone."""
    bucket = Bucket(letter.tenant, letter.bucket)
    async with ledger.write(bucket) as flush:
        # Not locked: whoever writes a cart locks its row first, and then what is set aside of it.
        row = await flush.letter(letter.number)
        if row is None:
            return False
        if isinstance(row, Cart):
            written = (await flush.write_carts([row])).behind
            await flush.remove_letter(letter.number, row.version)
            # A closed cart has stayed in Redis until now. The flush, which has to wait for the
            # commit, finds it written and lets it go.
            await backlog.mark(bucket, row.id)
        else:
            written = await flush.write_prices([row])
            await flush.remove_letter(letter.number, row.cart_version)
    return bool(written)
