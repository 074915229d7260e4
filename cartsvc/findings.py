"""What an audit finds, and what a check is."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

AT_ONCE = 100
"""Subjects that are looked at in one slice, some more or fewer."""


class Finding(NamedTuple):
    """Something wrong. `subject` is what its check can look at again, `what` names it.

    `can_be_mended` says that nothing has to be guessed for it.
    """

    kind: str
    subject: Any
    what: str
    detail: str
    can_be_mended: bool = False

    @property
    def name(self) -> tuple[str, Any, str]:
        """The same whenever the same thing is found wrong in the same way."""
        return self.kind, self.subject, self.what


class Check(Protocol):
    """Looks at subjects of a kind, which a summary counts as `noun`, or does not where it is ''."""

    noun: str

    def slices(self) -> AsyncIterator[Sequence[Any]]:
        """All subjects there are, some at a time."""

    async def look(self, subjects: Sequence[Any]) -> list[Finding]:
        """What is wrong with subjects, as it seems: what moves meanwhile may be told wrongly."""


async def pages(
    scan: Callable[..., Any], key: str, count: int = AT_ONCE
) -> AsyncIterator[list[tuple[str, Any]]]:
    """What HSCAN or ZSCAN finds, some at a time: (field, value) or (member, score) each."""
    place, found = await scan(key, 0, count=count)
    while True:
        some = found.items() if isinstance(found, dict) else found
        yield [(text_of(name), value) for name, value in some]
        if not place:
            return
        place, found = await scan(key, place, count=count)


def text_of(name: bytes) -> str:
    """A name in Redis as a text that PostgreSQL takes too; what is none of ours may be another."""
    return name.decode(errors="backslashreplace").replace("\0", "\\0")


def number_of(text: bytes | None) -> int | None:
    """A number in Redis; None where there is none."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
