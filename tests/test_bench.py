"""The benchmark: what it reads, what it computes and what it writes, on figures made up here."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench import (
    bare,
    cpu,
    marks,
    populate,
    report,
    rounds,
    sample,
    shoppers,
    without,
    wrk,
)
from loadtests.bench.sample import Effort, Sample, Usage
from loadtests.bench.site import PRODUCTS
from loadtests.bench.wrk import Run

OUTPUT = """Running 1s test @ http://127.0.0.1:8000
  1 threads and 64 connections
  6000 requests in 1.00s, 1.39MB read
Requests/sec:   6000.00

{"answers":6000,"refused":1000,"broken":0,"duration":2000000,"p50":9500,"p99":21000}
"""


def test_what_wrk_counted_is_the_last_line() -> None:
    run = wrk.parse(OUTPUT)
    assert run == Run(answers=6000, refused=1000, duration=2_000_000, p50=9500, p99=21_000)
    assert (run.acknowledged, run.seconds) == (5000, 2.0)


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1", '{"answers":6000}'])
def test_a_wrk_that_did_not_run_is_an_error(output: str) -> None:
    with pytest.raises(wrk.WrkError):
        wrk.parse(output)


def test_a_load_is_requests_as_they_are_sent(tmp_path: Path) -> None:
    load = wrk.load(tmp_path / "load", [wrk.add("ann", "lamp"), wrk.read("ann")])
    add, read = load.file.read_bytes().decode().split("\0")
    head, _, body = add.partition("\r\n\r\n")
    assert load.requests == 2
    assert head.startswith("POST /api/cart HTTP/1.1\r\nHost: ")
    assert head.endswith(f"\r\nContent-Length: {len(body)}")
    assert json.loads(body) == {"product_id": "lamp", "quantity": 1, "session_id": "ann"}
    assert read.startswith("GET /api/cart?session_id=ann HTTP/1.1\r\nHost: ")
    assert read.endswith("\r\n\r\n")


def test_requests_without_a_body_differ_in_length() -> None:
    assert len({len(wrk.sent(wrk.read("ann"), number)) for number in range(64)}) == 64


def test_cpu_times_are_read_behind_any_name() -> None:
    times = " ".join(
        [
            "S",
            *["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"],
            "150",
            "50",
            "30",
            "20",
            "20",
            "0",
        ]
    )
    for name in ("cartsvc", "a b", "evil) R 1 2 3"):
        read = cpu.parse(f"4711 ({name}) {times} 0 0 0")
        ticks = os.sysconf("SC_CLK_TCK")
        assert read == pytest.approx((200 / ticks, 50 / ticks))


def test_cpu_of_children_that_ended_is_not_lost() -> None:
    busy = "sum(n * n for n in range(1_000_000))"
    before, family_before = cpu.own([os.getpid()]), cpu.family([os.getpid()])
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert cpu.family([os.getpid()]) - family_before > cpu.own([os.getpid()]) - before
    assert cpu.resident_mb([os.getpid()]) > 10


def test_processes_that_are_gone_count_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cpu.own([child.pid]) == cpu.family([child.pid]) == cpu.resident_mb([child.pid]) == 0


USED = Usage(app=0.5, redis=0.4, database=0.1, script=0.3, calls=5000, reads=1000)


def test_a_sample_is_an_acknowledged_answer() -> None:
    run = wrk.parse(OUTPUT)
    one = sample.sample(run, run.acknowledged, USED, rss_mb=70.0)
    assert (one.per_s, one.p50_ms, one.p99_ms, one.refused) == (2500, 9.5, 21, 1000)
    assert one.app_us == pytest.approx(100)
    assert one.redis_us == pytest.approx(80)
    assert one.script_us == pytest.approx(60)
    assert one.database_us == pytest.approx(20)
    assert one.cost_us == pytest.approx(180)
    assert one.batch == 5


def test_a_sample_in_which_nothing_was_acknowledged_costs_nothing_that_could_win() -> None:
    one = sample.sample(Run(answers=10, refused=10, duration=1), 0, USED, rss_mb=70.0)
    summary = sample.summary([one])
    results = {"contenders": {"cartsvc": summary, "redis-py": summary}, "missing": {}}
    assert not any(mark["met"] for mark in marks.judged(results))


def test_usage_is_what_has_been_used_since() -> None:
    before = Usage(app=0.1, redis=0.1, database=0.1, script=0.1, calls=1000, reads=100)
    assert USED.since(before).calls == 4000
    assert USED.since(before).app == pytest.approx(0.4)


def test_nobody_is_always_first() -> None:
    turns: list[str] = []

    def taker(name: str) -> Any:
        def take(_: int) -> Sample:
            turns.append(name)
            return _sample()

        return take

    samples = sample.interleaved({name: taker(name) for name in "abc"}, 3, lambda _: None)
    assert "".join(turns) == "abcbcacab"
    assert {name: len(those) for name, those in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_spread_is_median_least_and_most() -> None:
    spread = sample.spread([5, 1, 2])
    assert spread == {"median": 2, "min": 1, "max": 5, "values": [5, 1, 2]}


@pytest.mark.parametrize(
    ("acknowledged", "units", "lost", "extra"),
    [(100, 100, 0, 0), (100, 90, 10, 0), (100, 164, 0, 0), (100, 165, 0, 1)],
)
def test_requests_under_way_at_the_end_are_neither_lost_nor_extra(
    acknowledged: int, units: int, lost: int, extra: int
) -> None:
    assert rounds.lost_and_extra(acknowledged, units, uncounted=64) == (lost, extra)


def test_shoppers_buy_everything_and_nothing_twice() -> None:
    bought = {product for number in range(1000) for product in shoppers.products(number)}
    assert bought == set(PRODUCTS)
    for number in range(0, 1000, 7):
        assert len(set(shoppers.products(number, 50))) == 50
    lines = list(shoppers.lines(10))
    assert len(lines) == len(set(lines)) == 10 * shoppers.LINES


def test_the_bare_call_is_to_sessions_that_redis_benchmark_can_name() -> None:
    call = populate.call("bare", shoppers.session(7), PRODUCTS[:2])
    assert "cart:{bare:0}:session:000000000007" in call
    assert call[-4:] == (PRODUCTS[0], 1, PRODUCTS[1], 1)


def test_redis_benchmarks_last_row_is_read() -> None:
    lines = ['"test","rps","p50_latency_ms"', '"EVALSHA {a},b","17250.10","1.8"']
    assert bare.parse(lines) == {
        "test": "EVALSHA {a},b",
        "rps": "17250.10",
        "p50_latency_ms": "1.8",
    }


def _sample(**figures: float) -> Sample:
    values: dict[str, Any] = dict.fromkeys(Sample.__dataclass_fields__, 0)
    return Sample(**{**values, "answers": 1000, **figures})


def _summary(**figures: float) -> dict[str, Any]:
    return sample.summary([_sample(**figures)] * 5)


def _contender(title: str, **figures: float) -> dict[str, Any]:
    told = {"acknowledged": 1000, "units": 1000, "lost": 0, "extra": 0, "wrong": []}
    return {"title": title, **_summary(**figures), **told}


def _results() -> dict[str, Any]:
    """A run in which each mark is met, just so."""
    bare_one = bare.Sample(1000, 20, 17_000, 2, 4, redis_us=50, script_us=40)
    rate = sample.spread([1000] * 5)
    rates = ("new_rows_per_s", "changed_rows_per_s", "both_rows_per_s", "carts_per_s")
    return {
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "memory_gb": 4.1,
            "system": "Linux 6",
            "date": "2026-11-21",
        },
        "versions": {"python": "3.11.7"},
        "effort": asdict(Effort()),
        "missing": {},
        "contenders": {
            "cartsvc": _contender("cartsvc", app_us=40, redis_us=60, per_s=5500),
            "redis-py": _contender("Starlette + redis-py", app_us=100, redis_us=90),
            "postgresql": _contender("PostgreSQL", app_us=200, database_us=300),
            "fastify": _contender("Fastify", app_us=42.2, redis_us=60),
            "nginx-lua": _contender("nginx + Lua", app_us=35, redis_us=60),
            "webdis": _contender("webdis", app_us=20, redis_us=60, per_s=10_000),
        },
        "bare": {"pipelined": bare.summary([bare_one] * 5)},
        "scaling": {
            "questions": {
                "add, 1-line cart": _summary(app_us=40, redis_us=60),
                "add, 50-line cart": _summary(app_us=200, redis_us=100),
                "read, 1-line cart": _summary(app_us=40, redis_us=20),
                "read, 50-line cart": _summary(app_us=100, redis_us=50),
                "sold out": _summary(app_us=40, redis_us=30),
            },
            "carts": {
                "1000": _summary(app_us=40, redis_us=60),
                "1000000": {**_summary(app_us=40, redis_us=69), "bytes_a_cart": 900},
            },
        },
        "flushing": {
            "carts": 1000,
            "flush": dict.fromkeys(rates, sample.spread([600] * 5)),
            "bare": dict.fromkeys(rates, rate),
            "adds": {"alone": _summary(per_s=6000), "beside": _summary(per_s=3000)},
        },
    }


VALUES = [0.4, 0.948, 1.143, 0.2, 0.55, 1.2, 0.7, 1.09, 3.0, 0.6]


def test_the_marks_are_the_ten_that_were_set() -> None:
    told = marks.judged(_results())
    assert [mark["value"] for mark in told] == VALUES
    assert [mark["mark"] for mark in told] == [
        "at most 0.4",
        "at most 0.95",
        "at most 1.15",
        "at most 0.2",
        "at least 0.55",
        "at most 1.3",
        "at most 0.7",
        "at most 1.1",
        "at most 3",
        "at least 0.6",
    ]
    assert all(mark["met"] for mark in told)


SLIGHTLY_WORSE = [
    (0, ("contenders", "redis-py", "app_us"), 99),
    (1, ("contenders", "fastify", "app_us"), 42),
    (2, ("contenders", "nginx-lua", "app_us"), 34),
    (3, ("contenders", "postgresql", "database_us"), 299),
    (4, ("contenders", "webdis", "per_s"), 10_100),
    (5, ("bare", "pipelined", "redis_us"), 46),
    (6, ("scaling", "questions", "sold out", "cost_us"), 71),
    (7, ("scaling", "carts", "1000000", "cost_us"), 111),
    (8, ("scaling", "questions", "add, 50-line cart", "cost_us"), 301),
    (8, ("scaling", "questions", "read, 50-line cart", "cost_us"), 181),
    (9, ("flushing", "bare", "both_rows_per_s"), 1001),
]


@pytest.mark.parametrize(("place", "path", "value"), SLIGHTLY_WORSE)
def test_a_mark_is_not_met_by_a_little_less(
    place: int, path: tuple[str, ...], value: float
) -> None:
    results = _results()
    _at(results, path)["values"] = [value] * 5
    assert [mark["met"] for mark in marks.judged(results)] == [
        number != place for number in range(len(VALUES))
    ]


def test_a_mark_compares_what_was_measured_in_the_same_round() -> None:
    """A machine that is slow for one round of both says nothing of either."""
    results = _results()
    _at(results, ("contenders", "cartsvc", "app_us"))["values"] = [40, 80, 400, 40, 44]
    _at(results, ("contenders", "redis-py", "app_us"))["values"] = [100, 200, 1000, 200, 100]
    assert marks.judged(results)[0]["value"] == 0.4


def _at(results: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The figure there, of its own: others may have been made by the same spread."""
    parent: Any = results
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = dict(parent[path[-1]])
    return parent[path[-1]]  # type: ignore[no-any-return]


