"""Keyed hashes for sensitive fields (promise P7): the raw value never leaves the decoder.

BLAKE2b with a key is a MAC (RFC 7693), so without the key nobody can test guesses of card numbers. Card numbers also
turn up where nobody declared them, such as in a field's name or in the wrong field; what messages quote of a record
goes through :func:`without_card_numbers`.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["Protector", "without_card_numbers"]

_MAX_CACHED = 500_000
_DIGITS = re.compile(r"(?<![0-9])[0-9](?:[ .-]?[0-9]){12,18}(?![0-9])")
"""13 to 19 digits (ISO/IEC 7812), perhaps in groups. Linear: a character is a digit or a separator, never both."""
_HIDDEN = "(a card number)"


def without_card_numbers(text: str) -> str:
    """``text`` with everything that may be a card number (digits whose Luhn sum is right) replaced.

    >>> without_card_numbers('is "4929 1234 5678 1236" or 1709251200000000')
    'is "(a card number)" or 1709251200000000'
    """
    return _DIGITS.sub(lambda found: _HIDDEN if _luhn(found.group()) else found.group(), text)


def _luhn(text: str) -> bool:
    """Whether the check digit is right (ISO/IEC 7812-1, annex B); one in ten other numbers passes too."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


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

    def sign(self, data: bytes) -> str:
        """A MAC of ``data`` under the same key, in hex; never equal to the hash of a value."""
        return hashlib.blake2b(data, key=self._key, digest_size=32, person=b"tidegate-control").hexdigest()

    def protect(self, value: str) -> str:
        """The keyed hash of ``value``."""
        found = self._cache.get(value)
        if found is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            found = hashlib.blake2b(value.encode(), key=self._key, digest_size=16).hexdigest()
            self._cache[value] = found
        return found
