"""Sealed models in the ``models`` topic, as the registry publishes them."""

from __future__ import annotations

import hashlib

import msgspec
from confluent_kafka import Producer

from detectors.trained_model import TrainedModel
from domain.model_records import CURRENT_KEY, ModelRef, ModelsInForce, part_key
from lifecycle.artefact import seal
from lifecycle.manifest import Lineage, Manifest
from lifecycle.model_keys import ModelKey

__all__ = ["in_force", "publish", "ref_of", "sealed"]


def sealed(model: TrainedModel, key: ModelKey, pipeline: str) -> bytes:
    """``model`` as an artefact signed with ``key``."""
    packed = model.pack()
    lineage = Lineage(
        code="test",
        pipeline_version=1,
        pipeline_digest="d",
        data={},
        start=0,
        stop=1,
        as_of=1,
        rows=1,
        labelled=1,
        positives=1,
        seed=0,
        trigger="person",
    )
    manifest = Manifest(
        version=model.version,
        pipeline=pipeline,
        sha256=hashlib.sha256(packed).hexdigest(),
        features=tuple(model.features),
        detectors=tuple(model.detectors),
        created_at=1,
        created_by="test",
        lineage=lineage,
    )
    return seal(packed, manifest, key)


def ref_of(model: TrainedModel, blob: bytes, parts: int = 2) -> ModelRef:
    """What names the artefact ``blob``."""
    return ModelRef(version=model.version, sha256=hashlib.sha256(blob).hexdigest(), parts=parts)


def in_force(
    epoch: int, champion: ModelRef | None = None, challenger: ModelRef | None = None, split: float = 0.0
) -> ModelsInForce:
    """A state of the registry."""
    return ModelsInForce(
        epoch=epoch,
        champion=champion,
        challenger=challenger,
        split=split,
        changed_at=epoch,
        changed_by="test",
        reason="test",
    )


def parts_of(ref: ModelRef, blob: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of the records that hold ``blob``."""
    size = -(-len(blob) // ref.parts)
    return [(part_key(ref.sha256, n), blob[n * size : (n + 1) * size]) for n in range(ref.parts)]


def publish(bootstrap: str, topic: str, state: ModelsInForce, *artefacts: tuple[ModelRef, bytes]) -> None:
    """Artefacts, then the state, in one transaction."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"test-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for ref, blob in artefacts:
        for key, value in parts_of(ref, blob):
            producer.produce(topic, value, key)
    producer.produce(topic, msgspec.json.encode(state), CURRENT_KEY.encode())
    producer.commit_transaction(30)
