"""Tests of everything with everything: all of it in `make check`, in `make test` a share.

The share is another one at each place, so that everything is tried somewhere.
"""

from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")


def shared(some: int, most: int = 1) -> pytest.MarkDecorator:
    """The test is given `share`: one of so many is tried at a place. `most` is for slow tests."""
    shares = [some, pytest.param(most, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("share", shares, ids=["some", "most"])


def part(of: Sequence[T], place: int, share: int) -> Sequence[T]:
    return of[place % share :: share]
