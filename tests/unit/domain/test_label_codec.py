"""What a joined label says of its verdict, as columns."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from domain.label_codec import JoinedLabel, LabelCodec, Said
from lifecycle.heard_verdict import hear, said_of
from tests.system.events import SMALL
from tidegate.loading import load

LEARNING = Path(__file__).parents[2] / "system" / "learning_pipeline.yaml"


def label(said: Said | None) -> JoinedLabel:
    entities = {"account": "a", "shop": "s"}
    return JoinedLabel(id="e", event_time=1, known_at=2, label=1, entities=entities, said=said)


def test_the_score_of_the_own_detectors_is_a_column_where_another_model_decided() -> None:
    codec = LabelCodec(load(LEARNING))
    plain = Said(features={"amount": 2.0}, ranks={"hst": 0.5}, score=0.25)
    led = Said(features={}, ranks={}, score=0.75, own=0.5)
    silent = Said(features={}, ranks={}, score=0.75, own=None)
    without = codec.to_batch([label(plain), label(None)], [1, 2]).examples
    assert without is not None
    assert without.own is None
    examples = codec.to_batch([label(plain), label(led), label(silent), label(None)], [1, 2, 3, 4]).examples
    assert examples is not None
    assert examples.own is not None
    assert np.array_equal(examples.score, [0.25, 0.75, 0.75, np.nan], equal_nan=True)
    assert np.array_equal(examples.own, [0.25, 0.5, np.nan, np.nan], equal_nan=True)
    assert b'"own"' not in codec.encode(label(plain))
    assert codec.decode(codec.encode(label(led)), received_at=10) == label(led)


def test_whoever_joins_tells_what_decided_and_what_the_own_detectors_said() -> None:
    verdict = {
        "id": "e",
        "event_time": 1,
        "entities": {},
        "flags": [],
        "features": {"amount": 1.0},
        "score": 0.9,
    }
    verdict["detectors"] = {"hst": {"score": 3.0, "rank": 0.5}}
    verdict["source"] = {"topic": "t", "partition": 0, "offset": 1}
    models = {
        "own": {"role": "own", "score": 0.4, "probability": None},
        "m-1": {"role": "champion", "score": 0.9},
    }

    def said(record: dict[str, object]) -> Said:
        return msgspec.json.decode(said_of(hear(msgspec.json.encode(record))) or b"null", type=Said)

    assert said(verdict) == Said(features={"amount": 1.0}, ranks={"hst": 0.5}, score=0.9)
    assert said({**verdict, "models": models}).own == 0.4


def test_pipelines_that_do_not_learn_have_no_examples() -> None:
    assert LabelCodec(load(SMALL)).to_batch([label(None)], [1]).examples is None
