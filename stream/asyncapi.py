"""The AsyncAPI 3 document of a pipeline's topics, generated from the types that are encoded into them.

Schemas are JSON Schema draft 07 in meaning, which every AsyncAPI tool reads. Specification:
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from domain.codec import json_schema_of_event
from domain.drift_record import DriftAlarm
from domain.label_codec import JoinedLabel
from domain.list_records import ListEntry, ListsHead
from domain.model_records import ModelsInForce
from domain.pipeline import Pipeline
from domain.quality_record import QualityAlarm
from domain.raw_label import json_schema_of_label
from domain.rule_records import RuleSet
from domain.verdict import Alert, Verdict
from lifecycle.audit import AuditHead
from lifecycle.label_claims import LabelState
from stream.dead_letters import (
    HEADER_CUT_FROM,
    HEADER_DETAIL,
    HEADER_FIELD,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_REASON,
    HEADER_REMEDY,
    HEADER_TIMESTAMP,
    HEADER_TOPIC,
    Rejection,
)
from stream.dlq_reader import Redriven
from stream.topics import (
    HEADER_REJECTED,
    HEADER_REPLY_PARTITION,
    HEADER_REQUEST_ID,
    HEADER_TRACEPARENT,
    Topics,
)

__all__ = ["asyncapi_document"]

JSON = "application/json"
BYTES = "application/octet-stream"
_REF = "#/components/schemas/{name}"

_ASKED = {
    HEADER_REQUEST_ID: "whose answer somebody waits for",
    HEADER_REPLY_PARTITION: "the partition of replies to answer in",
    HEADER_TRACEPARENT: "W3C Trace Context, passed through",
}
_LETTER = {
    HEADER_REASON: "stable reason code",
    HEADER_FIELD: "the field at fault, where there is one",
    HEADER_DETAIL: "what is wrong, for people",
    HEADER_REMEDY: "what to do about it",
    HEADER_TOPIC: "where the record was: topic",
    HEADER_PARTITION: "where the record was: partition",
    HEADER_OFFSET: "where the record was: offset",
    HEADER_TIMESTAMP: "when the record came, milliseconds since 1970",
    HEADER_CUT_FROM: "of how many bytes only the beginning is kept",
}


@dataclass(frozen=True, slots=True)
class _Message:
    """One kind of record. ``payload``: a type, a name of a schema made by hand, or None for bytes of any kind.

    ``headers`` by name and meaning, those in ``always`` are in every record. ``tombstone``: a record without a value
    says that the key is gone.
    """

    name: str
    payload: type | str | None
    summary: str
    key: str
    headers: Mapping[str, str] = field(default_factory=dict)
    always: Sequence[str] = ()
    tombstone: bool = False


@dataclass(frozen=True, slots=True)
class _Channel:
    """One topic: attribute of :class:`stream.topics.Topics`, who writes it, and what lies in it.

    ``ours``: what we do with it, of ``send`` and ``receive``. ``private``: only Tidegate itself should read it.
    """

    topic: str
    ours: tuple[str, ...]
    messages: tuple[_Message, ...]
    compacted: bool = False
    private: bool = False


def _letters(name: str, of: str) -> _Message:
    return _Message(
        name, None, f"A record of {of} as it came, byte for byte, with the reason in its headers", "as it was",
        _LETTER, (HEADER_REASON, HEADER_DETAIL, HEADER_REMEDY, HEADER_TOPIC, HEADER_PARTITION, HEADER_OFFSET),
    )  # fmt: skip


_EVENT_KEY = "the event's key entity, as in the event"
_ANSWER = {HEADER_REQUEST_ID: "which request this answers"}

_CHANNELS = (
    _Channel("events", ("receive", "send"), (
        _Message("event", "Event", "What is to be scored", _EVENT_KEY, _ASKED),
    )),
    _Channel("verdicts", ("send",), (
        _Message("verdict", Verdict, "The one verdict on an event, in its partition's number", "as its event's"),
    )),
    _Channel("alerts", ("send",), (
        _Message("alert", Alert, "A verdict that somebody should see", "as its event's"),
    )),
    _Channel("replies", ("send", "receive"), (
        _Message("answer", Verdict, "The verdict on an event that somebody waits for", "none",
                 _ANSWER, (HEADER_REQUEST_ID,)),
        _Message("rejection", Rejection, "Why an event that somebody waits for became a dead letter", "none",
                 {**_ANSWER, HEADER_REJECTED: "the reason code"}, (HEADER_REQUEST_ID, HEADER_REJECTED)),
    ), private=True),
    _Channel("dead_letters", ("send", "receive"), (_letters("deadEvent", "events"),)),
    _Channel("redriven", ("send", "receive"), (
        _Message("redriven", Redriven, "A dead letter was put back into events", "where the letter lies"),
    ), compacted=True, private=True),
    _Channel("labels", ("receive", "send"), (
        _Message("label", "Label", "What somebody says that an event turned out to be", "the event's id"),
    )),
    _Channel("raw_label_dead_letters", ("send",), (_letters("deadLabel", "labels"),)),
    _Channel("label_claims", ("send", "receive"), (
        _Message("labelState", LabelState, "What each source says of one event", "the event's id"),
    ), compacted=True, private=True),
    _Channel("labels_joined", ("send", "receive"), (
        _Message("joinedLabel", JoinedLabel, "A change of one event's label", "the key entity, as in the verdict"),
    )),
    _Channel("label_dead_letters", ("send",), (_letters("deadJoinedLabel", "labels.joined"),)),
    _Channel("drift", ("send", "receive"), (
        _Message("driftAlarm", DriftAlarm, "A column of the verdicts no longer looks as it did", "the alarm's id"),
        _Message("qualityAlarm", QualityAlarm, "The input is not as it was", "the alarm's id"),
    )),
    _Channel("drift_state", ("send", "receive"), (
        _Message("monitors", None, "The monitors' memory; its form changes between versions", "one for each monitor"),
    ), compacted=True, private=True),
    _Channel("models", ("send", "receive"), (
        _Message("modelsInForce", ModelsInForce, "Which trained models decide", "current"),
        _Message("artefactPart", None, "A part of a sealed model", "artefact/SHA-256/number", tombstone=True),
    ), compacted=True),
    _Channel("rules", ("send", "receive"), (
        _Message("rules", RuleSet, "The rules in force", "current"),
    ), compacted=True),
    _Channel("lists", ("send", "receive"), (
        _Message("listEntry", ListEntry, "An entry of a list, a tag or a snooze", "entry/list/field/value",
                 tombstone=True),
        _Message("listsHead", ListsHead, "Up to here the lists are whole, and of this version", "head"),
    ), compacted=True),
    _Channel("audit", ("send",), (
        _Message("auditHead", AuditHead, "Number and hash of the newest audit record", "the pipeline"),
    )),
)  # fmt: skip


def asyncapi_document(pipeline: Pipeline, version: str) -> dict[str, Any]:
    """The document, as JSON values; ``version`` is that of Tidegate."""
    types = {m.payload for c in _CHANNELS for m in c.messages if isinstance(m.payload, type)}
    _, schemas = msgspec.json.schema_components(sorted(types, key=lambda t: t.__name__), ref_template=_REF)
    event = json_schema_of_event(pipeline)
    event.pop("$schema", None)
    schemas |= {"Event": event, "Label": json_schema_of_label(pipeline)}
    topics = Topics(pipeline.name)
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:tidegate:{pipeline.name}",
        "info": {
            "title": f"Tidegate: {pipeline.name}",
            "version": version,
            "description": "Topics of one pipeline. Readers must use read_committed. Times are UTC microseconds.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "channels": {c.topic: _channel(c, topics) for c in _CHANNELS},
        "operations": {f"{does}_{c.topic}": _operation(c, does) for c in _CHANNELS for does in c.ours},
        "components": {
            "messages": {m.name: _message(m) for c in _CHANNELS for m in c.messages},
            "schemas": {name: _draft_07(schema) for name, schema in schemas.items()},
        },
    }


def _channel(channel: _Channel, topics: Topics) -> dict[str, Any]:
    name = getattr(topics, channel.topic)
    about = str(getattr(type(topics), channel.topic).__doc__)
    return {
        "address": name,
        "description": about + (" Private: its form may change in any version." if channel.private else ""),
        "messages": {m.name: {"$ref": f"#/components/messages/{m.name}"} for m in channel.messages},
        "bindings": {
            "kafka": {
                "topic": name,
                "topicConfiguration": {"cleanup.policy": ["compact" if channel.compacted else "delete"]},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(channel: _Channel, action: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel.topic}"},
        "messages": [{"$ref": f"#/channels/{channel.topic}/messages/{m.name}"} for m in channel.messages],
    }


def _message(message: _Message) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": message.name,
        "summary": message.summary + (" (no value: the key is gone)" if message.tombstone else ""),
        "contentType": BYTES if message.payload is None else JSON,
        "bindings": {
            "kafka": {"key": {"type": "string", "description": message.key}, "bindingVersion": "0.5.0"}
        },
    }
    if message.payload is not None:
        name = message.payload if isinstance(message.payload, str) else message.payload.__name__
        out["payload"] = {"$ref": _REF.format(name=name)}
    if message.headers:
        out["headers"] = {
            "type": "object",
            "properties": {
                n: {"type": "string", "description": about} for n, about in message.headers.items()
            },
            "required": list(message.always),
        }
    return out


def _draft_07(schema: Any) -> Any:
    """The same schema in the words of draft 07: a tuple's items are called ``items`` there."""
    if isinstance(schema, list):
        return [_draft_07(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: _draft_07(value) for name, value in schema.items()}
    if isinstance(schema.get("prefixItems"), list):
        rest = out.pop("items", True)
        out["items"] = out.pop("prefixItems")
        out["additionalItems"] = rest
    return out
