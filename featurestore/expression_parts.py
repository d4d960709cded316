"""Pieces of compiled expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from domain.batch import Floats
from featurestore.expression_columns import Columns

__all__ = ["Numbers", "Part", "coalesce_texts", "constant", "is_missing"]

Numbers = Callable[[Columns], Floats]
Texts = Callable[[Columns], Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Part:
    """A compiled subexpression: either of numbers or of texts."""

    column: int
    numbers: Numbers | None = None
    texts: Texts | None = None
    name: str | None = None
    """The column of texts that it is."""
    word: str | None = None
    """The text that it always is."""


def constant(value: float, column: int) -> Part:
    """The number everywhere."""
    number = np.float64(value)
    return Part(column, numbers=lambda c: number)  # type: ignore[arg-type,return-value]  # broadcasts


def is_missing(part: Part, column: int) -> Part:
    """1.0 where there is no value, else 0.0."""
    if (name := part.name) is not None:
        return Part(column, lambda c: c.missing(name))
    if part.texts is not None:
        texts = part.texts
        return Part(column, lambda c: np.array([value is None for value in texts(c)], dtype=np.float64))
    numbers = part.numbers
    assert numbers is not None  # noqa: S101
    return Part(column, lambda c: np.isnan(numbers(c)) * 1.0)


def coalesce_texts(parts: Sequence[Texts], column: int) -> Part:
    """The first text that is there."""

    def run(columns: Columns) -> Sequence[str | None]:
        rows = zip(*(part(columns) for part in parts), strict=True)
        return [next((value for value in row if value is not None), None) for row in rows]

    return Part(column, texts=run)
