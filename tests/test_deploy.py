"""What others start the service with, held to what the service has.

There is no container engine where these run: what the files say is checked, not what becomes of it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartsvc import __version__, embedded, preflight, process, scripts, worker
from cartsvc.embedded import Valkey, free_port
from cartsvc.settings import Settings, variable
from tests import command
from tests.wait import wait_until

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
UNITS = {file.name: file.read_text() for file in (ROOT / "docs/systemd").iterdir()}
GUIDE = (ROOT / "docs/deploy.md").read_text()

VARIABLES = {variable(setting.name) for setting in fields(Settings)}
DRAINS_S = {"serve": process._DRAIN_S, "worker": worker.DRAIN_S}


def require_command(*words: str) -> None:
    """It is a command with these options. `--help` is looked at once they are understood."""
    assert words[0] == "cartsvc"
    done = command.run(*words[1:], "--help")
    assert done.returncode == 0, (words, done.stderr)


def seconds(text: str) -> int:
    [(number, unit)] = re.findall(r"^(\d+)(s|m)$", text)
    return int(number) * {"s": 1, "m": 60}[unit]


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNITS[unit], re.MULTILINE)


def test_every_variable_is_a_setting() -> None:
    for text in (ROOT / "compose.yaml").read_text(), DOCKERFILE, GUIDE, *UNITS.values():
        assert set(re.findall(r"\bCARTSVC_[A-Z_]+\b", text)) <= VARIABLES | {"CARTSVC_URL"}


def test_the_guide_runs_commands_that_there_are() -> None:
    commands = set(re.findall(r"^[$#] (cartsvc [^#\n]+)", GUIDE, re.MULTILINE))
    assert len(commands) > 3
    for line in commands:
        require_command(*line.split())


# compose.yaml


@pytest.mark.parametrize("name", OURS)
def test_compose_runs_commands_that_there_are(name: str) -> None:
    require_command(*OURS[name]["command"])


def test_compose_has_every_part() -> None:
    assert {one["command"][1] for one in OURS.values()} == {"serve", "worker", "migrate"}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_compose_begins_in_order() -> None:
    done, healthy = "service_completed_successfully", "service_healthy"
    servers = {"valkey": {"condition": healthy}, "postgres": {"condition": healthy}}
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"] == {**servers, "migrate": {"condition": done}}
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": healthy}}
    for name in servers:
        assert SERVICES[name]["healthcheck"]["test"]


def test_compose_lets_each_part_finish() -> None:
    for one in OURS.values():
        drain_s = DRAINS_S.get(one["command"][1], 0)
        assert seconds(one.get("stop_grace_period", "10s")) > drain_s
        assert one["restart"] != "no"


def test_compose_has_no_password() -> None:
    """Each is asked for, where it is used; none has a default."""
    for one in SERVICES.values():
        for name, value in one["environment"].items():
            if re.search(r"PASSWORD|SECRET|AUTH|URL", name):
                assert re.search(r"\$\{\w+(:\?[^}]+)?\}", value), name
                assert ":-" not in value, name
            for login in re.findall(r"//(\S*)@", value):
                assert re.fullmatch(r"\w+:\$\{\w+:\?[^}]+\}", login)


def test_compose_pins_its_images() -> None:
    images = {name: one["image"] for name, one in SERVICES.items()}
    for name in OURS:
        assert images.pop(name) == f"cartsvc:{__version__}"
    assert images == {"valkey": "valkey/valkey:9.1", "postgres": "postgres:18"}


def test_compose_keeps_what_is_stored() -> None:
    kept = {name: one["volumes"] for name, one in SERVICES.items() if "volumes" in one}
    # Images of PostgreSQL 18 and newer have their volume there, not at its `data`.
    assert kept == {"valkey": ["valkey:/data"], "postgres": ["postgres:/var/lib/postgresql"]}
    assert set(COMPOSE["volumes"]) == {"valkey", "postgres"}


async def test_the_valkey_of_compose_is_one_that_the_service_takes(tmp_path: Path) -> None:
    """Its command, by a shell, with the program that the tests have and no entry point."""
    server = Valkey(tmp_path)
    (tmp_path / "valkey-server").symlink_to(embedded._valkey_program())
    *shell, script = SERVICES["valkey"]["command"]
    script = script.replace("$$", "$").replace("docker-entrypoint.sh ", "")
    script = script.replace(" - <<", f" --port {server.port} --dir {tmp_path} - <<")
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "VALKEY_PASSWORD": server.password,
        "VALKEY_MAXMEMORY": "100mb",
    }
    server.process = embedded.spawn([*shell, script], env=environ)
    redis = scripts.connect(server.url, timeout_s=5)
    try:
        await wait_until(lambda: answers(redis))
        await preflight.check(server.url, None)
        config = await redis.config_get("append*", "maxmemory*")
    finally:
        await redis.aclose()
        server.stop()
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
    assert (config["maxmemory"], config["maxmemory-policy"]) == ("104857600", "noeviction")


async def answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except RedisError:
        return False


# Dockerfile


def instructions() -> list[list[str]]:
    """Instruction and arguments, a line each."""
    lines = (line for line in DOCKERFILE.splitlines() if line and not line.startswith("#"))
    return [line.split(maxsplit=1) for line in lines]


def last(name: str) -> str:
    """Arguments of the last such instruction, which must be of the last stage."""
    kinds = [kind for kind, _ in instructions()]
    number = len(kinds) - 1 - kinds[::-1].index(name)
    assert number >= len(kinds) - 1 - kinds[::-1].index("FROM")
    return instructions()[number][1]


def test_the_image_serves_as_nobody_in_particular() -> None:
    require_command(*json.loads(last("CMD")))
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("USER").isdecimal()
    assert int(last("USER")) > 0


def test_the_image_has_nothing_that_builds() -> None:
    stages = [arguments for kind, arguments in instructions() if kind == "FROM"]
    assert stages == ["python:3.11-slim-bookworm AS build", "python:3.11-slim-bookworm"]
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert "pip" not in final
    assert "--require-hashes --no-deps -r requirements-serve.lock" in DOCKERFILE


def test_the_image_is_sent_what_it_copies() -> None:
    copied = {
        name
        for kind, arguments in instructions()
        if kind == "COPY" and "--from" not in arguments
        for name in arguments.split()[:-1]
    }
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    assert {name[1:] for name in sent if name.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_healthy_when_the_service_answers(api_url: str) -> None:
    check = json.loads(last("HEALTHCHECK").split("CMD", 1)[1])
    for port, healthy in ((urlsplit(api_url).port, True), (free_port(), False)):
        environ = {**os.environ, "CARTSVC_PORT": str(port)}
        done = subprocess.run([sys.executable, *check[1:]], env=environ, capture_output=True)
        assert (done.returncode == 0) == healthy


# systemd


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_a_command_that_there_is(unit: str) -> None:
    [line] = values(unit, "ExecStart")
    program, *options = shlex.split(line)
    assert program == "/opt/cartsvc/bin/cartsvc"
    require_command("cartsvc", *options)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_lets_it_finish(unit: str) -> None:
    [line] = values(unit, "ExecStart")
    [stop_s] = values(unit, "TimeoutStopSec")
    assert int(stop_s) > DRAINS_S[line.split()[1]]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_waits_for_the_word_and_gives_no_rights(unit: str) -> None:
    for name, value in (
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("Restart", "on-failure"),
        ("EnvironmentFile", "/etc/cartsvc/env"),
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
    ):
        assert values(unit, name) == [value]
    assert "AF_UNIX" in values(unit, "RestrictAddressFamilies")[0]


def test_units_give_the_same_little() -> None:
    one, other = (text[text.index("\nUser=") : text.index("[Install]")] for text in UNITS.values())
    assert one == other


def test_a_unit_has_files_for_the_connections_of_a_process() -> None:
    [files] = values("cartsvc@.service", "LimitNOFILE")
    assert int(files) >= Settings().max_connections + process._OWN_FILES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    for name, text in UNITS.items():
        (folder / name.replace("@.", "@8000.")).write_text(text)
    for target in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        (folder / f"{target}.target").write_text("[Unit]\nDescription=there is one\n")
    program = tmp_path / "opt/cartsvc/bin/cartsvc"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    names = [name.replace("@.", "@8000.") for name in UNITS]
    verify = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *names]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
