"""The contracts behind a reverse proxy that writes header names in lower case and adds its own."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cartsvc import identity
from tests.callers import NO_TLS
from tests.shop import LAMP, SECRET, Shop

PRODUCT = "201"


async def forward(
    address: tuple[str | None, int | None],
    client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
) -> None:
    """Pass one request on, and all of its answer back."""
    first, *lines = (await client.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    named = [line.split(b": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in named}
    headers |= {b"x-forwarded-for": b"203.0.113.7, 10.0.0.1", b"connection": b"close"}
    head = b"\r\n".join([first, *(name + b": " + value for name, value in headers.items())])
    server, to_server = await asyncio.open_connection(*address)
    content = await client.readexactly(int(headers.get(b"content-length", b"0")))
    to_server.write(head + b"\r\n\r\n" + content)
    to_client.write(await server.read(-1))
    for writer in (to_server, to_client):
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def proxy_url(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """A reverse proxy before the service, in whose shop there are two products."""
    target = urlsplit(str(http.base_url))
    address = (target.hostname, target.port)
    server = await asyncio.start_server(
        lambda client, to_client: forward(address, client, to_client), "127.0.0.1", 0
    )
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@pytest.fixture
async def proxied(proxy_url: str, shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    await shop.sell(LAMP)
    await shop.sell(PRODUCT)
    async with httpx.AsyncClient(base_url=proxy_url, verify=NO_TLS) as client:
        yield client


def bearer(kind: str = "customer") -> dict[str, str]:
    signed = identity.issue_token(SECRET, subject="789", kind=kind, tenant=None, ttl_s=60)
    return {"AUTHORIZATION": f"Bearer {signed}"}


async def test_000_session(proxied: httpx.AsyncClient) -> None:
    content = {"product_id": LAMP, "quantity": 2, "session_id": "me"}
    answer = await proxied.post("/api/cart", json=content)
    assert answer.status_code == 200
    assert answer.json()["data"]["cart"]["total_items"] == 2


async def test_001_tenant(proxied: httpx.AsyncClient) -> None:
    sent = {"X-Tenant-ID": "default", "X-Session-ID": "me"}
    answer = await proxied.post(
        "/cart/items", json={"productId": LAMP, "quantity": 2}, headers=sent
    )
    assert (answer.status_code, answer.headers["x-session-id"]) == (201, "me")
    assert (answer.json()["sessionId"], answer.json()["cartItems"][0]["quantity"]) == ("me", 2)
    logged_in = await proxied.get("/cart", headers={**sent, **bearer()})
    assert (logged_in.json()["userId"], logged_in.json()["merge"]["sessionId"]) == ("789", "me")


async def test_002_device(proxied: httpx.AsyncClient) -> None:
    answer = await proxied.post(
        "/cart/items", json={"product_id": 201, "quantity": 2}, headers={"DeviceID": "device-42"}
    )
    assert answer.status_code == 201
    assert (answer.json()["DeviceID"], answer.json()["total_items"]) == ("device-42", 2)


async def test_003_customer(proxied: httpx.AsyncClient) -> None:
    answer = await proxied.post(
        "/api/customer/cart/add", json={"product": 201, "quantity": 2}, headers=bearer()
    )
    assert (answer.status_code, answer.json()["data"]["total_items"]) == (201, 2)


async def test_004_records(proxied: httpx.AsyncClient) -> None:
    made = await proxied.post("/api/carts", json={"userId": 789}, headers=bearer("service"))
    assert made.status_code == 201
    content = {"cartId": made.json()["id"], "productId": 201, "quantity": 2}
    answer = await proxied.post("/api/cart-items", json=content, headers=bearer())
    assert (answer.status_code, answer.json()["quantity"]) == (201, 2)


async def curl(*arguments: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
@pytest.mark.usefixtures("proxied")
async def test_with_curl_as_the_readme_shows(proxy_url: str) -> None:
    content = json.dumps({"product_id": LAMP, "quantity": 2, "session_id": "me"})
    answer = await curl(f"{proxy_url}/api/cart", "-d", content)
    assert answer["data"]["cart"]["total_amount"] == 59.98
    content = json.dumps({"product_id": 201, "quantity": 2})
    answer = await curl(f"{proxy_url}/cart/items", "-H", "DeviceID: device-42", "-d", content)
    assert (answer["DeviceID"], answer["total"]) == ("device-42", 59.98)
