"""The faults: each has a service of its own, a load, and something that goes wrong."""

from loadtests.chaos.faults import (
    clients,
    clocks,
    games,
    pauses,
    postgres,
    processes,
    redis,
    replies,
    sales,
)
from loadtests.chaos.faults.fault import Fault

ALL: dict[str, Fault] = {
    "sell-out": sales.sell_out,
    "lost-replies-keys": replies.lost_replies_with_keys,
    "lost-replies": replies.lost_replies_without_keys,
    "one-key": sales.one_key,
    "games": games.games,
    "kills": processes.killed_processes,
    "points": processes.killed_at_points,
    "two-workers": processes.two_workers,
    "price-kills": processes.killed_while_repricing,
    "redis-kills": redis.killed_redis,
    "redis-kills-fsync": redis.killed_redis_fsync,
    "pauses": pauses.killed_while_paused,
    "flushall": redis.emptied_redis,
    "postgres": postgres.away_and_slow,
    "poison": postgres.poison,
    "clocks": clocks.stepping,
    "slow-clients": clients.slow_clients,
}
