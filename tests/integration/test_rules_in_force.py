"""Rules and lists are changed over HTTP in the middle of a stream: verdicts say what they went by, and nobody can tell
from them that workers died on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.deps import ApiDeps
from domain.clock import SystemClock
from domain.list_records import ListEntry
from domain.list_view import ListIndex
from domain.privacy import Protector
from domain.rule_records import Rule, RuleSet
from domain.verdict import DecisionName, Verdict
from lifecycle.database import Database
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import rule_store
from lifecycle.rule_trial import RulesTrial
from scoring.engine import PartitionScorer
from scoring.rules import compile_rules
from scoring.rules_in_use import NO_RULES, RulesInUse
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.lists_topic import publish_lists
from stream.recent_verdicts import try_on_recent
from stream.rules_follower import RulesFollower
from stream.rules_topic import publish_rules
from stream.state_topic import Published
from tests.integration.test_labels import all_of
from tests.integration.test_models_in_force import reported
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL, events
from tests.system.scene import PRIVACY_KEY, Scene, eventually
from tests.system.worker_program import KillAt
from tests.unit.api.fakes import World
from tests.unit.scoring.test_engine import cut

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@dataclass
class Office:
    """Where people change rules: the API over a database of its own and the scene's Kafka."""

    scene: Scene
    database: Database
    deps: ApiDeps

    def ask(self, method: str, path: str, body: Any) -> httpx.Response:
        # an application for each, without its lifespan in which it would look after rules by itself
        app = create_app(replace(self.deps, registry=CollectorRegistry()))

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, json=body, timeout=None)

        return asyncio.run(send())

    def put(self, *rules: dict[str, Any]) -> RuleSet:
        answer = self.ask("PUT", "/v1/rules", {"rules": list(rules), "reason": "test"})
        assert answer.status_code == 200, answer.text
        return msgspec.convert(answer.json()["in_force"], type=RuleSet)

    def list(self, name: str, **entry: Any) -> None:
        answer = self.ask("POST", f"/v1/lists/{name}/entries", {"entries": [entry], "reason": "test"})
        assert answer.status_code == 200, answer.text

    def publish_rules(self) -> Published:
        store = rule_store(self.database, self.scene.pipeline, SystemClock())
        return publish_rules(KafkaConnection(self.scene.bootstrap), self.scene.pipeline.name, store.current)


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as made:
        yield made


@pytest.fixture
def office(scene: Scene, tmp_path: Path) -> Iterator[Office]:
    database = Database(f"sqlite:///{tmp_path}/rules.sqlite")
    kafka, pipeline, clock = KafkaConnection(scene.bootstrap), scene.pipeline, SystemClock()
    deps = replace(
        World(publish_seconds=120.0, answer_seconds=60.0).deps,
        pipeline=pipeline,
        protector=Protector(PRIVACY_KEY.encode()),
        clock=clock,
        database=lambda: database,
        publish_rules=lambda: publish_rules(
            kafka, pipeline.name, rule_store(database, pipeline, clock).current
        ),
        publish_lists=lambda: publish_lists(
            kafka, pipeline.name, SqlListStore(database, pipeline.name, clock)
        ),
    )
    yield Office(scene, database, deps)
    database.close()


def write_rules(scene: Scene, value: bytes) -> None:
    """Past every check, as a newer version of Tidegate might, or somebody by hand."""
    producer = Producer({"bootstrap.servers": scene.bootstrap})
    producer.produce(scene.topics.rules, value, b"current")
    assert producer.flush(60) == 0


def rules_of(verdict: Verdict) -> list[str]:
    return [one.id for one in verdict.rules] if isinstance(verdict.rules, list) else []


def check_never_killed(
    scene: Scene, verdicts: list[Verdict], rules: dict[str | None, RulesInUse]
) -> PartitionScorer:
    """The verdicts are those of one engine that changed its rules where they did."""
    messages = all_of(scene, scene.topics.events)
    decoded = decode_messages(scene.codec, messages)
    batch = scene.codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
    scorer = PartitionScorer(scene.pipeline)
    at = 0
    for used, part in groupby(verdicts, lambda verdict: (verdict.versions.rules, verdict.versions.lists)):
        told = list(part)
        in_use = rules[used[0]]
        scorer.rules = in_use if in_use.compiled is None or used[1] != "l0" else RulesInUse(in_use.compiled)
        scored = scorer.process(cut(batch, at, at + len(told)))
        assert_same_bits(scene.pipeline, told, scored)
        hits = [[one.id for one in scored.rules.get(row, [])] for row in range(len(told))]
        assert [rules_of(verdict) for verdict in told] == hits
        at += len(told)
    assert at == len(batch)
    return scorer


def check_trial(scene: Scene, rules: RuleSet, lists: ListIndex, shops: list[str]) -> None:
    """Rules are tried on the newest verdicts: fields that these do not keep come from the events."""
    producer = Producer({"bootstrap.servers": scene.bootstrap})
    for number in (898, 899):
        label = {"id": f"e{number}", "label": 1 if number == 899 else None}
        producer.produce(scene.topics.labels_joined, msgspec.json.encode(label), partition=0)
    assert producer.flush(60) == 0
    endless = ListIndex()
    entries = [ListEntry(list="bad", field="shop", value=shops[899], added_at=1, added_by="x", number=1)]
    endless.change(1, entries)
    for listed, hits in ((lists, 0), (endless, shops[400:].count(shops[899]))):
        trial = RulesTrial(scene.pipeline, rules, listed)
        try_on_recent(KafkaConnection(scene.bootstrap), scene.pipeline.name, scene.codec, trial, 500)
        report = trial.report()
        assert (report.events, report.incomplete, report.labelled, report.frauds) == (500, 0, 1, 1)
        tried = next(one for one in report.rules if one.id == "shop")
        assert (tried.hits, tried.frauds, tried.failed) == (hits, int(hits > 0), 0)


