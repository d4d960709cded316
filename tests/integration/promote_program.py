"""Promotes a model of its own at every epoch at which nobody was faster; prints how often it won, and how often not."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from domain.clock import SystemClock
from domain.errors import RegistryConflict
from lifecycle.database import Database
from lifecycle.registry_sql import SqlModelRegistry

__all__ = ["fight"]


def fight(url: str, versions: Sequence[str]) -> tuple[int, int]:
    """At epoch n, promote ``versions[n]``; after the last, how often it won, and how often somebody else was first."""
    registry = SqlModelRegistry(Database(url), "payments", SystemClock())
    won = lost = 0
    while (state := registry.state()).epoch < len(versions):
        try:
            version = versions[state.epoch]
            registry.promote(version, epoch=state.epoch, reason="fight", by=versions[0], force=True)
            won += 1
        except RegistryConflict:
            lost += 1
    registry.close()
    return won, lost


if __name__ == "__main__":
    print(*fight(sys.argv[1], sys.argv[2:]))
