"""Redis does what it is asked, and its answer never arrives."""

from pathlib import Path

from loadtests.chaos.faults.fault import Result, result_of
from loadtests.chaos.journal import Journal
from loadtests.chaos.place import opened
from loadtests.chaos.proxy import BadProxy
from loadtests.chaos.shoppers import Habits, crowd


async def _lost_replies(scale: float, tree: Path | None, *, with_keys: bool) -> Result:
    """Redis does what it is asked, and one answer of twenty never arrives."""
    async with opened(tree=tree) as place:
        products = await place.stock_up(20)
        async with BadProxy(place.valkey.url, loss=0.05) as proxy:
            await place.start(redis_url=proxy.url)
            journal = Journal()
            habits = Habits(int(150 * scale), products, with_keys=with_keys)
            await crowd(place.url, journal, habits, at_once=30)
            how = "with keys" if with_keys else "without keys"
            result = await result_of(f"lost replies, {how}", place, journal)
            result.notes.append(f"{proxy.lost} replies lost")
            if not proxy.lost:
                result.wrong.append("no reply was lost")
            if with_keys and journal.outcomes["unknown"]:
                result.wrong.append("a request with a key was never answered")
            return result


async def lost_replies_with_keys(scale: float, tree: Path | None = None) -> Result:
    return await _lost_replies(scale, tree, with_keys=True)


async def lost_replies_without_keys(scale: float, tree: Path | None = None) -> Result:
    return await _lost_replies(scale, tree, with_keys=False)
