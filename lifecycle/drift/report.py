"""The monitors' state for people and programs: ``GET /v1/drift``."""

from __future__ import annotations

import math

from domain.batch import Floats
from domain.drift_record import BankState, ColumnState, DriftState, MonitorState
from lifecycle.drift.bank import Bank
from lifecycle.drift.paths import KINDS
from lifecycle.drift.pipeline import PipelineDrift
from lifecycle.drift.watch import Watch

__all__ = ["report"]


def report(drift: PipelineDrift, now: int) -> DriftState:
    """What the monitors say now; ``now`` is UTC microseconds."""
    return DriftState(
        pipeline=drift.pipeline.name,
        pipeline_digest=drift.pipeline.digest,
        as_of=drift.as_of,
        written_at=now,
        banks=[_bank(name, bank, drift.columns[name]) for name, bank in drift.banks.items()],
        alarms=list(reversed(drift.alarms)),
    )


def _bank(name: str, bank: Bank, columns: tuple[str, ...]) -> BankState:
    watch, gathering, cell = bank.watch, bank.gathering, bank.cadence.cell
    if watch is not None:
        phase = "watching"
    elif gathering is None:
        phase = "waiting"
    else:
        phase = (
            "reference" if bank.next_cell is not None and bank.next_cell > gathering.starts else "warming_up"
        )
    calibration = None if watch is None else watch.reference.calibration
    return BankState(
        bank=name,
        phase=phase,
        cell=cell / 1e6,
        gathered=0 if gathering is None else len(gathering.counts),
        needed=bank.cadence.reference,
        reference=None if watch is None else watch.reference.id,
        reference_window=(
            None if watch is None else (watch.reference.first * cell, (watch.reference.last + 1) * cell)
        ),
        declared=bank.rule.per_month,
        simulated=None if calibration is None else calibration.per_month,
        extrapolated=calibration is not None and calibration.extrapolated,
        late=bank.late,
        note=bank.note,
        history_cells=[] if watch is None else _cells(watch, cell),
        columns=[]
        if watch is None
        else [_column(bank, watch, n, column) for n, column in enumerate(columns)],
    )


def _cells(watch: Watch, cell: int) -> list[int]:
    count = len(watch.statistics)
    return [(watch.next_cell - count + at) * cell for at in range(count)]


def _column(bank: Bank, watch: Watch, number: int, name: str) -> ColumnState:
    path = watch.statistics[:, number]
    thresholds = watch.reference.calibration.thresholds[number].tolist()
    history = {kind: _numbers(path[:, place]) for place, kind in enumerate(KINDS)}
    alarmed = watch.columns[number].alarmed
    cell = bank.cadence.cell
    return ColumnState(
        column=name,
        monitors=[
            MonitorState(
                monitor=kind,
                statistic=history[kind][-1] if history[kind] else None,
                threshold=thresholds[place],
            )
            for place, kind in enumerate(KINDS)
        ],
        silent_until=None if alarmed is None else (alarmed + 1) * cell + bank.rule.cool_down,
        history=history,
    )


def _numbers(values: Floats) -> list[float | None]:
    # six digits are more than a chart shows, and half of the bytes
    return [None if math.isnan(value) else float(f"{value:.6g}") for value in values.tolist()]
