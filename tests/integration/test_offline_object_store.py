"""The offline store in an object store that speaks S3: exactly once with several writers, read, kept up."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from featurestore.offline import OfflineStore, OfflineUnavailable
from featurestore.offline_upkeep import UpkeepSettings, compact, vacuum
from tests.unit.featurestore.offline_rows import LOG, NOON, label, scored, small, verdict_of
from tidegate.embedded.process import ChildServer, free_port

PIPELINE = small("amount", "tip")
ALL = (0, 2**60, 2**60)
BUCKET = "tide"


class S3(ChildServer):
    """Moto's server of Amazon's object store: conditional writes are what Delta Lake needs of it."""

    name = "s3"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = 0

    @property
    def options(self) -> dict[str, str]:
        """What deltalake needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def _answers(self) -> bool:
        make = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(make, timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    with S3(tmp_path) as server:
        yield server


def test_several_writers_append_each_record_once_and_readers_find_it(s3: S3) -> None:
    writers = [OfflineStore(f"s3://{BUCKET}/offline", PIPELINE, options=s3.options) for _ in range(3)]

    def write(store: OfflineStore) -> int:
        return sum(
            store.append_verdicts([scored(i) for i in range(at, at + 5)], LOG).written
            for at in range(0, 30, 5)
        )

    with ThreadPoolExecutor(len(writers)) as threads:
        assert sum(threads.map(write, writers)) == 30
    store = writers[0]
    store.append_labels([label(0, verdict_of(3), NOON, 1)], "labels")
    pin = store.pin()
    examples = store.examples(pin, *ALL)
    assert (len(examples), int((examples.y == 1.0).sum())) == (30, 1)
    assert list(store.find(["e0-3"])) == ["e0-3"]

    assert compact(store.verdicts, UpkeepSettings(small_files=2, quiet=0)) > 0
    assert vacuum(store.verdicts, 0, [store.pin().verdicts]) > 0
    after = store.examples(store.pin(), *ALL)
    assert after.times.tolist() == examples.times.tolist()
    assert after.x.tobytes() == examples.x.tobytes()


def test_an_object_store_that_is_away_is_said(tmp_path: Path) -> None:
    options = S3(tmp_path).options | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "max_retries": "0",
        "timeout": "2s",
        "connect_timeout": "2s",
    }
    store = OfflineStore(f"s3://{BUCKET}/offline", PIPELINE, options=options)
    with pytest.raises(OfflineUnavailable, match="TIDEGATE_OFFLINE_URL"):
        store.append_verdicts([scored(1)], LOG)
