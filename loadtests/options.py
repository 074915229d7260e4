"""What a rehearsal is told: CARTSVC_LOAD_ variables, and where the service is."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cartsvc.settings import SettingError
from loadtests import phases
from loadtests.phases import Phase

ENV = Path(".cartsvc/env")
"""Where `make run` writes its addresses."""

NO_SHAPE = "none"
SHAPES = (*phases.BY_NAME, NO_SHAPE)


WITHOUT_TOKENS = (
    "CARTSVC_JWT_SECRET is not set: nobody comes who needs a token "
    "(LateLogin, RegularCustomer, Buyer, Clerk)"
)


class Options(NamedTuple):
    """`products` are SKUs, those that everybody wants first; none: the demo's.

    `samples` is where a run is written down second by second; '': nowhere.
    """

    users: int = 300
    seconds: int = 75
    processes: int = 1
    shape: str = SHAPES[0]
    products: tuple[str, ...] = ()
    samples: str = ""
    results: Path = Path(__file__).with_name("results")

    @property
    def phases(self) -> Sequence[Phase]:
        return phases.BY_NAME.get(self.shape, ())

    @property
    def opening_s(self) -> float:
        """How long a sale of that shape lasts before it opens."""
        return phases.begins(self.phases, self.seconds).get(phases.OPENING_NAME, 0.0)


def read(environ: Mapping[str, str] | None = None) -> Options:
    """The options in `environ` (the process's own when None).

    Raises:
        SettingError: for the first that has the wrong form.
    """
    environ = os.environ if environ is None else environ
    default = Options()
    shape = environ.get("CARTSVC_LOAD_SHAPE") or default.shape
    if shape not in SHAPES:
        raise SettingError(f"CARTSVC_LOAD_SHAPE: {shape!r} is not one of {', '.join(SHAPES)}")
    return Options(
        users=_whole(environ, "CARTSVC_LOAD_USERS", default.users, at_least=1),
        seconds=_whole(environ, "CARTSVC_LOAD_SECONDS", default.seconds, at_least=1),
        processes=_whole(environ, "CARTSVC_LOAD_PROCESSES", default.processes, at_least=1),
        shape=shape,
        products=tuple(filter(None, environ.get("CARTSVC_LOAD_PRODUCTS", "").split(","))),
        samples=environ.get("CARTSVC_LOAD_SAMPLES", default.samples),
        results=Path(environ.get("CARTSVC_LOAD_RESULTS") or default.results),
    )


def _whole(environ: Mapping[str, str], name: str, default: int, *, at_least: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) >= at_least):
        raise SettingError(f"{name}: {text!r} is not a whole number of at least {at_least}")
    return int(text)


def addresses(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """CARTSVC_ variables: those of `make run`, if that is the service meant, and over them the
    environment's.

    Raises:
        SettingError: the service's URL is none.
    """
    environ = os.environ if environ is None else environ
    given = {name: text for name, text in environ.items() if name.startswith("CARTSVC_") and text}
    told = {}
    if ENV.exists():
        told = dict(word.split("=", 1) for word in shlex.split(ENV.read_text()))
    if given.get("CARTSVC_URL", told.get("CARTSVC_URL")) != told.get("CARTSVC_URL"):
        told = {}
    found = {"CARTSVC_URL": "http://127.0.0.1:8000", **told, **given}
    if not re.fullmatch(r"https?://[^\s/?#]+", found["CARTSVC_URL"]):
        told_url = f"CARTSVC_URL: {found['CARTSVC_URL']!r}"
        raise SettingError(f"{told_url} is not an http:// or https:// URL without a path")
    return found
