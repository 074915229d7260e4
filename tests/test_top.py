"""`cartsvc top`: what sells now, how a frame looks, and the program against a real service."""

import asyncio
import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
from rich.console import Console

from cartsvc import embedded
from cartsvc.hottest import Hot, Hottest
from cartsvc.model import LineRequest, Owner
from cartsvc.readings import Standing, Traffic
from cartsvc.screen import draw
from cartsvc.top import Frame, Service, Shelves
from tests.command import run
from tests.shop import LAMP, MUG, Shop
from tests.wait import wait_until

# -- What sells


def hottest(shop: Shop, stock_policy: str = "check") -> Hottest:
    return Hottest(shop.runner, shop.bucket, stock_policy)


async def buy(shop: Shop, session: str, *skus: str) -> None:
    ids = [sku.partition("/") for sku in skus]
    lines = [LineRequest(product, 1, variant or None) for product, _, variant in ids]
    await shop.add_lines(*lines, owner=Owner("session", session))


async def test_the_skus_of_the_newest_carts_come_with_their_stock(shop: Shop) -> None:
    await shop.sell(LAMP, name="Lamp", stock=5, stock_policy="hold")
    await shop.sell("tee", name="Tee", stock=9, variants=[("s", 4), ("m", None)])
    await shop.sell("pdf", name="Guide", stock_policy="untracked")
    await buy(shop, "ann", LAMP, "tee/m", "tee/s", "pdf")
    await buy(shop, "bob", LAMP, "tee/m", "tee/s")
    await buy(shop, "cem", LAMP, "tee/m")
    await buy(shop, "eve", LAMP)
    await shop.store.close(shop.bucket, Owner("session", "eve"), "CONVERTED")
    assert await hottest(shop).look(9) == [
        Hot(LAMP, "Lamp", False, 1, 3, 1),
        Hot("tee/m", "Tee / m", False, 9, 0, 0),
        Hot("tee/s", "Tee / s", False, 4, 0, 0),
        Hot("pdf", "Guide", False, None, 0, 0),
    ]


async def test_a_tenants_policy_is_that_of_products_that_say_nothing(shop: Shop) -> None:
    await shop.sell(LAMP)
    await buy(shop, "ann", LAMP)
    [found] = await hottest(shop, "untracked").look(9)
    assert found.free is None


async def test_those_that_are_watched_come_first(shop: Shop) -> None:
    await shop.sell(LAMP)
    await shop.sell(MUG, name="Mug", stock=2)
    await buy(shop, "ann", LAMP)
    await shop.redis.sadd(shop.bucket.watched, MUG)
    assert [(one.sku, one.is_watched) for one in await hottest(shop).look(9)] == [
        (MUG, True),
        (LAMP, False),
    ]
    assert await hottest(shop).look(1) == [Hot(MUG, "Mug", True, 2, 0, 0)]


async def test_what_sold_before_cools_down(shop: Shop) -> None:
    await shop.sell(LAMP)
    await shop.sell(MUG)
    for session in ("ann", "bob", "cem"):
        await buy(shop, session, LAMP)
    found = hottest(shop)
    assert [one.sku for one in await found.look(9)] == [LAMP]
    # Written: the carts are no longer dirty, and others become so.
    await shop.redis.delete(shop.bucket.dirty)
    await buy(shop, "dan", MUG)
    await buy(shop, "eve", MUG)
    assert [one.sku for one in await found.look(9)] == [MUG, LAMP]
    await shop.redis.delete(shop.bucket.dirty)
    for _ in range(3):
        last = await found.look(9)
    assert last == []


