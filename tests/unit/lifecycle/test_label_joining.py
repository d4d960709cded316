"""What the joiner decides: whom to believe, what waits, what is given up; and that restarts change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import Fatal, Reject
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from domain.pipeline_file import parse_pipeline
from domain.raw_label import RawLabel
from domain.verdict import DetectorOutput, Flag
from lifecycle.label_book import LabelBook
from lifecycle.label_claims import Claim, LabelState, believed, tell
from lifecycle.label_import import LabelledEvent, Present, decide
from lifecycle.label_joining import MAX_PER_EVENT, Arrived, Joined, LabelJoining
from lifecycle.label_rows import Label, Told
from tests.contract.check_hot_verdicts import NOW, verdict

MINUTE = 60_000_000
TEXT = """
pipeline: payments
event:
  id: txn
  time: at
  key: account_id
  fields:
    txn: {type: string}
    at: {type: timestamp}
    account_id: {type: string}
features:
  amount: {entity: account_id, aggregate: count, window: 1d}
detectors:
  hst: {kind: half_space_trees}
decision:
  review: {budget: 0.01}
labels: {orphans_wait: 1h SOURCES}
"""


def pipeline(sources: str = "") -> Pipeline:
    return parse_pipeline(TEXT.replace(" SOURCES", f", sources: {sources}" if sources else ""), "test")


RANKED = pipeline("[chargeback, analyst]")
ANYBODY = pipeline()


def scored(id_: str, partition: int = 1, **changes: object) -> bytes:
    """The verdict on an event."""
    given: dict[str, object] = {"id": id_, "entities": {"account_id": f"of {id_}"}, **changes}
    return msgspec.json.encode(verdict(7, partition, **given))


@dataclass
class World:
    """A joiner's logs. ``restart`` forgets everything else."""

    pipeline: Pipeline
    max_waiting: int = 100
    log: list[tuple[int, JoinedLabel]] = field(default_factory=list)
    claims: dict[str, bytes | None] = field(default_factory=dict)
    letters: list[tuple[str, Reject]] = field(default_factory=list)
    offset: int = 0
    unchanged: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, now: int = NOW) -> None:
        book = LabelBook()
        book.load_states(self.claims.items())
        book.load_joined(self.log)
        self.joining = LabelJoining(self.pipeline, book, max_waiting=self.max_waiting, now=now)

    def write(self, out: Joined) -> None:
        codec = LabelCodec(self.pipeline)
        for partition, record in out.records:
            raw = codec.encode(record)
            self.log.append((partition, codec.decode(raw, received_at=NOW + 3_600 * MINUTE)))
        for id_, state in out.states:
            self.claims[id_] = None if state is None else msgspec.json.encode(state)
        self.letters += [(one.label.key.decode(), one.why.reason) for one in out.letters]
        self.unchanged += out.unchanged

    def say(self, *labels: RawLabel, found: dict[str, bytes] | None = None, now: int = NOW) -> None:
        arrived = []
        for label in labels:
            self.offset += 1
            arrived.append(Arrived(label, 0, self.offset, now, b"raw"))
        self.write(self.joining.take(arrived, found or {}, now))

    def search(self, found: dict[str, bytes], now: int) -> list[str]:
        due = self.joining.due(now, 1000)
        self.write(self.joining.searched(due, found, now))
        return due

    @property
    def changes(self) -> list[tuple[str, Label, Label, str | None]]:
        return [(one.id, one.previous, one.label, one.origin) for _, one in self.log]


def label(
    id_: str, value: Label, source: str = "analyst", at: int = 0, event_time: int | None = None
) -> RawLabel:
    return RawLabel(
        id=id_, key=id_.encode(), label=value, source=source, known_at=NOW + at, event_time=event_time
    )


def test_a_label_takes_everything_from_the_verdict() -> None:
    world = World(RANKED)
    outputs = {"hst": DetectorOutput(score=0.4, rank=0.9), "late": DetectorOutput(score=None, rank=None)}
    world.say(label("e", 1), found={"e": scored("e", 3, score=0.75, detectors=outputs)})
    [(partition, one)] = world.log
    assert (partition, one.event_time, one.entities) == (3, NOW, {"account_id": "of e"})
    assert (one.label, one.previous, one.known_at, one.origin) == (1, None, NOW, "analyst")
    assert one.said is not None
    assert one.said.features == {"amount": 1.5, "ratio": None}
    assert (one.said.ranks, one.said.score) == ({"hst": 0.9, "late": None}, 0.75)
    assert world.joining.waiting == 0


