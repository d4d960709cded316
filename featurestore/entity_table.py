"""The hot entities of one kind in memory: blobs in an arena, an index per partition, LRU over clean ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled
from domain.errors import StateMismatch
from featurestore import kernels_blob
from featurestore.plan import H_EVENT, H_LABEL, H_PROGRESS, EntityPlan, PlanArrays

__all__ = ["EntityTable"]

_CLASSES = 24
_START_SLOTS = 1024
_START_WORDS = 1 << 16
_BLOCK_BYTES = 32 * 8
"""Of the smallest size class."""


@compiled
def _open_slots(words: Ints, floats: Floats, bases: Ints, slots: Ints, plan: PlanArrays) -> None:
    for slot in slots:
        kernels_blob.new_blob(words, floats, bases[slot], plan)


@compiled
def _lengths(words: Ints, bases: Ints, slots: Ints, plan: PlanArrays) -> Ints:
    out = np.empty(len(slots), dtype=np.int64)
    for i in range(len(slots)):
        out[i] = kernels_blob.blob_words(words, bases[slots[i]], plan)
    return out


@compiled
def _gather(words: Ints, bases: Ints, slots: Ints, lengths: Ints, out: Ints) -> None:
    at = 0
    for i in range(len(slots)):
        base = bases[slots[i]]
        for j in range(lengths[i]):
            out[at + j] = words[base + j]
        at += lengths[i]


@compiled
def _close_ranks(words: Ints, bases: Ints, classes: Ints, slots: Ints) -> int:
    """Move the blocks of ``slots``, which are in order of their places, down to where there is no gap; the end."""
    at = 0
    for slot in slots:
        base = bases[slot]
        size = 32 << classes[slot]
        if at < base:
            for i in range(size):
                words[at + i] = words[base + i]
            bases[slot] = at
        at += size
    return at


class EntityTable:
    """State of one entity field for all partitions this process holds, and copies of foreign ones.

    Slots are numbered; ``bases`` and ``classes`` say where a slot's block lies and how large it is
    (32 << class words). Freed blocks are reused by size class; as entities grow, those of the small classes lie idle,
    until :meth:`compact`. Where ``reserve_bytes`` is given, the arena begins that large: the system hands out zeroed
    pages only when they are touched, and growing would need old and new arena at the same time.
    """

    def __init__(self, plan: EntityPlan, *, reserve_bytes: int = 0) -> None:
        self.plan = plan
        self.words: Ints = np.zeros(max(_START_WORDS, reserve_bytes // 8), dtype=np.int64)
        self.floats: Floats = self.words.view(np.float64)
        self.bases: Ints = np.full(_START_SLOTS, -1, dtype=np.int64)
        self.classes: Ints = np.zeros(_START_SLOTS, dtype=np.int64)
        self.free: Ints = np.full(_CLASSES, -1, dtype=np.int64)
        self.top: Ints = np.zeros(1, dtype=np.int64)
        self.dirty: npt.NDArray[np.bool_] = np.zeros(_START_SLOTS, dtype=np.bool_)
        self.blank: npt.NDArray[np.bool_] = np.zeros(_START_SLOTS, dtype=np.bool_)
        """Erased, and without anything since: stored as progress alone, which the store takes as "delete"."""
        self._used: Ints = np.zeros(_START_SLOTS, dtype=np.int64)
        self._partition: Ints = np.full(_START_SLOTS, -1, dtype=np.int64)
        self._keys: list[str] = [""] * _START_SLOTS
        self._free_slots: list[int] = list(range(_START_SLOTS - 1, -1, -1))
        self._index: dict[int, dict[str, int]] = {}
        self._open_class = 0
        while (32 << self._open_class) < plan.head_words:
            self._open_class += 1

    def __len__(self) -> int:
        return len(self._keys) - len(self._free_slots)

    @property
    def arena_bytes(self) -> int:
        """Bytes of blocks handed out (including freed ones that wait for reuse)."""
        return int(self.top[0]) * 8

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks that hold a blob."""
        return int((_BLOCK_BYTES << self.classes[self._partition >= 0]).sum())

    def index(self, partition: int) -> dict[str, int]:
        """Slot of each key held for ``partition``."""
        found = self._index.get(partition)
        if found is None:
            found = self._index[partition] = {}
        return found

    def slots_of(self, partition: int, keys: Sequence[str], tick: int) -> Ints:
        """Slots of keys that are all loaded; notes their use for the LRU order."""
        slots = np.fromiter(map(self.index(partition).__getitem__, keys), np.int64, len(keys))
        self._used[slots] = tick
        return slots

    def erase(self, slot: int, offset: int) -> bool:
        """Make ``slot`` an entity without a past as of the source offset ``offset``; False: it is beyond that already.

        The mark of the last label stays, so that progress grows (the fence compares it).
        """
        base = int(self.bases[slot])
        if self.words[base + H_EVENT] >= offset:
            return False  # read back after a torn write: what it holds came after the erasure
        label = int(self.words[base + H_LABEL])
        _open_slots(self.words, self.floats, self.bases, np.array([slot], np.int64), self.plan.arrays)
        self.words[base + H_EVENT], self.words[base + H_LABEL] = offset, label
        self.words[base + H_PROGRESS] = (offset + 1) + (label + 1)
        self.dirty[slot] = self.blank[slot] = True
        return True

    def touch(self, slots: Ints) -> None:
        """Note that events or labels changed ``slots``."""
        self.dirty[slots] = True
        self.blank[slots] = False

    def put(self, partition: int, keys: Sequence[str], blobs: Sequence[bytes | None]) -> None:
        """Take over stored state (None: an entity without events), replacing what is held for these keys."""
        index = self.index(partition)
        fresh: list[int] = []
        for key, blob in zip(keys, blobs, strict=True):
            slot = index.get(key)
            if slot is None:
                slot = self._take_slot()
                self._keys[slot] = key
                self._partition[slot] = partition
                index[key] = slot
            elif blob is None:
                continue
            need = self.plan.head_words if blob is None else len(blob) // 8
            self._give_block(slot, need)
            if blob is None:
                fresh.append(slot)
            else:
                self._copy_in(slot, key, blob)
        if fresh:
            _open_slots(self.words, self.floats, self.bases, np.array(fresh, np.int64), self.plan.arrays)

    def _copy_in(self, slot: int, key: str, blob: bytes) -> None:
        base = int(self.bases[slot])
        stored = np.frombuffer(blob, dtype="<i8") if len(blob) % 8 == 0 else np.zeros(0, np.int64)
        if len(stored) < self.plan.head_words or stored[1] != self.plan.arrays.layout:
            raise StateMismatch(
                f"online state of {self.plan.entity} was written for another set of features or is damaged",
                remedy="rebuild it from the log with `tidegate state reset`, or go back to the pipeline file "
                "that wrote it",
            )
        self.words[base : base + len(stored)] = stored
        if kernels_blob.blob_words(self.words, base, self.plan.arrays) != len(stored):
            raise StateMismatch(
                f"online state of one {self.plan.entity} is damaged: its length does not fit its counts",
                remedy="rebuild it from the log with `tidegate state reset`",
            )

    def _take_slot(self) -> int:
        if not self._free_slots:
            old = len(self._keys)
            self._free_slots = list(range(2 * old - 1, old - 1, -1))
            self._keys += [""] * old
            self.bases = np.concatenate([self.bases, np.full(old, -1, np.int64)])
            self.classes = np.concatenate([self.classes, np.zeros(old, np.int64)])
            self.dirty = np.concatenate([self.dirty, np.zeros(old, np.bool_)])
            self.blank = np.concatenate([self.blank, np.zeros(old, np.bool_)])
            self._used = np.concatenate([self._used, np.zeros(old, np.int64)])
            self._partition = np.concatenate([self._partition, np.full(old, -1, np.int64)])
        return self._free_slots.pop()

    def _give_block(self, slot: int, need: int) -> None:
        if self.bases[slot] >= 0 and (32 << int(self.classes[slot])) >= need:
            return
        self._release_block(slot)
        level = self._open_class
        while (32 << level) < need:
            level += 1
        if self.free[level] >= 0:
            block = int(self.free[level])
            self.free[level] = self.words[block]
        else:
            block = int(self.top[0])
            if block + (32 << level) > len(self.words):
                self.grow(32 << level)
            self.top[0] = block + (32 << level)
        self.bases[slot] = block
        self.classes[slot] = level

    def _release_block(self, slot: int) -> None:
        block, level = int(self.bases[slot]), int(self.classes[slot])
        if block >= 0:
            self.words[block] = self.free[level]
            self.free[level] = block
            self.bases[slot] = -1

    def grow(self, at_least: int = 0) -> None:
        """Double the arena (or more, so that ``at_least`` words fit)."""
        size = 2 * len(self.words)
        while size < int(self.top[0]) + at_least:
            size *= 2
        words = np.zeros(size, dtype=np.int64)
        words[: len(self.words)] = self.words
        self.words = words
        self.floats = words.view(np.float64)

    def dirty_slots(self, partition: int) -> Ints:
        """Slots of ``partition`` changed since they were last marked clean."""
        changed = np.flatnonzero(self.dirty)
        mine: Ints = changed[self._partition[changed] == partition]
        return mine

    def blobs(self, slots: Ints) -> list[tuple[str, bytes]]:
        """(key, blob) of each slot."""
        if len(slots) == 0:
            return []
        lengths = _lengths(self.words, self.bases, slots, self.plan.arrays)
        lengths[self.blank[slots]] = 1
        packed = np.empty(int(lengths.sum()), dtype=np.int64)
        _gather(self.words, self.bases, slots, lengths, packed)
        data = packed.astype("<i8", copy=False).tobytes()
        ends = (np.cumsum(lengths) * 8).tolist()
        starts = [0, *ends[:-1]]
        keys = self._keys
        return [
            (keys[slot], data[start:end])
            for slot, start, end in zip(slots.tolist(), starts, ends, strict=True)
        ]

    def drop_partition(self, partition: int) -> None:
        """Forget everything held for ``partition``."""
        for slot in self.index(partition).values():
            self._forget(slot)
        del self._index[partition]

    def evict(self, limit: int, limit_bytes: int | None = None) -> int:
        """Forget clean entries, least recently used first, beyond ``limit`` entries or ``limit_bytes``.

        Returns how many went. Of entries a tenth more than needed goes, so that the search for victims is rare.
        """
        excess = len(self) - limit
        over = 0 if limit_bytes is None else self.held_bytes - limit_bytes
        if excess <= 0 and over <= 0:
            return 0
        clean = np.flatnonzero((self._partition >= 0) & ~self.dirty)
        clean = clean[np.argsort(self._used[clean], kind="stable")]
        count = excess + limit // 10 if excess > 0 else 0
        if over > 0:
            freed = np.cumsum(_BLOCK_BYTES << self.classes[clean])
            count = max(count, int(np.searchsorted(freed, over)) + 1)
        victims = clean[:count].tolist()
        for slot in victims:
            del self._index[int(self._partition[slot])][self._keys[slot]]
            self._forget(slot)
        return len(victims)

    def compact(self) -> None:
        """Give back the room of freed blocks, if it is worth the work (a tenth of what is held)."""
        held = self.held_bytes
        if self.arena_bytes - held <= held // 10:
            return
        slots = np.flatnonzero(self._partition >= 0)
        slots = slots[np.argsort(self.bases[slots])]
        self.top[0] = _close_ranks(self.words, self.bases, self.classes, slots)
        self.free[:] = -1

    def _forget(self, slot: int) -> None:
        self._release_block(slot)
        self._partition[slot] = -1
        self._keys[slot] = ""
        self.dirty[slot] = self.blank[slot] = False
        self._free_slots.append(slot)
