"""Records of the models topic, and what is to run after them."""

from __future__ import annotations

import msgspec
import pytest

from detectors.trained_model import TrainedModel
from domain.errors import ArtefactRefused
from domain.model_records import CURRENT_KEY, ModelRef, ModelsInForce
from domain.pipeline import Pipeline
from stream import models_log
from stream.models_log import ModelsLog, PartsMissing
from tests.line_models import line_model
from tests.published_models import in_force, parts_of, ref_of
from tests.system.events import SMALL
from tidegate.loading import load

SEAL = b"sealed:"


def unseal(blob: bytes) -> bytes:
    if not blob.startswith(SEAL):
        raise ArtefactRefused("forged", "nobody we trust signed it", remedy="find out who did")
    return blob[len(SEAL) :]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(SMALL)


@pytest.fixture(scope="module")
def first(pipeline: Pipeline) -> TrainedModel:
    return line_model(pipeline, "amount")


@pytest.fixture(scope="module")
def second(pipeline: Pipeline) -> TrainedModel:
    return line_model(pipeline, "pieces", high=9.0)


def of(model: TrainedModel, seal: bytes = SEAL) -> tuple[ModelRef, bytes]:
    blob = seal + model.pack()
    return ref_of(model, blob), blob


def give(log: ModelsLog, state: ModelsInForce, *artefacts: tuple[ModelRef, bytes]) -> None:
    for ref, blob in artefacts:
        for key, value in parts_of(ref, blob):
            log.take(key, value)
    log.take(CURRENT_KEY.encode(), msgspec.json.encode(state))


def running(log: ModelsLog) -> tuple[str | None, str | None]:
    models = log.models
    return (
        None if models.champion is None else models.champion.version,
        None if models.challenger is None else models.challenger.version,
    )


def test_models_come_into_force_change_roles_and_go(
    pipeline: Pipeline, first: TrainedModel, second: TrainedModel
) -> None:
    log = ModelsLog(pipeline, unseal)
    assert (log.pending, running(log), log.epoch) == (False, (None, None), 0)
    give(log, in_force(1, of(first)[0], of(second)[0], 0.25), of(first), of(second))
    assert log.pending
    log.apply()
    assert running(log) == (first.version, second.version)
    assert (log.epoch, log.models.epoch, log.models.split) == (1, 1, 0.25)
    # nobody sends the bytes of what runs again
    give(log, in_force(2, of(second)[0]))
    log.apply()
    assert running(log) == (second.version, None)
    give(log, in_force(3))
    log.apply()
    assert running(log) == (None, None)
    assert (log.epoch, log.refused) == (3, {})


def test_what_is_older_or_no_state_at_all_is_passed_over(pipeline: Pipeline, first: TrainedModel) -> None:
    log = ModelsLog(pipeline, unseal)
    give(log, in_force(5, of(first)[0]), of(first))
    log.apply()
    give(log, in_force(4))
    for junk in (None, b"", b"\xff", b"{}", b'{"epoch": "six"}'):
        log.take(CURRENT_KEY.encode(), junk)
    log.take(None, b"x")
    log.take(b"something", b"x")
    assert not log.pending
    assert running(log) == (first.version, None)


def test_a_refused_champion_leaves_the_last_good_one_and_a_refused_challenger_nothing(
    pipeline: Pipeline, first: TrainedModel, second: TrainedModel
) -> None:
    log = ModelsLog(pipeline, unseal)
    give(log, in_force(1, of(first)[0]), of(first))
    log.apply()
    forged = of(second, b"forged:")
    give(log, in_force(2, forged[0]), forged)
    log.apply()
    assert running(log) == (first.version, None)
    assert log.epoch == 2
    assert "nobody we trust" in log.refused[second.version]
    give(log, in_force(3, of(first)[0], forged[0], 0.5), forged, of(first))
    log.apply()
    assert running(log) == (first.version, None)
    assert log.models.split == 0.0
    assert list(log.refused) == [second.version]
    give(log, in_force(4, of(second)[0]), of(second))
    log.apply()
    assert running(log) == (second.version, None)
    assert log.refused == {}


def test_what_is_missing_is_read_again_then_refused_then_taken_when_it_comes(
    pipeline: Pipeline, first: TrainedModel
) -> None:
    log = ModelsLog(pipeline, unseal)
    give(log, in_force(1, of(first)[0]))
    with pytest.raises(PartsMissing):
        log.apply()
    assert log.pending
    assert log.epoch == 0
    log.apply(last=True)
    assert "not in the models topic" in log.refused[first.version]
    give(log, in_force(1, of(first)[0]), of(first))
    assert log.pending
    log.apply()
    assert running(log) == (first.version, None)
    assert log.refused == {}


@pytest.mark.parametrize("which", ["hash", "version", "parts", "torn", "pipeline"])
def test_anything_wrong_with_a_model_is_a_reason(
    pipeline: Pipeline, first: TrainedModel, second: TrainedModel, which: str
) -> None:
    ref, blob = of(first)
    log = ModelsLog(pipeline, unseal)
    if which == "hash":
        give(log, in_force(1, ref), (ref, blob[:-1] + b"!"))
    elif which == "version":
        wrong = msgspec.structs.replace(ref, version="m-other")
        give(log, in_force(1, wrong), (wrong, blob))
    elif which == "parts":
        give(log, in_force(1, msgspec.structs.replace(ref, parts=10_000)), (ref, blob))
    elif which == "torn":
        torn = blob[:-8]
        give(log, in_force(1, ref_of(first, torn)), (ref_of(first, torn), torn))
    else:
        features = (*pipeline.features[:-1],)
        log = ModelsLog(msgspec.structs.replace(pipeline, features=features), unseal)
        give(log, in_force(1, ref), (ref, blob))
    log.apply()
    [why] = log.refused.values()
    expected = {
        "hash": "SHA-256 differs",
        "version": f"it is {first.version}",
        "parts": "10000 parts",
        "torn": "truncated",
        "pipeline": "other features",
    }
    assert expected[which] in why
    assert running(log) == (None, None)


def test_parts_that_nobody_names_do_not_fill_memory_and_those_that_are_named_stay(
    pipeline: Pipeline, first: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_log, "ROOM_BYTES", 100_000)
    log = ModelsLog(pipeline, unseal)
    give(log, in_force(1, of(first)[0]), of(first))
    for number in range(50):
        log.take(f"artefact/{number:064}/0".encode(), bytes(10_000))
    assert sum(map(len, log._parts.values())) <= 100_000
    log.apply()
    assert running(log) == (first.version, None)
