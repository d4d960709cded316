from __future__ import annotations

import numpy as np
import pytest

from detectors.arrays import Arrays, pack, unpack
from detectors.label_memory import LabelMemory
from domain.batch import Floats


def stream(n: int, share: float, seed: int) -> tuple[Floats, Floats]:
    """Rows (number of the row, label) and their labels."""
    y = (np.random.default_rng(seed).random(n) < share).astype(np.float64)
    return np.column_stack([np.arange(n, dtype=np.float64), y]), y


def test_everything_is_kept_while_there_is_room() -> None:
    x, y = stream(500, 0.1, 1)
    memory = LabelMemory(1000, 2, 3, 250)
    memory.add(x, y)
    rows = memory.rows()
    assert sorted(rows.x[:, 0]) == list(range(500))
    assert np.array_equal(rows.x[:, 1], rows.y)
    assert (rows.weight == 1.0).all()


def test_the_newest_positives_and_negatives_of_their_time_are_kept_and_weighted_honestly() -> None:
    x, y = stream(200_000, 0.01, 2)
    memory = LabelMemory(2000, 2, 3, 500)
    memory.add(x, y)
    rows = memory.rows()
    positive = rows.y == 1.0
    assert sorted(rows.x[positive, 0]) == np.flatnonzero(y == 1.0)[-500:].tolist()
    assert int((~positive).sum()) == 1500
    # The kept positives reach back 500 / 0.01 = 50,000 rows, so negatives stand for 99 positives each.
    span = 200_000 - float(rows.x[positive, 0].min())
    assert rows.weight[~positive].sum() == pytest.approx(span - 500, rel=1e-6)
    assert rows.weight[positive].sum() / rows.weight.sum() == pytest.approx(0.01, rel=0.1)
    # a sample of mean age 50,000, as algorithm R with a horizon gives it
    assert 200_000 - rows.x[~positive, 0].mean() == pytest.approx(span, rel=0.15)


def test_frequent_positives_leave_room_for_negatives() -> None:
    x, y = stream(20_000, 0.9, 3)
    memory = LabelMemory(400, 2, 3, 100)
    memory.add(x, y)
    rows = memory.rows()
    assert (int((rows.y == 1.0).sum()), int((rows.y == 0.0).sum())) == (100, 300)
    assert rows.weight[rows.y == 1.0].sum() / rows.weight.sum() == pytest.approx(0.9, abs=0.05)


def test_batches_and_restarts_change_nothing_and_unknown_labels_are_passed_over() -> None:
    x, y = stream(9000, 0.05, 4)
    y[::7] = np.nan
    whole = LabelMemory(300, 2, 5, 75)
    whole.add(x, y)
    known = ~np.isnan(y)
    parts = LabelMemory(300, 2, 5, 75)
    for at in range(0, 9000, 37):
        part = slice(at, at + 37)
        parts.add(x[part][known[part]], y[part][known[part]])
        copy = LabelMemory(300, 2, 5, 75)
        copy.restore(unpack(pack(parts.snapshot())))
        parts = copy
    assert pack(parts.snapshot()) == pack(whole.snapshot())


def test_a_snapshot_of_another_size_is_refused() -> None:
    x, y = stream(900, 0.5, 5)
    memory = LabelMemory(300, 2, 5, 75)
    memory.add(x, y)
    with pytest.raises(ValueError, match="labelled rows"):
        LabelMemory(200, 2, 5, 75).restore(memory.snapshot())
    with pytest.raises(ValueError, match="labelled rows"):
        memory.restore(Arrays({**memory.snapshot().arrays, "counts": np.array([-1, 3])}))
    with pytest.raises(ValueError, match="cannot keep"):
        LabelMemory(100, 2, 5, 100)
