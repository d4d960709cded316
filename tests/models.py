"""Models that are no models: any bytes, with a manifest that fits them."""

from __future__ import annotations

import hashlib
from typing import Any

from lifecycle.artefact import seal
from lifecycle.manifest import Lineage, Manifest, version_of
from lifecycle.model_keys import ModelKey

__all__ = ["KEY", "NOW", "manifest_of", "sealed"]

NOW = 1_700_000_000_000_000
KEY = ModelKey.parse("11" * 32)


def manifest_of(model: bytes, **changes: Any) -> Manifest:
    """A manifest for ``model`` of pipeline ``payments``, unless told otherwise."""
    lineage = Lineage(
        code="0.1.0",
        pipeline_version=1,
        pipeline_digest="d1",
        data={"verdicts": 7, "labels": 3},
        start=NOW - 9_000_000,
        stop=NOW - 1_000_000,
        as_of=NOW,
        rows=900,
        labelled=500,
        positives=20,
        seed=1,
        trigger="drift",
    )
    fields: dict[str, Any] = {
        "version": version_of(model),
        "pipeline": "payments",
        "sha256": hashlib.sha256(model).hexdigest(),
        "features": ("amount", "count"),
        "detectors": ("hst",),
        "created_at": NOW,
        "created_by": "test",
        "lineage": lineage,
        "metrics": {"average_precision": 0.5},
    }
    return Manifest(**{**fields, **changes})


def sealed(model: bytes, key: ModelKey = KEY, **changes: Any) -> tuple[bytes, Manifest]:
    """``model`` sealed, and its manifest."""
    manifest = manifest_of(model, **changes)
    return seal(model, manifest, key), manifest
