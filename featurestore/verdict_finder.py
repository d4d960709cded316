"""The port to verdicts by event id, wherever they are kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

__all__ = ["VerdictFinder"]


class VerdictFinder(Protocol):
    """Verdicts by event id."""

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """JSON of the verdict on each of ``ids`` that is kept here: of several the first not flagged as duplicate.

        Raises Retriable when the store does not answer: then nothing is known of any of them.
        """
        ...
