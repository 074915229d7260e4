"""Who is measured, and how each is started. What Python does not bring is Debian's:

    apt-get install wrk redis-tools nginx libnginx-mod-http-lua lua-nginx-redis lua-cjson \\
        webdis nodejs npm

Fastify needs Node.js 20 or newer, which Debian has from 13 on; npm brings the rest when it is first
wanted. None of the services that these packages start is used; they may be stopped and disabled.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import redis

from cartsvc import embedded, scripts
from cartsvc.clock import wall_ms
from cartsvc.keys import Bucket
from cartsvc.model import Owner
from cartsvc.settings import Settings, variable
from loadtests.bench import site as sites
from loadtests.bench import without, wrk
from loadtests.bench.rivals import postgresql
from loadtests.bench.site import SOLD_OUT, Site

ROOT = Path(__file__).parents[2]
RIVALS = Path(__file__).with_name("rivals")

_START_S = 30.0
_ANSWER_S = 1.0
_POLL_S = 0.02
_STOP_S = 10.0

_MODULES = Path("/usr/lib/nginx/modules")
_LUA = Path("/usr/share/lua/5.1/nginx/redis.lua")
_NODE = 20
_WEBDIS_POOL = 1
"""Connections to Redis; with more, webdis finds fewer replies at once in each."""

Command = tuple[list[str], dict[str, str]]


def _nothing() -> str:
    return ""


def _contract_add(_: Site, session_id: str, product_id: str) -> wrk.Request:
    return wrk.add(session_id, product_id)


@dataclass(frozen=True)
class Contender:
    """`name` is its tenant too: each has its own carts, on the same servers.

    `missing` says in words what is not installed, '' if nothing. `command` gives the arguments and
    the environment of one process, or of one with its children, that listens on a port of
    127.0.0.1. `add` is the request that adds one unit of a product to a session's cart. One that
    does not speak contract 000 has answers that only Redis's own terms describe.
    """

    name: str
    title: str
    command: Callable[[Site, int], Command]
    missing: Callable[[], str] = _nothing
    add: Callable[[Site, str, str], wrk.Request] = _contract_add
    speaks_contract: bool = True


@dataclass(frozen=True)
class Running:
    """`pid` is that of the process that was started."""

    contender: Contender
    url: str
    pid: int

    def pids(self) -> list[int]:
        """The processes that serve, as they are now."""
        return sites.family(psutil.Process(self.pid))


@contextlib.contextmanager
def running(contender: Contender, site: Site) -> Iterator[Running]:
    """Give the contender its catalogue, start it, and stop it at the end.

    It runs when it refuses what is sold out: that takes the whole way and changes nothing.

    Raises:
        RuntimeError: it ended instead, or does not answer.
    """
    asyncio.run(sites.stock_up(site, contender.name))
    port = embedded.free_port()
    command, environment = contender.command(site, port)
    log = site.folder / f"{contender.name}.log"
    with log.open("ab") as output:
        process = embedded.spawn(command, env={**os.environ, **environment}, output=output.fileno())
    try:
        started = Running(contender, f"http://127.0.0.1:{port}", process.pid)
        _wait_for_answer(started, site, process, log)
        yield started
    finally:
        embedded.stop(process, _STOP_S)


def _wait_for_answer(
    running: Running, site: Site, process: subprocess.Popen[bytes], log: Path
) -> None:
    method, path, body = running.contender.add(site, "first", SOLD_OUT)
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310
        running.url + path, body.encode(), headers, method=method
    )
    deadline = time.monotonic() + _START_S
    while not _answers(request):
        if process.poll() is not None or time.monotonic() > deadline:
            told = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"{running.contender.name}: {told or 'no answer'}")
        time.sleep(_POLL_S)


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _cartsvc(name: str, module: str, *arguments: str) -> Callable[[Site, int], Command]:
    def command(site: Site, port: int) -> Command:
        values = {
            "port": str(port),
            "redis_url": site.redis_url,
            "database_url": site.database_url,
            "tenant": name,
            "jwt_secret": "for a benchmark, which uses no tokens",
            "log_level": "WARNING",
        }
        environment = {variable(name): value for name, value in values.items()}
        environment["PYTHONPATH"] = str(ROOT)
        return [sys.executable, "-m", module, *arguments], environment

    return command


def _without(part: str) -> Contender:
    name, (title, _) = f"without-{part}", without.PARTS[part]
    return Contender(name, title, _cartsvc(name, "loadtests.bench.without", part))


def _starlette(name: str, module: str) -> Callable[[Site, int], Command]:
    def command(site: Site, port: int) -> Command:
        arguments = [
            sys.executable, "-m", "uvicorn", f"loadtests.bench.rivals.{module}:create_app",
            "--factory", "--app-dir", str(ROOT), "--port", str(port),
            "--loop", "uvloop", "--http", "httptools", "--log-level", "warning",
            "--no-access-log", "--no-server-header", "--no-proxy-headers",
        ]  # fmt: skip
        environment = {
            "REDIS_URL": site.redis_url,
            "DATABASE_URL": site.database_url,
            "TENANT": name,
        }
        return arguments, environment

    return command


def _terms() -> list[int | str]:
    """What the script is told between the time and the one line of the one cart that an add has.

    The service's own settings where nobody set any, that no cart is known, no idempotency key, and
    how many lines.
    """
    settings = Settings()
    return [settings.max_lines, settings.stock_policy, settings.hold_ttl_s * 1000, "-", "", 1]


def _folder(site: Site, name: str) -> Path:
    folder = site.folder / name
    folder.mkdir(exist_ok=True)
    return folder


def _setup(site: Site, name: str) -> Path:
    """A file, as JSON, with all that a rival in another language needs to run the script."""
    script, bucket = scripts.load("cart_add"), Bucket(name)
    server = {"host": site.redis_host, "port": site.redis_port, "password": site.redis_password}
    content = {
        "redis": server,
        "script": script.source,
        "sha": script.sha,
        "shared": bucket.shared,
        "cart": bucket.cart(Owner("session", "")),
        "terms": _terms(),
    }
    with embedded.private(_folder(site, name) / "setup.json") as file:
        json.dump(content, file)
    return Path(file.name)


def _fastify(site: Site, port: int) -> Command:
    server = RIVALS / "fastify" / "server.mjs"
    return ["node", str(server), str(port), str(_setup(site, "fastify"))], {
        "NODE_ENV": "production"
    }


def _no_fastify() -> str:
    """Installs what the lock file names, if that has not been done."""
    if not (shutil.which("node") and shutil.which("npm")):
        return f"Node.js >= {_NODE} and npm (Debian packages nodejs and npm)"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    if int(version.stdout.strip("v\n").partition(".")[0] or 0) < _NODE:
        return f"Node.js >= {_NODE} (here is {version.stdout.strip()})"
    folder = RIVALS / "fastify"
    installed = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return ""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"Fastify and ioredis (npm ci failed: {done.stderr.strip().partition(chr(10))[0]})"
    installed.touch()
    return ""


def _program(name: str) -> str | None:
    """The path of a program that may be one for administrators."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _nginx(site: Site, port: int) -> Command:
    folder = _folder(site, "nginx-lua")
    words = {
        "MODULES": str(_MODULES),
        "RIVALS": str(RIVALS),
        "SETUP": str(_setup(site, "nginx-lua")),
        "PORT": str(port),
    }
    text = (RIVALS / "nginx.conf").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    program = _program("nginx") or "nginx"
    return [program, "-p", str(folder), "-e", "error.log", "-c", str(configuration)], {}


