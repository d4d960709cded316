"""A broker that dies, answers late or never, refuses records, and deletes what was not yet read."""

from __future__ import annotations

from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from stream.topics import create_topics
from tests.chaos.proxy import Harm
from tests.chaos.scenario import Scenario
from tests.chaos.stage import Stage, micros
from tests.system.worker_program import Tuning, WorkerProcess

__all__ = ["SCENARIOS"]

_OWN = frozenset({"kafka"})
_EXIT_FATAL = 3
# Longer than a broker of the suite takes to restart, so that no worker is thought dead meanwhile.
_PATIENT = Tuning(session_ms=6_000)


def _everywhere(stage: Stage) -> range:
    return range(stage.scene.partitions)


def broker_restart(stage: Stage) -> None:
    """SIGKILL and restart, a clean restart, and both again."""
    stage.start(2, tuning=_PATIENT)
    part = len(stage.records) // 5
    for number, hard in enumerate((True, False, True, False)):
        # in portions, so that some are always still to come when the broker is back
        stage.feed(part, rate=part / 4.0)
        stage.await_answers(part * number + part // 3)
        kind = "SIGKILL" if hard else "clean restart"
        fault = stage.fault(f"{kind} of the broker", _everywhere(stage))
        if hard:
            stage.services.kafka.kill()
        stage.services.kafka.restart()
        stage.await_news(fault.at, fault.partitions)
    stage.feed(rate=part / 4.0)


def _commit_harmed(stage: Stage, harms: tuple[tuple[Harm, float], ...]) -> list[WorkerProcess]:
    """Workers behind the proxy, which does ``harms`` to answers to their commits, one after the other."""
    proxy = stage.services.proxy
    before = len(proxy.harmed)
    workers = stage.start(2, kafka_bootstrap=proxy.bootstrap)
    part = stage.paced // (len(harms) + 1)
    for number, (harm, seconds) in enumerate(harms):
        # in portions, so that there is traffic for the next one however long this one took
        stage.feed(part, rate=part / 2.0)
        stage.await_answers(part * number + part // 3)
        fault = stage.fault(f"a commit's answer: {harm.value}", _everywhere(stage))
        proxy.harm_next(harm, seconds)
        stage.await_amid_traffic(
            f"an answer to a commit meets {harm.value}",
            lambda wanted=before + number + 1: len(proxy.harmed) >= wanted,  # type: ignore[misc]
        )
        stage.await_news(fault.at, fault.partitions)
    stage.feed(rate=part / 2.0)
    return workers


def commit_answer_cut(stage: Stage) -> None:
    """The broker has committed, its answer is lost with the connection, four times."""
    _commit_harmed(stage, ((Harm.CUT, 0.0),) * 4)


def commit_answer_late(stage: Stage) -> None:
    """The answer comes after one second, and after five."""
    _commit_harmed(stage, ((Harm.DELAY, 1.0), (Harm.DELAY, 5.0)))


def commit_answer_lost(stage: Stage) -> None:
    """The answer never comes, though the connection stands: it is asked for again, or the worker starts afresh."""
    workers = _commit_harmed(stage, ((Harm.SWALLOW, 0.0),))
    stage.expect(
        any(stage.says(w, "Timed out EndTxnRequest") or stage.says(w, "starting afresh") for w in workers),
        "a worker missed the answer",
    )


def retention(stage: Stage) -> None:
    """Events deleted that the state does not reflect yet, while nobody runs; then a second restart."""
    never: dict[str, Any] = {"flush_seconds": 3_600, "snapshot_seconds": 3_600}
    worker = stage.worker("w1", **never)
    worker.start()
    third = len(stage.records) // 3
    stage.feed(third, rate=third / 3.0)
    stage.await_answers(third)
    worker.kill()
    stage.fault("events deleted beyond the applied offset", _everywhere(stage))
    ends = stage.reaches()
    stage.expect(
        all(stage.scene.applied(p) < end for p, end in ends.items()), "state lags behind what is deleted"
    )
    places = [TopicPartition(stage.scene.topics.events, p, end) for p, end in ends.items()]
    for deleted in stage.admin.delete_records(places).values():
        deleted.result(60)
    began = micros()
    for part in (third, None):
        worker = stage.worker("w1", **never, log=f"w1-{part}")
        worker.start()
        stage.feed(part, rate=third / 3.0)
        stage.await_fed()
        stage.await_answers(stage.fed)
        stage.expect(stage.says(worker, "verdicts are flagged degraded"), "the worker says what is missing")
        worker.stop()
    unflagged = [v for v in stage.scored_after(began) if "degraded" not in v.flags]
    stage.expect(not unflagged, f"verdicts without the deleted events say so; {len(unflagged)} do not")


def output_missing(stage: Stage) -> None:
    """No topic of alerts: everything halts at the first alert, nothing advances, until the topic is there."""
    alerts = stage.scene.topics.alerts
    stage.admin.delete_topics([alerts], operation_timeout=30)[alerts].result(60)
    stage.fault("the topic of alerts is missing", _everywhere(stage))
    workers = stage.start(2)
    stage.feed(rate=len(stage.records) / 4.0)
    stage.await_that(
        "transactions are aborted", lambda: len(stage.logged("transaction aborted")) >= 4, seconds=120.0
    )
    stage.await_fed()
    stage.expect(stage.answers < stage.fed, "nothing goes on without the topic")
    stage.expect(all(worker.running for worker in workers), "the workers wait")
    stage.expect(any(stage.says(w, "output topics exist") for w in workers), "they say what to do")
    topic = NewTopic(alerts, num_partitions=stage.scene.partitions, replication_factor=1)
    stage.admin.create_topics([topic])[alerts].result(60)


def verdicts_missing(stage: Stage) -> None:
    """No topic of verdicts at start: the worker refuses with a remedy, and starts once it is there."""
    topics = stage.scene.topics
    stage.admin.delete_topics([topics.verdicts], operation_timeout=30)[topics.verdicts].result(60)
    worker = stage.worker("w1")
    stage.feed(rate=2_000.0)
    stage.fault("the topic of verdicts is missing")
    worker.start()
    code = worker.wait()
    stage.expect(code == _EXIT_FATAL, f"the worker refuses with exit code {_EXIT_FATAL}, not {code}")
    stage.expect(stage.says(worker, "Remedy: create"), "the worker names the remedy")
    create_topics({"bootstrap.servers": stage.scene.bootstrap}, topics.pipeline, stage.scene.partitions)
    stage.watch_verdicts_anew()
    worker.start()


def output_denied(stage: Stage) -> None:
    """An ACL forbids writing verdicts, amid traffic; later it is taken back."""
    workers = stage.start(2)
    stage.feed(rate=len(stage.records) / 12.0)
    stage.await_answers(len(stage.records) // 4)
    place = (
        ResourceType.TOPIC,
        stage.scene.topics.verdicts,
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
    )
    # a topic with any rule is closed to all that no rule allows
    _rule(stage, AclBinding(*place, AclOperation.ALL, AclPermissionType.ALLOW))
    fault = stage.fault("writing verdicts is denied", _everywhere(stage))
    _rule(stage, AclBinding(*place, AclOperation.WRITE, AclPermissionType.DENY))
    try:
        stage.await_that("transactions fail", lambda: len(_refused(workers)) >= 2)
        reached = stage.answers
        stage.await_that("transactions fail again", lambda: len(_refused(workers)) >= 6)
        # what was committed before the rule held may still have been on its way to the reader
        stage.expect(stage.answers - reached < 400, "nothing goes on without the right to write")
    finally:
        denied = AclBindingFilter(*place, AclOperation.WRITE, AclPermissionType.DENY)
        stage.admin.delete_acls([denied], request_timeout=30)[denied].result(60)
    for number, worker in enumerate(workers, start=1):
        if not worker.running:
            stage.expect(stage.says(worker, "Remedy"), f"w{number}, which ended, names a remedy")
            worker.start()
    stage.await_news(fault.at, fault.partitions)


def _rule(stage: Stage, rule: AclBinding) -> None:
    stage.admin.create_acls([rule], request_timeout=30)[rule].result(60)


def _refused(workers: list[WorkerProcess]) -> list[str]:
    lines: list[str] = []
    for worker in workers:
        text = worker.log.read_text(errors="replace") if worker.log.exists() else ""
        lines += [line for line in text.splitlines() if line.startswith("{") and "AUTHORIZATION" in line]
    return lines


SCENARIOS = (
    Scenario(
        "broker-restart",
        "hard and clean restarts of the broker, twice each",
        broker_restart,
        own=_OWN,
        events=9_000,
    ),
    Scenario(
        "commit-answer-cut",
        "the answer to a commit is lost with its connection, four times",
        commit_answer_cut,
        short_events=3_000,
        telling=True,
    ),
    Scenario("commit-answer-late", "the answer to a commit comes late", commit_answer_late),
    Scenario("commit-answer-lost", "the answer to a commit never comes", commit_answer_lost),
    Scenario(
        "retention",
        "events deleted before the state reflects them",
        retention,
        events=4_500,
        degraded_due=True,
    ),
    Scenario("output-missing", "the topic of alerts is missing, later made", output_missing, events=8_000),
    Scenario("verdicts-missing", "the topic of verdicts is missing at start", verdicts_missing, events=2_000),
    Scenario("output-denied", "an ACL denies writing verdicts, later taken back", output_denied),
)
