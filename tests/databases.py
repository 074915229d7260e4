"""Databases for tests: migrated once, and emptied rather than made anew."""

from cartsvc import embedded
from cartsvc.ledger import Ledger

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


async def give_back(url: str) -> bool:
    """Make the database what it was when it was new; False if its schema was changed."""
    ledger = await Ledger.connect(url)
    changed = await ledger.pool.fetch("SELECT FROM changes")
    if not changed:
        await empty(ledger)
    await ledger.close()
    return not changed
