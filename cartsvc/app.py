"""The ASGI application: the one place where settings become a store and routes."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cartsvc import contract, contracts, docs, scripts
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.core import Core
from cartsvc.identity import Verifier
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store


def create_app(settings: Settings) -> Starlette:
    """The service. Connects to nothing before the first request.

    Raises:
        SettingError: there is nothing by which tokens could be verified.
    """
    redis = scripts.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    runner = Runner(
        redis, timeout_s=settings.redis_timeout_s, connections=settings.redis_connections
    )
    ledger = Ledger(settings.database_url, timeout_s=settings.database_timeout_s)
    store = store_of(settings, runner)
    archive = Archive(store, Backlog(runner), ledger, timeout_s=settings.database_timeout_s)
    core = Core(store, archive, Verifier(settings), Bucket(settings.tenant))
    spoken = contracts.all_of(core)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await ledger.open()
        yield
        await redis.aclose()
        await ledger.close()

    app = Starlette(
        routes=[
            *contract.routes(spoken, settings.max_body_bytes),
            *docs.routes(spoken),
            Route("/healthz", healthz),
        ],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
    )
    # A redirect to the path without its last slash would leave the proxy's scheme and host.
    app.router.redirect_slashes = False
    return app


def store_of(settings: Settings, runner: Runner) -> Store:
    return Store(
        runner,
        max_lines=settings.max_lines,
        stock_policy=settings.stock_policy,
        hold_ttl_s=settings.hold_ttl_s,
    )


async def healthz(_: Request) -> JSONResponse:
    """The process is up. Says nothing about Redis or PostgreSQL."""
    return JSONResponse({"status": "ok"})


async def no_route(_: Request, error: Exception) -> JSONResponse:
    """404 for a path that no contract has."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = error.detail.lower().replace(" ", "_")
    content = {"success": False, "message": error.detail, "error": {"code": code}}
    return JSONResponse(content, error.status_code, error.headers)
