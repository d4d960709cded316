"""A thin client of the HTTP API: typed answers, problems as exceptions, repeated where that is safe.

>>> with Client("http://127.0.0.1:8080", key="tg_...") as tidegate:          # doctest: +SKIP
...     found = tidegate.score({"transaction_id": "t-1", ...}, deadline_ms=200)
...     if found.verdict is not None and found.verdict.decision is DecisionName.BLOCK:
...         decline()

One client serves one thread at a time. It imports neither Kafka nor Redis nor a model. See docs/client.md.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from domain.drift_record import DriftState
from domain.verdict import DecisionName, Verdict
from lifecycle.audit import AuditRecord
from lifecycle.registry import ModelRecord, RegistryState
from tidegate.client_errors import ClientError, NotFound, Unreachable, error_of

__all__ = ["Accepted", "Changed", "Client", "Label", "Models", "Scored"]

T = TypeVar("T")
_LONGEST_WAIT = 30.0
"""Seconds; whoever is told to come back later than that had better be told so than wait here."""
_AGAIN = frozenset({429, 503})


class Scored(msgspec.Struct, frozen=True):
    """What became of an event: its ``verdict``; None: it is written, and :meth:`Client.wait` finds the verdict."""

    id: str
    verdict: Verdict | None


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``source`` says that the event ``id`` is (1) what the pipeline looks for, is not (0), or is unknown (None).

    ``id`` as in the event; ``known_at`` and ``event_time`` with a zone (default: now, and any event of this id).
    """

    id: str | int
    label: Literal[0, 1] | None
    source: str
    known_at: datetime | msgspec.UnsetType = msgspec.UNSET
    event_time: datetime | msgspec.UnsetType = msgspec.UNSET


class Accepted(msgspec.Struct, frozen=True):
    """How many labels are in Kafka now."""

    accepted: int


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """Which models there are, and whether all workers run what is in force; fields as in ``GET /v1/models``."""

    pipeline: str
    converged: bool
    registry: str
    agreed: bool | None
    behind: list[str] | None
    in_force: RegistryState | None
    versions: list[ModelRecord] | None
    workers: list[dict[str, Any]]


class Changed(msgspec.Struct, frozen=True):
    """What is in force now; ``published``: the workers can know of it already."""

    in_force: RegistryState
    published: bool


class _Page(msgspec.Struct, frozen=True):
    verdicts: list[Verdict]
    next: str | None


class _Audit(msgspec.Struct, frozen=True):
    records: list[AuditRecord]
    next: int | None


