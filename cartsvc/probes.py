"""What is asked by those who watch the service: `/healthz`, `/readyz` and `/metrics`.

None of them needs a token: who may reach them is for the proxy to say.
"""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cartsvc import vitals
from cartsvc.drivers import AWAY
from cartsvc.errors import NotWarm, OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.scrape import CONTENT_TYPE, Scrape
from cartsvc.shelf import Shelf
from cartsvc.store import Store


class Readiness:
    """Whether the service can do its work for a bucket: what a load balancer asks.

    PostgreSQL may be away: adds go on until a change has waited for it for longer than `max_lag_s`
    (0: however long).
    """

    def __init__(self, store: Store, bucket: Bucket, *, max_lag_s: float) -> None:
        self.store = store
        self.bucket = bucket
        self.max_lag_s = max_lag_s

    async def checks(self) -> dict[str, dict[str, Any]]:
        """What was looked at, each with `ok`, and what is the matter where it is not."""
        try:
            async with asyncio.timeout(self.store.runner.timeout_s):
                lag_s = await self._redis()
        except AWAY as error:
            unknown = {"ok": False, "problem": "how much waits for it is known to Redis alone"}
            return {"redis": {"ok": False, "problem": self._told(error)}, "postgresql": unknown}
        return {"redis": {"ok": True}, "postgresql": self._postgresql(lag_s)}

    async def _redis(self) -> float:
        """Have Redis run the script of an add; how long a change has waited for PostgreSQL, s."""
        if not await Shelf(self.store.runner).is_warm(self.bucket):
            raise NotWarm
        await self.store.rehearse(self.bucket)
        return await vitals.lag_s(self.store.runner, self.bucket)

    def _postgresql(self, lag_s: float) -> dict[str, Any]:
        found: dict[str, Any] = {"ok": True, "lag_s": round(lag_s, 1), "max_lag_s": self.max_lag_s}
        if 0 < self.max_lag_s < lag_s:
            found |= {"ok": False, "problem": "changes have waited for it for too long"}
        return found

    def _told(self, error: Exception) -> str:
        match error:
            case NotWarm():
                return f"it has nothing of tenant {self.bucket.tenant}"
            case OutcomeUnknown(reason=reason):
                return reason
            case _:
                return str(error) or "it does not answer"


def routes(scrape: Scrape, readiness: Readiness) -> list[Route]:
    async def metrics(_: Request) -> Response:
        return Response(await scrape.text(), headers={"content-type": CONTENT_TYPE})

    async def readyz(_: Request) -> Response:
        checks = await readiness.checks()
        is_ready = all(one["ok"] for one in checks.values())
        headers = {} if is_ready else {"retry-after": "1"}
        content = {"ready": is_ready, "checks": checks}
        return JSONResponse(content, 200 if is_ready else 503, headers)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]


async def healthz(_: Request) -> Response:
    """The process is up. Says nothing about Redis or PostgreSQL."""
    return JSONResponse({"status": "ok"})
