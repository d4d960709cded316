"""Workers that die, fall silent, meet their double, and come and go."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

from tests.chaos.scenario import SEED, Scenario
from tests.chaos.stage import Stage, micros
from tests.system.worker_program import ActAt, KillAt, Tuning, WorkerProcess

__all__ = ["POINTS", "SCENARIOS"]

POINTS = (
    "before_produce",
    "after_produce",
    "after_send_offsets",
    "after_commit",
    "before_flush",
    "after_flush",
)
RANDOM_KILLS = 50
_FENCED_BY_STORE = "another owner has moved the online state"
_TOLD_BY_KAFKA = (
    "starting afresh",
    "transaction aborted",
    "partitions are lost, and with them a transaction",
)
"""What a worker logs when its transaction is gone: which, depends on whether group or producer hears of it first."""
_EXIT_FATAL = 3


def _told_by_kafka(stage: Stage, worker: WorkerProcess) -> bool:
    """Whether a worker has learned from Kafka that its transaction will never be seen."""
    return any(stage.says(worker, text) for text in _TOLD_BY_KAFKA)


def random_kills(stage: Stage) -> None:
    """One kill per equal part of the events, of either worker; it comes back after a random short time."""
    kills = max(3, round(len(stage.records) * RANDOM_KILLS / 100_000))
    chance = random.Random(SEED)
    workers = dict(zip(("w1", "w2"), stage.start(2), strict=True))
    part = stage.paced / (kills + 1)
    # the part after a kill lasts about as long as the group takes to notice it and to share out again
    stage.feed(rate=part / 3.0)
    for number in range(kills):
        stage.await_answers(round(part * (number + chance.random())))
        worker_id = chance.choice(("w1", "w2"))
        began = micros()
        held = stage.owned(worker_id)
        stage.kill(workers[worker_id], worker_id)
        threading.Event().wait(1.5 * chance.random())
        workers[worker_id].start()
        stage.await_news(began, held)


def kills_at_points(stage: Stage) -> None:
    """One worker after another under the same id, each dying at the next step; a second one looks on."""
    chance = random.Random(SEED)
    dying, other = stage.worker("w1"), stage.worker("w2")
    other.start()
    stage.await_owners("w2")
    stage.feed(rate=len(stage.records) / (4.0 * len(POINTS)))
    for point in POINTS:
        dying.start(KillAt(point, visit=chance.randrange(3, 8)))
        # amid traffic: on a slow day everything was sent before the last worker has had its batches
        stage.await_amid_traffic(f"the worker dies at {point}", lambda: not dying.running)
        code = dying.wait()
        held = stage.owned("w1")
        stage.fault(f"SIGKILL at {point}", held)
        stage.expect(code == -signal.SIGKILL, f"the worker died at {point}, and not with exit code {code}")
    dying.start()


def kills_at_points_alone(stage: Stage) -> None:
    """The same with nobody else there, so that the successor finds exactly what the dead one left."""
    worker = stage.worker("w1", flush_seconds=0.001, max_batch=25)
    part = len(stage.records) // (len(POINTS) + 1)
    for visit, point in enumerate(POINTS, start=3):
        # in portions: however fast the machine is, each worker has batches enough to die at the right one
        stage.feed(part, rate=part / 0.5)
        worker.start(KillAt(point, visit=visit))
        code = worker.wait()
        stage.fault(f"SIGKILL at {point}", range(stage.scene.partitions))
        stage.expect(code == -signal.SIGKILL, f"the worker died at {point}, and not with exit code {code}")
    stage.feed()
    worker.start()


def _zombie(stage: Stage, point: str, *more: KillAt, visit: int = 12, **settings: Any) -> WorkerProcess:
    """w1 stops itself at ``point``, w2 takes its partitions, scores them, and then w1 wakes up."""
    zombie, heir = stage.worker("w1", **settings), stage.worker("w2")
    zombie.start(ActAt(point, visit=visit, signal=signal.SIGSTOP), *more)
    stage.await_owners("w1")
    heir.start()
    stage.await_owners("w1", "w2")
    held = stage.owned("w1")
    stage.feed(rate=len(stage.records) / 14.0)
    stage.await_amid_traffic("w1 stops itself", lambda: zombie.stopped)
    fault = stage.fault(f"SIGSTOP at {point}", held)
    reached = {p: end for p, end in stage.reaches().items() if p in held}
    stage.await_owners("w2")
    stage.await_news(fault.at, held)
    # until then the heir may hold just what the zombie is about to write, and writing it does no harm
    # amid traffic: on a slow day everything was sent by the time at which w1 fell silent
    stage.await_amid_traffic(
        "the heir's state goes beyond the zombie's",
        lambda: all(stage.scene.applied(p) > end for p, end in reached.items()),
    )
    os.kill(zombie.pid, signal.SIGCONT)
    return zombie


def zombie_in_transaction(stage: Stage) -> None:
    """Stopped between producing and sending offsets; what it then wants to commit must never be seen."""
    zombie = _zombie(stage, "after_produce")
    stage.await_that(
        "the zombie learns from Kafka that it is fenced",
        lambda: _told_by_kafka(stage, zombie),
    )


def zombie_with_offsets(stage: Stage) -> None:
    """Stopped after sending offsets: everything is there but the commit."""
    zombie = _zombie(stage, "after_send_offsets")
    stage.await_that(
        "the zombie learns from Kafka that it is fenced",
        lambda: _told_by_kafka(stage, zombie),
    )


def zombie_after_commit(stage: Stage) -> None:
    """Stopped after the commit, with state in hand that the heir has long written anew.

    It would die right after having written that: then nobody could put it right.
    """
    last_words = KillAt("after_flush", visit=3)
    zombie = _zombie(stage, "before_flush", last_words, visit=3, flush_seconds=1.0)
    stage.await_that(
        "the zombie learns from Redis that it is fenced",
        lambda: stage.says(zombie, _FENCED_BY_STORE) or not zombie.running,
    )
    stage.expect(stage.says(zombie, _FENCED_BY_STORE), "Redis has refused the zombie's state")


def same_id(stage: Stage) -> None:
    """Two workers under one id: one must give up with a remedy, and nothing is scored twice."""
    first = stage.worker("w1", log="w1-first")
    second = stage.worker("w1", log="w1-second")
    first.start()
    stage.await_owners("w1")
    part = stage.paced // 3
    twins = [first, second]
    for _ in range(3):
        # in portions, so that the twins have something to fight for
        stage.feed(part, rate=part / 6.0)
        stage.await_answers(stage.fed - part + part // 8)
        stage.fault("second worker under one id")
        late = next(twin for twin in twins if not twin.running)
        late.start()
        stage.await_amid_traffic("one of the two gives up", lambda: not all(t.running for t in twins))
        [loser] = [twin for twin in twins if not twin.running]
        code = loser.wait()
        stage.expect(code == _EXIT_FATAL, f"the loser ends with exit code {_EXIT_FATAL}, not {code}")
        stage.expect(stage.says(loser, "its own TIDEGATE_WORKER_ID"), "the loser names the remedy")


def stalled_transaction(stage: Stage) -> None:
    """A thread stands still inside a transaction for longer than its time-out; the membership goes on."""
    tuning = Tuning(transaction_ms=2_000)
    staller, other = stage.worker("w1", tuning=tuning), stage.worker("w2", tuning=tuning)
    # the broker looks for transactions that are over time every ten seconds
    staller.start(ActAt("after_produce", visit=12, seconds=13.0))
    stage.await_owners("w1")
    other.start()
    stage.await_owners("w1", "w2")
    held = stage.owned("w1")
    stage.feed(rate=len(stage.records) / 18.0)
    stage.await_answers(len(stage.records) // 4)
    fault = stage.fault("a transaction left open beyond its time-out", held)
    stage.await_that(
        "the worker notices that its transaction is gone",
        lambda: _told_by_kafka(stage, staller),
    )
    stage.await_news(fault.at, held)


def rebalance_storm(stage: Stage) -> None:
    """One worker, then two, three, four, then fewer again, twice; partitions move while events come."""
    chance = random.Random(SEED)
    workers = {f"w{n}": stage.worker(f"w{n}") for n in range(1, 5)}
    running = ["w1"]
    workers["w1"].start()
    stage.await_owners("w1")
    stage.feed(rate=len(stage.records) / 24.0)
    for _ in range(2):
        for worker_id in ("w2", "w3", "w4"):
            workers[worker_id].start()
            running.append(worker_id)
            stage.fault(f"{worker_id} joins")
            if chance.random() < 0.5:
                stage.await_owners(*running)
        stage.await_owners(*running)
        while len(running) > 1:
            worker_id = running.pop(chance.randrange(1, len(running)))
            stage.fault(f"{worker_id} leaves", stage.owned(worker_id))
            workers[worker_id].stop()
        stage.await_owners("w1")


def default_recovery(stage: Stage) -> None:
    """SIGKILL with the settings that a user has: idle or not, in a transaction, and with offsets in it."""
    tuning = Tuning(session_ms=None)
    survivor = stage.worker("w1", tuning=tuning, quick=False)
    victim = stage.worker("w2", tuning=tuning, quick=False)
    survivor.start()
    stage.await_owners("w1")
    stage.feed(rate=len(stage.records) / 45.0)
    for point in (None, "after_produce", "after_send_offsets"):
        victim.start()
        stage.await_owners("w1", "w2")
        held = stage.owned("w2")
        if point is None:
            stage.await_news(micros(), held)
            stage.kill(victim, "w2")
        else:
            victim.stop()
            victim.start(KillAt(point, visit=40))
            stage.await_owners("w1", "w2")
            held = stage.owned("w2")
            code = victim.wait()
            stage.fault(f"SIGKILL at {point}", held)
            stage.expect(code == -signal.SIGKILL, f"the worker died at {point}, not with exit code {code}")
        stage.await_news(stage.faults[-1].at, held)
    worst = max((seconds for _, seconds in stage.recovery_seconds()), default=99.0)
    stage.expect(worst < 10.0, f"recovery with default settings within 10 s; it took {worst} s")


SCENARIOS = (
    Scenario(
        "random-kills",
        "SIGKILL of either of two workers, 50 times at random",
        random_kills,
        events=100_000,
        short_events=4_000,
        telling=True,
    ),
    Scenario(
        "kills-at-points",
        "SIGKILL at each step of a batch, another worker takes over",
        kills_at_points,
        events=8_000,
    ),
    Scenario(
        "kills-at-points-alone",
        "SIGKILL at each step of a batch, one worker after another",
        kills_at_points_alone,
        events=4_000,
        partitions=2,
        short_events=3_000,
    ),
    Scenario(
        "zombie-in-transaction",
        "SIGSTOP after producing, SIGCONT when another owns its partitions",
        zombie_in_transaction,
        short_events=4_000,
    ),
    Scenario(
        "zombie-with-offsets",
        "SIGSTOP after sending offsets, SIGCONT when another owns its partitions",
        zombie_with_offsets,
    ),
    Scenario(
        "zombie-after-commit",
        "SIGSTOP between commit and flush, SIGCONT when another owns its partitions",
        zombie_after_commit,
        short_events=4_000,
        telling=True,
    ),
    Scenario("same-id", "two workers with one transactional id", same_id),
    Scenario("stalled-transaction", "a transaction open for longer than its time-out", stalled_transaction),
    Scenario("rebalance-storm", "1 to 4 to 1 workers, twice", rebalance_storm, events=8_000),
    Scenario(
        "default-recovery",
        "SIGKILL of one of two workers, with default settings",
        default_recovery,
        events=12_000,
    ),
)
