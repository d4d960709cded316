"""What rules cost an event: 0, 10, 100 and 500 of them, on generated payments in micro-batches of 500 and of 50.

``rules_us``: microseconds of processor time per event of everything that rules add (their columns, evaluation, which
goes first, what verdicts say of them), ``engine_us`` of the whole engine with them, ``encode_us`` of the verdicts as
JSON; the least of several passes, which follow each other so that noise meets all alike. The rules compare numbers,
texts and lists of 1,000 entries; ``hits`` is how many hit an event. ``compile_ms``: compiling the set, and once more
with nothing changed. ``cel_python_us``: cel-python's own evaluator on 10 rules, row by row. Run:
``python -m benchmarks.rules``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celpy
import numpy as np

from domain.batch import EventBatch, Ints
from domain.codec import EventCodec
from domain.list_records import ListEntry
from domain.list_view import ListIndex
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.rule_records import Rule, RuleAction, RuleSet
from scoring.engine import PartitionScorer
from scoring.rules import CompiledRules, compile_rules
from scoring.rules_in_use import NO_RULES, RulesInUse, Ruling
from scoring.verdicts import VerdictEncoder
from stream.generator import Traffic, TrafficSettings
from tidegate.loading import load

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "examples" / "payments" / "pipeline.yaml"
RESULTS = Path(__file__).parent / "results" / "rules.json"
COUNTS = (0, 10, 100, 500)
BATCHES = (500, 50)
_TEMPLATES = (
    "amount > {big}.0 && country != 'DE'",
    "account_count_1h > {some}.0 || amount_to_account_mean > {big}.0",
    "country in ['N{n}', 'X{n}', 'Y{n}'] && amount > 100.0",
    "account_id in lists.watched && score > 0.9{n:03}",
    "merchant_id in lists.known && amount_to_merchant_mean > {some}.0",
    "channel == 'c{n}' ? amount > {big}.0 : account_sum_1d > {big}00.0",
    "hour(event_time) < 5.0 && account_merchants_7d >= {some}.0 && amount > 200.0",
    "score > 0.99{n:03}",
    "max(amount, account_max_7d) / max(account_mean_7d, 1.0) > {big}.0",
    "is_missing(country) && merchant_count_1h < 3.0 && amount > {big}.0",
)


def rule_set(count: int) -> RuleSet:
    """So many rules, of ten kinds; every fifth acts, every seventh moves the score."""
    rules = tuple(
        Rule(
            id=f"rule-{n}",
            when=_TEMPLATES[n % len(_TEMPLATES)].format(n=n, big=300 + n, some=10 + n % 20),
            action=RuleAction.REVIEW if n % 5 == 0 else RuleAction.NONE,
            score_effect=0.05 if n % 7 == 0 else 0.001,
        )
        for n in range(count)
    )
    return RuleSet(epoch=1, rules=rules, changed_at=0, changed_by="bench", reason="bench")


def main() -> None:
    """Measure, print, write benchmarks/results/rules.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=5)
    arguments = parser.parse_args()
    pipeline = load(PIPELINE)
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = Traffic(TrafficSettings(seed=1, fraud_share=0.01)).take(arguments.events)
    decoded = [codec.decode(event.payload, received_at=2**62) for event in flow if event.reject is None]
    batch = codec.to_batch(decoded, range(len(decoded)))
    lists = _lists(batch)
    compiled = {count: compile_rules(rule_set(count), pipeline) for count in COUNTS}
    rows = []
    for size in BATCHES:
        least: dict[int, list[float]] = {}
        for _ in range(arguments.passes):
            for count in COUNTS:
                used = RulesInUse(compiled[count], lists) if count else NO_RULES
                figures = _pass(pipeline, batch, used, size)
                least[count] = [min(pair) for pair in zip(figures, least.get(count, figures), strict=True)]
        for count, (rules_us, engine_us, encode_us, hits) in least.items():
            row = {
                "rules": count,
                "batch": size,
                "rules_us": round(rules_us, 3),
                "engine_us": round(engine_us, 3),
                "encode_us": round(encode_us, 3),
                "hits": round(hits, 4),
            }
            rows.append(row)
            print(row)
    result = {
        "events": len(batch),
        "passes": arguments.passes,
        "rows": rows,
        "compile_ms": {
            str(count): _compile_ms(pipeline, count, compiled[count]) for count in COUNTS if count
        },
        "cost": {str(count): one.cost for count, one in compiled.items()},
        "cel_python_us": round(_cel_python(pipeline, batch), 1),
    }
    print({key: value for key, value in result.items() if key != "rows"})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _lists(batch: EventBatch) -> ListIndex:
    found = ListIndex()
    entries = [
        ListEntry(list=name, field=field, value=value, added_at=0, added_by="bench", number=1)
        for name, field, values in (
            ("watched", "account_id", batch.entities["account_id"]),
            ("known", "merchant_id", batch.entities["merchant_id"]),
        )
        for value in sorted(set(values))[:1_000]
    ]
    found.change(1, entries)
    return found


