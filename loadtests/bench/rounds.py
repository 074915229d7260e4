"""The rounds: in each, every contender is loaded with the same adds for a few seconds."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.bench import answers, bare, contenders, sample, shoppers, wrk
from loadtests.bench.contenders import Contender, Running
from loadtests.bench.sample import Effort, Said, Sample
from loadtests.bench.site import Site, units_in_carts
from loadtests.bench.wrk import Load

_SEED = 1


@dataclass
class Rival:
    """A contender that runs, and what it has acknowledged so far in how many runs."""

    running: Running
    load: Load
    runs: int = 0
    acknowledged: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def contender(self) -> Contender:
        return self.running.contender


def measured(site: Site, chosen: Sequence[Contender], effort: Effort, said: Said) -> dict[str, Any]:
    """Figures of each contender, of the bare script, and why others have none."""
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as running:
        rivals = list(_started(site, chosen, running, missing, said))
        for rival in rivals:
            _fill(rival, effort, said)
        limit = bare.Limit(site, effort, said)
        for number in range(effort.rounds):
            for rival in sample.rotated(rivals, number):
                _sample(site, rival, number, effort, said)
                if rival.contender.name == "cartsvc":
                    limit.take(rival.samples[-1].batch)
        figures = {rival.contender.name: _figures(site, rival, effort, said) for rival in rivals}
    return {"contenders": figures, "missing": missing | limit.missing, "bare": limit.figures()}


def lost_and_extra(acknowledged: int, units: int, uncounted: int) -> tuple[int, int]:
    """Adds that were acknowledged and are not there, and units that nobody can have added.

    Of the units, up to `uncounted` are of requests that were under way when a run ended.
    """
    return max(0, acknowledged - units), max(0, units - acknowledged - uncounted)


def _started(
    site: Site,
    chosen: Sequence[Contender],
    running: contextlib.ExitStack,
    missing: dict[str, str],
    said: Said,
) -> Iterator[Rival]:
    for contender in chosen:
        reason = contender.missing()
        if not reason:
            try:
                rival = running.enter_context(contenders.running(contender, site))
            except (OSError, RuntimeError, AssertionError) as error:
                reason = f"did not start: {error}"
        if reason:
            missing[contender.name] = reason
            said(f"without {contender.name}: {reason}")
        else:
            requests = _adds(rival, site)
            yield Rival(rival, wrk.load(site.folder / f"{contender.name}.requests", requests))


def _adds(running: Running, site: Site) -> list[wrk.Request]:
    """An add to every line of every session, in an order of chance, the same for all."""
    lines = list(shoppers.lines(shoppers.SESSIONS))
    random.Random(_SEED).shuffle(lines)
    return [running.contender.add(site, *line) for line in lines]


def _fill(rival: Rival, effort: Effort, said: Said) -> None:
    run = wrk.run_through(rival.running.url, rival.load, connections=effort.connections)
    _count(rival, run.acknowledged)
    said(f"filled {rival.contender.name}: {run.acknowledged:,} adds, {run.refused:,} refused")


def _sample(site: Site, rival: Rival, number: int, effort: Effort, said: Said) -> None:
    one = sample.take(
        rival.running,
        site,
        rival.load,
        seconds=effort.seconds,
        connections=effort.connections,
        first=number * rival.load.requests // effort.rounds,
    )
    _count(rival, one.answers)
    rival.samples.append(one)
    said(f"round {number + 1}/{effort.rounds} {rival.contender.name}: {sample.told(one)}")


def _count(rival: Rival, acknowledged: int) -> None:
    rival.runs += 1
    rival.acknowledged += acknowledged


def _figures(site: Site, rival: Rival, effort: Effort, said: Said) -> dict[str, Any]:
    units = asyncio.run(units_in_carts(site, rival.contender.name))
    lost, extra = lost_and_extra(rival.acknowledged, units, rival.runs * effort.connections)
    wrong = asyncio.run(answers.wrong(rival.running, site))
    said(f"{rival.contender.name}: {lost} adds lost, {extra} extra, wrong: {wrong or 'nothing'}")
    return {
        "title": rival.contender.title,
        **sample.summary(rival.samples),
        "acknowledged": rival.acknowledged,
        "units": units,
        "lost": lost,
        "extra": extra,
        "wrong": wrong,
    }
