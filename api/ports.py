"""What the API needs of the rest, as ports. ``tidegate`` passes implementations in; tests pass fakes.

Verdicts travel as JSON bytes, the same as in the topic: they are never decoded and encoded again on the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from domain.verdict import DecisionName, Verdict
from featurestore.reaching_verdicts import VerdictReader
from lifecycle.registry import ModelRegistry

__all__ = [
    "DriftView",
    "DryRunner",
    "FeedEntry",
    "LabelSink",
    "ModelRegistry",
    "ModelsView",
    "Probe",
    "ScoreGateway",
    "VerdictFeed",
    "VerdictReader",
    "WorkerReport",
]

Probe = Callable[[], None]
"""Raises when something the API depends on does not answer. Runs in a thread; should time out by itself."""


class ScoreGateway(Protocol):
    """Writes an event and waits for what became of it."""

    async def submit(
        self, raw: bytes, key: bytes, deadline_s: float, traceparent: str | None = None
    ) -> bytes | None:
        """The committed verdict's JSON; None: the event is written, the verdict not there in time.

        Raises EventRejected when the worker refused the event, Retriable when it could not be written.
        """
        ...


class LabelSink(Protocol):
    """Writes raw labels."""

    async def write(self, records: Sequence[tuple[bytes, bytes]], deadline_s: float) -> None:
        """Returns when all (key, value) ``records`` are safely in the topic ``labels``.

        Raises Retriable when that is not known for all of them in time; writing them again is harmless.
        """
        ...


class FeedEntry(Protocol):
    """One committed verdict; ``dropped`` is how many this watcher lost just before it."""

    @property
    def raw(self) -> bytes:
        """The verdict's JSON as in the topic."""
        ...

    @property
    def partition(self) -> int:
        """Partition of the verdicts topic."""
        ...

    @property
    def offset(self) -> int:
        """Offset in it."""
        ...

    @property
    def dropped(self) -> int:
        """Verdicts lost just before this one."""
        ...


class VerdictFeed(Protocol):
    """Verdicts as they are committed."""

    def subscribe(
        self, wanted: Callable[[DecisionName, float | None], bool]
    ) -> AsyncIterator[FeedEntry | None]:
        """An async generator: None once watching has begun, then every match. Must be closed (aclose)."""
        ...


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker runs. ``reported_at`` is UTC microseconds; ``models`` maps detectors to versions.

    ``epoch`` is the newest state of the model registry that it has seen (0: none), ``champion`` and ``challenger`` what
    it runs of it, ``refused`` (version to reason) what it does not take. ``rules`` is the epoch of the rule set it
    goes by (0: none), ``rules_refused`` (epoch to reason) a newer one that it does not take, ``lists`` the version of
    its lists.
    """

    worker: str
    reported_at: int
    partitions: tuple[int, ...]
    code: str
    pipeline: int
    pipeline_digest: str
    models: dict[str, str]
    epoch: int = 0
    champion: str | None = None
    challenger: str | None = None
    refused: dict[str, str] = {}
    rules: int = 0
    rules_refused: dict[str, str] = {}
    lists: int = 0


class ModelsView(Protocol):
    """Which worker runs what."""

    def workers(self) -> Sequence[WorkerReport]:
        """Workers alive. Blocking; called in a thread. Raises StoreUnavailable."""
        ...


class DriftView(Protocol):
    """What the drift monitors say."""

    def get(self) -> bytes | None:
        """JSON of domain.drift_record.DriftState; None when no monitor has said anything yet.

        Blocking; called in a thread. Raises StoreUnavailable.
        """
        ...


class DryRunner(Protocol):
    """Scores against present state and changes nothing."""

    def score(self, raw: bytes) -> Verdict:
        """Blocking; called in a thread, one call at a time. Raises EventRejected and Retriable."""
        ...
