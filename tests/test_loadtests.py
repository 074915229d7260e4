"""The rehearsal: its phases, what it writes down, and what it checks once the shoppers are gone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cartsvc import dev, embedded, flush, importer, rows, settings
from cartsvc.backlog import Backlog
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from loadtests import __main__ as main
from loadtests import generator, invariants, phases, picture, sale, samples, summary
from loadtests.generator import Files, Generated
from loadtests.invariants import CAUGHT_UP, NO_CART_OVER_ITS_CAP, NOTHING_OVERSOLD, VERIFIED
from loadtests.options import Options
from loadtests.phases import Phase
from loadtests.samples import Level, Run, Sample
from tests.shop import LAMP, SECRET, Shop

Rehearse = Callable[[], Awaitable[int]]
"""A rehearsal; its exit status."""

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


async def broken(shop: Shop, valkey: embedded.Valkey, database_url: str) -> dict[str, list[str]]:
    """The rules that do not hold, and why."""
    found = await invariants.checked(valkey.url, database_url, shop.bucket, max_lines=3)
    assert list(found) == [NOTHING_OVERSOLD, NO_CART_OVER_ITS_CAP, CAUGHT_UP, VERIFIED]
    return {rule: sentences for rule, sentences in found.items() if sentences}


async def test_all_is_well(flushed_shop: Shop, valkey: embedded.Valkey, database_url: str) -> None:
    assert await broken(flushed_shop, valkey, database_url) == {}


@pytest.mark.parametrize(
    ("sku", "counter", "units"), [("tee/navy", "tee", 6), ("tee/s", "tee/s", 4)]
)
async def test_a_cart_with_more_than_there_ever_was_is_seen(
    flushed_shop: Shop,
    valkey: embedded.Valkey,
    database_url: str,
    sku: str,
    counter: str,
    units: int,
) -> None:
    await flushed_shop.redis.hincrby(ANNS_CART, f"q:{sku}", 1)
    found = await broken(flushed_shop, valkey, database_url)
    told = f"cart 256 wants {units} of {counter}, of which {units - 1} were"
    assert found[NOTHING_OVERSOLD] == [told]


async def test_a_cart_may_want_what_others_have_bought(
    flushed_shop: Shop, valkey: embedded.Valkey, database_url: str, ledger: Ledger
) -> None:
    bob = Owner("user", "bob")
    await flushed_shop.add_lines(LineRequest("tee", 2), owner=bob)
    await flushed_shop.store.close(flushed_shop.bucket, bob, "CONVERTED")
    await write(flushed_shop, ledger)
    assert await broken(flushed_shop, valkey, database_url) == {}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("stock", "-2 free, 0 held and 0 sold"),
        ("held", "5 free, -7 held and 0 sold"),
        ("sold", "5 free, 0 held and -7 sold"),
    ],
)
async def test_books_that_do_not_add_up_are_seen(
    flushed_shop: Shop, valkey: embedded.Valkey, database_url: str, key: str, told: str
) -> None:
    await flushed_shop.redis.hincrby(f"{key}:{{default:0}}", LAMP, -7)
    found = await broken(flushed_shop, valkey, database_url)
    assert found[NOTHING_OVERSOLD] == [f"counter {LAMP} has {told} of 5 received"]


async def test_what_an_audit_finds_is_seen(
    flushed_shop: Shop, valkey: embedded.Valkey, database_url: str, ledger: Ledger
) -> None:
    await flushed_shop.add(2, LAMP)
    await write(flushed_shop, ledger)
    await flushed_shop.redis.hincrby("held:{default:0}", LAMP, -1)
    assert await broken(flushed_shop, valkey, database_url) == {
        NOTHING_OVERSOLD: [f"counter {LAMP} has 3 free, 1 held and 0 sold of 5 received"],
        NO_CART_OVER_ITS_CAP: ["cart 256 has 4 lines, and 3 are allowed"],
        VERIFIED: [
            "cart 256 has 4 lines, and 3 are allowed",
            f"counter {LAMP} has 3 free, 1 held, 0 sold, and 5 received",
            f"counter {LAMP} has 1 held, and carts hold 2",
        ],
    }


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
    found = await broken(flushed_shop, valkey, database_url)
    assert found == {CAUGHT_UP: ["1 carts and price changes wait after 0.2 s"]}


def sample(at_s: float, **values: Any) -> Sample:
    told: dict[str, Any] = {
        "users": 10,
        "granted": 9,
        "refused": 3,
        "p50_ms": 4.0,
        "p99_ms": 50.0,
        "stock": {HOT: Level(free=60 - int(at_s), held=int(at_s), sold=10)},
        "dirty": 2,
        "lag_s": 0.5,
    }
    return Sample(at_s=at_s, **{**told, **values})


def run(*taken: Sample, **values: Any) -> Run:
    told: dict[str, Any] = {
        "phases": phases.begins(phases.SALE, 60),
        "requests": 1_500,
        "failures": 0,
        "granted": 540,
        "refusals": {"sold out": 170, "no more a buyer": 10},
        "times_ms": {4: 700, 50: 20},
        "errors": {},
    }
    return Run(samples=list(taken), **{**told, **values})


def test_a_sale_has_ten_times_as_many_shoppers_when_it_opens() -> None:
    def users_at(at_s: float) -> int | None:
        return phases.users_at(phases.SALE, at_s, seconds=100, users=200)

    assert [users_at(at_s) for at_s in (-3, 0, 19.9)] == [20, 20, 20]
    assert [users_at(at_s) for at_s in (20, 30, 39.99)] == [20, 50, 80]
    assert [users_at(at_s) for at_s in (40, 64.9)] == [200, 200]
    assert [users_at(at_s) for at_s in (65, 99.9)] == [100, 20]
    assert users_at(100) is None


@pytest.mark.parametrize("shape", phases.BY_NAME.values())
def test_a_shape_is_the_same_in_a_minute_and_in_ten(shape: Sequence[Phase]) -> None:
    assert sum(phase.share for phase in shape) == pytest.approx(1)
    begins = phases.begins(shape, 60)
    assert {name: at_s * 10 for name, at_s in begins.items()} == phases.begins(shape, 600)
    for at_s in range(60):
        short = phases.users_at(shape, at_s, seconds=60, users=100)
        assert short == phases.users_at(shape, at_s * 10, seconds=600, users=100)
        assert short


def test_nobody_is_not_a_shape() -> None:
    assert phases.users_at(phases.SALE, 0, seconds=9, users=1) == 1


def test_a_percentile_is_a_time_that_was_measured() -> None:
    times = {5: 90, 100: 9, 2_000: 1}
    assert [samples.percentile(times, share) for share in (0.5, 0.99, 1)] == [5, 100, 2_000]
    assert samples.percentile({}, 0.5) is None


def test_the_picture_is_drawn_of_what_was_sampled(tmp_path: Path) -> None:
    taken = [sample(at_s) for at_s in range(60)]
    taken[5] = sample(5, p50_ms=None, p99_ms=None, granted=0, refused=0)
    picture.plot(run(*taken), tmp_path / "load.svg")
    text = (tmp_path / "load.svg").read_text()
    root = ElementTree.fromstring(text)  # noqa: S314
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    assert 400 < width < 1_000
    assert 400 < height < 1_000
    assert 20_000 < len(text) < 300_000


def test_a_run_that_ended_at_once_has_a_picture_too(tmp_path: Path) -> None:
    picture.plot(run(), tmp_path / "load.svg")
    assert (tmp_path / "load.svg").exists()
    assert list(summary.of_run(run(), 1.0))


def test_a_summary_says_what_was_sold_in_this_sale() -> None:
    last = sample(59, stock={HOT: Level(free=3, held=20, sold=47)}, granted=20)
    text = "\n".join(summary.of_run(run(sample(0), last, failures=2, errors={"add: 500": 2}), 1.5))
    for told in (
        "1,500, of which 2 failed",
        "540 granted, 180 refused",
        "360; at the most 23",
        "170 sold out",
        "10 no more a buyer",
        "p50 4 ms, p99 50 ms",
        "60 on sale: 37 sold, 20 held, 3 left",
        "2 times add: 500",
        "75% of a core",
    ):
        assert told in text
    assert text.index("170 sold out") < text.index("10 no more")


def test_rules_are_told_a_line_each() -> None:
    assert list(summary.of_rules({"a": [], "b": ["x is y"]})) == [
        "ok        a",
        "violated  b",
        "          x is y",
    ]


@pytest.fixture
async def place(
    shop: Shop, valkey: embedded.Valkey, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Addresses of Redis and PostgreSQL, and of no service."""
    for name in list(os.environ):
        if name.startswith("CARTSVC_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(invariants, "PAUSE_S", 0)
    await shop.redis.flushall()
    return {
        "CARTSVC_URL": "http://nowhere",
        "CARTSVC_REDIS_URL": valkey.url,
        "CARTSVC_DATABASE_URL": database_url,
    }


@pytest.fixture
def locust(monkeypatch: pytest.MonkeyPatch) -> list[Generated]:
    """What stands in the place of Locust: it says what it is told to have seen."""
    says = [Generated("", cpu_s=1.0)]

    def generate(
        environ: object, chosen: object, files: Files, begins: Callable[[float], None]
    ) -> Generated:
        begins(0.5)
        samples.write(run(sample(0)), files.samples)
        return says[-1]

    monkeypatch.setattr(generator, "run", generate)
    monkeypatch.setattr(picture, "plot", lambda _, file: file.touch())
    return says


@pytest.fixture
def rehearse(place: dict[str, str], locust: list[Generated], tmp_path: Path) -> Rehearse:
    chosen = Options(users=9, seconds=4, results=tmp_path)
    return lambda: asyncio.to_thread(main.rehearse, place, chosen)


BEGIN = "pathlib.Path(os.environ['CARTSVC_LOAD_SAMPLES']).with_suffix('.begun').touch()"


async def test_a_rehearsal_in_which_all_holds_is_a_success(
    rehearse: Rehearse, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await rehearse() == 0
    assert (tmp_path / "load.svg").exists()
    assert "ok        nothing oversold\n" in capsys.readouterr().out
    assert await shop.redis.hget("stock:{default:0}", sale.HOT[0]) == b"1"


async def test_a_rehearsal_that_breaks_a_rule_fails(
    rehearse: Rehearse, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    await shop.redis.hset("received:{default:0}", "tee", 2)
    assert await rehearse() == 1
    assert "violated  nothing oversold\n" in capsys.readouterr().out


async def test_a_rehearsal_in_which_locust_saw_failures_fails(
    rehearse: Rehearse, locust: list[Generated]
) -> None:
    locust.append(Generated("Locust saw failures", cpu_s=1.0))
    assert await rehearse() == 1


@pytest.mark.parametrize(
    ("script", "seconds", "problem"),
    [
        ("", 60, "Locust ended after 0 s"),
        (BEGIN, 60, "Locust ended after 0 s"),
        (BEGIN, 0, ""),
        (f"{BEGIN}; raise SystemExit(1)", 0, "Locust saw failures"),
    ],
)
def test_a_locust_that_fails_or_ends_early_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, seconds: int, problem: str
) -> None:
    command = [sys.executable, "-c", f"import os, pathlib; {script}"]
    monkeypatch.setattr(generator, "_command", lambda *_: command)
    options = Options(users=1, seconds=seconds, results=tmp_path)
    generated = generator.run(os.environ, options, Files(tmp_path), lambda _: None)
    assert generated.problem == problem


def test_a_rehearsal_that_is_broken_off_takes_locust_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"import os, pathlib, signal; {BEGIN}; signal.pause()"
    monkeypatch.setattr(generator, "_command", lambda *_: [sys.executable, "-c", script])

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.run(os.environ, Options(results=tmp_path), Files(tmp_path), interrupted)


async def test_each_rehearsal_begins_with_fresh_stock(rehearse: Rehearse, shop: Shop) -> None:
    await rehearse()
    # As if all had been sold.
    await shop.redis.hset("stock:{default:0}", sale.HOT[0], 0)
    await shop.redis.hset("sold:{default:0}", sale.HOT[0], 1)
    await rehearse()
    assert await shop.redis.hget("stock:{default:0}", sale.HOT[0]) == b"1"


async def test_carts_that_hold_more_than_the_stock_are_waited_for(
    place: dict[str, str], shop: Shop
) -> None:
    values = settings.read(place)
    # The shop's clock stands still, long ago.
    await sale.put(values, 100, 40, -1e8, is_fresh=True)
    held = [LineRequest(sale.HOT[0], 2)]
    for name in ("ann", "bob"):
        await shop.store.add(shop.bucket, Owner("session", name), held)
    with pytest.raises(sale.Refused, match="less than carts hold, 4: try again"):
        await sale.put(values, 1, 4, 0, is_fresh=True)


@pytest.mark.slow
async def test_a_sale_of_the_real_thing(
    api_url: str,
    api_ledger: Ledger,
    api_database_url: str,
    valkey: embedded.Valkey,
    tmp_path: Path,
) -> None:
    """With two processes of Locust, whose counts come together."""
    addresses = {
        "CARTSVC_REDIS_URL": valkey.url,
        "CARTSVC_DATABASE_URL": api_database_url,
        "CARTSVC_JWT_SECRET": SECRET,
    }
    worker = await asyncio.to_thread(dev.start, "worker", settings.read(addresses), os.environ)
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "loadtests"],
            env={
                **os.environ,
                **addresses,
                "CARTSVC_URL": api_url,
                "CARTSVC_LOAD_RESULTS": str(tmp_path),
                "CARTSVC_LOAD_PROCESSES": "2",
                "CARTSVC_LOAD_USERS": "40",
                "CARTSVC_LOAD_SECONDS": "8",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        await asyncio.to_thread(embedded.stop, worker)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "load.txt").read_text()
    assert done.stdout.count("\nok  ") == 4
    for name in ("load.svg", "load.html", "load_stats.csv", "load.txt"):
        assert (tmp_path / name).stat().st_size > 0
    written = samples.read(tmp_path / "load.json")
    assert 0 < sum(one.granted for one in written.samples) <= written.granted
    assert written.refusals["not yet on sale"] > 0
    assert written.samples[-1].stock[sale.HOT[0]].free < written.samples[0].stock[sale.HOT[0]].free


def test_a_wrong_option_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What it sets is undone.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("CARTSVC_LOAD_USERS", "many")
    assert main.main() == 2
    assert capsys.readouterr().err == (
        "CARTSVC_LOAD_USERS: 'many' is not a whole number of at least 1\n"
    )
