"""Training on a Dask cluster: the parts of a fit and of the gate's backtest, with the same bytes as on one machine.

Dask is an optional extra, and the cluster is the operator's own: it is reached at an address, protected by Dask's own
TLS settings. Tasks travel as Python objects between trainer and workers, which are one trust zone; artefacts never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from domain.errors import Retriable, ServiceMissing
from domain.parallel import Run, in_turn
from tidegate.version import CODE_VERSION

__all__ = ["DaskRun", "training_runs"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONNECT_SECONDS = 20.0
"""A scheduler that does not answer for so long is away; the run waits and tries again."""
TIMES = 3
"""How often a part is begun again because the worker that had it died."""


@contextmanager
def training_runs(address: str | None) -> Iterator[Run]:
    """What runs the parts of a training: the cluster whose scheduler is at ``address``; None: this process.

    Raises ServiceMissing without the extra ``dask`` or without the scheduler.
    """
    if address is None:
        yield in_turn
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ServiceMissing(
            "TIDEGATE_DASK is set, but Dask is not installed",
            remedy="pip install 'tidegate[dask]', or unset it",
        ) from error
    try:
        client: Any = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ServiceMissing(
            f"no Dask scheduler answers at {address}: {error}",
            remedy="start it (dask scheduler), or correct TIDEGATE_DASK",
        ) from error
    with client:
        yield DaskRun(client)


class DaskRun:
    """:class:`domain.parallel.Run` on a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, part: Callable[[int], T], numbers: Sequence[int], /) -> Iterable[T]:
        """The results, in the order of ``numbers``. Raises what a part raised, Retriable when the cluster failed."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            self._check_versions()
            # the rows travel once to each worker, not once with each part; and not all is lost with one of them
            sent = self._client.scatter(part, hash=False, broadcast=True)
            futures = [
                self._client.submit(_call, sent, number, pure=False, retries=TIMES) for number in numbers
            ]
            results: list[T] = self._client.gather(futures)
        except (KilledWorker, CancelledError, CommClosedError, TimeoutError, OSError) as error:
            raise Retriable(
                f"the Dask cluster did not finish a training: {type(error).__name__}: {error}",
                remedy="look at its scheduler and workers (memory?); the run is taken up again by itself",
            ) from error
        return results

    def _check_versions(self) -> None:
        found = self._client.run(_version)
        if not found:
            raise Retriable(
                "the Dask cluster has no workers",
                remedy="start some: dask worker ADDRESS, with tidegate installed",
            )
        strangers = sorted(worker for worker, version in found.items() if version != CODE_VERSION)
        if strangers:
            raise Retriable(
                f"Dask workers run another version of Tidegate: {', '.join(strangers)}",
                remedy=f"install {CODE_VERSION} there; other code may give other bytes",
            )


def _call(part: Callable[[int], T], number: int) -> T:
    return part(number)


def _version() -> str:
    return CODE_VERSION
