"""How much of a refused body is read: what is short entirely, so that the sender gets the answer; never all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

pytestmark = pytest.mark.anyio
KIB = b" " * 1024


class Body:
    """So many KiB, and how many of them were taken."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(self.most):
            self.taken += 1
            yield KIB


@pytest.mark.parametrize(("kind", "status"), [("application/json", 413), ("multipart/form-data", 415)])
async def test_a_short_one_is_read_and_an_endless_one_is_not(
    client: httpx.AsyncClient, kind: str, status: int
) -> None:
    short, endless = Body(100), Body(1 << 20)
    for body in (short, endless):
        answer = await client.post("/v1/score", content=body.chunks(), headers={"content-type": kind})
        assert (answer.status_code, answer.headers["connection"]) == (status, "close")
    assert short.taken == 100
    assert endless.taken < 1100
