"""All scenarios, in the order in which they are played."""

from __future__ import annotations

from tests.chaos import scenarios_kafka, scenarios_redis, scenarios_workers
from tests.chaos.scenario import Scenario

__all__ = ["SCENARIOS", "named"]

SCENARIOS: tuple[Scenario, ...] = (
    *scenarios_workers.SCENARIOS,
    *scenarios_kafka.SCENARIOS,
    *scenarios_redis.SCENARIOS,
)


def named(name: str) -> Scenario:
    """The scenario called ``name``; KeyError when there is none."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]