def _no_nginx() -> str:
    packages = {
        "nginx": _program("nginx"),
        "libnginx-mod-http-lua": (_MODULES / "ngx_http_lua_module.so").exists(),
        "lua-nginx-redis": _LUA.exists(),
        "lua-cjson": any(Path("/usr/lib").glob("*/lua/5.1/cjson.so")),
    }
    lacking = [package for package, there in packages.items() if not there]
    return f"Debian packages {', '.join(lacking)}" if lacking else ""


def _webdis(site: Site, port: int) -> Command:
    with redis.Redis.from_url(site.redis_url) as client:
        client.script_load(scripts.load("cart_add").source)
    folder = _folder(site, "webdis")
    content = {
        "redis_host": site.redis_host,
        "redis_port": site.redis_port,
        "redis_auth": site.redis_password,
        "database": 0,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 1,
        "pool_size": _WEBDIS_POOL,
        "daemonize": False,
        "verbosity": 0,
        "logfile": str(folder / "webdis.log"),
    }
    with embedded.private(folder / "webdis.json") as file:
        json.dump(content, file)
    return ["webdis", file.name], {}


def _no_webdis() -> str:
    return "" if shutil.which("webdis") else "Debian package webdis"


def _webdis_add(_: Site, session_id: str, product_id: str) -> wrk.Request:
    """The call of the script itself, at the time at which the request was made.

    Not in the body: where that comes in a packet of its own, webdis may never answer.
    """
    bucket = Bucket("webdis")
    keys = [*bucket.shared, bucket.cart(Owner("session", session_id))]
    sha = scripts.load("cart_add").sha
    words = ["EVALSHA", sha, len(keys), *keys, wall_ms(), *_terms(), product_id, 1]
    return wrk.Request("GET", "".join(f"/{quote(str(word), safe='')}" for word in words))


# Those that are compared most closely come next to each other: a machine's moods last for seconds.
ALL = [
    Contender("nginx-lua", "nginx + Lua", _nginx, _no_nginx),
    Contender("fastify", "Fastify + ioredis", _fastify, _no_fastify),
    Contender("cartsvc", "cartsvc", _cartsvc("cartsvc", "cartsvc", "serve")),
    Contender("redis-py", "Starlette + redis-py", _starlette("redis-py", "redis_py")),
    Contender("json-blob", "Starlette, cart as a JSON blob", _starlette("json-blob", "json_blob")),
    Contender(
        postgresql.TENANT,
        "Starlette + asyncpg, PostgreSQL alone",
        _starlette(postgresql.TENANT, "postgresql"),
    ),
    Contender(
        "webdis",
        "webdis, a gateway without logic",
        _webdis,
        _no_webdis,
        _webdis_add,
        speaks_contract=False,
    ),
    *(_without(part) for part in without.PARTS),
]
