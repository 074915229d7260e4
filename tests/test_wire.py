"""How responses leave: in one write each, whole, and in order."""

import asyncio
from typing import Any

import pytest

from cartsvc.wire import _OneWrite
from tests.mutants import turns_red


class Wire(asyncio.Transport):
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.gone = False

    def write(self, data: Any) -> None:
        self.told.append(b"too late: " + data if self.gone else data)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return self.gone


async def a_turn() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


async def test_what_comes_in_a_turn_leaves_in_one_write() -> None:
    wire = Wire()
    transport = _OneWrite(wire)
    for piece in (b"head ", b"body, ", b"head ", b"body"):
        transport.write(piece)
    assert wire.told == []
    await a_turn()
    assert wire.told == [b"head body, head body"]
    transport.write(b"more")
    await a_turn()
    assert wire.told[1:] == [b"more"]


async def test_a_close_comes_behind_what_was_written() -> None:
    wire = Wire()
    transport = _OneWrite(wire)
    transport.write(b"head ")
    transport.write(b"body")
    transport.close()
    await a_turn()
    assert wire.told == [b"head body", "close"]


async def test_a_client_that_has_left_is_told_nothing() -> None:
    wire = Wire()
    transport = _OneWrite(wire)
    transport.write(b"head")
    wire.gone = True
    await a_turn()
    wire.gone = False
    transport.write(b"other")
    await a_turn()
    assert wire.told == [b"other"]


async def test_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Wire, "is_closing", lambda _: False)
        await turns_red(test_a_client_that_has_left_is_told_nothing())
    monkeypatch.setattr(_OneWrite, "close", lambda self: self._transport.close())
    await turns_red(test_a_close_comes_behind_what_was_written())


async def test_the_service_answers_in_one_packet(api_url: str) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    class Client(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            arrived.put_nowait(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Client, host, int(port))
    for _ in range(10):
        transport.write(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = await arrived.get()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"status":"ok"}')
    transport.close()
