"""What the drivers of Redis and PostgreSQL raise, told as errors of ours."""

import contextlib
import re
from collections.abc import Iterator

from cartsvc import ledger, scripts
from cartsvc.errors import LedgerAway, NoRight, OutcomeUnknown, Unavailable

AWAY = (*scripts.FAILURES, *ledger.FAILURES, Unavailable)
"""What asking a store raises that does not answer."""

_LACKS_A_RIGHT = re.compile(r"NOPERM|no permissions|ACL failure", re.IGNORECASE)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Tell a server's silence as `OutcomeUnknown`, where it is Redis, or `LedgerAway`."""
    try:
        yield
    except scripts.FAILURES as error:
        raise OutcomeUnknown(str(error)) from error
    except ledger.AWAY as error:
        raise LedgerAway(in_a_line(error)) from error


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """As `silence`, and a right that is missing as `NoRight`."""
    try:
        with silence():
            yield
    except OutcomeUnknown as error:
        if _LACKS_A_RIGHT.search(error.reason):
            raise NoRight(error.reason) from error
        raise
    except ledger.NO_RIGHT as error:
        raise NoRight(in_a_line(error)) from error


def in_a_line(error: BaseException) -> str:
    """A driver's error; what PostgreSQL adds to it stands in lines of its own."""
    what, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {what}" if what else type(error).__name__
