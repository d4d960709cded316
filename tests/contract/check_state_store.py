"""The contract of every StateStore: subclass it and give a ``store`` fixture with an empty store."""

from __future__ import annotations

import random
import struct
import threading

import pytest

from domain.errors import StateFenced
from featurestore.ports import Applied, EntityRequest, ModelSnapshot, PartitionFlush, StateStore

__all__ = ["StateStoreContract", "blob"]

AWKWARD_KEYS = [
    "",
    "plain",
    "a:b",
    "{x}",
    "}{",
    "applied",
    "model",
    "*",
    "[a-z]?",
    "%3A",
    "~",
    "Zoë",
    "日本",
    "new\nline",
    "nul\0",
    "\ud800",
    "x" * 200,
    "x" * 201,
    "é" * 150,
    "~" + "0" * 64,
]


def blob(progress: int, content: bytes = b"anything") -> bytes:
    """A blob as the store sees it: how far it is, then anything."""
    return struct.pack("<q", progress) + content


def flush_of(
    expected: Applied | None, applied: Applied, *blobs: tuple[str, str, bytes], partition: int = 0
) -> PartitionFlush:
    return PartitionFlush(partition, expected, applied, blobs)


def read(store: StateStore, entity: str, key: str, partition: int = 0) -> bytes | None:
    [[found]] = store.load_entities([EntityRequest(partition, entity, [key])])
    return found


A10 = Applied(10, 1_000, 5)
A20 = Applied(20, 2_000, 15)
A30 = Applied(30, 3_000, 25)


