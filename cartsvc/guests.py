"""Guests who are new: an address may begin only so many of their carts a second.

Whoever has a session, or makes one up, gets a cart without proving anything, and each is kept for
long. A customer has a token, and is not counted.
"""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from cartsvc.keys import Bucket
from cartsvc.model import GUESTS, Once, Owner
from cartsvc.scripts import Runner

Client = Sequence[str | int] | None
"""Host and port of whoever sent a request, as ASGI names them; None where that is not known."""

_HOST_BITS = 64
"""The low bits of an IPv6 address, which its owner chooses as he likes."""


class Guests:
    """`carts_per_s` 0: however many."""

    def __init__(self, runner: Runner, carts_per_s: int) -> None:
        self.runner = runner
        self.carts_per_s = carts_per_s

    async def admit(self, bucket: Bucket, owner: Owner, client: Client, once: Once | None) -> None:
        """Count a guest who has no cart yet. What was answered before is not counted again.

        Raises:
            TooManyGuests: as many have begun one from the client's address in this second.
        """
        if client is None or owner.kind not in GUESTS:
            return
        keys = [bucket.cold, bucket.guests(_address(str(client[0]))), bucket.cart(owner)]
        if once is not None:
            keys.append(bucket.once(once)[0])
        await self.runner.run("guest_begin", keys, [bucket.marked(owner), self.carts_per_s])


def _address(host: str) -> str:
    """What is counted together: an IPv4 address, a network of IPv6, and all that is neither."""
    try:
        address = ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        network = IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)
        return str(address.ipv4_mapped or network)
    return str(address)
