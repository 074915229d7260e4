"""SKUs as they are named, and as they are stored."""

import pytest

from cartsvc.errors import CartError, UnknownProduct, UnknownSku, UnknownVariant
from cartsvc.skus import stored_ids, stored_sku

OBJECT_ID = "507f1f77bcf86cd799439011"


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("Tee", "Tee"),
        ("tee/S", "tee/S"),
        (OBJECT_ID.upper(), OBJECT_ID),
        (f"{OBJECT_ID.upper()}/{OBJECT_ID.upper()}", f"{OBJECT_ID}/{OBJECT_ID}"),
    ],
)
def test_only_object_ids_have_two_spellings(name: str, stored: str) -> None:
    assert stored_sku(name) == stored


@pytest.mark.parametrize(
    "name", ["", "/", "tee/", "/s", "tee/s/m", "a b", "\0", "\ud800", "a" * 65]
)
def test_what_is_no_sku(name: str) -> None:
    with pytest.raises(UnknownSku) as found:
        stored_sku(name)
    assert found.value.sku == name


@pytest.mark.parametrize(
    ("product", "variant", "error"),
    [
        ("a b", None, UnknownProduct("a b")),
        ("a b", "a b", UnknownProduct("a b")),
        (OBJECT_ID.upper(), "a b", UnknownVariant(OBJECT_ID, "a b")),
        ("tee", "", UnknownVariant("tee", "")),
        ("tee/s", None, UnknownProduct("tee/s")),
    ],
)
def test_which_id_is_none(product: str, variant: str | None, error: CartError) -> None:
    with pytest.raises(type(error)) as found:
        stored_ids(product, variant)
    assert str(found.value) == str(error)
