"""Each guard of the scripts matters: with it taken out, the test that stands for it turns red.

The tests named here are the ordinary ones of the other files; they run against scripts in one of
whose files one line is changed.
"""

from collections.abc import Awaitable, Callable
from functools import partial, wraps

import pytest

from cartsvc.errors import CartShort
from cartsvc.keys import Bucket
from cartsvc.model import Cart, ClosedStatus, Once, Owner, Shortage
from cartsvc.store import Store
from tests import carts
from tests import test_cart_add as add
from tests import test_close as closing
from tests import test_concurrency as concurrency
from tests import test_line_terms as terms
from tests import test_merge as merging
from tests import test_operations as operations
from tests import test_release_held as releasing
from tests import test_restore as restoring
from tests import test_sale as pausing
from tests import test_sale_rules as rules
from tests import test_upkeep as upkeep
from tests.mutants import turns_red
from tests.shop import Mutant, Shop

Case = Callable[..., Awaitable[None]]


def in_sale(case: Case) -> Case:
    """A case whose shop is open, with a cart."""

    @wraps(case)
    async def opened(shop: Shop) -> None:
        await case(await pausing.opened(shop))

    return opened


def in_cart(case: Case) -> Case:
    """A case whose shop has a cart that holds units."""

    @wraps(case)
    async def opened(shop: Shop) -> None:
        await case(await releasing.opened(shop))

    return opened


def paused(more: str) -> Case:
    """No more units come in by this, while the sale is paused."""
    case = pausing.test_no_more_units_come_into_a_cart
    return in_sale(partial(case, more=pausing.MORE[more]))


