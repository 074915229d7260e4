"""Shoppers of the rehearsal: they do what shoppers do, and notice a wrong answer."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from cartsvc import demo, errors, importer, rows
from cartsvc.contracts import customer, device, records, session, tenant
from cartsvc.embedded import free_port
from cartsvc.http import notice_header
from cartsvc.ledger import Ledger
from cartsvc.model import Notice
from cartsvc.settings import SettingError
from loadtests import options, outcomes, products
from loadtests.basket import Basket
from loadtests.generator import LOCUSTFILE
from tests.callers import NO_TLS
from tests.shop import LAMP, SECRET, Shop
from tests.wait import wait_until

HASTY = Path(__file__).with_name("hasty_locustfile.py")
CHANGES = ("read", "set", "remove")
SNEAKER, KETTLE = "507f1f77bcf86cd799439020", "210"


def environ(**values: str) -> dict[str, str]:
    """Of a Locust that hears of no service but the one that is named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARTSVC_")}
    return {**kept, **values}


async def locust(
    folder: Path, *arguments: str, file: Path = LOCUSTFILE, **values: str
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "locust", "-f", str(file), *arguments],
        env=environ(**values),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
async def demo_shop(shop: Shop, api_ledger: Ledger) -> Shop:
    """The demo's catalogue, with so few of what everybody wants that most shoppers hear of it."""
    with demo.FILE.open("rb") as file:
        await importer.Importer(api_ledger, shop.shelf, shop.bucket, "USD").run(rows.read(file))
    for sku, units in ((SNEAKER, 20), (KETTLE, 1)):
        await shop.shelf.set_stock(shop.bucket, sku, units)
    return shop


SEEN = (
    *(f"{contract} add" for contract in ("000", "001", "002", "003", "004")),
    *(f"{contract} add (sold out)" for contract in ("000", "001", "002", "003", "004")),
    *(f"{contract} {what}" for contract in ("000", "001", "002", "003") for what in CHANGES),
    *("000 add again", "001 login", "004 open", "004 checkout", "004 list", "004 look at one"),
)


