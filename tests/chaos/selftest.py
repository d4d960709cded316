"""Whether the suite sees what it is for: each sabotage must make its scenario fail, in the numbers it is about."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos import sabotage
from tests.chaos.catalogue import named
from tests.chaos.scenario import Result, play
from tests.chaos.services import Services

__all__ = ["SABOTAGES", "Sabotage", "Sighting", "try_out"]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """What is broken, the scenarios that must notice (one is enough), and any of the findings that show it."""

    what: str
    function: str
    scenarios: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a sabotage led to. ``signs``: the numbers that gave it away; none, and nobody noticed."""

    sabotage: Sabotage
    scenario: str
    signs: dict[str, int]
    result: Result

    @property
    def noticed(self) -> bool:
        """Whether the suite did what it is for."""
        return bool(self.signs)


SABOTAGES = (
    Sabotage(
        "the fence in Redis is open",
        sabotage.no_fence.__name__,
        ("zombie-after-commit",),
        ("wrong_state", "wrong_features"),
    ),
    Sabotage(
        "recovery rebuilds nothing",
        sabotage.no_rebuild.__name__,
        ("kills-at-points-alone",),
        ("wrong_state", "wrong_features"),
    ),
    Sabotage(
        "no rewind after an abort",
        sabotage.no_rewind.__name__,
        ("stalled-transaction", "rebalance-storm"),
        ("lost",),
    ),
    Sabotage(
        "state flushed before the commit",
        sabotage.flush_before_commit.__name__,
        ("kills-at-points-alone",),
        ("lost", "wrong_state", "wrong_features"),
    ),
    Sabotage(
        "offsets committed outside of the transaction",
        sabotage.commit_outside.__name__,
        ("kills-at-points-alone",),
        ("doubled",),
    ),
)


def try_out(one: Sabotage, services: Services) -> Sighting:
    """Play the sabotaged scenarios until one notices."""
    sighting = None
    for name in one.scenarios:
        result = play(named(name), services, short=True, sabotage=f"{sabotage.__name__}:{one.function}")
        signs = {sign: result.findings.faults[sign] for sign in one.signs if sign in result.findings.faults}
        sighting = Sighting(one, name, signs, result)
        if sighting.noticed:
            break
    assert sighting is not None, "a sabotage names at least one scenario"
    return sighting
