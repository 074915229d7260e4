"""Every key in Redis: its name, type and writers. No other module, and no script, builds one."""

import secrets
from typing import NamedTuple
from urllib.parse import quote

from cartsvc.model import Once, Owner


class KeyKind(NamedTuple):
    """A row of the table that operators read (`cartsvc keys`). Only the last three have a TTL."""

    pattern: str
    type: str
    writer: str
    holds: str


_CARTS = "scripts cart_*"

TABLE = (
    KeyKind(
        "cart:{tenant:bucket}:<kind>:<owner>",
        "hash",
        f"{_CARTS}, hold_release",
        "the owner's active cart: id, status, version, created, updated (ms), lines, last_line; "
        "per line q:<sku> = quantity (s:<sku> when saved for later), l:<sku> = what was fixed at "
        "addition, as JSON, h:<sku> = deadline (ms) and counter while its units are held, "
        "u:<sku> = its last change (ms), c:<sku> = the counter that it was sold from; "
        "due = its earliest deadline, notices = what its owner was not told yet",
    ),
    KeyKind(
        "closed:{tenant:bucket}:<token>:<kind>:<owner>",
        "hash",
        "cart_close, cart_merge, cart_flushed, cart_mend",
        "a cart that is no longer active, until PostgreSQL has it as a row",
    ),
    KeyKind("carts:{tenant:bucket}", "hash", _CARTS, "cart id -> cart key"),
    KeyKind(
        "catalogue:{tenant:bucket}",
        "hash",
        "product_put",
        "SKU -> what an add reads of it, as JSON: price, active, policy ('' is the tenant's), "
        "counter (the SKU whose stock it draws on), rules of the sale, what a line fixes",
    ),
    KeyKind(
        "stock:{tenant:bucket}",
        "hash",
        f"product_put, stock_*, {_CARTS}, hold_release, counter_mend",
        "counter (a SKU) -> units free",
    ),
    KeyKind(
        "held:{tenant:bucket}",
        "hash",
        f"{_CARTS}, hold_release, counter_mend",
        "counter -> units held by carts",
    ),
    KeyKind(
        "sold:{tenant:bucket}",
        "hash",
        "cart_close, cart_forget, counter_mend",
        "counter -> units sold",
    ),
    KeyKind(
        "received:{tenant:bucket}",
        "hash",
        "product_put, stock_*",
        "counter -> units received: free + held + sold, always",
    ),
    KeyKind(
        "holds:{tenant:bucket}",
        "zset",
        f"{_CARTS}, hold_release",
        "cart key -> its earliest deadline, ms",
    ),
    KeyKind(
        "holds_by_sku:{tenant:bucket}",
        "zset",
        f"{_CARTS}, hold_release",
        "'<counter> <deadline> <sku> <cart key>' of every held line, by name",
    ),
    KeyKind(
        "holders:{tenant:bucket}",
        "zset",
        f"{_CARTS}, hold_release",
        "'<sku> <cart key>' of every line, by name: which carts hold a SKU",
    ),
    KeyKind(
        "buyers:{tenant:bucket}",
        "hash",
        "cart_close",
        "'<product> <start of the sale, ms or 0> <kind>:<owner>' -> units ordered, of products "
        "that limit them per buyer",
    ),
    KeyKind(
        "seq:{tenant:bucket}",
        "string",
        "bucket_open, cart_*",
        "the last cart id given; while it is missing, nothing is changed in the bucket",
    ),
    KeyKind(
        "dirty:{tenant:bucket}",
        "zset",
        f"{_CARTS}, hold_release, cart_flushed, `cartsvc dead-letter replay`",
        "cart key -> when its oldest unflushed change was made, ms",
    ),
    KeyKind(
        "cold:{tenant:bucket}",
        "hash",
        "cart_cool, cart_restore, cart_unmark, cart_mark, cart_mend, cartsvc warm",
        "<kind>:<owner> -> id of the active cart that only PostgreSQL has, and what its owner was "
        "not told yet",
    ),
    KeyKind(
        "prices:{tenant:bucket}",
        "stream",
        f"{_CARTS}",
        "price changes of cart lines, until they are in PostgreSQL",
    ),
    KeyKind(
        "repricing:{tenant:bucket}",
        "hash",
        "product_put, cart_reprice",
        "SKU whose price changed -> the last cart that has the new one; until all have it",
    ),
    KeyKind(
        "flush:{tenant:bucket}",
        "hash",
        "cartsvc worker",
        "what workers did: passes, carts, price_changes, set_aside (written), released (lines), "
        "repriced (carts), busy_us; of the last pass: last (when, ms), last_us, last_carts",
    ),
    KeyKind(
        "watched:{tenant:bucket}",
        "set",
        "stock_watch",
        "counters (SKUs) whose stock is shown by what watches the service; at most 50",
    ),
    KeyKind(
        "sync:{tenant:bucket}",
        "string",
        "the API and the command line, with CARTSVC_DURABILITY=fsync",
        "nothing: written before each wait for the append-only file, of every tenant",
    ),
    KeyKind(
        "paused:{tenant:bucket}",
        "string",
        "sale_pause, sale_resume",
        "there while the sale is paused; as JSON: why (reason), by whom (by), since_ms",
    ),
    KeyKind(
        "warming:{tenant:bucket}",
        "string",
        "cartsvc warm",
        "1 while the bucket is being rebuilt, or after that was broken off",
    ),
    KeyKind(
        "idem:{tenant:bucket}:<kind>:<owner>:<key>",
        "string",
        f"{_CARTS}, outcome_keep",
        "of a request with an idempotency key (%-encoded): its fingerprint, when it was answered "
        "(ms), the cart's key, the script's reply; as Redis sends them",
    ),
    KeyKind(
        "idem_count:{tenant:bucket}:<kind>:<owner>",
        "string",
        f"{_CARTS}, outcome_keep",
        "how many idempotency keys the owner has used while the first of them was kept",
    ),
    KeyKind(
        "guests:{tenant:bucket}:<address>",
        "set",
        "guest_begin",
        "<kind>:<owner> of guests who began a cart from an address (%-encoded) within a second; "
        "only where that is limited",
    ),
)