class Client:
    """The API at ``url``. ``key`` is an API key or an OIDC token; it never goes over plain HTTP to another machine.

    ``timeout``: seconds for an answer to arrive, beside the deadline of ``score``. A request that is safe to repeat is
    tried ``attempts`` times in all when no answer came, or one that says to come back; pauses double from 0.1 s, with
    jitter, and are never shorter than ``Retry-After``. Reading is safe; so is scoring, for the same event goes out
    again with the same id and the service knows it; so are labels. What a person changes is sent once.
    ``transport``, ``sleep`` and ``jitter`` (a share from 0 to 1) are for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 10.0,
        attempts: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(url)
        if key is not None and parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
            raise ClientError(
                f"a key would go over plain HTTP to {parts.hostname}", remedy="give an https:// address"
            )
        headers = {"Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=timeout,
            transport=transport,
            follow_redirects=False,  # a key must not follow
        )
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._sleep = sleep
        self._jitter = jitter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    # ---- events -------------------------------------------------------------------------------------------------

    def score(
        self, event: Mapping[str, Any], *, deadline_ms: int = 1000, traceparent: str | None = None
    ) -> Scored:
        """Score ``event``; at most ``deadline_ms`` (1 to 30,000) is waited for its verdict.

        Repeated with the same id when the outcome is unknown; a verdict then has the flag ``duplicate`` if the first
        try had arrived. Raises Invalid for an event that the pipeline refuses, Busy, Unreachable, NotAllowed.
        """
        body = msgspec.json.encode(event)  # once: what is sent again must be the same
        headers = {} if traceparent is None else {"traceparent": traceparent}
        answer = self._ask(
            "POST", "/v1/score", safe=True, body=body, headers=headers,
            params={"deadline_ms": deadline_ms}, seconds=self._timeout + deadline_ms / 1000,
        )  # fmt: skip
        if answer.status_code == 202:
            return Scored(msgspec.json.decode(answer.content, type=_Pending).id, None)
        verdict = _decoded(answer, Verdict)
        return Scored(verdict.id, verdict)

    def dry_run(self, event: Mapping[str, Any]) -> Verdict:
        """What the verdict would be now; nothing is written. Raises as ``score`` does."""
        answer = self._ask(
            "POST", "/v1/score", safe=True, body=msgspec.json.encode(event), params={"dry_run": "true"}
        )
        return _decoded(answer, Verdict)

    def verdict(self, event_id: str) -> Verdict:
        """The verdict on an event (a sensitive id as its hash, as verdicts have it). Raises NotFound."""
        return _decoded(self._ask("GET", "/v1/verdicts/" + quote(event_id, safe=""), safe=True), Verdict)

    def wait(self, event_id: str, seconds: float, *, every: float = 0.2) -> Verdict:
        """Ask for a verdict until it is there. Raises NotFound when it is not after ``seconds``."""
        left = seconds
        while True:
            try:
                return self.verdict(event_id)
            except NotFound:
                if left <= 0:
                    raise
            self._sleep(min(every, left))
            left -= every

    def verdicts(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        decision: DecisionName | None = None,
        entity: tuple[str, str] | None = None,
        entity_hash: tuple[str, str] | None = None,
        page: int = 100,
    ) -> Iterator[Verdict]:
        """Recent verdicts, newest first, asked for page by page. ``start`` and ``end`` with a zone, of ``scored_at``.

        ``entity`` is (field, value as in events), ``entity_hash`` (field, value as in verdicts); give one.
        """
        params: dict[str, Any] = {"limit": page}
        for name, moment in (("from", start), ("to", end)):
            if moment is not None:
                params[name] = moment.isoformat()
        for name, pair in (("entity", entity), ("entity_hash", entity_hash)):
            if pair is not None:
                params[name] = ":".join(pair)
        if decision is not None:
            params["decision"] = decision.value
        while True:
            found = _decoded(self._ask("GET", "/v1/verdicts", safe=True, params=params), _Page)
            yield from found.verdicts
            if found.next is None:
                return
            params["cursor"] = found.next

    @contextmanager
    def watch(
        self, *, decisions: Sequence[DecisionName] = (), min_score: float | None = None
    ) -> Iterator[Iterator[Verdict]]:
        """Verdicts as they are committed, from when the block is entered until it is left or the server stops::

            with tidegate.watch(decisions=[DecisionName.BLOCK]) as verdicts:
                for verdict in verdicts: ...

        Verdicts lost because they were taken too slowly are not told of here. Raises Busy (too many watch).
        """
        params: dict[str, Any] = {"decision": [d.value for d in decisions]}
        if min_score is not None:
            params["min_score"] = min_score
        silence = httpx.Timeout(self._timeout, read=60.0)  # a comment comes every 15 s
        try:
            with self._http.stream("GET", "/v1/verdicts/stream", params=params, timeout=silence) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _error(answer)
                lines = answer.iter_lines()
                for line in lines:
                    if line == "event: ready":
                        break
                yield _verdicts_of(lines)
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def label(self, *labels: Label) -> Accepted:
        """Say what events turned out to be: at most 1,000, all are taken or none. Raises Invalid, Busy."""
        body = msgspec.json.encode(labels)
        return _decoded(self._ask("POST", "/v1/labels", safe=True, body=body), Accepted)

    # ---- operation ----------------------------------------------------------------------------------------------

    def models(self, *, limit: int = 50) -> Models:
        """Which models there are, and what each worker runs."""
        return _decoded(self._ask("GET", "/v1/models", safe=True, params={"limit": limit}), Models)

    def promote(self, version: str, *, reason: str, epoch: int | None = None, force: bool = False) -> Changed:
        """Make a model the champion; sent once. ``epoch``: what ``in_force`` said. Raises Conflict, NotFound."""
        body = msgspec.json.encode({"reason": reason, "epoch": epoch, "force": force})
        path = f"/v1/models/{quote(version, safe='')}:promote"
        return _decoded(self._ask("POST", path, safe=False, body=body), Changed)

    def roll_back(self, version: str, *, reason: str, epoch: int | None = None) -> Changed:
        """Put the champion before ``version`` in force again; sent once. Raises Conflict, NotFound."""
        body = msgspec.json.encode({"reason": reason, "epoch": epoch})
        path = f"/v1/models/{quote(version, safe='')}:rollback"
        return _decoded(self._ask("POST", path, safe=False, body=body), Changed)

    def drift(self, *, column: str | None = None, history: bool = False) -> DriftState:
        """What the drift monitors say."""
        params = {"history": str(history).lower(), **({} if column is None else {"column": column})}
        return _decoded(self._ask("GET", "/v1/drift", safe=True, params=params), DriftState)

    def audit(self, *, page: int = 100) -> Iterator[AuditRecord]:
        """Who changed what, newest first."""
        params: dict[str, Any] = {"limit": page}
        while True:
            found = _decoded(self._ask("GET", "/v1/audit", safe=True, params=params), _Audit)
            yield from found.records
            if found.next is None:
                return
            params["before"] = found.next

    def call(
        self, method: str, path: str, body: Any = None, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Any other route: ``body`` goes out and the answer comes back as JSON values (None: it has no body).

        Only what reads is repeated. Raises as everything here does.
        """
        raw = None if body is None else msgspec.json.encode(body)
        answer = self._ask(method, path, safe=method in ("GET", "HEAD"), body=raw, params=params)
        return _decoded(answer, object) if answer.content else None

    # ---- how ----------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        *,
        safe: bool,
        body: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> httpx.Response:
        sent = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}
        last: ClientError | None = None
        for attempt in range(self._attempts if safe else 1):
            if last is not None:
                pause = max(getattr(last, "retry_after", 0.0), 0.1 * 2**attempt * (0.5 + self._jitter() / 2))
                if pause > _LONGEST_WAIT:
                    break
                self._sleep(pause)
            try:
                answer = self._http.request(
                    method, path, content=body, params=params, headers=sent, timeout=seconds or self._timeout
                )
            except httpx.TransportError as error:
                last = _unreachable(error)
                continue
            if answer.is_success:
                return answer
            last = _error(answer)
            if answer.status_code not in _AGAIN:
                break
        assert last is not None  # noqa: S101  # there is at least one attempt
        raise last


class _Pending(msgspec.Struct, frozen=True):
    id: str


def _decoded(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as error:
        raise ClientError(
            f"the answer is not what this client expects: {error}",
            remedy="use the client and the API of the same version; check that the address is the API's",
        ) from error


def _error(answer: httpx.Response) -> ClientError:
    given = answer.headers.get("retry-after", "")
    return error_of(answer.status_code, answer.content, float(given) if given.isdecimal() else 0.0)


def _unreachable(error: httpx.TransportError) -> Unreachable:
    return Unreachable(
        f"no answer: {type(error).__name__}", remedy="check the address, and that `tidegate api` runs there"
    )


def _verdicts_of(lines: Iterator[str]) -> Iterator[Verdict]:
    event = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "verdict":
            yield msgspec.json.decode(value, type=Verdict)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
