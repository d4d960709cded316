"""The long-running processes: ``tidegate worker``, ``tidegate api`` and the others.

Each loads only what it is made of: a worker needs no HTTP, the API no training.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from tidegate.settings import Settings
from tidegate.signals import stop_on_signals

__all__ = [
    "api",
    "archiver",
    "archiver_offline",
    "caser",
    "dispatcher",
    "joiner",
    "monitor",
    "trainer",
    "worker",
]

PipelineOption = Annotated[
    Path | None,
    typer.Option(help="The pipeline file; default: TIDEGATE_PIPELINE.", show_default=False),
]


def _run(module: str, name: str, pipeline: Path | None) -> None:
    """Run ``name`` of ``module`` until SIGTERM, with the settings of the environment."""
    settings = Settings()
    if pipeline is not None:
        settings = settings.model_copy(update={"pipeline": pipeline})
    getattr(import_module(module), name)(settings, stop_on_signals())


def worker(pipeline: PipelineOption = None) -> None:
    """Score events until SIGTERM. Settings: environment variables TIDEGATE_*, see docs/operations.md.

    Example: TIDEGATE_KAFKA_BOOTSTRAP=kafka:9092 TIDEGATE_REDIS_URL=redis://redis:6379/0 tidegate worker
    """
    _run("tidegate.processes", "worker", pipeline)


def archiver(pipeline: PipelineOption = None) -> None:
    """Keep recent verdicts findable for the API.

    Example: tidegate archiver --pipeline examples/payments/pipeline.yaml
    """
    _run("tidegate.processes", "archiver", pipeline)


def archiver_offline(pipeline: PipelineOption = None) -> None:
    """Keep all verdicts and labels in the offline store (Delta Lake).

    Example: TIDEGATE_OFFLINE_URL=/data/offline tidegate archiver-offline
    """
    _run("tidegate.offline", "archiver_offline", pipeline)


def monitor(pipeline: PipelineOption = None) -> None:
    """Watch verdicts and labels for drift. Several may run: one works, the others stand by.

    Example: tidegate monitor --pipeline examples/payments/pipeline.yaml
    """
    _run("tidegate.processes", "monitor", pipeline)


def trainer(pipeline: PipelineOption = None) -> None:
    """Train models, let them prove themselves, promote and guard them. Several may run: one does the work.

    Example: TIDEGATE_DATABASE_URL=postgresql://... tidegate trainer
    """
    _run("tidegate.trainer", "trainer", pipeline)


def joiner(pipeline: PipelineOption = None) -> None:
    """Join labels to the events they are about; of several such processes one works and the others stand by.

    Example: tidegate joiner --pipeline examples/payments/pipeline.yaml
    """
    _run("tidegate.processes", "joiner", pipeline)


def caser(pipeline: PipelineOption = None) -> None:
    """Turn alerts into review cases, and what people decide into labels.

    Example: TIDEGATE_DATABASE_URL=postgresql://... tidegate caser
    """
    _run("tidegate.caser", "caser", pipeline)


def dispatcher(pipeline: PipelineOption = None) -> None:
    """Deliver alerts to webhooks. Several may run, each under a TIDEGATE_WORKER_ID of its own.

    Example: TIDEGATE_DATABASE_URL=postgresql://... tidegate dispatcher
    """
    _run("tidegate.dispatcher", "dispatcher", pipeline)


def api(pipeline: PipelineOption = None) -> None:
    """Answer questions over HTTP.

    Example: TIDEGATE_API_PORT=8080 tidegate api
    """
    _run("tidegate.api_process", "api", pipeline)
