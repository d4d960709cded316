"""Training on a real Dask cluster: the same bytes as here, though a worker dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from distributed import LocalCluster

from domain.errors import Retriable, ServiceMissing
from domain.parallel import Run
from lifecycle.parallel_scores import scores_of
from lifecycle.training import plan_training, read_rows, train
from tests.unit.lifecycle.loop_stage import DAY, FIT, LEARNING, RULES, START, MemoryRows, stream
from tidegate.dask import training_runs

T = TypeVar("T")
NOW = START + 20 * DAY


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers in processes of their own, on this machine."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as started:
        yield started


@dataclass(frozen=True)
class _DiesOnce:
    """A part whose first worker is killed at its work."""

    part: Callable[[int], Any]
    mark: str

    def __call__(self, number: int) -> Any:
        if number == 1:
            try:
                Path(self.mark).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.part(number)


def test_a_training_on_dask_gives_the_same_bytes_though_a_worker_dies(cluster: Any, tmp_path: Path) -> None:
    rows = MemoryRows(stream(20))
    rules = msgspec.structs.replace(RULES, search=True)
    plan = plan_training(rows, rows.pin(), rules, now=NOW, seed=3, since=None)
    examples = read_rows(rows, plan)
    here = train(LEARNING, examples, plan, rules, FIT)
    mark = tmp_path / "died"
    with training_runs(cluster.scheduler_address) as runs:

        def deadly(part: Callable[[int], T], numbers: Sequence[int], /) -> Iterable[T]:
            return runs(_DiesOnce(part, str(mark)), numbers)

        there = train(LEARNING, examples, plan, rules, FIT, deadly)
        known = examples.take(np.flatnonzero(~np.isnan(examples.y)))
        scores = scores_of(here.model, known, runs, part_rows=len(known) // 3)
    assert mark.exists()
    assert there.packed == here.packed
    assert there.tried == here.tried
    alone = here.model.score(known.x, known.ranks)
    assert scores.score.tobytes() == alone.score.tobytes()
    assert scores.probability.tobytes() == alone.probability.tobytes()


def test_what_a_part_raises_arrives(cluster: Any) -> None:
    with training_runs(cluster.scheduler_address) as runs, pytest.raises(ValueError, match="no 2"):
        list(runs(_fails_at_two, range(4)))


def _fails_at_two(number: int) -> int:
    if number == 2:
        raise ValueError("no 2")
    return number


def test_a_cluster_without_workers_is_said_and_tried_again_later() -> None:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", processes=True
    ) as empty:
        runs: Run
        with training_runs(empty.scheduler_address) as runs, pytest.raises(Retriable, match="no workers"):
            runs(_fails_at_two, range(1))


def test_an_absent_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.dask.CONNECT_SECONDS", 0.5)
    with pytest.raises(ServiceMissing, match=r"127\.0\.0\.1:9"), training_runs("tcp://127.0.0.1:9"):
        pass
