"""The pipeline that ships with Tidegate."""

from __future__ import annotations

import re
from pathlib import Path

from domain.errors import ServiceMissing

__all__ = ["default_pipeline", "renamed_pipeline"]


def default_pipeline() -> Path:
    """The payments pipeline: in a checkout under examples/, in an installed package beside the code."""
    here = Path(__file__).resolve().parent
    for path in (
        here.parent / "examples" / "payments" / "pipeline.yaml",
        here / "pipelines" / "payments.yaml",
    ):
        if path.is_file():
            return path
    raise ServiceMissing(
        "the default pipeline file is not part of this installation",
        remedy="name one with --pipeline or TIDEGATE_PIPELINE; `tidegate pipeline init` drafts one",
    )


def renamed_pipeline(source: Path, name: str, target: Path) -> Path:
    """A copy of a pipeline file under another name, so that its topics and state are its own."""
    text, count = re.subn(r"(?m)^pipeline:.*$", f"pipeline: {name}", source.read_text(), count=1)
    if count != 1:
        raise ServiceMissing(
            f"{source} has no line `pipeline: NAME`", remedy="check it with `tidegate pipeline check`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target
