"""What the closed loop works with: ports that the processes fill, and names of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from detectors.model_fit import FitSettings
from detectors.trained_model import TrainedModel
from domain.parallel import Run, in_turn
from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from lifecycle.artefact import seal, unseal
from lifecycle.live import Seen
from lifecycle.manifest import Manifest
from lifecycle.model_keys import ModelKey, TrustedKeys
from lifecycle.registry import ModelRegistry
from lifecycle.training import TrainingRows

__all__ = ["LiveVerdicts", "LoopParts", "Outcome", "Step", "Vault"]


class Step(StrEnum):
    """The last step that a run has done."""

    REQUESTED = "requested"
    PINNED = "pinned"
    TRAINED = "trained"
    GATED = "gated"
    SHADOWING = "shadowing"
    PROMOTED = "promoted"


class Outcome(StrEnum):
    """How a run ended."""

    PROMOTED = "promoted"
    """It is champion, and the guards had nothing to object to."""
    REFUSED = "refused"
    """Gate or shadow said no."""
    ROLLED_BACK = "rolled_back"
    """A guard undid the promotion."""
    SUPERSEDED = "superseded"
    """Somebody else changed what is in force meanwhile."""
    UNCHANGED = "unchanged"
    """Training gave a model that is known already."""
    FAILED = "failed"
    """It could not be done."""


class LiveVerdicts(Protocol):
    """The verdicts as they are committed. A position says where reading goes on; the same one gives the same."""

    def position(self) -> dict[str, int]:
        """The next offset of each partition (by its number as text)."""
        ...

    def rewind(self, position: Mapping[str, int]) -> None:
        """Go on from there."""
        ...

    def read(self) -> Sequence[Seen]:
        """What came since, without waiting; repeats of events left out."""
        ...


@dataclass(frozen=True, slots=True)
class Vault:
    """Seals and opens models with the keys of this process."""

    key: ModelKey
    trusted: TrustedKeys

    def seal(self, packed: bytes, manifest: Manifest) -> bytes:
        """The sealed artefact."""
        return seal(packed, manifest, self.key)

    def open(self, sealed: bytes, pipeline: str) -> TrainedModel:
        """The model inside. Raises ArtefactRefused."""
        _, packed = unseal(sealed, self.trusted, pipeline=pipeline)
        return TrainedModel.unpack(packed)


def _nowhere(_: str) -> None:
    """Fault tests pass something else."""


@dataclass(frozen=True, slots=True)
class LoopParts:
    """``owner`` names this trainer in leases and audit; ``at`` is called at each place where a crash must do no harm.

    ``lease_seconds``: how long a run is held without a sign of life; longer than the longest step, which is training.
    ``run`` does the parts of fits and of the gate's backtest.
    """

    pipeline: Pipeline
    rules: Retraining
    registry: ModelRegistry
    rows: TrainingRows
    live: LiveVerdicts
    vault: Vault
    owner: str
    code: str
    publish: Callable[[], None]
    lease_seconds: float = 600.0
    fit: FitSettings | None = None
    run: Run = in_turn
    at: Callable[[str], None] = _nowhere
