"""Are reasons right? How often removing a named value lowers the score, and what all named ones explain together.

Generated payments (the shipped pipeline) and the Fraud Detection Handbook's features, default detectors, alerts of
the default budget, several seeds. Each alert is explained by the detectors as they are after its batch of 500, as in a
worker. Compared: replacing each value by itself (``alone``), and averages over orders and their reverses (``orders6``:
three pairs, what the service does). ``random5`` names five random features. Run: ``python -m benchmarks.reasons``.

``cuts``: what becomes of the reasons of an alert when the same events are cut into micro-batches of 50 or of 2,000, of
which each explains its alerts at its end; beside reasons told in the very moment of the alert (micro-batches of 1).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.plain import handbook, plain_pipeline
from detectors.ensemble import Ensemble
from domain.batch import Floats, Ints
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from scoring.engine import PartitionScorer
from scoring.reasons import MAX_REASONS, contributions, explain
from stream.generator import Traffic, TrafficSettings
from tidegate.loading import load

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "examples" / "payments" / "pipeline.yaml"
RESULTS = Path(__file__).parent / "results" / "reasons.json"
BATCH = 500
CUTS = (50, 500, 2_000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one way to explain, over the alerts of one seed.

    explained        share of alerts with at least one reason that contributes
    reasons          mean number of reasons of those
    lowers, keeps, raises   share of reasons whose value, replaced alone, makes the score fall, stay, rise
    joint_lowers     share of explained alerts whose score falls when all named values are replaced
    joint_fall       mean fall then
    joint_below      share of alerts whose score is then below 1 - budget
    """

    data: str
    method: str
    seed: int
    alerts: int
    explained: float
    reasons: float
    lowers: float
    keeps: float
    raises: float
    joint_lowers: float
    joint_fall: float
    joint_below: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Reasons told at the end of micro-batches of ``batch`` events, beside those told at once.

    same_first, same_set   share of alerts with the same first reason, with the same reasons in any order
    farthest               mean over alerts of the greatest difference of a contribution
    """

    data: str
    seed: int
    batch: int
    alerts: int
    same_first: float
    same_set: float
    farthest: float


def features(pipeline: Pipeline, seed: int, events: int) -> Floats:
    """Vectors of generated payments, 1 % fraud."""
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = Traffic(TrafficSettings(seed=seed, fraud_share=0.01)).take(events)
    decoded = [codec.decode(event.payload, received_at=2**62) for event in flow if event.reject is None]
    return PartitionScorer(pipeline).features_only(codec.to_batch(decoded, range(len(decoded))))


def measure(
    data: str, pipeline: Pipeline, x: Floats, seed: int, budget: float
) -> tuple[list[Outcome], float, float]:
    """The outcomes of all methods; microseconds of ``explain`` per event and per alert."""
    ensemble = Ensemble(pipeline)
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[Floats, Floats, Floats]]] = {}
    spent, alerts, events = 0.0, 0, 0
    for at in range(0, len(x), BATCH):
        part = x[at : at + BATCH]
        output = ensemble.step(part)
        found = np.flatnonzero(output.reached > 0)
        if np.isnan(output.score).any() or len(x) - at > len(x) * 3 // 4:
            continue
        begin = time.perf_counter()
        if len(found):
            explain(ensemble, pipeline.feature_names, part, found)
        spent += time.perf_counter() - begin
        alerts += len(found)
        events += len(part)
        if len(found):
            _compare(ensemble, part[found], rng, rows)
    outcomes = [_outcome(data, method, seed, parts, budget) for method, parts in rows.items()]
    return outcomes, spent / events * 1e6, spent / max(alerts, 1) * 1e6


def cut(data: str, pipeline: Pipeline, x: Floats, seed: int) -> list[Cut]:
    """How far reasons depend on micro-batches, over the alerts of the last quarter of ``x``."""
    first = len(x) * 3 // 4 // max(CUTS) * max(CUTS)
    told: dict[int, dict[int, dict[str, float]]] = {}
    for size in (1, *CUTS):
        ensemble = Ensemble(pipeline)
        ensemble.step(x[:first])
        told[size] = {}
        for at in range(first, len(x), size):
            part = x[at : at + size]
            found = np.flatnonzero(ensemble.step(part).reached > 0)
            if len(found):
                for row, reasons in explain(ensemble, pipeline.feature_names, part, found).items():
                    told[size][at + row] = {one.feature: one.contribution for one in reasons}
    outcomes = []
    for size in CUTS:
        pairs = [(told[1][row], other) for row, other in told[size].items()]
        outcomes.append(
            Cut(
                data=data,
                seed=seed,
                batch=size,
                alerts=len(pairs),
                same_first=float(np.mean([list(a)[:1] == list(b)[:1] for a, b in pairs])),
                same_set=float(np.mean([a.keys() == b.keys() for a, b in pairs])),
                farthest=float(
                    np.mean(
                        [
                            max((abs(a.get(n, 0.0) - b.get(n, 0.0)) for n in {*a, *b}), default=0.0)
                            for a, b in pairs
                        ]
                    )
                ),
            )
        )
    return outcomes


def _compare(
    ensemble: Ensemble,
    x: Floats,
    rng: np.random.Generator,
    rows: dict[str, list[tuple[Floats, Floats, Floats]]],
) -> None:
    """Per method and alert: contributions of the chosen, what replacing each alone does, score before and after."""
    known: Ints = np.flatnonzero(~np.isnan(ensemble.reference.median))
    ways: dict[str, Floats] = {}
    for pairs in (1, 2, 3, 16):
        part, falls = contributions(ensemble, x, known, pairs)
        ways[f"orders{2 * pairs}"] = np.where(falls >= 0.0, part, 0.0)
    ways["alone"] = falls
    ways["random5"] = rng.random(falls.shape)
    for method, part in ways.items():
        order = np.argsort(-part, axis=1, kind="stable")[:, :MAX_REASONS]
        chosen = np.take_along_axis(part, order, axis=1) > 0.0
        without = x.copy()
        for row in range(len(x)):
            columns = known[order[row][chosen[row]]]
            without[row, columns] = ensemble.reference.median[columns]
        alone = np.where(chosen, np.take_along_axis(falls, order, axis=1), np.nan)
        scores = np.stack([ensemble.score(x).score, ensemble.score(without).score], axis=1)
        rows.setdefault(method, []).append((np.where(chosen, 1.0, 0.0), alone, scores))


def _outcome(
    data: str, method: str, seed: int, parts: list[tuple[Floats, Floats, Floats]], budget: float
) -> Outcome:
    chosen, alone, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    explained = chosen.any(axis=1)
    told = alone[~np.isnan(alone)]
    fall = scores[:, 0] - scores[:, 1]
    return Outcome(
        data=data,
        method=method,
        seed=seed,
        alerts=len(chosen),
        explained=float(explained.mean()),
        reasons=float(chosen[explained].sum(axis=1).mean()),
        lowers=float((told > 0.0).mean()),
        keeps=float((told == 0.0).mean()),
        raises=float((told < 0.0).mean()),
        joint_lowers=float((fall[explained] > 0.0).mean()),
        joint_fall=float(fall.mean()),
        joint_below=float((scores[:, 1] < 1.0 - budget).mean()),
    )


def main() -> None:
    """Measure, print, write benchmarks/results/reasons.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only-cuts", action="store_true", help="measure these, leave the other results as they are"
    )
    arguments = parser.parse_args()
    pipeline = load(PIPELINE)
    review = pipeline.decision.review
    budget = review.budget if review is not None and review.budget is not None else 0.005
    outcomes: list[Outcome] = []
    cuts: list[Cut] = []
    costs: dict[str, list[tuple[float, float]]] = {}
    names, vectors, _, _ = handbook()
    for seed in range(1, arguments.seeds + 1):
        first = seed * len(vectors) // (arguments.seeds + 2)
        own = plain_pipeline(names, seed, budget=budget)
        for data, declared, x in (
            ("payments", pipeline, features(pipeline, seed, arguments.events)),
            ("handbook", own, vectors[first : first + arguments.events]),
        ):
            cuts += cut(data, declared, x, seed)
            if arguments.only_cuts:
                continue
            found, per_event, per_alert = measure(data, declared, x, seed, budget)
            outcomes += found
            costs.setdefault(data, []).append((per_event, per_alert))
    for data, size in dict.fromkeys((one.data, one.batch) for one in cuts):
        figures = [(o.same_first, o.same_set, o.farthest) for o in cuts if (o.data, o.batch) == (data, size)]
        print(
            data,
            "cut by",
            size,
            np.mean(figures, axis=0).round(4),
            "spread",
            np.std(figures, axis=0).round(4),
        )
    if arguments.only_cuts:
        stored = json.loads(RESULTS.read_text())
        RESULTS.write_text(json.dumps({**stored, "cuts": [asdict(one) for one in cuts]}, indent=2) + "\n")
        return
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for data, method in dict.fromkeys((o.data, o.method) for o in outcomes):
        rows = [asdict(o) for o in outcomes if (o.data, o.method) == (data, method)]
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        means = {key: float(np.mean([row[key] for row in rows])) for key in numbers}
        spreads = {f"{key}_std": float(np.std([row[key] for row in rows])) for key in numbers}
        summary.setdefault(data, {})[method] = means | spreads
        print(data, method, {key: round(value, 3) for key, value in means.items()})
    result = {
        "events": arguments.events,
        "seeds": arguments.seeds,
        "microseconds_per_event": {data: [event for event, _ in each] for data, each in costs.items()},
        "microseconds_per_alert": {data: [alert for _, alert in each] for data, each in costs.items()},
        "summary": summary,
        "cuts": [asdict(one) for one in cuts],
        "outcomes": [asdict(o) for o in outcomes],
    }
    for data, each in costs.items():
        event, alert = np.mean(each, axis=0)
        print(f"{data}: {event:.2f} us per event, {alert:.0f} us per alert")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
