"""Asking every operation of an OpenAPI document what its schemas allow and forbid; whatever is not as documented."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

__all__ = ["Asked", "ask_everything"]

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
Case = schemathesis.Case[Any]
_DEADLINE = "deadline_ms"
_CUT = 3


@dataclass
class Asked:
    """How often each operation (method and path) was asked, with which statuses, and what was wrong."""

    statuses: dict[str, dict[int, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def ask_everything(url: str, *, covering: int, fuzzing: int, patience: float) -> Asked:
    """Ask the API at ``url``: of each operation ``covering`` cases that go through its schemas one limit after the
    other, and ``fuzzing`` random ones each of valid and of invalid requests. The same ones each time.

    Answers of 503 with Retry-After are asked for again, as clients do, for ``patience`` seconds.
    """
    document = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").raise_for_status().json())
    asked = Asked()
    with httpx.Client(timeout=patience) as client:
        for found in document.get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]  # an Err raises here, with what is wrong
            tally = asked.statuses.setdefault(operation.label, {})

            def one(case: Case, tally: dict[int, int] = tally) -> None:
                status, wrong = _ask(client, url, case, patience)
                tally[status] = tally.get(status, 0) + 1
                asked.wrong.extend(wrong)

            for case in _spread(document, operation, covering):
                one(case)
            for mode in _modes(operation) if fuzzing else ():
                _fuzz(operation, mode, fuzzing, one)
    return asked


def _modes(operation: Any) -> list[GenerationMode]:
    """Random requests cost seconds to set up, so: of both kinds where there is a body, else valid ones."""
    if operation.body:
        return list(GenerationMode)
    return [GenerationMode.POSITIVE] if list(operation.iter_parameters()) else []


def _spread(document: Any, operation: Any, most: int) -> Iterator[Case]:
    cases = list(
        document.iter_coverage_cases(
            operation,
            generation_modes=list(GenerationMode),
            generation_config=GenerationConfig(deterministic=True),
        )
    )
    step = max(1.0, len(cases) / most)
    return (cases[int(i * step)] for i in range(min(most, len(cases))))


def _fuzz(operation: Any, mode: GenerationMode, examples: int, one: Any) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def run(case: Case) -> None:
        one(case)

    try:
        run()
    except Unsatisfiable:
        # there may be nothing that can be asked wrongly
        assert mode is GenerationMode.NEGATIVE, operation.label


def _ask(client: httpx.Client, url: str, case: Case, patience: float) -> tuple[int, list[str]]:
    """The answer's status, and what is wrong with it."""
    if str(case.query.get(_DEADLINE, "")).isdecimal() and 1 <= int(case.query[_DEADLINE]) <= 30_000:
        # a verdict within a millisecond is the caller's to hope for; 503 is then the documented answer
        case.query[_DEADLINE] = "30000"
    request = case.as_transport_kwargs(url)
    again, cut = time.monotonic() + patience, 0
    while True:
        try:
            answer, endless = _answered(client, request)
        except httpx.TransportError as error:
            # whoever is refused may find the connection closed under what it still sends, but not each time
            if (cut := cut + 1) > _CUT:
                return 0, [f"{case.operation.label}: {request['url']}: {error!r}"]
            continue
        if answer.status_code == 503 and "retry-after" in answer.headers and time.monotonic() < again:
            time.sleep(float(answer.headers["retry-after"]))
            continue
        break
    if endless:
        documented = case.operation.definition.raw["responses"].get(str(answer.status_code), {})
        fine = "text/event-stream" in documented.get("content", {})
        return answer.status_code, [] if fine else [
            f"{case.operation.label}: a stream that is not documented"
        ]
    try:
        case.validate_response(answer, checks=_CHECKS)
    except FailureGroup as group:
        told = [_told(case, request, answer, failure) for failure in group.exceptions]
        return answer.status_code, told
    except Failure as failure:
        return answer.status_code, [_told(case, request, answer, failure)]
    return answer.status_code, []


def _answered(client: httpx.Client, request: dict[str, Any]) -> tuple[httpx.Response, bool]:
    """The answer, and whether it is a stream without end (which is not read)."""
    with client.stream(
        request["method"],
        request["url"],
        params=request.get("params"),
        headers=dict(request["headers"]),
        content=request.get("data"),
        json=request.get("json"),
    ) as answer:
        endless = answer.headers.get("content-type", "").startswith("text/event-stream")
        if not endless:
            answer.read()
    return answer, endless


def _told(case: Case, request: dict[str, Any], answer: httpx.Response, why: object) -> str:
    asked = {k: request[k] for k in ("params", "json", "data") if request.get(k)}
    return (
        f"{case.operation.label}: {request['method']} {request['url']} {str(asked)[:300]}\n"
        f"  -> {answer.status_code} {answer.text[:300]}\n  {why}"
    )
