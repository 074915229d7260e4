"""What a rehearsal sells: a few products of its own, fresh each time."""

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import orjson

from cartsvc import rows
from cartsvc.errors import NotWarm
from cartsvc.importer import Importer
from cartsvc.keys import Bucket
from cartsvc.settings import Settings
from cartsvc.shelf import Shelf
from loadtests import stores

HOT = ("5a1e00000000000000000001", "9510001")
"""What everybody wants: once with an ObjectId, once with a number, for contract 003."""

_OBJECT_IDS = tuple(f"5a1e0000000000000000001{digit}" for digit in range(6))
_NUMBERS = ("9510011", "9510012")
_IN_SIZES, _SIZES = "9510013", ("m", "l")

SKUS = (*HOT, *_OBJECT_IDS, *_NUMBERS, *(f"{_IN_SIZES}/{size}" for size in _SIZES))

_PLENTY = 1_000_000

LATER_S = 86_400.0
"""When a sale opens of which nobody has said when."""


class Refused(RuntimeError):
    """The service can't be given the products; the message says why in a line."""


def catalogue(users: int, seconds: int, opens: datetime) -> bytes:
    """NDJSON. There is so much of the hot products that they sell out while the sale opens, and a
    hold runs out several times in a sale."""
    bargain = {
        "stock_policy": "hold",
        "hold_ttl_s": max(3, seconds // 8),
        "max_per_buyer": 2,
        "sale_starts_at": opens,
    }
    units = users * seconds // 40 + 1
    products: list[dict[str, Any]] = [
        {"id": HOT[0], "name": "Rehearsal sneaker", "price": 159, "stock": units, **bargain},
        {
            "id": HOT[1],
            "name": "Rehearsal kettle",
            "price": 72,
            "stock": units // 20 + 1,
            **bargain,
        },
        *(
            {"id": sku, "name": "Rehearsal mug", "price": 12.5, "stock": _PLENTY}
            for sku in (*_OBJECT_IDS, *_NUMBERS)
        ),
        {
            "id": _IN_SIZES,
            "name": "Rehearsal shirt",
            "price": 22,
            "stock": _PLENTY,
            "variants": [{"id": size} for size in _SIZES],
        },
    ]
    return b"\n".join(map(orjson.dumps, products))


async def put(
    settings: Settings, users: int, seconds: int, opens_in_s: float, *, is_fresh: bool
) -> None:
    """Put the products into the catalogue; the sale opens by Redis's clock.

    `is_fresh` gives them their stock anew, however much of it was sold before.

    Raises:
        Refused: it could not be done.
    """
    problems: list[str] = []
    async with stores.connected(settings.redis_url, settings.database_url) as (runner, ledger):
        opens = datetime.fromtimestamp(await runner.now_ms() / 1000 + opens_in_s, UTC)
        importer = Importer(ledger, Shelf(runner), Bucket(settings.tenant), settings.currency)
        try:
            await importer.run(
                rows.read(BytesIO(catalogue(users, seconds, opens))),
                set_stock=is_fresh,
                on_bad_row=lambda _, problem: problems.append(problem),
            )
        except NotWarm:
            raise Refused("Redis has lost this tenant: see `cartsvc warm`") from None
    if problems:
        raise Refused(f"{'; '.join(problems)}: try again when these holds have run out")
