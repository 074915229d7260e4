"""The commands of an operator's day, as processes: what they print, and their exit status."""

import asyncio
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cartsvc import embedded
from cartsvc.clock import wall_ms
from cartsvc.http import timestamp
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner
from cartsvc.trail import Trail
from tests.command import run
from tests.shop import LAMP, MUG, Shop
from tests.test_dead_letter import worker_of
from tests.wait import LONGEST_S

AWAY = "postgresql://postgres@127.0.0.1:1/cartsvc"
WHEN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
WHO = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


@pytest.fixture
async def servers(
    valkey: embedded.Valkey, database_url: str, shop: Shop, ledger: Ledger
) -> dict[str, str]:
    """Where a shop is that sells a lamp whose units are held, and a mug, at this time."""
    shop.clock.ms = wall_ms()
    await ledger.open_bucket(shop.bucket)
    held = await shop.sell(LAMP, price="29.99", stock=100, stock_policy="hold")
    await shop.record(ledger, held, await shop.sell(MUG, price="12.50", stock=5))
    return {"CARTSVC_REDIS_URL": valkey.url, "CARTSVC_DATABASE_URL": database_url}


class TestSale:
    def test_is_paused_and_goes_on(self, servers: dict[str, str]) -> None:
        assert run("sale", "state", **servers).stdout == "not paused\n"
        done = run("sale", "pause", "--reason", "a wrong price", **servers)
        assert (done.returncode, done.stderr) == (0, "")
        told = f"paused by {WHO} since {WHEN}: a wrong price\n"
        assert re.fullmatch(told, done.stdout)
        assert run("sale", "state", **servers).stdout == done.stdout
        again = run("sale", "pause", "--reason", "stocktaking", **servers)
        assert re.fullmatch(rf"paused .*: stocktaking\nbefore, it was {told}", again.stdout)
        resumed = run("sale", "resume", **servers)
        assert re.fullmatch(r"the sale goes on; it was paused by .*: stocktaking\n", resumed.stdout)
        assert run("sale", "resume", **servers).stdout == "the sale goes on; it was not paused\n"

    async def test_is_paused_without_postgresql_and_says_that_it_is_not_recorded(
        self, servers: dict[str, str], shop: Shop
    ) -> None:
        away = {**servers, "CARTSVC_DATABASE_URL": AWAY}
        done = run("sale", "pause", "--reason", "at night", **away)
        assert (done.returncode, done.stdout.count("at night")) == (1, 1)
        assert done.stderr.startswith(
            "cartsvc: this is not recorded in the audit trail: PostgreSQL: "
        )
        assert done.stderr.count("\n") == 1
        assert await shop.redis.exists(shop.bucket.paused)
        done = run("sale", "resume", **away)
        assert (done.returncode, done.stdout.count("goes on")) == (1, 1)
        assert await shop.redis.exists(shop.bucket.paused) == 0

    def test_needs_a_reason_and_a_tenant_that_there_is(self, servers: dict[str, str]) -> None:
        assert run("sale", "pause", **servers).returncode == 2
        blank = run("sale", "pause", "--reason", " ", **servers)
        assert (blank.returncode, blank.stderr) == (
            1,
            "cartsvc: reason must be given: shoppers are told\n",
        )
        nobody = run("sale", "pause", "--reason", "x", "--tenant", "nobody", **servers)
        assert (nobody.returncode, nobody.stderr) == (
            1,
            "cartsvc: PostgreSQL knows no tenant 'nobody'\n",
        )


class TestCarts:
    async def test_are_shown_to_a_person(
        self, servers: dict[str, str], shop: Shop, ledger: Ledger
    ) -> None:
        owner = Owner("session", "a-session-that-is-long")
        cart = await shop.add_lines(LineRequest(LAMP, 2), LineRequest(MUG, 1), owner=owner)
        now, later = timestamp(shop.clock.ms), timestamp(shop.clock.ms + 600_000)
        done = run("carts", "show", str(cart.id), **servers)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            f"cart {cart.id}\n"
            "  owner   session a-sess...\n"
            "  status  ACTIVE, version 1\n"
            f"  created {now}\n"
            f"  changed {now}\n"
            "  where   Redis only\n"
            f"  dirty   since {now}\n"
            f"  {LAMP}  Aurora Desk Lamp  2 x 29.99 = 59.98  held until {later}\n"
            f"  {MUG}  Aurora Desk Lamp  1 x 12.50 = 12.50\n"
            "  total   3 units, 72.48\n"
        )
        found = json.loads(run("carts", "show", str(cart.id), "--json", **servers).stdout)
        assert (found["owner"]["id"], found["total_amount"]) == ("a-sess...", 72.48)
        await shop.store.close(shop.bucket, owner, "ABANDONED")
        await worker_of(shop, ledger).run_once()
        told = run("carts", "show", str(cart.id), **servers).stdout
        assert "ABANDONED, version 2" in told
        assert "PostgreSQL only" in told

    async def test_let_go_what_they_hold(self, servers: dict[str, str], shop: Shop) -> None:
        cart = await shop.add(3)
        done = run("carts", "release", str(cart.id), **servers)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "  total   0 units, 0.00")
        assert "100 free, 0 held" in run("stock", "get", LAMP, **servers).stdout
        await shop.store.close(shop.bucket, cart.owner, "REMOVED")
        closed = run("carts", "release", str(cart.id), **servers)
        assert closed.stderr == f"cartsvc: cart {cart.id} is REMOVED: it holds nothing\n"

    @pytest.mark.parametrize("command", ["show", "release"])
    def test_that_there_are_not(self, servers: dict[str, str], command: str) -> None:
        for cart_id in ("512", "0"):
            done = run("carts", command, cart_id, **servers)
            assert (done.returncode, done.stderr) == (1, "cartsvc: there is no such cart\n")
        done = run("carts", command, "x\x1b", **servers)
        told = r"cartsvc: the id of a cart is a whole number, and not 'x\x1b'" + "\n"
        assert (done.returncode, done.stderr) == (1, told)
        assert run("carts", command, **servers).returncode == 2


