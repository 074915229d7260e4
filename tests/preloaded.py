"""The program, which has run once: it imports half of what it needs when it first parses a line."""

from contextlib import redirect_stdout, suppress
from io import StringIO

from cartsvc import cli

for line in ("--version", "--help"):
    with suppress(SystemExit), redirect_stdout(StringIO()):
        cli.app([line])
