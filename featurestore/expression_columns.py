"""The columns that expressions are evaluated on; what several expressions ask of them is worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from domain.batch import Floats, Ints

__all__ = ["Columns"]


class Columns:
    """``n`` rows by name.

    ``numbers``  float64[n], NaN missing
    ``texts``    n texts, None missing
    ``members``  by list and column: 1.0 where the column's value is in the list, else 0.0 (float64[n])
    """

    __slots__ = ("_coded", "members", "numbers", "rows", "texts")

    def __init__(
        self,
        rows: int,
        numbers: Mapping[str, Floats],
        texts: Mapping[str, Sequence[str | None]],
        members: Mapping[tuple[str, str], Floats] | None = None,
    ) -> None:
        self.rows = rows
        self.numbers = numbers
        self.texts = texts
        self.members = {} if members is None else members
        self._coded: dict[str, tuple[Ints, dict[str, int]]] = {}

    def row(self, row: int) -> Columns:
        """One row by itself."""
        return Columns(
            1,
            {name: column[row : row + 1] for name, column in self.numbers.items()},
            {name: column[row : row + 1] for name, column in self.texts.items()},
            {name: column[row : row + 1] for name, column in self.members.items()},
        )

    def equals(self, name: str, word: str) -> Floats:
        """1.0 where the texts of column ``name`` are ``word``, 0.0 where not, NaN where missing."""
        codes, index = self._codes(name)
        return np.where(codes < 0, np.nan, codes == index.get(word, len(index)))

    def among(self, name: str, words: frozenset[str]) -> Floats:
        """1.0 where the texts of column ``name`` are among ``words``, 0.0 where not, NaN where missing."""
        codes, index = self._codes(name)
        # one more for the code -1
        wanted = np.array([*(word in words for word in index), False], dtype=np.float64)
        return np.where(codes < 0, np.nan, wanted[codes])

    def missing(self, name: str) -> Floats:
        """1.0 where the texts of column ``name`` are missing, else 0.0."""
        return (self._codes(name)[0] < 0).astype(np.float64)

    def _codes(self, name: str) -> tuple[Ints, dict[str, int]]:
        """A number for each different text, -1 for missing."""
        found = self._coded.get(name)
        if found is None:
            index: dict[str, int] = {}
            listed = [-1 if v is None else index.setdefault(v, len(index)) for v in self.texts[name]]
            found = self._coded[name] = (np.array(listed, dtype=np.int64), index)
        return found
