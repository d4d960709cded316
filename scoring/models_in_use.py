"""The trained models that a scorer runs beside the pipeline's own ensemble, and whose score decides each row.

A *champion* decides in the place of the ensemble, a *challenger* scores beside and decides only for its share of the
key entities. A model that gives no score for a row does not decide it: the champion does, and after it the ensemble.
Models are pure functions of a row, so neither batches nor the moment at which they came into force change a bit of
what they say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from detectors.ensemble import Decide, EnsembleOutput
from detectors.trained_model import TrainedModel
from domain.batch import Floats, Ints
from domain.verdict import ModelRole

__all__ = ["NO_MODELS", "OWN", "Judgement", "ModelSays", "ModelsInUse", "Panel", "in_split", "judge"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ModelsInUse:
    """What a scorer runs, as of ``epoch`` of the registry. ``split``: the challenger's share of key entities."""

    epoch: int = 0
    champion: TrainedModel | None = None
    challenger: TrainedModel | None = None
    split: float = 0.0

    def __bool__(self) -> bool:
        return self.champion is not None or self.challenger is not None

    @property
    def running(self) -> list[tuple[ModelRole, TrainedModel]]:
        """Role and model, champion first."""
        both = ((ModelRole.CHAMPION, self.champion), (ModelRole.CHALLENGER, self.challenger))
        return [(role, model) for role, model in both if model is not None]

    def deciders(self, said: Sequence[ModelSays], rows: Ints) -> Iterator[tuple[Decide | None, Ints]]:
        """The ``rows`` (int64[k]) by what decided them, each with how it scores others (None: the ensemble)."""
        left = rows
        for role, model in self.running:
            mine = next(one.decided for one in said if one.role is role)[left]
            if mine.any():
                yield partial(_decides, model), left[mine]
                left = left[~mine]
        if len(left):
            yield None, left


OWN = "own"
"""The ensemble among the versions of models: what it is made of stands in the verdict's ``versions``."""
NO_MODELS = ModelsInUse()
"""The ensemble is by itself."""


@dataclass(frozen=True, slots=True)
class ModelSays:
    """What one model (or the ensemble) says of n rows.

    score, probability  float64[n], NaN: none
    decided             bool[n]: rows of which it is the one that decided
    """

    role: ModelRole
    version: str
    score: Floats
    probability: Floats
    decided: Bools

    def spread(self, fresh: Ints, n: int) -> ModelSays:
        """The same on ``n`` rows, of which these are the rows ``fresh``."""
        score, probability, decided = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
        score[fresh], probability[fresh], decided[fresh] = self.score, self.probability, self.decided
        return ModelSays(self.role, self.version, score, probability, decided)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The scores that decide n rows (float64[n]), their probabilities, and what each said: the ensemble first."""

    score: Floats
    probability: Floats
    said: tuple[ModelSays, ...]


def judge(models: ModelsInUse, x: Floats, own: EnsembleOutput, keys: Sequence[str]) -> Judgement:
    """Ask ``models`` about rows that the ensemble has scored: vectors ``x`` (float64[n, F]), ``keys`` the rows' values
    of the key entity.
    """
    n = len(x)
    none = np.full(n, np.nan)
    scored = [(role, model.version, *_ask(model, x, own.ranks)) for role, model in models.running]
    own_probability = none if own.probability is None else own.probability
    score, probability = own.score.copy(), own_probability.copy()
    decided = np.zeros(n, dtype=np.int64)
    for place, (role, version, model_score, model_probability) in enumerate(scored, start=1):
        mine = ~np.isnan(model_score)
        if role is ModelRole.CHALLENGER:
            mine &= in_split(keys, version, models.split)
        score[mine], probability[mine], decided[mine] = model_score[mine], model_probability[mine], place
    everyone = [(ModelRole.OWN, OWN, own.score, own_probability), *scored]
    return Judgement(
        score,
        probability,
        tuple(
            ModelSays(role, version, said, chance, decided == place)
            for place, (role, version, said, chance) in enumerate(everyone)
        ),
    )


class Panel:
    """The models that are asked about a batch: ``keys`` are its key entities, ``fresh`` the rows that are scored."""

    def __init__(self, models: ModelsInUse, keys: Sequence[str], fresh: Ints) -> None:
        self.decide: Decide | None = self._decide if models else None
        """For the ensemble, see :meth:`detectors.ensemble.Ensemble.step`; None: its own score decides."""
        self.said: tuple[ModelSays, ...] = ()
        """What each said of the whole batch, once the ensemble has asked; empty where it is by itself."""
        self._models = models
        self._keys = keys
        self._fresh = fresh
        self._judgement: Judgement | None = None

    def decided(self, output: EnsembleOutput) -> EnsembleOutput:
        """``output`` with the score and probability of what decided each row."""
        found = self._judgement
        return output if found is None else replace(output, score=found.score, probability=found.probability)

    def _decide(self, x: Floats, own: EnsembleOutput) -> Floats:
        n, fresh = len(self._keys), self._fresh
        keys = self._keys if len(fresh) == n else [self._keys[row] for row in fresh.tolist()]
        found = self._judgement = judge(self._models, x, own, keys)
        self.said = found.said if len(fresh) == n else tuple(one.spread(fresh, n) for one in found.said)
        return found.score


def in_split(keys: Sequence[str], version: str, share: float) -> Bools:
    """Which of ``keys`` belong to the ``share`` (0 to 1) for which the challenger ``version`` decides (bool[n]).

    By a hash of both, so that an entity keeps its side, and other challengers get other entities.

    >>> in_split(["a", "b", "c", "d"], "m-1", 0.5).tolist()
    [False, True, True, False]
    """
    if share <= 0.0 or not len(keys):
        return np.zeros(len(keys), dtype=np.bool_)
    salt = version.encode()[:16]
    hashed = b"".join(
        hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
        for key in keys
    )
    found: Bools = np.frombuffer(hashed, dtype="<u8") / 2.0**64 < share
    return found


def _decides(model: TrainedModel, x: Floats, own: EnsembleOutput) -> Floats:
    """The scores that decide rows of an entity for which ``model`` does."""
    said, _ = _ask(model, x, own.ranks)
    return np.where(np.isnan(said), own.score, said)


def _ask(model: TrainedModel, x: Floats, ranks: Floats) -> tuple[Floats, Floats]:
    """Scores and probabilities; NaN for rows with which it fails."""
    try:
        said = model.score(x, ranks)
    except Exception:  # a model's fault must not stop the stream: the verdict says that it gave no score
        if len(x) == 1:
            return np.full(1, np.nan), np.full(1, np.nan)
        # row by row, so that what one row does to it has no say in the rows beside
        alone = [_ask(model, x[row : row + 1], ranks[row : row + 1]) for row in range(len(x))]
        return (
            np.concatenate([np.empty(0), *(score for score, _ in alone)]),
            np.concatenate([np.empty(0), *(probability for _, probability in alone)]),
        )
    usable = (said.score >= 0.0) & (said.score <= 1.0)
    return np.where(usable, said.score, np.nan), np.where(usable, said.probability, np.nan)
