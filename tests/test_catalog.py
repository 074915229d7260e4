"""The catalogue: which rows are products, and what Redis keeps of one."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from msgspec import ValidationError

from cartsvc import catalog
from cartsvc.catalog import MAX_IMAGES, MAX_VARIANTS, Product, ProductRow, VariantRow
from cartsvc.model import MAX_QUANTITY, MAX_TEXT

CUID = "clz1smartphonex0001abcdef"


def made(**fields: Any) -> Product:
    """The product of a good row in which `fields` are others."""
    row: dict[str, Any] = {"id": "tee", "name": "Heavy Tee", "price": Decimal("22.00")}
    return catalog.product(ProductRow(**{**row, **fields}), "USD")


def recorded(product: Product, *counters: str) -> dict[str, Any]:
    return {sku: orjson.loads(text) for sku, text in catalog.records(product, counters).items()}


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("507F1F77BCF86CD79943901A", "507f1f77bcf86cd79943901a"),
        (201, "201"),
        ("007", "007"),
        (CUID, CUID),
        # 23 hexadecimal digits are no ObjectId.
        ("507F1F77BCF86CD79943901", "507F1F77BCF86CD79943901"),
        ("A.b_c~d-e", "A.b_c~d-e"),
        ("x" * 64, "x" * 64),
    ],
)
def test_id_as_it_is_stored(written: str | int, stored: str) -> None:
    product = made(id=written, variants=[VariantRow(id=written)])
    assert (product.id, product.variants[0].id) == (stored, stored)


NO_IDS = ["", "a{b", "a}b", "a:b", "a/b", "a\0b", "a b", "ab\n", "ä", "\u0661", "\ud800", "x" * 65]


@pytest.mark.parametrize("written", NO_IDS)
def test_refuses_an_id_that_would_break_a_key(written: str) -> None:
    with pytest.raises(ValueError, match=r"^id .* is not 1 to 64 letters"):
        made(id=written)
    with pytest.raises(ValueError, match=r"^variant id .* is not 1 to 64 letters"):
        made(variants=[VariantRow(id=written)])


def test_a_variant_has_its_own_price_or_the_products() -> None:
    prices = [Decimal("19.50"), Decimal(0), None]
    variants = [VariantRow(id=number, price=price) for number, price in enumerate(prices)]
    product = made(variants=variants)
    assert product.price_minor == 2200
    assert [variant.price_minor for variant in product.variants] == [1950, 0, 2200]


@pytest.mark.parametrize("price", ["-1", "0.001", "NaN", "10000000.01"])
def test_refuses_a_price_that_is_none(price: str) -> None:
    with pytest.raises(ValueError, match=r"^price "):
        made(price=Decimal(price))
    with pytest.raises(ValueError, match=r"^price "):
        made(variants=[VariantRow(id="s", price=Decimal(price))])


def test_takes_only_prices_in_the_tenants_currency() -> None:
    for currency in ("USD", "", None):
        assert made(currency=currency).price_minor == 2200
    with pytest.raises(ValueError, match=r"^currency 'EUR' is not the tenant's, USD"):
        made(currency="EUR")


def test_a_variant_without_a_name_is_called_by_its_id() -> None:
    product = made(variants=[VariantRow(id=42), VariantRow(id="m", name="Medium")])
    assert [variant.name for variant in product.variants] == ["42", "Medium"]


@pytest.mark.parametrize("ids", [("s", "s"), (1, "1"), ("a" * 24, "A" * 24)])
def test_refuses_two_variants_with_one_id(ids: tuple[str | int, str | int]) -> None:
    with pytest.raises(ValueError, match="two variants have the same id"):
        made(variants=[VariantRow(id=id_) for id_ in ids])


def test_variants_and_images_have_a_limit() -> None:
    variants = [VariantRow(id=number) for number in range(MAX_VARIANTS + 1)]
    images = ["https://cdn.example.com/tee.jpg"] * MAX_IMAGES
    assert len(made(variants=variants[:-1], images=images).variants) == MAX_VARIANTS
    with pytest.raises(ValueError, match=f"more than {MAX_IMAGES} images or {MAX_VARIANTS}"):
        made(variants=variants)
    with pytest.raises(ValueError, match=f"more than {MAX_IMAGES} images"):
        made(images=images, image_url="https://cdn.example.com/front.jpg")


def test_the_main_image_comes_first() -> None:
    assert made(image_url="front", images=["back", "side"]).images == ["front", "back", "side"]
    assert made(image_url="", images=["back"]).images == ["back"]


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "a\nb", "a\x7fb", "\ud800", "x" * 2001])
def test_refuses_text_that_can_not_be_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^name is "):
        made(name=text)
    with pytest.raises(ValueError, match=r"^image is "):
        made(images=[text])


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x" * 2001])
def test_refuses_such_text_as_a_variants_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"^variant name is "):
        made(variants=[VariantRow(id="s", name=name)])


def test_takes_the_longest_text_and_any_script() -> None:
    assert made(name="x" * MAX_TEXT).name == "x" * MAX_TEXT
    assert made(name='Größe "M" 👕').name == 'Größe "M" 👕'


@pytest.mark.parametrize("units", [-1, MAX_QUANTITY + 1])
def test_refuses_stock_that_can_not_be_counted(units: int) -> None:
    with pytest.raises(ValueError, match=rf"^stock {units} is not between"):
        made(stock=units)
    with pytest.raises(ValueError, match=rf"^stock {units} is not between"):
        made(variants=[VariantRow(id="s", stock=units)])


def test_counters_are_the_products_own_and_those_of_variants_with_stock() -> None:
    variants = [VariantRow(id="s", stock=0), VariantRow(id="m"), VariantRow(id="l", stock=3)]
    product = made(variants=variants)
    assert list(product.skus()) == ["tee", "tee/s", "tee/m", "tee/l"]
    assert dict(product.stock_of()) == {"tee/s": 0, "tee/l": 3}
    assert product.counters() == {"tee": 0, "tee/s": 0, "tee/l": 3}
    assert made(stock=5, variants=variants).counters()["tee"] == 5


def test_record_of_a_product_without_variants() -> None:
    [record] = catalog.records(made(image_url="tee.jpg"), ["tee"]).values()
    # The order is what the scripts read it by.
    assert record == (
        '{"price":2200,"active":1,"policy":"","counter":"tee","several":0,"rules":{},'
        '"variants":[],"about":{"name":"Heavy Tee","images":["tee.jpg"]}}'
    )
    assert recorded(made(active=False), "tee")["tee"]["active"] == 0


def test_record_leads_each_variant_to_its_counter() -> None:
    product = made(
        images=["tee.jpg", "back.jpg"],
        variants=[VariantRow(id="s", name="Small", price=Decimal("19.50")), VariantRow(id="m")],
    )
    found = recorded(product, "tee", "tee/s")
    assert list(found) == ["tee", "tee/s", "tee/m"]
    assert {sku: record["counter"] for sku, record in found.items()} == {
        "tee": "tee",
        "tee/s": "tee/s",
        "tee/m": "tee",
    }
    assert [record["price"] for record in found.values()] == [2200, 1950, 2200]
    assert {record["several"] for record in found.values()} == {1}
    assert found["tee"]["variants"] == ["s", "m"]
    assert found["tee/s"]["about"] == {
        "name": "Heavy Tee",
        "variant": "Small",
        "images": ["tee.jpg", "back.jpg"],
    }


def test_record_has_the_rules_of_the_sale() -> None:
    product = made(
        stock_policy="hold",
        hold_ttl_s=120,
        max_per_buyer=2,
        max_per_order=5,
        min_per_order=1,
        sale_starts_at=datetime(2026, 11, 27, 9, tzinfo=UTC),
        sale_ends_at=datetime(2026, 11, 27, 10, tzinfo=UTC),
    )
    record = recorded(product, "tee")["tee"]
    assert record["policy"] == "hold"
    assert record["rules"] == {
        "hold_ms": 120_000,
        "starts": 1_795_770_000_000,
        "ends": 1_795_773_600_000,
        "max_per_order": 5,
        "min_per_order": 1,
        "max_per_buyer": 2,
    }


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"hold_ttl_s": 0}, "hold_ttl_s 0"),
        ({"hold_ttl_s": 604_801}, "hold_ttl_s 604801"),
        ({"max_per_buyer": 0}, "max_per_buyer 0"),
        ({"max_per_order": -1}, "max_per_order -1"),
        ({"min_per_order": 3, "max_per_order": 2}, "min_per_order 3"),
        ({"min_per_order": 3, "max_per_buyer": 2}, "min_per_order 3"),
        (
            {
                "sale_starts_at": datetime(2026, 11, 27, 9, tzinfo=UTC),
                "sale_ends_at": datetime(2026, 11, 27, 9, tzinfo=UTC),
            },
            "sale_ends_at",
        ),
        ({"sale_starts_at": datetime(2300, 1, 1, tzinfo=UTC)}, "2286"),
    ],
)
def test_rules_that_can_not_be(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        made(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"stock_policy": "reserve"},
        {"sale_starts_at": "2026-11-27T09:00:00"},
        {"sale_starts_at": "tomorrow"},
        {"max_per_buyer": "two"},
    ],
)
def test_rules_that_are_not_written_right(fields: dict[str, Any]) -> None:
    row = {"id": "tee", "name": "Heavy Tee", "price": "22.00", **fields}
    with pytest.raises(ValidationError, match=next(iter(fields))):
        catalog.row_of(row)


def test_recorded_names_are_json() -> None:
    name = 'Print "Harbour" \\ {1} ünïcode'
    assert recorded(made(name=name), "tee")["tee"]["about"] == {"name": name}
