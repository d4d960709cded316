"""One way to compile a kernel, so that every kernel has the same floating point rules.

``fastmath`` stays off: results must have the same bits on replay, in the API and in training (promise P3).
``nogil`` lets input and output go on meanwhile; ``cache`` keeps machine code between starts.

numba checks the cache against the file of the outermost function only. Who changes a kernel that another file calls
must delete the cached code (``forget_stale_code``; the tests do it at their start).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled", "forget_stale_code"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile ``function`` with numba at its first call."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function))


def forget_stale_code(root: Path) -> int:
    """Delete cached machine code below ``root`` that is older than any source beside it; returns how many files."""
    deleted = 0
    for cache in root.glob("*/__pycache__"):
        newest = max((source.stat().st_mtime for source in cache.parent.glob("*.py")), default=0.0)
        for code in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            if code.stat().st_mtime < newest:
                code.unlink(missing_ok=True)
                deleted += 1
    return deleted
