"""Each guard matters: with it taken out, the test that stands for it turns red.

The tests named here are the ordinary ones of the other files; they run against a copy of the
query or module in which one line is changed. `test_guards_of_scripts` does it for the scripts.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from starlette.applications import Starlette

from cartsvc import contract as contract_module
from cartsvc import flush, link, scripts
from cartsvc import http as http_module
from cartsvc.contracts import session
from cartsvc.embedded import Valkey
from cartsvc.ledger import Ledger
from tests import test_bad_input as bad_input
from tests import test_flush as flushing
from tests import test_link as linking
from tests import test_outage as outage
from tests import test_stock as stocking
from tests import wait
from tests.mutants import mutant, mutant_query, turns_red
from tests.shop import Mutant, Shop, core_of

Case = Callable[..., Awaitable[None]]

QUERIES: list[tuple[str, str, str, Case]] = [
    (
        "upsert_carts",
        "carts.version < excluded.version OR",
        "true OR",
        flushing.test_an_older_version_changes_nothing,
    ),
    (
        "upsert_carts",
        "WHERE carts.status = 'ACTIVE'\n      AND",
        "WHERE",
        flushing.test_a_closed_cart_is_not_opened_by_a_redis_that_came_back_older,
    ),
    (
        "delete_lines",
        "WHERE tenant = $1",
        "WHERE false AND tenant = $1",
        flushing.test_lines_that_left_the_cart_leave_the_table,
    ),
    (
        "upsert_lines",
        "WHERE (cart_items.quantity",
        "WHERE true OR (cart_items.quantity",
        flushing.test_a_line_that_did_not_change_is_left_alone,
    ),
    *(
        (
            "upsert_lines",
            f"cart_items.{column}",
            f"excluded.{column}",
            flushing.test_whatever_changes_of_a_line_is_written,
        )
        for column in (
            "quantity",
            "price_minor",
            "saved",
            "held_until",
            "updated_at",
            "name",
            "images",
            "fixed_price",
        )
    ),
    (
        "claim_bucket",
        "pg_try_advisory_xact_lock",
        "0 <> ",
        flushing.test_a_bucket_is_flushed_by_one_worker_at_a_time,
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "case"), QUERIES, ids=lambda value: str(value)[:20])
async def test_guards_of_the_queries(
    open_shop: Shop, ledger: Ledger, name: str, old: str, new: str, case: Case
) -> None:
    with mutant_query(name, old, new):
        await turns_red(case(flush, open_shop, ledger))


async def test_guard_of_the_price_offset(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flushing.test_a_crash_after_the_commit_changes_nothing_the_second_time
    standing = "SET prices_offset = coalesce(prices_offset, $3)"
    with mutant_query("advance_prices", "SET prices_offset = $3", standing):
        await turns_red(case(flush, open_shop, ledger, monkeypatch))


async def test_guard_of_changes_that_cross(
    open_shop: Shop, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mutant_query("lock_catalogue", "pg_advisory_lock(", "abs("):
        await turns_red(
            stocking.test_an_import_and_a_stock_change_do_not_cross(open_shop, ledger, monkeypatch)
        )


async def test_guard_of_price_rows(open_shop: Shop, ledger: Ledger) -> None:
    case = flushing.test_a_price_change_that_is_there_already_is_no_second_row
    with mutant_query("insert_prices", "ON CONFLICT DO NOTHING", ""):
        await turns_red(case(flush, open_shop, ledger))


async def test_guard_of_the_dirty_mark_of_another_cart(open_shop: Shop, ledger: Ledger) -> None:
    lax = Shop(
        Mutant(open_shop.runner, "cart_flushed.lua", "(facts[1] or '') == cart_id --", "true --")
    )
    await turns_red(flushing.test_a_new_cart_at_the_same_version_stays_dirty(flush, lax, ledger))


async def test_guard_of_the_dirty_mark(open_shop: Shop, ledger: Ledger) -> None:
    lax = Shop(
        Mutant(
            open_shop.runner,
            "cart_flushed.lua",
            "(facts[2] or '') == version",
            "true",
        )
    )
    await turns_red(flushing.test_a_cart_that_changes_meanwhile_stays_dirty(flush, lax, ledger))


MODULES: list[tuple[str, str, Case]] = [
    (
        # Cleared while it is written: before its commit.
        "_turn(backlog, bucket, written, batch",
        "_turn(backlog, bucket, batch.dirty, batch",
        flushing.test_nothing_is_cleared_that_is_not_committed,
    ),
    (
        # Before its commit, too.
        "                await flush.advance_prices(batch.last)",
        "                await backlog.trim_prices(bucket, batch.last)",
        flushing.test_nothing_is_cleared_that_is_not_committed,
    ),
    (
        "_read(backlog, bucket, limit, batch.seen)",
        "_read(backlog, bucket, limit)",
        flushing.test_each_batch_is_of_other_carts,
    ),
    (
        # What another flush was writing is taken for written.
        "if done is None:\n            return Flushed(behind, refused)",
        "done = done or _NOTHING",
        flushing.test_a_bucket_is_flushed_by_one_worker_at_a_time,
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "case"), MODULES, ids=["carts", "prices", "besides", "refused"]
)
async def test_guards_of_the_order_of_a_flush(
    open_shop: Shop, ledger: Ledger, old: str, new: str, case: Case
) -> None:
    await turns_red(case(mutant(flush, old, new), open_shop, ledger))


BESIDE: list[tuple[str, str, Case]] = [
    ("limit if left else 0", "limit", flushing.test_a_batch_is_read_while_another_is_written),
    (
        "        task.cancel()\n",
        "",
        flushing.test_a_batch_that_fails_ends_what_goes_on_beside_it,
    ),
    (
        "        await asyncio.gather(task, return_exceptions=True)",
        "",
        flushing.test_a_batch_that_fails_ends_what_goes_on_beside_it,
    ),
]


@pytest.mark.parametrize(("old", "new", "case"), BESIDE, ids=["end", "cancelled", "awaited"])
async def test_guards_of_what_goes_on_beside_a_write(
    open_shop: Shop,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    case: Case,
) -> None:
    await turns_red(case(mutant(flush, old, new), open_shop, ledger, monkeypatch))


async def test_guard_of_lost_replies_of_bulk_work(shop: Shop, valkey: Valkey) -> None:
    retrying = mutant(scripts, "retry=Retry(NoBackoff(), 0)", "retry=Retry(NoBackoff(), 3)")
    await turns_red(outage.lost_in_bulk(retrying, shop, valkey))


LinkCase = Callable[[linking.Links], Awaitable[None]]

LINK: list[tuple[str, str, LinkCase]] = [
    # Whoever does not wait any more is passed over.
    (
        "                elif not future.done():\n",
        "                else:\n",
        linking.test_who_left_is_nothing_to_the_others,
    ),
    (
        "        if not future.done():\n            future.set_exception(error)",
        "        future.set_exception(error)",
        linking.test_who_left_is_nothing_to_the_others,
    ),
    (
        "in self._early:\n            if not future.done():",
        "in self._early:\n            if True:",
        linking.test_who_left_is_nothing_to_the_others,
    ),
    (
        "in self.waiting:\n            if not future.done():",
        "in self.waiting:\n            if True:",
        linking.test_all_that_wait_on_a_lost_connection_are_told_and_none_is_done_twice,
    ),
    (
        "            if future.done():\n                continue\n",
        "",
        linking.test_who_left_keeps_nobody_from_a_deadline,
    ),
    # But has a place among those who do, for a reply is to come.
    (
        "                future, _ = waiting.popleft()",
        "                while waiting[0][0].done():\n"
        "                    waiting.popleft()\n"
        "                future, _ = waiting.popleft()",
        linking.test_every_answer_is_its_askers,
    ),
    (
        "                if not future.done():\n                    connection.forward",
        "                if True:\n                    connection.forward",
        linking.test_what_is_cancelled_before_there_is_a_connection_is_not_sent,
    ),
    # What was sent is not sent again.
    (
        "join(self._unsent))\n            self._unsent.clear()",
        "join(self._unsent))",
        linking.test_a_late_reply_is_not_the_next_ones,
    ),
    (
        "        self._unsent.append(request)\n",
        "        self._unsent.append(request)\n        self._write()\n",
        linking.test_requests_of_one_turn_are_one_write,
    ),
    # An error is one asker's.
    (
        "self._refused(future, reply)",
        "self._refused(future, reply) or self.give_up(str(reply))",
        linking.test_an_error_is_told_to_its_asker_alone,
    ),
    # No wait without an end.
    (
        "        if self._watch is None or deadline < self._watch.when():\n",
        "        if False:\n",
        linking.test_a_redis_that_hangs_fails_all_in_time_and_shifts_nothing_later,
    ),
    (
        "                self._watch = self._loop.call_at(deadline, self._overdue)\n",
        "                pass\n",
        linking.test_each_has_a_deadline_of_its_own,
    ),
    (
        "asyncio.timeout(self.timeout_s)",
        "asyncio.timeout(None)",
        linking.test_a_handshake_that_does_not_end_is_given_up,
    ),
    (
        "            self._fail_early(f",
        "            str(f",
        linking.test_a_closed_port_is_tried_now_and_then,
    ),
    # Silence ends a connection, lateness does not.
    (
        "if self._heard < deadline - self.timeout_s:",
        "if True:",
        linking.test_a_late_reply_is_not_the_next_ones,
    ),
    (
        "if self._heard < deadline - self.timeout_s:",
        "if False:",
        linking.test_a_redis_that_hangs_fails_all_in_time_and_shifts_nothing_later,
    ),
    (
        "        self._lost(self)\n",
        "",
        linking.test_a_killed_connection_is_replaced,
    ),
    (
        "except (hiredis.ProtocolError, IndexError)",
        "except IndexError",
        linking.test_a_peer_that_is_no_redis,
    ),
    (
        "except (hiredis.ProtocolError, IndexError)",
        "except hiredis.ProtocolError",
        linking.test_a_reply_that_nobody_asked_for,
    ),
    # How many may wait.
    (
        "if len(connection.waiting) >= self.in_flight:",
        "if False:",
        linking.test_no_more_than_a_number_wait,
    ),
    (
        "if len(self._early) >= self.in_flight:",
        "if False:",
        linking.test_no_more_than_a_number_wait_for_a_connection,
    ),
    # How often it is tried.
    (
        "if loop.time() < self._not_before:",
        "if False:",
        linking.test_a_closed_port_is_tried_now_and_then,
    ),
    (
        "random.uniform(0.5, 1)",
        "0.75",
        linking.test_the_waits_between_attempts_grow_differ_and_start_anew,
    ),
    (
        "2**self._failures",
        "1",
        linking.test_the_waits_between_attempts_grow_differ_and_start_anew,
    ),
    (
        "min(most, first * 2**self._failures)",
        "first * 2**self._failures",
        linking.test_the_waits_between_attempts_grow_differ_and_start_anew,
    ),
    (
        "            self._failures = 0\n",
        "            pass\n",
        linking.test_the_waits_between_attempts_grow_differ_and_start_anew,
    ),
    # Who asks, and of what.
    (
        'commands.append(("AUTH", address.username or "default", address.password))',
        'commands.append(("AUTH", "default", address.password))',
        linking.test_urls_say_who_connects_and_to_which_database,
    ),
    (
        'commands.append(("SELECT", address.db))',
        "pass",
        linking.test_urls_say_who_connects_and_to_which_database,
    ),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a mutant does not do is waited for, too."""
    monkeypatch.setattr(wait, "LONGEST_S", 3)


