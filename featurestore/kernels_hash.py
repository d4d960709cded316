"""64-bit hashes of whole columns: SipHash-2-4 for text, a mixing function for numbers.

SipHash (Aumasson and Bernstein, 2012) because event ids come from outside: with a plain hash, a sender could
make two ids collide and have the second taken for a repetition. 0 is kept for "missing".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints
from domain.compiled import compiled

__all__ = ["hash_numbers", "hash_texts"]


@compiled
def _siphash(
    data: npt.NDArray[np.uint8], ends: Ints, missing: npt.NDArray[np.bool_], k0: np.uint64, k1: np.uint64
) -> Ints:
    out = np.zeros(len(ends), dtype=np.int64)
    start = 0
    for i in range(len(ends)):
        end = ends[i]
        if missing[i]:
            start = end
            continue
        v0 = k0 ^ np.uint64(0x736F6D6570736575)
        v1 = k1 ^ np.uint64(0x646F72616E646F6D)
        v2 = k0 ^ np.uint64(0x6C7967656E657261)
        v3 = k1 ^ np.uint64(0x7465646279746573)
        size = end - start
        blocks = size // 8
        for b in range(blocks + 3):
            if b < blocks:
                m = np.uint64(0)
                for j in range(8):
                    m |= np.uint64(data[start + 8 * b + j]) << np.uint64(8 * j)
            elif b == blocks:
                m = np.uint64(size & 0xFF) << np.uint64(56)
                for j in range(size - 8 * blocks):
                    m |= np.uint64(data[start + 8 * blocks + j]) << np.uint64(8 * j)
            else:
                m = np.uint64(0)
            if b <= blocks:
                v3 ^= m
            elif b == blocks + 1:
                v2 ^= np.uint64(0xFF)
            # two rounds per block; the last two turns of the loop are the four final rounds
            for _ in range(2):
                v0 += v1
                v1 = (v1 << np.uint64(13)) | (v1 >> np.uint64(51))
                v1 ^= v0
                v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
                v2 += v3
                v3 = (v3 << np.uint64(16)) | (v3 >> np.uint64(48))
                v3 ^= v2
                v0 += v3
                v3 = (v3 << np.uint64(21)) | (v3 >> np.uint64(43))
                v3 ^= v0
                v2 += v1
                v1 = (v1 << np.uint64(17)) | (v1 >> np.uint64(47))
                v1 ^= v2
                v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
            if b <= blocks:
                v0 ^= m
        h = np.int64(v0 ^ v1 ^ v2 ^ v3)
        out[i] = h if h != 0 else 1
        start = end
    return out


@compiled
def _mix(values: Floats) -> Ints:
    out = np.zeros(len(values), dtype=np.int64)
    bits = (values + 0.0).view(np.uint64)  # + 0.0 makes -0.0 the same value as 0.0
    for i in range(len(values)):
        if np.isnan(values[i]):
            continue
        # the finaliser of splitmix64 (Steele, Lea and Flood, 2014)
        z = bits[i] + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = np.int64(z ^ (z >> np.uint64(31)))
        out[i] = h if h != 0 else 1
    return out


def hash_texts(texts: Sequence[str | None], key: str) -> Ints:
    """SipHash-2-4 of each text's UTF-8 under a key derived from ``key``; 0 where None.

    >>> import hashlib
    >>> bool(hash_texts(["a", "b"], "k")[0] != hash_texts(["a", "b"], "k")[1])
    True
    """
    digest = hashlib.sha256(key.encode()).digest()
    k0 = np.uint64(int.from_bytes(digest[:8], "little"))
    k1 = np.uint64(int.from_bytes(digest[8:16], "little"))
    pieces = [b"" if text is None else text.encode() for text in texts]
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    missing = np.fromiter((text is None for text in texts), np.bool_, len(pieces))
    return _siphash(np.frombuffer(b"".join(pieces), np.uint8), ends, missing, k0, k1)


def hash_numbers(values: Floats) -> Ints:
    """A 64-bit hash of each number's value (-0.0 as 0.0); 0 where NaN."""
    return _mix(np.ascontiguousarray(values))
