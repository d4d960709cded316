"""One judge for all scenarios: what went in, what came out, what the state is at rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from detectors.ensemble import Ensemble
from domain.verdict import Alert, Flag, Verdict
from scoring.engine import PartitionScorer
from scoring.verdicts import decode_verdict
from tests.chaos.findings import Findings
from tests.chaos.oracle import PartitionOracle
from tests.chaos.watch import Seen
from tests.system.scene import Scene

__all__ = ["Evidence", "judge"]

Note = Callable[[str, int], None]
_decode_alert = msgspec.json.Decoder(Alert).decode


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was seen: by readers who were there all the time, and (``late_...``) afterwards."""

    inputs: Sequence[Seen]
    verdicts: Sequence[Seen]
    letters: Sequence[Seen]
    late_verdicts: Sequence[Seen]
    late_letters: Sequence[Seen]
    alerts: Sequence[Seen]


def judge(scene: Scene, evidence: Evidence, *, degraded_due: bool, seed: int) -> tuple[Findings, list[str]]:
    """What is wrong, in numbers and in a few words (the first of each kind, for people).

    Call it when all is over and nobody writes any more. ``degraded_due``: the scenario has destroyed data on
    purpose; then wrong vectors are accepted where the verdict says so, and state is not compared.
    """
    findings = Findings(
        inputs=len(evidence.inputs), verdicts=len(evidence.verdicts), dead_letters=len(evidence.letters)
    )
    notes: list[str] = []

    def note(text: str, count: int) -> None:
        if count:
            notes.append(f"{text} ({count})")

    decoded = [decode_verdict(seen.value or b"") for seen in evidence.verdicts]
    findings = _complete(findings, evidence, decoded, note)
    for was, late in (
        (evidence.verdicts, evidence.late_verdicts),
        (evidence.letters, evidence.late_letters),
    ):
        unlike = _content(was) ^ _content(late)
        note(f"readers differ, first at {min(unlike)[:2] if unlike else ''}", len(unlike))
        findings = findings.plus(unlike=len(unlike))
    inputs_of: dict[int, list[Seen]] = defaultdict(list)
    for seen in sorted(evidence.inputs, key=lambda s: (s.partition, s.offset)):
        inputs_of[seen.partition].append(seen)
    for partition in range(scene.partitions):
        oracle = PartitionOracle.of(scene.pipeline, scene.codec, partition, inputs_of[partition])
        verdicts: dict[int, Verdict] = {}
        for verdict in decoded:
            if verdict.source.partition == partition:
                verdicts.setdefault(verdict.source.offset, verdict)
        findings = _judge_partition(
            findings, scene, oracle, verdicts, note, degraded_due=degraded_due, seed=seed
        )
    return findings, notes


def _content(records: Sequence[Seen]) -> set[tuple[int, int, bytes | None, bytes | None]]:
    return {(s.partition, s.offset, s.key, s.value) for s in records}


def _complete(findings: Findings, evidence: Evidence, verdicts: Sequence[Verdict], note: Note) -> Findings:
    """Every input answered once and in order, every alert written once."""
    answers: Counter[tuple[int, int]] = Counter((v.source.partition, v.source.offset) for v in verdicts)
    for letter in evidence.letters:
        headers = letter.headers
        answers[int(headers["tidegate-source-partition"]), int(headers["tidegate-source-offset"])] += 1
    wanted = {(seen.partition, seen.offset) for seen in evidence.inputs}
    lost = wanted - answers.keys()
    note(f"lost, first {min(lost) if lost else ''}", len(lost))
    doubled = sum(count - 1 for count in answers.values()) + len(answers.keys() - wanted)
    note("answers too many", doubled)
    last: dict[bytes | None, int] = {}
    disordered = 0
    for seen, verdict in zip(evidence.verdicts, verdicts, strict=True):
        disordered += verdict.source.offset <= last.get(seen.key, -1)
        last[seen.key] = verdict.source.offset
    note("out of order", disordered)
    due = Counter(
        (v.source.partition, v.source.offset)
        for v in verdicts
        if v.decision != "allow" and Flag.DUPLICATE not in v.flags
    )
    raised: Counter[tuple[int, int]] = Counter()
    for alert in evidence.alerts:
        source = _decode_alert(alert.value or b"").source
        raised[source.partition, source.offset] += 1
    silent, surplus = (due - raised).total(), (raised - due).total()
    note("alerts lost", silent)
    note("alerts too many", surplus)
    return findings.plus(
        lost=len(lost) + silent,
        doubled=doubled + surplus,
        disordered=disordered,
        duplicates=sum(Flag.DUPLICATE in v.flags for v in verdicts),
        late=sum(Flag.LATE in v.flags for v in verdicts),
        degraded=sum(Flag.DEGRADED in v.flags for v in verdicts),
    )


def _judge_partition(
    findings: Findings,
    scene: Scene,
    oracle: PartitionOracle,
    verdicts: dict[int, Verdict],
    note: Note,
    *,
    degraded_due: bool,
    seed: int,
) -> Findings:
    """Vectors, scores and state of one partition."""
    here = oracle.partition
    degraded = {offset for offset, v in verdicts.items() if Flag.DEGRADED in v.flags}
    differing = oracle.wrong_features(verdicts)
    wrong = [offset for offset in differing if offset not in degraded]
    note(f"partition {here}: wrong vector, first at {wrong[0] if wrong else ''}", len(wrong))
    undue = set() if degraded_due else degraded
    note(f"partition {here}: degraded for no reason, first at {min(undue) if undue else ''}", len(undue))
    mistold, ensemble = oracle.wrong_scores(verdicts)
    note(f"partition {here}: scores that do not come out again, first at {mistold[:1]}", len(mistold))
    compared, unlike = oracle.against_reference(seed)
    note(f"partition {here}: features unlike the reference's", unlike)
    state = 0
    if not degraded_due:
        state = _wrong_state(scene, oracle.end, oracle.state(verdicts), ensemble, note)
    return findings.plus(
        wrong_features=len(wrong),
        undue_degraded=len(undue),
        wrong_scores=len(mistold),
        referenced=compared,
        wrong_reference=unlike,
        wrong_state=state,
    )


def _wrong_state(scene: Scene, end: int, scorer: PartitionScorer, ensemble: Ensemble, note: Note) -> int:
    """How many keys of the partition are not what they should be."""
    here = scorer.partition
    wrong = 0
    applied = scene.applied(here)
    if applied != end:
        wrong += 1
        note(f"partition {here}: applied up to {applied}, the log ends at {end}", 1)
    wanted, got = scene.blobs_of(scorer), scene.blobs(here)
    absent, strange = wanted.keys() - got.keys(), got.keys() - wanted.keys()
    differing = [key for key in wanted.keys() & got.keys() if wanted[key] != got[key]]
    note(f"partition {here}: state missing, like {min(absent) if absent else ''}", len(absent))
    note(f"partition {here}: state too many, like {min(strange) if strange else ''}", len(strange))
    note(f"partition {here}: state differs, like {min(differing) if differing else ''}", len(differing))
    wrong += len(absent) + len(strange) + len(differing)
    if end:
        snapshot = scene.store.load_model(here)
        if snapshot is None or snapshot.next_offset != end:
            note(f"partition {here}: no snapshot of the detectors at the end", 1)
            return wrong + 1
        restored = Ensemble(scene.pipeline)
        restored.restore(snapshot.blob)
        if restored.snapshot() != ensemble.snapshot():
            note(f"partition {here}: the detectors' snapshot differs", 1)
            wrong += 1
    return wrong
