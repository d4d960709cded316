"""The offline gate: may a challenger see live traffic? A pure function of a later slice of matured labels.

Every check is made and told, also when an earlier one has already refused: who reads the card wants all of them. What
the gate can not see: labels that are wrong in the same way in both slices. It would call a model good that has learned
to say what they say; docs/training.md tells what guards against that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from domain.batch import Floats, Ints
from domain.pipeline_retraining import GateRules
from lifecycle.comparison import Contest, blocks_of, contest
from lifecycle.evaluation import Bools, Calibration, calibration, ranking
from lifecycle.fairness import FairnessReport, fairness, fairness_gate
from lifecycle.leakage import Leak

__all__ = ["Check", "GateReport", "GateSlice", "Grouping", "judge"]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which group each row belongs to: ``codes`` int64[n] index ``names``, -1 none; ``field`` is what was declared."""

    field: str
    names: tuple[str, ...]
    codes: Ints


@dataclass(frozen=True, slots=True)
class GateSlice:
    """The later slice, with what both models say of it; all float64[n] or int64[n].

    ``champion`` holds the scores of ``champion_name``, which is ``own`` for the pipeline's ensemble. ``fitted_rows``
    and ``fitted_positives`` tell what share of the earlier slice was positive. ``budget``: the share of traffic may
    be alerts, for the comparison of groups. ``entities``: whose events they are, None when that is not known.
    """

    labels: Bools
    times: Ints
    challenger: Floats
    probability: Floats
    champion: Floats
    champion_name: str
    fitted_rows: int
    fitted_positives: int
    budget: float
    entities: Ints | None = None
    grouping: Grouping | None = None
    leaks: tuple[Leak, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``text`` says what was found, and what to do when it did not pass."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """All checks, and the numbers they rest on."""

    passed: bool
    checks: tuple[Check, ...]
    contest: Contest | None
    champion_name: str
    rows: int
    positives: int
    auc: float
    champion_auc: float
    calibration: Calibration
    fairness: FairnessReport | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused; empty when it passed."""
        return tuple(check.text for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not defined is null."""
        plain: dict[str, Any] = _plain(asdict(self) | {"reasons": list(self.reasons)})
        return plain


def judge(given: GateSlice, rules: GateRules, *, seed: int) -> GateReport:
    """Every check on ``given`` under ``rules``; the bootstrap draws from ``seed``."""
    positives = int(given.labels.sum())
    enough = min(positives, len(given.labels) - positives) >= rules.min_positive
    fought = None
    if enough:
        fought = contest(
            given.challenger,
            given.champion,
            given.labels,
            blocks_of(given.times, given.entities),
            replicates=rules.replicates,
            level=rules.level,
            seed=seed,
        )
    fair = None if given.grouping is None else _fairness(given, given.grouping)
    checks = [
        _enough(positives, len(given.labels), rules),
        _scores(given.challenger),
        _prevalence(given, positives, rules),
        _leaks(given.leaks, rules),
        *([] if fought is None else [_dummy(fought), _champion(fought, given.champion_name, rules)]),
        *([] if fair is None else [_fair(fair, rules)]),
    ]
    return GateReport(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        contest=fought,
        champion_name=given.champion_name,
        rows=len(given.labels),
        positives=positives,
        auc=ranking(given.challenger, given.labels).auc,
        champion_auc=ranking(given.champion, given.labels).auc,
        calibration=calibration(given.probability, given.labels),
        fairness=fair,
    )


def _enough(positives: int, rows: int, rules: GateRules) -> Check:
    fewer = min(positives, rows - positives)
    if fewer >= rules.min_positive:
        return Check("labels", True, f"{positives:,} of {rows:,} labels in the later slice are positive.")
    return Check(
        "labels",
        False,
        f"The later slice has {positives:,} positive and {rows - positives:,} other labels, and needs "
        f"{rules.min_positive:,} of each (retraining.gate.min_positive): wait for more labels, or enlarge gate.test.",
    )


def _scores(challenger: Floats) -> Check:
    broken = int((~np.isfinite(challenger)).sum())
    if not broken:
        return Check("scores", True, "The challenger scores every event of the slice.")
    return Check(
        "scores",
        False,
        f"The challenger gives no finite score to {broken:,} of {len(challenger):,} events: look at the features "
        "that are missing in them.",
    )


def _prevalence(given: GateSlice, positives: int, rules: GateRules) -> Check:
    """Laplace's half is added to both counts, so that no slice without positives divides by zero."""
    later = (positives + 0.5) / (len(given.labels) + 1.0)
    earlier = (given.fitted_positives + 0.5) / (given.fitted_rows + 1.0)
    ratio = max(later / earlier, earlier / later)
    text = f"positive labels: {earlier:.3%} in the earlier slice, {later:.3%} in the later one"
    if ratio <= rules.max_prevalence_ratio:
        return Check("prevalence", True, f"Share of {text}.")
    return Check(
        "prevalence",
        False,
        f"The share of {text}, a factor of {ratio:.1f} (at most {rules.max_prevalence_ratio:g}, "
        "retraining.gate.max_prevalence_ratio): look at where the labels come from before they teach anything.",
    )


def _leaks(leaks: Sequence[Leak], rules: GateRules) -> Check:
    if not leaks:
        return Check("leaks", True, "No feature tells the label by itself.")
    told = " ".join(leak.text for leak in leaks[:3])
    return Check("leaks", rules.leaks == "warn", told)


def _dummy(fought: Contest) -> Check:
    low = fought.to_dummy.low
    text = (
        f"Average precision {fought.challenger:.3f} against {fought.dummy:.3f} of a random ranking, "
        f"a difference of at least {low:.3f}"
    )
    if low > 0.0:
        return Check("dummy", True, text + ".")
    return Check(
        "dummy", False, text + ": it is not shown to know more than chance; are the labels those events'?"
    )


def _champion(fought: Contest, name: str, rules: GateRules) -> Check:
    found = fought.to_champion
    whom = "the pipeline's own ensemble" if name == "own" else name
    text = f"Average precision {fought.challenger:.3f} against {fought.champion:.3f} of {whom}"
    if found.interval is None:
        return Check(
            "champion",
            False,
            f"{text}, but all events are of one hour: nothing can be said of how sure that is.",
        )
    text += f": {found.difference:+.3f} ({found.interval.low:+.3f} to {found.interval.high:+.3f} at {rules.level:.0%})"
    if found.low > -rules.margin:
        return Check("champion", True, text + ".")
    asked = "be better" if rules.margin == 0.0 else f"lose at most {rules.margin:g}"
    return Check("champion", False, f"{text}; it is not shown to {asked} (retraining.gate.margin).")


def _fairness(given: GateSlice, grouping: Grouping) -> FairnessReport:
    """Alerts are the highest ``budget`` of the slice, as the pipeline's budget would make them."""
    n = len(given.labels)
    wanted = min(max(1, int(given.budget * n)), n)
    alert = np.zeros(n, dtype=np.bool_)
    if n:
        alert[np.argsort(-np.nan_to_num(given.challenger, nan=-np.inf), kind="stable")[:wanted]] = True
    entities = np.arange(n, dtype=np.int64) if given.entities is None else given.entities
    labels = given.labels.astype(np.float64)
    return fairness(grouping.field, grouping.names, grouping.codes, alert, labels, entities)


def _fair(report: FairnessReport, rules: GateRules) -> Check:
    found = fairness_gate(report, max_ratio=rules.max_ratio)
    return Check("fairness", found.passed, found.reason + ".")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