def _pass(pipeline: Pipeline, batch: EventBatch, used: RulesInUse, size: int) -> list[float]:
    """Microseconds per event of the rules, the whole engine, the encoder; and hits per event."""
    scorer = PartitionScorer(pipeline, rules=used)
    encoder = VerdictEncoder(pipeline, code_version="bench")
    watched = _Watch()
    engine = encode = 0.0
    hits = 0
    with watched:
        for at in range(0, len(batch), size):
            part = _cut(batch, at, at + size)
            begin = time.process_time()
            scored = scorer.process(part)
            middle = time.process_time()
            for verdict in encoder.verdicts(scored, partition=0, scored_at=1):
                encoder.encode(verdict)
            engine, encode = engine + middle - begin, encode + time.process_time() - middle
            hits += sum(map(len, scored.rules.values()))
    return [spent / len(batch) * 1e6 for spent in (watched.spent, engine, encode)] + [hits / len(batch)]


class _Watch:
    """Times what rules add to the engine, from inside; restores the engine afterwards."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._plain = (Ruling._decide, Ruling.rule)

    def __enter__(self) -> _Watch:
        Ruling._decide = self._timed(Ruling._decide)  # type: ignore[method-assign]
        Ruling.rule = self._timed(Ruling.rule)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Ruling._decide, Ruling.rule = self._plain  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.process_time()
            try:
                return call(*arguments)
            finally:
                self.spent += time.process_time() - begin

        return timed


def _compile_ms(pipeline: Pipeline, count: int, before: CompiledRules) -> list[float]:
    rules = rule_set(count)
    spent = []
    for known in (None, before):
        begin = time.process_time()
        compile_rules(rules, pipeline, before=known)
        spent.append(round((time.process_time() - begin) * 1e3, 1))
    return spent


def _cel_python(pipeline: Pipeline, batch: EventBatch) -> float:
    """Microseconds per event of cel-python's evaluator on the first of the rules that it can run as they are."""
    environment = celpy.Environment()
    double, text = celpy.celtypes.DoubleType, celpy.celtypes.StringType
    lists = celpy.celtypes.MapType(
        {text(name): celpy.celtypes.ListType([text("x")]) for name in ("watched", "known")}
    )
    programs = [
        environment.program(environment.compile(rule.when))
        for rule in rule_set(10).rules
        if not any(name in rule.when for name in ("hour(", "max(", "is_missing("))
    ]
    names = (*pipeline.feature_names, "score")
    rows: Ints = np.arange(min(len(batch), 300))
    begin = time.process_time()
    for row in rows.tolist():
        context: dict[str, Any] = {name: double(1.0) for name in names}
        context |= {name: text(values[row] or "") for name, values in batch.strings.items()}
        context["lists"] = lists
        for program in programs:
            program.evaluate(context)
    return (time.process_time() - begin) / len(rows) * 1e6 * 10 / len(programs)


def _cut(batch: EventBatch, start: int, stop: int) -> EventBatch:
    return EventBatch(
        ids=batch.ids[start:stop],
        times=batch.times[start:stop],
        offsets=batch.offsets[start:stop],
        entities={name: values[start:stop] for name, values in batch.entities.items()},
        numbers={name: values[start:stop] for name, values in batch.numbers.items()},
        strings={name: values[start:stop] for name, values in batch.strings.items()},
    )


if __name__ == "__main__":
    main()
