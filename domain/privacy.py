"""Keyed hashes for sensitive fields (promise P7): the raw value never leaves the decoder.

BLAKE2b with a key is a MAC (RFC 7693), so without the key nobody can test guesses of card numbers.
"""

from __future__ import annotations

import hashlib

__all__ = ["Protector"]

_MAX_CACHED = 500_000


class Protector:
    """Turns sensitive text into 32 hex characters under a secret key, remembering recent answers.

    >>> Protector(b"k" * 32).protect("4929-1") == Protector(b"k" * 32).protect("4929-1")
    True
    """

    def __init__(self, key: bytes) -> None:
        if not 16 <= len(key) <= 64:
            raise ValueError("privacy key must have 16 to 64 bytes")
        self._key = key
        self._cache: dict[str, str] = {}

    def protect(self, value: str) -> str:
        """The keyed hash of ``value``."""
        found = self._cache.get(value)
        if found is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            found = hashlib.blake2b(value.encode(), key=self._key, digest_size=16).hexdigest()
            self._cache[value] = found
        return found
