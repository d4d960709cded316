"""What each event turned out to be, as far as was known at some time: many labels in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.batch import Floats, Ints
from domain.label_codec import JoinedLabel
from featurestore.kernels_hash import hash_texts

__all__ = ["LabelIndex"]

_KEY = "tidegate:label-index"
_CHUNK = 4_096


class LabelIndex:
    """The last label of each event among those known by ``as_of`` (UTC microseconds; None: all).

    Takes 32 bytes a label: an event is known by the 64-bit hash of its id and by its time, so two ids would have to
    meet in both to be taken for one. Of several labels of one event the one added last counts: add them in the
    order of their log.
    """

    def __init__(self, as_of: int | None = None) -> None:
        self._as_of = as_of
        self._columns: list[Ints] = []
        self._held: list[JoinedLabel] = []
        self._sorted: Ints | None = None

    def add(self, label: JoinedLabel) -> None:
        """Take in the next label of the log."""
        if self._as_of is None or label.known_at <= self._as_of:
            self._held.append(label)
            if len(self._held) >= _CHUNK:
                self._pack()

    def look_up(self, ids: Sequence[str], times: Ints) -> tuple[Floats, Ints]:
        """Labels (1, 0, NaN unknown) and since when they are known (UTC microseconds, -1 unknown) of events."""
        labels: Floats = np.full(len(ids), np.nan)
        known_at: Ints = np.full(len(ids), -1, dtype=np.int64)
        table = self._table()
        if not table.shape[1] or not len(ids):
            return labels, known_at
        hashes = hash_texts(ids, _KEY)
        at = np.searchsorted(table[0], hashes, side="left")
        stop = np.searchsorted(table[0], hashes, side="right")
        for row in np.flatnonzero(at < stop).tolist():
            for i in range(int(stop[row]) - 1, int(at[row]) - 1, -1):
                if table[1, i] != times[row]:
                    continue  # another event with this id, or with this hash
                if table[3, i] >= 0:
                    labels[row], known_at[row] = float(table[3, i]), table[2, i]
                break
        return labels, known_at

    def _pack(self) -> None:
        held = self._held
        if not held:
            return
        self._columns.append(
            np.array(
                [
                    hash_texts([label.id for label in held], _KEY),
                    [label.event_time for label in held],
                    [label.known_at for label in held],
                    [-1 if label.label is None else label.label for label in held],
                ],
                dtype=np.int64,
            )
        )
        self._held = []
        self._sorted = None

    def _table(self) -> Ints:
        self._pack()
        if self._sorted is None:
            empty: Ints = np.empty((4, 0), dtype=np.int64)
            together = np.concatenate([empty, *self._columns], axis=1)
            # stable: labels of one event stay in the order of the log
            self._sorted = together[:, np.argsort(together[0], kind="stable")]
            self._columns = [self._sorted]
        return self._sorted
