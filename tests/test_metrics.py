"""/metrics: what was asked and answered is counted, once, over all processes of a service."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from cartsvc import embedded, metrics, scrape
from cartsvc.backlog import Backlog
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.metrics import BOUNDS_S, Board, Duration
from cartsvc.sale import Sale
from cartsvc.scrape import Scrape
from cartsvc.settings import Settings
from cartsvc.worker import Worker
from tests.callers import NO_TLS
from tests.mutants import mutant
from tests.raw import exchange
from tests.rush import rush
from tests.scraped import Scraped
from tests.scraped import scrape as scraped
from tests.serving import serving
from tests.shop import LAMP, MUG, Shop
from tests.test_serve import adds, servers
from tests.test_serve import serving as serving_processes
from tests.wait import wait_until

ADD = {"product_id": LAMP, "quantity": 1, "session_id": "ann"}
REQUESTS = "cartsvc_request_duration_seconds_count"
ADDED = {"contract": "session", "method": "POST", "route": "/api/cart"}


async def test_requests_are_counted_by_route_and_status(
    http: httpx.AsyncClient, shop: Shop
) -> None:
    await shop.sell(stock=2)
    before = await scraped(http)
    for _ in range(3):
        await http.post("/api/cart", json=ADD)
    after = await scraped(http)
    for status, count in (("200", 2), ("400", 1)):
        labels = {**ADDED, "status": status}
        assert after(REQUESTS, **labels) - before(REQUESTS, **labels) == count
        buckets = REQUESTS.replace("count", "bucket")
        assert after(buckets, le="+Inf", **labels) == after(REQUESTS, **labels)


@pytest.mark.parametrize(
    ("request_", "contract", "reason"),
    [
        (("POST", "/api/cart", {**ADD, "quantity": 9}), "session", "out_of_stock"),
        (("POST", "/api/cart", {**ADD, "product_id": MUG}), "session", "unknown_product"),
        (("POST", "/api/cart", {}), "session", "invalid"),
        (("POST", "/api/customer/cart", {}), "customer", "no_token"),
        (("PUT", "/api/cart", {}), "session", "method_not_allowed"),
        (("GET", "/cart", None), "tenant", "invalid"),
    ],
    ids=lambda one: one if isinstance(one, str) else one[1],
)
async def test_refusals_are_counted_by_reason(
    http: httpx.AsyncClient,
    shop: Shop,
    request_: tuple[str, str, object],
    contract: str,
    reason: str,
) -> None:
    await shop.sell(stock=2)
    method, path, body = request_
    before = await scraped(http)
    answer = await http.request(method, path, json=body)
    assert answer.status_code >= 400
    after = await scraped(http)
    labels = {"contract": contract, "reason": reason}
    name = "cartsvc_refusals_total"
    assert after(name, **labels) - before(name, **labels) == 1
    assert after(name) - before(name) == 1
    status = str(answer.status_code)
    assert after(REQUESTS, status=status) - before(REQUESTS, status=status) == 1


async def test_a_method_that_no_route_has_makes_no_label_of_its_own(
    http: httpx.AsyncClient,
) -> None:
    await http.request("PURGE", "/api/cart")
    found = await scraped(http)
    assert found(REQUESTS, method="PURGE") == 0
    assert found(REQUESTS, method="other", route="/api/cart", status="405") > 0


async def test_an_answer_that_is_told_again_is_counted(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=5)
    before = await scraped(http)
    for _ in range(3):
        await http.post("/api/cart", json=ADD, headers={"Idempotency-Key": "a"})
    after = await scraped(http)
    assert after("cartsvc_replays_total") - before("cartsvc_replays_total") == 2


async def test_what_is_no_request_is_counted(http: httpx.AsyncClient, api_url: str) -> None:
    before = await scraped(http)
    await exchange(api_url, b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")
    after = await scraped(http)
    labels = {"status": "431"}
    name = "cartsvc_turned_away_total"
    assert after(name, **labels) - before(name, **labels) == 1


async def test_scripts_and_the_link_are_counted(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=5)
    before = await scraped(http)
    await http.post("/api/cart", json=ADD)
    after = await scraped(http)
    name = "cartsvc_script_duration_seconds_count"
    assert after(name, script="cart_add") - before(name, script="cart_add") == 1
    assert after("cartsvc_redis_script_calls_total") > before("cartsvc_redis_script_calls_total")
    assert after("cartsvc_redis_script_seconds_total") > 0
    assert after("cartsvc_link_events_total", event="made") >= 1
    assert after("cartsvc_link_in_flight") == 0
    assert after("cartsvc_redis_memory_bytes") > 0
    assert after("cartsvc_process_resident_memory_bytes") > 10_000_000
    assert after("cartsvc_process_cpu_seconds_total") > 0


async def test_what_waits_for_postgresql_is_told(
    http: httpx.AsyncClient, api_ledger: Ledger, shop: Shop
) -> None:
    await shop.sell(stock=5)
    await http.post("/api/cart", json=ADD)
    await api_ledger.pool.execute(
        "INSERT INTO dead_letter (tenant, bucket, kind, cart_id, version, body, reason)"
        " VALUES ('default', 0, 'cart', 1, 1, '{}', 'a test')"
    )
    found = await scraped(http)
    of = {"tenant": "default"}
    assert found("cartsvc_carts", **of) == found("cartsvc_dirty_carts", **of) == 1
    assert 0 < found("cartsvc_flush_lag_seconds", **of) < 60
    assert found("cartsvc_dead_letters", **of) == 1
    assert found("cartsvc_redis_up") == found("cartsvc_postgresql_up") == 1
    assert found("cartsvc_overloaded", **of) == 0


async def test_a_pause_and_what_is_watched_are_told(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(stock=5, stock_policy="hold")
    await shop.add(2)
    await shop.redis.sadd("watched:{default:0}", LAMP, "gone")
    found = await scraped(http)
    of = {"tenant": "default", "sku": LAMP}
    units = [found("cartsvc_stock_units", state=state, **of) for state in ("free", "held", "sold")]
    assert units == [3, 2, 0]
    assert found("cartsvc_stock_units", sku="gone") == 0
    assert found("cartsvc_sale_paused", tenant="default") == 0
    await Sale(shop.runner).pause(shop.bucket, "a wrong price", "ann")
    assert (await scraped(http))("cartsvc_sale_paused", tenant="default") == 1


async def test_what_a_worker_did_is_told(shop: Shop, ledger: Ledger) -> None:
    await ledger.open_bucket(shop.bucket)
    await shop.sell(stock=5)
    await shop.add()
    worker = Worker(shop.store, Backlog(shop.runner), ledger, batch=10, interval_s=1)
    await worker.run_once()
    await worker.run_once()
    noted = await shop.redis.hgetall("flush:{default:0}")
    assert (noted[b"passes"], noted[b"carts"], noted[b"last_carts"]) == (b"2", b"1", b"0")
    text = await Scrape(metrics.ALONE, shop.store, ledger, shop.bucket).text()
    found = Scraped(text.decode())
    of = {"tenant": "default"}
    assert found("cartsvc_flush_passes_total", **of) == 2
    assert found("cartsvc_flush_carts_total", **of) == 1
    assert found("cartsvc_flush_seconds_total", **of) > 0
    when = found("cartsvc_flush_last_pass_timestamp_seconds", **of)
    assert when == int(noted[b"last"]) / 1000


async def test_what_somebody_wrote_in_the_place_of_a_workers_notes_stops_nothing(
    shop: Shop, ledger: Ledger
) -> None:
    await ledger.open_bucket(shop.bucket)
    await shop.sell(stock=5)
    await shop.add()
    await shop.redis.set("flush:{default:0}", "mine")
    worker = Worker(shop.store, Backlog(shop.runner), ledger, batch=10, interval_s=1)
    assert (await worker.run_once()).carts == 1
    await shop.redis.delete("flush:{default:0}")
    await shop.redis.hset("flush:{default:0}", b"\xff", "x")
    text = await Scrape(metrics.ALONE, shop.store, ledger, shop.bucket).text()
    assert Scraped(text.decode())("cartsvc_redis_up") == 1


async def test_a_store_that_is_away_is_told_as_that(
    shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"127.0.0.1:{embedded.free_port()}"
    settings = Settings(
        redis_url=f"redis://{nobody}/0", database_url=f"postgresql://postgres@{nobody}/x"
    )
    async with serving(settings) as http:
        found = await scraped(http)
        assert ("cartsvc_redis_up", frozenset()) in found.values
        assert ("cartsvc_postgresql_up", frozenset()) in found.values
        assert found("cartsvc_redis_up") == found("cartsvc_postgresql_up") == 0
        assert found("cartsvc_processes") == 1


@pytest.mark.slow
async def test_several_processes_are_one_service(shop: Shop, valkey: embedded.Valkey) -> None:
    await shop.sell(stock=900)
    async with (
        serving_processes(valkey.url, 2) as (parent, url),
        httpx.AsyncClient(base_url=url, verify=NO_TLS) as http,
    ):
        assert {answer.status for answer in await rush(url, "/api/cart", adds(40))} == {200}

        async def counted() -> tuple[float, float]:
            found = await scraped(http)
            return found(REQUESTS, status="200", **ADDED), found("cartsvc_processes")

        await wait_until(counted, (40, 2))
        # What a process counted before it died stays counted, by whichever is asked.
        asked = await process_that_answers(http)
        [other] = set(servers(parent)) - {asked}
        os.kill(other, signal.SIGKILL)
        await wait_until(lambda: other not in servers(parent) and len(servers(parent)) == 2)
        assert (await counted())[0] == 40


async def process_that_answers(http: httpx.AsyncClient) -> int:
    """The process that the client is connected to."""
    port = (await http.get("/healthz")).extensions["network_stream"].get_extra_info("client_addr")
    [pid] = {one.pid for one in psutil.net_connections("tcp") if one.raddr == port and one.pid}
    return int(pid)


# -- the board


@pytest.fixture
def counted() -> Iterator[metrics.Counted]:
    """A counter of the test's own."""
    name = metrics.Metric("cartsvc_tests", "of a test", ("of",))
    found: metrics.Counted = {}
    metrics.COUNTERS[name] = found
    yield found
    del metrics.COUNTERS[name]