class TestPrice:
    def test_is_set(self, servers: dict[str, str]) -> None:
        done = run("price", "set", MUG, "9.99", **servers)
        told = f"{MUG}: 12.50 -> 9.99; carts follow within about two flush intervals\n"
        assert (done.returncode, done.stdout) == (0, told)
        assert run("price", "get", MUG, **servers).stdout == f"{MUG}: 9.99\n"

    @pytest.mark.parametrize("price", ["9.999", "many", "NaN", "1e99", "10000000.01"])
    def test_is_an_amount(self, servers: dict[str, str], price: str) -> None:
        done = run("price", "set", MUG, price, **servers)
        assert (done.returncode, "at most two decimals" in done.stderr) == (2, True)

    def test_of_what_there_is_not(self, servers: dict[str, str]) -> None:
        done = run("price", "set", "none", "1", **servers)
        assert (done.returncode, done.stderr) == (1, "cartsvc: the catalogue has no 'none'\n")


class TestWatch:
    def test_adds_shows_and_takes_off(self, servers: dict[str, str]) -> None:
        lamp = f"{LAMP}: 100 free, 0 held, 0 sold\n"
        mug = f"{MUG}: 5 free, 0 held, 0 sold\n"
        assert run("stock", "watch", **servers).stdout == "nothing is watched\n"
        assert run("stock", "watch", MUG, LAMP, **servers).stdout == lamp + mug
        assert run("stock", "watch", **servers).stdout == lamp + mug
        assert run("stock", "watch", "--off", MUG, **servers).stdout == lamp
        unknown = run("stock", "watch", "none", **servers)
        assert (unknown.returncode, "no stock counter 'none'" in unknown.stderr) == (1, True)
        assert run("stock", "watch", "--off", **servers).returncode == 2

    @pytest.fixture
    def following(self, servers: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            [sys.executable, "-m", "cartsvc", "stock", "watch", "-f", LAMP],
            env={**os.environ, **servers},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        yield process
        if process.poll() is None:
            process.kill()
        process.communicate()

    async def test_follows_until_it_is_interrupted(
        self, following: "subprocess.Popen[str]", shop: Shop
    ) -> None:
        async def next_line() -> str:
            assert following.stdout is not None
            line = asyncio.to_thread(following.stdout.readline)
            return await asyncio.wait_for(line, LONGEST_S)

        assert await next_line() == f"{LAMP}: 100 free, 0 held, 0 sold\n"
        assert re.fullmatch(rf"{WHEN}  {LAMP}: 100 free, 0 held, 0 sold\n", await next_line())
        await shop.add(3)
        assert re.fullmatch(rf"{WHEN}  {LAMP}: 97 free, 3 held, 0 sold\n", await next_line())
        following.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(following.communicate)
        assert (following.returncode, out, err) == (0, "", "")


class TestAudit:
    async def test_says_who_did_what(self, servers: dict[str, str], ledger: Ledger) -> None:
        run("stock", "set", LAMP, "60", **servers)
        run("price", "set", "none", "1", **servers)
        run("verify", **servers, CARTSVC_FLUSH_INTERVAL_S="0.1")
        assert (await Trail(ledger).newest(None, 9))[0].via == "cli"
        done = run("audit", **servers)
        verify, price, stock = done.stdout.splitlines()
        assert re.fullmatch(
            rf"\d+  {WHEN}  default  {WHO}  stock.set  {LAMP}  done  "
            r"\{.*\"free\": 100.*\} ->  \{.*\"free\": 60.*\}",
            stock,
        )
        refused = "refused: UnknownProduct(product_id='none')"
        assert price.endswith(f"{WHO}  price.set  none  {refused}")
        assert f"{WHO}  verify  -  done  {{" in verify
        assert run("audit", "--limit", "1", **servers).stdout == f"{verify}\n"
        assert run("audit", "--tenant", "acme", **servers).stdout == ""
        assert run("audit", "--limit", "0", **servers).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("stock", "set", LAMP, "1"),
        ("stock", "watch", LAMP),
        ("carts", "show", "256"),
        ("carts", "release", "256"),
        ("price", "set", LAMP, "1"),
        ("verify",),
        ("audit",),
    ],
    ids=" ".join,
)
async def test_without_postgresql_nothing_is_done(
    servers: dict[str, str], shop: Shop, arguments: tuple[str, ...]
) -> None:
    before = await shop.everything()
    done = run(*arguments, **{**servers, "CARTSVC_DATABASE_URL": AWAY})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cartsvc: PostgreSQL: ")
    assert done.stderr.count("\n") == 1
    assert await shop.everything() == before
