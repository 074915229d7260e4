"""The clock: every process tells Redis's time, whatever its own clock says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cartsvc import embedded, flush, scripts, upkeep
from cartsvc import link as link_module
from cartsvc.backlog import Backlog
from cartsvc.clock import Clock
from cartsvc.errors import OutcomeUnknown
from cartsvc.keys import Bucket
from cartsvc.ledger import Ledger
from cartsvc.link import pack
from cartsvc.model import Cart, LineRequest, Once
from cartsvc.scripts import Runner
from cartsvc.store import Store
from tests.proxy import Peer
from tests.shop import ANN, LAMP, Shop
from tests.test_link import commands
from tests.wait import wait_until

HOUR_S = 3_600


class Monotonic:
    def __init__(self) -> None:
        self.s = 50.0

    def __call__(self) -> float:
        return self.s


def told(s: float) -> list[bytes]:
    """Redis's reply to TIME."""
    return [b"%d" % s, b"%06d" % round(s % 1 * 1_000_000)]


class TestClock:
    def of(self, at_s: float, round_trip_s: float) -> tuple[Clock, Monotonic]:
        """A clock that was set now, by a Redis that said `at_s`."""
        monotonic = Monotonic()
        clock = Clock(monotonic)
        asked_s = monotonic.s
        monotonic.s += round_trip_s
        clock.set(told(at_s), asked_s)
        return clock, monotonic

    def test_is_not_known_before_redis_has_told_it(self) -> None:
        clock = Clock()
        assert not clock.is_known
        with pytest.raises(OutcomeUnknown):
            clock.ms()

    def test_redis_read_its_clock_in_the_middle_of_the_round_trip(self) -> None:
        clock, _ = self.of(1_000.25, 0.5)
        assert clock.is_known
        assert clock.ms() == 1_000_500

    def test_time_passes_as_on_the_monotonic_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, monotonic = self.of(1_000, 0)
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        monotonic.s += 12.5
        assert clock.ms() == 1_012_500

    @pytest.mark.parametrize("round_trip_s", [0.25, 30])
    def test_a_reply_that_agrees_changes_nothing(self, round_trip_s: float) -> None:
        clock, monotonic = self.of(1_000, 0)
        monotonic.s += round_trip_s
        # Read at the beginning of the round trip, or at its end.
        for at_s in (1_000, 1_000 + round_trip_s):
            clock.set(told(at_s), monotonic.s - round_trip_s)
            assert clock.ms() == 1_000_000 + round_trip_s * 1_000

    @pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
    def test_follows_a_redis_whose_clock_was_set_no_further_than_needed(self, step_s: int) -> None:
        clock, monotonic = self.of(10_000, 0)
        monotonic.s += 2
        clock.set(told(10_001 + step_s), monotonic.s - 2)
        # Redis read it somewhere in these two seconds: by now it may be the same, or two later.
        assert clock.ms() == (10_001 + step_s + (0 if step_s > 0 else 2)) * 1_000

    @pytest.mark.parametrize(
        "reply",
        [b"OK", b"12", [b"1"], [b"1", b"2", b"3"], [b"1", b"x"], [b"-1", b"2"], [1, 2], None],
        ids=str,
    )
    def test_what_is_no_time_is_refused(self, reply: Any) -> None:
        clock = Clock()
        with pytest.raises(OutcomeUnknown):
            clock.set(reply, 0)
        assert not clock.is_known


