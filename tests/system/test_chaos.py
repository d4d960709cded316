"""The short form of ``make chaos``: the most telling faults, judged as the long form does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.catalogue import SCENARIOS
from tests.chaos.scenario import Scenario, play
from tests.chaos.services import Services

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

SHORT = [scenario for scenario in SCENARIOS if scenario.telling]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with closing(Services.start(tmp_path_factory.mktemp("chaos"))) as started:
        yield started


@pytest.mark.parametrize("scenario", SHORT, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_doubled_or_wrong(scenario: Scenario, services: Services) -> None:
    result = play(scenario, services, short=True)
    assert result.good, "\n".join([f"{result.name}: {result.findings.faults}", *result.problems])
    assert result.faults > 0
    assert result.findings.inputs == scenario.short_events
