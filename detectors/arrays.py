"""State as named arrays and JSON-able scalars, packed into bytes without pickle.

Layout: ``TGA1``, uint32 length of the header, JSON header, then the raw little-endian C-order buffers one
after the other in the header's order. The header says everything about them, so a reader checks each bound
before it believes a byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "child", "merge", "pack", "unpack"]

_MAGIC = b"TGA1"
_DTYPES: dict[str, np.dtype[Any]] = {
    "f8": np.dtype("<f8"),
    "f4": np.dtype("<f4"),
    "i8": np.dtype("<i8"),
    "i4": np.dtype("<i4"),
    "i2": np.dtype("<i2"),
    "i1": np.dtype("i1"),
    "u8": np.dtype("<u8"),
    "u4": np.dtype("<u4"),
    "u2": np.dtype("<u2"),
    "u1": np.dtype("u1"),
}
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Arrays:
    """A record of state: numpy arrays and JSON-able scalars (also lists and dicts of them) by name."""

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)


def merge(children: Mapping[str, Arrays], own: Arrays | None = None) -> Arrays:
    """One record that holds ``children`` under their names (which must not contain ``/``) and ``own``."""
    arrays = dict(own.arrays) if own else {}
    scalars = dict(own.scalars) if own else {}
    for name, state in children.items():
        if "/" in name:
            raise ValueError(f"child name {name!r} must not contain '/'")
        arrays.update({f"{name}/{key}": value for key, value in state.arrays.items()})
        scalars.update({f"{name}/{key}": value for key, value in state.scalars.items()})
    return Arrays(arrays, scalars)


def child(state: Arrays, name: str) -> Arrays:
    """The part of ``state`` that :func:`merge` stored under ``name``; empty when there is none."""
    prefix = f"{name}/"
    cut = len(prefix)
    return Arrays(
        {key[cut:]: value for key, value in state.arrays.items() if key.startswith(prefix)},
        {key[cut:]: value for key, value in state.scalars.items() if key.startswith(prefix)},
    )


def pack(state: Arrays) -> bytes:
    """``state`` as bytes. Raises ValueError for an array type or scalar that cannot be stored."""
    described: list[list[Any]] = []
    # views, so that megabytes are copied once, when they are joined
    buffers: list[memoryview] = []
    for name, array in state.arrays.items():
        code = f"{array.dtype.kind}{array.dtype.itemsize}"
        if code not in _DTYPES:
            raise ValueError(f"array {name!r} has type {array.dtype}, which a snapshot cannot hold")
        described.append([name, code, list(array.shape)])
        buffers.append(np.ascontiguousarray(array, dtype=_DTYPES[code]).reshape(-1).view(np.uint8).data)
    try:
        header = json.dumps({"arrays": described, "scalars": state.scalars}, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"snapshot scalars must be JSON-able: {error}") from error
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *buffers])


def unpack(blob: bytes) -> Arrays:
    """The record that :func:`pack` wrote. Raises ValueError naming what is foreign, torn or out of bounds."""
    if len(blob) < 8 or blob[:4] != _MAGIC:
        raise ValueError("not a Tidegate array snapshot (magic TGA1 missing)")
    (length,) = struct.unpack_from("<I", blob, 4)
    position = 8 + length
    if position > len(blob):
        raise ValueError(f"snapshot truncated: header of {length} bytes in a blob of {len(blob)}")
    try:
        header = json.loads(blob[8:position])
        described = header["arrays"]
        scalars = header["scalars"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"snapshot header unreadable: {error}") from error
    if not isinstance(described, list) or not isinstance(scalars, dict):
        raise ValueError("snapshot header unreadable: wrong shape")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for entry in described:
        name, dtype, shape, count = _described(entry)
        size = count * dtype.itemsize
        if size > len(blob) - position:
            raise ValueError(f"snapshot truncated: array {name!r} needs {size} bytes at {position}")
        arrays[name] = np.frombuffer(blob, dtype=dtype, count=count, offset=position).reshape(shape).copy()
        position += size
    if position != len(blob):
        raise ValueError(f"snapshot has {len(blob) - position} bytes after its last array")
    return Arrays(arrays, scalars)


def _described(entry: object) -> tuple[str, np.dtype[Any], tuple[int, ...], int]:
    """Name, type, shape and element count of one array, each checked."""
    if not (isinstance(entry, list) and len(entry) == 3):
        raise ValueError("snapshot header unreadable: array entry")
    name, code, shape = entry
    if not isinstance(name, str) or not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"snapshot array {name!r} has unknown type {code!r}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"snapshot array {name!r} has a bad shape")
    count = 1
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"snapshot array {name!r} has a bad shape")
        count *= size
    return name, _DTYPES[code], tuple(shape), count
