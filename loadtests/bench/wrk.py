"""Load: requests in a file, and `wrk` to send them over connections that are kept open."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

SCRIPT = Path(__file__).with_name("wrk") / "replay.lua"

PATH = "/api/cart"

_JSON = "Content-Type: application/json\r\n"
_LENGTHS = 64

FILL_S = 120
"""Longest time that a run to a number of answers may take."""


class Request(NamedTuple):
    """What is asked; `body` is JSON, or empty."""

    method: str
    path: str
    body: str = ""


class Load(NamedTuple):
    """Requests in a file, and how many there are."""

    file: Path
    requests: int


class Run(msgspec.Struct, frozen=True):
    """What wrk counted: answers, those of status 400 and more among them, and failed connections.

    `duration` and the percentiles of the latency are in microseconds; 0 where they were not taken.
    """

    answers: int
    refused: int
    broken: int = 0
    duration: int = 0
    p50: int = 0
    p99: int = 0

    @property
    def acknowledged(self) -> int:
        return self.answers - self.refused

    @property
    def seconds(self) -> float:
        return self.duration / 1e6


class WrkError(RuntimeError):
    """wrk did not run; the message has its words."""


def missing() -> str:
    """What has to be installed; '' if nothing."""
    return "" if shutil.which("wrk") else "wrk (Debian package wrk)"


def add(session_id: str, product_id: str) -> Request:
    """One unit of a product for a session, as contract 000 has it."""
    body = {"product_id": product_id, "quantity": 1, "session_id": session_id}
    return Request("POST", PATH, orjson.dumps(body).decode())


def read(session_id: str) -> Request:
    return Request("GET", f"{PATH}?session_id={session_id}")


def load(file: Path, requests: Sequence[Request]) -> Load:
    """Write the requests where wrk finds them."""
    each = (sent(request, number) for number, request in enumerate(requests))
    file.write_bytes("\0".join(each).encode())
    return Load(file, len(requests))


def sent(request: Request, number: int) -> str:
    """The request as it is sent."""
    method, path, body = request
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        return f"{head}{_JSON}Content-Length: {len(body.encode())}\r\n\r\n{body}"
    # LuaJIT hashes a long string by its length and a few bytes. Requests whose ends are alike
    # have to differ in length, or to read them takes wrk half a minute.
    return f"{head}X-Pad: {'-' * (number % _LENGTHS)}\r\n\r\n"


def run(url: str, load: Load, *, seconds: int, connections: int, first: int = 0) -> Run:
    """Send the requests for `seconds`, from the `first` one on, as often as there is time.

    When it ends, at most `connections` requests are under way, which nobody counts.
    """
    return _run(url, connections, seconds, [str(load.file), str(first)])


def run_through(url: str, load: Load, *, connections: int) -> Run:
    """Send every request at least once."""
    # wrk asks for one request that it does not send, and the last answers are those that it
    # does not wait for.
    answers = load.requests + connections + 1
    return _run(url, connections, FILL_S, [str(load.file), "0", str(answers)])


def _run(url: str, connections: int, seconds: int, arguments: list[str]) -> Run:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), url, "--"]
    done = subprocess.run(command + arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WrkError((done.stderr or done.stdout).strip())
    return parse(done.stdout)


def parse(output: str) -> Run:
    """What the script printed last.

    Raises:
        WrkError: it printed something else.
    """
    try:
        return msgspec.json.decode(output.strip().rpartition("\n")[2], type=Run)
    except msgspec.DecodeError as error:
        raise WrkError(f"{error}: {output.strip()[-200:]}") from None
