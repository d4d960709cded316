"""From the registry to the workers: what is in force, and the sealed models themselves, into the topic ``models``.

One transaction holds the parts of new artefacts, tombstones for those no longer in force, and last the state that
names them. Whoever publishes first takes the transactional id (which ends what a predecessor left open and locks it
out), then reads registry and topic: so of any number of publishers, killed or not, the last one to take the id has
seen all that the others wrote, and the epoch never goes back. Publishing again what is there writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer

from domain.errors import ArtefactRefused, Fatal, Retriable
from domain.model_records import CURRENT_KEY, PART_BYTES, ModelRef, ModelsInForce, part_key
from lifecycle.artefact import Refusal
from lifecycle.registry import ModelRegistry, RegistryState
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.outbox import Fenced, Outbox, Outgoing, Record
from stream.topics import Topics, partitions_of

__all__ = ["Published", "publish", "read_in_force"]

log = structlog.get_logger(__name__)

ATTEMPTS = 5
"""Publishers that lock each other out: each has seen what the other wrote, so a few rounds are enough."""
_PARTITION = 0
"""The only one, except on the embedded mock broker, which makes four of every topic."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the topic says now, and whether this call wrote it (False: it was there)."""

    epoch: int
    written: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies in the topic: the state, and the keys of the parts."""

    current: ModelsInForce | None
    parts: frozenset[bytes]

    @property
    def epoch(self) -> int:
        """Of the state; 0 without."""
        return 0 if self.current is None else self.current.epoch


def publish(
    kafka: KafkaConnection,
    pipeline: str,
    registry: ModelRegistry,
    *,
    at: Callable[[str], None] = lambda point: None,
) -> Published:
    """Let the workers of ``pipeline`` know what ``registry`` says is in force.

    ``at`` is called with the name of each step (fault tests stop the process there).
    Raises ServiceMissing without the topic, Retriable when Kafka or the registry are away, ArtefactRefused when a
    model in the database is not what was registered, Fatal when the topic is ahead of the registry.
    """
    state = registry.state()
    # who only looks needs no transactions, and locks nobody out; what is not seen yet is found below
    found = _read(kafka, pipeline, isolation="read_committed")
    if (found.epoch, _records(registry, state, found, Topics(pipeline).models)) == (state.epoch, []):
        return Published(state.epoch, False)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _publish(kafka, pipeline, registry, at)
        except Fenced:
            log.info("another publisher of models was faster; looking again", attempt=attempt)
    raise Retriable(
        f"other publishers locked this one out of {Topics(pipeline).models} {ATTEMPTS} times",
        remedy="run it again; if that goes on, look who publishes models of this pipeline all the time",
    )


def read_in_force(kafka: KafkaConnection, pipeline: str) -> ModelsInForce | None:
    """What the topic says is in force; None: nothing was ever published. Raises as :func:`publish`."""
    return _read(kafka, pipeline).current


def _publish(
    kafka: KafkaConnection, pipeline: str, registry: ModelRegistry, at: Callable[[str], None]
) -> Published:
    topic = Topics(pipeline).models
    # not tidegate-<pipeline>-<...>: those are the workers', and a worker may have any name
    name = f"tidegate-{pipeline}.models"
    outbox = Outbox(kafka.transactional_producer(name, name), topic, at)
    # only names a group to the transaction, in which no offsets are committed; it never reads
    member = Consumer(kafka.reader(name, name))
    try:
        state = registry.state()
        found = _read(kafka, pipeline)
        at("read")
        if found.epoch > state.epoch:
            raise Fatal(
                f"{topic} is at epoch {found.epoch}, the registry at {state.epoch}: it is another database, or an "
                "older copy of it",
                remedy="point TIDEGATE_DATABASE_URL to the one that was in use; if it is lost, stop the workers, "
                "delete and create the topic, and publish again",
            )
        records = _records(registry, state, found, topic)
        if records:
            outbox.send(Outgoing(others=records), [], member.consumer_group_metadata())
            log.info(
                "models published",
                pipeline=pipeline,
                epoch=state.epoch,
                champion=state.champion,
                challenger=state.challenger,
            )
        return Published(state.epoch, bool(records))
    finally:
        member.close()
        outbox.close()


def _records(registry: ModelRegistry, state: RegistryState, found: _Found, topic: str) -> list[Record]:
    """What is to be written: parts, tombstones, and last the state; nothing when all is there."""
    if state.epoch == 0:
        return []
    refs: dict[str, ModelRef] = {}
    records: list[Record] = []
    wanted: set[bytes] = set()
    for version in (state.champion, state.challenger):
        if version is None:
            continue
        model = registry.model(version)
        ref = ModelRef(version=version, sha256=model.sha256, parts=max(1, -(-model.size // PART_BYTES)))
        refs[version] = ref
        keys = [part_key(ref.sha256, number) for number in range(ref.parts)]
        wanted.update(keys)
        if not found.parts.issuperset(keys):
            sealed = _artefact(registry, ref)
            for number, key in enumerate(keys):
                part = sealed[number * PART_BYTES : (number + 1) * PART_BYTES]
                records.append((topic, _PARTITION, key, part, []))
    current = ModelsInForce(
        epoch=state.epoch,
        champion=None if state.champion is None else refs[state.champion],
        challenger=None if state.challenger is None else refs[state.challenger],
        split=state.split,
        changed_at=state.changed_at,
        changed_by=state.changed_by,
        reason=state.reason,
    )
    if not records and found.current == current:
        return []
    records += [(topic, _PARTITION, key, None, []) for key in sorted(found.parts - wanted)]
    records.append((topic, _PARTITION, CURRENT_KEY.encode(), msgspec.json.encode(current), []))
    return records


def _artefact(registry: ModelRegistry, ref: ModelRef) -> bytes:
    sealed = registry.artefact(ref.version)
    if hashlib.sha256(sealed).hexdigest() != ref.sha256:
        raise ArtefactRefused(
            Refusal.DAMAGED,
            f"the registry's bytes of model {ref.version} are not those that were registered",
            remedy="find out who changed the database; roll back, or train anew. The workers keep what they run",
        )
    return sealed


def _read(kafka: KafkaConnection, pipeline: str, *, isolation: str = "read_uncommitted") -> _Found:
    """What is committed up to the end of the log, or, with read_committed, up to what readers are let see now."""
    topic = Topics(pipeline).models
    group = f"tidegate-{pipeline}.models"
    current: ModelsInForce | None = None
    parts: set[bytes] = set()
    state_key = CURRENT_KEY.encode()
    with _consumer(kafka, group, isolation) as probe, _consumer(kafka, group) as consumer:
        partitions_of(probe, topic)  # says what to do when the topic is absent
        for message in committed_records(consumer, topic, {_PARTITION: ends(probe, topic, _PARTITION)}):
            key, value = message.key(), message.value()
            if key == state_key:
                try:
                    current = msgspec.json.decode(value or b"", type=ModelsInForce)
                except (msgspec.DecodeError, RecursionError) as error:
                    raise Fatal(
                        f"{topic} {message.partition()}:{message.offset()} does not say which models are in force: "
                        f"{error}",
                        remedy="let nobody but Tidegate write there; delete and create the topic, and publish again",
                    ) from error
            elif value is None:
                parts.discard(key)
            else:
                parts.add(key)
    return _Found(current, frozenset(parts))


@contextmanager
def _consumer(kafka: KafkaConnection, group: str, isolation: str = "read_committed") -> Iterator[Any]:
    consumer = Consumer({**reader_conf(kafka, group, group), "isolation.level": isolation})
    try:
        yield consumer
    finally:
        consumer.close()
