"""A caser as a process of its own that kills itself at a named step; see test_cases.py.

Settings come from the environment. Argument: the step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from prometheus_client import CollectorRegistry

from lifecycle.database import Database
from stream.case_metrics import CaserMetrics
from stream.case_opener import run_case_opener
from tidegate.caser import parts_of
from tidegate.loading import load
from tidegate.settings import Settings


def main() -> None:
    [step] = sys.argv[1:]

    def at(point: str) -> None:
        if point == step:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings()
    metrics = CaserMetrics(CollectorRegistry())
    parts = parts_of(settings, load(settings.pipeline), Database(settings.database()), metrics, at)
    run_case_opener(parts, threading.Event())


if __name__ == "__main__":
    main()