class StateStoreContract:
    """Behaviours that hold for any implementation."""

    def test_is_empty_at_first(self, store: StateStore) -> None:
        assert store.load_applied(0) is None
        assert store.load_model(0) is None
        assert store.load_entities([EntityRequest(0, "account", ["a", "b"])]) == [[None, None]]
        assert store.load_entities([]) == []
        store.flush([])
        assert store.load_applied(0) is None

    def test_gives_back_what_was_flushed(self, store: StateStore) -> None:
        extremes = Applied(2**52, -(2**62), 2**62, 2**52 - 1)
        store.flush([flush_of(None, extremes, ("account", "a", blob(9, b"A")), ("merchant", "a", blob(8)))])
        assert store.load_applied(0) == extremes
        assert read(store, "account", "a") == blob(9, b"A")
        assert read(store, "merchant", "a") == blob(8)
        assert read(store, "account", "a", partition=1) is None

    def test_a_flush_without_blobs_moves_applied(self, store: StateStore) -> None:
        store.flush([flush_of(None, A10)])
        store.flush([flush_of(A10, A20)])
        assert store.load_applied(0) == A20

    @pytest.mark.parametrize("expected", [None, A20], ids=["expected nothing", "expected another"])
    def test_a_stale_owner_is_fenced(self, store: StateStore, expected: Applied | None) -> None:
        store.flush([flush_of(None, A10, ("account", "a", blob(9, b"old")))])
        with pytest.raises(StateFenced, match="partition 0"):
            store.flush([flush_of(expected, A30, ("account", "a", blob(29, b"zombie")))])
        assert store.load_applied(0) == A10
        assert read(store, "account", "a") == blob(9, b"old")

    def test_expecting_state_where_there_is_none_is_fenced(self, store: StateStore) -> None:
        with pytest.raises(StateFenced):
            store.flush([flush_of(A10, A20, ("account", "a", blob(19)))])
        assert store.load_applied(0) is None
        assert read(store, "account", "a") is None

    def test_the_fence_looks_at_progress_only(self, store: StateStore) -> None:
        store.flush([flush_of(None, Applied(8, 1_000, 5, labels_offset=2))])
        store.flush([flush_of(Applied(10, 0, 0), A20)])
        assert store.load_applied(0) == A20

    def test_labels_alone_move_applied_and_fence_who_does_not_know_of_them(self, store: StateStore) -> None:
        labelled = Applied(10, 1_000, 5, labels_offset=1)
        store.flush([flush_of(None, A10, ("account", "a", blob(10, b"events")))])
        store.flush([flush_of(A10, labelled, ("account", "a", blob(11, b"and a label")))])
        with pytest.raises(StateFenced, match="partition 0"):
            store.flush([flush_of(A10, Applied(12, 1_000, 5), ("account", "a", blob(12, b"zombie")))])
        assert store.load_applied(0) == labelled
        assert read(store, "account", "a") == blob(11, b"and a label")

    def test_repeating_a_flush_after_a_lost_answer_succeeds(self, store: StateStore) -> None:
        first = flush_of(None, A10, ("account", "a", blob(9, b"A")))
        second = flush_of(A10, A20, ("account", "a", blob(19, b"B")), ("account", "b", blob(12)))
        for flush in (first, first, second, second):
            store.flush([flush])
        assert store.load_applied(0) == A20
        assert read(store, "account", "a") == blob(19, b"B")
        with pytest.raises(StateFenced):
            store.flush([first])

    def test_blobs_are_written_when_progress_stands_still(self, store: StateStore) -> None:
        store.flush([flush_of(None, A10)])
        later = Applied(10, 1_000, 6)
        store.flush([flush_of(A10, later, ("account", "a", blob(9, b"scored")))])
        assert read(store, "account", "a") == blob(9, b"scored")
        assert store.load_applied(0) == later

    def test_an_older_blob_never_replaces_a_newer_one(self, store: StateStore) -> None:
        store.flush([flush_of(None, A10, ("account", "a", blob(300, b"ahead")), ("account", "b", blob(1)))])
        store.flush(
            [flush_of(A10, A20, ("account", "a", blob(299, b"behind")), ("account", "b", blob(2, b"new")))]
        )
        assert read(store, "account", "a") == blob(300, b"ahead")
        assert read(store, "account", "b") == blob(2, b"new")
        store.flush([flush_of(A20, A30, ("account", "a", blob(300, b"same offset")))])
        assert read(store, "account", "a") == blob(300, b"same offset")

    def test_progress_compares_as_numbers_not_as_bytes(self, store: StateStore) -> None:
        # as little-endian bytes 256 comes before 255
        applied = None
        for i, offset in enumerate([-1, 255, 256, 2**31, 2**32, 2**53 - 1]):
            following = Applied(i, 0, 0)
            store.flush([flush_of(applied, following, ("account", "a", blob(offset)))])
            assert read(store, "account", "a") == blob(offset)
            applied = following

    def test_one_fenced_partition_does_not_hold_back_the_others(self, store: StateStore) -> None:
        store.flush([flush_of(None, A10, partition=1)])
        with pytest.raises(StateFenced, match="partition 1"):
            store.flush(
                [
                    flush_of(None, A20, ("account", "a", blob(19)), partition=1),
                    flush_of(None, A20, ("account", "a", blob(19)), partition=2),
                ]
            )
        assert store.load_applied(1) == A10
        assert store.load_applied(2) == A20
        assert read(store, "account", "a", partition=1) is None
        assert read(store, "account", "a", partition=2) == blob(19)

    def test_partitions_in_any_order_give_the_same_state(self, store: StateStore) -> None:
        order = list(range(8))
        random.Random(7).shuffle(order)
        store.flush([flush_of(None, A10, ("m", "x", blob(9, bytes([p]))), partition=p) for p in order])
        requests = [EntityRequest(p, "m", ["x"]) for p in range(8)]
        assert store.load_entities(requests) == [[blob(9, bytes([p]))] for p in range(8)]

    def test_any_text_is_a_key_and_any_bytes_a_blob(self, store: StateStore) -> None:
        blobs = [("en:ti{ty}", key, blob(i, bytes(range(256)))) for i, key in enumerate(AWKWARD_KEYS)]
        store.flush([PartitionFlush(0, None, A10, blobs)])
        assert store.load_applied(0) == A10
        assert store.load_model(0) is None
        assert store.load_entities([EntityRequest(0, "en:ti{ty}", AWKWARD_KEYS)]) == [
            [content for _, _, content in blobs]
        ]

    def test_a_batch_of_5000_blobs(self, store: StateStore) -> None:
        keys = [f"k{i}" for i in range(5_000)]
        blobs = [("account", key, blob(i, b"x" * 1_000)) for i, key in enumerate(keys)]
        store.flush([PartitionFlush(0, None, Applied(5_000, 0, 0), blobs)])
        [found] = store.load_entities([EntityRequest(0, "account", [*keys, "absent"])])
        assert found == [*(content for _, _, content in blobs), None]

    def test_a_blob_without_progress_is_refused_before_anything_is_written(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="progress"):
            store.flush([flush_of(None, A10, ("account", "a", blob(1)), ("account", "b", b"short"))])
        assert store.load_applied(0) is None
        assert read(store, "account", "a") is None

    def test_of_two_racing_owners_exactly_one_wins(self, store: StateStore) -> None:
        current: Applied | None = None
        for turn in range(1, 41):
            candidates = [Applied(10 * turn + i, 0, i) for i in range(2)]
            barrier = threading.Barrier(2)
            won: list[Applied] = []
            fenced: list[Applied] = []

            def attempt(
                mine: Applied,
                expected: Applied | None,
                barrier: threading.Barrier = barrier,
                won: list[Applied] = won,
                fenced: list[Applied] = fenced,
            ) -> None:
                barrier.wait()
                try:
                    store.flush([flush_of(expected, mine, ("a", "a", blob(mine.next_offset)))])
                    won.append(mine)
                except StateFenced:
                    fenced.append(mine)

            threads = [threading.Thread(target=attempt, args=(mine, current)) for mine in candidates]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (len(won), len(fenced)) == (1, 1)
            assert store.load_applied(0) == won[0]
            assert read(store, "a", "a") == blob(won[0].next_offset)
            current = won[0]

    def test_model_snapshots_only_move_on(self, store: StateStore) -> None:
        snapshots = [ModelSnapshot(i, 10 * i, bytes([i]) * 100_000) for i in (3, 7, 5, 7)]
        seen = []
        for snapshot in snapshots:
            store.save_model(0, snapshot)
            seen.append(store.load_model(0))
        assert seen == [snapshots[0], snapshots[1], snapshots[1], snapshots[3]]
        assert store.load_model(1) is None
        assert store.load_applied(0) is None

    def test_progress_alone_deletes_what_is_not_newer(self, store: StateStore) -> None:
        store.flush([flush_of(None, A10, *(("account", key, blob(9)) for key in "abc"))])
        newer = flush_of(A10, A20, ("account", "a", blob(19, b"")), ("account", "c", blob(300)))
        store.flush([newer])
        assert [read(store, "account", key) for key in "abc"] == [None, blob(9), blob(300)]
        store.flush([newer])
        # nobody is brought back by a late writer, and nothing newer goes
        with pytest.raises(StateFenced):
            store.flush([flush_of(A10, Applied(15, 1_000, 5), ("account", "a", blob(14)))])
        store.flush([flush_of(A20, A30, ("account", "c", blob(29, b"")), ("account", "x", blob(29, b"")))])
        assert [read(store, "account", key) for key in "abcx"] == [None, blob(9), blob(300), None]

    def test_erasures_are_kept_with_how_far_state_is(self, store: StateStore) -> None:
        erased = tuple((hash_, number) for number, hash_ in enumerate((-(2**63), -1, 0, 2**63 - 1)))
        with_erased = Applied(10, 1_000, 5, erased=erased)
        store.flush([flush_of(None, with_erased, ("account", "a", blob(9)))])
        assert store.load_applied(0) == with_erased
        store.flush([flush_of(with_erased, A20)])
        assert store.load_applied(0) == A20

    def test_reset_removes_one_partition_only(self, store: StateStore) -> None:
        partitions = (1, 10, 11)
        for p in partitions:
            store.flush([flush_of(None, A10, *(("a", str(i), blob(9)) for i in range(30)), partition=p)])
            store.save_model(p, ModelSnapshot(1, 1, b"m"))
        store.reset(1)
        store.reset(99)
        assert [store.load_applied(p) for p in partitions] == [None, A10, A10]
        assert [store.load_model(p) is None for p in partitions] == [True, False, False]
        assert [read(store, "a", "7", p) for p in partitions] == [None, blob(9), blob(9)]
        store.flush([flush_of(None, A10, ("a", "7", blob(3)), partition=1)])
        assert read(store, "a", "7", 1) == blob(3)
