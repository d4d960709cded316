"""What the records of the ``models`` topic come to: the models that are to run, each verified before it is parsed.

A model that can not be taken (a part is missing, the hash or the signature is wrong, it is of another pipeline) is
refused with a reason. A refused champion leaves the last good one in place; a refused challenger is nobody's loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import numpy as np
import structlog

from detectors.trained_model import TrainedModel
from domain.errors import TidegateError
from domain.model_records import CURRENT_KEY, ModelRef, ModelsInForce, part_key
from domain.pipeline import Pipeline
from scoring.models_in_use import NO_MODELS, ModelsInUse

__all__ = ["ModelsLog", "PartsMissing", "Unseal"]

log = structlog.get_logger(__name__)

Unseal = Callable[[bytes], bytes]
"""From a sealed artefact to the model's bytes; raises TidegateError (or ValueError) that says why it is not taken."""

ROOM_BYTES = 64 * 1024 * 1024
"""For parts that no state has named yet: more are dropped, the oldest first, and read again when one names them."""
MOST_PARTS = 64
"""Of one artefact: 256 MB."""
_ARTEFACT = b"artefact/"


class PartsMissing(Exception):
    """A state names an artefact whose parts were not among the records: read them from the beginning."""


class ModelsLog:
    """Folds records of the topic, in order; pure but for what ``unseal`` does."""

    def __init__(self, pipeline: Pipeline, unseal: Unseal) -> None:
        self._pipeline = pipeline
        self._unseal = unseal
        self._parts: dict[bytes, bytes] = {}
        self._room = 0
        self._state: ModelsInForce | None = None
        self._applied: ModelsInForce | None = None
        self._loaded: dict[str, TrainedModel] = {}
        self.models: ModelsInUse = NO_MODELS
        """What is to run, as of the last :meth:`apply`."""
        self.refused: dict[str, str] = {}
        """Version to reason, of what the newest state names and does not run."""

    @property
    def epoch(self) -> int:
        """Of the newest state that was applied; 0: there is none."""
        return 0 if self._applied is None else self._applied.epoch

    @property
    def pending(self) -> bool:
        """Whether a state came that was not applied yet."""
        return self._state is not self._applied

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """The next record."""
        if key == CURRENT_KEY.encode():
            self._take_state(value)
        elif key is not None and key.startswith(_ARTEFACT):
            self._room -= len(self._parts.pop(key, b""))
            if value is not None:
                self._parts[key] = value
                self._room += len(value)
            if self._room > ROOM_BYTES:
                self._make_room()

    def apply(self, *, last: bool = False) -> None:
        """Bring ``models`` to the newest state.

        Raises PartsMissing, unless this is the ``last`` try: then what lacks parts is refused.
        """
        state = self._state
        if state is None or state is self._applied:
            return
        refused: dict[str, str] = {}
        found: dict[str, TrainedModel] = {}
        for ref in (state.champion, state.challenger):
            if ref is not None and ref.sha256 not in found:
                try:
                    found[ref.sha256] = self._model(ref, last=last)
                except (TidegateError, ValueError) as error:
                    refused[ref.version] = str(error)
        before = self.models
        champion = None if state.champion is None else found.get(state.champion.sha256, before.champion)
        challenger = None if state.challenger is None else found.get(state.challenger.sha256)
        if challenger is not None and champion is not None and challenger.version == champion.version:
            challenger = None
        split = 0.0 if challenger is None else state.split
        self.models = ModelsInUse(state.epoch, champion, challenger, split)
        self.refused, self._applied, self._loaded = refused, state, found
        self._parts, self._room = {}, 0
        for version, why in refused.items():
            log.error("model refused", version=version, epoch=state.epoch, why=why, running=_named(champion))

    def _make_room(self) -> None:
        """Drop parts that the newest state does not name, the oldest first."""
        state = self._state
        named = () if state is None else (state.champion, state.challenger)
        wanted = tuple(part_key(ref.sha256, 0)[:-1] for ref in named if ref is not None)
        for key in [key for key in self._parts if not key.startswith(wanted)]:
            if self._room <= ROOM_BYTES:
                break
            self._room -= len(self._parts.pop(key))

    def _take_state(self, value: bytes | None) -> None:
        if value is None:
            return
        try:
            state = msgspec.json.decode(value, type=ModelsInForce)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.error("the record of models in force is unreadable; it is passed over", error=str(error))
            return
        newest = self._state
        if newest is None or state.epoch > newest.epoch or (state == newest and self.refused):
            # the same once more: what was refused may be whole by now
            self._state = state
        elif state != newest:
            log.warning("an older state of models is passed over", epoch=state.epoch, newest=newest.epoch)

    def _model(self, ref: ModelRef, *, last: bool) -> TrainedModel:
        """The model; raises PartsMissing, TidegateError and ValueError."""
        if (known := self._loaded.get(ref.sha256)) is not None:
            return known
        if not 0 < ref.parts <= MOST_PARTS:
            raise ValueError(f"the record names {ref.parts} parts of it")
        parts = [self._parts.get(part_key(ref.sha256, number)) for number in range(ref.parts)]
        if any(part is None for part in parts):
            if not last:
                raise PartsMissing(ref.version)
            raise ValueError("its bytes are not in the models topic; publish it again")
        sealed = b"".join(part for part in parts if part is not None)
        if hashlib.sha256(sealed).hexdigest() != ref.sha256:
            raise ValueError("its bytes are not those that the record names: the SHA-256 differs")
        model = TrainedModel.unpack(self._unseal(sealed))
        if model.version != ref.version:
            raise ValueError(f"it is {model.version}, which is not what the record names")
        if (why := model.mismatch(self._pipeline)) is not None:
            raise ValueError(f"it {why}; train one for this pipeline")
        # what would fail with the first event fails here, and nothing is compiled between two batches
        model.score(
            np.zeros((1, len(self._pipeline.features))), np.full((1, len(self._pipeline.detectors)), 0.5)
        )
        return model


def _named(model: TrainedModel | None) -> str | None:
    return None if model is None else model.version
