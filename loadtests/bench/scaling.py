"""What the cost of an answer depends on: carts in Redis, lines in the cart, SKUs, and the question.

All of it is the service's own; samples of what is compared are taken in turn.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from loadtests.bench import contenders, populate, sample, shoppers, wrk
from loadtests.bench.contenders import Contender, Running
from loadtests.bench.places import own_database, own_redis
from loadtests.bench.sample import Effort, Said, Sample
from loadtests.bench.site import HOT, PRODUCTS, SOLD_OUT, Site, stock_up
from loadtests.bench.wrk import Load, Request

LINES = (1, 10, 50)
CARTS = (1_000, 100_000, 1_000_000)

_CARTS_EACH = 1_000
"""Carts of each kind where their number does not matter."""

_UNSEEN = "50-line cart, not seen before"
_UNSEEN_CARTS = 4_000
"""Of more lines than a process remembers, so that each is forgotten when it is asked for again."""

_SENT = 50_000
"""Requests in a file: more than are sent in a sample, and each run gets others."""

_QUICK_CARTS = CARTS[:2]

Take = Callable[[int], Sample]


@dataclass(frozen=True)
class Kind:
    """Carts that are asked the same: their sessions begin with `prefix`."""

    prefix: str
    products: Callable[[int], Sequence[str]]
    carts: int = _CARTS_EACH

    def sessions(self) -> Iterator[str]:
        return (f"{self.prefix}-{shoppers.session(number)}" for number in range(self.carts))

    def filled(self) -> Iterator[tuple[str, Sequence[str]]]:
        return zip(self.sessions(), map(self.products, range(self.carts)), strict=True)


def measured(
    site: Site, contender: Contender, effort: Effort, said: Said, *, quick: bool = False
) -> dict[str, Any]:
    """Figures by what is asked, by lines and by carts."""
    with contenders.running(contender, site) as running:
        asked = _by_question(site, running, effort, said)
    counts = _QUICK_CARTS if quick else CARTS
    return {"questions": asked, "carts": _by_carts(site, contender, counts, effort, said)}


def _by_question(site: Site, running: Running, effort: Effort, said: Said) -> dict[str, Any]:
    """Adds, reads and refusals, by the cart and the SKU that they are about."""
    tenant = running.contender.name
    bytes_each = {}
    kinds = {_cart_of(lines): _of_lines(lines) for lines in LINES}
    kinds[_UNSEEN] = replace(_of_lines(50), prefix="unseen", carts=_UNSEEN_CARTS)
    kinds["one SKU"] = Kind("one", lambda _: PRODUCTS[:1])
    kinds["one held SKU"] = Kind("held", lambda _: [HOT])
    for name, kind in kinds.items():
        before = populate.used_memory(site)
        populate.add(site, tenant, kind.filled())
        bytes_each[name] = (populate.used_memory(site) - before) // kind.carts
    said("filled: " + ", ".join(f"{name} {size} bytes" for name, size in bytes_each.items()))

    loads = {f"add, {name}": _adds(kind) for name, kind in kinds.items() if name != _UNSEEN}
    read = (*map(_cart_of, LINES), _UNSEEN)
    loads |= {f"read, {name}": _reads(kinds[name]) for name in read}
    takes: dict[str, Take] = {
        name: sample.taker(running, site, _file(site, name, requests), effort)
        for name, requests in loads.items()
    }
    sold_out = _file(site, "sold out", _sold_out(kinds[_cart_of(1)]))
    takes["sold out"] = sample.taker(running, site, sold_out, effort, refusals=True)
    samples = sample.interleaved(takes, effort.rounds, said)
    figures = {name: sample.summary(taken) for name, taken in samples.items()}
    for name, size in bytes_each.items():
        figures.get(f"add, {name}", {})["bytes_a_cart"] = size
    return figures


def _by_carts(
    site: Site, contender: Contender, counts: Sequence[int], effort: Effort, said: Said
) -> dict[str, Any]:
    """Adds to carts of one line, among ever more of them, each number in a Redis of its own."""
    with contextlib.ExitStack() as stack:
        bytes_each, takes = {}, {}
        for count in counts:
            alone = asyncio.run(own_database(site, f"carts_{count}"))
            alone = stack.enter_context(own_redis(alone, f"valkey-{count}"))
            asyncio.run(stock_up(alone, contender.name))
            kind = replace(_of_lines(1), carts=count)
            before = populate.used_memory(alone)
            populate.add(alone, contender.name, kind.filled())
            bytes_each[count] = (populate.used_memory(alone) - before) // count
            said(f"filled {count:,} carts: {bytes_each[count]} bytes each")
            running = stack.enter_context(contenders.running(contender, alone))
            takes[f"{count} carts"] = _fresh_taker(alone, running, kind, effort)
        samples = sample.interleaved(takes, effort.rounds, said)
    return {
        str(count): {**sample.summary(samples[f"{count} carts"]), "bytes_a_cart": size}
        for count, size in bytes_each.items()
    }


def _cart_of(lines: int) -> str:
    return f"{lines}-line cart"


def _of_lines(lines: int) -> Kind:
    return Kind(f"lines{lines}", partial(shoppers.products, lines=lines))


def _adds(kind: Kind) -> list[Request]:
    return [
        wrk.add(session, product) for session, products in kind.filled() for product in products
    ]


def _reads(kind: Kind) -> list[Request]:
    return [wrk.read(session) for session in kind.sessions()]


def _sold_out(kind: Kind) -> list[Request]:
    return [wrk.add(session, SOLD_OUT) for session in kind.sessions()]


def _file(site: Site, name: str, requests: list[Request]) -> Load:
    """The requests in an order of chance."""
    random.Random(name).shuffle(requests)
    return wrk.load(site.folder / f"{name}.requests", requests[:_SENT])


def _fresh_taker(site: Site, running: Running, kind: Kind, effort: Effort) -> Take:
    """As `sample.taker`, to carts that are chosen anew each time from all that there are."""

    def take(number: int) -> Sample:
        chosen = random.Random(number).choices(range(kind.carts), k=_SENT)
        sessions = (
            (f"{kind.prefix}-{shoppers.session(one)}", kind.products(one)) for one in chosen
        )
        requests = [wrk.add(session, products[0]) for session, products in sessions]
        load = wrk.load(site.folder / f"{kind.carts}-carts.requests", requests)
        return sample.taker(running, site, load, effort)(0)

    return take