GUARDS: list[tuple[str, str, str, Case]] = [
    (
        "lib/cart.lua",
        "redis.call('EXISTS', seq) == 0",
        "false",
        add.test_nothing_is_changed_in_a_bucket_that_is_not_warm,
    ),
    (
        "lib/terms.lua",
        "if units - line.units > most then",
        "if false then",
        add.test_refuses_more_than_is_free,
    ),
    (
        "lib/terms.lua",
        "return units_free - counted,",
        "return units_free,",
        add.test_counts_what_the_cart_already_holds,
    ),
    (
        "lib/terms.lua",
        "drawn(cart, line) + units - not_held(line)",
        "drawn(cart, line)",
        add.test_adds_up_lines_that_draw_on_one_counter,
    ),
    (
        "lib/terms.lua",
        "if record.several and counter == record.product_id then",
        "if false then",
        add.test_variants_without_stock_share_the_products_counter,
    ),
    (
        "lib/terms.lua",
        "or free(sku) and sku or product_id",
        "",
        add.test_a_variant_that_left_the_catalogue_still_counts,
    ),
    (
        "product_put.lua",
        "if several then",
        "if false then",
        add.test_lines_of_variants_that_left_count_when_none_is_left,
    ),
    (
        "lib/cart.lua",
        "new_lines > 0 and ",
        "",
        add.test_a_lowered_cap_leaves_the_lines_there_are,
    ),
    (
        "lib/terms.lua",
        "if not record.active then",
        "if false then",
        add.test_refuses_what_the_catalogue_does_not_sell,
    ),
    (
        "lib/terms.lua",
        "return -math.huge, { 'NO_COUNTER', record.counter }",
        "units_free = 1000",
        add.test_a_missing_counter_is_not_guessed,
    ),
    (
        "lib/cart.lua",
        "cart.lines + new_lines > max_lines",
        "false",
        add.test_cap_is_on_distinct_lines,
    ),
    (
        "lib/terms.lua",
        "if line.facts and not line.number then",
        "if false then",
        add.test_a_line_that_is_not_readable_is_left_alone,
    ),
    (
        "lib/line.lua",
        "if line.price == price or",
        "if true or",
        add.test_a_new_price_is_taken_and_recorded,
    ),
    (
        "lib/line.lua",
        "if line.price == price or",
        "if false or",
        add.test_the_same_price_is_no_price_change,
    ),
    (
        "lib/cart.lua",
        "'ZADD', dirty, 'NX', now",
        "'ZADD', dirty, now",
        add.test_dirty_mark_keeps_the_time_of_the_oldest_change,
    ),
    (
        "cart_add.lua",
        # A write above the last check: the request for two lines is refused at the second.
        "    lines[#lines + 1] = line",
        "    carry_out(cart, line) lines[#lines + 1] = line",
        add.test_refuses_all_lines_when_one_lacks_stock,
    ),
    (
        "lib/line.lua",
        "tonumber(string.match(fields[i + 1], '^%d+') or 0) <= latest",
        "true",
        rules.test_only_lines_that_have_run_out_are_released,
    ),
    (
        "lib/line.lua",
        "and #lines < most then",
        "then",
        rules.test_a_release_takes_so_many_lines_and_no_more,
    ),
    (
        "lib/line.lua",
        "    add_notice(cart, line.sku, line.units, reason)\n",
        "",
        operations.test_read_tells_a_notice_once,
    ),
    (
        "hold_release.lua",
        "elseif cart.lost_hold or cart.due == math.huge then",
        "elseif false then",
        rules.test_a_deadline_that_is_nobodys_is_forgotten,
    ),
    (
        "hold_release.lua",
        "redis.call('EXISTS', seq) == 0",
        "false",
        operations.test_nothing_is_done_in_a_bucket_that_is_not_warm,
    ),
    (
        "lib/cart.lua",
        "cart.due <= now",
        "false",
        rules.test_a_line_that_has_run_out_can_not_be_kept,
    ),
    (
        "lib/cart.lua",
        "cart.due <= now",
        "cart.due < now",
        rules.test_a_line_that_has_run_out_can_not_be_kept,
    ),
    (
        "lib/cart.lua",
        "cart.last_line + new_lines > MAX_LINE",
        "false",
        operations.test_a_cart_gives_4095_line_numbers,
    ),
    (
        "lib/cart.lua",
        "  reply[#reply + 1] = cart.notices or ''\n",
        "",
        rules.test_a_refusal_tells_and_does_not_count_as_told,
    ),
    (
        "lib/cart.lua",
        "cart.notices and cart.notices .. ',' .. news or news",
        "news",
        rules.test_notices_add_up_until_they_are_told,
    ),
    (
        "lib/cart.lua",
        "    redis.call('HDEL', cart.key, 'notices')\n",
        "",
        rules.test_the_owner_is_told_with_the_next_response,
    ),
    (
        "lib/cart.lua",
        "    redis.call('ZREM', holds, cart.key)\n",
        "",
        operations.test_remove_asks_no_catalogue,
    ),
    (
        "lib/cart.lua",
        "if cart.lost_hold or cart.new_hold then",
        "if cart.lost_hold then",
        merging.test_merge_moves_a_hold_with_its_deadline,
    ),
    (
        "lib/cart.lua",
        "    redis.call('ZREM', holders, line.sku .. ' ' .. cart.key)\n",
        "",
        closing.test_held_units_are_sold_without_a_question,
    ),
    (
        "lib/cart.lua",
        "  redis.call('HSET', carts, cart.id, closed)\n",
        "",
        closing.test_the_next_add_starts_another_cart,
    ),
    (
        "lib/cart.lua",
        "  redis.call('ZADD', dirty, now, closed)\n",
        "",
        merging.test_merge_closes_the_guests_cart,
    ),
    (
        "lib/cart.lua",
        "  redis.call('ZREM', dirty, cart.key)\n",
        "",
        merging.test_merge_closes_the_guests_cart,
    ),
    (
        "lib/line.lua",
        "    cart.lost_hold = true\n",
        "",
        operations.test_set_of_a_saved_line_asks_no_stock,
    ),
    (
        "lib/line.lua",
        "    cart.new_hold = true\n",
        "",
        merging.test_merge_moves_a_hold_with_its_deadline,
    ),
    (
        "lib/line.lua",
        "if cart_id == cart.id then",
        "if cart_id then",
        operations.test_remove_takes_all_the_lines_or_none,
    ),
    (
        "lib/line.lua",
        "      take(line.counter, -line.units)\n",
        "",
        operations.test_remove_asks_no_catalogue,
    ),
    (
        "lib/line.lua",
        "    redis.call('ZREM', holds_by_sku, "
        "hold_name(cart, line, line.counter, line.deadline))\n",
        "",
        operations.test_remove_asks_no_catalogue,
    ),
    (
        "lib/line.lua",
        "    cart.due = math.min(cart.due, deadline)\n",
        "    cart.due = deadline\n",
        rules.test_every_line_has_a_deadline_of_its_own,
    ),
    (
        "lib/line.lua",
        "take(counter, units - line.units)",
        "take(counter, units)",
        rules.test_a_deadline_is_the_lines_and_is_not_pushed,
    ),
    (
        "lib/terms.lua",
        "not is_held[sku] and ",
        "",
        rules.test_what_is_held_is_not_counted_twice_when_it_is_checked,
    ),
    (
        "lib/terms.lua",
        "return line.counter and 0 or line.units",
        "return line.units",
        rules.test_from_hold_to_check,
    ),
    ("lib/terms.lua", "    counted = counted + line.units\n", "", rules.test_from_hold_to_check),
    (
        "lib/terms.lua",
        "    units_free = units_free + line.units\n",
        "",
        rules.test_from_hold_to_check,
    ),
    (
        "lib/terms.lua",
        "record.policy == 'hold' and line.units or drawn(cart, line)",
        "drawn(cart, line)",
        rules.test_a_variant_that_gets_a_counter_of_its_own,
    ),
    (
        "lib/terms.lua",
        "if record.max_per_order then",
        "if false then",
        rules.test_an_orders_limit_is_the_products_in_all_its_variants,
    ),
    (
        "lib/terms.lua",
        "if record.max_per_buyer then",
        "if false then",
        rules.test_a_buyers_limit_counts_cart_and_orders,
    ),
    (
        "lib/terms.lua",
        "+ tonumber(ordered or 0)",
        "",
        rules.test_a_buyers_limit_is_the_products_in_all_its_variants,
    ),
    (
        "lib/terms.lua",
        "record.several and units_of_product(cart, product_id) or line.units",
        "line.units",
        rules.test_an_orders_limit_is_the_products_in_all_its_variants,
    ),
    (
        "lib/terms.lua",
        "now < record.starts",
        "now <= record.starts",
        rules.test_nothing_is_sold_before_the_sale,
    ),
    (
        "lib/terms.lua",
        "record.starts and now < record.starts",
        "false",
        rules.test_nothing_is_sold_before_the_sale,
    ),
    (
        "lib/terms.lua",
        "now >= record.ends",
        "now > record.ends",
        rules.test_merge_moves_what_is_held_after_the_sale,
    ),
    (
        "lib/terms.lua",
        "now >= record.ends",
        "now > record.ends",
        partial(rules.test_nothing_is_sold_after_the_sale, policy="check"),
    ),
    (
        "lib/terms.lua",
        "' ' .. now + 1, 'LIMIT'",
        "' ' .. now, 'LIMIT'",
        rules.test_a_hold_that_has_run_out_stands_in_nobodys_way,
    ),
    (
        "lib/terms.lua",
        "limit[1] == 'OUT_OF_STOCK' and holds_due(line.record.counter) or limit",
        "limit",
        rules.test_a_hold_that_has_run_out_stands_in_nobodys_way,
    ),
    (
        "lib/terms.lua",
        "line.deadline or now + record.hold_ms",
        "now + record.hold_ms",
        rules.test_a_deadline_is_the_lines_and_is_not_pushed,
    ),
    (
        "lib/terms.lua",
        "free_of[line.counter] = (free(line.counter) or 0) + line.units",
        "local _",
        rules.test_what_a_request_gives_back_is_there_for_its_next_line,
    ),
    (
        "lib/terms.lua",
        "free_of[record.counter] = free(record.counter) - units",
        "local _",
        rules.test_lines_of_one_request_share_what_can_be_held,
    ),
    (
        "lib/terms.lua",
        "least and in_cart(cart, line) < least",
        "false",
        rules.test_the_least_of_an_order_is_asked_of_an_add,
    ),
    (
        "lib/terms.lua",
        "units, line.counter, line.deadline\n",
        "units, nil, nil\n",
        rules.test_from_hold_to_check,
    ),
    (
        "lib/terms.lua",
        "  if line.saved > 0 then\n",
        "  if false then\n",
        merging.test_merge_counts_the_owners_saved_units,
    ),
    (
        "lib/catalogue.lua",
        "own_policy ~= '' and own_policy or policy",
        "own_policy ~= '' and own_policy or 'check'",
        rules.test_a_tenants_policy_is_for_products_that_name_none,
    ),
    (
        "lib/catalogue.lua",
        "    record.hold_ms = rule(rules, 'hold_ms') or hold_ms\n",
        "",
        rules.test_a_hold_lasts_as_long_as_its_product_says,
    ),
    (
        "cart_add.lua",
        "line.units + line.saved + whole",
        "line.units + whole",
        partial(operations.test_an_add_counts_saved_units, policy="hold"),
    ),
    (
        "cart_add.lua",
        "local reply = too_few(cart, line)",
        "local reply",
        rules.test_variants_reach_the_least_of_an_order_together,
    ),
    (
        "cart_set.lua",
        "if not reply and line.saved == 0 then",
        "if not reply then",
        operations.test_set_of_a_saved_line_asks_no_stock,
    ),
    (
        "cart_set.lua",
        "if units > line.units then",
        "if units ~= line.units then",
        operations.test_set_to_fewer_is_not_refused_for_stock,
    ),
    (
        "cart_set.lua",
        " or too_few(cart, line)",
        "",
        rules.test_the_least_of_an_order_is_asked_of_a_set_to_more,
    ),
    (
        "cart_set.lua",
        "    reply = decide_fewer",
        "    decide_fewer",
        rules.test_the_least_of_an_order_is_asked_of_held_lines_too,
    ),
    (
        "cart_set.lua",
        "units == line.units + line.saved",
        "false",
        operations.test_set_of_a_saved_line_asks_no_stock,
    ),
    (
        "cart_remove.lua",
        "elseif not seen[line.sku] then",
        "else",
        operations.test_remove_takes_several_lines_or_one_named_twice,
    ),
    (
        "cart_remove.lua",
        "if #lines > 0 then",
        "if true then",
        operations.test_clear_of_an_empty_cart_changes_nothing,
    ),
    ("cart_save.lua", "  hold(cart, line, 0)\n", "", merging.test_merge_keeps_saved_lines_saved),
    (
        "cart_save.lua",
        "decide_more(cart, line, line.saved) or too_few(cart, line)",
        "decide_more(cart, line, line.saved)",
        operations.test_a_saved_line_comes_back_only_if_it_is_sold,
    ),
    (
        "cart_read.lua",
        "elseif due and tonumber(due) <= tonumber(now) then",
        "elseif false then",
        operations.test_read_tells_a_notice_once,
    ),
    (
        "cart_read.lua",
        "  redis.call('HDEL', cart, 'notices')\n",
        "",
        operations.test_read_tells_a_notice_once,
    ),
    (
        "cart_find.lua",
        "redis.call('EXISTS', seq) == 0",
        "false",
        operations.test_no_cart_is_found_in_a_bucket_that_is_not_warm,
    ),
    (
        "cart_merge.lua",
        "not line.facts and no_place(cart, new_lines + 1)",
        "false",
        merging.test_merge_keeps_the_cap,
    ),
    (
        "cart_merge.lua",
        "no_place(cart, new_lines + 1)",
        "no_place(cart, 1)",
        merging.test_merge_keeps_the_cap,
    ),
    (
        "cart_merge.lua",
        "not (theirs.saved > 0 or theirs.counter) and not_sold(line.record)",
        "false",
        merging.test_merge_leaves_what_is_not_sold_any_more,
    ),
    (
        "cart_merge.lua",
        "not (theirs.saved > 0 or theirs.counter) and not_sold",
        "not_sold",
        merging.test_merge_moves_what_is_held_of_an_inactive_product,
    ),
    (
        "cart_merge.lua",
        "theirs.saved > 0 and line.units > 0 and 'ALREADY_IN_CART' or nil",
        "nil",
        merging.test_a_line_that_the_owner_wants_is_not_saved_by_a_merge,
    ),
    (
        "cart_merge.lua",
        "    free_of[theirs.counter] = (free(theirs.counter) or 0) + theirs.units\n",
        "",
        merging.test_merge_counts_the_owners_saved_units,
    ),
    (
        "cart_merge.lua",
        "  most = most - line.saved\n",
        "",
        merging.test_merge_counts_the_owners_saved_units,
    ),
    (
        "cart_merge.lua",
        "math.max(0, math.min(theirs.units, most))",
        "math.min(theirs.units, most)",
        merging.test_merge_moves_nothing_where_nothing_is_free,
    ),
    (
        "cart_merge.lua",
        "theirs.units > most and holds_due(record.counter)",
        "false",
        partial(rules.test_nothing_is_refused_for_a_hold_that_has_run_out, prepare=rules._merged),
    ),
    (
        "cart_merge.lua",
        "theirs.counter and not line.counter then",
        "theirs.counter then",
        partial(merging.test_a_hold_of_the_owners_line_keeps_its_deadline, first=carts.USER),
    ),
    (
        "cart_merge.lua",
        "if line.next_counter and theirs.counter and not line.counter then",
        "if false then",
        merging.test_a_hold_gives_its_deadline_to_a_line_that_has_none,
    ),
    (
        "cart_merge.lua",
        "  hold(guest, theirs, 0)\n",
        "",
        merging.test_merge_closes_the_guests_cart,
    ),
    (
        "cart_merge.lua",
        "add_news(cart, guest.notices)\n",
        "",
        merging.test_the_guests_notices_reach_the_owner,
    ),
    (
        "cart_merge.lua",
        "not_now(cart) or not_now(guest)",
        "not_now(cart)",
        merging.test_the_guests_notices_reach_the_owner,
    ),
    (
        "cart_merge.lua",
        "line.units + line.saved + moved",
        "line.units + moved",
        merging.test_merge_counts_the_owners_saved_units,
    ),
    (
        "cart_close.lua",
        "(cart_id == '' or cart_id == cart.id)",
        "true",
        partial(closing.test_close_is_for_the_cart_that_is_meant, status="ABANDONED"),
    ),
    (
        "cart_close.lua",
        "not (reply or line.counter)",
        "not reply",
        closing.test_held_units_are_sold_without_a_question,
    ),
    (
        "cart_close.lua",
        "local reply = line.record and too_few(cart, line)",
        "local reply",
        rules.test_the_least_of_an_order_is_asked_of_held_lines_too,
    ),
    (
        "cart_close.lua",
        "    return { 'SHORT', short }\n",
        "    return nil\n",
        closing.test_all_of_a_cart_is_sold_or_nothing,
    ),
    (
        "cart_close.lua",
        "status == 'CONVERTED' and not cart.notices",
        "status == 'CONVERTED'",
        closing.test_a_cart_that_lost_a_line_is_told_before_it_is_short,
    ),
    (
        "cart_close.lua",
        "if status == 'CONVERTED' and cart.notices then",
        "if false then",
        closing.test_a_cart_that_lost_its_only_line_is_told_before_it_is_closed,
    ),
    (
        "cart_close.lua",
        "    line.units = 0 -- none left for its hold to give back\n",
        "",
        closing.test_held_units_are_sold_without_a_question,
    ),
    ("cart_close.lua", "record.policy ~= 'untracked'", "true", rules.test_from_hold_to_untracked),
    (
        "cart_close.lua",
        "line.limits and line.limits.max_per_buyer",
        "false",
        rules.test_buyers_are_counted_apart,
    ),
    (
        "cart_close.lua",
        "line.limits and line.limits.max_per_buyer",
        "line.limits",
        rules.test_only_limited_products_are_counted_for_a_buyer,
    ),
    (
        "cart_close.lua",
        "if #saved > 0 then",
        "if false then",
        closing.test_saved_lines_stay_with_the_owner_of_a_converted_cart,
    ),
    (
        "cart_restore.lua",
        "redis.call('SET', seq, cart_id)",
        "local _",
        restoring.test_ids_of_new_carts_are_above_those_of_restored_ones,
    ),
    (
        "cart_merge.lua",
        "limit[1] == 'NO_COUNTER' and limit",
        "false",
        merging.test_merge_guesses_no_counter,
    ),
    (
        "cart_merge.lua",
        "if theirs.counter and not line.facts then",
        "if false then",
        partial(merging.test_what_is_held_moves_though_the_catalogue_changed, own=0),
    ),
    (
        "cart_restore.lua",
        "if deadline <= now then",
        "if false then",
        restoring.test_a_line_whose_deadline_has_passed_is_left_out,
    ),
    (
        "cart_restore.lua",
        "elseif units_free >= line.next_units then",
        "elseif line.record then",
        restoring.test_restored_lines_share_what_is_free,
    ),
    (
        "cart_restore.lua",
        "    free_of[line.record.counter] = units_free - line.next_units\n",
        "",
        restoring.test_restored_lines_share_what_is_free,
    ),
    (
        "cart_restore.lua",
        "redis.call('HGET', carts, cart_id)",
        "false",
        partial(restoring.test_a_closed_cart_stays_closed, status="REMOVED"),
    ),
    (
        "cart_restore.lua",
        "cart_id, last_line",
        "cart_id, #lines",
        restoring.test_a_restored_cart_goes_on_where_it_was,
    ),
    (
        "cart_restore.lua",
        "(is_as_flushed and 0 or 1)",
        "0",
        restoring.test_a_line_whose_units_have_gone_is_left_out,
    ),
    (
        "cart_restore.lua",
        "  redis.call('ZREM', dirty, cart.key)\n",
        "",
        restoring.test_restore_puts_a_cart_back,
    ),
    (
        "cart_restore.lua",
        "  redis.call('HSET', cart.key, 'updated', updated)\n",
        "",
        restoring.test_restore_puts_a_cart_back,
    ),
    (
        "stock_set.lua",
        "tonumber(units) < units_held",
        "false",
        rules.test_stock_is_not_set_below_what_is_held,
    ),
    (
        "stock_set.lua",
        "restock(tonumber(units) - units_held)",
        "restock(tonumber(units))",
        rules.test_stock_on_hand_is_what_is_free_and_what_is_held,
    ),
    ("stock_add.lua", "units_free + units < 0", "false", rules.test_only_free_stock_is_taken_out),
    (
        "lib/books.lua",
        "units_free + units_held + units_sold)",
        "units_free)",
        rules.test_stock_that_is_added_is_free,
    ),
    (
        "lib/terms.lua",
        "return sale_paused() or decide(cart, line, units)",
        "return decide(cart, line, units)",
        paused("an add"),
    ),
    *(
        (file, "decide_more(", "decide(", paused(more))
        for file, more in {
            "cart_add.lua": "an add",
            "cart_set.lua": "a higher quantity",
            "cart_save.lua": "a line that comes back",
            "cart_line.lua": "a line that is described as more",
        }.items()
    ),
    (
        "cart_close.lua",
        "reply = decide(",
        "reply = decide_more(",
        in_sale(pausing.test_an_order_of_what_is_not_held_goes_on),
    ),
    (
        "lib/once.lua",
        ", SALE_PAUSED = true",
        "",
        in_sale(pausing.test_a_pause_is_no_outcome),
    ),
    (
        "lib/terms.lua",
        "if pause == nil then",
        "if true then",
        partial(pausing.test_adds_that_share_a_call_share_the_look, is_paused=False),
    ),
    (
        "lib/terms.lua",
        "if pause == nil then",
        "if not pause then",
        partial(pausing.test_adds_that_share_a_call_share_the_look, is_paused=False),
    ),
    (
        "sale_pause.lua",
        "redis.call('EXISTS', seq) == 0",
        "false",
        in_sale(pausing.test_what_is_not_warm_is_not_paused),
    ),
    (
        "sale_pause.lua",
        "{ before or nil }",
        "{}",
        in_sale(pausing.test_who_pauses_is_told_what_was_there),
    ),
    (
        "cart_release.lua",
        "redis.call('EXISTS', seq) == 0",
        "false",
        operations.test_nothing_is_done_in_a_bucket_that_is_not_warm,
    ),
    (
        "cart_release.lua",
        "cart_id ~= '' and cart_id ~= cart.id",
        "false",
        in_cart(releasing.test_only_the_cart_that_is_meant),
    ),
    (
        "cart_release.lua",
        "math.huge, math.huge",
        "math.huge, 50",
        releasing.test_however_many_lines_it_has,
    ),
    (
        "cart_release.lua",
        "math.huge, math.huge",
        "now, math.huge",
        in_cart(releasing.test_all_that_is_held_is_free_again),
    ),
    (
        "cart_release.lua",
        "if cart.has_news then",
        "if true then",
        in_cart(releasing.test_what_holds_nothing_is_left_as_it_is),
    ),
    (
        "cart_release.lua",
        "return show(cart)",
        "return tell(cart)",
        in_cart(releasing.test_only_the_owner_is_told_and_once),
    ),
    (
        "cart_release.lua",
        "  keep(cart)\n",
        "",
        in_cart(releasing.test_it_is_flushed),
    ),
    ("cart_reprice.lua", "== done then", "then", upkeep.TestReprice().test_the_walk_begins_again),
    (
        "product_put.lua",
        "if old_price ~= string.match(record, '^{\"price\":(%d+)')",
        "if true",
        upkeep.TestReprice().test_the_same_price_again_asks_for_no_walk,
    ),
]


