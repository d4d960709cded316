"""Where a scenario plays: topics, workers, servers, readers that watch, a feeder, and a record of every fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka.admin import AdminClient

from domain.errors import TidegateError
from domain.verdict import Verdict
from scoring.verdicts import decode_verdict
from stream.kafka import KafkaConnection
from stream.replay import Pace, Sendable, replay, replay_producer
from tests.chaos.judge import Evidence
from tests.chaos.members import members_of
from tests.chaos.services import Services
from tests.chaos.watch import Seen, Watch, read_all
from tests.system.scene import Scene
from tests.system.worker_program import Tuning, WorkerProcess

__all__ = ["PIPELINE", "Injection", "Stage", "Stuck", "micros"]

PIPELINE = Path(__file__).with_name("pipeline.yaml")
PATIENCE = 180.0
"""Seconds for anything that has to happen; the longest is an outcome that the broker never tells (30 s)."""
SABOTAGED_PATIENCE = 30.0
"""The same where something is broken on purpose, and waiting is what comes of it."""
_DRIP = 40
"""Events that are likely to reach every partition."""
# Small transactions, little memory, and state that lags behind by different amounts when a fault comes.
QUICK: dict[str, Any] = {
    "max_batch": 100,
    "max_entities": 1_000,
    "flush_seconds": 0.1,
    "snapshot_seconds": 0.5,
}


class Stuck(AssertionError):
    """Something that had to happen did not."""


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault: what, when (UTC microseconds), and the partitions whose next verdict tells that it is over."""

    what: str
    at: int
    partitions: frozenset[int]


class _Scored(msgspec.Struct):
    scored_at: int


def micros() -> int:
    """The wall clock that workers stamp verdicts with, UTC microseconds."""
    return time.time_ns() // 1000


