"""Messages made of alerts, and what becomes of attempts."""

from __future__ import annotations

import msgspec
import pytest

from alerts.dispatcher import settled
from alerts.intake import BadAlert, incoming
from alerts.schedule import Schedule
from alerts.sender import Outcome
from lifecycle.webhooks import Due
from tests.alerts import NOW, alert

SECOND = 1_000_000
DUE = Due(
    endpoint="we_1",
    number=1,
    message="alert_1",
    url="https://x/T0KEN",
    body="{}",
    attempts=0,
    secrets=(b"s",),
)


def raw(**changes: object) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(alert(), **changes))


def test_a_message_is_the_alert_as_it_stands_in_the_topic() -> None:
    # spaces, order and members that this version does not know stay
    value = raw().replace(b'"score":0.9', b'"new": [1,  2], "score": 9e-1')
    made = incoming(value, "account")
    assert made.body.encode() == b'{"type":"alert","timestamp":"2023-11-14T22:13:20Z","data":' + value + b"}"
    assert msgspec.json.decode(made.body)["data"]["new"] == [1, 2]
    assert made.alert == alert()


def test_an_id_is_an_alerts_own_and_stays_the_same() -> None:
    one = incoming(raw(), "account").id
    assert incoming(raw(), "account").id == one
    assert "." not in one
    assert len(one) <= 80
    source = alert().source
    others = [
        raw(id="e2"),
        raw(scored_at=NOW + 1),
        raw(source=msgspec.structs.replace(source, offset=2)),
        raw(source=msgspec.structs.replace(source, partition=1)),
    ]
    assert len({one, *(incoming(other, "account").id for other in others)}) == 5


def test_order_is_kept_by_key_entity_and_else_by_partition() -> None:
    def lane(key_field: str = "account", **changes: object) -> str:
        return incoming(raw(**changes), key_field).lane

    assert lane() == lane(id="other")
    assert lane() != lane(entities={"account": "b"})
    assert lane("card") == lane("card", entities={})
    assert lane("card") != lane()
    # whatever an entity is called, databases take it
    assert lane(entities={"account": "a\x00" * 10_000}).isalnum()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b"[",
        raw()[:-1],
        raw().replace(b"review", b"perhaps"),
        b"\xff" + raw(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_alert_is_refused(value: bytes) -> None:
    with pytest.raises(BadAlert):
        incoming(value, "account")


def test_bytes_that_are_no_text_are_refused_wherever_they_are() -> None:
    value = raw().replace(b'"score"', b'"unknown":"\xff\xfe","score"')
    with pytest.raises(BadAlert):
        incoming(value, "account")


def became(outcome: Outcome, attempts: int = 0) -> tuple[str | None, int | None, int | None, bool]:
    due = msgspec.structs.replace(DUE, attempts=attempts)
    found = settled(due, outcome, NOW, Schedule(jitter=0.0), 0.0)
    return found.error, found.due_at, found.pause_until, found.gone


def test_what_attempts_mean() -> None:
    assert became(Outcome(200, None, 0.1)) == (None, None, None, False)
    failed = Outcome(500, "status_500", 0.1)
    assert became(failed) == ("status_500", NOW + 5 * SECOND, None, False)
    assert became(failed, attempts=8) == ("status_500", NOW + 86_400 * SECOND, None, False)
    assert became(failed, attempts=9) == ("status_500", None, None, False)
    assert became(Outcome(None, "timeout", 15.0)) == ("timeout", NOW + 5 * SECOND, None, False)
    # of this delivery alone, and of all for the endpoint
    assert became(Outcome(500, "e", 0.1, retry_after=60.0)) == ("e", NOW + 60 * SECOND, None, False)
    slow = Outcome(429, "e", 0.1, retry_after=60.0, slow_down=True)
    assert became(slow) == ("e", NOW + 60 * SECOND, NOW + 60 * SECOND, False)
    assert became(Outcome(410, "status_410", 0.1, gone=True)) == ("status_410", None, None, True)


def test_what_is_secret_is_not_in_representations() -> None:
    assert "T0KEN" not in repr(DUE)
    assert "T0KEN" not in repr(settled(DUE, Outcome(200, None, 0.1), NOW, Schedule(), 0.0))
