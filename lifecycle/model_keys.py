"""Ed25519 keys (RFC 8032) that say which models a worker may run.

A private key (``TIDEGATE_MODEL_KEY``) belongs to whoever trains or registers models; workers hold only the public keys
they trust (``TIDEGATE_MODEL_TRUSTED``). Both are written as 64 hexadecimal digits, public keys separated by commas:
while a key is replaced, workers trust the old and the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.errors import Fatal

__all__ = ["KEY_ID_BYTES", "SIGNATURE_BYTES", "ModelKey", "TrustedKeys"]

KEY_ID_BYTES = 8
SIGNATURE_BYTES = 64
_HEX_DIGITS = 64


def _key_id(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()[:KEY_ID_BYTES]


def _raw(text: str, setting: str) -> bytes:
    try:
        if len(text) != _HEX_DIGITS:
            raise ValueError
        return bytes.fromhex(text)
    except ValueError:
        # never the text itself: it may be the private key
        raise Fatal(
            f"{setting} is no key: it has {len(text)} characters, or others than 0-9 and a-f",
            remedy="write 64 hexadecimal digits; `tidegate models key` makes a pair",
        ) from None


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A private key, and what goes with it. Its representation does not show it."""

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> ModelKey:
        """A new key, from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str, setting: str = "TIDEGATE_MODEL_KEY") -> ModelKey:
        """The key written as 64 hexadecimal digits. Raises Fatal that names ``setting``, never the text."""
        return cls(Ed25519PrivateKey.from_private_bytes(_raw(text.strip(), setting)))

    def secret(self) -> str:
        """What :meth:`parse` reads. Keep it to yourself."""
        return self.private.private_bytes_raw().hex()

    @property
    def public(self) -> str:
        """The public key, as it stands in ``TIDEGATE_MODEL_TRUSTED``."""
        return self.private.public_key().public_bytes_raw().hex()

    @property
    def key_id(self) -> bytes:
        """Eight bytes that tell which public key verifies."""
        return _key_id(self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same message and key give the same."""
        return self.private.sign(message)


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys of those whose models are run."""

    keys: Mapping[bytes, Ed25519PublicKey]

    @classmethod
    def parse(cls, text: str, setting: str = "TIDEGATE_MODEL_TRUSTED") -> TrustedKeys:
        """Public keys separated by commas or spaces. Raises Fatal when one can not be read; none is fine.

        >>> len(TrustedKeys.parse("").keys)
        0
        """
        raw = [_raw(one, setting) for one in text.replace(",", " ").split()]
        return cls({_key_id(one): Ed25519PublicKey.from_public_bytes(one) for one in raw})

    def holds(self, key_id: bytes) -> bool:
        """Whether the key of that id is trusted."""
        return key_id in self.keys

    def verified(self, key_id: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the trusted key of that id made ``signature`` over ``message``."""
        try:
            self.keys[key_id].verify(signature, message)
        except (InvalidSignature, KeyError):
            return False
        return True