@dataclass
class Stage:
    """See the module; made by :meth:`Stage.open`."""

    scene: Scene
    services: Services
    records: list[Sendable]
    sabotage: str
    inputs: Watch
    verdicts: Watch
    letters: Watch
    closing: ExitStack
    faults: list[Injection] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    admin: AdminClient = field(init=False)
    _fed: int = 0
    _reserve: int = field(init=False)
    _feeders: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reserve = len(self.records) // 8
        self.admin = AdminClient(KafkaConnection(self.scene.bootstrap, {"log_level": 2}).client("chaos"))

    @classmethod
    @contextmanager
    def open(
        cls, services: Services, name: str, records: list[Sendable], partitions: int, sabotage: str
    ) -> Iterator[Stage]:
        """Topics nobody else uses, and readers of them; everything is ended afterwards."""
        with ExitStack() as stack:
            bootstrap = services.kafka.bootstrap
            url = services.redis.url
            opened = Scene.open(bootstrap, url, PIPELINE, name, services.directory, partitions)
            scene = stack.enter_context(opened)
            topics = scene.topics
            inputs, verdicts, letters = (
                stack.enter_context(closing(Watch(bootstrap, topic, partitions)))
                for topic in (topics.events, topics.verdicts, topics.dead_letters)
            )
            yield cls(scene, services, records, sabotage, inputs, verdicts, letters, stack)

    # -- workers

    def worker(
        self,
        worker_id: str,
        *,
        tuning: Tuning | None = None,
        log: str | None = None,
        quick: bool = True,
        **settings: object,
    ) -> WorkerProcess:
        """A worker to start, with little of everything unless ``quick`` is False; sabotaged where told so."""
        tuned = tuning or Tuning()
        if self.sabotage:
            tuned = Tuning(
                tuned.session_ms, tuned.transaction_ms, tuned.consumer, tuned.producer, self.sabotage
            )
        wanted = {**(QUICK if quick else {}), **settings}
        return self.scene.worker(worker_id, tuning=tuned, log=log, **wanted)

    def start(self, count: int, **settings: Any) -> list[WorkerProcess]:
        """Workers w1 to w<count>, started, each with at least one partition."""
        workers = [self.worker(f"w{number}", **settings) for number in range(1, count + 1)]
        for worker in workers:
            worker.start()
        self.await_owners(*(f"w{number}" for number in range(1, count + 1)))
        return workers

    def owned(self, worker_id: str) -> frozenset[int]:
        """The partitions that the group gives a worker now."""
        return self._owners().get(worker_id, frozenset())

    def _owners(self) -> dict[str, frozenset[int]]:
        group = f"{self.scene.pipeline.name}.worker"
        prefix = f"tidegate-{self.scene.pipeline.name}-"
        deadline = time.monotonic() + PATIENCE
        # a broker that has just started, or moves its coordinator, cannot tell yet
        while (members := members_of(self.scene.bootstrap, group)) is None:
            if time.monotonic() > deadline:
                raise Stuck(f"the broker does not tell who is in {group}")
        owners: dict[str, frozenset[int]] = {}
        for client_id, held in members:
            name = client_id.removeprefix(prefix)
            owners[name] = owners.get(name, frozenset()) | held
        return owners

    def await_owners(self, *worker_ids: str) -> None:
        """Until these workers, and no others, share all partitions."""

        def shared() -> bool:
            owners = {name: held for name, held in self._owners().items() if held}
            everything = frozenset().union(*owners.values())
            return owners.keys() == set(worker_ids) and len(everything) == self.scene.partitions

        self.await_that(f"{', '.join(worker_ids)} share the partitions", shared, every=0.1)

    def kill(self, worker: WorkerProcess, worker_id: str) -> None:
        """SIGKILL to a worker, noted as a fault of the partitions it holds."""
        held = self.owned(worker_id)
        self.fault(f"SIGKILL {worker_id}", held)
        worker.kill()

    def says(self, worker: WorkerProcess, text: str) -> bool:
        """Whether the log of a worker holds ``text``."""
        return worker.log.exists() and text in worker.log.read_text(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Log lines of all workers with this ``event``."""
        lines = []
        for log in {worker.log for worker in self.scene.workers}:
            if log.exists():
                for line in log.read_text(errors="replace").splitlines():
                    if line.startswith("{") and f'"event": "{event}"' in line:
                        lines.append(json.loads(line))
        return lines

    # -- traffic

    def feed(self, count: int | None = None, rate: float | None = None) -> None:
        """Send the next ``count`` records in the background, ``rate`` a second.

        None: all that are left but an eighth, which :meth:`await_news` and :meth:`finish` may need.
        """
        left = self.paced if count is None else self._fed + count
        upto = max(self._fed, min(left, len(self.records)))
        part, self._fed = self.records[self._fed : upto], upto
        producer = replay_producer(KafkaConnection(self.scene.bootstrap, {"log_level": 2}))

        def send() -> None:
            try:
                replay(part, producer, self.scene.topics.events, pace=Pace(rate=rate))
            except TidegateError as error:
                self.problems.append(f"the feeder failed: {error}")

        self.await_fed()
        thread = threading.Thread(target=send, name="feeder", daemon=True)
        self._feeders.append(thread)
        thread.start()

    @property
    def _idle(self) -> bool:
        fed = not any(thread.is_alive() for thread in self._feeders)
        return fed and self.answers >= self._fed

    def await_fed(self) -> None:
        """Until what :meth:`feed` was asked for is in the topic."""
        for thread in self._feeders:
            thread.join()

    @property
    def paced(self) -> int:
        """How many records :meth:`feed` sends unless told how many."""
        return len(self.records) - self._reserve

    @property
    def fed(self) -> int:
        """How many records :meth:`feed` was asked for so far."""
        return self._fed

    def scored_after(self, since: int) -> list[Verdict]:
        """Verdicts scored after ``since`` (UTC microseconds), as seen so far."""
        verdicts = [decode_verdict(seen.value or b"") for seen in list(self.verdicts.seen)]
        return [verdict for verdict in verdicts if verdict.scored_at > since]

    def watch_verdicts_anew(self) -> None:
        """After the topic was deleted and made again: what was seen so far does not count."""
        self.verdicts.close()
        self.verdicts = Watch(self.scene.bootstrap, self.scene.topics.verdicts, self.scene.partitions)
        self.closing.callback(self.verdicts.close)

    @property
    def answers(self) -> int:
        """Verdicts and dead letters seen so far."""
        return len(self.verdicts) + len(self.letters)

    def await_answers(self, count: int) -> None:
        """Until so many verdicts and dead letters were seen."""
        self.await_that(f"{count} answers", lambda: self.answers >= count)

    def await_news(self, since: int, partitions: Iterable[int]) -> None:
        """Until each of ``partitions`` has a verdict that was scored after ``since`` (UTC microseconds)."""
        left = set(partitions)
        at = 0

        def all_there() -> bool:
            nonlocal at
            fresh = self.verdicts.seen[at:]
            at += len(fresh)
            left.difference_update(s.partition for s in fresh if _scored_at(s) > since)
            return not left

        self.await_amid_traffic("new verdicts of every partition", all_there)

    # -- faults

    def fault(self, what: str, partitions: Iterable[int] = ()) -> Injection:
        """Note a fault that is injected now."""
        made = Injection(what, micros(), frozenset(partitions))
        self.faults.append(made)
        return made

    def expect(self, holds: bool, text: str) -> None:
        """What the scenario must have shown; a problem of the scenario when it has not."""
        if not holds:
            self.problems.append(f"not so: {text}")

    def await_that(
        self, what: str, holds: Callable[[], bool], seconds: float = PATIENCE, every: float = 0.02
    ) -> None:
        """Until ``holds()``; raises Stuck, with the logs' ends, when it never does."""
        if self.sabotage:
            seconds = min(seconds, SABOTAGED_PATIENCE)
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not holds():
            if time.monotonic() > deadline:
                what = f"{what}; {self.answers} answers to {len(self.inputs)} inputs"
                logs = "\n".join(worker.tail(8) for worker in self.scene.workers)
                raise Stuck(f"not within {seconds:.0f} s: {what}\n{logs}")
            pause.wait(every)

    def await_amid_traffic(self, what: str, holds: Callable[[], bool]) -> None:
        """The same for what only events bring about: where all were answered, on a slow day, some more are sent."""

        def holds_or_sends() -> bool:
            if holds():
                return True
            if self._idle:
                self.feed(_DRIP)
            return False

        self.await_that(what, holds_or_sends)

    def reaches(self) -> dict[int, int]:
        """By partition, the offset after the last input seen so far."""
        ends: dict[int, int] = {}
        for seen in list(self.inputs.seen):
            ends[seen.partition] = max(ends.get(seen.partition, 0), seen.offset + 1)
        return ends

    def await_applied(self, ends: Mapping[int, int]) -> None:
        """Until the state in Redis reflects the events of each partition below its offset in ``ends``."""
        self.await_that(
            "state in Redis", lambda: all(self.scene.applied(p) >= end for p, end in ends.items())
        )

    # -- the end

    def finish(self) -> None:
        """Let everything come to rest: all answered, all in Redis, workers gone, readers at the end."""
        if any(worker.running for worker in self.scene.workers):
            self.feed(len(self.records))
        self.await_fed()
        self.await_that("all inputs seen", lambda: len(self.inputs) >= self._fed)
        try:
            self.await_that(
                f"{self._fed} answers",
                lambda: self.answers >= self._fed or not any(w.running for w in self.scene.workers),
            )
            self.await_applied(self.reaches())
        except (Stuck, TidegateError) as error:
            # the judge looks at what there is; the numbers say more than a missed deadline
            self.problems.append(str(error))
        for worker in self.scene.workers:
            if worker.running:
                try:
                    worker.stop()
                except AssertionError as error:
                    self.problems.append(f"a worker did not stop well: {error}")

    def evidence(self) -> Evidence:
        """What was seen, and what a late reader sees."""
        topics, partitions, bootstrap = self.scene.topics, self.scene.partitions, self.scene.bootstrap
        late = [
            read_all(bootstrap, t, partitions) for t in (topics.verdicts, topics.dead_letters, topics.alerts)
        ]
        for watch, afterwards in ((self.verdicts, late[0]), (self.letters, late[1])):
            count = len(afterwards)
            watch.await_that(lambda w=watch, c=count: len(w) >= c, PATIENCE)  # type: ignore[misc]
        return Evidence(list(self.inputs.seen), list(self.verdicts.seen), list(self.letters.seen), *late)

    def recovery_seconds(self) -> list[tuple[str, float]]:
        """Per fault: from it to the first new verdict of the slowest of its partitions, as the reader saw it."""
        times: dict[int, list[tuple[int, int]]] = {}
        for seen in self.verdicts.seen:
            times.setdefault(seen.partition, []).append((_scored_at(seen), seen.at))
        found = []
        for fault in self.faults:
            firsts = [
                next((at for scored, at in times.get(p, []) if scored > fault.at), None)
                for p in fault.partitions
            ]
            seconds = [(at - fault.at) / 1e6 for at in firsts if at is not None]
            if seconds:
                found.append((fault.what, round(max(seconds), 3)))
        return found


def _scored_at(seen: Seen) -> int:
    return _decode_scored(seen.value or b"").scored_at


_decode_scored = msgspec.json.Decoder(_Scored).decode
