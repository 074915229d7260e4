"""`/admin`: what operators' programs do over HTTP, against the service as it runs."""

import json
import re
from typing import Any

import httpx
import pytest

from cartsvc import embedded
from cartsvc.clock import wall_ms
from cartsvc.http import timestamp
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.model import MAX_QUANTITY, LineRequest, Owner
from cartsvc.settings import Settings
from cartsvc.trail import Entry, Trail
from tests import examples
from tests.callers import bearer
from tests.serving import serving
from tests.shop import LAMP, MUG, Shop

WHO = bearer("backoffice", "service")
AWAY = "postgresql://postgres@127.0.0.1:1/cartsvc"
NOWHERE = "redis://127.0.0.1:1/0"


def no(code: str, message: str, **numbers: Any) -> dict[str, Any]:
    return {"success": False, "message": message, "error": {"code": code, **numbers}}


def counted(sku: str, free: int, held: int = 0, sold: int = 0) -> dict[str, Any]:
    received = free + held + sold
    return {"sku": sku, "free": free, "held": held, "sold": sold, "received": received}


@pytest.fixture
async def stocked(shop: Shop, api_ledger: Ledger) -> Shop:
    """A lamp whose units are held, and a mug; the shop's clock is the service's."""
    shop.clock.ms = wall_ms()
    held = await shop.sell(LAMP, price="29.99", stock=100, stock_policy="hold")
    await shop.record(api_ledger, held, await shop.sell(MUG, price="12.50", stock=5))
    return shop


async def ask(
    http: httpx.AsyncClient, method: str, path: str, content: Any = None, **headers: str
) -> httpx.Response:
    headers = {**WHO, **{name.replace("_", "-"): value for name, value in headers.items()}}
    body = None if content is None else json.dumps(content)
    return await http.request(method, f"/admin{path}", content=body, headers=headers)


async def got(http: httpx.AsyncClient, method: str, path: str, content: Any = None) -> Any:
    answer = await ask(http, method, path, content)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


async def rows(ledger: Ledger) -> list[Entry]:
    """The newest first."""
    return await Trail(ledger).newest(None, 100)


@pytest.mark.usefixtures("stocked")
class TestStock:
    async def test_is_set_added_to_and_taken_out(self, http: httpx.AsyncClient) -> None:
        assert await got(http, "GET", f"/stock?sku={LAMP}") == counted(LAMP, 100)
        asked = {"sku": LAMP, "units": 60}
        assert await got(http, "PUT", "/stock", asked) == counted(LAMP, 60)
        assert await got(http, "POST", "/stock", {**asked, "units": 5}) == counted(LAMP, 65)
        assert await got(http, "POST", "/stock", {**asked, "units": -9}) == counted(LAMP, 56)

    async def test_that_carts_hold_stays(self, http: httpx.AsyncClient, shop: Shop) -> None:
        await shop.add(3)
        answer = await ask(http, "PUT", "/stock", {"sku": LAMP, "units": 2})
        told = no("stock_held", "Carts hold 3 units of it", held=3)
        assert (answer.status_code, answer.json()) == (409, told)
        answer = await ask(http, "POST", "/stock", {"sku": LAMP, "units": -98})
        told = no("insufficient_stock", "Only 97 units are free", available=97)
        assert (answer.status_code, answer.json()) == (409, told)
        assert await got(http, "GET", f"/stock?sku={LAMP}") == counted(LAMP, 97, held=3)

    async def test_that_has_no_counter(self, http: httpx.AsyncClient) -> None:
        for sku in ("none", "a b", "%00", "a/b/c", "%ff"):
            answer = await ask(http, "GET", f"/stock?sku={sku}")
            told = no("sku_not_found", "There is no stock counter of this SKU")
            assert (answer.status_code, answer.json()) == (404, told)

    async def test_that_redis_lost_is_null(self, http: httpx.AsyncClient, shop: Shop) -> None:
        await shop.redis.hdel(shop.bucket.stock, LAMP)
        found = await got(http, "GET", f"/stock?sku={LAMP}")
        nothing = dict.fromkeys(("free", "held", "sold"))
        assert found == {"sku": LAMP, **nothing, "received": 100}

    async def test_is_watched(self, http: httpx.AsyncClient, shop: Shop) -> None:
        assert await got(http, "GET", "/stock/watched") == {"watched": []}
        await got(http, "PUT", "/stock/watched", {"skus": [MUG]})
        found = await got(http, "PUT", "/stock/watched", {"skus": [LAMP]})
        assert found == {"watched": [{"sku": LAMP, "free": 100, "held": 0, "sold": 0}]}
        assert await shop.shelf.watched(shop.bucket) == [LAMP]

    async def test_comes_in_once_by_a_key(self, http: httpx.AsyncClient, shop: Shop) -> None:
        asked = {"sku": LAMP, "units": 5}
        first = await ask(http, "POST", "/stock", asked, idempotency_key="truck-7")
        await ask(http, "POST", "/stock", asked)
        again = await ask(http, "POST", "/stock", asked, idempotency_key="truck-7")
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotent-replay"] == "true"
        assert await shop.redis.hget(shop.bucket.stock, LAMP) == b"110"
        other = await ask(http, "POST", "/stock", {**asked, "units": 6}, idempotency_key="truck-7")
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        # Another program's key of that name is another.
        elses = {**bearer("another", "service"), "Idempotency-Key": "truck-7"}
        answer = await http.post("/admin/stock", json=asked, headers=elses)
        assert answer.json()["free"] == 115


