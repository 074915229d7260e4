"""Who buys what: sessions by their number, and their lines, the same in every run."""

from collections.abc import Iterator

from loadtests.bench.site import PRODUCTS

SESSIONS = 10_000
LINES = 3


def session(number: int) -> str:
    """The session's id; twelve digits, as redis-benchmark writes random numbers."""
    return f"{number:012d}"


def products(number: int, lines: int = LINES) -> list[str]:
    """The products in the session's cart, each once."""
    # Steps that share no factor with the number of products: all are bought, none twice by one.
    return [PRODUCTS[(number * 7 + line * 37) % len(PRODUCTS)] for line in range(lines)]


def lines(sessions: int, lines_each: int = LINES) -> Iterator[tuple[str, str]]:
    """(session id, product id) of every line; those of one session are far apart."""
    for line in range(lines_each):
        for number in range(sessions):
            yield session(number), products(number, lines_each)[line]
