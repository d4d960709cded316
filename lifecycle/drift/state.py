"""A bank as bytes and back, without pickle: arrays and JSON scalars (:mod:`detectors.arrays`).

Sequential monitors are written as what they were given; reviving them gives the same monitors. So the size is bounded
by the cadence and the columns, whatever came: about 100 kB for 18 columns while watching, before compression.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge
from domain.batch import Floats
from lifecycle.drift.bank import Bank
from lifecycle.drift.calibration import Calibration
from lifecycle.drift.expectation import Expectation
from lifecycle.drift.gathering import Ahead, Gathering
from lifecycle.drift.watch import Column, Reference, Watch

__all__ = ["restore_bank", "snapshot_bank"]


def snapshot_bank(bank: Bank) -> Arrays:
    """Everything that decides what ``bank`` will say."""
    children = {"open": _cells(bank.open)}
    if bank.gathering is not None:
        children["gathering"] = _gathering(bank.gathering)
    if bank.watch is not None:
        children["watch"] = _watch(bank.watch)
    own = Arrays({}, {"next_cell": bank.next_cell, "late": bank.late, "note": bank.note})
    return merge(children, own)


def restore_bank(bank: Bank, state: Arrays) -> None:
    """Make a new ``bank`` what :func:`snapshot_bank` saw. Raises ValueError for what is not of such a bank."""
    try:
        bank.next_cell = state.scalars["next_cell"]
        bank.late = state.scalars["late"]
        bank.note = state.scalars["note"]
        bank.open = _open(child(state, "open"))
        gathering, watch = child(state, "gathering"), child(state, "watch")
        bank.gathering = _gathering_of(bank, gathering) if gathering.scalars else None
        bank.watch = _watch_of(bank, watch) if watch.scalars else None
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the drift state lacks or garbles {error}") from error


def _cells(cells: dict[int, Floats]) -> Arrays:
    held = sorted(cells)
    arrays: dict[str, npt.NDArray[Any]] = {"cells": np.array(held, dtype=np.int64)}
    if held:
        arrays["counts"] = _whole(np.stack([cells[cell] for cell in held]))
    return Arrays(arrays, {})


def _open(state: Arrays) -> dict[int, Floats]:
    cells = state.arrays["cells"].tolist()
    return {cell: state.arrays["counts"][at].astype(np.float64) for at, cell in enumerate(cells)}


def _whole(counts: Floats) -> npt.NDArray[np.int32]:
    """Counts are whole numbers; of labels taken back before a restart they may be negative."""
    return counts.astype(np.int32)


def _edges(edges: tuple[Floats, ...]) -> dict[str, npt.NDArray[Any]]:
    return {
        "edges": np.concatenate([*edges, np.empty(0)]),
        "edge_counts": np.array([len(own) for own in edges], dtype=np.int64),
    }


def _edges_of(state: Arrays) -> tuple[Floats, ...]:
    cuts = np.cumsum(state.arrays["edge_counts"])[:-1]
    return tuple(np.split(state.arrays["edges"], cuts))


def _gathering(gathering: Gathering) -> Arrays:
    arrays: dict[str, npt.NDArray[Any]] = {"keys": gathering.keys, "sample": gathering.sample}
    if gathering.ahead:
        arrays["ahead_cells"] = np.concatenate([part.cells for part in gathering.ahead])
        arrays["ahead"] = np.concatenate([part.x for part in gathering.ahead])
        arrays["ahead_weight"] = np.concatenate([part.weight for part in gathering.ahead])
    if gathering.edges is not None:
        arrays |= _edges(gathering.edges)
    if gathering.counts:
        arrays["counts"] = _whole(np.stack(gathering.counts))
    own = Arrays(arrays, {"first": gathering.first, "warm_up": gathering.warm_up})
    return merge({"open": _cells(gathering.open)}, own)


def _gathering_of(bank: Bank, state: Arrays) -> Gathering:
    gathering = Gathering(state.scalars["first"], state.scalars["warm_up"], bank.column_count, bank.cadence)
    gathering.keys, gathering.sample = state.arrays["keys"], state.arrays["sample"]
    if "ahead" in state.arrays:
        found = state.arrays
        gathering.ahead = [Ahead(found["ahead_cells"], found["ahead"], found["ahead_weight"])]
    if "edges" in state.arrays:
        gathering.edges = _edges_of(state)
    if "counts" in state.arrays:
        gathering.counts = list(state.arrays["counts"].astype(np.float64))
    gathering.open = _open(child(state, "open"))
    return gathering


def _watch(watch: Watch) -> Arrays:
    reference, expected, calibration = (
        watch.reference,
        watch.reference.expected,
        watch.reference.calibration,
    )
    arrays: dict[str, npt.NDArray[Any]] = {
        **_edges(reference.edges),
        "used": reference.used,
        "prime": reference.prime,
        "tail": _whole(reference.tail),
        "shares": expected.shares,
        "mean": expected.mean,
        "spread": expected.spread,
        "mids": expected.mids,
        "thresholds": calibration.thresholds,
        "ring": _whole(watch.ring),
        "means": watch.means,
        "distances": watch.distances,
        "statistics": watch.statistics,
        "logs": np.concatenate([np.array(column.log) for column in watch.columns]),
    }
    scalars = {
        "id": reference.id,
        "first": reference.first,
        "last": reference.last,
        "chance": calibration.chance,
        "per_month": calibration.per_month,
        "least": reference.least,
        "extrapolated": calibration.extrapolated,
        "next_cell": watch.next_cell,
        "log_lengths": [len(column.log) for column in watch.columns],
        "starts": [column.starts for column in watch.columns],
        "alarmed": [column.alarmed for column in watch.columns],
        "over": [column.over for column in watch.columns],
    }
    return Arrays(arrays, scalars)


def _watch_of(bank: Bank, state: Arrays) -> Watch:
    arrays, scalars = state.arrays, state.scalars
    reference = Reference(
        id=scalars["id"],
        first=scalars["first"],
        last=scalars["last"],
        edges=_edges_of(state),
        used=arrays["used"],
        expected=Expectation(arrays["shares"], arrays["mean"], arrays["spread"], arrays["mids"]),
        calibration=Calibration(
            arrays["thresholds"], scalars["chance"], scalars["per_month"], scalars["extrapolated"]
        ),
        prime=arrays["prime"],
        tail=arrays["tail"].astype(np.float64),
        least=scalars["least"],
    )
    cool_down = -(-bank.rule.cool_down // bank.cadence.cell)
    watch = Watch(reference, bank.cadence, cool_down=cool_down, seed=bank.rule.seed)
    watch.next_cell = scalars["next_cell"]
    watch.ring = arrays["ring"].astype(np.float64)
    watch.means, watch.distances, watch.statistics = (
        arrays["means"],
        arrays["distances"],
        arrays["statistics"],
    )
    logs = np.split(arrays["logs"], np.cumsum(scalars["log_lengths"])[:-1])
    watch.columns = [
        Column(log.tolist(), list(starts), alarmed, list(over))
        for log, starts, alarmed, over in zip(
            logs, scalars["starts"], scalars["alarmed"], scalars["over"], strict=True
        )
    ]
    watch.revive()
    return watch
