"""Work in parts that may be done anywhere: here one after the other, or by whoever is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Run", "in_turn"]

T = TypeVar("T")


class Run(Protocol):
    """Calls ``part`` with each number, in any order or place, and gives what it returned in their order.

    What parts return must not depend on where they run: then neither does what is made of them.
    """

    def __call__(self, part: Callable[[int], T], numbers: Sequence[int], /) -> Iterable[T]:
        """The results; raises what a part raised."""
        ...


def in_turn(part: Callable[[int], T], numbers: Sequence[int], /) -> Iterable[T]:
    """Here, one after the other.

    >>> list(in_turn(lambda n: n * n, range(3)))
    [0, 1, 4]
    """
    return map(part, numbers)
