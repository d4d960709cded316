"""Cases on a real Kafka: alerts are taken in once, and decisions become joined labels, whatever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from domain.clock import SystemClock
from domain.errors import RegistryUnavailable
from domain.privacy import Protector
from domain.verdict import Alert, DecisionName, Source, Versions
from lifecycle.case_changes import CaseChanges
from lifecycle.case_records import ArrivedAlert, Case, CaseQuery, CaseView, Outcome
from lifecycle.case_store import SqlCaseStore
from lifecycle.database import Database
from stream.case_metrics import CaserMetrics
from stream.case_opener import CaserParts, run_case_opener
from stream.log_identity import log_identity
from tests.integration.labels_joiner_program import parts_of as joiner_parts
from tests.integration.test_label_joiner import await_changes, joining, verdicts
from tests.integration.test_labels_import import LABELS, START
from tests.system.scene import PATIENCE, PRIVACY_KEY, Scene, eventually
from tidegate.caser import parts_of
from tidegate.settings import Settings

pytestmark = [pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000
QUICK = {"session.timeout.ms": 4_000, "heartbeat.interval.ms": 300, "log_level": 2}
"""Whoever is killed is missed soon, and who is only slow is not."""


@pytest.fixture
def scene(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, "redis://127.0.0.1:1/0", LABELS, topic_prefix, tmp_path, 2) as scene:
        yield scene


def alert(scene: Scene, n: int, *, amount: float = 10.0, id_: str | None = None) -> Alert:
    """The alert on event n of test_label_joiner's verdicts: partition n % 2, account a0 or a1."""
    return Alert(
        id=id_ or f"e{n}",
        event_time=START + n * SECOND,
        scored_at=START,
        entities={"account": f"a{n % 2}", "shop": "s"},
        score=0.5,
        decision=DecisionName.REVIEW,
        reasons=[],
        flags=[],
        versions=Versions("1", 1, "", {}),
        source=Source(scene.topics.events, n % 2, n),
        amount=amount,
    )


