"""What two looks at `/metrics` tell: rates, percentiles, and services that began anew."""

from collections.abc import Mapping
from math import inf
from unittest.mock import Mock

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartsvc import contracts
from cartsvc.core import Core
from cartsvc.metrics import BOUNDS_S
from cartsvc.readings import ADDS, Page, growth, merged, page, percentile, standing, traffic
from tests.shop import LAMP, Shop

EMPTY = Page({}, {})

ADD = 'contract="session",method="POST",route="/api/cart"'
READ = 'contract="tenant",method="GET",route="/cart"'
LOGIN = 'contract="tenant",method="POST",route="/cart/merge"'
TOOK = "cartsvc_request_duration_seconds"


def told(*lines: str) -> Page:
    return page("\n".join(["# the beginning", "cartsvc_processes 1", *lines, ""]))


def requests(labels: str, status: int, quick: int, slow: int = 0) -> list[str]:
    """So many that took at most 10 ms, and at most 100 ms."""
    labels, both = f'{labels},status="{status}"', quick + slow
    edges = {"0.01": quick, "0.1": both, "+Inf": both}
    return [
        f"{TOOK}_count{{{labels}}} {both}",
        *(f'{TOOK}_bucket{{{labels},le="{edge}"}} {count}' for edge, count in edges.items()),
    ]


def test_rates_are_what_was_counted_between_two_looks() -> None:
    before = told(
        *requests(ADD, 200, 100),
        *requests(ADD, 400, 50),
        'cartsvc_refusals_total{contract="session",reason="cart_full"} 50',
        "cartsvc_redis_script_seconds_total 1.5",
        "cartsvc_process_cpu_seconds_total 3",
    )
    after = told(
        *requests(ADD, 200, 120),
        *requests(ADD, 400, 55),
        *requests(READ, 200, 6),
        *requests(LOGIN, 200, 2),
        'cartsvc_refusals_total{contract="session",reason="cart_full"} 52',
        'cartsvc_refusals_total{contract="session",reason="out_of_stock"} 3',
        'cartsvc_refusals_total{contract="tenant",reason="out_of_stock"} 1',
        'cartsvc_replays_total{contract="session"} 2',
        'cartsvc_turned_away_total{status="408"} 4',
        "cartsvc_redis_script_seconds_total 2.1",
        "cartsvc_process_cpu_seconds_total 4",
    )
    found = traffic(before, after, 2.0)
    assert found.requests == {"session": 12.5, "tenant": 4}
    assert (found.granted, found.refused) == (10, 2.5)
    assert list(found.refusals.items()) == [("out_of_stock", 2), ("cart_full", 1)]
    assert (found.replays, found.turned_away, found.cpu_share) == (1, 2, 0.5)
    assert found.redis_share == pytest.approx(0.3)


def test_a_service_that_began_anew_counts_from_nothing() -> None:
    before = told(
        *requests(ADD, 200, 1_000, slow=1_000),
        "cartsvc_redis_script_seconds_total 9",
        'cartsvc_refusals_total{contract="session",reason="cart_full"} 50',
    )
    after = told(
        # More quick ones than before, and fewer in all.
        *requests(ADD, 200, 1_100, slow=10),
        "cartsvc_redis_script_seconds_total 0.5",
        'cartsvc_refusals_total{contract="session",reason="cart_full"} 4',
    )
    found = traffic(before, after, 1.0)
    assert found.requests == {"session": 1_110}
    assert (found.refusals, found.redis_share) == ({"cart_full": 4}, 0.5)
    assert found.p99_s == pytest.approx(0.01 * 0.99 * 1_110 / 1_100)


COUNTS = st.lists(st.integers(0, 99), min_size=3, max_size=3)


