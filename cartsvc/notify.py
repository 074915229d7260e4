"""Telling the supervisor that a process is ready: systemd's notification protocol, both ends."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

VARIABLE = "NOTIFY_SOCKET"
_READY = b"READY=1"


def ready() -> None:
    """Say that this process is ready, if whoever started it wants to know."""
    address = os.environ.get(VARIABLE)
    if address:
        # systemd names a socket without a file by a leading '@'.
        address = "\0" + address[1:] if address.startswith("@") else address
        # Whoever it was may be gone; that is no reason not to work.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(_READY, address)


class Listener:
    """Receives one process's word; `path` goes into that process's NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cartsvc-")
        self.path = str(Path(self._folder.name, "notify"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def heard(self, timeout_s: float) -> bool:
        """Wait for the word, at most `timeout_s`."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(64) == _READY
        except TimeoutError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._folder.cleanup()
