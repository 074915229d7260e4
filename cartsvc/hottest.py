"""The SKUs that sell now, with their stock: what `cartsvc top` shows of Redis itself.

An add pays nothing for it. The carts that changed last are looked at, as far as they are dirty.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from cartsvc import vitals
from cartsvc.findings import text_of
from cartsvc.keys import Bucket
from cartsvc.scripts import Runner
from cartsvc.shelf import Shelf

NEWEST_CARTS = 100
"""Carts that are looked at."""

_QUANTITY = b"q:"
_UNCOUNTED = (None, 0, 0)


class Hot(NamedTuple):
    """A SKU, and of its counter the units free, held and sold; None where nothing is counted."""

    sku: str
    name: str
    is_watched: bool
    free: int | None
    held: int
    sold: int

    @property
    def received(self) -> int:
        return (self.free or 0) + self.held + self.sold


class _About(msgspec.Struct):
    name: str = ""
    variant: str = ""


class _Record(msgspec.Struct):
    counter: str = ""
    policy: str = ""
    about: _About = msgspec.field(default_factory=_About)


_record = msgspec.json.Decoder(_Record).decode


class Hottest:
    """What sells in a bucket; of the looks before, each counts half as much as the one after it.

    Raises the client's own errors, and `OutcomeUnknown`.
    """

    def __init__(self, runner: Runner, bucket: Bucket, stock_policy: str) -> None:
        self.runner = runner
        self.bucket = bucket
        self.stock_policy = stock_policy
        self.heat: Counter[str] = Counter()

    async def look(self, limit: int) -> list[Hot]:
        """The SKUs that are watched, then those that most of the newest carts have."""
        heard = await self._newest()
        self.heat = Counter({sku: heat / 2 for sku, heat in self.heat.items() if heat > 1}) + heard
        chosen = await Shelf(self.runner).watched(self.bucket)
        hot = [sku for sku, _ in self.heat.most_common(limit)]
        skus = list(dict.fromkeys([*chosen, *hot]))[:limit]
        return await self._stock(skus, frozenset(chosen)) if skus else []

    async def _newest(self) -> Counter[str]:
        redis = self.runner.redis
        # By score, or the client would ask for ZREVRANGE, which is another right in Redis.
        carts: Any = await redis.zrange(
            self.bucket.dirty, "+inf", "-inf", desc=True, byscore=True, offset=0, num=NEWEST_CARTS
        )
        pipeline = redis.pipeline(transaction=False)
        for cart in carts:
            pipeline.hkeys(cart)
        # What is no hash is somebody else's.
        found = await pipeline.execute(raise_on_error=False) if carts else []
        return Counter(sku for fields in found if isinstance(fields, list) for sku in _skus(fields))

    async def _stock(self, skus: Sequence[str], chosen: frozenset[str]) -> list[Hot]:
        found: Any = await self.runner.redis.hmget(self.bucket.catalogue, skus)
        records = [_read(record) for record in found]
        counters = [record.counter or sku for sku, record in zip(skus, records, strict=True)]
        levels = await vitals.levels(self.runner, self.bucket, counters)
        units = {level.sku: (level.free, level.held, level.sold) for level in levels}
        return [
            Hot(
                sku,
                " / ".join(filter(None, (record.about.name, record.about.variant))),
                sku in chosen,
                *(_UNCOUNTED if self._is_untracked(record) else units.get(counter, _UNCOUNTED)),
            )
            for sku, record, counter in zip(skus, records, counters, strict=True)
        ]

    def _is_untracked(self, record: _Record) -> bool:
        return (record.policy or self.stock_policy) == "untracked"


def _skus(fields: Iterable[bytes]) -> list[str]:
    return [text_of(one.removeprefix(_QUANTITY)) for one in fields if one.startswith(_QUANTITY)]


def _read(record: bytes | None) -> _Record:
    """A record of the catalogue; an empty one where there is none that can be read."""
    try:
        return _record(record or b"{}")
    except msgspec.DecodeError:
        return _Record()
