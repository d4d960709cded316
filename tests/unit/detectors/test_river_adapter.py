from __future__ import annotations

import collections
import functools
import random
from typing import Any

import numpy as np
import pytest
from river import anomaly

from detectors.river_adapter import MODELS, RiverDetector
from detectors.river_state import UnsupportedError, decode, encode

NAMES = ("a", "b")


def test_scores_are_those_of_the_model_itself() -> None:
    x = np.random.default_rng(1).random((400, 2))
    params: dict[str, Any] = {"n_trees": 4, "height": 4, "window_size": 50}
    ours = RiverDetector(NAMES, seed=9, model="anomaly.HalfSpaceTrees", params=params, warm_up=60).step(x)
    river: Any = anomaly.HalfSpaceTrees(seed=9, **params)
    for i, (a, b) in enumerate(x.tolist()):
        expected = river.score_one({"a": a, "b": b})
        river.learn_one({"a": a, "b": b})
        assert (np.isnan(ours[i]) and i < 60) or ours[i] == expected


def test_invert_turns_the_sign() -> None:
    x = np.random.default_rng(1).random((100, 2))
    plain, turned = (
        RiverDetector(NAMES, seed=9, model="anomaly.OneClassSVM", warm_up=0, invert=invert).step(x)
        for invert in (False, True)
    )
    assert np.array_equal(plain, -turned)
    assert np.unique(plain).size > 10


@pytest.mark.parametrize(
    ("model", "params", "reason"),
    [
        ("anomaly.GaussianScorer", {}, "unknown River model"),
        ("linear_model.LinearRegression", {}, "unknown River model"),
        ("os.system", {}, "unknown River model"),
        ("anomaly.HalfSpaceTrees", {"n_tree": 3}, "n_tree"),
    ],
)
def test_mistakes_are_explained(model: str, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RiverDetector(NAMES, seed=1, model=model, params=params)
    assert all(name.startswith("anomaly.") for name in MODELS)


class Moody:
    """A model of ours that fails on some rows."""

    def learn_one(self, row: dict[str, float]) -> None:
        if row["a"] > 0.9:
            raise KeyError("too much")

    def score_one(self, row: dict[str, float]) -> float:
        if row["a"] < 0.1:
            raise ZeroDivisionError
        return row["a"]


def test_a_row_that_fails_is_left_out_and_the_stream_goes_on() -> None:
    detector = RiverDetector(NAMES, seed=1, model="anomaly.OneClassSVM", warm_up=0)
    detector._river.model = Moody()
    scores = detector.step(np.array([[0.5, 0.0], [0.05, 0.0], [0.95, 0.0], [0.6, 0.0]]))
    assert scores.tolist() == pytest.approx([0.5, np.nan, 0.95, 0.6], nan_ok=True)
    assert detector.last_failure == "KeyError"


def test_state_keeps_values_types_and_shared_references() -> None:
    shared = [1, 2.5]
    counts = collections.Counter({"x": 3})
    limits: Any = collections.defaultdict(functools.partial(tuple, (0.0, 1.0)), {"k": (1.0, 2.0)})
    generator = random.Random(4)
    generator.gauss(0, 1)
    window = collections.deque([shared, shared], maxlen=2)
    back = decode(encode([shared, counts, limits, generator, window, None, True, float("inf"), {1: "one"}]))
    assert back[4][0] is back[4][1] is back[0]
    assert back[1] == counts
    assert type(back[1]) is collections.Counter
    assert back[2] == limits
    assert back[2]["new"] == (0.0, 1.0)
    assert back[3].getstate() == generator.getstate()
    assert back[4].maxlen == 2
    assert back[5:] == [None, True, float("inf"), {1: "one"}]


def test_state_refuses_what_is_not_rivers() -> None:
    with pytest.raises(UnsupportedError, match="Moody"):
        encode([Moody()])
    for nodes in (
        [["object", "subprocess", "Popen", []]],
        [["named", "os", "system"]],
        [["named", "river.anomaly.hst", "random"]],
        [["object", "river.anomaly.hst", "collections", []]],
        [["eval", "1"]],
        [["list", [{"$": 7}]]],
        [],
    ):
        with pytest.raises(ValueError, match=r"[Rr]iver"):
            decode(nodes)
