"""Imports point inwards, and a library is used where it belongs."""

import ast
import os
import re
from pathlib import Path

import pytest

import cartsvc
from cartsvc import keys
from cartsvc.backlog import Backlog
from cartsvc.errors import OutcomeUnknown
from cartsvc.guests import Guests
from cartsvc.link import Link
from cartsvc.model import LineRequest, Once, Owner
from cartsvc.sale import Sale
from cartsvc.syncs import Syncs
from tests.shop import ANN, LAMP, Shop

PACKAGE = Path(cartsvc.__file__).parent

# From the inside out: a module imports only from the rings before its own.
RINGS = [
    {"settings", "errors", "model", "money"},
    {
        "clock",
        "metrics",
        "link",
        "syncs",
        "keys",
        "sql",
        "notify",
        "catalog",
        "demo",
        "logs",
        "skus",
    },
    {"scripts", "rows", "embedded"},
    {
        "cart_hash",
        "outcomes",
        "adds",
        "recent",
        "sold_out",
        "store",
        "releases",
        "pressure",
        "guests",
        "shelf",
        "flush_rows",
        "ledger",
        "recovery",
        "audit",
        "trail",
        "findings",
    },
    {
        "backlog",
        "drivers",
        "stock",
        "prices",
        "sale",
        "identity",
        "http",
        "upkeep",
        "replay",
        "preflight",
        "held_lines",
    },
    {
        "flush",
        "archive",
        "importer",
        "problems",
        "contract",
        "cart_checks",
        "stock_checks",
        "event_checks",
        "act_row",
    },
    {"core", "idle", "warm", "verify", "repair", "vitals", "act_facts", "acts"},
    {"contracts"},
    {"openapi", "docs", "scrape", "probes"},
    {"app", "worker", "bounds", "wire"},
    {"readings", "hottest", "top", "screen"},
    {"process", "dev"},
    {"cli"},
    {"__main__"},
]

ALLOWED = {
    "starlette": {"app", "http", "contract", "core", "contracts", "docs", "probes", "process"},
    "prometheus_client": {"scrape", "readings"},
    "pythonjsonlogger": {"logs"},
    "uvicorn": {"process", "bounds", "wire"},
    "redis": {"link", "scripts", "cli"},
    "asyncpg": {"ledger"},
    "jwt": {"identity"},
    "cachetools": {"identity", "recent"},
    "cryptography": {"identity"},
    "httptools": {"bounds"},
    "typer": {"cli"},
    "rich": {"cli", "screen"},
}
"""cli names the client's errors; link takes from it what a URL says."""


def module_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[tuple[str, ast.Module]]:
    return [(module_of(file), ast.parse(file.read_text())) for file in PACKAGE.rglob("*.py")]


