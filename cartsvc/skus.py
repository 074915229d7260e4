"""SKUs as they are named, and what can't be one."""

from cartsvc.errors import UnknownProduct, UnknownSku, UnknownVariant
from cartsvc.model import product_id, sku, split_sku


def stored_ids(product: str, variant: str | None) -> tuple[str, str | None]:
    """Ids in the form in which they are stored.

    Raises:
        UnknownProduct, UnknownVariant: no product, or variant, has such an id.
    """
    stored = product_id(product)
    if stored is None:
        raise UnknownProduct(product)
    if variant is None:
        return stored, None
    variant_id = product_id(variant)
    if variant_id is None:
        raise UnknownVariant(stored, variant)
    return stored, variant_id


def stored_sku(name: str) -> str:
    """A SKU in the form in which it is stored.

    Raises:
        UnknownSku: nothing has such a name.
    """
    try:
        return sku(*stored_ids(*split_sku(name)))
    except (UnknownProduct, UnknownVariant):
        raise UnknownSku(name) from None
