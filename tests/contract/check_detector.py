"""What every detector must keep (detectors/protocol.py), as functions over a way to build one.

A new detector adds itself to ``CASES`` in ``test_detectors.py`` and passes all of them, or is not one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.arrays import pack, unpack
from detectors.guard import step_taught
from detectors.protocol import Detector, LabelledDetector
from domain.batch import Floats

__all__ = ["CHECKS", "COLUMNS", "LABELLED_CHECKS", "Build"]

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


def labels_of(x: Floats) -> Floats:
    """What a reviewer would say of rows: most of those far out are fraud, and a few others."""
    far = (x[:, 0] > 1.2) | (x[:, 1] > 800.0)
    number = np.arange(len(x))
    return np.asarray((far & (number % 3 > 0)) | (number % 50 == 7), dtype=np.float64)


TICK = 100
"""Rows between two moments at which labels become known."""


def advance(detector: Detector, x: Floats, *, first: int = 0, batch: int = TICK) -> Floats:
    """Step the rows; at each tick (of the row number, the first one is ``first``) their labels become known.

    ``batch`` is how many rows are stepped at once. Detectors without labels are just stepped.
    """
    if not isinstance(detector, LabelledDetector):
        return _cut(detector, x, max(batch, 1))
    out = []
    for at in range(0, len(x), TICK):
        part = x[at : at + TICK]
        out.append(_cut(detector, part, batch))
        known_at = np.arange(first + at, first + at + len(part)) * 1_000_000
        detector.learn_labels(part, labels_of(part), known_at, (first + at + TICK) * 1_000_000)
    return np.concatenate(out)


def warmed(build: Build, seed: int = 5, holes: bool = False) -> Detector:
    """A detector that has stepped until it is ready, and some rows on."""
    detector = build(seed)
    advance(detector, rows(700, holes=holes))
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
    if isinstance(detector, LabelledDetector):
        while not detector.ready:
            assert detector.abstains_because
            assert detector.next_change() is None
            assert np.isnan(advance(detector, x[at : at + TICK], first=at)).all()
            at += TICK
            assert at < 700
        assert at > TICK
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
    whole = advance(build(5), x, batch=800)
    assert np.isfinite(whole[-100:]).all()
    assert same(whole, advance(build(5), x, batch=1))
    assert same(whole, advance(build(5), x, batch=7))
    scorer = warmed(build)
    at_once = scorer.score(x)
    assert same(at_once, np.concatenate([scorer.score(x[i : i + 1]) for i in range(800)]))


def rows_that_may_not_teach_leave_no_trace(build: Build) -> None:
    """They get the score of the state they meet, and the detector is as if they had not come."""
    detector, without = warmed(build), warmed(build)
    x = rows(300, seed=13, holes=True)
    teach = np.random.default_rng(13).random(300) < 0.6
    said = step_taught(detector, x, teach)
    for row in range(300):
        one = x[row : row + 1]
        assert same(said[row : row + 1], without.step(one) if teach[row] else without.score(one)), row
    assert pack(detector.snapshot()) == pack(without.snapshot())


def snapshot_goes_on_with_the_same_bits(build: Build) -> None:
    """Also when taken during the warm-up, and over bytes."""
    x = rows(900, seed=4, holes=True)
    for cut in (37, 650):
        original = build(5)
        advance(original, x[:cut])
        blob = pack(original.snapshot())
        copy = build(5)
        copy.restore(unpack(blob))
        assert copy.version == original.version
        assert copy.next_change() == original.next_change()
        assert same(advance(original, x[cut:], first=cut), advance(copy, x[cut:], first=cut))
        assert pack(original.snapshot()) == pack(copy.snapshot())


def snapshot_is_independent(build: Build) -> None:
    """Learning on does not write into a snapshot taken before."""
    detector = warmed(build)
    state = detector.snapshot()
    before = pack(state)
    advance(detector, rows(600, seed=6), first=700)
    assert pack(state) == before


def memory_is_bounded(build: Build) -> None:
    """A snapshot stops growing once windows and samples are full."""
    detector = build(5)
    advance(detector, rows(1500))
    full = len(pack(detector.snapshot()))
    advance(detector, rows(1500, seed=7), first=1500)
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
    assert np.isfinite(advance(detector, odd, first=700)).all(), detector.last_failure
    assert np.isfinite(advance(detector, rows(300, seed=10), first=708)).all()


def constant_features_are_scored(build: Build) -> None:
    """Rows that are all alike give finite scores."""
    detector = build(5)
    x = np.full((900, len(COLUMNS)), 3.0)
    scores = advance(detector, x)[800:]
    assert np.isfinite(scores).all()


def no_rows_are_fine(build: Build) -> None:
    """Empty batches give empty answers."""
    detector = warmed(build)
    nothing = np.empty((0, len(COLUMNS)))
    assert detector.score(nothing).shape == (0,)
    assert detector.step(nothing).shape == (0,)
    detector.fit(nothing)


def fit_makes_ready(build: Build) -> None:
    """A batch of past rows is enough to score; not without labels, if it needs them."""
    detector = build(5)
    if isinstance(detector, LabelledDetector):
        before = pack(detector.snapshot())
        detector.fit(rows(600))
        assert pack(detector.snapshot()) == before
        return
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


def only_labels_teach(build: Build) -> None:
    """Rows that pass by change nothing, however many; labels do, and unknown ones do not."""
    detector = warmed(build)
    assert isinstance(detector, LabelledDetector)
    before = pack(detector.snapshot())
    x = rows(300, seed=12)
    detector.step(x)
    assert pack(detector.snapshot()) == before
    times = np.full(300, 700_000_000)
    detector.learn_labels(x, np.full(300, np.nan), times, 700_000_000)
    assert pack(detector.snapshot()) == before
    detector.learn_labels(x, labels_of(x), times, 700_000_000)
    assert pack(detector.snapshot()) != before


def one_kind_of_label_is_not_enough(build: Build) -> None:
    """Nothing but honest rows, or nothing but fraud: it goes on waiting, and no rows do no harm."""
    x = rows(700)
    for label in (0.0, 1.0):
        detector = build(5)
        assert isinstance(detector, LabelledDetector)
        detector.learn_labels(x, np.full(700, label), np.zeros(700, dtype=np.int64), 700_000_000)
        detector.learn_labels(x[:0], np.empty(0), np.empty(0, dtype=np.int64), 800_000_000)
        assert not detector.ready
        assert np.isnan(detector.score(x[:3])).all()


def _cut(detector: Detector, x: Floats, size: int) -> Floats:
    return np.concatenate([detector.step(x[i : i + size]) for i in range(0, len(x), size)])


CHECKS = (
    abstains_until_ready,
    scoring_is_pure,
    batch_size_changes_nothing,
    rows_that_may_not_teach_leave_no_trace,
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

LABELLED_CHECKS = (only_labels_teach, one_kind_of_label_is_not_enough)
"""Also for detectors that learn from labels."""
