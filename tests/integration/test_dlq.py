"""``tidegate dlq`` on a real Kafka: nothing of an event changes on its way back, and none goes twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from typer.testing import CliRunner, Result

from domain.clock import ManualClock, from_micros
from domain.errors import EventRejected, Fatal, Reject
from domain.privacy import Protector
from stream.dead_letters import dead_letter
from stream.dlq import HEADER_REDRIVEN, HEADER_REDRIVES, Place, Selection
from stream.dlq_reader import DeadLetterReader
from stream.dlq_redrive import Redriver
from stream.kafka import KafkaConnection
from stream.log_reading import ends
from stream.outbox import Headers
from stream.topics import MAX_MESSAGE_BYTES, Topics
from tests.system.events import SMALL, event, events
from tests.system.scene import PRIVACY_KEY, Reader, Scene, eventually
from tidegate.commands.dlq import app

pytestmark = [pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
START = 1_700_000_000_000
"""When the first dead letter is written, milliseconds; then one each second."""
PARTITIONS = 2
ODD: Headers = [("twice", b"1"), ("twice", b"\xff\x00"), ("null", None), ("tidegate-reason", b"a stranger's")]


@dataclass(frozen=True)
class Event:
    """A record of the events topic as the worker gets it."""

    number: int
    the_key: bytes | None
    the_value: bytes | None
    the_headers: Headers
    of_topic: str

    def key(self) -> bytes | None:
        return self.the_key

    def value(self) -> bytes | None:
        return self.the_value

    def headers(self) -> Headers | None:
        return self.the_headers or None

    def topic(self) -> str:
        return self.of_topic

    def partition(self) -> int:
        return self.number % PARTITIONS

    def offset(self) -> int:
        return self.number

    def timestamp(self) -> tuple[int, int]:
        return 1, START + self.number


class Letters:
    """Dead letters as a worker writes them, some of them in a transaction that came to nothing."""

    def __init__(self, bootstrap: str, pipeline: str) -> None:
        self.topics = Topics(pipeline)
        self._bootstrap = bootstrap
        kafka = KafkaConnection(bootstrap)
        self._producer = Producer(kafka.transactional_producer("test-letters", f"{pipeline}-letters"))
        self._producer.init_transactions(120)
        self._next = 0

    def event(self, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> Event:
        self._next += 1
        return Event(self._next - 1, key, value, headers or [], self.topics.events)

    def write(self, letters: list[tuple[Event, Reject]], *, abort: bool = False) -> None:
        self._producer.begin_transaction()
        for one, reason in letters:
            key, value, headers = dead_letter(one, EventRejected(reason, None, "detail", remedy="remedy"))
            self._producer.produce(
                self.topics.dead_letters,
                value,
                key,
                partition=one.partition(),
                timestamp=START + 1000 * one.number,
                headers=headers,
            )
        if abort:
            self._producer.flush(120)
            self._producer.abort_transaction(120)
        else:
            self._producer.commit_transaction(120)
        # an acknowledged outcome becomes visible a moment later; what is listed is what is visible
        eventually(
            "the outcome is visible", lambda: self._ends("read_committed") == self._ends("read_uncommitted")
        )

    def _ends(self, isolation: str) -> list[int]:
        conf = KafkaConnection(self._bootstrap).reader("test-ends", "test-ends")
        consumer = Consumer({**conf, "isolation.level": isolation})
        try:
            return [ends(consumer, self.topics.dead_letters, partition)[1] for partition in range(PARTITIONS)]
        finally:
            consumer.close()

    def many(self, count: int) -> list[Event]:
        """So many letters of the reasons ``empty`` and ``in_future`` in turn."""
        made = [self.event(b"k%d" % n, b"value %d" % n, [("n", b"%d" % n)]) for n in range(count)]
        self.write([(e, (Reject.EMPTY, Reject.IN_FUTURE)[e.number // 2 % 2]) for e in made])
        return made


@pytest.fixture
def scene(kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with Scene.open(kafka, "redis://127.0.0.1:1/0", SMALL, topic_prefix, tmp_path, PARTITIONS) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def letters(scene: Scene) -> Letters:
    return Letters(scene.bootstrap, scene.pipeline.name)


def dlq(*arguments: str, code: int = 0, **other: Any) -> Result:
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"}, **other)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def dlq_json(*arguments: str, code: int = 0) -> Any:
    return json.loads(dlq(*arguments, "--json", code=code).stdout)


def places(listed: Any) -> list[str]:
    return [letter["place"] for letter in listed["letters"]]


def came_back(messages: list[Any]) -> list[str]:
    """The places of the letters that the events were."""
    return [dict(message.headers())[HEADER_REDRIVEN].decode() for message in messages]


def as_sent(message: Any) -> tuple[Any, ...]:
    return message.partition(), message.key(), message.value(), (message.headers() or [])[:-2]


def test_an_event_goes_back_as_it_was(scene: Scene, letters: Letters) -> None:
    big = b"x" * (MAX_MESSAGE_BYTES - 2_000)
    sent = [
        letters.event(b"k", b"v", ODD),
        letters.event(None, None),
        letters.event(b"", b"", [("empty", b"")]),
        letters.event(b"\xff", bytes(range(256)), [("traceparent", b"00-1-2-01")]),
        letters.event(b"big", big),
        letters.event(b"cut", b"x" * (MAX_MESSAGE_BYTES + 1)),
    ]
    ghost = letters.event(b"ghost", b"never committed")
    letters.write([(ghost, Reject.EMPTY)], abort=True)
    letters.write([(one, Reject.TOO_LARGE) for one in sent])

    told = dlq("redrive", "--yes").stdout
    assert "5 dead letter(s) redriven: 5 too_large" in told
    assert "1 not: too large to have been kept whole: 1:2" in told
    reader = scene.reader(scene.topics.events)
    scene.await_count(reader, 5)
    expected = [(e.partition(), e.key(), e.value(), e.the_headers) for e in sent[:5]]
    assert sorted(map(as_sent, reader.messages), key=repr) == sorted(expected, key=repr)
    assert {dict(m.headers())[HEADER_REDRIVES] for m in reader.messages} == {b"1"}

    assert dlq("show", "1:2", "--raw").stdout_bytes == b"x" * (MAX_MESSAGE_BYTES - len(b"cut"))
    assert len({*came_back(reader.messages)}) == 5
    assert dlq("redrive", "1:2", "--yes", code=1).stdout.startswith("0 dead letter(s) redriven")


def test_list_and_show_filter_by_reason_time_and_partition(scene: Scene, letters: Letters) -> None:
    letters.many(12)  # numbers 0 to 11: by twos empty and in_future, one a second
    everything = dlq_json("list")
    assert everything["total"] == 12
    assert everything["reasons"] == {"empty": 6, "in_future": 6}
    assert places(everything)[:3] == ["1:5", "0:5", "1:4"], "the newest first"
    # the key is hashed as in verdicts: its field is sensitive
    assert everything["letters"][0]["key_hash"] == Protector(PRIVACY_KEY.encode()).protect("k11")

    fifth, ninth = (from_micros((START + 1000 * n) * 1000).isoformat() for n in (5, 9))
    assert places(dlq_json("list", "--since", fifth, "--until", ninth)) == ["0:4", "1:3", "0:3", "1:2"]
    assert places(dlq_json("list", "--since", fifth, "--reason", "empty", "--partition", "1")) == [
        "1:4",
        "1:2",
    ]
    assert dlq_json("list", "--since", "2h")["total"] == 0
    assert dlq_json("list", "--until", "2h")["total"] == 12
    table = dlq("list", "--limit", "2", "--reason", "in_future").stdout
    assert "4 more, older" in table
    assert f"6 dead letter(s) in {scene.topics.dead_letters}: 6 in_future" in table
    assert "1:5" in table
    assert "value" not in table

    shown = dlq("show", "1:5").stdout
    assert "value 11" not in shown
    assert "k11" not in shown
    assert "in_future" in shown
    assert "detail" in shown
    assert f"{scene.topics.events} 1:11" in shown
    asked = dlq("show", "1:5", "--payload").stdout
    assert "value 11" in asked
    assert "k11" in asked
    for place in ("0:99", "7:0"):
        assert isinstance(CliRunner().invoke(app, ["show", place]).exception, Fatal)


def test_redrive_takes_what_is_asked_for_and_never_again(scene: Scene, letters: Letters) -> None:
    made = letters.many(12)
    reader = scene.reader(scene.topics.events)
    dry = dlq_json("redrive", "--reason", "empty", "--dry-run")
    assert (dry["redriven"], dry["reasons"], dry["dry_run"]) == (6, {"empty": 6}, True)
    assert "nothing was redriven" in dlq("redrive", "--reason", "empty", code=1).stderr
    assert "nothing was redriven" in dlq("redrive", "--reason", "empty", code=1, input="n\n").stderr
    assert dlq_json("list", "--all")["letters"][0]["redriven_at"] is None

    assert "6 dead letter(s) redriven: 6 empty" in dlq("redrive", "--reason", "empty", input="y\n").stdout
    again = dlq_json("redrive", "--reason", "empty", "--yes")
    assert (again["redriven"], again["not_redriven"]) == (0, {"already_redriven": 6})
    named = dlq_json("redrive", "0:1", "0:0", "0:77", "--yes", code=1)
    assert (named["redriven"], named["not_found"]) == (1, ["0:77"])
    assert dlq_json("redrive", "0:1", "0:0", "--yes")["redriven"] == 0

    left = dlq_json("list")
    assert (left["total"], left["redriven_not_shown"]) == (5, 7)
    every = dlq_json("list", "--all")
    assert sum(letter["redriven_at"] is not None for letter in every["letters"]) == 7
    assert "2" in dlq("show", "0:0").stdout.split("redriven")[1].splitlines()[0], "when it went"

    scene.await_count(reader, 7)
    dlq("redrive", "--yes")
    scene.await_count(reader, 12)
    assert sorted(map(as_sent, reader.messages)) == sorted(
        (e.partition(), e.key(), e.value(), e.the_headers) for e in made
    )
    for partition in range(PARTITIONS):  # those of one run keep their order
        went = [m.value() for m in reader.messages if m.partition() == partition][-2:]
        assert went == sorted(went, key=lambda value: int(value.split()[1]))


@pytest.mark.parametrize(
    ("step", "visit", "gone"),
    [("before_produce", 1, 0), ("after_produce", 2, 4), ("after_send_offsets", 3, 8), ("after_commit", 2, 8)],
)
def test_killed_in_the_middle_each_goes_once(
    scene: Scene, letters: Letters, step: str, visit: int, gone: int
) -> None:
    letters.many(15)
    reader = scene.reader(scene.topics.events)
    program = [sys.executable, "-m", "tests.integration.redrive_program"]
    killed = subprocess.run(
        [*program, scene.bootstrap, scene.pipeline.name, step, str(visit)], cwd=ROOT, check=False, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL
    # what the dead one committed becomes visible a moment later
    eventually("all that went is known", lambda: dlq_json("list")["redriven_not_shown"] == gone)
    result = dlq_json("redrive", "--yes")
    assert result["redriven"] == 15 - gone
    assert dlq_json("redrive", "--yes")["not_redriven"] == {"already_redriven": 15}
    assert_each_once(scene, letters, reader, 15)


def assert_each_once(scene: Scene, letters: Letters, reader: Reader, count: int) -> None:
    """Whatever a doubled event would do, it would lie before this one."""
    for partition in range(PARTITIONS):
        last = Producer({"bootstrap.servers": scene.bootstrap})
        last.produce(
            letters.topics.events, b"the end", headers=[(HEADER_REDRIVEN, b"end")], partition=partition
        )
        assert last.flush(120) == 0
    scene.await_count(reader, count + PARTITIONS)
    counts = Counter(came_back(reader.messages))
    assert counts.pop("end") == PARTITIONS
    assert len(counts) == count
    assert set(counts.values()) == {1}


def test_of_two_at_once_the_second_locks_the_first_out(scene: Scene, letters: Letters) -> None:
    letters.many(10)
    reader = scene.reader(scene.topics.events)
    kafka, name = KafkaConnection(scene.bootstrap), scene.pipeline.name
    spans = DeadLetterReader(kafka, name).spans(Selection())
    visits = iter(range(100))

    def at(point: str) -> None:
        # within its second transaction, records and all, somebody else begins and finishes
        if point == "after_produce" and next(visits) == 1:
            second = Redriver(kafka, name, ManualClock(5))
            plan = second.run(spans, Selection())
            second.close()
            assert sum(plan.going.values()) == 7

    first = Redriver(kafka, name, ManualClock(4), at=at, batch=3)
    with pytest.raises(Fatal, match="locked this one out"):
        first.run(spans, Selection())
    first.close()
    assert_each_once(scene, letters, reader, 10)
    went = DeadLetterReader(kafka, name).redriven()
    when = [went.when(letter) for letter in DeadLetterReader(kafka, name).letters(spans, Selection())]
    assert Counter(when) == {4: 3, 5: 7}


@pytest.mark.redis
@pytest.mark.slow
def test_what_is_refused_again_comes_back_as_a_new_letter_and_at_last_stays(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as scene:
        for name, value in scene.environment().items():
            monkeypatch.setenv(name, value)
        dead = scene.reader(scene.topics.dead_letters)
        verdicts = scene.reader()
        scene.worker().start()
        bad = event("bad", 1, amount=-1)
        scene.send([*events(3), bad])
        scene.await_count(dead, 1)
        for count in range(1, 4):
            assert dlq_json("redrive", "--yes")["reasons"] == {"out_of_range": 1}
            scene.await_count(dead, count + 1)
            newest = dlq_json("list")
            assert newest["total"] == 1
            assert newest["redriven_not_shown"] == count
            [letter] = newest["letters"]
            assert letter["redrives"] == count
            assert Place.parse(letter["redriven_from"]) < Place.parse(letter["place"])
        told = dlq("redrive", "--yes").stdout
        assert "came back 3 times or more (--force" in told
        assert dlq_json("redrive", "--yes", "--force")["redriven"] == 1
        scene.await_count(dead, 5)
        assert {(m.key(), m.value()) for m in dead.messages} == {(bad.key, bad.payload)}
        scene.await_count(verdicts, 3)
        assert len(verdicts.messages) == 3
