"""The ASGI application: the one place where settings become a store and routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cartsvc import contract, contracts, docs, http, metrics, probes, scripts
from cartsvc.acts import Desk
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.contract import ByHeader
from cartsvc.core import Core
from cartsvc.http import Endpoint
from cartsvc.identity import Verifier
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.metrics import ALONE, Board
from cartsvc.pressure import Marks
from cartsvc.probes import Readiness
from cartsvc.scrape import Scrape
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store

_VERIFY_S = 50.0
"""Longest that a request may audit a tenant's data: proxies rarely wait for more than a minute."""


class Service(Starlette):
    """Starlette, with a short way to the routes whose path has no parameters: an add, a cart.

    Their endpoints answer every error themselves, so what Starlette wraps a request in for that
    would only cost: a third of the time that a request spends outside of its contract.
    """

    def __init__(self, *, routes: Sequence[Route], **more: Any) -> None:
        super().__init__(routes=routes, **more)
        self._endpoints = {
            route.path: route.endpoint
            for route in routes
            if isinstance(route.endpoint, Endpoint | ByHeader) and not route.param_convertors
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            return super().__call__(scope, receive, _identified(scope, send))
        return endpoint(scope, receive, send)


def _identified(scope: Scope, send: Send) -> Send:
    """Give an answer the request's id, unless it is an endpoint's, which does so itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and "request_id" not in scope:
            http.identify(scope)
            message["headers"].append((http.REQUEST_ID, scope["request_id"].encode()))
        await send(message)

    return sending


def create_app(settings: Settings, board: Board = ALONE) -> Starlette:
    """The service, whose processes share a board. Connects to nothing before its lifespan begins.

    Raises:
        SettingError: there is nothing by which tokens could be verified.
    """
    redis = scripts.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    runner = Runner(
        redis,
        timeout_s=settings.redis_timeout_s,
        in_flight=settings.redis_in_flight,
        sync_key=sync_key(settings),
    )
    ledger = Ledger(settings.database_url, timeout_s=settings.database_timeout_s)
    store = store_of(settings, runner)
    archive = Archive(store, Backlog(runner), ledger, timeout_s=settings.database_timeout_s)
    core = Core(
        store, archive, Verifier(settings), Bucket(settings.tenant), desk_of(settings, archive)
    )
    spoken = contracts.all_of(core)
    readiness = Readiness(store, core.bucket, max_lag_s=settings.max_dirty_age_s)
    metrics.gauge(
        "cartsvc_link_in_flight", "Requests to Redis that wait for a reply", runner.link.waiting
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await ledger.open()
        loops = [
            asyncio.create_task(one) for one in (store.pressure.run_forever(), board.run_forever())
        ]
        yield
        for one in loops:
            one.cancel()
        await asyncio.wait(loops)
        await runner.aclose()
        await ledger.close()

    app = Service(
        routes=[
            *contract.routes(spoken, settings.max_body_bytes),
            *docs.routes(spoken),
            *probes.routes(Scrape(board, store, ledger, core.bucket), readiness),
        ],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
    )
    # A redirect to the path without its last slash would leave the proxy's scheme and host.
    app.router.redirect_slashes = False
    return app


def sync_key(settings: Settings) -> str | None:
    """What a runner syncs changes with; None if they are acknowledged before."""
    return Bucket(settings.tenant).sync if settings.durability == "fsync" else None


def store_of(settings: Settings, runner: Runner) -> Store:
    return Store(
        runner,
        max_lines=settings.max_lines,
        stock_policy=settings.stock_policy,
        hold_ttl_s=settings.hold_ttl_s,
        sold_out_memory_ms=settings.sold_out_memory_ms,
        outcome_ttl_s=settings.idempotency_ttl_s,
        max_outcomes=settings.idempotency_keys,
        marks=Marks(
            dirty_age_s=settings.max_dirty_age_s,
            price_events=settings.max_price_events,
            memory_percent=settings.max_memory_percent,
        ),
        guest_carts_per_s=settings.guest_carts_per_s,
    )


def desk_of(settings: Settings, archive: Archive) -> Desk | None:
    """What requests of operators are done with; None where none are served."""
    if not settings.admin:
        return None
    return Desk(
        archive,
        pause_s=settings.flush_interval_s / 2,
        timeout_s=settings.database_timeout_s,
        verify_s=_VERIFY_S,
    )


async def no_route(_: Request, error: Exception) -> JSONResponse:
    """404 for a path that no contract has."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = error.detail.lower().replace(" ", "_")
    content = {"success": False, "message": error.detail, "error": {"code": code}}
    return JSONResponse(content, error.status_code, error.headers)