def test_who_is_declared_earlier_is_believed_whatever_comes_later() -> None:
    world = World(RANKED)
    found = {"e": scored("e")}
    world.say(label("e", 1, "import", at=1), found=found)
    world.say(label("e", 0, "analyst", at=2), found=found)
    world.say(label("e", 1, "import", at=3), found=found)
    world.say(label("e", 1, "chargeback", at=4), found=found)
    world.say(label("e", 0, "analyst", at=5), found=found)
    world.say(label("e", None, "chargeback", at=6), found=found)
    world.say(label("e", None, "analyst", at=7), found=found)
    assert world.changes == [
        ("e", None, 1, "import"),
        ("e", 1, 0, "analyst"),
        ("e", 0, 1, "chargeback"),
        ("e", 1, 0, "analyst"),
        ("e", 0, 1, "import"),
    ]


def test_without_declared_sources_the_latest_word_counts() -> None:
    world = World(ANYBODY)
    found = {"e": scored("e")}
    world.say(label("e", 1, "a", at=5), label("e", 0, "b", at=3), label("e", 0, "b", at=6), found=found)
    world.say(label("e", None, "a", at=9), found=found)
    assert world.changes == [("e", None, 1, "a"), ("e", 1, 0, "b"), ("e", 0, None, "a")]


def test_a_reversal_is_taken_back_once_and_repetitions_are_not_heard() -> None:
    world = World(RANKED)
    found = {"e": scored("e")}
    for _ in range(2):
        world.say(label("e", 1, at=1), found=found)
        world.restart()
    world.say(label("e", 0, at=2), label("e", 1, at=1), found=found)
    assert world.changes == [("e", None, 1, "analyst"), ("e", 1, 0, "analyst")]
    assert world.unchanged == 2


def test_a_repeated_word_of_the_same_moment_does_not_turn_it_round() -> None:
    world = World(ANYBODY)
    world.say(label("e", 1, "a"), label("e", 0, "b"), label("e", 1, "a"), found={"e": scored("e")})
    assert world.changes[-1] == ("e", 1, 0, "b")


def test_a_believed_word_from_before_counts_from_when_it_changed_something() -> None:
    world = World(RANKED)
    found = {"e": scored("e")}
    world.say(label("e", 0, "analyst", at=9), label("e", 1, "chargeback", at=5), found=found)
    assert [(one.label, one.known_at - NOW) for _, one in world.log] == [(0, 9), (1, 9)]


def test_orphans_wait_over_restarts_and_are_found() -> None:
    world = World(RANKED)
    world.say(label("e", 1, at=1), label("f", 1))
    world.say(label("e", 0, at=2))
    assert (world.joining.waiting, world.log, world.letters) == (2, [], [])
    world.restart()
    assert world.joining.waiting == 2
    assert world.search({"e": scored("e")}, NOW) == ["e", "f"]
    assert world.changes == [("e", None, 1, "analyst"), ("e", 1, 0, "analyst")]
    assert world.joining.waiting == 1
    assert world.joining.due(NOW + 4_999_999, 10) == []
    assert world.search({}, NOW + 5_000_000) == ["f"]
    assert world.joining.due(NOW + 14_999_999, 10) == []
    assert world.joining.due(NOW + 15_000_000, 10) == ["f"]


def test_an_orphan_is_given_up_when_its_time_is_over_and_a_search_was_in_vain() -> None:
    world = World(RANKED)
    world.say(label("e", 1))
    world.say(label("e", 0, at=1), now=NOW + 30 * MINUTE)
    world.restart(NOW + 61 * MINUTE)
    assert world.letters == [], "time alone gives up nobody"
    world.search({}, NOW + 61 * MINUTE)
    assert world.letters == [("e", Reject.NO_VERDICT)]
    assert world.joining.waiting == 1
    world.search({}, NOW + 91 * MINUTE)
    assert world.letters == [("e", Reject.NO_VERDICT)] * 2
    assert (world.joining.waiting, world.claims) == (0, {"e": None})
    world.say(label("e", 1), found={"e": scored("e")}, now=NOW + 92 * MINUTE)
    assert world.changes == [("e", None, 1, "analyst")]


