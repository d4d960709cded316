"""A joiner as a process of its own that kills itself at a named step; see test_label_joiner.py.

Arguments: bootstrap servers, pipeline file, whether verdicts are found ``near`` or ``far``, step, and at which visit of
it (from 1).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.raw_label import RawLabelCodec
from featurestore.verdict_finder import VerdictFinder
from stream.joiner_metrics import JoinerMetrics
from stream.kafka import KafkaConnection
from stream.label_joiner import JoinerParts, run_joiner
from stream.verdict_scan import TopicVerdictFinder
from tests.system.scene import PRIVACY_KEY
from tidegate.loading import load


class Nowhere:
    """A store of verdicts that is empty."""

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        return {}


def parts_of(
    bootstrap: str,
    pipeline: Pipeline,
    *,
    near: VerdictFinder | None = None,
    at: Callable[[str], None] = lambda point: None,
    **extra: object,
) -> JoinerParts:
    """A joiner without Redis: verdicts come from the topic. ``extra`` goes to every Kafka client."""
    kafka = KafkaConnection(bootstrap, extra)
    scan = TopicVerdictFinder(kafka, pipeline.name)
    return JoinerParts(
        kafka=kafka,
        pipeline=pipeline,
        codec=RawLabelCodec(pipeline, Protector(PRIVACY_KEY.encode())),
        near=near or scan,
        far=scan,
        clock=SystemClock(),
        metrics=JoinerMetrics(CollectorRegistry()),
        at=at,
    )


def main() -> None:
    bootstrap, pipeline_file, where, step, visit = sys.argv[1:]
    left = int(visit)

    def at(point: str) -> None:
        nonlocal left
        left -= point == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pipeline = load(pipeline_file)
    near = None if where == "near" else Nowhere()
    # it will be missed soon after it is killed
    quick = {"session.timeout.ms": 1_500, "heartbeat.interval.ms": 300, "log_level": 2}
    run_joiner(parts_of(bootstrap, pipeline, near=near, at=at, **quick), threading.Event())


if __name__ == "__main__":
    main()