@pytest.mark.parametrize(
    ("file", "old", "new", "case"), GUARDS, ids=lambda value: getattr(value, "__name__", "")
)
async def test_guards_of_the_scripts(shop: Shop, file: str, old: str, new: str, case: Case) -> None:
    await turns_red(case(Shop(Mutant(shop.runner, file, old, new))))


LINE_GUARDS: list[tuple[str, str, str, Case]] = [
    (
        "cart_remove.lua",
        "by_owner == '1' and tell(cart) or show(cart)",
        "tell(cart)",
        terms.test_who_is_not_the_owner_leaves_what_the_owner_has_to_hear,
    ),
    (
        "cart_remove.lua",
        "saved == '1' or line.saved == 0",
        "true",
        terms.test_emptying_a_cart_leaves_what_is_saved,
    ),
    (
        "cart_line.lua",
        "authority == '1' and show(cart) or tell(cart)",
        "tell(cart)",
        terms.test_who_is_not_the_owner_leaves_what_the_owner_has_to_hear,
    ),
    (
        "cart_line.lua",
        "not (line.facts or line.record.active)",
        "false",
        terms.test_what_is_not_sold_is_refused,
    ),
    (
        "cart_find.lua",
        "due and tonumber(due) <= tonumber(now)",
        "false",
        terms.test_a_hold_that_has_run_out_is_not_found,
    ),
    ("cart_make.lua", "not reply and cart.id", "false", terms.test_an_owner_has_one_cart),
    ("cart_remove.lua", "cart_id ~= cart.id", "false", terms.test_only_in_the_cart_that_is_meant),
    (
        "cart_line.lua",
        "if cart.id ~= cart_id then",
        "if not cart.id then",
        terms.test_only_in_the_cart_that_is_meant,
    ),
    (
        "cart_line.lua",
        "return decide_more(cart, line, units) or too_few(cart, line)",
        "decide_more(cart, line, units) return too_few(cart, line)",
        terms.test_stock_is_decided_as_for_an_add,
    ),
    ("cart_line.lua", " or too_few(cart, line)", "", terms.test_limits_hold),
    ("cart_line.lua", "return decide_fewer(cart, line, units)", "", terms.test_limits_hold),
    (
        "cart_line.lua",
        "decide_units() or no_place(cart, line.facts and 0 or 1)",
        "decide_units()",
        terms.test_limits_hold,
    ),
    (
        "cart_line.lua",
        "if units > MAX_UNITS then",
        "if false then",
        terms.test_no_line_has_more_than_nine_digits,
    ),
    (
        "cart_line.lua",
        "units = units + has",
        "units = units + line.units",
        terms.test_units_that_are_added_bring_saved_ones_back,
    ),
    ("cart_line.lua", "hold(cart, line, 0)", "", terms.test_a_held_line_holds_what_it_has),
    (
        "cart_line.lua",
        "authority ~= '1' and not is_known",
        "false",
        terms.test_without_authority_all_must_be_the_catalogues,
    ),
    (
        "cart_line.lua",
        "(price == '' or price == price_due())",
        "true",
        terms.test_without_authority_all_must_be_the_catalogues,
    ),
    (
        "cart_line.lua",
        "and (own and has_name(own) or today and has_name(today))",
        "",
        terms.test_without_authority_all_must_be_the_catalogues,
    ),
    (
        "cart_line.lua",
        "and (own and has_image(own) or today and has_image(today))",
        "",
        terms.test_without_authority_all_must_be_the_catalogues,
    ),
    (
        "cart_line.lua",
        "own and has_name(own) or ",
        "",
        terms.test_without_authority_the_price_is_todays,
    ),
    (
        "cart_line.lua",
        "is_fixed(line) and line.price or ",
        "",
        terms.test_without_authority_a_price_of_its_own_is_the_one,
    ),
    (
        "cart_line.lua",
        "(has_image(about) and images or",
        "(image == '' and images or",
        terms.test_an_image_that_is_the_first_keeps_the_others,
    ),
    (
        "cart_line.lua",
        "not line.record or price ~= line.record.price",
        "true",
        terms.test_a_price_of_its_own_ends_with_the_catalogues,
    ),
    (
        "lib/line.lua",
        "or is_fixed(line) then",
        "then",
        terms.test_a_price_of_its_own_outlives_the_catalogues,
    ),
    (
        "cart_restore.lua",
        " and not is_fixed(line)",
        "",
        terms.test_a_price_of_its_own_moves_with_its_line,
    ),
    ("lib/terms.lua", "    touch(cart, line)\n", "", terms.test_a_line_says_when_it_was_changed),
    ("cart_set.lua", "  touch(cart, line)\n", "", terms.test_a_line_says_when_it_was_changed),
    ("cart_save.lua", "  touch(cart, line)\n", "", terms.test_a_line_says_when_it_was_changed),
    ("lib/line.lua", "  touch(cart, line)\n", "", terms.test_a_line_says_when_it_was_changed),
    ("lib/line.lua", ", 'u:' .. sku)", ")", terms.test_a_line_says_when_it_was_changed),
    (
        "cart_line.lua",
        "if line.facts then\n  touch(cart, line)",
        "if false then\n",
        terms.test_authority_names_price_name_and_image,
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "case"), LINE_GUARDS, ids=lambda _: "")
async def test_guards_of_described_lines(
    shop: Shop, file: str, old: str, new: str, case: Case
) -> None:
    lax = Shop(Mutant(shop.runner, file, old, new))
    await turns_red(case(await terms.filled(lax)))


