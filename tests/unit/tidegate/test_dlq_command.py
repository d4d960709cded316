"""``tidegate dlq``: what it may print, and what it refuses before it asks Kafka anything."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from domain.errors import Reject
from domain.privacy import Protector
from stream.dlq import DeadLetter, Origin, Place
from tidegate import cli
from tidegate.commands.dlq import app, moment
from tidegate.commands.dlq_view import letter_details, letter_table, letters_table, row_of, safe_text

NOW = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
HOUR = 3_600_000_000
PROTECTOR = Protector(b"k" * 32)
CARD = b"4929-0000-1111-2222"
ORIGIN = Origin(
    Reject.EMPTY.value, "id", "[red]is empty[/]", "send \x1b[2Jit", "p.events", Place(0, 3), 10**17, None
)
LETTER = DeadLetter(
    Place(1, 5), NOW, CARD, b'{"card": "%s"}' % CARD, (("card", CARD), ("null", None)), ORIGIN, 2, Place(1, 4)
)


def printed(what: RenderableType) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(what)
    return file.getvalue()


def test_moments_are_written_absolutely_or_backwards() -> None:
    assert moment("2h", NOW) == NOW - 2 * HOUR
    assert moment("1h30m", NOW) == NOW - 3 * HOUR // 2
    for text in ("2026-01-01T00:00Z", "2026-01-01", "2026-01-01T01:00+01:00", "2026-01-01T00:00:00"):
        assert moment(text, 0) == NOW, text
    for text in ("", "yesterday", "2", "2026-13-01"):
        with pytest.raises(ValueError, match="is no time; write"):
            moment(text, NOW)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60), st.integers(1, 40))
def test_nothing_shown_can_steer_a_terminal_and_its_length_is_bounded(data: bytes | str, limit: int) -> None:
    shown = safe_text(data, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + 1


def test_cut_text_says_so() -> None:
    assert safe_text(b"caf\xc3\xa9 \x1b[2J\xff") == r"café \x1b[2J\xff"
    assert safe_text(b"x" * 10, 10) == "x" * 10
    assert safe_text(b"x" * 100, 10) == safe_text("x" * 11, 10) == "x" * 10 + "…"


def test_cards_are_shown_only_to_those_who_ask() -> None:
    card = CARD.decode()
    row = row_of(LETTER, NOW + HOUR, PROTECTOR)
    details = letter_details(LETTER, None, PROTECTOR, payload=False)
    shy = [
        json.dumps(dict(row.values)),
        json.dumps(details),
        printed(letters_table([row], with_redriven=True)),
        printed(letter_table(LETTER, details, payload=False)),
    ]
    for text in shy:
        assert card not in text
        assert PROTECTOR.protect(card)[:16] in text, "the same hash as in verdicts"
        assert "\x1b" not in text
    assert "2026-01-01T01:00:00.000Z" in shy[2]
    assert "[red]is empty[/]" in shy[3]
    assert "2 time(s), the last time from 1:4" in shy[3]

    open_details = letter_details(LETTER, None, PROTECTOR, payload=True)
    assert open_details["key"] == card
    assert printed(letter_table(LETTER, open_details, payload=True)).count(card) == 3  # key, header, payload
    assert row_of(LETTER, None, None).values["key"] == card, "nothing of this pipeline is sensitive"


def test_a_record_of_a_stranger_can_be_shown() -> None:
    strange = DeadLetter(Place(0, 0), NOW, None, None, (), None, 0, None)
    details = letter_details(strange, None, PROTECTOR, payload=True)
    assert details["reason"] == "unknown"
    assert "none (a null value)" in printed(letter_table(strange, details, payload=True))
    assert "unknown" in printed(letters_table([row_of(strange, None, None)], with_redriven=False))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "17"], "PARTITION:OFFSET"),
        (["show", "0:17", "--raw", "--json"], "--raw"),
        (["list", "--reason", "bad_luck"], "bad_luck"),
        (["list", "--since", "soon"], "soon"),
        (["redrive", "0:1", "x"], "PARTITION:OFFSET"),
    ],
)
def test_wrong_usage_is_told_before_kafka_is_asked(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Path(__file__).parents[3] / "examples" / "payments" / "pipeline.yaml"
    monkeypatch.setenv("TIDEGATE_PIPELINE", str(pipeline))
    monkeypatch.setenv("TIDEGATE_PRIVACY_KEY", "k" * 32)
    monkeypatch.setenv("TIDEGATE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_the_commands_are_there_and_say_what_they_show() -> None:
    # only --help of the root: anything else would bind the log to the runner's stream for all tests to come
    assert "dlq" in CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "200"}).output
    for name in ("list", "show", "redrive"):
        told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        assert f"Example: tidegate dlq {name}" in told
    assert "card numbers" in CliRunner().invoke(app, ["show", "--help"], env={"COLUMNS": "200"}).output
