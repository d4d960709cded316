from __future__ import annotations

import numpy as np
import pytest

from detectors.kernels_scaling import squash
from detectors.scaling import RobustScale


def test_squash_is_linear_inside_logarithmic_outside_and_bounded() -> None:
    assert [squash(v, 1.0, 2.0) for v in (1.0, 2.0, 0.0, 3.0)] == [0.0, 0.5, -0.5, 1.0]
    assert [squash(v, 0.0, 1.0) for v in (2.0, 3.0, 4.0, -8.0)] == [2.0, 2.5, 3.0, -4.0]
    assert [squash(v, 0.0, 1.0) for v in (np.nan, np.inf, -np.inf, 1e308)] == [0.0, 16.0, -16.0, 16.0]
    assert squash(1e308, -1e308, 1e-300) == 16.0
    grid = np.linspace(-70_000.0, 70_000.0, 40_001)
    squashed = np.array([squash(v, 0.0, 1.0) for v in grid])
    assert (np.diff(squashed) >= 0.0).all()
    assert np.abs(np.diff(squashed)).max() <= 3.5  # one step of the grid, across the middle


def test_a_fifth_of_odd_rows_hardly_moves_the_scale() -> None:
    x = np.random.default_rng(1).normal(10.0, 2.0, size=(1000, 1))
    clean, poisoned = RobustScale(1, 1, 1000), RobustScale(1, 1, 1000)
    clean.add(x)
    assert clean.center[0] == pytest.approx(10.0, abs=0.2)
    assert clean.scale[0] == pytest.approx(2.0, abs=0.2)
    x[:200] = np.inf
    poisoned.add(x)
    assert poisoned.center[0] == pytest.approx(10.0, abs=1.0)
    assert poisoned.scale[0] < 5.0


def test_scales_of_rare_constant_and_missing_features() -> None:
    x = np.zeros((100, 3))
    x[:10, 0] = 5.0  # rarely other than 0: no interquartile range
    x[:, 1] = 3.0
    x[:, 2] = np.nan
    scale = RobustScale(3, 1, 100)
    scale.add(x)
    assert scale.center.tolist() == [0.0, 3.0, 0.0]
    assert scale.scale.tolist() == [pytest.approx(0.5 * np.sqrt(np.pi / 2)), 1.0, 1.0]


def test_rows_beyond_a_refresh_are_refused() -> None:
    scale = RobustScale(1, 1, 100)
    scale.add(np.zeros((40, 1)))
    assert scale.until_refresh() == 60
    with pytest.raises(ValueError, match="beyond the next refresh"):
        scale.add(np.zeros((61, 1)))
    scale.add(np.zeros((60, 1)))
    assert scale.until_refresh() == 924


def test_an_anchored_scale_moves_only_when_it_is_far_off() -> None:
    rng = np.random.default_rng(2)
    free, anchored = RobustScale(2, 1, 256), RobustScale(2, 1, 256, anchored=True, horizon=1024)
    changes = {"free": 0, "anchored": 0}
    first = None
    for turn in range(24):
        x = rng.normal(2.0 if turn < 12 else 12.0, 1.0, size=(256, 2))
        x[:, 1] = 7.0
        changes["free"] += free.add(x)
        changes["anchored"] += anchored.add(x)
        first = anchored.center.copy() if first is None else first
        if turn < 12:
            assert anchored.center.tolist() == first.tolist()
    assert changes["free"] == 7
    assert changes["anchored"] in (2, 3)
    assert anchored.center[0] > 6.0
