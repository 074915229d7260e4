"""The command line, as a process: what it prints, its exit status, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import asyncpg
import jwt
import pytest
import redis

from cartsvc import __version__, embedded, keys
from cartsvc.ledger import Ledger
from cartsvc.scripts import Runner
from tests.command import run
from tests.shop import LAMP, Shop

SECRET = "a secret that is long enough for HS256"
ROWS = f"""\
{{"id": "{LAMP}", "name": "Lamp", "price": 29.99, "stock": 5}}
{{"id": "tee", "name": "Tee", "price": 10, "variants": [{{"id": "s", "stock": 2}}]}}
"""


@pytest.fixture
def servers(valkey: embedded.Valkey, database_url: str, runner: Runner) -> dict[str, str]:
    """Where an empty Redis and an empty, migrated PostgreSQL are."""
    return {"CARTSVC_REDIS_URL": valkey.url, "CARTSVC_DATABASE_URL": database_url}


def test_version_and_help() -> None:
    version = subprocess.check_output([sys.executable, "-m", "cartsvc", "--version"], text=True)
    assert version == f"{__version__}\n"
    commands = run("--help").stdout
    for command in (
        "dev",
        "serve",
        "worker",
        "migrate",
        "catalog",
        "stock",
        "token",
        "keys",
        "warm",
        "verify",
        "price",
        "sale",
        "carts",
        "audit",
    ):
        assert command in commands
    assert "dead-letter" in commands
    assert "keys" in commands


def test_keys_prints_every_row_of_the_table() -> None:
    printed = run("keys").stdout
    for row in keys.TABLE:
        assert row.pattern in printed


@pytest.mark.parametrize("kind", ["customer", "user", "service"])
def test_token_is_signed_and_expires(kind: str) -> None:
    done = run(
        "token", "--sub", "42", "--type", kind, "--tenant", "acme", CARTSVC_JWT_SECRET=SECRET
    )
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["type"], claims["tenant"]) == ("42", kind, "acme")
    assert claims["exp"] - claims["iat"] == 86_400


def test_token_needs_a_secret_and_a_known_type() -> None:
    assert run("token", "--sub", "42").stderr == "cartsvc: CARTSVC_JWT_SECRET: is not set\n"
    short = run("token", "--sub", "42", CARTSVC_JWT_SECRET="short")
    assert short.stderr == "cartsvc: CARTSVC_JWT_SECRET: is not a text of at least 32 characters\n"
    wrong = run("token", "--sub", "42", "--type", "root", CARTSVC_JWT_SECRET=SECRET)
    assert wrong.returncode == 2
    assert "'root' is not one of customer, user, service" in wrong.stderr


def test_migrate_says_what_it_did(postgres: embedded.Postgres, database_url: str) -> None:
    assert run("migrate", CARTSVC_DATABASE_URL=database_url).stdout == "already up to date\n"


async def test_migrate_brings_an_empty_database_up(postgres: embedded.Postgres) -> None:
    admin = await asyncpg.connect(postgres.url_of("postgres"))
    await admin.execute("CREATE DATABASE empty")
    try:
        done = run("migrate", CARTSVC_DATABASE_URL=postgres.url_of("empty"))
        assert (
            done.stdout
            == "applied 0001_carts, 0002_sales, 0003_records, 0004_dead_letter, 0005_books, "
            "0006_audit\n"
        )
    finally:
        await admin.execute("DROP DATABASE empty")
        await admin.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_migrate_refuses_a_database_that_can_not_hold_every_name(
    postgres: embedded.Postgres, encoding: str
) -> None:
    """What it could not hold would come in by a name or an owner, and be refused by the flush."""
    admin = await asyncpg.connect(postgres.url_of("postgres"))
    await admin.execute(
        f"CREATE DATABASE narrow TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    )
    try:
        done = run("migrate", CARTSVC_DATABASE_URL=postgres.url_of("narrow"))
        told = f"cartsvc: CARTSVC_DATABASE_URL: is in {encoding}, not in UTF8\n"
        assert (done.returncode, done.stderr) == (1, told)
    finally:
        await admin.execute("DROP DATABASE narrow WITH (FORCE)")
        await admin.close()


async def test_import_from_a_file_and_from_stdin(
    servers: dict[str, str], shop: Shop, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "catalogue.ndjson"
    file.write_text(ROWS)
    done = run("catalog", "import", str(file), **servers)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 products imported, 3 counters given stock, 0 rows refused\n"
    assert await shop.redis.hgetall("stock:{default:0}") == {
        LAMP.encode(): b"5",
        b"tee": b"0",
        b"tee/s": b"2",
    }
    again = run("catalog", "import", "-", stdin=ROWS, **servers)
    assert again.stdout == "2 products imported, 0 counters given stock, 0 rows refused\n"
    assert await ledger.pool.fetchval("SELECT count(*) FROM products") == 2


async def test_import_names_bad_rows_and_imports_the_others(
    servers: dict[str, str], ledger: Ledger
) -> None:
    done = run("catalog", "import", "-", stdin="{}\n" + ROWS + '{"id": 1\n', **servers)
    assert done.returncode == 1
    assert done.stdout == "2 products imported, 3 counters given stock, 2 rows refused\n"
    first, second = done.stderr.splitlines()
    assert first == "line 1: Object missing required field `id`"
    assert second.startswith("line 4: ")
    assert await ledger.pool.fetchval("SELECT count(*) FROM products") == 2


async def test_import_for_a_tenant(servers: dict[str, str], shop: Shop) -> None:
    run("catalog", "import", "-", "--tenant", "acme", stdin=ROWS, **servers)
    assert await shop.redis.hget("stock:{acme:0}", LAMP) == b"5"
    assert await shop.redis.exists("stock:{default:0}") == 0


async def test_a_broken_tenant_is_refused(servers: dict[str, str], shop: Shop) -> None:
    for arguments in (("catalog", "import", "-"), ("stock", "get", "a")):
        done = run(*arguments, "--tenant", "a}:{b", stdin=ROWS, **servers)
        assert done.returncode == 2
        assert "tenant id" in done.stderr


async def test_stock_get_set_add(servers: dict[str, str], shop: Shop) -> None:
    run("catalog", "import", "-", stdin=ROWS, **servers)
    assert run("stock", "get", LAMP, **servers).stdout == told(LAMP, 5)
    assert run("stock", "add", LAMP, "10", **servers).stdout == told(LAMP, 15)
    assert run("stock", "set", "tee/s", "7", **servers).stdout == told("tee/s", 7)
    assert run("stock", "add", LAMP, "--", "-3", **servers).stdout == told(LAMP, 12)
    assert await shop.redis.hget("stock:{default:0}", LAMP) == b"12"


def told(sku: str, free: int) -> str:
    return f"{sku}: {free} free, 0 held, 0 sold, {free} received\n"


async def test_stock_that_carts_hold_is_not_set_away(servers: dict[str, str], shop: Shop) -> None:
    run("catalog", "import", "-", stdin=ROWS, **servers)
    await shop.sell(stock_policy="hold")
    await shop.add(3)
    held = run("stock", "get", LAMP, **servers)
    assert held.stdout == f"{LAMP}: 2 free, 3 held, 0 sold, 5 received\n"
    refused = run("stock", "set", LAMP, "2", **servers)
    assert refused.stderr == f"cartsvc: carts hold 3 units of '{LAMP}': it can't be set to fewer\n"
    assert refused.returncode == 1


def test_stock_refusals_are_a_line(servers: dict[str, str]) -> None:
    run("catalog", "import", "-", stdin=ROWS, **servers)
    unknown = run("stock", "get", "nothing", **servers)
    assert unknown.stderr == "cartsvc: the catalogue has no stock counter 'nothing'\n"
    below = run("stock", "add", LAMP, "--", "-6", **servers)
    assert below.stderr == f"cartsvc: only 5 units of '{LAMP}' are free\n"
    assert run("stock", "set", LAMP, "-1", **servers).returncode == 2
    assert run("stock", "set", LAMP, "many", **servers).returncode == 2


AWAY = {
    "CARTSVC_REDIS_URL": "redis://127.0.0.1:1/0",
    "CARTSVC_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/cartsvc",
}


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["migrate"], AWAY, "PostgreSQL: "),
        (["stock", "get", LAMP], AWAY, "PostgreSQL: "),
        (["serve"], {"CARTSVC_PORT": "many"}, "CARTSVC_PORT: 'many' is not a whole number"),
        (["serve"], {}, "one of CARTSVC_JWT_SECRET, CARTSVC_JWT_PUBLIC_KEY_FILE, "),
        (["worker"], {"CARTSVC_REDIS_URL": "localhost"}, "CARTSVC_REDIS_URL: is not a redis://"),
        (["catalog", "import", "/nowhere/file"], AWAY, "/nowhere/file: No such file"),
        (["catalog", "import", "/"], AWAY, "/: Is a directory"),
    ],
)
def test_errors_are_one_line(arguments: list[str], variables: dict[str, str], told: str) -> None:
    done = run(*arguments, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cartsvc: {told}")
    assert done.stderr.count("\n") == 1


def test_redis_away_is_one_line(servers: dict[str, str]) -> None:
    variables = {**servers, "CARTSVC_REDIS_URL": AWAY["CARTSVC_REDIS_URL"]}
    done = run("catalog", "import", "-", stdin=ROWS, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith("cartsvc: Redis: ")
    assert done.stderr.count("\n") == 1
    # Broken off there, it left nothing that stands in the way of the next.
    again = run("catalog", "import", "-", stdin=ROWS, **servers)
    assert (again.returncode, again.stdout[:19]) == (0, "2 products imported")


class TestWarm:
    def test_rebuilds_what_redis_lost(self, servers: dict[str, str]) -> None:
        run("catalog", "import", "-", stdin=ROWS, **servers)
        there = run("warm", **servers)
        assert (there.returncode, there.stdout) == (
            0,
            "Redis has this tenant: there is nothing to rebuild\n",
        )
        flush_all(servers)
        lost = run("stock", "get", LAMP, **servers)
        assert (lost.returncode, "cartsvc warm" in lost.stderr) == (1, True)
        done = run("warm", **servers)
        assert done.returncode == 0
        assert done.stdout == (
            "2 products, 3 counters, 0 carts that hold units, 0 others, "
            "which come back when they are touched\n"
        )
        assert "5 free, 0 held, 0 sold" in run("stock", "get", LAMP, **servers).stdout

    def test_says_why_it_does_not(self, servers: dict[str, str]) -> None:
        done = run("warm", "--tenant", "acme", **servers)
        assert (done.returncode, done.stderr) == (1, "cartsvc: PostgreSQL knows no tenant 'acme'\n")
        run("catalog", "import", "-", stdin=ROWS, **servers)
        with redis.Redis.from_url(servers["CARTSVC_REDIS_URL"]) as client:
            client.delete("seq:{default:0}")
        done = run("warm", **servers)
        assert done.returncode == 1
        assert "nothing is rebuilt over it" in done.stderr


class TestVerify:
    def test_says_what_it_looked_at(self, servers: dict[str, str]) -> None:
        run("catalog", "import", "-", stdin=ROWS, **servers)
        done = run("verify", **servers, **AT_ONCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "0 carts in Redis, 0 active rows, 0 markers, 3 counters, 0 lines with new prices: "
            "nothing wrong\n"
        )

    async def test_tells_what_is_wrong_and_mends_it(
        self, servers: dict[str, str], shop: Shop
    ) -> None:
        run("catalog", "import", "-", stdin=ROWS, **servers)
        await shop.redis.hincrby(shop.bucket.stock, LAMP, -1)
        await shop.redis.hset(shop.bucket.cold, "user:x", "256")
        found = run("verify", **servers, **AT_ONCE)
        counter = f"counter {LAMP} has 4 free, 0 held, 0 sold, and 5 received"
        marker = "cart 256 has a marker in Redis, and PostgreSQL does not have it"
        counted = "0 carts in Redis, 0 active rows, 1 markers, 3 counters, 0 lines with new prices"
        assert found.returncode == 1
        assert found.stdout == f"wrong: {marker}\nwrong: {counter}\n{counted}: 2 wrong\n"
        done = run("verify", "--repair", **servers, **AT_ONCE)
        assert done.returncode == 1
        assert done.stdout == f"mended: {counter}\nleft: {marker}\n{counted}: 1 wrong\n"
        await shop.redis.hdel(shop.bucket.cold, "user:x")
        await shop.redis.hincrby(shop.bucket.stock, LAMP, -1)
        done = run("verify", "--repair", **servers, **AT_ONCE)
        assert (done.returncode, done.stdout.count("mended: ")) == (0, 1)
        assert run("verify", **servers, **AT_ONCE).returncode == 0

    async def test_breaks_no_terminal(self, servers: dict[str, str], shop: Shop) -> None:
        run("catalog", "import", "-", stdin=ROWS, **servers)
        await shop.redis.hset(shop.bucket.stock, "\x1b[31m[bold]\n", 1)
        await shop.redis.hset(shop.bucket.held, b"\xff", 1)
        await shop.redis.hset(shop.bucket.carts, "\x1b[2J", b"no key\0\xff")
        await shop.redis.hset(shop.bucket.cold, "\0", "x")
        await shop.redis.zadd(shop.bucket.holders, {b"\xff": 0, "x": 0, "": 0})
        await shop.redis.zadd(shop.bucket.holds_by_sku, {f"{LAMP} x": 0, " ": 0, f"{LAMP} ": 0})
        await shop.redis.hset(shop.bucket.stock, "tee", "many")
        done = run("verify", **servers, **AT_ONCE)
        assert done.returncode == 1
        assert "counter \\x1b[31m[bold]\\n is not known to PostgreSQL" in done.stdout
        assert "\x1b" not in done.stdout

    def test_says_why_it_does_not(self, servers: dict[str, str]) -> None:
        done = run("verify", "--tenant", "acme", **servers)
        assert (done.returncode, done.stderr) == (1, "cartsvc: PostgreSQL knows no tenant 'acme'\n")
        run("catalog", "import", "-", stdin=ROWS, **servers)
        flush_all(servers)
        done = run("verify", **servers)
        assert (done.returncode, "cartsvc warm" in done.stderr) == (1, True)


AT_ONCE = {"CARTSVC_FLUSH_INTERVAL_S": "0.1"}
"""What looks wrong is looked at again after half of it."""


def flush_all(servers: dict[str, str]) -> None:
    with redis.Redis.from_url(servers["CARTSVC_REDIS_URL"]) as client:
        client.flushall()