@pytest.mark.usefixtures("stocked")
class TestSale:
    async def test_is_paused_and_goes_on(self, http: httpx.AsyncClient, shop: Shop) -> None:
        goes = {"paused": False, "reason": None, "by": None, "since": None, "recorded": True}
        assert await got(http, "GET", "/sale") == goes
        paused = await got(http, "PUT", "/sale", {"paused": True, "reason": "a wrong price"})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", paused.pop("since"))
        by = "service:backoffice"
        assert paused == {"paused": True, "reason": "a wrong price", "by": by, "recorded": True}
        body = {"product_id": LAMP, "quantity": 1}
        answer = await http.post("/api/cart", json=body)
        assert (answer.status_code, "a wrong price" in answer.text) == (503, True)
        assert await got(http, "PUT", "/sale", {"paused": False}) == goes
        assert (await http.post("/api/cart", json=body)).status_code == 200
        assert await shop.redis.exists(shop.bucket.paused) == 0


@pytest.mark.usefixtures("stocked")
class TestCarts:
    async def test_a_cart_is_shown_without_what_its_owner_alone_knows(
        self, http: httpx.AsyncClient, shop: Shop
    ) -> None:
        owner = Owner("session", "a-session-that-is-long")
        cart = await shop.add_lines(LineRequest(LAMP, 2), LineRequest(MUG, 1), owner=owner)
        await shop.store.save_for_later(shop.bucket, owner, MUG)
        found = await got(http, "GET", f"/carts/{cart.id}")
        lamp, mug = found.pop("items")
        assert found == {
            "id": cart.id,
            "owner": {"kind": "session", "id": "a-sess..."},
            "status": "ACTIVE",
            "version": 2,
            "created_at": timestamp(shop.clock.ms),
            "updated_at": timestamp(shop.clock.ms),
            "where": "redis",
            "dirty_since": timestamp(shop.clock.ms),
            "total_items": 2,
            "total_amount": 59.98,
        }
        assert lamp == {
            "sku": LAMP,
            "name": "Aurora Desk Lamp",
            "quantity": 2,
            "price": 29.99,
            "subtotal": 59.98,
            "held_until": timestamp(shop.clock.ms + 600_000),
            "saved": False,
        }
        assert (mug["held_until"], mug["saved"]) == (None, True)

    async def test_a_cart_that_holds_units_lets_them_go(
        self, http: httpx.AsyncClient, shop: Shop
    ) -> None:
        cart = await shop.add(3)
        for _ in range(2):
            found = await got(http, "POST", f"/carts/{cart.id}/release")
            assert (found["items"], found["version"]) == ([], 2)
        assert (await got(http, "GET", f"/stock?sku={LAMP}"))["free"] == 100

    @pytest.mark.parametrize("end", ["", "/release"])
    async def test_a_cart_that_there_is_not(self, http: httpx.AsyncClient, end: str) -> None:
        method = "POST" if end else "GET"
        for cart_id in ("0", "512", str(2**53 - 1)):
            answer = await ask(http, method, f"/carts/{cart_id}{end}")
            told = no("cart_not_found", "There is no such cart")
            assert (answer.status_code, answer.json()) == (404, told)
        for cart_id in ("x", "-1", "1.0", str(2**53), "9" * 40, "%00"):
            answer = await ask(http, method, f"/carts/{cart_id}{end}")
            told = no("invalid_cart_id", "cart_id must be a whole number")
            assert (answer.status_code, answer.json()) == (400, told)


