"""The rows that a transaction of the flush writes: carts, price changes, and what is set aside."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from cartsvc.errors import RowsRefused
from cartsvc.keys import Bucket
from cartsvc.model import Cart, PriceChange, item_id, split_sku
from cartsvc.sql import columns, query


class CartRows(NamedTuple):
    """Carts and their lines in the form in which they are written.

    `carts` is a sequence a column; `line_carts` and `line_ids` belong to the `lines`, a JSON array.
    """

    carts: list[Sequence[Any]]
    line_carts: list[int]
    line_ids: list[int]
    lines: str


def rows_of(carts: Collection[Cart]) -> CartRows:
    rows = [
        (
            cart.id,
            cart.owner.kind,
            cart.owner.id,
            cart.status,
            cart.version,
            cart.created_ms,
            cart.updated_ms,
            cart.last_line,
        )
        for cart in carts
    ]
    lines = [(cart.id, line) for cart in carts for line in cart.lines]
    return CartRows(
        columns(rows, 8),
        [cart_id for cart_id, _ in lines],
        [item_id(cart_id, line.number) for cart_id, line in lines],
        # As JSON, which is made at once: a column an array, it costs the worker five times that.
        msgspec.json.encode([line for _, line in lines]).decode(),
    )


_BODIES: dict[str, msgspec.json.Decoder[Any]] = {
    "cart": msgspec.json.Decoder(Cart),
    "price": msgspec.json.Decoder(PriceChange),
}
"""What a dead letter of a kind holds."""


class Written(NamedTuple):
    """How many carts were newer than their rows. Of the others, the active rows that are `ahead`:
    cart id -> version and time of the last change (ms)."""

    behind: int
    ahead: dict[int, tuple[int, int]]


class Flush:
    """Writes of one bucket; they count when the transaction that made this commits."""

    def __init__(self, connection: Any, bucket: Bucket) -> None:
        self.connection = connection
        self._bucket = bucket

    async def write_carts(self, carts: Collection[Cart]) -> Written:
        """Write carts that are newer than their rows, and count what converted ones sold."""
        return await self.write_rows(rows_of(carts))

    async def write_rows(self, rows: CartRows) -> Written:
        """As `write_carts`."""
        execute, tenant = self.connection.execute, self._bucket.tenant
        written = await self.connection.fetch(query("upsert_carts"), tenant, *rows.carts)
        ids = [row["id"] for row in written]
        known = [row["id"] for row in written if not row["is_new"]]
        if known:
            await execute(query("delete_lines"), tenant, known, rows.line_ids)
        lines = (rows.line_carts, rows.line_ids, rows.lines)
        await execute(query("upsert_lines"), tenant, ids, *lines)
        await execute(query("remove_outdated"), tenant, ids)
        statuses = dict(zip(rows.carts[0], rows.carts[3], strict=True))
        if converted := [cart_id for cart_id in ids if statuses[cart_id] == "CONVERTED"]:
            await execute(query("sell"), tenant, converted)
        others = statuses.keys() - set(ids)
        return Written(len(ids), await self._ahead(list(others)) if others else {})

    async def _ahead(self, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        rows = await self.connection.fetch(query("active_rows"), self._bucket.tenant, ids)
        return {row["id"]: (row["version"], row["updated_ms"]) for row in rows}

    async def prices_offset(self) -> str:
        """Id of the last stream entry that is written; nobody else moves it meanwhile."""
        offset: str = await self.connection.fetchval(
            query("prices_offset"), self._bucket.tenant, self._bucket.number
        )
        return offset

    async def advance_prices(self, offset: str) -> None:
        """Note how far the stream is written, in the same transaction as what it covers."""
        tenant, number = self._bucket.tenant, self._bucket.number
        await self.connection.execute(query("advance_prices"), tenant, number, offset)

    async def write_prices(self, changes: Sequence[PriceChange]) -> int:
        """Write price changes that are not there yet; returns how many were not."""
        rows = [
            (
                change.cart_id,
                item_id(change.cart_id, change.line_number),
                change.cart_version,
                *split_sku(change.sku),
                change.old_minor,
                change.new_minor,
                change.changed_ms,
            )
            for change in changes
        ]
        done: str = await self.connection.execute(
            query("insert_prices"), self._bucket.tenant, *columns(rows, 8)
        )
        return int(done.rpartition(" ")[2])

    async def set_aside(self, refused: Cart | PriceChange, reason: str) -> int | None:
        """Keep what was refused as a dead letter, whole.

        Returns its number, None where the cart is set aside at this version, or a later one.
        """
        if isinstance(refused, Cart):
            about = ("cart", refused.id, refused.version)
        else:
            about = ("price", refused.cart_id, refused.cart_version)
        number: int | None = await self.connection.fetchval(
            query("set_aside"),
            self._bucket.tenant,
            self._bucket.number,
            *about,
            msgspec.json.encode(refused),
            reason,
        )
        return number

    async def letter(self, number: int) -> Cart | PriceChange | None:
        """What is set aside under a number.

        Raises:
            RowsRefused: it can't be read, and so not be written either.
        """
        row = await self.connection.fetchrow(query("letter"), number)
        if row is None:
            return None
        try:
            found: Cart | PriceChange = _BODIES[row["kind"]].decode(row["body"])
        except ValueError as error:
            raise RowsRefused(f"is not readable as a {row['kind']}: {error}") from error
        return found

    async def remove_letter(self, number: int, version: int) -> None:
        """Forget what is set aside, unless it is a later version by now."""
        await self.connection.execute(query("remove_letter"), number, version)
