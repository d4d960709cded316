"""What :class:`tidegate.client.Client` raises.

::

    TidegateError
    └── ClientError             the API did not do what was asked
        ├── Unreachable         no answer came: nobody knows whether the request arrived
        ├── Busy                429 or 503, after all attempts; ``retry_after`` says when to come back
        └── Refused             any other problem: the same request will be refused again
            ├── NotAllowed      401 or 403: no key, or one that may not
            ├── NotFound        404
            ├── Conflict        409: somebody else was faster
            └── Invalid         408, 413, 415, 422: ``field`` and ``reason`` say what is wrong
"""

from __future__ import annotations

from typing import Any

import msgspec

from domain.errors import TidegateError

__all__ = [
    "Busy", "ClientError", "Conflict", "Invalid", "NotAllowed", "NotFound", "Problem", "Refused", "Unreachable",
    "error_of",
]  # fmt: skip


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details as the API sends them. ``code`` and ``reason`` are stable; the rest is for people."""

    status: int
    code: str
    detail: str
    remedy: str = ""
    reason: str | None = None
    field: str | None = None
    request_id: str | None = None
    errors: list[dict[str, Any]] = []


class ClientError(TidegateError):
    """The API did not do what was asked."""


class Unreachable(ClientError):
    """No answer came, or half of one. A request that changes something may have been carried out."""


class _Answered(ClientError):
    """An answer with a problem; everything that the API said is in ``problem``."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(_text(problem), remedy=problem.remedy)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """Which problem; stable."""
        return self.problem.code

    @property
    def field(self) -> str | None:
        """The field or parameter at fault, where there is one."""
        return self.problem.field

    @property
    def reason(self) -> str | None:
        """Why an event or a label is refused: a stable code (:class:`domain.errors.Reject`)."""
        return self.problem.reason


class Busy(_Answered):
    """Too much at once, or Kafka or Redis is away. ``retry_after``: seconds to wait before asking again."""

    def __init__(self, problem: Problem, retry_after: float) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class Refused(_Answered):
    """The same request will be refused again."""


class NotAllowed(Refused):
    """No key, or one that may not."""


class NotFound(Refused):
    """There is no such thing here, or not any more."""


class Conflict(Refused):
    """What the request was decided on has changed since."""


class Invalid(Refused):
    """The event, the label or a parameter is not valid."""


_KINDS: dict[int, type[Refused]] = {
    401: NotAllowed, 403: NotAllowed, 404: NotFound, 408: Invalid, 409: Conflict, 413: Invalid, 415: Invalid,
    422: Invalid,
}  # fmt: skip


def error_of(status: int, body: bytes, retry_after: float) -> ClientError:
    """What to raise for an answer with an error ``status``; a ``body`` that is no problem comes from a proxy."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = Problem(
            status=status,
            code="not-a-problem",
            detail=f"HTTP {status} without problem details",
            remedy="look at what lies between here and the API: this is not its answer",
        )
    if status in (429, 503):
        return Busy(problem, retry_after)
    return _KINDS.get(status, Refused)(problem)


def _text(problem: Problem) -> str:
    where = f" ({problem.field})" if problem.field and problem.field not in problem.detail else ""
    why = f" [{problem.reason}]" if problem.reason else ""
    return f"{problem.code}{where}{why}: {problem.detail}"
