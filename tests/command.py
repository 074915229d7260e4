"""`cartsvc` as an operator runs it: a process, what it prints, and its exit status.

It is forked from one that has run the program, whose imports take longer than most commands do.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

from cartsvc import cli

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.preloaded"])


def run(*arguments: str, stdin: str = "", **variables: str) -> "CompletedProcess[str]":
    """Run it to its end, with these and no other variables of its own."""
    clean = {name: v for name, v in os.environ.items() if not name.startswith("CARTSVC_")}
    environ = {**clean, "COLUMNS": "200", **variables}
    with tempfile.TemporaryDirectory(prefix="cartsvc-") as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin)
        process = _forks.Process(target=_main, args=(arguments, environ, folder))
        process.start()
        process.join()
        out, err = ((folder / stream).read_text() for stream in ("stdout", "stderr"))
    status = process.exitcode
    process.close()
    assert status is not None
    assert "Traceback" not in err, err
    return CompletedProcess(arguments, status, out, err)


def _main(arguments: tuple[str, ...], environ: Mapping[str, str], folder: Path) -> None:
    streams = (("stdin", os.O_RDONLY), ("stdout", _NEW), ("stderr", _NEW))
    for number, (name, flags) in enumerate(streams):
        os.dup2(os.open(folder / name, flags, 0o600), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["cartsvc", *arguments]
    cli.main()


_NEW = os.O_WRONLY | os.O_CREAT
