"""Databases for tests: migrated once, and emptied rather than made anew."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from cartsvc import embedded
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger

Result = TypeVar("Result")

_NOTE_CHANGES = """
CREATE TABLE changes (tag text);
CREATE FUNCTION note_change() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.changes VALUES (tg_tag);
END $$;
CREATE EVENT TRIGGER note_change ON ddl_command_end EXECUTE FUNCTION note_change();
"""

# 4,096 rounds of hashing are half of what a test's connection costs.
_QUICK_PASSWORD = """
SET scram_iterations = 1;
ALTER ROLE CURRENT_USER PASSWORD '{}';
"""

_EMPTY = """
DELETE FROM cart_items;
DELETE FROM carts;
DELETE FROM price_history;
DELETE FROM dead_letter;
DELETE FROM products;
DELETE FROM stock;
DELETE FROM buckets;
DELETE FROM audit;
"""


async def make_template(postgres: embedded.Postgres) -> None:
    """Migrate the database; from then on it notes what changes its schema, as do its copies."""
    ledger = await Ledger.connect(postgres.url)
    await ledger.migrate()
    await ledger.pool.execute(_NOTE_CHANGES + _QUICK_PASSWORD.format(postgres.password))
    await ledger.close()


async def make(postgres: embedded.Postgres, name: str) -> str:
    """The URL of a new copy of the template."""
    admin = await Ledger.connect(postgres.url_of("postgres"))
    await admin.pool.execute(f"CREATE DATABASE {name} TEMPLATE cartsvc")
    await admin.close()
    return postgres.url_of(name)


async def empty(ledger: Ledger) -> None:
    """Delete all rows; for the few that a test leaves, TRUNCATE takes forty times as long."""
    await ledger.pool.execute(_EMPTY)


class Caretaker:
    """Empties databases between tests, over connections that outlive the loops of tests.

    To connect takes ten times as long as to delete what a test leaves.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ledgers: dict[str, Ledger] = {}

    def close(self) -> None:
        for ledger in self._ledgers.values():
            self._run(ledger.close())
        self._loop.close()

    def open(self, url: str, bucket: Bucket) -> None:
        """Make the database one that knows the bucket, and nothing else."""
        ledger = self._ledger(url)
        self._run(empty(ledger))
        self._run(ledger.open_bucket(bucket))

    def give_back(self, url: str) -> bool:
        """Make the database what it was when it was new; False if its schema was changed."""
        ledger = self._ledger(url)
        if self._run(ledger.pool.fetch("SELECT FROM changes")):
            self._run(self._ledgers.pop(url).close())
            return False
        self._run(empty(ledger))
        return True

    def _ledger(self, url: str) -> Ledger:
        if url not in self._ledgers:
            self._ledgers[url] = self._run(Ledger.connect(url))
        return self._ledgers[url]

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)
