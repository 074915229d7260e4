"""Logs to stderr: lines for people or JSON lines, with the id of the request that they belong to.

Who logs sees to it that no body, token or whole session id is in it: routes are named instead.
"""

import itertools
import logging
import secrets
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.msgspec import MsgspecFormatter

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being handled; empty where there is none."""

_CONSOLE = "%(asctime)s %(levelname)s %(name)s: %(message)s%(of_request)s"
_JSON = ("levelname", "name", "process", "message")
_JSON_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}

_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)


def new_request_id() -> str:
    """An id that no other request has: the process's, and a number."""
    return f"{_PROCESS}-{next(_numbers):x}"


def to_stderr(level: str, form: str) -> None:
    """Log from `level` on; `form` is "console" or "json", an object a line."""
    logging.basicConfig(level=level, handlers=[handler(form)])


def handler(form: str) -> logging.Handler:
    """What writes to stderr in that form."""
    found = logging.StreamHandler()
    found.addFilter(with_request_id)
    found.setFormatter(_json() if form == "json" else logging.Formatter(_CONSOLE))
    return found


def with_request_id(record: logging.LogRecord) -> bool:
    request_id = REQUEST_ID.get()
    record.of_request = f" [{request_id}]" if request_id else ""
    if request_id:
        record.request_id = request_id
    return True


def _json() -> logging.Formatter:
    return MsgspecFormatter(
        _JSON,
        rename_fields=_JSON_NAMES,
        timestamp="time",
        reserved_attrs=[*RESERVED_ATTRS, "of_request"],
    )