async def test_only_the_newest_carts_are_looked_at(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartsvc.hottest.NEWEST_CARTS", 1)
    await shop.sell(LAMP)
    await shop.sell(MUG)
    await buy(shop, "ann", LAMP)
    shop.clock.ms += 1
    await buy(shop, "bob", MUG)
    assert [one.sku for one in await hottest(shop).look(9)] == [MUG]


async def test_what_is_none_of_ours_is_no_matter(shop: Shop) -> None:
    await shop.redis.set("a text", "x")
    await shop.redis.hset("a hash", "q:\x1b[31m", "1")
    await shop.redis.hset(shop.bucket.catalogue, "\x1b[31m", "no JSON")
    await shop.redis.zadd(shop.bucket.dirty, {"a text": 1, "a hash": 2, b"\xff": 3})
    assert await hottest(shop).look(9) == [Hot("\x1b[31m", "", False, None, 0, 0)]


# -- How it looks

STANDING = Standing(
    redis_up=True,
    postgresql_up=True,
    processes=2,
    resident_bytes=150 * 2**20,
    in_flight=3,
    memory_bytes=12 * 2**20,
    max_memory_bytes=64 * 2**20,
    dirty_carts=1_234,
    lag_s=0.4,
    last_pass_s=1_000.0,
    last_pass_carts=500,
    price_changes=17,
    dead_letters=0,
    is_overloaded=False,
    is_paused=False,
)
TRAFFIC = Traffic(
    requests={"session": 1_000.0, "tenant": 234.5},
    granted=980.0,
    refused=9.25,
    refusals={"out_of_stock": 180.0, "cart_full": 3.2, "a": 1, "b": 1, "c": 1, "d": 1},
    replays=0.5,
    turned_away=0.0,
    p50_s=0.0031,
    p99_s=0.0421,
    cpu_share=0.85,
    redis_share=0.123,
)
NAME = "Limited Print 'Harbour at Dawn', numbered"
HOT = [
    Hot("507f1f77bcf86cd799439016", NAME, True, 3, 0, 117),
    Hot("507f1f77bcf86cd799439020", "Founders' Sneaker", False, 50_000, 25_000, 25_000),
    Hot("tee/s", "", False, None, 0, 0),
]
FRAME = Frame("http://127.0.0.1:8000", "default", Service(STANDING, TRAFFIC), Shelves(HOT, 1_002.5))


def drawn(frame: Frame, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=file, width=width, height=24, highlight=False)
    console.print(draw(frame, console))
    file.flush()
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def test_a_frame_in_80_columns() -> None:
    assert drawn(FRAME) == [
        "http://127.0.0.1:8000  tenant default  carts take changes",
        "requests/s  1,234   p50 3.1 ms   p99 42 ms   turned away 0",
        "  of        session 1,000   tenant 234",
        "adds/s      granted 980   refused 9.2   answered again 0.5",
        "refused/s   out_of_stock 180   cart_full 3.2   a 1.0   b 1.0   and 2 more",
        "processes   2   85% CPU   150 MiB   3 in flight to Redis",
        "flush       1,234 dirty carts   lag 0.4 s   last pass 2.5 s ago, 500 carts",
        "  waiting   price changes 17   dead letters 0",
        "Redis       12 MiB of 64 MiB   scripts 12% of its time",
        "",
        "stock                SKU                                   █ free ▓ held ░ sold",
        "* Limited Print 'Ha… 507f1f77bcf86cd799439016 █░░░░░░░░░░░      3      0    117",
        "Founders' Sneaker    507f1f77bcf86cd799439020 ██████▓▓▓░░░ 50,000 25,000 25,000",
        "-                    tee/s                    not counted       -      -      -",
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_frame_fits_whatever_is_to_be_told(width: int) -> None:
    sku = "p" * 64 + "/" + "v" * 64
    hot = [Hot(sku, "ナイキ" * 30, True, 10**9, 10**9, 10**9) for _ in range(12)]
    many = {f"a_reason_that_is_rather_long_{number}": 123_456.0 for number in range(9)}
    went = TRAFFIC._replace(refusals=many, requests=many)
    now = STANDING._replace(is_overloaded=True, is_paused=True, postgresql_up=False)
    frame = FRAME._replace(
        url=f"http://{'h' * 99}", service=Service(now, went), shelves=Shelves(hot, None)
    )
    lines = drawn(frame, width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 24


def test_bars_do_without_blocks() -> None:
    lines = drawn(FRAME, encoding="ascii")
    assert (
        "stock                SKU                                   # free = held . sold" in lines
    )
    assert any("######===..." in line for line in lines)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"is_paused": True}, "SALE PAUSED"),
        ({"is_overloaded": True}, "OVERLOADED"),
        ({"postgresql_up": False}, "PostgreSQL is away"),
        ({"redis_up": False}, "the service does not reach Redis"),
        ({"last_pass_s": None}, "no worker has passed"),
        ({"dead_letters": 3}, "dead letters 3"),
        ({"dead_letters": None}, "dead letters -"),
        ({"max_memory_bytes": 0}, "Redis       12 MiB   scripts"),
        ({"memory_bytes": 3 * 2**30}, "3.0 GiB of 64 MiB"),
        ({"memory_bytes": None}, "Redis       -"),
    ],
)
def test_a_frame_tells_what_is_the_matter(changed: dict[str, Any], told: str) -> None:
    service = Service(STANDING._replace(**changed), TRAFFIC)
    text = "\n".join(drawn(FRAME._replace(service=service)))
    assert told in text
    assert ("carts take changes" in text) == (not changed.keys() & {"is_paused", "is_overloaded"})


