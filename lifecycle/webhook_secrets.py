"""Secrets of webhooks: made at random, kept encrypted, shown once.

They must be kept (a signature needs them), so they are sealed with AES-256-GCM under a key that is not in the
database; pipeline, endpoint and id are authenticated with them, so a sealed secret can not be moved to another row.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.errors import Fatal

__all__ = ["SecretBox", "as_text", "new_key"]

_SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""
_NONCE_BYTES = 12
_KEY_BYTES = 32


def new_key(random: Callable[[int], bytes] = os.urandom) -> str:
    """A key for :meth:`SecretBox.parse`."""
    return random(_KEY_BYTES).hex()


def as_text(secret: bytes) -> str:
    """As receivers are given it.

    >>> as_text(b"0" * 24)
    'whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw'
    """
    return f"whsec_{base64.b64encode(secret).decode()}"


class SecretBox:
    """Makes, seals and opens secrets under ``key`` (32 bytes)."""

    def __init__(self, key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self._cipher = AESGCM(key)
        self.random = random

    @classmethod
    def parse(cls, text: str, source: str = "TIDEGATE_WEBHOOK_KEY") -> SecretBox:
        """From 64 hexadecimal digits. Raises Fatal, which does not repeat them."""
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise Fatal(
                f"{source} must be 64 hexadecimal digits",
                remedy="openssl rand -hex 32, the same for API, command line and dispatcher",
            )
        return cls(key)

    def new_secret(self) -> bytes:
        """A random secret."""
        return self.random(_SECRET_BYTES)

    def seal(self, secret: bytes, where: str) -> bytes:
        """``secret`` encrypted, for the place ``where``."""
        nonce = self.random(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, where.encode())

    def open(self, sealed: bytes, where: str) -> bytes:
        """What was sealed for ``where``. Raises Fatal when it was not, or under another key."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], where.encode())
        except (InvalidTag, ValueError):
            raise Fatal(
                f"the secret {where} was sealed under another key",
                remedy="set TIDEGATE_WEBHOOK_KEY to the key under which it was made, or rotate the endpoint's secret",
            ) from None
