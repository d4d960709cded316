"""The offline store measured: writing, looking an id up before and after its days are sorted, listing, training rows.

    python -m benchmarks.offline_store --days 30 --rows 20000

Prints JSON. Ids are looked up cold in the sense of a new process's first look (its table opened), not of the disk.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from domain.verdict import DecisionName, DetectorOutput, Source, Verdict, Versions
from featurestore.hot_verdicts_port import VerdictQuery
from featurestore.offline import LogRecord, OfflineStore
from featurestore.offline_upkeep import UpkeepSettings, sort
from tidegate.defaults import default_pipeline
from tidegate.loading import load

DAY = 86_400_000_000
START = 1_700_006_400_000_000
LATER = 2**55


def timed(call: Callable[[], Any], times: int = 1) -> float:
    """Median milliseconds of a call."""
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - before))
    return round(statistics.median(taken), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=20_000, help="a day")
    parser.add_argument("--files", type=int, default=4, help="commits a day")
    options = parser.parse_args()
    pipeline = load(default_pipeline())
    rng = np.random.default_rng(1)
    chance = random.Random(1)
    versions = Versions(code="0.1", pipeline=1, pipeline_digest=pipeline.digest, models={"hst": "abc"})
    detectors = {d.name: DetectorOutput(0.25, 0.5) for d in pipeline.detectors}
    offset = written = 0
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = OfflineStore(folder, pipeline)
        for day in range(options.days):
            for part in range(options.files):
                batch = []
                count = options.rows // options.files
                vectors = rng.normal(size=(count, len(pipeline.feature_names))).tolist()
                for i, vector in enumerate(vectors):
                    when = START + day * DAY + (part * count + i) * (DAY // options.rows)
                    one = Verdict(
                        id=f"{rng.integers(2**62):016x}{offset:08x}" if offset % 100 else f"known-{offset}",
                        event_time=when, scored_at=when + 1000,
                        entities=dict.fromkeys(pipeline.entities, f"value-{i % 500}"),
                        score=0.5, decision=DecisionName.ALLOW, reasons=[],
                        features=dict(zip(pipeline.feature_names, vector, strict=True)),
                        detectors=detectors, flags=[], versions=versions,
                        source=Source("payments.events", 0, offset),
                    )  # fmt: skip
                    batch.append(LogRecord(0, offset, msgspec.json.encode(one)))
                    offset += 1
                before = time.perf_counter()
                written += store.append_verdicts(batch, "bench").written
                seconds += time.perf_counter() - before

        def lookup() -> None:
            assert store.get(f"known-{chance.randrange(offset // 100) * 100}") is not None

        def known() -> list[str]:
            return [f"known-{i * 100}" for i in range(offset // 100)][:1000]

        found: dict[str, Any] = {
            "rows": written,
            "days": options.days,
            "written_rows_per_second": round(written / seconds),
        }
        for name in ("unsorted", "sorted"):
            if name == "sorted":
                found["sort_ms_per_day"] = round(
                    timed(lambda: sort(store.verdicts, UpkeepSettings(), LATER, set())) / options.days, 1
                )
            snapshot = store.verdicts.snapshot()
            assert snapshot is not None
            files = snapshot.files()
            found[name] = {
                "files": files.num_rows,
                "megabytes": round(sum(files["size_bytes"].to_pylist()) / 1e6, 1),
                "get_ms": timed(lookup, 15),
                "absent_ms": timed(lambda: store.get("nobody"), 15),
                "find_1000_ms": timed(lambda: store.find(known())),
                "first_page_ms": timed(lambda: store.page(VerdictQuery(limit=50)), 3),
                "old_page_ms": timed(lambda: store.page(VerdictQuery(limit=50, end=START + 3 * DAY)), 3),
            }
        pin = store.pin()
        found["examples_ms"] = timed(lambda: store.examples(pin, 0, 2**60, 2**60))
        found["opened_and_got_ms"] = timed(lambda: OfflineStore(folder, pipeline).get("known-0"), 5)
        found["commits"] = len(list(Path(folder).rglob("_delta_log/*.json")))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