def test_what_is_away_is_told_beside_the_rest() -> None:
    away = FRAME._replace(service=Service(problem="Connection \x1b refused"))
    lines = drawn(away)
    assert lines[1] == "service: Connection \\x1b refused"
    assert any("Founders' Sneaker" in line for line in lines)
    lines = drawn(FRAME._replace(shelves=Shelves(problem="Connection refused")))
    assert lines[-1] == "stock: Redis: Connection refused"
    assert any("last pass: age unknown" in line for line in lines)


def test_the_first_look_has_no_rates() -> None:
    lines = drawn(FRAME._replace(service=Service(STANDING), shelves=Shelves()))
    assert lines[1] == "requests/s  rates come with the next look"
    assert lines[-1] == "stock: nothing is watched, and no cart is dirty"


# -- The program


def once(url: str, redis_url: str, *arguments: str, **variables: str) -> tuple[int, str]:
    done = run("top", "--url", url, *arguments, CARTSVC_REDIS_URL=redis_url, **variables)
    assert done.stderr == ""
    return done.returncode, done.stdout


async def test_a_real_service_is_told_of_in_one_frame(
    http: httpx.AsyncClient, shop: Shop, valkey: embedded.Valkey
) -> None:
    await shop.sell(LAMP, name="Lamp", stock=5, stock_policy="hold")
    running = asyncio.create_task(asyncio.to_thread(once, str(http.base_url), valkey.url))
    for number in range(10_000):
        body = {"product_id": LAMP, "quantity": 1, "session_id": f"s{number}"}
        await http.post("/api/cart", json=body)
        if running.done():
            break
    status, out = await running
    assert status == 0
    assert "tenant default  carts take changes" in out
    assert "  of        session " in out
    assert "refused/s   sold_out " in out
    assert "5 dirty carts" in out
    [lamp] = [line.split() for line in out.splitlines() if LAMP in line]
    assert (lamp[0], lamp[-3:]) == ("Lamp", ["0", "5", "0"])


async def test_a_service_or_redis_that_is_away_is_told(
    http: httpx.AsyncClient,
    valkey: embedded.Valkey,
) -> None:
    here, gone = str(http.base_url), f"http://127.0.0.1:{embedded.free_port()}"
    no_redis = f"redis://127.0.0.1:{embedded.free_port()}/0"
    cases = [
        (gone, valkey.url, "service: Connection refused"),
        (f"{here}/docs", valkey.url, "service: HTTP Error 404: Not Found"),
        (f"{here}/openapi.json#", valkey.url, "service: what answers there is no cartsvc"),
        ("http://127.0.0.1:x", valkey.url, "service: nonnumeric port"),
        (here, no_redis, "stock: Redis: "),
    ]
    asked = [asyncio.to_thread(once, url, redis_url) for url, redis_url, _ in cases]
    for (_, _, told), (status, out) in zip(cases, await asyncio.gather(*asked), strict=True):
        assert status == 1
        assert told in out


@pytest.mark.slow
async def test_a_terminal_without_the_characters_gets_others(
    shop: Shop, valkey: embedded.Valkey
) -> None:
    await shop.sell(LAMP, name="Café", stock=4)
    await shop.redis.sadd(shop.bucket.watched, LAMP)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cartsvc", "top", "--url", "http://127.0.0.1:1"],
        env={**os.environ, "CARTSVC_REDIS_URL": valkey.url, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    [lamp] = [line.split() for line in done.stdout.splitlines() if LAMP in line]
    assert lamp == ["*", "Caf?", LAMP, "#" * 12, "4", "0", "0"]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--url", "ftp://x"), "'ftp://x' is no http:// or https:// URL"),
        (("--interval", "1"), "greater than or equal to 2"),
        (("--tenant", "a:b"), "'a:b' is not a tenant id"),
    ],
)
def test_what_is_asked_for_is_checked(option: tuple[str, str], told: str) -> None:
    done = run("top", *option)
    assert done.returncode == 2
    assert told in done.stderr


def started(url: str, redis_url: str, terminal: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cartsvc", "top", "--url", url],
        env={**os.environ, "CARTSVC_REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "80"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_goes_on_until_it_is_told_to_stop(
    valkey: embedded.Valkey, number: signal.Signals
) -> None:
    """On a terminal, and though the service is away."""
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    process = await asyncio.to_thread(started, "http://127.0.0.1:1", valkey.url, its)
    os.close(its)
    seen = bytearray()

    def frames() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(ours, 65_536))
        return seen.count(b"Connection refused") >= 2

    try:
        await wait_until(frames)
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        os.close(ours)
    assert b"Traceback" not in seen
