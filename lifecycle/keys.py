"""API keys: how one looks, what is kept of it, and how it is recognised.

A key is ``tg_<id>_<secret>``. The id (48 random bits, hexadecimal) is public: lists, logs and the audit name keys by
it. The secret has 192 random bits, so a fast hash protects it as well as a slow one would: nobody can try 2^192
secrets. Kept is the SHA-256 of the whole key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

__all__ = ["ApiKey", "StoredKey", "fingerprint", "key_id_of", "new_key"]

_ID_BYTES = 6
_SECRET_BYTES = 24
_FORM = re.compile(r"tg_([0-9a-f]{12})_[0-9a-f]{48}")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a key. Times are UTC microseconds.

    ``scopes`` are sorted. ``rate`` is requests a second, ``burst`` how many at once (None: the API's own).
    ``replaces`` is the id of the key whose successor this is.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: int
    created_by: str
    rate: float | None = None
    burst: int | None = None
    expires_at: int | None = None
    revoked_at: int | None = None
    replaces: str | None = None

    def live(self, now: int) -> bool:
        """Whether it opens anything at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and its hash."""

    key: ApiKey
    sha256: str

    def __repr__(self) -> str:
        return f"StoredKey({self.key.id})"

    def is_of(self, text: str) -> bool:
        """Whether ``text`` is this key; takes as long whatever the difference."""
        return hmac.compare_digest(self.sha256, fingerprint(text))


def new_key(random: Callable[[int], str] = secrets.token_hex) -> str:
    """A key nobody has; ``random`` gives so many random bytes in hexadecimal."""
    return f"tg_{random(_ID_BYTES)}_{random(_SECRET_BYTES)}"


def key_id_of(text: str) -> str | None:
    """The id in ``text``, None when it has not the form of a key."""
    found = _FORM.fullmatch(text)
    return found[1] if found else None


def fingerprint(text: str) -> str:
    """What is kept of the key ``text``: its SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
