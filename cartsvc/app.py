"""The ASGI application: the one place where settings become a store and routes."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cartsvc import scripts
from cartsvc.contracts import session
from cartsvc.scripts import Runner
from cartsvc.settings import Settings
from cartsvc.store import Store


def create_app(settings: Settings) -> Starlette:
    """The service. Connects to nothing before the first request."""
    redis = scripts.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    runner = Runner(
        redis, timeout_s=settings.redis_timeout_s, connections=settings.redis_connections
    )
    store = store_of(settings, runner)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await redis.aclose()

    return Starlette(
        routes=[
            *session.routes(store, tenant=settings.tenant, max_body_bytes=settings.max_body_bytes),
            Route("/healthz", healthz),
        ],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
    )


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
    """404 for a path that no contract has, 405 for a method that its path does not take."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = error.detail.lower().replace(" ", "_")
    content = {"success": False, "message": error.detail, "error": {"code": code}}
    return JSONResponse(content, error.status_code, error.headers)