async def linked(valkey: Valkey, case: LinkCase, **modules: ModuleType) -> None:
    async with linking.Links(valkey.url, **modules) as links:
        await case(links)


@pytest.mark.parametrize(("old", "new", "case"), LINK, ids=[case.__name__ for *_, case in LINK])
@pytest.mark.usefixtures("impatient")
async def test_guards_of_the_link(valkey: Valkey, old: str, new: str, case: LinkCase) -> None:
    await turns_red(linked(valkey, case, module=mutant(link, old, new)))


@pytest.mark.usefixtures("impatient")
async def test_guard_of_a_replica(valkey: Valkey, own: Valkey) -> None:
    staying = mutant(link, 'startswith("READONLY")', 'startswith("NEVER")')
    case = partial(linking.test_a_replica_is_left, own=own)
    await turns_red(linked(valkey, case, module=staying))


@pytest.fixture
def own(servers_folder: Path, tmp_path: Path) -> Iterator[Valkey]:
    with linking.own_valkey(servers_folder / tmp_path.name) as server:
        yield server


RUNNER: list[tuple[str, str, LinkCase]] = [
    (
        'not str(error).startswith("NOSCRIPT")',
        "True",
        linking.test_flushed_scripts_are_known_again_to_all_that_wait,
    ),
    (
        'not str(error).startswith("NOSCRIPT")',
        "False",
        linking.test_a_script_that_failed_is_not_run_again,
    ),
    (
        'not str(error).startswith("NOSCRIPT")',
        '"NOSCRIPT" not in str(error)',
        linking.test_a_script_that_failed_is_not_run_again,
    ),
    (
        "        except ReplyError as error:\n            reply = await self._after",
        # Once more, and no further: without an end it may be the depth of its calls that fails.
        "        except OutcomeUnknown:\n"
        '            reply = await self.link.send(pack(("EVALSHA", script.sha, *call)))\n'
        "        except ReplyError as error:\n            reply = await self._after",
        linking.test_a_lost_reply_is_not_asked_for_again,
    ),
]


