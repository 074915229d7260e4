"""/healthz and /readyz: what a supervisor and a load balancer are told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from cartsvc import embedded
from cartsvc.probes import Readiness
from cartsvc.settings import Settings
from tests.proxy import Proxy
from tests.serving import serving
from tests.shop import Shop

MAX_LAG_S = 60


async def checks(shop: Shop, **settings: Any) -> dict[str, dict[str, Any]]:
    return await Readiness(shop.store, shop.bucket, **{"max_lag_s": MAX_LAG_S, **settings}).checks()


async def waiting(shop: Shop, lag_s: float) -> None:
    """Have a change wait for PostgreSQL for so long."""
    since_ms = await shop.runner.now_ms() - round(lag_s * 1000)
    await shop.redis.zadd(shop.bucket.dirty, {"cart:{default:0}:session:ann": since_ms})


async def test_a_service_that_can_work_is_ready(http: httpx.AsyncClient, shop: Shop) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    answer = await http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": {
            "redis": {"ok": True},
            "postgresql": {"ok": True, "lag_s": 0.0, "max_lag_s": 0},
        },
    }


async def test_to_look_changes_nothing(shop: Shop) -> None:
    await shop.sell(stock=5)
    await shop.add()
    before = await shop.everything()
    assert (await checks(shop))["redis"] == {"ok": True}
    assert await shop.everything() == before


async def test_a_service_whose_redis_lacks_the_tenant_is_not_ready(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.redis.delete(shop.bucket.seq)
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    found = answer.json()
    assert found["ready"] is False
    assert found["checks"]["redis"] == {
        "ok": False,
        "problem": "it has nothing of tenant default",
    }
    assert (await http.get("/healthz")).status_code == 200


async def test_a_redis_that_runs_no_script_is_not_ready(shop: Shop) -> None:
    await shop.redis.config_set("min-replicas-to-write", 1)
    try:
        found = await checks(shop)
    finally:
        await shop.redis.config_set("min-replicas-to-write", 0)
    assert found["redis"]["ok"] is False
    assert "cart_add: NOREPLICAS" in found["redis"]["problem"]


@pytest.mark.parametrize(
    ("lag_s", "max_lag_s", "is_ok"),
    [(MAX_LAG_S - 5, MAX_LAG_S, True), (MAX_LAG_S + 5, MAX_LAG_S, False), (9_999, 0, True)],
)
async def test_a_change_may_wait_for_postgresql_as_long_as_is_set(
    shop: Shop, lag_s: float, max_lag_s: float, is_ok: bool
) -> None:
    await waiting(shop, lag_s)
    found = (await checks(shop, max_lag_s=max_lag_s))["postgresql"]
    assert found["ok"] is is_ok
    assert found["lag_s"] == pytest.approx(lag_s, abs=5)
    assert found.get("problem") == (None if is_ok else "changes have waited for it for too long")


@asynccontextmanager
async def of_redis_at(url: str) -> AsyncIterator[httpx.AsyncClient]:
    nobody = f"postgresql://postgres@127.0.0.1:{embedded.free_port()}/x"
    settings = Settings(redis_url=url, redis_timeout_s=0.3, database_url=nobody)
    async with serving(settings) as http:
        yield http


async def test_adds_need_no_postgresql(shop: Shop, valkey: embedded.Valkey) -> None:
    async with of_redis_at(valkey.url) as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_a_redis_that_does_not_answer_is_told_in_time(
    shop: Shop, valkey: embedded.Valkey
) -> None:
    async with Proxy(valkey.url) as proxy, of_redis_at(proxy.url) as http:
        assert (await http.get("/readyz")).status_code == 200
        proxy.passing.clear()
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["redis"]["ok"] is False
        assert answer.json()["checks"]["redis"]["problem"]
        assert answer.json()["checks"]["postgresql"]["ok"] is False
        proxy.passing.set()


async def test_a_redis_that_is_away_is_told(shop: Shop) -> None:
    async with of_redis_at(f"redis://127.0.0.1:{embedded.free_port()}/0") as http:
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "refused" in answer.json()["checks"]["redis"]["problem"].lower()
