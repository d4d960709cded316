"""The archiver of the offline store as a process of its own that kills itself at a named step.

Arguments: bootstrap servers, name of the pipeline, folder of the store, step. At step ``file`` it dies as soon as a
file of data has appeared that no commit names yet, or may not.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from domain.clock import SystemClock
from featurestore.offline import OfflineStore
from stream.archiver_offline import OfflineArchiverSettings, run_offline_archiver
from stream.kafka import KafkaConnection
from tests.unit.featurestore.offline_rows import small


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    bootstrap, name, folder, step = sys.argv[1:]
    root = Path(folder)
    before = set(root.rglob("*.parquet"))

    def watch() -> None:
        while set(root.rglob("*.parquet")) <= before:
            pass  # the moment between two steps of another thread is short
        die()

    def at(point: str) -> None:
        if point == step:
            die()
        if point == "before" and step == "file":
            threading.Thread(target=watch, daemon=True).start()

    store = OfflineStore(folder, small("amount", "tip", name=name))
    # a static member: whoever comes back need not wait until the group has forgotten who was killed
    kafka = KafkaConnection(bootstrap, {"group.instance.id": "one"})
    settings = OfflineArchiverSettings(seconds=0.05)
    run_offline_archiver(kafka, name, store, threading.Event(), SystemClock(), settings=settings, at=at)


if __name__ == "__main__":
    main()