class Telling:
    """Answers TIME with `s`, which does not pass, and everything else with an error."""

    def __init__(self, s: float) -> None:
        self.s = s

    async def __call__(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        async for command in commands(client):
            if command[0] == b"TIME":
                to_client.write(
                    b"*2\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in told(self.s))
                )
            elif command[0] == b"QUIT":
                return
            else:
                to_client.write(b"-ERR no\r\n")


class TestLink:
    @pytest.fixture
    async def opened(self) -> AsyncIterator[AsyncExitStack]:
        async with AsyncExitStack() as stack:
            yield stack

    async def to(self, talk: Any, opened: AsyncExitStack) -> Runner:
        peer = await opened.enter_async_context(Peer(talk))
        runner = Runner(scripts.connect(peer.url, timeout_s=5), timeout_s=5)
        opened.push_async_callback(runner.aclose)
        return runner

    @pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
    async def test_a_new_connection_sets_it_anew(self, opened: AsyncExitStack, step_s: int) -> None:
        telling = Telling(1_000_000)
        runner = await self.to(telling, opened)
        await runner.time_known()
        before_ms = runner.clock.ms()
        assert 0 <= before_ms - 1_000_000_000 < 10_000
        telling.s += step_s
        with pytest.raises(OutcomeUnknown):
            await runner.link.send(pack(("QUIT",)))
        # It goes on while there is no connection.
        assert 0 <= runner.clock.ms() - before_ms < 10_000
        await runner.link.send(pack(("TIME",)))
        assert abs(runner.clock.ms() - before_ms - step_s * 1_000) < 10_000

    async def test_it_is_set_again_while_the_connection_lasts(
        self, opened: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "CLOCK_S", 0.01)
        telling = Telling(1_000_000)
        runner = await self.to(telling, opened)
        await runner.time_known()
        for _ in range(2):
            telling.s += HOUR_S
            await wait_until(lambda: runner.clock.ms() > telling.s * 1_000 - 10_000)

    async def test_it_is_not_set_any_more_once_the_connection_is_lost(
        self, opened: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "CLOCK_S", 0.01)
        runner = await self.to(Telling(1_000_000), opened)
        link, calls = runner.link, list[str]()

        def count(name: str) -> None:
            method = getattr(link, name)

            def counted(connection: Any) -> None:
                calls.append(name)
                method(connection)

            monkeypatch.setattr(link, name, counted)

        count("_set_clock_later")
        count("_ask_time")
        await runner.time_known()
        await link.aclose()
        await wait_until(lambda: calls, ["_set_clock_later", "_ask_time"])

    async def test_who_tells_no_time_is_not_connected_to(self, opened: AsyncExitStack) -> None:
        async def nothing(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
            async for _ in commands(client):
                to_client.write(b"+OK\r\n")

        runner = await self.to(nothing, opened)
        with pytest.raises(OutcomeUnknown, match="does not tell its time"):
            await runner.time_known()
        assert not runner.clock.is_known


class Wall:
    """The wall clock that all code in this process reads, `ahead_s` ahead of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        real, real_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead_s)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + self.ahead_s * 10**9)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


class Process:
    """What a process has of its own: a link and a clock. Its wall clock is `ahead_s` ahead."""

    def __init__(self, url: str, wall: Wall, ahead_s: int) -> None:
        self.runner = Runner(scripts.connect(url, timeout_s=5), timeout_s=5)
        self.store = Store(self.runner, max_lines=50)
        self.backlog = Backlog(self.runner)
        self.wall = wall
        self.ahead_s = ahead_s

    async def add(self, quantity: int = 1) -> Cart:
        self.wall.ahead_s = self.ahead_s
        return await self.store.add(BUCKET, ANN, [LineRequest(LAMP, quantity)])

    async def release(self) -> int:
        self.wall.ahead_s = self.ahead_s
        return await upkeep.release(self.store, BUCKET)


BUCKET = Bucket("default")

Start = Callable[[int], Process]


@pytest.fixture
async def start(valkey: embedded.Valkey, shop: Shop, wall: Wall) -> AsyncIterator[Start]:
    """Starts processes, whose wall clocks are so many seconds ahead."""
    async with AsyncExitStack() as stack:

        def start(ahead_s: int) -> Process:
            process = Process(valkey.url, wall, ahead_s)
            stack.push_async_callback(process.runner.aclose)
            return process

        yield start


async def redis_ms(shop: Shop) -> int:
    seconds, micros = await shop.redis.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


async def dirty_since(shop: Shop) -> int:
    return int(await shop.redis.zscore(BUCKET.dirty, BUCKET.cart(ANN)))


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_the_first_request_of_a_process_is_made_at_redis_time(
    shop: Shop, start: Start, ahead_s: int
) -> None:
    await shop.sell()
    before = await redis_ms(shop)
    cart = await start(ahead_s).add()
    # A millisecond for what is rounded.
    assert before - 1 <= cart.created_ms <= await redis_ms(shop) + 1


async def test_a_first_request_with_an_idempotency_key_is_made_at_redis_time(
    shop: Shop, start: Start, wall: Wall
) -> None:
    await shop.sell()
    await start(0).add()
    wall.ahead_s = HOUR_S
    stores = [start(HOUR_S).store for _ in range(3)]
    before = await redis_ms(shop)
    by_script, by_itself = Once(ANN, "by a script", "ab"), Once(ANN, "by itself", "ab")
    await stores[0].set_quantity(BUCKET, ANN, LAMP, 2, by_script)
    await stores[1].keep_outcome(BUCKET, by_itself)
    for once in (by_script, by_itself):
        again = Once(ANN, once.key, "ab")
        await stores[2].outcome(BUCKET, again)
        assert again.is_replay
        assert before - 1 <= again.at_ms <= await redis_ms(shop) + 1


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_the_first_read_of_a_process_is_made_at_redis_time(
    shop: Shop, start: Start, ahead_s: int
) -> None:
    await shop.sell(stock_policy="hold", hold_ttl_s=600)
    cart = await start(0).add()
    process = start(ahead_s)
    process.wall.ahead_s = ahead_s
    assert await process.store.find(BUCKET, cart.id) == cart
    assert await start(ahead_s).store.read(BUCKET, ANN) == cart


async def test_a_hold_ends_when_it_is_over_for_every_process(shop: Shop, start: Start) -> None:
    await shop.sell(stock=1, stock_policy="hold", hold_ttl_s=1)
    late, early = start(-HOUR_S), start(HOUR_S)
    cart = await late.add()
    [line] = cart.lines
    assert line.held_until_ms is not None
    assert line.held_until_ms - cart.created_ms == 1_000
    assert await early.release() == 0
    assert await late.release() == 0
    await wait_until(early.release, 1)
    now = await redis_ms(shop)
    assert line.held_until_ms - 1 <= now < line.held_until_ms + 1_000
    # And the other way round.
    [line] = (await early.add()).lines
    assert await late.release() == 0
    await wait_until(late.release, 1)
    assert line.held_until_ms is not None
    assert await redis_ms(shop) >= line.held_until_ms - 1


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_a_wall_clock_that_is_set_changes_nothing(
    shop: Shop, start: Start, step_s: int
) -> None:
    await shop.sell(stock_policy="hold", hold_ttl_s=600)
    process = start(0)
    before = await process.add()
    process.ahead_s = step_s
    assert await process.release() == 0
    after = await process.add()
    assert 0 <= after.updated_ms - before.updated_ms < 10_000
    assert [line.held_until_ms for line in after.lines] == [
        line.held_until_ms for line in before.lines
    ]


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_no_flush_mark_is_lost(
    shop: Shop, ledger: Ledger, start: Start, ahead_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.open_bucket(BUCKET)
    await shop.sell()
    api, worker = start(0), start(ahead_s)
    await api.add()
    worker.wall.ahead_s = ahead_s
    read_from = await redis_ms(shop)
    read = await worker.backlog.dirty_carts(BUCKET, 10)
    read_to = await redis_ms(shop)
    await api.add()
    worker.wall.ahead_s = ahead_s
    await worker.backlog.flushed(BUCKET, read)
    # It changed meanwhile: it stays dirty, as of the time it was read.
    assert read_from - 1 <= await dirty_since(shop) <= read_to + 1
    assert (await flush.carts(worker.backlog, ledger, BUCKET, 10)).written == 1
    assert await worker.backlog.dirty_count(BUCKET) == 0
