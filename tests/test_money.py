"""Money: minor units inside, a JSON number with two decimals outside."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartsvc import money
from cartsvc.model import MAX_QUANTITY

MAX_BIGINT = 2**63 - 1


@pytest.mark.parametrize(
    ("price", "minor"),
    [
        ("29.99", 2999),
        ("0", 0),
        ("-0.00", 0),
        ("0.01", 1),
        ("0.1", 10),
        ("29.990", 2999),
        ("1E+2", 10_000),
        ("10000000.00", 1_000_000_000),
    ],
)
def test_price_in_minor_units(price: str, minor: int) -> None:
    assert money.to_minor(Decimal(price)) == minor


@pytest.mark.parametrize("price", ["-0.01", "10000000.01", "1E+999999", "NaN", "sNaN", "Infinity"])
def test_refuses_a_price_out_of_range(price: str) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 10000000"):
        money.to_minor(Decimal(price))


# The long one is equal to 29.99 in 28 digits, the precision that decimals are rounded to.
@pytest.mark.parametrize("price", ["0.001", "1E-999999", "29.990000000000000000000000000000000001"])
def test_refuses_more_than_two_decimals(price: str) -> None:
    with pytest.raises(ValueError, match="has more than two decimals"):
        money.to_minor(Decimal(price))


@pytest.mark.parametrize(
    ("minor", "text"),
    [(0, b"0.00"), (5, b"0.05"), (70, b"0.70"), (100, b"1.00"), (2999, b"29.99")],
)
def test_amount_is_a_plain_json_number(minor: int, text: bytes) -> None:
    assert msgspec.json.encode([money.number(minor)]) == b"[" + text + b"]"


@given(st.integers(0, money.to_minor(money.MAX_PRICE)))
def test_every_price_survives_the_way_out_and_in(minor: int) -> None:
    assert money.to_minor(msgspec.json.decode(money.number(minor), type=Decimal)) == minor


def test_largest_subtotal_is_exact_and_fits_a_bigint() -> None:
    subtotal = money.to_minor(money.MAX_PRICE) * MAX_QUANTITY
    assert subtotal <= MAX_BIGINT
    assert bytes(money.number(subtotal)) == b"9999999990000000.00"
