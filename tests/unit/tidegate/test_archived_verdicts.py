"""Where the joiner looks for verdicts that are no longer hot."""

from __future__ import annotations

from pathlib import Path

from featurestore.offline import OfflineStore
from tests.unit.featurestore.offline_rows import LOG, scored, small
from tests.unit.featurestore.test_verdict_finder import Store
from tidegate.offline import ArchivedVerdicts


def test_the_topic_is_read_only_where_nobody_fills_an_offline_store(tmp_path: Path) -> None:
    offline, topic = OfflineStore(str(tmp_path), small("amount")), Store(a=b"topic")
    archived = ArchivedVerdicts(offline, topic)
    assert archived.find(["a", "b"]) == {"a": b"topic"}
    offline.append_verdicts([scored(1)], LOG)
    [id_] = offline.find(["e0-1"])
    assert archived.find(["a", id_]) == offline.find([id_])
    assert len(topic.asked) == 1
