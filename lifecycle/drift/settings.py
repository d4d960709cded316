"""How events are put together before anything is compared, and how often a monitor may be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DAY", "HOUR", "MONTH", "Cadence", "DriftSettings"]

HOUR = 3_600_000_000
"""Microseconds."""
DAY = 24 * HOUR
MONTH = 30 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Columns that are looked at together. All lengths but ``cell`` are numbers of cells.

    cell        microseconds of event time whose events become one histogram
    cycle       the shortest season, a day: resampled blocks keep their place in it
    season      after how many cells like meets like: a week, a day, or 1 where nothing recurs
    warm_up     cells before the reference: features fill up, and their values decide about the bins
    reference   cells of the reference, a multiple of cycle
    window      cells that PSI and KS compare with the same cells of the season
    block       cells that stay together when the reference is resampled: what is correlated over less than that
                is so in the simulation, too
    horizon     cells of a simulated stream; sequential monitors remember no more than that and ``prime``
    prime       cells of the reference with which sequential monitors begin
    bins        of values, about; values that many events share get their own
    sample      events whose values decide about the bins
    min_cell    a cell of fewer events says nothing to sequential monitors
    min_window  a window of fewer events is not compared
    floor       PSI and KS below it are never alarms, however improbable: too small to matter
    sway        Page-Hinkley below it is never an alarm: a column that never varied would otherwise alarm at one value
    spread      least standard deviation of a cell's mean rank, for columns that hardly ever vary
    slack       Page-Hinkley's delta, in standard deviations
    recent, latest  KSWIN's window and the part of it that is compared with the rest
    """

    cell: int = HOUR
    cycle: int = 24
    season: int = 168
    warm_up: int = 168
    reference: int = 672
    window: int = 24
    block: int = 168
    horizon: int = 720
    prime: int = 120
    bins: int = 10
    sample: int = 4096
    min_cell: int = 5
    min_window: int = 50
    floor: float = 0.02
    sway: float = 8.0
    spread: float = 0.01
    slack: float = 0.25
    recent: int = 96
    latest: int = 24

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, holds in (
                ("season must be a multiple of cycle, or 1 with cycle 1", self.season % self.cycle == 0),
                ("reference must be a multiple of season", self.reference % self.season == 0),
                ("reference must hold at least two seasons", self.reference >= 2 * self.season),
                ("block must be a multiple of cycle", self.block % self.cycle == 0),
                ("block must not exceed reference", self.block <= self.reference),
                ("window must lie between 1 and prime", 1 <= self.window <= self.prime),
                ("prime must not exceed reference", self.prime <= self.reference),
                ("prime must hold KSWIN's window", self.recent <= self.prime),
                ("latest must be at most half of recent", 2 <= 2 * self.latest <= self.recent),
                ("warm_up must be at least 1", self.warm_up >= 1),
                ("horizon must be at least 1", self.horizon >= 1),
                ("cell must be positive", self.cell > 0),
                ("bins must be at least 2", self.bins >= 2),
            )
            if not holds
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    @staticmethod
    def hourly(*, reference_days: int = 28, warm_up_days: int = 7) -> Cadence:
        """Hours, compared with the same hour of the week; of the day where the reference is shorter than two weeks.

        Raises ValueError for fewer than two days.
        """
        if reference_days < 14:
            return Cadence(
                season=24,
                block=24 * max(1, reference_days // 4),
                reference=24 * reference_days,
                prime=min(120, 24 * reference_days),
                recent=min(96, 24 * reference_days),
                latest=min(24, 6 * reference_days),
                warm_up=max(1, 24 * warm_up_days),
            )
        return Cadence(reference=168 * (reference_days // 7), warm_up=max(1, 24 * warm_up_days))

    @staticmethod
    def daily(*, reference_days: int = 28, warm_up_days: int = 7) -> Cadence:
        """Days, each like every other: for what is too rare for hours. Raises ValueError for fewer than eight days."""
        return Cadence(
            cell=DAY,
            cycle=1,
            season=1,
            warm_up=max(1, warm_up_days),
            reference=reference_days,
            window=min(7, reference_days),
            block=max(1, min(7, reference_days // 4)),
            horizon=30,
            prime=min(28, reference_days),
            recent=min(28, reference_days),
            latest=min(7, reference_days // 2),
            min_cell=3,
            min_window=20,
            floor=0.05,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """Everything that decides what a pipeline's drift monitors say.

    traffic      cadence of features, score and decisions
    labels       cadence of the error on matured labels
    per_month    false alarms allowed in 30 days, over all columns and monitors together
    simulations  resampled months from which thresholds come
    cool_down    microseconds after an alarm in which its column raises no other
    maturity     microseconds after which the labels of a day are taken to be known
    lateness     microseconds by which events may be late before their cell is closed
    seed         of the resampling and of KSWIN
    """

    traffic: Cadence = field(default_factory=Cadence.hourly)
    labels: Cadence = field(default_factory=Cadence.daily)
    per_month: float = 1.0
    simulations: int = 200
    cool_down: int = 7 * DAY
    maturity: int = 7 * DAY
    lateness: int = HOUR
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.per_month > 0:
            raise ValueError("per_month must be positive")
        if self.simulations < 20:
            raise ValueError("simulations must be at least 20: a threshold needs a tail")
        if min(self.cool_down, self.maturity, self.lateness) < 0:
            raise ValueError("cool_down, maturity and lateness must not be negative")
