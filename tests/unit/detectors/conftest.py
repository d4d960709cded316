"""Fits of scikit-learn's own, for comparison."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other spin: beside other work on two cores a fit took a minute instead of a second."""
    with threadpool_limits(limits=1):
        yield
