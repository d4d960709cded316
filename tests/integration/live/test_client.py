"""The client against the real service, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from domain.verdict import Flag
from tests.integration.live.conftest import Live
from tests.system.scene import PATIENCE, eventually
from tidegate.client import Client, Label
from tidegate.client_errors import Invalid, NotFound

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def event(ident: str, **more: Any) -> dict[str, Any]:
    return {
        "transaction_id": ident,
        "event_time": "2026-01-01T00:00:00Z",
        "account_id": "4929",
        "merchant_id": "s1",
        "amount": 12.5,
        **more,
    }


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.url, timeout=PATIENCE) as client:
        yield client


def test_an_event_its_verdict_and_the_same_event_again(client: Client) -> None:
    first = client.score(event("client/1"), deadline_ms=30_000).verdict
    assert first is not None
    assert (first.id, first.features["amount"], first.first) == ("client/1", 12.5, None)
    again = client.score(event("client/1"), deadline_ms=30_000).verdict
    assert again is not None
    # as after a lost answer: one event, counted once
    assert Flag.DUPLICATE in again.flags
    assert again.first == first.source
    assert client.wait("client/1", PATIENCE) == first

    hashed = first.entities["account_id"]
    assert hashed != "4929"
    assert first in list(client.verdicts(entity=("account_id", "4929"), page=1))
    assert first in list(client.verdicts(entity_hash=("account_id", hashed)))


def test_a_dry_run_leaves_nothing(client: Client) -> None:
    assert client.dry_run(event("client-dry")).id == "client-dry"
    with pytest.raises(NotFound) as missing:
        client.verdict("client-dry")
    assert missing.value.code == "no-such-verdict"


def test_what_is_wrong_with_an_event_or_a_label_is_said(client: Client) -> None:
    with pytest.raises(Invalid) as wrong:
        client.score(event("client-2", amount=-1))
    assert (wrong.value.field, wrong.value.reason, wrong.value.status) == ("amount", "out_of_range", 422)
    assert wrong.value.remedy
    with pytest.raises(Invalid) as wrong:
        client.label(Label(id="client/1", label=1, source=""))
    assert (wrong.value.field, wrong.value.reason) == ("source", "empty")
    assert (
        client.label(
            Label(id="client/1", label=1, source="analyst"), Label(id="x", label=None, source="a")
        ).accepted
        == 2
    )


def test_watching_sees_what_is_scored_meanwhile(client: Client, live: Live) -> None:
    with Client(live.url, timeout=PATIENCE) as other, client.watch() as verdicts:
        other.score(event("client-watch"), deadline_ms=30_000)
        assert next(v for v in verdicts if v.id == "client-watch").entities["merchant_id"] == "s1"


def test_operation(client: Client, live: Live) -> None:
    eventually("the worker has reported", lambda: bool(client.models().workers), live.logs)
    models = client.models()
    assert (models.pipeline, models.registry, models.versions) == (live.scene.pipeline.name, "ok", [])
    with pytest.raises(NotFound):
        client.promote("no-such-model", reason="a test")
    assert {record.pipeline for record in client.audit(page=2)} <= {live.scene.pipeline.name}
    assert client.drift().banks == []
    assert client.call("GET", "/readyz")["checks"]["kafka"] == "ok"
