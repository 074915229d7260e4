"""Changes of stock that meet on the way from PostgreSQL to Redis."""

import asyncio
import io
from typing import Any

import pytest

from cartsvc import rows
from cartsvc.importer import Importer
from cartsvc.ledger import Ledger
from cartsvc.model import StockLevel
from cartsvc.shelf import Shelf
from cartsvc.stock import Recorded, Stock
from tests.shop import LAMP, Shop
from tests.wait import wait_until

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_an_import_and_a_stock_change_do_not_cross(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import has set the counter and not yet recorded it when the operator sets it too."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    set_stocks = Shelf.set_stocks

    async def held_up(*arguments: Any) -> Any:
        levels = await set_stocks(*arguments)
        if not arrived.is_set():
            arrived.set()
            await go_on.wait()
        return levels

    monkeypatch.setattr(Shelf, "set_stocks", held_up)
    importer = Importer(ledger, open_shop.shelf, open_shop.bucket, "USD")
    stock = Stock(ledger, open_shop.shelf, open_shop.bucket)
    file = io.BytesIO(f'{{"id": "{LAMP}", "name": "Lamp", "price": 1, "stock": 20}}'.encode())
    importing = asyncio.create_task(importer.run(rows.read(file), set_stock=True))
    await arrived.wait()
    setting = asyncio.create_task(stock.set(LAMP, 3))

    async def settled() -> bool:
        return setting.done() or await ledger.pool.fetchval(WAITING) == 1

    await wait_until(settled)
    go_on.set()
    await asyncio.gather(importing, setting)
    level = await stock.get(LAMP)
    assert level == Recorded(LAMP, 3, StockLevel(LAMP, 3, 0, 0))