@pytest.mark.slow
async def test_shoppers_of_every_kind_buy_from_the_demo_catalogue(
    api_url: str, demo_shop: Shop, tmp_path: Path
) -> None:
    done = await locust(
        tmp_path,
        *("--headless", "--only-summary", "--equal-weights", "--json-file", "load"),
        *("-u", "55", "-r", "55", "-t", "30s"),
        file=HASTY,
        CARTSVC_URL=api_url,
        CARTSVC_JWT_SECRET=SECRET,
        CARTSVC_LOAD_SHAPE="none",
        UNTIL=",".join(SEEN),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(SEEN) <= {one["name"] for one in json.loads((tmp_path / "load.json").read_bytes())}
    assert any(map(int, await demo_shop.redis.hvals("sold:{default:0}")))


class WrongService:
    """Contract 000, by one who has heard of it. `tap` answers an add that is sent again."""

    def __init__(self, *, is_alike: bool) -> None:
        self.is_alike = is_alike
        self.answers: dict[str, bytes] = {}
        self.units: dict[str, dict[str, int]] = {}

    def answer(self, method: str, path: str, key: str, body: Any) -> bytes:
        if method == "GET":
            return self.cart(path.partition("session_id=")[2])
        lines = self.units.setdefault(body["session_id"], {})
        # Twice, whatever the key says.
        lines[body["product_id"]] = lines.get(body["product_id"], 0) + 1
        now = self.cart(body["session_id"])
        return self.answers.setdefault(key, now) if self.is_alike else now

    def cart(self, session_id: str) -> bytes:
        lines = self.units.get(session_id, {})
        items = [{"product_id": sku, "quantity": units} for sku, units in lines.items()]
        return json.dumps({"data": {"cart": {"items": items}}}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            method, path, _ = head.decode().split()
            headers = {}
            while line := (await reader.readline()).decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            content = self.answer(
                method, path, headers.get("idempotency-key", ""), json.loads(body or b"null")
            )
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        writer.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_alike", "told"),
    [
        (False, "the same request with the same key was answered in two ways"),
        (True, "wrong cart: it shows 2 of .*, and not 1"),
    ],
)
async def test_the_double_tapper_notices_a_service_that_applies_twice(
    tmp_path: Path, is_alike: bool, told: str
) -> None:
    server = await asyncio.start_server(WrongService(is_alike=is_alike).serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    done = await locust(
        tmp_path,
        *("DoubleTapper", "--headless", "--only-summary", "-u", "1", "-t", "20s"),
        file=HASTY,
        CARTSVC_URL=f"http://127.0.0.1:{port}",
        CARTSVC_LOAD_SHAPE="none",
        CARTSVC_LOAD_PRODUCTS=LAMP,
    )
    server.close()
    assert done.returncode == 1
    assert re.search(told, done.stderr), done.stderr


@pytest.mark.slow
async def test_who_needs_a_token_stays_away_without_a_secret(tmp_path: Path) -> None:
    done = await locust(tmp_path, "--list")
    assert options.WITHOUT_TOKENS in done.stderr
    assert set(done.stdout.split()[2:]) == {
        *("Browser", "BargainHunter", "Bot", "DoubleTapper", "StoreGuest", "AppShopper")
    }


@pytest.mark.slow
async def test_a_wrong_option_is_told_in_a_line(tmp_path: Path) -> None:
    done = await locust(tmp_path, "--list", CARTSVC_LOAD_USERS="many")
    assert done.returncode == 1
    assert done.stderr == "CARTSVC_LOAD_USERS: 'many' is not a whole number of at least 1\n"


@asynccontextmanager
async def locust_page(folder: Path, **values: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of Locust's web page."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--web-port", str(port)),
        env=environ(**values),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=NO_TLS) as page:
            yield page
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


@pytest.mark.slow
async def test_the_page_lets_shoppers_and_a_shape_be_picked(
    api_url: str, demo_shop: Shop, tmp_path: Path
) -> None:
    async def shows_hunters() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return "BargainHunter" in (await page.get("/")).text
        return False

    async def names() -> set[str]:
        stats = (await page.get("/stats/requests")).json()["stats"]
        return {one["name"] for one in stats if one["num_requests"]}

    async def has_added() -> bool:
        return "000 add" in await names()

    async with locust_page(tmp_path, CARTSVC_URL=api_url, CARTSVC_LOAD_USERS="5") as page:
        await wait_until(shows_hunters)
        chosen = {"user_classes": "Browser", "shape_class": "Opening", "user_count": "1"}
        begun = (await page.post("/swarm", data=chosen)).json()
        assert begun["message"] == "Swarming started using shape class 'Opening'"
        await wait_until(has_added)
        seen = await names()
    assert seen <= {"Aggregated", "000 add", "000 read", "000 set", "000 remove"}


def test_a_basket_knows_what_a_cart_has_to_show() -> None:
    basket = Basket()
    basket.put("tee", 2)
    basket.put("mug", 1)
    basket.put("tee", 1)
    assert basket.problem({"tee": 3, "mug": 1}) == ""
    assert basket.problem({"tee": 2, "mug": 1}) == "wrong cart: it shows 2 of tee, and not 3"
    assert basket.problem({"tee": 3}) == "wrong cart: it shows 0 of mug, and not 1"
    assert basket.problem({"tee": 3}, is_whole=False) == ""
    assert basket.problem({"tee": 3, "mug": 1, "hat": 1}) != ""
    basket.set("tee", 5)
    basket.set("mug", 0)
    assert basket.problem({"tee": 5}) == ""


def test_what_left_a_cart_by_itself_is_not_missed() -> None:
    basket = Basket()
    basket.put("tee", 2)
    [(_, notice)] = notice_header(
        [Notice("tee", 2, "hold_expired"), Notice("mug/s", 1, "hold_expired")]
    )
    # Told with the answer to the add that put the second of them in.
    basket.told(notice.decode())
    basket.put("mug/s", 2)
    assert basket.problem({"mug/s": 1}) == ""
    assert basket.problem({"mug/s": 1, "tee": 2}) != ""


SCOPE: dict[str, Any] = {"method": "POST", "path": "/", "path_params": {}}


@pytest.mark.parametrize("contract", [session, tenant, device, customer, records])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.OutOfStock("lamp", 1, 0), "sold out"),
        (errors.OutOfStock("lamp", 1, 1), "sold out"),
        (errors.BuyerLimit("lamp", 2, 2), "no more a buyer"),
        (errors.OrderLimit("lamp", 2, 2), "no more an order"),
        (errors.BelowMinimum("lamp", 2), "too few"),
        (errors.CartFull(50), "cart is full"),
        (errors.CartSpent(4095), "cart is full"),
        (errors.SaleNotStarted("lamp", 1, 1), "not yet on sale"),
        (errors.SaleEnded("lamp", 1), "sale is over"),
        (errors.TooManyGuests(5), "too many"),
        (errors.UnknownProduct("lamp"), None),
        (errors.NoToken(), None),
        (errors.NotWarm(), None),
        (errors.Overloaded("memory"), None),
        (ValueError("not meant"), None),
    ],
)
def test_a_refusal_that_sales_have_is_told_from_a_failure(
    contract: ModuleType, error: Exception, reason: str | None
) -> None:
    answer = contract.refuse(error, SCOPE)
    assert outcomes.reason(answer.status, answer.body.decode()) == reason


