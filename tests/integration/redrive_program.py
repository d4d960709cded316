"""A redrive as a process of its own that kills itself at a named step; see test_dlq.py.

Arguments: bootstrap servers, pipeline, step, and at which visit of it (from 1).
"""

from __future__ import annotations

import os
import signal
import sys

from domain.clock import SystemClock
from stream.dlq import Selection
from stream.dlq_reader import DeadLetterReader
from stream.dlq_redrive import Redriver
from stream.kafka import KafkaConnection


def main() -> None:
    bootstrap, pipeline, step, visit = sys.argv[1:]
    left = int(visit)

    def at(point: str) -> None:
        nonlocal left
        left -= point == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    kafka = KafkaConnection(bootstrap)
    everything = Selection()
    spans = DeadLetterReader(kafka, pipeline).spans(everything)
    Redriver(kafka, pipeline, SystemClock(), at=at, batch=4).run(spans, everything)


if __name__ == "__main__":
    main()