def raise_alerts(scene: Scene, *alerts: Alert, abort: bool = False) -> None:
    """As a worker does: in a transaction."""
    producer = Producer(
        {"bootstrap.servers": scene.bootstrap, "transactional.id": f"{scene.pipeline.name}-w"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for one in alerts:
        producer.produce(
            scene.topics.alerts,
            msgspec.json.encode(one),
            one.entities["account"],
            partition=one.source.partition,
        )
    if abort:
        producer.flush(30)
        producer.abort_transaction(30)
    else:
        producer.commit_transaction(30)


class Cases:
    """The database of the scene's cases."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.url = f"sqlite:///{scene.directory}/cases.sqlite"
        self.database = Database(self.url)
        self.metrics = CaserMetrics(CollectorRegistry())
        self.parts = self._parts()
        self.changes = CaseChanges(self.database, scene.pipeline.name, SystemClock())

    @property
    def environment(self) -> dict[str, str]:
        return self.scene.environment(database_url=self.url, kafka_extra=json.dumps(QUICK))

    def _parts(self) -> CaserParts:
        settings = Settings.model_validate(
            {
                "kafka_bootstrap": self.scene.bootstrap,
                "kafka_extra": QUICK,
                "privacy_key": PRIVACY_KEY,
                "pipeline": self.scene.pipeline_file,
            }
        )
        return parts_of(settings, self.scene.pipeline, self.database, self.metrics)

    def all(self) -> list[CaseView]:
        found = self.parts.store.page(CaseQuery(status=None, limit=100)).cases
        return [self.parts.store.case(case.id) for case in found]

    def events(self) -> list[str]:
        return sorted(alert.event_id for view in self.all() for alert in view.alerts)

    def await_events(self, *wanted: str) -> None:
        eventually(f"cases of {wanted}", lambda: self.events() == sorted(wanted), lambda: str(self.events()))

    def await_labels_written(self) -> None:
        eventually("no label is pending", lambda: self.parts.labels.count() == 0)

    def count(self, name: str, outcome: str) -> float:
        value = getattr(self.metrics, name).labels(outcome)._value.get()
        assert isinstance(value, float)
        return value


@pytest.fixture
def cases(scene: Scene) -> Iterator[Cases]:
    made = Cases(scene)
    yield made
    made.database.close()


@contextmanager
def casing(parts: CaserParts) -> Iterator[None]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            run_case_opener(parts, stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert failed == []


def test_an_alert_becomes_a_case_and_its_decision_a_joined_label(scene: Scene, cases: Cases) -> None:
    verdicts(scene, 0, 5)
    raise_alerts(scene, alert(scene, 4, amount=999.0), abort=True)
    raise_alerts(scene, alert(scene, 0), alert(scene, 2), alert(scene, 1, amount=50.0))
    producer = Producer({"bootstrap.servers": scene.bootstrap})
    producer.produce(scene.topics.alerts, b"\xff no alert", partition=0)
    assert producer.flush(30) == 0
    with casing(cases.parts):
        raise_alerts(scene, alert(scene, 3, amount=5.0))
        cases.await_events("e0", "e1", "e2", "e3")
        first, second = (view.case for view in cases.all())
        assert (first.value, first.priority, first.alerts) == ("a1", 27.5, 2)
        assert (second.value, second.priority, second.alerts) == ("a0", 10.0, 2)
        eventually("the stranger", lambda: cases.count("alerts", "stranger") == 1)
        cases.changes.decide(first.id, Outcome.FRAUD, by="anna", revision=first.revision)
        cases.changes.decide(second.id, Outcome.UNSURE, by="anna", revision=second.revision)
        with joining(joiner_parts(scene.bootstrap, scene.pipeline)):
            await_changes(scene, [("e1", None, 1), ("e3", None, 1)])
            cases.changes.decide(first.id, Outcome.LEGITIMATE, by="bo")
            await_changes(scene, [("e1", None, 1), ("e3", None, 1), ("e1", 1, 0), ("e3", 1, 0)])
        cases.await_labels_written()
        eventually("decisions are counted", lambda: cases.count("decisions", "legitimate") == 1)
        assert cases.count("decisions", "fraud") == cases.count("decisions", "unsure") == 1
    assert cases.count("alerts", "opened") == cases.count("alerts", "joined") == 2


@pytest.mark.parametrize("step", ["taken", "labels_sent"])
def test_killed_anywhere_no_case_is_opened_twice_and_no_label_is_lost(
    scene: Scene, cases: Cases, step: str
) -> None:
    verdicts(scene, 0, 3)
    raise_alerts(scene, *(alert(scene, n) for n in range(3)))
    wanted = ("e0", "e1", "e2")
    if step.startswith("labels"):
        with casing(cases.parts):
            cases.await_events(*wanted)
        decide_all(cases)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.integration.caser_program", step],
        cwd=ROOT,
        env={**environment(), **cases.environment},
        check=False,
        timeout=3 * PATIENCE,
    )
    assert killed.returncode == -signal.SIGKILL
    with casing(cases.parts), joining(joiner_parts(scene.bootstrap, scene.pipeline)):
        cases.await_events(*wanted)
        if not step.startswith("labels"):
            decide_all(cases)
        await_changes(scene, [(id_, None, 1) for id_ in wanted])
        cases.await_labels_written()
    assert sorted(view.case.value for view in cases.all()) == ["a0", "a1"]
    assert cases.events() == sorted(wanted)


class Stumbling:
    """A store that fails at the first call of each kind."""

    def __init__(self, store: SqlCaseStore) -> None:
        self._store = store
        self._stumbled: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in ("offsets", "take") and name not in self._stumbled:
            self._stumbled.add(name)
            raise RegistryUnavailable("the database is away")
        return getattr(self._store, name)


def test_after_an_outage_or_a_loss_it_goes_on(scene: Scene, cases: Cases) -> None:
    raise_alerts(scene, alert(scene, 0), alert(scene, 1))
    admin = AdminClient({"bootstrap.servers": scene.bootstrap})
    log = log_identity(admin, scene.topics.alerts)
    # partition 0 was longer once, and all of it is taken in: Kafka has lost its end
    cases.parts.store.take(log, [ArrivedAlert(0, 1000, b"", None)])
    with casing(replace(cases.parts, store=cast(SqlCaseStore, Stumbling(cases.parts.store)))):
        cases.await_events("e1")
        raise_alerts(scene, alert(scene, 2))
        cases.await_events("e1", "e2")
    assert cases.metrics.restarts._value.get() == 2


def decide_all(cases: Cases) -> None:
    for view in cases.all():
        decided: Case = cases.changes.decide(
            view.case.id, Outcome.FRAUD, by="anna", revision=view.case.revision
        )
        assert decided.decision is Outcome.FRAUD


def environment() -> dict[str, str]:
    import os

    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def test_a_hashed_id_is_read_again_from_its_event(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    text = LABELS.read_text()
    declared = tmp_path / "sensitive.yaml"
    changed = text.replace("id: {type: string", "id: {type: string, sensitive: true")
    assert changed != text
    declared.write_text(changed)
    with Scene.open(kafka, "redis://127.0.0.1:1/0", declared, topic_prefix, tmp_path, 2) as scene:
        cases = Cases(scene)
        hashed = Protector(PRIVACY_KEY.encode()).protect
        producer = Producer({"bootstrap.servers": scene.bootstrap})
        for id_ in ("card-1", "card-2"):
            producer.produce(scene.topics.events, json.dumps({"id": id_}), partition=0)
        assert producer.flush(30) == 0
        alerts = [replace_source(alert(scene, 0, id_=hashed(f"card-{n + 1}")), n) for n in (0, 1, 7)]
        raise_alerts(scene, *alerts)
        labels = scene.reader(scene.topics.labels)
        with casing(cases.parts):
            cases.await_events(*(one.id for one in alerts))
            decide_all(cases)
            scene.await_count(labels, 2)
            cases.await_labels_written()
        assert sorted(message.key() for message in labels.messages) == [b"card-1", b"card-2"]
        [view] = cases.all()
        told = {alert.event_id: (alert.label_written, alert.label_refused is None) for alert in view.alerts}
        assert told == {
            hashed("card-1"): (True, True),
            hashed("card-2"): (True, True),
            hashed("card-8"): (False, False),
        }
        cases.database.close()


def replace_source(one: Alert, offset: int) -> Alert:
    return msgspec.structs.replace(one, source=Source(one.source.topic, 0, offset))