def other_process(folder: Path, name: str, *, age_s: float = 0.0, count: float = 1) -> None:
    one = metrics.snapshot()
    one.counters["cartsvc_tests"] = [(("a",), count)]
    one.durations["cartsvc_script_duration_seconds"] = [(("x",), [1] * (len(BOUNDS_S) + 1), 2.0)]
    one.gauges["cartsvc_process_resident_memory_bytes"] = 1e15
    one.at_s -= age_s
    (folder / name).write_bytes(msgspec.msgpack.encode(one))


async def page(folder: Path, shop: Shop, ledger: Ledger) -> Scraped:
    board = Board(folder)
    return Scraped((await Scrape(board, shop.store, ledger, shop.bucket).text()).decode())


async def test_what_processes_counted_adds_up(
    shop: Shop, ledger: Ledger, tmp_path: Path, counted: metrics.Counted
) -> None:
    counted["a",] = 5
    Board(tmp_path).write()
    other_process(tmp_path, "1", count=2)
    other_process(tmp_path, "2", count=4, age_s=metrics.LIVE_S + 1)
    other_process(tmp_path, "3.part", count=100)
    found = await page(tmp_path, shop, ledger)
    # Its own file is not counted beside itself.
    assert found("cartsvc_tests_total", of="a") == 11
    assert found("cartsvc_processes") == 2
    assert 1e15 < found("cartsvc_process_resident_memory_bytes") < 2e15
    name = "cartsvc_script_duration_seconds"
    assert found(f"{name}_bucket", script="x", le="0.0005") == 2
    assert found(f"{name}_bucket", script="x", le="0.001") == 4
    assert found(f"{name}_count", script="x") == 2 * (len(BOUNDS_S) + 1)
    assert found(f"{name}_sum", script="x") == 4.0


