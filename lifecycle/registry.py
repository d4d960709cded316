"""The model registry as a port: which models there are, what became of them, and which are in force.

State changes by compare-and-set: whoever changes what is in force names the ``epoch`` it has seen, and of two who
name the same, one wins and the other gets RegistryConflict. Every change leaves a record in a hash-chained audit, in
the same transaction. :mod:`lifecycle.registry_sql` keeps it in a database, :mod:`lifecycle.registry_memory` in memory
for tests; both pass ``tests/contract/check_model_registry.py``. Times are UTC microseconds from the registry's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from lifecycle.audit import AuditRecord, Broken
from lifecycle.manifest import Manifest

__all__ = [
    "OWN",
    "ModelCard",
    "ModelRecord",
    "ModelRegistry",
    "RegistryState",
    "Stage",
    "TrainingRun",
]

OWN = "own"
"""Names the pipeline's own ensemble where a model's version could stand."""


class Stage(StrEnum):
    """What has become of a model. ``CHAMPION`` and ``SHADOW`` follow from the registry's state."""

    CANDIDATE = "candidate"
    """Trained; nothing is proven."""
    SHADOW = "shadow"
    """The challenger: scores beside the champion."""
    CHAMPION = "champion"
    """Decides."""
    RETIRED = "retired"
    """Was champion until a better one came."""
    REFUSED = "refused"
    """Gate, shadow or a person said no."""
    ROLLED_BACK = "rolled_back"
    """Was champion and turned out worse."""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model. ``sha256`` (hex) and ``size`` (bytes) are of the sealed artefact; ``metrics`` grow with each step
    (``{"training": ..., "gate": ..., "shadow": ...}``); ``reason`` says why it is in its stage.
    """

    version: str
    pipeline: str
    sha256: str
    size: int
    manifest: Manifest
    stage: Stage
    reason: str
    registered_at: int
    registered_by: str
    changed_at: int
    metrics: dict[str, Any] = {}


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What people read about a model: Markdown, and plots (SVG) by file name."""

    markdown: str = ""
    plots: dict[str, str] = {}


