"""What every detector must keep (detectors/protocol.py), as functions over a way to build one.

A new detector adds itself to ``CASES`` in ``test_detectors.py`` and passes all of them, or is not one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.arrays import pack, unpack
from detectors.protocol import Detector
from domain.batch import Floats

__all__ = ["CHECKS", "COLUMNS", "Build"]

Build = Callable[[int], Detector]
"""Makes a fresh detector over :data:`COLUMNS` with the given seed."""

COLUMNS = ("delta", "alpha", "charlie", "bravo")


def rows(n: int, seed: int = 1, holes: bool = False) -> Floats:
    """Ordinary traffic: correlated, of different scales, partly skewed."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, len(COLUMNS)))
    base[:, 1] = np.exp(base[:, 1] + 0.5 * base[:, 0]) * 100.0
    base[:, 2] = np.floor(np.abs(base[:, 2]) * 3.0)
    if holes:
        base[rng.random(base.shape) < 0.1] = np.nan
        base[rng.random(base.shape) < 0.02] = np.inf
        base[rng.random(base.shape) < 0.02] = -np.inf
    return base


def warmed(build: Build, seed: int = 5, holes: bool = False) -> Detector:
    """A detector that has stepped until it is ready, and some rows on."""
    detector = build(seed)
    detector.step(rows(700, holes=holes))
    assert detector.ready, f"not ready after 700 rows: {detector.abstains_because}"
    return detector


def same(left: Floats, right: Floats) -> bool:
    """Equal to the bit, NaN included."""
    return left.tobytes() == right.tobytes()


def abstains_until_ready(build: Build) -> None:
    """Not ready: NaN and a reason; ready: finite scores and no reason; each exactly where announced."""
    detector = build(5)
    x = rows(900)
    at = 0
    while not detector.ready:
        assert detector.abstains_because
        assert np.isnan(detector.score(x[:3])).all()
        change = detector.next_change()
        assert change is not None
        assert change > 0
        assert np.isnan(detector.step(x[at : at + change])).all()
        at += change
        assert at < 700
    assert detector.abstains_because is None
    assert np.isfinite(detector.step(x[at:])).all()


def scoring_is_pure(build: Build) -> None:
    """``score`` changes nothing and says what the next ``step`` of one row will say."""
    detector = warmed(build)
    before = pack(detector.snapshot())
    x = rows(20, seed=2)
    first = detector.score(x)
    assert same(first, detector.score(x))
    assert pack(detector.snapshot()) == before
    assert same(first[:1], detector.step(x[:1]))


def batch_size_changes_nothing(build: Build) -> None:
    """The same rows one by one, by seven and at once give the same bits."""
    x = rows(800, seed=3, holes=True)
    whole = build(5).step(x)
    assert same(whole, _one_by_one(build(5), x))
    sevens = build(5)
    assert same(whole, np.concatenate([sevens.step(x[i : i + 7]) for i in range(0, 800, 7)]))
    scorer = warmed(build)
    at_once = scorer.score(x)
    assert same(at_once, np.concatenate([scorer.score(x[i : i + 1]) for i in range(800)]))


def snapshot_goes_on_with_the_same_bits(build: Build) -> None:
    """Also when taken during the warm-up, and over bytes."""
    x = rows(900, seed=4, holes=True)
    for cut in (37, 650):
        original = build(5)
        original.step(x[:cut])
        blob = pack(original.snapshot())
        copy = build(5)
        copy.restore(unpack(blob))
        assert copy.version == original.version
        assert copy.next_change() == original.next_change()
        assert same(original.step(x[cut:]), copy.step(x[cut:]))
        assert pack(original.snapshot()) == pack(copy.snapshot())


def snapshot_is_independent(build: Build) -> None:
    """Learning on does not write into a snapshot taken before."""
    detector = warmed(build)
    state = detector.snapshot()
    before = pack(state)
    detector.step(rows(600, seed=6))
    assert pack(state) == before


def memory_is_bounded(build: Build) -> None:
    """A snapshot stops growing once windows and samples are full."""
    detector = build(5)
    detector.step(rows(1500))
    full = len(pack(detector.snapshot()))
    detector.step(rows(1500, seed=7))
    assert len(pack(detector.snapshot())) <= full * 1.1 + 1024


def seed_decides(build: Build) -> None:
    """The same seed gives the same bits."""
    assert same(warmed(build, 5).score(rows(50, seed=8)), warmed(build, 5).score(rows(50, seed=8)))


def odd_values_are_scored(build: Build) -> None:
    """Missing, infinite and huge values give a finite score and harm no later row."""
    detector = warmed(build, holes=True)
    odd = rows(8, seed=9)
    odd[0] = np.nan
    odd[1] = np.inf
    odd[2] = -np.inf
    odd[3, 0] = 1e308
    odd[4, 1] = np.nan
    odd[5, 2] = -0.0
    assert np.isfinite(detector.step(odd)).all(), detector.last_failure
    assert np.isfinite(detector.step(rows(300, seed=10))).all()


def constant_features_are_scored(build: Build) -> None:
    """Rows that are all alike give finite scores."""
    detector = build(5)
    x = np.full((900, len(COLUMNS)), 3.0)
    scores = detector.step(x)[800:]
    assert np.isfinite(scores).all()


def no_rows_are_fine(build: Build) -> None:
    """Empty batches give empty answers."""
    detector = warmed(build)
    nothing = np.empty((0, len(COLUMNS)))
    assert detector.score(nothing).shape == (0,)
    assert detector.step(nothing).shape == (0,)
    detector.fit(nothing)


def fit_makes_ready(build: Build) -> None:
    """A batch of past rows is enough to score."""
    detector = build(5)
    detector.fit(rows(600))
    assert detector.ready
    assert np.isfinite(detector.score(rows(5, seed=2))).all()


def foreign_snapshot_is_refused(build: Build) -> None:
    """Restoring what is not one's own is a ValueError, not a wrong score."""
    from detectors.arrays import Arrays

    detector = build(5)
    try:
        detector.restore(Arrays({}, {}))
    except ValueError:
        return
    raise AssertionError("an empty snapshot was accepted")


def outliers_score_higher(build: Build) -> None:
    """Rows far from all others are more suspicious on average."""
    detector = warmed(build)
    usual = rows(200, seed=11)
    odd = usual.copy()
    odd[:, 0] += 12.0
    odd[:, 1] += 5_000.0
    assert detector.score(odd).mean() > detector.score(usual).mean()


def _one_by_one(detector: Detector, x: Floats) -> Floats:
    return np.concatenate([detector.step(x[i : i + 1]) for i in range(x.shape[0])])


CHECKS = (
    abstains_until_ready,
    scoring_is_pure,
    batch_size_changes_nothing,
    snapshot_goes_on_with_the_same_bits,
    snapshot_is_independent,
    memory_is_bounded,
    seed_decides,
    odd_values_are_scored,
    constant_features_are_scored,
    no_rows_are_fine,
    fit_makes_ready,
    foreign_snapshot_is_refused,
    outliers_score_higher,
)
