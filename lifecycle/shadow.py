"""The shadow rule: did the challenger behave beside the champion? A pure function of a tally of live verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from domain.durations import format_duration
from domain.pipeline_retraining import ShadowRules
from lifecycle.live import LiveTally, Side

__all__ = ["Finding", "beyond", "shadow_finding"]

_Z, _TAIL = 2.5758293035489, 0.005
"""99 %, two-sided: a rule that is looked at again and again must not fire on the first unlucky hundred."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``decided`` False: wait on. ``text`` says what was found, ``evidence`` the numbers (JSON values)."""

    decided: bool
    passed: bool
    text: str
    evidence: dict[str, Any]


def shadow_finding(tally: LiveTally, version: str, rules: ShadowRules, *, began: int) -> Finding:
    """What the tally says of challenger ``version``; ``began`` is the stream time at which it was set."""
    own = tally.challengers.get(version, Side())
    other = tally.beside.get(version, Side())
    evidence = {"challenger": own.summary(), "champion": other.summary(), "began": began}
    failed = failing(own, rules.max_failures)
    if failed is not None and own.events >= min(rules.events, 500):
        return Finding(True, False, f"the challenger {failed}", evidence)
    spent = max(0, (tally.now if tally.now is not None else began) - began)
    seen = 0 if own.first is None or own.last is None else own.last - own.first
    if own.events < rules.events or seen < rules.time:
        told = f"{own.events:,} of {rules.events:,} events in {format_duration(seen)} of {format_duration(rules.time)}"
        if spent > rules.patience:
            text = f"it saw only {told} within the patience of {format_duration(rules.patience)}"
            return Finding(True, False, text, evidence)
        return Finding(False, False, told, evidence)
    shown = f"it ranks {own.high:,} of {own.events:,} events within the budget, the champion {other.high:,}"
    if beyond(own.high, own.events, other.high, other.events, rules.max_alert_ratio):
        return Finding(
            True,
            False,
            f"{shown}: beyond a factor of {rules.max_alert_ratio:g} (shadow.max_alert_ratio)",
            evidence,
        )
    return Finding(True, True, f"{shown}; {own.failures:,} failures", evidence)


def failing(side: Side, most: float) -> str | None:
    """What to say when its failures are shown to exceed the share ``most``; None: they are not."""
    if not side.failures or wilson_low(side.failures, side.events) <= most:
        return None
    return f"gave no score for {side.failures:,} of {side.events:,} events (at most {most:.2%})"


def wilson_low(hits: int, n: int) -> float:
    """Lower end of the 99 % interval of a share."""
    share = hits / n
    middle = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + _Z * _Z / n))


def wilson_high(hits: int, n: int) -> float:
    """Upper end of the same interval."""
    return 1.0 - wilson_low(n - hits, n)


def beyond(hits: int, n: int, other_hits: int, other_n: int, factor: float) -> bool:
    """Whether one share is shown (99 %) to be more than ``factor`` times the other, or less than a ``factor``-th of it.

    Exact for rare hits, and so for none at all: given how many hits there are together, those on the one side are
    binomial (Przyborowski and Wilenski, Biometrika 31, 1940).

    >>> beyond(0, 1_000, 60, 2_000, 3.0), beyond(0, 100, 60, 2_000, 3.0), beyond(90, 1_000, 60, 2_000, 3.0)
    (True, False, False)
    """
    from scipy.special import bdtr  # type: ignore[import-untyped]

    total = hits + other_hits
    most = factor * n / (factor * n + other_n)
    least = n / (n + factor * other_n)
    above = hits > 0 and 1.0 - float(bdtr(hits - 1, total, most)) < _TAIL
    below = total > 0 and float(bdtr(hits, total, least)) < _TAIL
    return bool(above or below)
