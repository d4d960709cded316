"""One way to compile a kernel, so that every kernel has the same floating point rules.

``fastmath`` stays off: results must have the same bits on replay, in the API and in training (promise P3).
``nogil`` lets input and output go on meanwhile; ``cache`` keeps machine code between starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile ``function`` with numba at its first call."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function))
