"""Every key in Redis: its name, type and writers. No other module, and no script, builds one."""

from typing import NamedTuple

from cartsvc.model import Owner


class KeyKind(NamedTuple):
    """A row of the table that operators read (`cartsvc keys`). No key here has a TTL."""

    pattern: str
    type: str
    writer: str
    holds: str


TABLE = (
    KeyKind(
        "cart:{tenant:bucket}:<kind>:<owner>",
        "hash",
        "cart_add",
        "the owner's active cart: id, status, version, created, updated (ms), lines, last_line; "
        "per line q:<sku> = quantity and l:<sku> = what was fixed at addition, as JSON",
    ),
    KeyKind("carts:{tenant:bucket}", "hash", "cart_add", "cart id -> cart key"),
    KeyKind(
        "product:{tenant:bucket}:<product>",
        "hash",
        "product_put",
        "what an add reads of the catalogue: active, and price, line, stock (the counter's SKU); "
        "the same with :<variant> behind for each variant",
    ),
    KeyKind("stock:{tenant:bucket}", "hash", "product_put, stock_set, stock_add", "SKU -> units"),
    KeyKind(
        "seq:{tenant:bucket}",
        "string",
        "bucket_open, cart_add",
        "the last cart id given; while it is missing, nothing is changed in the bucket",
    ),
    KeyKind(
        "dirty:{tenant:bucket}",
        "zset",
        "cart_add, cart_flushed",
        "cart key -> when its oldest unflushed change was made, ms",
    ),
    KeyKind(
        "prices:{tenant:bucket}",
        "stream",
        "cart_add",
        "price changes of cart lines, until they are in PostgreSQL",
    ),
)


class Bucket:
    """The keys of one (tenant, bucket). The hash tag keeps them in one slot of a cluster."""

    __slots__ = ("carts", "dirty", "number", "prices", "seq", "stock", "tag", "tenant")

    def __init__(self, tenant: str, number: int = 0) -> None:
        self.tenant = tenant
        self.number = number
        self.tag = f"{{{tenant}:{number}}}"
        self.carts = f"carts:{self.tag}"
        self.seq = f"seq:{self.tag}"
        self.stock = f"stock:{self.tag}"
        self.dirty = f"dirty:{self.tag}"
        self.prices = f"prices:{self.tag}"

    def cart(self, owner: Owner) -> str:
        return f"cart:{self.tag}:{owner.kind}:{owner.id}"

    def product(self, product_id: str) -> str:
        return f"product:{self.tag}:{product_id}"

    def owner(self, cart_key: str) -> Owner:
        """The owner whose cart `cart_key` is: the inverse of `cart`."""
        kind, _, owner_id = cart_key.removeprefix(f"cart:{self.tag}:").partition(":")
        return Owner(kind, owner_id)

    def __repr__(self) -> str:
        return f"Bucket({self.tenant!r}, {self.number})"