def imports(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ring(module: str) -> int:
    return next(number for number, modules in enumerate(RINGS) if module in modules)


def test_imports_point_inwards() -> None:
    modules = {module for modules in RINGS for module in modules}
    for module, tree in sources():
        if module == "__init__":
            continue
        for name in imports(tree):
            match name.split("."):
                case ["cartsvc", other, *_] if other in modules and other != module:
                    # Within a ring an import is fine as long as it is one-way.
                    assert ring(other) <= ring(module), f"{module} imports {other}"


def test_contracts_do_not_import_each_other() -> None:
    contracts = {file.stem for file in (PACKAGE / "contracts").glob("[a-z]*.py")}
    for file in (PACKAGE / "contracts").glob("[a-z]*.py"):
        for name in imports(ast.parse(file.read_text())):
            assert name.removeprefix("cartsvc.contracts.") not in contracts - {file.stem}


def test_libraries_stay_in_their_rooms() -> None:
    for module, tree in sources():
        for name in imports(tree):
            library = name.split(".")[0]
            assert module in ALLOWED.get(library, {module}), f"{module} imports {library}"


def test_only_settings_reads_the_environment() -> None:
    # cli hands the environment to child processes; notify is told where to report by its parent;
    # both are the process's edge.
    allowed = {"settings", "cli", "notify"}
    for file in PACKAGE.rglob("*.py"):
        if "os.environ" in file.read_text() or "getenv" in file.read_text():
            assert module_of(file) in allowed


def test_only_the_clock_and_tokens_read_the_wall_clock() -> None:
    # `wall_ms` is for what a process tells by itself: when it refused a request.
    allowed = {"time.time": {"clock", "identity"}, "wall_ms": {"clock", "contracts"}}
    for file in PACKAGE.rglob("*.py"):
        for name, modules in allowed.items():
            assert name not in file.read_text() or module_of(file) in modules, file


def test_only_keys_spells_key_names() -> None:
    hash_tag = re.compile(r":\{\{|\.tag\b")
    for file in PACKAGE.rglob("*.py"):
        assert bool(hash_tag.search(file.read_text())) == (module_of(file) == "keys"), file


async def test_every_key_there_is_stands_in_the_table(shop: Shop) -> None:
    await shop.sell(price="1.00", stock_policy="hold", max_per_buyer=9)
    await shop.add()
    await shop.sell(price="2.00", stock_policy="hold", max_per_buyer=9)
    await shop.add()
    await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("user", "bob"))
    await shop.redis.set(shop.bucket.warming, 1)
    await Backlog(shop.runner).note(shop.bucket, {"passes": 1}, {"last": 1})
    await shop.shelf.watch(shop.bucket, [LAMP])
    await Guests(shop.runner, 1).admit(shop.bucket, Owner("device", "new"), ("::1", 1), None)
    once = Once(ANN, "a key", "ab")
    await shop.store.close(shop.bucket, ANN, "CONVERTED", once=once)
    cold = await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("user", "cold"))
    await shop.store.remove(shop.bucket, cold.owner, LAMP)
    await shop.redis.delete(shop.bucket.dirty)
    cold = await shop.store.peek(shop.bucket, cold.owner)
    flushed = {shop.bucket.cart(cold.owner): (cold.id, cold.version)}
    assert await shop.store.cool(shop.bucket, flushed) == 1
    await shop.add_lines(LineRequest(LAMP, 1), owner=Owner("user", "bob"))
    await Sale(shop.runner).pause(shop.bucket, "stocktaking", "eve")
    link = Link(shop.redis.connection_pool, timeout_s=5, in_flight=9)
    with pytest.raises(OutcomeUnknown, match="appendonly is disabled"):
        await Syncs(link, shop.bucket.sync, in_flight=9).synced()
    await link.aclose()
    patterns = {
        re.sub(
            r"<\w+>",
            "[^:{}]+",
            re.escape(row.pattern).replace(r"\{tenant:bucket\}", r"\{\w+:\d+\}"),
        ): row
        for row in keys.TABLE
    }
    seen = set()
    for key in await shop.redis.keys("*"):
        [row] = [row for pattern, row in patterns.items() if re.fullmatch(pattern, key.decode())]
        assert (await shop.redis.type(key)).decode() == row.type
        assert (await shop.redis.ttl(key) > 0) == row.pattern.startswith(("idem", "guests"))
        seen.add(row)
    assert seen == set(keys.TABLE)


def test_bucket_reads_owners_from_its_own_keys() -> None:
    bucket = keys.Bucket("acme", 3)
    owner = Owner("session", "a.b~c_d-e")
    assert bucket.cart(owner) == "cart:{acme:3}:session:a.b~c_d-e"
    assert bucket.owner(bucket.cart(owner)) == owner
    closed = bucket.closed(owner)
    assert closed.startswith("closed:{acme:3}:")
    assert closed != bucket.closed(owner)
    assert bucket.owner(closed) == owner
    with_colon = Owner("user", "auth0|a:b c")
    assert bucket.owner(bucket.cart(with_colon)) == bucket.owner(bucket.closed(with_colon))
    assert bucket.owner(bucket.cart(with_colon)) == with_colon


def test_no_tracked_file_names_this_checkout() -> None:
    here = os.fspath(PACKAGE.parent)
    for file in PACKAGE.rglob("*.py"):
        assert here not in file.read_text()