@given(COUNTS, COUNTS)
def test_nothing_is_ever_negative(before: list[int], after: list[int]) -> None:
    first, second = (
        told(*requests(ADD, 200, quick, slow), f"cartsvc_process_cpu_seconds_total {cpu}")
        for quick, slow, cpu in (before, after)
    )
    grown = growth(first, second)
    assert all(count >= 0 for count in merged(grown.durations[TOOK]).values())
    assert all(count >= 0 for found in grown.numbers.values() for count in found.values())
    assert traffic(first, second, 1.0).granted >= 0


@pytest.mark.parametrize(
    ("durations", "share", "expected"),
    [
        ({0.1: 0, 0.2: 10, inf: 0}, 0.5, 0.15),
        ({0.1: 10, 0.2: 0, inf: 0}, 0.5, 0.05),
        ({0.1: 5, 0.2: 0, 0.5: 5, inf: 0}, 0.5, 0.1),
        ({0.1: 90, 0.2: 0, 0.5: 10, inf: 0}, 0.99, 0.47),
        ({0.1: 0, 0.2: 0, inf: 10}, 0.5, 0.2),
        ({0.1: 0, 0.2: 0, inf: 0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_percentiles_lie_between_the_edges(
    durations: Mapping[float, float], share: float, expected: float | None
) -> None:
    assert percentile(durations, share) == (
        expected if expected is None else pytest.approx(expected)
    )


@given(st.lists(st.floats(0.0001, 9.9), min_size=1, max_size=50))
def test_a_percentile_is_in_the_step_of_the_true_one(durations: list[float]) -> None:
    steps = dict.fromkeys((*BOUNDS_S, inf), 0.0)
    for one in durations:
        steps[next(edge for edge in steps if edge >= one)] += 1
    found = percentile(steps, 0.5)
    true = sorted(durations)[-(-len(durations) // 2) - 1]
    above = next(edge for edge in BOUNDS_S if edge >= true)
    below = max((edge for edge in BOUNDS_S if edge < true), default=0.0)
    assert found is not None
    assert below <= found <= above


def test_how_things_are_is_told_of_one_tenant() -> None:
    found = standing(
        told(
            "cartsvc_redis_up 1",
            'cartsvc_dirty_carts{tenant="acme"} 7',
            'cartsvc_dirty_carts{tenant="default"} 3',
            'cartsvc_overloaded{tenant="acme"} 1',
        ),
        "default",
    )
    assert (found.redis_up, found.postgresql_up, found.dirty_carts) == (True, False, 3)
    assert (found.is_overloaded, found.is_paused, found.lag_s) == (False, False, None)


@pytest.mark.parametrize("text", ["", "<html></html>", "node_load1 0.5\n"])
def test_another_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no cartsvc"):
        page(text)


def test_adds_are_operations_of_the_contracts() -> None:
    spoken = contracts.all_of(Mock(spec=Core))
    posted = {
        (contract.name, operation.path)
        for contract in spoken
        for operation in contract.operations
        if operation.method == "POST"
    }
    assert set(ADDS.items()) <= posted
    # Nobody shops by that of operators.
    assert set(ADDS) == {contract.name for contract in spoken} - {"admin"}


async def test_the_service_is_read_as_it_tells(http: httpx.AsyncClient, shop: Shop) -> None:
    await shop.sell(LAMP, stock=3)

    async def look() -> Page:
        return page((await http.get("/metrics")).text)

    before = await look()
    for quantity, status in ((1, 200), (2, 200), (9, 400)):
        body = {"product_id": LAMP, "quantity": quantity, "session_id": "ann"}
        assert (await http.post("/api/cart", json=body)).status_code == status
    after = await look()
    found = traffic(before, after, 1.0)
    assert (found.requests, found.granted, found.refused) == ({"session": 3}, 2, 1)
    assert found.refusals == {"out_of_stock": 1}
    assert found.p50_s is not None
    assert found.p99_s is not None
    assert 0 < found.p50_s <= found.p99_s < 10
    assert found.redis_share > 0
    now = standing(after, "default")
    assert (now.redis_up, now.postgresql_up, now.processes, now.dirty_carts) == (True, True, 1, 1)
    assert traffic(EMPTY, after, 1.0).granted >= 2