async def test_guard_of_what_is_told_as_out_of_stock(shop: Shop) -> None:
    lax = Mutant(
        shop.runner,
        "cart_add.lua",
        "reply[1] == 'OUT_OF_STOCK' and out_of_stock(cart, line) or reply",
        "reply",
    )
    await turns_red(rules.test_lines_of_one_request_share_what_can_be_held(Shop(lax)))


@pytest.mark.parametrize("quantity", ["0", "-1", "0x10", "1.5", " 1"])
async def test_guard_of_quantities(shop: Shop, quantity: str) -> None:
    lax = Mutant(shop.runner, "lib/bucket.lua", "not string.match(text, '^[1-9]%d*$')", "false")
    await turns_red(add.test_takes_only_whole_numbers(Shop(lax), quantity))


class TwoSteps(Store):
    """Converts as many do it: look whether there is enough, and then sell."""

    async def close(
        self,
        bucket: Bucket,
        owner: Owner,
        status: ClosedStatus,
        *,
        cart_id: int | None = None,
        version: int | None = None,
        once: Once | None = None,
    ) -> Cart:
        for line in (await self.read(bucket, owner)).in_order:
            free = int(await self.runner.redis.hget(bucket.stock, line.sku) or 0)
            if free < line.quantity:
                raise CartShort([Shortage(line.sku, free, line.quantity)])
        return await super().close(
            bucket, owner, status, cart_id=cart_id, version=version, once=once
        )


async def test_guard_of_a_conversion_in_one_step(shop: Shop) -> None:
    unchecked = Mutant(
        shop.runner, "lib/terms.lua", "if units - line.units > most then", "if false then"
    )
    lax = Shop(shop.runner)
    lax.store = TwoSteps(unchecked, max_lines=50, clock_ms=lax.clock)
    await turns_red(concurrency.test_conversions_at_once_sell_no_more_than_there_is(lax))