@pytest.mark.parametrize(("old", "new", "case"), RUNNER, ids=lambda value: str(value)[:20])
@pytest.mark.usefixtures("impatient", "shop")  # A shop, so that Redis has met its scripts before.
async def test_guards_of_a_run(valkey: Valkey, old: str, new: str, case: LinkCase) -> None:
    await turns_red(linked(valkey, case, runners=mutant(scripts, old, new)))


HTTP: list[tuple[str, str, str]] = [
    (
        "None\n    except (RecursionError, ValueError)",
        "None\n    except ValueError",
        "deep in a field",
    ),
    ('body.count(b":") > _fields_set(value)', "False", "key twice"),
    ('body.count(b":") > _fields_set(value)', "False", "key twice, once escaped"),
    (
        "None\n    except (RecursionError, ValueError)",
        "None\n    except (RecursionError, msgspec.MsgspecError)",
        "bad UTF-8",
    ),
]


def application(contract: ModuleType, shop: Shop) -> Starlette:
    mounting = mutant(contract_module, "What a contract is", "What one is")
    mounting.__dict__["Endpoint"] = contract.__dict__["http"].Endpoint
    return Starlette(routes=mounting.routes([contract.contract(core_of(shop))], 65_536))


def in_process(contract: ModuleType, shop: Shop) -> httpx.AsyncClient:
    """A client of a contract, without a server."""
    transport = httpx.ASGITransport(application(contract, shop), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def over(http: ModuleType) -> ModuleType:
    """Contract 000 over another `http`."""
    contract = mutant(session, "Contract 000, session", "A mutant")
    contract.__dict__["http"] = http
    # Contracts know the errors of the real one.
    http.__dict__["BodyTooLarge"] = http_module.BodyTooLarge
    return contract


async def test_a_copy_without_a_change_is_green(shop: Shop) -> None:
    contract = over(mutant(http_module, '"Requests and replies', '"Replies'))
    async with in_process(contract, shop) as http:
        await bad_input.test_bad_body_is_400(http, shop, "101")
        await bad_input.test_a_body_of_unknown_length_is_cut_off(http, shop)
    await bad_input.refused_unread(application(contract, shop))


@pytest.mark.parametrize(("old", "new", "name"), HTTP, ids=lambda value: str(value)[:20])
async def test_guards_of_the_body(shop: Shop, old: str, new: str, name: str) -> None:
    async with in_process(over(mutant(http_module, old, new)), shop) as http:
        await turns_red(bad_input.test_bad_body_is_400(http, shop, name))


async def test_guard_of_long_numbers(shop: Shop) -> None:
    lax = mutant(http_module, ", parse_int=str", "")
    rest = ',"n":' + "9" * 10_000
    async with in_process(over(lax), shop) as http:
        await turns_red(bad_input.test_unknown_fields_are_ignored(http, shop, rest))


async def test_guard_of_the_size_as_it_comes(shop: Shop) -> None:
    async with in_process(over(mutant(http_module, "size > limit", "False")), shop) as http:
        await turns_red(bad_input.test_a_body_of_unknown_length_is_cut_off(http, shop))


async def test_guard_of_the_size_as_announced(shop: Shop) -> None:
    lax = over(mutant(http_module, ", 0)) > limit:", ", 0)) < 0:"))
    await turns_red(bad_input.refused_unread(application(lax, shop)))


SESSION: list[tuple[str, str, str]] = [
    ("if product_id is None:", "if False:", "product with braces"),
    ("quantity(request.quantity, MAX_QUANTITY)", "request.quantity", "101"),
    ("quantity(request.quantity, MAX_QUANTITY)", "request.quantity", "2^63"),
]


@pytest.mark.parametrize(("old", "new", "name"), SESSION, ids=lambda value: str(value)[:20])
async def test_guards_of_contract_000(shop: Shop, old: str, new: str, name: str) -> None:
    await shop.sell(stock=999_999_999)
    async with in_process(mutant(session, old, new), shop) as http:
        await turns_red(bad_input.test_bad_body_is_400(http, shop, name))
