"""A sixth contract is one new file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from cartsvc import contract, contracts, docs
from tests.shop import LAMP, Shop, core_of

SIXTH = '''
"""Contract 005, kiosk: `/kiosk/{kiosk_id}`, one product at a time."""

import msgspec
from starlette.types import Scope

from cartsvc import http
from cartsvc.core import Core, line_request
from cartsvc.contract import Contract, Operation
from cartsvc.http import Reply, reply
from cartsvc.model import Owner
from cartsvc.problems import problem


class Press(msgspec.Struct, frozen=True):
    button: str


class Units(msgspec.Struct, frozen=True):
    units: int


class Failure(msgspec.Struct, frozen=True):
    sorry: str


_press = msgspec.json.Decoder(Press)


def contract(core: Core) -> Contract:
    async def press(scope: Scope, body: bytes) -> Reply:
        owner = Owner("kiosk", scope["path_params"]["kiosk_id"])
        line = line_request(http.decode(_press, body).button, 1)
        cart = await core.store.add(core.bucket, owner, [line])
        return reply(201, Units(cart.total_quantity))

    add = Operation("POST", "/kiosk/{kiosk_id}", press, "Press", Units, (400, 404), Press, 201)
    return Contract("kiosk", "005 kiosk", [add], refuse, Failure)


def refuse(error: Exception, _: Scope) -> Reply:
    found = problem(error)
    return reply(found.status, Failure(found.message), *found.headers)
'''


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "kiosk.py").write_text(SIXTH)
    monkeypatch.setattr(contracts, "__path__", [*contracts.__path__, str(tmp_path)])
    yield
    del sys.modules["cartsvc.contracts.kiosk"]


async def test_a_sixth_contract_is_one_new_file(one_more: None, shop: Shop) -> None:
    await shop.sell(stock=2)
    spoken = contracts.all_of(core_of(shop))
    assert [one.name for one in spoken] == [
        "session",
        "tenant",
        "device",
        "customer",
        "records",
        "kiosk",
    ]
    app = Starlette(routes=[*contract.routes(spoken, 65_536), *docs.routes(spoken)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        for units in (1, 2):
            answer = await client.post("/kiosk/7", json={"button": LAMP})
            assert (answer.status_code, answer.json()) == (201, {"units": units})
        answer = await client.post("/kiosk/7", json={"button": LAMP})
        sorry = {"sorry": "Insufficient stock. Available: 2, already in cart: 2"}
        assert (answer.status_code, answer.json()) == (400, sorry)
        answer = await client.put("/kiosk/7", json={})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json() == {"sorry": "Method Not Allowed"}
        described = (await client.get("/openapi.json")).json()["paths"]["/kiosk/{kiosk_id}"]
        answers = {"201", "400", "404", "413", "422", "429", "500", "503"}
        assert set(described["post"]["responses"]) == answers
