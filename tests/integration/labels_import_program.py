"""An import of labels as a process of its own that kills itself at a named step; see test_labels_import.py.

Arguments: bootstrap servers, pipeline file, file of labels, step, at which visit of it (from 1), and the privacy key
(what the tests know of it would import half of the world, in every process).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from domain.clock import SystemClock
from domain.privacy import Protector
from lifecycle.label_rows import find_columns, read_label_file
from stream.kafka import KafkaConnection
from stream.label_import import LabelImporter
from tidegate.loading import load


def main() -> None:
    bootstrap, pipeline_file, labels, step, visit, key = sys.argv[1:]
    left = int(visit)

    def at(point: str) -> None:
        nonlocal left
        left -= point == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pipeline, path = load(pipeline_file), Path(labels)
    columns = find_columns(path, pipeline)
    protector = Protector(key.encode())
    told = read_label_file(path, pipeline, protector, columns, now=SystemClock().now()).told
    LabelImporter(KafkaConnection(bootstrap), pipeline, at=at, batch=4).run(told)


if __name__ == "__main__":
    main()
