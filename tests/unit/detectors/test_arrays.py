from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.arrays import Arrays, child, merge, pack, unpack

STATE = Arrays(
    {
        "f8": np.array([[1.5, np.nan, -0.0], [np.inf, 2.0, 3.0]]),
        "f4": np.array([1.1], dtype=np.float32),
        "i8": np.array([-(2**62)], dtype=np.int64),
        "i4": np.arange(4, dtype=np.int32)[::2],
        "u8": np.array([2**64 - 1], dtype=np.uint64),
        "empty": np.empty((0, 3)),
    },
    {"seen": 7, "name": "tide", "share": 0.1, "flag": True, "none": None, "nested": {"a": [1, 2.5]}},
)


def test_round_trip_keeps_bits_types_and_shapes() -> None:
    back = unpack(pack(STATE))
    assert back.scalars == STATE.scalars
    assert back.arrays.keys() == STATE.arrays.keys()
    for name, array in STATE.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].shape == array.shape
        assert back.arrays[name].tobytes() == array.tobytes()
    back.arrays["f8"][0, 0] = 2.0  # a copy that its owner may write


def test_children_come_back_without_their_prefix() -> None:
    merged = merge({"a": STATE, "ab": Arrays({}, {"seen": 8})}, Arrays({}, {"own": 1}))
    assert child(merged, "a").scalars == STATE.scalars
    assert child(merged, "ab").scalars == {"seen": 8}
    assert child(merged, "missing") == Arrays({}, {})
    assert merged.scalars["own"] == 1
    with pytest.raises(ValueError, match="must not contain"):
        merge({"a/b": STATE})


@given(st.integers(0, len(pack(STATE)) - 1))
@settings(max_examples=50, deadline=None)
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"snapshot"):
        unpack(pack(STATE)[:length])


def test_foreign_bytes_are_refused_with_the_reason() -> None:
    blob = pack(Arrays({"a": np.zeros(2)}, {}))
    for bad, reason in (
        (b"\x80\x04}.", "magic"),
        (blob + b"x", "after its last array"),
        (blob.replace(b'"f8"', b'"O8"'), "unknown type"),
        (blob.replace(b"[2]", b"[9]"), "truncated"),
        (blob.replace(b"[2]", b"-12"), "bad shape"),
        (blob.replace(b'{"arrays"', b'{"arroys"'), "unreadable"),
    ):
        with pytest.raises(ValueError, match=reason):
            unpack(bad)


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(ValueError, match="'who'"):
        pack(Arrays({"who": np.array([object()])}, {}))
    with pytest.raises(ValueError, match="JSON-able"):
        pack(Arrays({}, {"what": object()}))