MISSING = [
    ("redis-py", [0]),
    ("fastify", [1]),
    ("nginx-lua", [2]),
    ("postgresql", [3]),
    ("webdis", [4]),
    ("cartsvc", [0, 1, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("name", "places"), MISSING)
def test_without_a_rival_its_marks_are_not_met_and_say_why(name: str, places: list[int]) -> None:
    results = _results()
    del results["contenders"][name]
    results["missing"] = {name: "Debian package x"}
    told = marks.judged(results)
    assert [number for number, mark in enumerate(told) if not mark["met"]] == places
    for number in places:
        assert told[number]["value"] is None
        assert told[number]["how"] == f"not measured: {name}: Debian package x"


@pytest.mark.parametrize(
    ("part", "places"), [("bare", [5]), ("scaling", [6, 7, 8]), ("flushing", [9])]
)
def test_what_was_not_run_is_not_met(part: str, places: list[int]) -> None:
    results = _results()
    del results[part]
    told = marks.judged(results)
    assert [number for number, mark in enumerate(told) if mark["value"] is None] == places
    assert not any(told[number]["met"] for number in places)


def test_a_run_is_written_as_json_table_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path / "results")
    results = _results()
    results["marks"] = marks.judged(results)
    files = report.write(results, "bench")
    assert [file.name for file in files] == ["bench.json", "bench.md", "bench.svg"]
    read = json.loads(files[0].read_text())
    assert set(read["marks"][0]) == {"name", "value", "mark", "met", "how"}
    assert set(read["contenders"]["cartsvc"]["app_us"]) == {
        "median",
        "min",
        "max",
        "values",
    }
    assert "<svg" in files[2].read_text()


def test_the_tables_show_wrong_answers_missing_rivals_and_marks() -> None:
    results = _results()
    results["missing"] = {"webdis": "Debian package webdis"}
    del results["contenders"]["webdis"]
    results["contenders"]["fastify"]["wrong"] = ["quantity 0: status 200 instead of 400"]
    results["contenders"]["redis-py"]["lost"] = 7
    results["marks"] = marks.judged(results)
    text = report.markdown(results)
    assert "quantity 0: status 200 instead of 400" in text
    assert "lost at least 7 of 1,000 adds" in text
    assert "- without webdis: Debian package webdis\n" in text
    for mark in marks.MARKS:
        assert mark.name in text


def test_a_table_lines_up() -> None:
    text = report.table(["", "value"], [["a", "1"], ["bb", "1,000"]])
    assert text.splitlines() == [
        "|    | value |",
        "| -- | ----: |",
        "| a  |     1 |",
        "| bb | 1,000 |",
    ]


def test_only_what_keeps_carts_in_postgresql_has_its_cpu_counted() -> None:
    results = _results()["contenders"]
    results["redis-py"]["database_us"]["median"] = 3
    assert report.cpu_parts(results["redis-py"]) == {"app": 100, "Redis": 90, "PostgreSQL": 0}
    assert report.cpu_parts(results["postgresql"])["PostgreSQL"] == 300


@pytest.mark.parametrize("part", without.PARTS)
def test_what_is_taken_away_is_there(part: str) -> None:
    # In a process of its own, which it changes.
    code = f"from loadtests.bench import without; without.PARTS[{part!r}][1]()"
    subprocess.run([sys.executable, "-c", code], check=True)
