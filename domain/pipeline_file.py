"""Reading the pipeline file: YAML in, a checked Pipeline out, or every mistake at once.

docs/pipeline.md describes the file for people; :func:`domain.pipeline_schema.json_schema` for editors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from domain.errors import PipelineInvalid, Problem, ServiceMissing
from domain.pipeline import AggregateFeature, Feature, Field, FieldType, Pipeline
from domain.pipeline_decision import Kinds, read_decision, read_detectors, read_rule_files
from domain.pipeline_event import read_event
from domain.pipeline_features import CheckExpression, read_features
from domain.pipeline_guards import read_guards
from domain.pipeline_labels import read_labels
from domain.pipeline_reader import Report, Section
from domain.pipeline_retraining import read_retraining
from domain.pipeline_review import read_review
from domain.pipeline_schema import json_schema
from domain.pipeline_yaml import MAX_FILE_BYTES, read_yaml

__all__ = ["digest_of", "json_schema", "load_pipeline", "parse_pipeline"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_KEYS = (
    "pipeline",
    "version",
    "seed",
    "event",
    "features",
    "detectors",
    "decision",
    "rules",
    "guards",
    "labels",
    "retraining",
    "review",
)
_NOT_BUILT = {
    "lists": "Remove it; lists are kept with `tidegate lists` and the API (docs/rules.md).",
}


def load_pipeline(
    path: str | Path, *, kinds: Kinds | None = None, check_expression: CheckExpression | None = None
) -> Pipeline:
    """The pipeline declared in the file at ``path``; see :func:`parse_pipeline`.

    Raises ServiceMissing when there is no such file.
    """
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ServiceMissing(
            f"the pipeline file {path} cannot be read: {error.strerror}.",
            remedy="give the path of a pipeline file, or draft one with `tidegate pipeline init`",
        ) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if len(raw) > MAX_FILE_BYTES and error.start >= MAX_FILE_BYTES - 4:
            text = raw.decode(errors="replace")
        else:
            line = raw.count(b"\n", 0, error.start) + 1
            problem = Problem(line, 1, "(file)", "not UTF-8 text.", "Save the file as UTF-8.")
            raise PipelineInvalid(str(path), (problem,)) from None
    return parse_pipeline(text, str(path), kinds=kinds, check_expression=check_expression)


def parse_pipeline(
    text: str, source: str, *, kinds: Kinds | None = None, check_expression: CheckExpression | None = None
) -> Pipeline:
    """The pipeline declared by the YAML ``text``; ``source`` names it in messages.

    ``kinds`` maps each kind of detector to the record of its parameters (None: kinds and parameters go
    unchecked); ``check_expression`` raises ValueError for a text that is no expression over the given names
    (None: expressions go unchecked). Raises PipelineInvalid with every mistake, in order of lines.
    """
    root, problems = read_yaml(text)
    report = Report(problems)
    pipeline = None
    if root is not None:
        top = Section.open(root, "", report, "pipeline: payments")
        if top is not None:
            pipeline = _read(top, kinds, check_expression)
    if report.problems or pipeline is None:
        ordered = sorted(set(report.problems), key=lambda p: (p.line, p.column, p.path))
        raise PipelineInvalid(source, tuple(ordered))
    return msgspec.structs.replace(pipeline, digest=digest_of(pipeline))


def digest_of(pipeline: Pipeline) -> str:
    """SHA-256 (hex) of the declaration's canonical JSON, but for its digest and what changes no verdict."""
    bare = msgspec.to_builtins(msgspec.structs.replace(pipeline, digest=""), str_keys=True)
    for name in ("retraining", "labels", "review", "rules"):
        del bare[name]
    if bare["decision"]["explore"] is None:
        # a pipeline without it keeps the digest, and with it the state, that it had before there was such a thing
        del bare["decision"]["explore"]
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def _read(top: Section, kinds: Kinds | None, check: CheckExpression | None) -> Pipeline | None:
    top.only(_KEYS, _NOT_BUILT)
    name = top.text("pipeline", "Name the pipeline, for example `pipeline: payments`.")
    if name is not None and not _NAME.fullmatch(name):
        top.wrong(
            "pipeline",
            f"{name[:80]!r} is not a valid name.",
            "It begins Kafka topics: a lower-case letter, then up to 62 lower-case letters, digits, _ and -.",
        )
    version = top.integer("version", 1, 2**31, 1)
    seed = top.integer("seed", 0, 2**31 - 1, 0)
    event, fields = read_event(top)
    features = read_features(top, fields, 0 if event is None else event.max_lateness, check)
    declared = list(top.node.mapping["features"].mapping) if top.has("features") else []
    detectors = read_detectors(top, declared, kinds)
    decision = read_decision(top, declared)
    rules = read_rule_files(top)
    guards = read_guards(top)
    shown = set() if event is None else {f.name for f in event.fields if not f.sensitive}
    entities = {f.entity for f in features if isinstance(f, AggregateFeature)} & shown
    retraining = read_retraining(top, declared, sorted(entities))
    labels = read_labels(top)
    grouped = dict.fromkeys([*([] if event is None else [event.key]), *_entities(features)])
    review = read_review(top, _amounts(fields.values()), list(grouped))
    if name is None or event is None:
        return None
    return Pipeline(
        name=name,
        version=version,
        event=event,
        features=tuple(features),
        detectors=tuple(detectors),
        decision=decision,
        rules=rules,
        guards=guards,
        seed=seed,
        retraining=retraining,
        labels=labels,
        review=review,
    )


def _entities(features: Iterable[Feature]) -> list[str]:
    return [f.entity for f in features if isinstance(f, AggregateFeature)]


def _amounts(fields: Iterable[Field]) -> list[str]:
    """Fields that are numbers to calculate with."""
    return [f.name for f in fields if f.type in (FieldType.NUMBER, FieldType.INTEGER) and f.numeric]
