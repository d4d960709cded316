"""What the operators and functions of expressions do to columns.

All numbers are doubles and missing is NaN; truth is 1.0 and 0.0. Missing goes through everything, except
where the other side settles the answer (``false && missing`` is false, as in CEL). What is not finite becomes
missing. Column in, column out, row by row: cutting a batch elsewhere changes no bit (promise P3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from domain.batch import Floats

__all__ = ["BINARY", "FUNCTIONS", "choose", "equal_texts", "logical_not", "negate"]

DAY = 86_400.0
HOUR = 3_600.0


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


def _missing(left: Floats, right: Floats) -> npt.NDArray[np.bool_]:
    return np.isnan(left) | np.isnan(right)


def _compare(operation: np.ufunc) -> Callable[[Floats, Floats], Floats]:
    def compare(left: Floats, right: Floats) -> Floats:
        return np.where(_missing(left, right), np.nan, operation(left, right)).astype(np.float64, copy=False)

    return compare


def _arithmetic(operation: Callable[[Floats, Floats], Floats]) -> Callable[[Floats, Floats], Floats]:
    def calculate(left: Floats, right: Floats) -> Floats:
        return _finite(operation(left, right))

    return calculate


def _both(left: Floats, right: Floats) -> Floats:
    false = (left == 0.0) | (right == 0.0)
    return np.where(false, 0.0, np.where(_missing(left, right), np.nan, 1.0))


def _either(left: Floats, right: Floats) -> Floats:
    true = ((left != 0.0) & ~np.isnan(left)) | ((right != 0.0) & ~np.isnan(right))
    return np.where(true, 1.0, np.where(_missing(left, right), np.nan, 0.0))


BINARY: dict[str, Callable[[Floats, Floats], Floats]] = {
    "addition_add": _arithmetic(np.add),
    "addition_sub": _arithmetic(np.subtract),
    "multiplication_mul": _arithmetic(np.multiply),
    "multiplication_div": _arithmetic(np.divide),
    "multiplication_mod": _arithmetic(np.fmod),
    "relation_lt": _compare(np.less),
    "relation_le": _compare(np.less_equal),
    "relation_gt": _compare(np.greater),
    "relation_ge": _compare(np.greater_equal),
    "relation_eq": _compare(np.equal),
    "relation_ne": _compare(np.not_equal),
    "conditionaland": _both,
    "conditionalor": _either,
}
"""Two-sided operators by the name of their rule in the CEL grammar."""


def negate(value: Floats) -> Floats:
    """Minus."""
    return np.negative(value)


def logical_not(value: Floats) -> Floats:
    """True for 0, false for any other number."""
    return np.where(np.isnan(value), np.nan, value == 0.0)


def choose(condition: Floats, yes: Floats, no: Floats) -> Floats:
    """``condition ? yes : no``; missing where the condition is."""
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0.0, yes, no))


def equal_texts(left: Sequence[str | None], right: Sequence[str | None]) -> Floats:
    """1.0 where the texts are equal, 0.0 where not, missing where either is."""
    pairs = zip(left, right, strict=True)
    answers = [np.nan if a is None or b is None else float(a == b) for a, b in pairs]
    return np.array(answers, dtype=np.float64)


def _extreme(operation: Callable[[Floats, Floats], Floats]) -> Callable[..., Floats]:
    def extreme(*values: Floats) -> Floats:
        result = values[0]
        for value in values[1:]:
            result = operation(result, value)
        return result

    return extreme


def _elementwise(operation: Callable[..., Floats]) -> Callable[..., Floats]:
    def apply(*values: Floats) -> Floats:
        # one memory layout, so that the same vector instructions meet every row whatever the batch
        return _finite(operation(*(np.ascontiguousarray(value) for value in values)))

    return apply


def _coalesce(*values: Floats) -> Floats:
    result = values[-1]
    for value in reversed(values[:-1]):
        result = np.where(np.isnan(value), result, value)
    return result


def _hour(seconds: Floats) -> Floats:
    return np.floor(np.mod(seconds, DAY) / HOUR)


def _weekday(seconds: Floats) -> Floats:
    # 1 January 1970 was a Thursday, day 3 of a week that begins with Monday as 0
    return np.mod(np.floor(seconds / DAY) + 3.0, 7.0)


FUNCTIONS: dict[str, tuple[int, int, Callable[..., Floats]]] = {
    "max": (2, 16, _extreme(np.maximum)),
    "min": (2, 16, _extreme(np.minimum)),
    "abs": (1, 1, np.abs),
    "sqrt": (1, 1, _elementwise(np.sqrt)),
    "log": (1, 1, _elementwise(np.log)),
    "exp": (1, 1, _elementwise(np.exp)),
    "floor": (1, 1, np.floor),
    "pow": (2, 2, _elementwise(np.power)),
    "coalesce": (2, 16, _coalesce),
    "hour": (1, 1, _hour),
    "weekday": (1, 1, _weekday),
}
"""Functions of numbers: least and most arguments, and what they do (``is_missing`` also takes texts)."""
