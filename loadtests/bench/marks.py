"""The marks: what the results are held to. Each is the median of the rounds' quotients."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]


class Unmeasured(LookupError):
    """Something that a mark compares has no result; the message says what, and why."""


@dataclass(frozen=True)
class Mark:
    """`value` gives what is compared with `bound`; `at_least` tells on which side it has to be."""

    name: str
    value: Callable[[Results], float]
    bound: float
    how: str
    at_least: bool = False


def judged(results: Results) -> list[dict[str, Any]]:
    """Every mark with its value and whether it is met; `value` is None where it can't be told."""
    return [_judged(mark, results) for mark in MARKS]


def _judged(mark: Mark, results: Results) -> dict[str, Any]:
    told = {"name": mark.name, "value": None, "mark": _bound(mark), "met": False, "how": mark.how}
    try:
        value = mark.value(results)
    except Unmeasured as reason:
        return {**told, "how": f"not measured: {reason}"}
    met = value >= mark.bound if mark.at_least else value <= mark.bound
    return {**told, "value": round(value, 3), "met": met}


def _bound(mark: Mark) -> str:
    return f"{'at least' if mark.at_least else 'at most'} {mark.bound:g}"


def _app_against(name: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        ours = _of_contender(results, "cartsvc", "app_us")
        return _quotient(ours, _of_contender(results, name, "app_us"))

    return value


def _all_against_postgresql(results: Results) -> float:
    theirs = [
        app + database
        for app, database in zip(
            _of_contender(results, "postgresql", "app_us"),
            _of_contender(results, "postgresql", "database_us"),
            strict=True,
        )
    ]
    return _quotient(_of_contender(results, "cartsvc", "cost_us"), theirs)


def _adds_against_webdis(results: Results) -> float:
    ours = _of_contender(results, "cartsvc", "per_s")
    return _quotient(ours, _of_contender(results, "webdis", "per_s"))


def _redis_against_script(results: Results) -> float:
    bare = _found(results, "bare", "pipelined", missing="redis-benchmark")
    return _quotient(_of_contender(results, "cartsvc", "redis_us"), _values(bare, "redis_us"))


def _sold_out_against_add(results: Results) -> float:
    return _quotient(_question(results, "sold out"), _question(results, "add, 1-line cart"))


def _most_carts_against_fewest(results: Results) -> float:
    most, fewest = (
        _values(_found(results, "scaling", "carts", carts), "cost_us")
        for carts in ("1000000", "1000")
    )
    return _quotient(most, fewest)


def _fifty_lines_against_one(results: Results) -> float:
    return max(
        _quotient(
            _question(results, f"{what}, 50-line cart"), _question(results, f"{what}, 1-line cart")
        )
        for what in ("add", "read")
    )


def _flush_against_copy(results: Results) -> float:
    flush, bare = (
        _values(_found(results, "flushing", name), "both_rows_per_s") for name in ("flush", "bare")
    )
    return _quotient(flush, bare)


def _question(results: Results, name: str) -> list[float]:
    return _values(_found(results, "scaling", "questions", name), "cost_us")


def _of_contender(results: Results, name: str, figure: str) -> list[float]:
    return _values(_found(results, "contenders", name, missing=name), figure)


def _found(results: Results, *path: str, missing: str = "") -> Results:
    found: Any = results
    for name in path:
        if name not in found:
            reason = results.get("missing", {}).get(missing, "was not run")
            raise Unmeasured(f"{missing or ', '.join(path)}: {reason}")
        found = found[name]
    return found  # type: ignore[no-any-return]


def _values(figures: Results, name: str) -> list[float]:
    """The figure of each round."""
    values = [float(value) for value in figures[name]["values"]]
    if min(values) <= 0:
        raise Unmeasured(f"{name} is {min(values):g}")
    return values


def _quotient(ours: list[float], theirs: list[float]) -> float:
    """The median of what the rounds say: within one, both met the machine in the same mood."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


_APP = "the app's CPU time an acknowledged add, of all of its processes"
_COST = "the CPU time of app and Redis"

MARKS = (
    Mark("app CPU per add, against Starlette + redis-py", _app_against("redis-py"), 0.40, _APP),
    Mark("app CPU per add, against Fastify + ioredis", _app_against("fastify"), 0.95, _APP),
    Mark("app CPU per add, against nginx + Lua", _app_against("nginx-lua"), 1.15, _APP),
    Mark(
        "app CPU per add, against PostgreSQL alone",
        _all_against_postgresql,
        0.20,
        "an add: CPU time of app and Redis, against that of app and PostgreSQL",
    ),
    Mark(
        "adds/s of one process, against webdis",
        _adds_against_webdis,
        0.55,
        "acknowledged adds a second",
        at_least=True,
    ),
    Mark(
        "Redis CPU per add, against the bare script in redis-benchmark at the same pipelining",
        _redis_against_script,
        1.3,
        "Redis's CPU time an add; redis-benchmark with one connection and as many "
        "calls at once as Redis read from the service just before",
    ),
    Mark(
        "sold-out answer against an add",
        _sold_out_against_add,
        0.7,
        f"{_COST} an answer, to sessions that have a cart of one line",
    ),
    Mark(
        "cost at 1 million carts against 1 thousand",
        _most_carts_against_fewest,
        1.1,
        f"{_COST} an add, to carts of one line chosen from all, each number in a Redis of its own",
    ),
    Mark(
        "cost of a 50-line cart against a one-line cart",
        _fifty_lines_against_one,
        3.0,
        f"{_COST}; the worse of an add to a line that is there, and a read; of carts that the "
        "process has seen before, a read of others is among the questions",
    ),
    Mark(
        "flush, rows a second against a bare COPY into a temp table and upsert of the same rows",
        _flush_against_copy,
        0.6,
        "rows of carts and lines, written new and then again once each cart has changed; "
        "the COPY from rows in memory, in one transaction",
        at_least=True,
    ),
)
