"""Everything that really is in the topics is as the AsyncAPI document says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from jsonschema import Draft7Validator

from stream.asyncapi import asyncapi_document
from tests.integration.live.conftest import Live
from tests.integration.live.processes import Child, run_joiner
from tests.system.scene import PATIENCE, eventually
from tidegate.client import Client, Label

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def matching(document: dict[str, Any], channel: str, record: Any) -> list[str]:
    """Names of the messages of ``channel`` that ``record`` may be."""
    found = []
    headers = {name: data.decode() for name, data in record.headers() or [] if data is not None}
    for name in document["channels"][channel]["messages"]:
        message = document["components"]["messages"][name]
        parts = [(message.get("headers"), headers)]
        if "payload" in message:
            try:
                parts.append((message["payload"], json.loads(record.value())))
            except ValueError:
                continue
        if all(is_valid(document, schema, value) for schema, value in parts if schema is not None):
            found.append(name)
    return found


def is_valid(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    whole = {**schema, "components": document["components"]}
    if "$ref" in schema:  # beside which draft 07 reads nothing
        whole = {"allOf": [schema], "components": document["components"]}
    return Draft7Validator(whole).is_valid(value)


def test_every_record_is_a_message_of_its_channel(live: Live, tmp_path: Path) -> None:
    document = asyncapi_document(live.scene.pipeline, "0")
    written = {
        "events": {"event"},
        "verdicts": {"verdict"},
        "alerts": {"alert"},
        "replies": {"answer", "rejection"},
        "dead_letters": {"deadEvent"},
        "labels": {"label"},
        "label_claims": {"labelState"},
        "labels_joined": {"joinedLabel"},
    }
    readers = {name: live.scene.reader(getattr(live.topics, name), 1) for name in written}
    joiner = Child(run_joiner, live.environment, tmp_path / "joiner.log")
    try:
        with Client(live.url, timeout=PATIENCE) as client:
            count = iter(range(10_000))

            def odd_ones() -> bool:
                number = next(count)
                client.score(event(f"topics-{number}", amount=float(number % 7)), deadline_ms=30_000)
                return bool(readers["alerts"].messages)

            eventually("an event that somebody should see", odd_ones, live.logs)
            client.label(Label(id="topics-0", label=1, source="analyst"))
        stranger = Producer({"bootstrap.servers": live.scene.bootstrap})
        stranger.produce(live.topics.events, b'{"transaction_id": "topics-bad"}', key=b"4929", headers={
            "tidegate-request-id": b"0" * 32, "tidegate-reply-partition": b"0",
        })  # fmt: skip
        stranger.flush(PATIENCE)
        stranger.close()

        def kinds() -> dict[str, set[str]]:
            return {
                name: {kind for record in list(reader.messages) for kind in matching(document, name, record)}
                for name, reader in readers.items()
            }

        eventually(
            "every kind of record is there", lambda: kinds() == written, lambda: f"{kinds()}\n{live.logs()}"
        )
        for name, reader in readers.items():
            for record in list(reader.messages):
                good = matching(document, name, record)
                # what a test or a fuzzer wrote into events is a dead letter's business
                assert len(good) == 1 or name == "events", (name, good, record.headers(), record.value())
    finally:
        joiner.close()


def event(ident: str, amount: float) -> dict[str, Any]:
    return {
        "transaction_id": ident,
        "event_time": "2026-01-01T00:00:00Z",
        "account_id": "4929",
        "merchant_id": "s1",
        "amount": amount,
    }


def test_a_record_of_another_form_matches_nothing(live: Live) -> None:
    document = asyncapi_document(live.scene.pipeline, "0")

    class Record:
        def __init__(self, value: Any, **headers: bytes) -> None:
            self._value, self._headers = json.dumps(value).encode(), list(headers.items())

        def value(self) -> bytes:
            return self._value

        def headers(self) -> Any:
            return self._headers

    label = {"id": "a", "label": 1, "source": "analyst"}
    assert matching(document, "labels", Record(label)) == ["label"]
    assert matching(document, "labels", Record({**label, "label": 2})) == []
    rejection = {"reason": "wrong_key", "field": None, "detail": "", "remedy": ""}
    assert matching(document, "replies", Record(rejection)) == []  # no header says whose answer it is
