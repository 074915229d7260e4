"""The rehearsal: its shoppers do what shoppers do, and its checks see what is wrong."""

import asyncio
import csv
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from cartsvc import embedded, flush, importer, rows
from cartsvc.backlog import Backlog
from cartsvc.demo import FILE
from cartsvc.ledger import Ledger
from loadtests import invariants
from loadtests.__main__ import LOCUSTFILE
from tests.shop import LAMP, Shop

HOT = "507f1f77bcf86cd799439016"
ANNS_CART = "cart:{default:0}:session:ann"


PRODUCTS = f"""\
{{"id": "tee", "name": "Tee", "price": 10, "stock": 5,
"variants": [{{"id": "navy"}}, {{"id": "s", "stock": 3}}]}}
{{"id": "{LAMP}", "name": "Lamp", "price": 30, "stock": 5, "stock_policy": "hold"}}
"""


@pytest.fixture
async def flushed_shop(shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose one cart is in PostgreSQL."""
    monkeypatch.setattr(invariants, "PAUSE_S", 0)
    text = PRODUCTS.replace("5,\n", "5, ").encode()
    await importer.Importer(ledger, shop.shelf, shop.bucket, "USD").run(rows.read(BytesIO(text)))
    await shop.add(3, "tee", "navy")
    await shop.add(2, "tee")
    await shop.add(3, "tee", "s")
    await write(shop, ledger)
    return shop


async def write(shop: Shop, ledger: Ledger) -> None:
    await flush.carts(Backlog(shop.runner), ledger, shop.bucket, 10)


async def violations(shop: Shop, valkey: embedded.Valkey, database_url: str) -> list[str]:
    return await invariants.violations(valkey.url, database_url, shop.bucket, max_lines=3)


async def test_all_is_well(flushed_shop: Shop, valkey: embedded.Valkey, database_url: str) -> None:
    assert await violations(flushed_shop, valkey, database_url) == []


@pytest.mark.parametrize(
    ("sku", "counter", "units"), [("tee/navy", "tee", 6), ("tee/s", "tee/s", 4)]
)
async def test_a_cart_with_more_than_there_is_is_seen(
    flushed_shop: Shop,
    valkey: embedded.Valkey,
    database_url: str,
    sku: str,
    counter: str,
    units: int,
) -> None:
    await flushed_shop.redis.hincrby(ANNS_CART, f"q:{sku}", 1)
    found = await violations(flushed_shop, valkey, database_url)
    assert f"cart 256 wants {units} of {counter}, of which {units - 1} are" in found


async def test_what_an_audit_finds_is_seen(
    flushed_shop: Shop, valkey: embedded.Valkey, database_url: str, ledger: Ledger
) -> None:
    await flushed_shop.add(2, LAMP)
    await write(flushed_shop, ledger)
    await flushed_shop.redis.hincrby("held:{default:0}", LAMP, -1)
    assert await violations(flushed_shop, valkey, database_url) == [
        "cart 256 has 4 lines, and 3 are allowed",
        f"counter {LAMP} has 3 free, 1 held, 0 sold, and 5 received",
        f"counter {LAMP} has 1 held, and carts hold 2",
    ]


@pytest.mark.parametrize("left", ["dirty", "prices"])
async def test_a_backlog_that_stays_is_seen(
    flushed_shop: Shop,
    valkey: embedded.Valkey,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    left: str,
) -> None:
    monkeypatch.setattr(invariants, "CATCH_UP_S", 0.2)
    if left == "dirty":
        await flushed_shop.redis.zadd("dirty:{default:0}", {ANNS_CART: 1})
    else:
        await flushed_shop.redis.xadd("prices:{default:0}", {"cart": 256})
    found = await violations(flushed_shop, valkey, database_url)
    assert found == ["PostgreSQL has not caught up within 0.2 s"]


async def test_shoppers_of_the_locustfile_buy_from_the_demo_catalogue(
    api_url: str, shop: Shop, ledger: Ledger, tmp_path: Path
) -> None:
    with FILE.open("rb") as file:
        await importer.Importer(ledger, shop.shelf, shop.bucket, "USD").run(rows.read(file))
    # So few that a shopper who comes back for more hears of it.
    await shop.shelf.set_stock(shop.bucket, HOT, 1)
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "-u", "20", "-r", "20", "-t", "3s", "--csv", str(tmp_path / "load"),
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, "CARTSVC_URL": api_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "load_stats.csv").open() as stats:
        requests = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(stats)}
    assert min(requests["add"], requests["add (sold out)"]) > 0
    assert await shop.redis.hlen("carts:{default:0}") >= 20