@pytest.mark.slow
def test_rules_and_lists_change_decisions_and_recovery_goes_by_the_verdicts(
    scene: Scene, office: Office
) -> None:
    flow = events(900)
    reader = scene.reader()
    # no snapshots: all that is learned, spent and counted is recovered from verdicts
    worker = scene.worker(max_batch=50, flush_seconds=0.05, snapshot_seconds=3_600.0)
    # the first rules, the list, and what is refused
    worker.start(KillAt("rules_changed", visit=3))

    def follows(what: str, epoch: int, lists: int) -> None:
        eventually(
            what, lambda: [(r.rules, r.lists) for r in reported(scene)] == [(epoch, lists)], worker.tail
        )

    scene.send(flow[:100])
    scene.await_count(reader, 100)
    shop = {"id": "shop", "when": "shop in lists.bad", "action": "block", "reason": "known bad"}
    boost = {"id": "boost", "when": "amount > 20.0", "score_effect": 0.3}
    first = office.put(shop, boost)
    follows("rules arrive", 1, 0)
    expires = msgspec.json.decode(flow[250].payload)["at"]
    office.list("bad", field="shop", value="s1", expires_at=expires)
    follows("the list arrives", 1, 1)
    scene.send(flow[100:400])
    scene.await_count(reader, 400)
    # what can not be run changes nothing; here the worker dies of it, and its successor finds the same
    broken = Rule(id="shop", when="shop ==== 7", version=9)
    write_rules(
        scene,
        msgspec.json.encode(RuleSet(epoch=2, rules=(broken,), changed_at=1, changed_by="x", reason="y")),
    )
    assert worker.wait() == -9, worker.tail()
    worker.start(KillAt("after_send_offsets", visit=2))
    scene.send(flow[400:600])
    assert worker.wait() == -9, worker.tail()
    worker.start()
    scene.await_count(reader, 600)
    [report] = reported(scene)
    assert (report.rules, list(report.rules_refused)) == (1, ["2"])
    # traffic and the next change meet
    scene.send(flow[600:800])
    everything = {"id": "all", "when": "amount >= 0.0", "action": "block"}
    second = office.put(everything, {**shop, "mode": "shadow"})
    assert second.epoch == 2
    follows("the next rules arrive", 2, 1)
    scene.send(flow[800:])
    scene.await_count(reader, 900)
    worker.stop()

    verdicts = reader.verdicts()
    assert [v.versions.rules for v in verdicts[:100]] == [None] * 100
    assert {v.versions.rules for v in verdicts[100:600]} == {"r1"}
    assert {(v.versions.rules, v.versions.lists) for v in verdicts[800:]} == {("r2", "l1")}
    shops = [msgspec.json.decode(sent.payload)["shop"] for sent in flow]
    for number, verdict in enumerate(verdicts[100:600], start=100):
        # an event that happens at the moment of expiry is past it
        assert ("shop" in rules_of(verdict)) == (shops[number] == "s1" and number < 250), number
        if "shop" in rules_of(verdict):
            assert verdict.decision is DecisionName.BLOCK
            assert verdict.reasons[0].code == "rule:shop"
    assert any("shop" in rules_of(verdict) for verdict in verdicts[100:250])
    assert {v.decision for v in verdicts[800:]} == {DecisionName.BLOCK}
    index = ListIndex()
    index.change(1, SqlListStore(office.database, scene.pipeline.name, SystemClock()).entries("bad"))
    compiled = {f"r{one.epoch}": compile_rules(one, scene.pipeline) for one in (first, second)}
    rules: dict[str | None, RulesInUse] = {name: RulesInUse(one, index) for name, one in compiled.items()}
    scorer = check_never_killed(scene, verdicts, {None: NO_RULES, **rules})
    snapshot = scene.store.load_model(0)
    assert snapshot is not None
    assert snapshot.blob == scorer.snapshot()
    check_trial(scene, first, index, shops)
    log = worker.log.read_text()
    assert '"relearned"' in log
    assert "scores differ" not in log


def test_a_follower_keeps_the_last_good_rules(scene: Scene, office: Office) -> None:
    followed = RulesFollower(
        KafkaConnection(scene.bootstrap), scene.pipeline, SystemClock(), client_id="test-follower"
    )
    followed.begin()
    assert (followed.rules, followed.poll(), followed.refused) == (NO_RULES, False, {})

    def until(what: str, *expected: Any) -> None:
        def reached() -> bool:
            followed.poll()
            return (followed.epoch, followed.lists_version, list(followed.refused)) == expected

        eventually(what, reached)

    big = {"id": "big", "when": "amount > 900.0", "action": "block"}
    assert office.publish_rules() == Published(0, False)
    office.put(big)
    assert office.publish_rules() == Published(1, False)
    until("the first", 1, 0, [])
    first = followed.rules
    write_rules(scene, b'{"epoch": 5')
    until("what nobody can read", 1, 0, ["?"])
    assert followed.rules is first
    office.list("bad", field="shop", value="s1")
    until("a list", 1, 1, ["?"])
    assert followed.rules is first
    assert first.versions == ("r1", "l1")
    late = RulesFollower(KafkaConnection(scene.bootstrap), scene.pipeline, SystemClock(), client_id="late")
    late.begin()
    try:
        assert (late.epoch, late.lists_version, list(late.refused)) == (1, 1, ["?"])
        # whoever publishes next mends it
        assert office.publish_rules() == Published(1, True)
        until("the same again", 1, 1, [])
    finally:
        late.close()
        followed.close()
