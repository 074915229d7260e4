"""Shoppers, time and the service in every order that Hypothesis thinks of."""

import asyncio
from pathlib import Path

from loadtests.chaos import machine
from loadtests.chaos.checker import Verdict
from loadtests.chaos.faults.fault import Result
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import opened

_FEWEST = 50


async def games(scale: float, tree: Path | None = None) -> Result:
    """Four hundred games of fifty steps against a plain model."""
    assert tree is None, "it is played in this process"
    runs = max(_FEWEST, int(400 * scale))
    async with opened(durable=True) as place:
        result = Result("games of 50 steps", Journal(), Verdict({}))
        try:
            played = await asyncio.to_thread(
                machine.play, place.valkey, place.postgres.url, runs, result.journal
            )
            result.notes.append(f"{played} games")
        except AssertionError as error:
            result.wrong.append("\n".join([str(error), *getattr(error, "__notes__", ())]))
        return result