def test_a_sale_that_is_paused_is_no_failure() -> None:
    assert outcomes.reason(503, '{"error":{"code":"sale_paused"}}') == "sale is paused"
    assert outcomes.reason(503, '{"message":"The sale is paused: stocktaking"}') == "sale is paused"


def test_lines_that_have_left_before_a_checkout_are_told() -> None:
    answer = records.refuse(errors.CartChanged(), SCOPE)
    assert outcomes.reason(answer.status, answer.body.decode()) == outcomes.LINES_LEFT


def test_names_are_put_together_and_taken_apart() -> None:
    assert outcomes.name("000 add", "sold out") == "000 add (sold out)"
    assert outcomes.parts("000 add (sold out)") == ("000 add", "sold out")
    assert outcomes.parts(outcomes.name("000 add")) == ("000 add", None)


def test_each_contract_asks_for_what_it_can_name() -> None:
    skus = products.of_demo()
    assert products.hot(skus) == [SNEAKER, KETTLE]
    assert "507f1f77bcf86cd799439017" not in skus  # not active
    choices = {contract: products.choice(contract, skus) for contract in ("000", "002", "003")}
    assert {contract: one and one.hot for contract, one in choices.items()} == {
        "000": SNEAKER,
        "002": SNEAKER,
        "003": KETTLE,
    }
    assert choices["003"]
    assert "123/variation_id_1" in choices["003"].others
    assert products.choice("000", ["210"]) is None
    assert products.choice("003", ["210"]) == ("210", ["210"])


def test_addresses_are_those_of_make_run_unless_another_service_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options.addresses({}) == {"CARTSVC_URL": "http://127.0.0.1:8000"}
    (tmp_path / ".cartsvc").mkdir()
    env = "CARTSVC_URL=http://127.0.0.1:81\nCARTSVC_JWT_SECRET='a b'\n"
    (tmp_path / ".cartsvc/env").write_text(env)
    told = {"CARTSVC_URL": "http://127.0.0.1:81", "CARTSVC_JWT_SECRET": "a b"}
    assert options.addresses({}) == told
    other = {"CARTSVC_JWT_SECRET": "c", "HOME": "/"}
    assert options.addresses(other) == told | {"CARTSVC_JWT_SECRET": "c"}
    assert options.addresses({"CARTSVC_URL": "http://other"}) == {"CARTSVC_URL": "http://other"}
    assert options.addresses({"CARTSVC_URL": ""}) == told
    for url in ("here", "http://", "http://here/cart", "redis://here"):
        with pytest.raises(SettingError, match=f"CARTSVC_URL: '{url}' is not"):
            options.addresses({"CARTSVC_URL": url})


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("USERS", "0", "'0' is not a whole number of at least 1"),
        ("SECONDS", "1.5", "'1.5' is not a whole number of at least 1"),
        ("PROCESSES", "-1", "'-1' is not a whole number of at least 1"),
        ("SHAPE", "Sail", "'Sail' is not one of Sale, Opening, none"),
    ],
)
def test_options_are_refused_by_name(name: str, text: str, told: str) -> None:
    with pytest.raises(SettingError, match=f"CARTSVC_LOAD_{name}: {told}"):
        options.read({f"CARTSVC_LOAD_{name}": text})