def test_the_last_search_is_when_the_time_is_over() -> None:
    world = World(RANKED)
    world.say(label("e", 1))
    now = NOW
    while not world.letters:
        [now] = [wait.next_search for wait in world.joining._waiting.values()]
        world.search({}, now)
    assert now == NOW + 60 * MINUTE


def test_a_known_event_needs_no_verdict_but_is_searched_for_what_was_said() -> None:
    world = World(RANKED)
    world.say(label("e", 1), found={"e": scored("e")})
    world.restart()
    world.say(label("e", 0, at=1))
    assert len(world.log) == 1
    world.search({}, NOW)
    assert world.changes[1:] == [("e", 1, 0, "analyst")]
    assert world.log[1][1].said is None
    assert world.log[1][0] == 1
    world.say(label("e", 1, at=2))
    world.search({"e": scored("e")}, NOW)
    assert world.log[2][1].said is not None
    assert (world.joining.waiting, world.letters) == (0, [])
    world.say(label("e", 1, at=3))
    assert world.joining.waiting == 0, "who changes nothing need not wait"


def test_what_a_file_has_written_is_the_truth() -> None:
    world = World(RANKED)
    found = {"e": scored("e"), "f": scored("f")}
    world.say(label("e", 1, "chargeback", at=1), label("f", 1, "chargeback", at=1), found=found)
    for id_, origin in (("e", "the bank"), ("f", None)):
        world.log.append(
            (
                1,
                JoinedLabel(
                    id=id_,
                    event_time=NOW,
                    known_at=NOW + 2,
                    label=0,
                    previous=1,
                    entities={"account_id": f"of {id_}"},
                    origin=origin,
                ),
            )
        )
    world.restart()
    # nothing new: what the file said holds on; and what a lesser source says changes it by precedence
    world.say(label("e", 1, "chargeback", at=1), found=found)
    assert len(world.log) == 4
    world.say(label("f", 0, "analyst", at=3), found=found)
    assert world.changes[4:] == [("f", 0, 1, "chargeback")]
    world.say(label("e", None, "chargeback", at=4), found=found)
    world.restart()
    world.say(label("e", 1, "analyst", at=5), found=found)
    assert world.changes[5:] == [("e", 0, 1, "analyst")]


def test_a_label_that_only_a_file_has_given_needs_no_verdict() -> None:
    world = World(RANKED)
    world.say(label("e", 0, "chargeback", at=9))
    record = JoinedLabel(
        id="e", event_time=NOW, known_at=NOW + 2, label=1, entities={"account_id": "a"}, origin=None
    )
    world.log.append((2, record))
    world.restart()
    world.search({}, NOW)
    assert world.changes[1:] == [("e", 1, 0, "chargeback")]
    assert world.log[1][0] == 2


def test_labels_about_something_else_are_given_up_at_once() -> None:
    world = World(RANKED)
    found = {
        "e": scored("e"),
        "old": scored("old", entities={"merchant_id": "m"}),
        "copy": scored("copy", flags=[Flag.DUPLICATE]),
    }
    world.say(
        label("e", 1, event_time=NOW + 1_000_000),
        label("e", 0, event_time=NOW - 999_999),
        label("old", 1),
        label("copy", 1),
        found=found,
    )
    assert world.letters == [("e", Reject.OTHER_EVENT), ("old", Reject.INCOMPLETE_VERDICT)]
    assert world.changes == [("e", None, 0, "analyst")]
    assert world.joining.waiting == 1, "a repetition is not the event"
    with pytest.raises(Fatal, match="something else"):
        world.say(label("x", 1), found={"x": b"{}"})


