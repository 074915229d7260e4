"""Servers and databases beside the site's: for what must not meet the others' carts."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import redis

from cartsvc import embedded
from cartsvc.ledger import Ledger
from loadtests.bench.site import Site


@contextlib.contextmanager
def own_redis(site: Site, name: str) -> Iterator[Site]:
    """The site with another, empty Valkey, of the same settings."""
    valkey = embedded.Valkey(site.folder / name)
    with embedded.running(valkey):
        assert valkey.process is not None
        with redis.Redis.from_url(valkey.url) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
        yield replace(
            site,
            redis_url=valkey.url,
            redis_port=valkey.port,
            redis_password=valkey.password,
            redis_pid=valkey.process.pid,
        )


async def own_database(site: Site, name: str) -> Site:
    """The site with another database, migrated, on the same PostgreSQL."""
    admin = await asyncpg.connect(site.database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    url = urlsplit(site.database_url)._replace(path=f"/{name}").geturl()
    ledger = await Ledger.connect(url)
    await ledger.migrate()
    await ledger.close()
    return replace(site, database_url=url)