_SHOWN = 6
"""Characters of an owner's id that others may have: with them the key can be found."""


def shown_id(owner_id: str) -> str:
    """An owner's id for others, who are not to have what its owner alone knows: a session."""
    return owner_id if len(owner_id) <= _SHOWN else f"{owner_id[:_SHOWN]}..."


class Bucket:
    """The keys of one (tenant, bucket). The hash tag keeps them in one slot of a cluster.

    `shared` are those that `lua/lib/bucket.lua` names, in its order.
    """

    def __init__(self, tenant: str, number: int = 0) -> None:
        self.tenant = tenant
        self.number = number
        self.tag = f"{{{tenant}:{number}}}"
        self.seq = f"seq:{self.tag}"
        self.catalogue = f"catalogue:{self.tag}"
        self.stock = f"stock:{self.tag}"
        self.held = f"held:{self.tag}"
        self.sold = f"sold:{self.tag}"
        self.received = f"received:{self.tag}"
        self.holds = f"holds:{self.tag}"
        self.holds_by_sku = f"holds_by_sku:{self.tag}"
        self.holders = f"holders:{self.tag}"
        self.buyers = f"buyers:{self.tag}"
        self.carts = f"carts:{self.tag}"
        self.dirty = f"dirty:{self.tag}"
        self.prices = f"prices:{self.tag}"
        self.cold = f"cold:{self.tag}"
        self.repricing = f"repricing:{self.tag}"
        self.watched = f"watched:{self.tag}"
        self.flush = f"flush:{self.tag}"
        self.sync = f"sync:{self.tag}"
        self.paused = f"paused:{self.tag}"
        self.warming = f"warming:{self.tag}"
        self.shared = (
            self.seq,
            self.catalogue,
            self.stock,
            self.held,
            self.sold,
            self.holds,
            self.holds_by_sku,
            self.holders,
            self.buyers,
            self.carts,
            self.dirty,
            self.prices,
            self.cold,
            self.paused,
        )

    def cart(self, owner: Owner) -> str:
        return f"cart:{self.tag}:{owner.kind}:{owner.id}"

    def closed(self, owner: Owner) -> str:
        """A key, not used before, for a cart that its owner has no longer."""
        return f"closed:{self.tag}:{secrets.token_hex(8)}:{owner.kind}:{owner.id}"

    @staticmethod
    def marked(owner: Owner) -> str:
        """How `cold` names an owner; a script takes it from the cart's key."""
        return f"{owner.kind}:{owner.id}"

    def once(self, once: Once) -> tuple[str, str]:
        """Where a request's outcome is, and how many keys its owner has used."""
        owner = f"{self.tag}:{once.caller.kind}:{once.caller.id}"
        return f"idem:{owner}:{once.name}", f"idem_count:{owner}"

    def guests(self, address: str) -> str:
        """Which guests have begun a cart from an address; an IPv6 one has colons."""
        return f"guests:{self.tag}:{quote(address, safe='')}"

    def owner(self, cart_key: str) -> Owner:
        """The owner whose cart `cart_key` is, or was."""
        family, _, rest = cart_key.partition(f":{self.tag}:")
        if family == "closed":
            _, _, rest = rest.partition(":")
        kind, _, owner_id = rest.partition(":")
        return Owner(kind, owner_id)

    def shown(self, cart_key: str) -> str:
        """A cart's key for a log, which is not to have what its owner alone knows: a session."""
        owner_id = self.owner(cart_key).id
        return f"{cart_key.removesuffix(owner_id)}{shown_id(owner_id)}"

    def __repr__(self) -> str:
        return f"Bucket({self.tenant!r}, {self.number})"