class RegistryState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force since ``changed_at``; see :class:`domain.model_records.ModelsInForce`.

    ``below`` are the champions before this one, the last one last (None: the pipeline's own ensemble): what a
    rollback goes back to.
    """

    epoch: int = 0
    champion: str | None = None
    challenger: str | None = None
    split: float = 0.0
    changed_at: int = 0
    changed_by: str = ""
    reason: str = ""
    below: tuple[str | None, ...] = ()


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """One training, from its trigger to its end; at most one of a pipeline is open.

    ``step`` is the last step done (``requested`` at first), ``data`` what the steps found, by step. ``owner`` holds
    it until ``lease_until``; each change counts ``revision`` up, so that whoever lost the lease can not write.
    ``finished_at`` None: open; then ``outcome`` and perhaps ``error`` say how it ended.
    """

    id: str
    pipeline: str
    trigger: str
    requested_at: int
    requested_by: str
    step: str
    data: dict[str, Any]
    revision: int
    changed_at: int
    owner: str | None = None
    lease_until: int = 0
    finished_at: int | None = None
    outcome: str | None = None
    error: str | None = None


class ModelRegistry(Protocol):
    """The models of one pipeline. Every method may raise RegistryUnavailable.

    Who changes something says who it is (``by``: a person, ``trainer worker-1``, ``guard``) and why (``reason``).
    """

    @property
    def pipeline(self) -> str:
        """Whose models these are."""
        ...

    def register(
        self,
        sealed: bytes,
        manifest: Manifest,
        *,
        by: str,
        reason: str,
        metrics: Mapping[str, Any] | None = None,
        card: ModelCard | None = None,
    ) -> ModelRecord:
        """Keep a model as a candidate. One that is there already stays as it is, and is returned.

        Raises ValueError when ``manifest`` names another pipeline.
        """
        ...

    def models(self, *, stage: Stage | None = None, limit: int = 100) -> Sequence[ModelRecord]:
        """Models, the newest first."""
        ...

    def model(self, version: str) -> ModelRecord:
        """One model. Raises UnknownModel."""
        ...

    def card(self, version: str) -> ModelCard:
        """Its card; empty when nobody wrote one. Raises UnknownModel."""
        ...

    def artefact(self, version: str) -> bytes:
        """The sealed artefact as it was registered. Raises UnknownModel."""
        ...

    def annotate(
        self, version: str, *, metrics: Mapping[str, Any] | None = None, card: ModelCard | None = None
    ) -> ModelRecord:
        """Add ``metrics`` (by step; an older entry of the same name is replaced) and replace the card.

        Raises UnknownModel.
        """
        ...

    def set_stage(self, version: str, stage: Stage, *, reason: str, by: str) -> ModelRecord:
        """Move a model that is not in force. Setting what is set already changes nothing.

        Raises UnknownModel; StageForbids for a model in force, and for the stages CHAMPION and SHADOW.
        """
        ...

    def state(self) -> RegistryState:
        """What is in force; epoch 0 before the first change."""
        ...

    def history(self, *, limit: int = 100) -> Sequence[RegistryState]:
        """States, the newest first."""
        ...

    def promote(
        self, version: str, *, epoch: int, reason: str, by: str, force: bool = False
    ) -> RegistryState:
        """Make a model the champion. The one before it retires, and is what a rollback goes back to.

        A challenger of that version becomes champion and leaves its place; another one keeps it. When the version
        is champion already nothing changes, so a promotion may be repeated. Raises UnknownModel, RegistryConflict
        when the epoch is another by now, StageForbids for a model that is neither challenger nor retired, unless
        ``force``.
        """
        ...

    def set_challenger(
        self, version: str | None, *, epoch: int, reason: str, by: str, split: float = 0.0
    ) -> RegistryState:
        """Let a model score beside the champion (None: nobody); ``split`` (0 to 1) of key entities it decides.

        Who was challenger before becomes REFUSED for ``reason``. The same version with the same split changes
        nothing. Raises UnknownModel, RegistryConflict, StageForbids for the champion, ValueError for a split
        outside of 0 to 1.
        """
        ...

    def rollback(self, *, epoch: int, reason: str, by: str) -> RegistryState:
        """Put the champion before this one in force again; the present one becomes ROLLED_BACK.

        Raises RegistryConflict, StageForbids when the pipeline's own ensemble is in force.
        """
        ...

    def start_run(self, trigger: str, *, by: str, data: Mapping[str, Any] | None = None) -> TrainingRun:
        """Ask for a training. ``data`` is what the trigger knows, kept as ``data["requested"]``.

        Raises RegistryConflict when one is open.
        """
        ...

    def runs(self, *, only_open: bool = False, limit: int = 100) -> Sequence[TrainingRun]:
        """Training runs, the newest first."""
        ...

    def run(self, run_id: str) -> TrainingRun:
        """One of them. Raises UnknownModel."""
        ...

    def claim_run(self, run_id: str, owner: str, seconds: float) -> TrainingRun | None:
        """Hold a run for ``seconds``; None when somebody else does, or it is finished. Renews one's own lease.

        Raises UnknownModel.
        """
        ...

    def advance_run(
        self, run: TrainingRun, step: str, data: Mapping[str, Any], *, seconds: float
    ) -> TrainingRun:
        """Note that ``step`` is done and what it found, and hold the run on for ``seconds``.

        Raises RegistryConflict when ``run`` is not what the registry holds: somebody else took it over.
        """
        ...

    def finish_run(self, run: TrainingRun, outcome: str, *, error: str | None = None) -> TrainingRun:
        """End a run (``promoted``, ``refused``, ``failed``, ...). Raises RegistryConflict as advance_run."""
        ...

    def note(
        self,
        action: str,
        subject: str,
        *,
        by: str,
        reason: str,
        before: str | None = None,
        after: str | None = None,
    ) -> AuditRecord:
        """Add a record of something that changes nothing here: an alarm, a gate's finding, a refused file."""
        ...

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditRecord]:
        """Records with a number above ``after``, the oldest first."""
        ...

    def newest_audit(self, *, before: int | None = None, limit: int = 100) -> Sequence[AuditRecord]:
        """Records with a number below ``before``, the newest first."""
        ...

    def verify_audit(self) -> Broken | None:
        """The first record that is not what it should be (a missing last one too), None when all are."""
        ...

    def close(self) -> None:
        """Give up what is open; repeated calls do nothing."""
        ...