@pytest.mark.usefixtures("stocked")
class TestPrice:
    async def test_is_set(self, http: httpx.AsyncClient, shop: Shop) -> None:
        assert await got(http, "GET", f"/price?sku={MUG}") == {"sku": MUG, "price": 12.5}
        answer = await ask(http, "PUT", "/price", {"sku": MUG, "price": 9.99})
        assert answer.text == f'{{"sku":"{MUG}","price":9.99,"before":12.50}}'
        assert (await shop.add(1, MUG)).lines[0].price_minor == 999

    @pytest.mark.parametrize(
        "price", ["9.999", "-0.01", "10000000.01", '"9.99"', "true", "null", "[]", "1e300", "1e-9"]
    )
    async def test_is_a_number_with_two_decimals(
        self, http: httpx.AsyncClient, shop: Shop, price: str
    ) -> None:
        before = await shop.everything()
        body = f'{{"sku":"{MUG}","price":{price}}}'
        answer = await http.put("/admin/price", content=body, headers=WHO)
        message = "price must be a number from 0 to 10000000 with at most two decimals"
        assert (answer.status_code, answer.json()) == (400, no("invalid_price", message))
        assert await shop.everything() == before

    async def test_of_what_there_is_not(self, http: httpx.AsyncClient) -> None:
        told = no("sku_not_found", "The catalogue has no such SKU")
        for answer in (
            await ask(http, "GET", "/price?sku=none"),
            await ask(http, "PUT", "/price", {"sku": "none", "price": 1}),
        ):
            assert (answer.status_code, answer.json()) == (404, told)


@pytest.mark.usefixtures("stocked")
class TestVerify:
    async def test_says_what_is_wrong_and_mends_it(
        self, http: httpx.AsyncClient, shop: Shop
    ) -> None:
        well = await got(http, "POST", "/verify", {})
        assert (well["ok"], well["wrong"], well["mended"]) == (True, [], [])
        assert well["looked_at"]["counters"] == 2
        await shop.redis.hincrby(shop.bucket.stock, LAMP, -1)
        wrong = {
            "what": f"counter {LAMP}",
            "detail": "has 99 free, 0 held, 0 sold, and 100 received",
        }
        found = await got(http, "POST", "/verify", {"repair": False})
        assert (found["ok"], found["wrong"], found["mended"]) == (False, [wrong], [])
        found = await got(http, "POST", "/verify", {"repair": True})
        assert (found["ok"], found["wrong"], found["mended"]) == (True, [], [wrong])


@pytest.mark.usefixtures("stocked")
class TestTrail:
    async def test_says_who_did_what(self, http: httpx.AsyncClient, api_ledger: Ledger) -> None:
        await got(http, "PUT", "/price", {"sku": MUG, "price": 9.99})
        await ask(http, "GET", "/stock?sku=none")
        newest, oldest = (await got(http, "GET", "/audit"))["rows"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", oldest.pop("at"))
        assert newest["number"] == oldest.pop("number") + 1
        ids = [newest["request_id"], oldest.pop("request_id")]
        assert len({*ids, None}) == 3
        assert newest["outcome"] == "refused: UnknownSku(sku='none')"
        assert oldest == {
            "tenant": "default",
            "actor": "service:backoffice",
            "via": "http",
            "action": "price.set",
            "subject": MUG,
            "before": {"price": "12.50"},
            "after": {"price": "9.99"},
            "outcome": "done",
        }
        assert len((await got(http, "GET", "/audit?limit=1"))["rows"]) == 1
        assert len(await rows(api_ledger)) == 2

    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "", "9" * 30])
    async def test_has_a_limit(self, http: httpx.AsyncClient, limit: str) -> None:
        answer = await ask(http, "GET", f"/audit?limit={limit}")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_limit"


