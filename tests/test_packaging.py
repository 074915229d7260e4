"""What is shipped: the wheel's files, and the pins of what is installed beside it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()


def test_the_wheel_carries_scripts_queries_and_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    for script in (ROOT / "lua").rglob("*.lua"):
        assert f"cartsvc/{script.relative_to(ROOT).as_posix()}" in shipped
    for file in (ROOT / "cartsvc").rglob("*.*"):
        if "__pycache__" not in file.parts:
            assert file.relative_to(ROOT).as_posix() in shipped
    assert {name.split("/")[0] for name in shipped if ".dist-info" not in name} == {"cartsvc"}


def test_the_service_needs_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[>]", name)[0] for name in project["dependencies"]}
    extras = project["optional-dependencies"].values()
    others = {re.split(r"[\[>]", name)[0].replace("-", "_") for extra in extras for name in extra}
    blocked = ", ".join(f"{name!r}: None" for name in sorted(others - needed))
    code = f"import sys; sys.modules.update({{{blocked}}}); import cartsvc.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lock_pins_every_dependency_and_names_no_host() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==\S+", LOCK, re.MULTILINE)}
    for requirement in wanted:
        [name] = re.findall(r"^[\w-]+", requirement)
        assert name in pinned
        assert re.search(r">=\d", requirement), f"{requirement} has no lower bound"
    for line in LOCK.splitlines():
        assert re.fullmatch(r"[\w.-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line)