async def test_a_board_without_room_stops_nobody(tmp_path: Path) -> None:
    board = Board(tmp_path / "gone")
    board.write()


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.0005, 0), (0.0006, 1), (10.0, len(BOUNDS_S) - 1), (11.0, len(BOUNDS_S))],
)
def test_a_duration_falls_into_the_bucket_that_it_fits(seconds: float, bucket: int) -> None:
    one = Duration()
    one.observe(seconds)
    assert one.counts.index(1) == bucket
    assert (sum(one.counts), one.sum_s) == (1, seconds)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("live = [one for one in snapshots if one.is_live()]", "live = list(snapshots)"),
        ("total[labels] += count", "total[labels] = count"),
        ("accumulate(map(sum,", "list(map(sum,"),
    ],
)
async def test_the_adding_up_is_needed(
    shop: Shop,
    ledger: Ledger,
    tmp_path: Path,
    counted: metrics.Counted,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
) -> None:
    broken = mutant(scrape, old, new)
    monkeypatch.setattr("tests.test_metrics.Scrape", broken.Scrape)
    with pytest.raises(AssertionError):
        await test_what_processes_counted_adds_up(shop, ledger, tmp_path, counted)


async def test_no_more_buckets_are_told_of_than_a_scrape_bears(
    shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "MOST_BUCKETS", 2)
    for tenant in ("a", "b", "c"):
        await ledger.open_bucket(Bucket(tenant))
    text = await Scrape(metrics.ALONE, shop.store, ledger, shop.bucket).text()
    assert text.count(b"cartsvc_dirty_carts{") == 2