def test_the_room_is_bounded_and_who_was_not_searched_for_stays() -> None:
    world = World(RANKED, max_waiting=20)
    for n in range(15):
        world.say(label(f"e{n:02}", 1), now=NOW + n)
    world.search({}, NOW + 20)
    world.say(*(label(f"f{n:02}", 1) for n in range(10)), now=NOW + 30)
    assert world.joining.full
    made = world.joining.make_room()
    world.write(made)
    assert [who for who, _ in world.letters] == [f"e{n:02}" for n in range(7)]
    assert {why for _, why in world.letters} == {Reject.NO_VERDICT}
    assert world.joining.waiting == 18
    assert world.joining.due(NOW + 30, 3) == ["f00", "f01", "f02"], "those never searched for come first"
    before = world.joining.waiting
    world.restart()
    assert world.joining.waiting == before


def test_one_event_can_not_fill_the_room() -> None:
    world = World(RANKED)
    for _ in range(2):
        world.say(*(label("e", n % 2, at=n) for n in range(20)))  # type: ignore[arg-type]
    assert [why for _, why in world.letters] == [Reject.NO_VERDICT] * (40 - MAX_PER_EVENT)
    world.say(*(label("f", n % 2, at=n) for n in range(40)), found={"f": scored("f")})  # type: ignore[arg-type]
    assert len(world.log) == 40, "who is known at once does not wait"


SOURCES = ("chargeback", "analyst", "import")
Said = tuple[str, Label, str, int]
words = st.tuples(
    st.sampled_from("abc"), st.sampled_from([0, 1, None]), st.sampled_from(SOURCES), st.integers(0, 5)
)


def consistent(world: World) -> None:
    """Each change begins where the one before it ended, and never goes back in time."""
    last: dict[str, JoinedLabel] = {}
    for _, one in world.log:
        before = last.get(one.id)
        assert one.previous == (None if before is None else before.label)
        assert one.label != one.previous
        assert before is None or one.known_at >= before.known_at
        last[one.id] = one


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([RANKED, ANYBODY]), st.lists(words, max_size=14), st.data())
def test_cuts_restarts_and_late_verdicts_do_not_change_what_holds(
    declared: Pipeline, said: list[Said], data: st.DataObject
) -> None:
    found = {id_: scored(id_, partition) for partition, id_ in enumerate("abc")}
    whole, pieces = World(declared), World(declared)
    for id_, value, source, at in said:
        whole.say(label(id_, value, source, at), found=found)
    left = list(said)
    while left:
        some = data.draw(st.integers(1, len(left)))
        known = {id_: found[id_] for id_ in "abc" if data.draw(st.booleans())}
        pieces.say(*(label(i, v, s, a) for i, v, s, a in left[:some]), found=known)
        left = left[some:]
        if data.draw(st.booleans()):
            pieces.restart()
    pieces.search(found, NOW + MINUTE)
    assert pieces.joining.waiting == 0
    for id_ in "abc":
        assert [r for r in pieces.log if r[1].id == id_] == [r for r in whole.log if r[1].id == id_]
    consistent(whole)
    claims: dict[str, dict[str, Claim]] = {}
    for id_, value, source, at in said:
        mine = claims.setdefault(id_, {})
        if source not in mine or (
            at >= mine[source].known_at - NOW and mine[source] != Claim(value, NOW + at)
        ):
            mine.pop(source, None)
            mine[source] = Claim(value, NOW + at)
    holds = {one.id: one.label for _, one in whole.log}
    for id_, mine in claims.items():
        assert holds.get(id_) == believed(mine, declared.label_sources)[0]


def rows(said: list[tuple[Label, int]]) -> Iterator[tuple[Told, Claim]]:
    for number, (value, at) in enumerate(said):
        yield Told(NOW + at, value, number), Claim(value, NOW + at)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, None]), st.integers(0, 5)), max_size=8))
def test_one_source_means_what_imports_of_the_same_rows_mean(said: list[tuple[Label, int]]) -> None:
    event = LabelledEvent(NOW, ("a",), 0, None)
    present: dict[str, Present] = {}
    imported, state, told = [], LabelState(), []
    # of older ones files keep no trace where they changed nothing; so: in order, as they are read
    for row, claim in rows(sorted(said, key=lambda one: one[1])):
        for change in decide({"e": [row]}, present).changes.get("e", ()):
            imported.append((change.known_at, change.label, change.previous))
            present["e"] = Present(change.label, change.known_at, event)
        state, made = tell(state, "import", claim, ())
        if made is not None:
            told.append((made.known_at, made.label, made.previous))
    assert told == imported
