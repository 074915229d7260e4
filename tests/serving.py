"""A service of a test's own: a process with settings that no other test wants."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx

from cartsvc import dev, embedded
from cartsvc.embedded import free_port
from cartsvc.settings import Settings
from tests.callers import NO_TLS
from tests.shop import SECRET


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, on a port that is free."""
    settings = replace(settings, port=free_port(), jwt_secret=SECRET)
    process = await asyncio.to_thread(dev.start, "serve", settings, os.environ)
    try:
        async with httpx.AsyncClient(base_url=dev.url(settings), verify=NO_TLS) as client:
            yield client
    finally:
        await asyncio.to_thread(embedded.stop, process)
