"""The alert budget is held a day while scores drift, whatever the traffic, and however it is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from detectors.arrays import pack, unpack
from detectors.budget import BOUND, AlertBudgets
from detectors.ranks import RankTable
from domain.batch import Floats

DAY = 20_000
DAYS = 5
SHARE = 0.005

DRIFTS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stationary": lambda z, t: z,
    "up": lambda z, t: z + 0.5 * t,
    "down": lambda z, t: z - 0.5 * t,
    "day and night": lambda z, t: z + np.sin(2.0 * np.pi * t),
    "wider": lambda z, t: z * (1.0 + 0.3 * t),
    "narrower": lambda z, t: z / (1.0 + 0.3 * t),
    "few values": lambda z, t: np.floor(2.0 * np.exp(z)),
    "two values": lambda z, t: np.where(z > 2.0, 1.0, 0.0),
}


def ranked(drift: str, seed: int) -> Floats:
    z = np.random.default_rng(seed).normal(size=DAY * DAYS)
    return RankTable().step(DRIFTS[drift](z, np.arange(len(z)) / DAY))


def a_day(alerts: npt.NDArray[np.bool_]) -> Floats:
    """Alerts of each day after the first as a share of the budget."""
    days: Floats = alerts.reshape(DAYS, DAY).sum(axis=1)[1:] / (SHARE * DAY)
    return days


@pytest.mark.parametrize("drift", DRIFTS)
def test_the_budget_is_held_within_a_tenth_each_day(drift: str) -> None:
    scores = ranked(drift, 1)
    days = a_day(AlertBudgets([(1, SHARE)]).step(scores) > 0)
    assert (np.abs(days - 1.0) <= 0.1).all(), days
    if drift in ("up", "down"):  # what the account is for
        assert (np.abs(a_day(scores >= 1.0 - SHARE) - 1.0) > 0.1).all()


def test_no_traffic_raises_more_alerts_than_promised() -> None:
    rng = np.random.default_rng(2)
    hostile = np.concatenate([np.zeros(9_000), np.ones(20_000), rng.random(5_000), np.ones(20_000)])
    alerts = np.cumsum(AlertBudgets([(1, SHARE)]).step(hostile) > 0)
    for n in (1, 100, 5_000, 20_000):
        assert (alerts[n:] - alerts[:-n]).max() <= SHARE * n + 2 * BOUND
    assert alerts[-1] > 0.9 * SHARE * 40_000


def test_what_is_blocked_is_paid_from_both_accounts_and_the_most_suspicious_come_first() -> None:
    scores = ranked("stationary", 3)
    codes = AlertBudgets([(1, 0.01), (2, 0.001)]).step(scores)
    assert (codes >= 1).mean() == pytest.approx(0.01, rel=0.05)
    assert (codes == 2).mean() == pytest.approx(0.001, rel=0.1)
    scored = ~np.isnan(scores)
    assert np.median(scores[codes == 2]) > np.median(scores[codes == 1]) > np.median(scores[scored])
    # the alerts hold most of the rows that a fixed limit would pick with hindsight
    assert (codes[scores >= 0.995] >= 1).mean() > 0.95


def test_rows_without_a_score_neither_earn_nor_spend_and_a_dead_detector_raises_nothing() -> None:
    account = AlertBudgets([(1, SHARE)])
    assert not account.step(np.full(50_000, np.nan)).any()
    assert not account.snapshot().arrays["balances"].any()
    assert not account.step(np.full(50_000, 0.5)).any()


def test_batches_and_snapshots_change_nothing() -> None:
    scores = ranked("up", 4)[: 2 * DAY]
    whole = AlertBudgets([(1, 0.02), (2, 0.004)]).step(scores)
    account = AlertBudgets([(1, 0.02), (2, 0.004)])
    parts = []
    for at in range(0, len(scores), 333):
        asked = account.preview(scores[at : at + 1])
        parts.append(account.step(scores[at : at + 333]))
        assert asked[0] == parts[-1][0]
        copy = AlertBudgets([(1, 0.02), (2, 0.004)])
        copy.restore(unpack(pack(account.snapshot())))
        account = copy
    assert np.array_equal(np.concatenate(parts), whole)
    with pytest.raises(ValueError, match="balances"):
        AlertBudgets([(1, 0.02)]).restore(account.snapshot())
