from __future__ import annotations

import json

from benchmarks.drift import Plan, measure, summary
from tests.unit.lifecycle.drift.streams import SMALL


def test_the_benchmark_is_the_same_bits_each_time_and_notices_what_is_plain() -> None:
    plan = Plan(
        cadence=SMALL, simulations=20, control_days=1, drift_days=1, river_days=0, scenarios=("recurring",)
    )
    first, again = (measure(3, plan) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    family = summary([first], plan)["monitors"]["family"]
    assert family["delays"]["recurring"]["told"] == 1.0
    # one day of 30, and an alarm a month
    assert 0.015 < family["dummy"]["told"] < 0.06
