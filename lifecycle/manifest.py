"""What travels with a model's bytes, under the same signature: whose it is, what it reads, and where it came from."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

__all__ = ["MANIFEST_FORMAT", "Lineage", "Manifest", "version_of"]

MANIFEST_FORMAT = 1


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model came from: enough to train it again, bit for bit. Times are UTC microseconds.

    code             version of Tidegate that trained it
    pipeline_version, pipeline_digest   of the pipeline file
    data             versions of the offline store's tables that were read (``{"verdicts": 17, "labels": 9}``)
    start, stop      event times of the rows: from ``start`` until before ``stop``
    as_of            labels as they were known then
    rows, labelled, positives   how many there were
    seed             of all randomness in the fit
    trigger          drift, schedule, person, or what else asked for it
    run              the training run's id, None for a model made by hand
    parent           the champion at that time, None: the pipeline's own ensemble
    settings         everything else that went into the fit, as JSON
    """

    code: str
    pipeline_version: int
    pipeline_digest: str
    data: dict[str, int]
    start: int
    stop: int
    as_of: int
    rows: int
    labelled: int
    positives: int
    seed: int
    trigger: str
    run: str | None = None
    parent: str | None = None
    settings: dict[str, Any] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed together with the model's bytes.

    ``sha256`` is of those bytes (hex); ``version`` is ``m-`` and its first 12 digits. ``features`` and
    ``detectors`` are the names of the columns that the model reads, in order. ``metrics`` are those of the
    training (validation on the later part); what gate and shadow find out later stands in the registry.
    """

    format: int = MANIFEST_FORMAT
    version: str
    pipeline: str
    sha256: str
    features: tuple[str, ...]
    detectors: tuple[str, ...]
    created_at: int
    created_by: str
    lineage: Lineage
    metrics: dict[str, Any] = {}


def version_of(model: bytes) -> str:
    """The version of a model by its packed bytes.

    >>> version_of(b"")
    'm-e3b0c44298fc'
    """
    return "m-" + hashlib.sha256(model).hexdigest()[:12]
