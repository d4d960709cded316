"""The one way our processes read a pipeline file: with the detectors and expressions they can run."""

from __future__ import annotations

from pathlib import Path

from detectors.kinds import PARAMS
from domain.pipeline import Pipeline
from domain.pipeline_file import load_pipeline
from featurestore.expressions import compile_expression

__all__ = ["load"]


def load(path: str | Path) -> Pipeline:
    """The pipeline declared in the file at ``path``, wholly checked.

    Raises PipelineInvalid with every mistake, ServiceMissing when there is no such file.
    """
    return load_pipeline(path, kinds=PARAMS, check_expression=compile_expression)
