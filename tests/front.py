"""The contracts in this process, over a shop's own store: what a test turns there, they meet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from cartsvc import contract, contracts
from cartsvc.acts import Desk
from cartsvc.app import Service
from cartsvc.archive import Archive
from cartsvc.backlog import Backlog
from cartsvc.core import Core
from cartsvc.identity import Verifier
from cartsvc.ledger import Ledger
from cartsvc.settings import Settings
from tests.shop import SECRET, Shop

ADDRESS = "192.0.2.7"
"""Where its requests are from."""


@asynccontextmanager
async def front_of(shop: Shop, ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    archive = Archive(shop.store, Backlog(shop.runner), ledger, timeout_s=5)
    desk = Desk(archive, pause_s=0.01, timeout_s=5, verify_s=5)
    core = Core(shop.store, archive, Verifier(Settings(jwt_secret=SECRET)), shop.bucket, desk)
    app = Service(routes=contract.routes(contracts.all_of(core), 65_536))
    transport = httpx.ASGITransport(app, client=(ADDRESS, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client
