"""What Redis has to be like, for whoever is about to work with it."""

import logging
import re

from cartsvc import scripts
from cartsvc.errors import OutcomeUnknown
from cartsvc.link import Link, ReplyError, pack
from cartsvc.settings import SettingError
from cartsvc.syncs import requests

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
"""Longest wait for a reply."""

MIN_MAJOR = 7
"""Oldest version: 7.0."""

_SYNC_MS = 2_000
_AT_ONCE_MS = 300
"""A sync that begins when another has ended takes longer, unless Redis syncs before it answers."""

_PROBES = 3
"""A busy server that does not wait may look once as if it did."""


class UnfitRedis(SettingError):
    """Redis is not as it has to be; the message says what is to be set there."""


async def check(redis_url: str, sync_key: str | None) -> None:
    """`sync_key` is what changes are synced with, if they are to be.

    Raises:
        UnfitRedis: Redis is not as it has to be.
        OutcomeUnknown: it can't be reached, or does not say yet.
    """
    redis = scripts.connect(redis_url, timeout_s=TIMEOUT_S)
    link = Link(redis.connection_pool, timeout_s=TIMEOUT_S, in_flight=9)
    try:
        facts = await _facts(link)
        _require_version(facts)
        _require_no_eviction(facts)
        if sync_key is not None:
            await _require_syncs(link, sync_key)
    except ReplyError as error:
        raise _unfit_to_sync(str(error)) from error
    finally:
        await link.aclose()


async def _facts(link: Link) -> dict[str, str]:
    """What Redis tells of itself; nothing where it may not be asked."""
    try:
        texts = [await link.send(pack(("INFO", section))) for section in ("server", "memory")]
    except ReplyError as error:
        log.warning("Redis does not tell its version and its maxmemory-policy: %s", error)
        return {}
    lines = b"".join(texts).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _require_version(facts: dict[str, str]) -> None:
    version = facts.get("redis_version", "")
    major = re.match(r"\d+", version)
    if major and int(major[0]) < MIN_MAJOR:
        raise UnfitRedis(f"CARTSVC_REDIS_URL: Redis {version} is too old: use 7.0 or newer")


def _require_no_eviction(facts: dict[str, str]) -> None:
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
        raise UnfitRedis(
            f"CARTSVC_REDIS_URL: Redis may evict carts: set its maxmemory-policy to noeviction, "
            f"from {policy}"
        )


async def _require_syncs(link: Link, key: str) -> None:
    await _is_synced(link, key, 1)
    policy = await _sync_policy(link)
    if policy == "no":
        raise _without_syncs("never syncs its file: set its appendfsync to always, from no")
    if policy == "always" or await _waits(link, key):
        return
    if policy is not None:
        raise _without_syncs(
            f"answers WAITAOF before it has synced: set its appendfsync to always, from {policy}"
        )
    log.warning("Redis does not tell whether its appendfsync is always, as it would have to be")


def _unfit_to_sync(error: str) -> Exception:
    """What a reply to SET or WAITAOF says of Redis; others than these may pass."""
    if "appendonly is disabled" in error:
        return _without_syncs("keeps no append-only file: set its appendonly to yes")
    if error.startswith("ERR unknown command"):
        return _without_syncs("has no WAITAOF: use 7.2 or newer")
    if error.startswith("NOPERM"):
        return _without_syncs(f"does not allow it: {error}")
    return OutcomeUnknown(error)


def _without_syncs(what: str) -> UnfitRedis:
    return UnfitRedis(f"CARTSVC_DURABILITY=fsync: Redis {what}")


async def _is_synced(link: Link, key: str, timeout_ms: int) -> bool:
    """Write, and wait; whether that was synced in time.

    One after the other: a server that does not wait is found out by what comes after the write.
    """
    write, wait = requests(key, timeout_ms)
    await link.send(write)
    local, _ = await link.send(wait)
    return bool(local)


async def _sync_policy(link: Link) -> str | None:
    """Redis's `appendfsync`; None if that may not be asked."""
    try:
        _, policy = await link.send(pack(("CONFIG", "GET", "appendfsync")))
    except ReplyError:
        return None
    return str(policy.decode())


async def _waits(link: Link, key: str) -> bool:
    """Whether WAITAOF waits. With everysec, that of Valkey and of some Redis does not."""
    for _ in range(_PROBES):
        await _is_synced(link, key, _SYNC_MS)
        if await _is_synced(link, key, _AT_ONCE_MS):
            return False
    return True
