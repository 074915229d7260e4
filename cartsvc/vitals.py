"""How Redis is, and what it has of a tenant: the numbers that `/metrics` and `cartsvc top` show.

Each takes one round trip, or two, whatever there is. Raises the client's own errors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cartsvc.findings import number_of, text_of
from cartsvc.keys import Bucket
from cartsvc.model import StockLevel
from cartsvc.scripts import Runner


class RedisVitals(NamedTuple):
    """`script_s` is Redis's own time, of all scripts that it ran since it was started."""

    memory_bytes: int
    max_memory_bytes: int
    evicted_keys: int
    script_calls: int
    script_failures: int
    script_s: float


class BucketVitals(NamedTuple):
    """`lag_s` is the age of the oldest cart that is not in PostgreSQL yet, 0 where there is none.

    `flushed` is what workers noted, by the names of `keys.TABLE`; `watched` the counters that
    operators chose to watch, as far as there are any.
    """

    carts: int
    cold_carts: int
    dirty_carts: int
    lag_s: float
    price_changes: int
    flushed: Mapping[str, int]
    is_paused: bool
    watched: Sequence[StockLevel]


async def of_redis(runner: Runner) -> RedisVitals:
    pipeline = runner.redis.pipeline(transaction=False)
    for section in ("memory", "stats", "commandstats"):
        pipeline.info(section)
    memory, stats, commands = await pipeline.execute()
    scripts = [commands.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval")]
    return RedisVitals(
        memory.get("used_memory", 0),
        memory.get("maxmemory", 0),
        stats.get("evicted_keys", 0),
        sum(one.get("calls", 0) for one in scripts),
        sum(one.get("failed_calls", 0) for one in scripts),
        sum(one.get("usec", 0) for one in scripts) / 1e6,
    )


async def of_bucket(runner: Runner, bucket: Bucket) -> BucketVitals:
    pipeline = runner.redis.pipeline(transaction=False)
    pipeline.hlen(bucket.carts)
    pipeline.hlen(bucket.cold)
    pipeline.zcard(bucket.dirty)
    pipeline.zrange(bucket.dirty, 0, 0, withscores=True)
    pipeline.xlen(bucket.prices)
    pipeline.hgetall(bucket.flush)
    pipeline.exists(bucket.paused)
    pipeline.smembers(bucket.watched)
    found: list[Any] = await pipeline.execute()
    carts, cold, dirty, oldest, prices, flushed, is_paused, watched = found
    now_ms = await runner.now_ms()
    return BucketVitals(
        carts,
        cold,
        dirty,
        _age_s(oldest, now_ms),
        prices,
        _numbers(flushed),
        bool(is_paused),
        await levels(runner, bucket, sorted(map(text_of, watched))),
    )


async def levels(runner: Runner, bucket: Bucket, counters: Sequence[str]) -> list[StockLevel]:
    """Of counters (SKUs), those that there are; not of one instant."""
    if not counters:
        return []
    pipeline = runner.redis.pipeline(transaction=False)
    for key in (bucket.stock, bucket.held, bucket.sold):
        pipeline.hmget(key, counters)
    found = []
    for sku, *units in zip(counters, *await pipeline.execute(), strict=True):
        free, held, sold = map(number_of, units)
        if free is not None:
            found.append(StockLevel(sku, free, held or 0, sold or 0))
    return found


async def lag_s(runner: Runner, bucket: Bucket) -> float:
    """As BucketVitals has it."""
    oldest: Any = await runner.redis.zrange(bucket.dirty, 0, 0, withscores=True)
    return _age_s(oldest, await runner.now_ms())


def _age_s(oldest: Sequence[tuple[bytes, float]], now_ms: int) -> float:
    return max(0.0, now_ms - oldest[0][1]) / 1000 if oldest else 0.0


def _numbers(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    """What can be read of it: a field may be somebody else's."""
    named = {name.decode(errors="replace"): number_of(value) for name, value in fields.items()}
    return {name: value for name, value in named.items() if value is not None}
