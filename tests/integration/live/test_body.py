"""A body without end."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.endless_body import send_endless_body
from tests.integration.live.conftest import Live
from tests.system.scene import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/labels"])
def test_a_gigabyte_in_chunks_is_refused_and_costs_no_memory(live: Live, path: str) -> None:
    send_endless_body(live.api.port, live.api.pid, path=path)  # what a first refusal loads stays
    for _ in range(3):
        found = send_endless_body(live.api.port, live.api.pid, path=path)
        # what the kernels' buffers hold was sent, too, but hardly more than the limit and what is thrown away
        assert found.sent < 64 << 20
        assert found.status in (413, 0)
        assert found.grown < 20 << 20
    assert httpx.get(f"{live.url}/livez", timeout=PATIENCE).status_code == 200