CHANGES = {
    "PUT /admin/stock": {"sku": LAMP, "units": 1},
    "PUT /admin/stock/watched": {"skus": [LAMP]},
    "PUT /admin/sale": {"paused": True, "reason": "why"},
    "POST /admin/carts/256/release": None,
    "PUT /admin/price": {"sku": LAMP, "price": 1},
    "POST /admin/verify": {"repair": True},
}
"""What comes to the same when it is done again."""


@pytest.mark.parametrize("name", CHANGES)
async def test_a_key_is_refused_where_it_would_not_be_kept(
    http: httpx.AsyncClient, stocked: Shop, api_ledger: Ledger, name: str
) -> None:
    await stocked.add()
    before, (method, path) = await stocked.everything(), name.split()
    headers = {**WHO, "Idempotency-Key": "a"}
    answer = await http.request(method, path, json=CHANGES[name], headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Idempotency-Key header is not taken here")
    assert (await stocked.everything(), await rows(api_ledger)) == (before, [])


BAD: dict[str, tuple[str, str, Any, str]] = {
    "no sku": ("GET", "/stock", None, "invalid_sku"),
    "two skus": ("GET", f"/stock?sku={LAMP}&sku={MUG}", None, "invalid_sku"),
    "no body": ("PUT", "/stock", None, "invalid_body"),
    "a list": ("PUT", "/stock", [], "invalid_body"),
    "sku a number": ("PUT", "/stock", {"sku": 1, "units": 1}, "invalid_sku"),
    "no units": ("PUT", "/stock", {"sku": LAMP}, "invalid_units"),
    "a half": ("PUT", "/stock", {"sku": LAMP, "units": 0.5}, "invalid_units"),
    "units a text": ("PUT", "/stock", {"sku": LAMP, "units": "1"}, "invalid_units"),
    "fewer than none": ("PUT", "/stock", {"sku": LAMP, "units": -1}, "invalid_units"),
    "too many": ("PUT", "/stock", {"sku": LAMP, "units": MAX_QUANTITY + 1}, "invalid_units"),
    "far too many": ("POST", "/stock", {"sku": LAMP, "units": 2**70}, "invalid_units"),
    "more than fit": ("POST", "/stock", {"sku": LAMP, "units": MAX_QUANTITY}, "invalid_units"),
    "no skus": ("PUT", "/stock/watched", {}, "invalid_skus"),
    "one sku": ("PUT", "/stock/watched", {"skus": LAMP}, "invalid_skus"),
    "paused a text": ("PUT", "/sale", {"paused": "yes", "reason": "why"}, "invalid_paused"),
    "no reason": ("PUT", "/sale", {"paused": True}, "invalid_reason"),
    "a blank reason": ("PUT", "/sale", {"paused": True, "reason": " "}, "invalid_reason"),
    "a long reason": ("PUT", "/sale", {"paused": True, "reason": "a" * 201}, "invalid_reason"),
    "a reason in lines": ("PUT", "/sale", {"paused": True, "reason": "a\nb"}, "invalid_reason"),
    "no price": ("PUT", "/price", {"sku": LAMP}, "invalid_price"),
    "no sku's price": ("PUT", "/price", {"price": 1}, "invalid_sku"),
    "repair a text": ("POST", "/verify", {"repair": "yes"}, "invalid_repair"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_changes_nothing(http: httpx.AsyncClient, stocked: Shop, name: str) -> None:
    before = await stocked.everything()
    method, path, body, code = BAD[name]
    answer = await ask(http, method, path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
    assert await stocked.everything() == before


@pytest.mark.usefixtures("stocked")
class TestTenants:
    async def test_a_header_names_one(
        self, http: httpx.AsyncClient, stocked: Shop, api_ledger: Ledger
    ) -> None:
        acme = Shop(stocked.runner)
        acme.bucket = Bucket("acme")
        await acme.open()
        await acme.record(api_ledger, await acme.sell(LAMP, stock=7))
        answer = await ask(http, "GET", f"/stock?sku={LAMP}", x_tenant_id="acme")
        assert answer.json()["free"] == 7
        for headers in (bearer("b", "service", "acme"), bearer("b", "service")):
            url, headers = "/admin/sale", {**headers, "x-tenant-id": "acme"}
            body = {"paused": True, "reason": "acme's"}
            assert (await http.put(url, json=body, headers=headers)).status_code == 200
        assert await stocked.redis.exists(stocked.bucket.paused) == 0
        assert [row.tenant for row in await rows(api_ledger)] == ["acme"] * 3

    async def test_a_token_is_for_its_own(self, http: httpx.AsyncClient) -> None:
        headers = bearer("backoffice", "service", "acme")
        assert (await http.get("/admin/sale", headers=headers)).status_code == 401
        headers["x-tenant-id"] = "acme"
        assert (await http.get("/admin/sale", headers=headers)).status_code == 200

    @pytest.mark.parametrize("tenant", ["", "a b", "{x}", "a" * 65, "\xe4"])
    async def test_one_that_can_not_be(self, http: httpx.AsyncClient, tenant: str) -> None:
        headers = {**WHO, "x-tenant-id": tenant.encode("latin-1")}
        answer = await http.get("/admin/sale", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_x-tenant-id"

    async def test_one_that_there_is_not(self, http: httpx.AsyncClient, stocked: Shop) -> None:
        before = await stocked.everything()
        body = {"paused": True, "reason": "why"}
        answer = await ask(http, "PUT", "/sale", body, x_tenant_id="nobody")
        assert (answer.status_code, answer.json()) == (
            404,
            no("tenant_not_found", "Tenant not found"),
        )
        assert await stocked.everything() == before


class TestServersAway:
    async def test_without_postgresql_only_the_sale_is_paused(
        self, valkey: embedded.Valkey, stocked: Shop
    ) -> None:
        settings = Settings(redis_url=valkey.url, redis_timeout_s=5, database_url=AWAY)
        async with serving(settings) as http:
            before = await stocked.everything()
            answer = await ask(http, "PUT", "/stock", {"sku": LAMP, "units": 1})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["error"]["code"] == "not_recorded"
            assert await stocked.everything() == before
            paused = await got(http, "PUT", "/sale", {"paused": True, "reason": "at night"})
            assert (paused["paused"], paused["recorded"]) == (True, False)
            assert await stocked.redis.exists(stocked.bucket.paused)
            found = await got(http, "PUT", "/sale", {"paused": False})
            assert (found["paused"], found["recorded"]) == (False, False)

    @pytest.mark.usefixtures("stocked")
    async def test_without_redis_nothing_is_done(self, api_database_url: str) -> None:
        settings = Settings(redis_url=NOWHERE, database_url=api_database_url)
        async with serving(settings) as http:
            for name, body in CHANGES.items():
                method, path = name.split()
                answer = await http.request(method, path, json=body, headers=WHO)
                assert answer.status_code == 503, (name, answer.text)
                assert answer.json()["success"] is False


async def test_a_process_may_serve_none_of_it(valkey: embedded.Valkey, stocked: Shop) -> None:
    settings = Settings(redis_url=valkey.url, redis_timeout_s=5, database_url=AWAY, admin=0)
    async with serving(settings) as http:
        answer = await ask(http, "GET", "/sale")
        assert (answer.status_code, answer.json()) == (404, no("not_found", "Not Found"))
        document = (await http.get("/openapi.json")).json()
    assert [path for path in document["paths"] if path.startswith("/admin")] == []
    assert "admin" not in [tag["name"] for tag in document["tags"]]


async def test_the_documents_examples(
    http: httpx.AsyncClient, stocked: Shop, api_ledger: Ledger
) -> None:
    """A request of each operation with a body is granted."""
    for name, content in examples.of("admin").items():
        if "request" in content:
            method, path = name.split()
            answer = await http.request(method, path, json=content["request"], headers=WHO)
            assert answer.status_code == 200, (name, answer.text)
