"""Every route of the OpenAPI document, with what its schemas allow and what they forbid, against the real service."""

from __future__ import annotations

import os

import pytest

from tests.integration.live.conftest import Live
from tests.integration.live.contract import ask_everything
from tests.system.scene import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

COVERING = int(os.environ.get("TIDEGATE_CONTRACT_CASES", "16"))
"""Of each operation; 500 are all there are, and take minutes."""


def test_every_answer_is_documented_and_none_is_a_servers_fault(live: Live) -> None:
    asked = ask_everything(live.url, covering=COVERING, fuzzing=max(2, COVERING // 8), patience=PATIENCE)
    assert not asked.wrong, "\n\n".join([*asked.wrong, live.logs()])
    assert live.api.unhandled() == []
    # each operation was really asked, and scoring really scored
    assert min(sum(tally.values()) for tally in asked.statuses.values()) >= 5
    assert asked.statuses["POST /v1/score"].keys() >= {200, 422}
