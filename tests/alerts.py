"""Alerts for tests of webhooks."""

from __future__ import annotations

from collections.abc import Sequence

from domain.verdict import Alert, DecisionName, Reason, Source, Versions

__all__ = ["NOW", "alert"]

NOW = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z."""


def alert(
    id_: str = "e1",
    score: float | None = 0.9,
    decision: str = "review",
    codes: Sequence[str] = (),
    *,
    account: str = "a",
    offset: int = 1,
) -> Alert:
    """A small one."""
    return Alert(
        id=id_,
        event_time=NOW,
        scored_at=NOW,
        entities={"account": account},
        score=score,
        decision=DecisionName(decision),
        reasons=[Reason(code, "amount", 1.0, 0.0, 1.0, 0.5, "") for code in codes],
        flags=[],
        versions=Versions("1", 1, "d", {}),
        source=Source("payments.events", 0, offset),
    )
