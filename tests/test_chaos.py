"""The faults in their short form, and the checker: with a guard taken out it has to notice."""

import argparse
import asyncio
from pathlib import Path

import pytest

from cartsvc.model import Owner
from cartsvc.recovery import Books, Recovery
from loadtests.chaos import __main__ as chaos
from loadtests.chaos import faults, pauses
from loadtests.chaos.broken import GUARDS, POINTS, edited
from loadtests.chaos.checker import Verdict
from loadtests.chaos.faults.fault import Result, compare_waits, result_of, until
from loadtests.chaos.http import Answer
from loadtests.chaos.journal import Journal, World
from loadtests.chaos.pauses import Asked, Pause, Told
from loadtests.chaos.place import opened
from loadtests.chaos.shoppers import outcome_of
from loadtests.chaos.waits import Wait, Waits

SHORT = 0.04
ANN = Owner("session", "ann")


LONGER = {"points", "kills", "price-kills"}
"""What takes time is left to `make chaos`; `test_worker` kills the worker at each point."""


EVERY_TIME = {"lost-replies"}
"""That nothing is lost or applied twice whatever becomes of replies; the other faults are slow."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EVERY_TIME else pytest.mark.slow)
        for name in faults.ALL
        if name not in LONGER
    ],
)
async def test_what_is_promised_holds(name: str) -> None:
    result = await faults.ALL[name](SHORT)
    assert result.holds, (result.wrong, result.verdict.told())
    assert result.journal.outcomes["ok"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blind retry", "stock check outside the script"])
async def test_a_missing_guard_is_noticed(name: str, tmp_path: Path) -> None:
    """Two that show in seconds; `make chaos` takes out all."""
    guard = GUARDS[name]
    result = await faults.ALL[guard.fault](0.2, edited(guard.edits, tmp_path))
    assert set(guard.rules) <= result.verdict.broken.keys(), (result.wrong, result.notes)


@pytest.mark.parametrize("name", [*GUARDS, *POINTS])
def test_what_is_broken_is_there(name: str, tmp_path: Path) -> None:
    """Lines are quoted: that one has changed is to be seen at once, not only where it is slow."""
    guard = GUARDS.get(name)
    edited(guard.edits if guard else [POINTS[name]], tmp_path)


@pytest.mark.slow
async def test_a_process_that_ends_by_itself_is_noticed() -> None:
    async with opened() as place:
        await asyncio.to_thread(place.start_worker)
        place.workers[0].kill()
        assert not await until(never, place)
        result = await result_of("a worker that ends", place, Journal())
    assert result.wrong == ["a worker ended, with -9"]


async def never() -> bool:
    return False


# What shoppers were told, and what may be true by that.


def added(units: int) -> object:
    return lambda world: world.with_lines({"a": dict(world.lines).get("a", 0) + units})


def journal_of(*told: tuple[str, int, int | None]) -> Journal:
    """Adds of one product: what came of each, its units, and what was shown."""
    journal = Journal()
    shopper = journal.shopper(ANN)
    for outcome, units, shown in told:
        journal.note(
            shopper,
            outcome,  # type: ignore[arg-type]
            added(units),  # type: ignore[arg-type]
            None if shown is None else {"a": shown},
        )
    return journal


@pytest.mark.parametrize(
    ("told", "there", "is_right"),
    [
        ([("ok", 2, 2)], 2, True),
        ([("ok", 2, 2)], 0, False),
        ([("ok", 2, 2)], 4, False),
        ([("failed", 2, None)], 0, True),
        ([("failed", 2, None)], 2, False),
        ([("unknown", 2, None)], 0, True),
        ([("unknown", 2, None)], 2, True),
        ([("unknown", 2, None)], 4, False),
        ([("ok", 1, 1), ("unknown", 2, None), ("ok", 4, 7)], 7, True),
        ([("ok", 1, 1), ("unknown", 2, None), ("ok", 4, 7)], 5, False),
        ([("ok", 1, 1), ("ok", 4, 9)], 9, False),
    ],
)
def test_what_may_be_true(
    told: list[tuple[str, int, int | None]], there: int, is_right: bool
) -> None:
    journal = journal_of(*told)
    journal.check(ANN, {"a": there}, [])
    assert (not journal.wrong) == is_right


def test_orders_are_compared_too() -> None:
    journal = journal_of(("ok", 2, 2))
    journal.note(journal.shopper(ANN), "ok", World.ordered)
    journal.check(ANN, {}, [{"a": 2}])
    assert not journal.wrong
    journal.check(ANN, {}, [{"a": 2}, {"a": 2}])
    assert journal.wrong


def test_a_line_that_may_expire_may_be_gone() -> None:
    journal = journal_of(("ok", 2, 2))
    journal.shopper(ANN).expiring.add("a")
    journal.check(ANN, {}, [])
    assert not journal.wrong


# What a pause lets in, and whom it keeps out.

PAUSE = Pause(10, 11, 15, 16)


def asked(begun_s: float, ended_s: float, told: Told, *, is_more: bool = True) -> Asked:
    return Asked(begun_s, ended_s, is_more, told)


@pytest.mark.parametrize(
    ("one", "is_wrong"),
    [
        (asked(11.1, 14.9, "ok"), True),
        (asked(11.1, 14.9, "ok", is_more=False), False),
        (asked(11.1, 14.9, "paused"), False),
        (asked(11.1, 14.9, "failed"), False),
        (asked(11.1, 14.9, "unknown"), False),
        # On its way when the pause came, or still on its way when it ended.
        (asked(10.9, 12, "ok"), False),
        (asked(14, 15.1, "ok"), False),
        (asked(9, 10.1, "paused"), False),
        (asked(15.9, 17, "paused"), False),
        # Before and after it.
        (asked(1, 2, "ok"), False),
        (asked(9, 9.9, "paused"), True),
        (asked(16.1, 17, "paused"), True),
    ],
)
def test_what_may_be_told_beside_a_pause(one: Asked, is_wrong: bool) -> None:
    assert bool(pauses.wrong([one], [PAUSE, Pause(30, 31, 35, 36)])) == is_wrong


def test_a_pause_is_no_outcome_of_which_nothing_is_known() -> None:
    """Nothing was changed, which the journal holds the service to; any other 503 may mean all."""
    told = {"message": "The sale is paused: a wrong price", "error": {"code": "sale_paused"}}
    assert outcome_of(Answer(503, told)) == "failed"
    assert outcome_of(Answer(503, {"error": "please try again"})) == "unknown"


# How long they waited, and how much is asked for.


def waits_of(*, usual_ms: int, hurt_ms: int) -> Waits:
    """A hundred adds a second in either of two seconds; refusals, which do not count, took long."""
    return Waits(
        [
            *(Wait(one / 100, one / 100 + usual_ms / 1000, 200) for one in range(100)),
            *(Wait(1 + one / 100, 1 + one / 100 + hurt_ms / 1000, 200) for one in range(100)),
            *(Wait(1 + one / 100, 9, 503) for one in range(100)),
        ]
    )


@pytest.mark.parametrize(
    ("hurt_ms", "is_measured", "is_wrong"),
    [(11, True, False), (13, True, True), (13, False, False)],
)
def test_who_waits_longer_than_usual_is_told(
    hurt_ms: int, is_measured: bool, is_wrong: bool
) -> None:
    journal = Journal()
    journal.waits = waits_of(usual_ms=10, hurt_ms=hurt_ms)
    result = Result("hurt", journal, Verdict({}), is_measured=is_measured)
    compare_waits(result, "now", [(0, 1)], [(1, 2)], most=1.2)
    assert result.holds != is_wrong
    assert result.notes == [f"p99 {hurt_ms / 10:.2f} of the usual now"]


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "2", "much"])
def test_a_scale_that_is_none_is_told(scale: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number above 0"):
        chaos.scale_of(scale)


@pytest.mark.slow
async def test_the_games_notice_what_is_sold_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """`warm` forgets what was sold."""
    counters = Recovery.counters

    async def unsold(recovery: Recovery) -> list[Books]:
        return [one._replace(sold=0) for one in await counters(recovery)]

    monkeypatch.setattr(Recovery, "counters", unsold)
    result = await faults.ALL["games"](SHORT)
    assert not result.holds
    assert "C2" in result.wrong[0]
