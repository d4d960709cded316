"""A model sealed for its way to the workers: arrays and JSON (no pickle), hashed and signed.

Layout: ``TGM1``, 8 bytes that name the key, uint64 length of the body (little-endian), SHA-256 of the body, Ed25519
signature over everything before it (after a word of ours, so that the key signs nothing else by accident); then the
body: uint32 length of the manifest, manifest as JSON, the model's packed bytes. Length, hash and signature are
checked before a byte of the body is looked at.
"""

from __future__ import annotations

import hashlib
import struct
from enum import StrEnum

import msgspec

from domain.errors import ArtefactRefused
from lifecycle.manifest import MANIFEST_FORMAT, Manifest, version_of
from lifecycle.model_keys import KEY_ID_BYTES, SIGNATURE_BYTES, ModelKey, TrustedKeys

__all__ = ["MAX_ARTEFACT_BYTES", "Refusal", "seal", "unseal"]

MAX_ARTEFACT_BYTES = 256 * 1024 * 1024
"""A forest of 500 deep trees takes 30 MB; a worker holds two models and both their sealed forms."""
_MAGIC = b"TGM1"
_WORD = b"tidegate model artefact 1\0"
_HEAD = struct.Struct(f"<4s{KEY_ID_BYTES}sQ32s")
_PREFIX = _HEAD.size + SIGNATURE_BYTES
_MANIFEST_LENGTH = struct.Struct("<I")
_decode = msgspec.json.Decoder(Manifest).decode


class Refusal(StrEnum):
    """Stable reasons for which a sealed model is not taken."""

    FOREIGN = "foreign"
    """Not a sealed model of Tidegate, or one for another pipeline."""
    TRUNCATED = "truncated"
    """Shorter or longer than it says."""
    DAMAGED = "damaged"
    """Its bytes are not those that were sealed."""
    UNTRUSTED = "untrusted"
    """Sealed with a key that this process does not trust."""
    FORGED = "forged"
    """Names a trusted key, but that key did not sign it."""
    UNREADABLE = "unreadable"
    """Rightly signed, but not something that this version understands."""
    TOO_LARGE = "too_large"


_TAKE_AGAIN = "take the file from where it was made again, or train anew; the model in force stays"


def seal(model: bytes, manifest: Manifest, key: ModelKey) -> bytes:
    """``model`` (packed bytes) and ``manifest`` as one signed artefact; the same inputs give the same bytes.

    Raises ValueError when the manifest is not about these bytes, or they are more than an artefact may have.
    """
    if manifest.sha256 != hashlib.sha256(model).hexdigest() or manifest.version != version_of(model):
        raise ValueError(f"the manifest of {manifest.version} is about other bytes than the model given")
    described = msgspec.json.encode(manifest)
    body = b"".join([_MANIFEST_LENGTH.pack(len(described)), described, model])
    if len(body) + _PREFIX > MAX_ARTEFACT_BYTES:
        raise ValueError(
            f"a sealed model of {len(body):,} bytes is larger than {MAX_ARTEFACT_BYTES:,}: use fewer or shallower trees"
        )
    head = _HEAD.pack(_MAGIC, key.key_id, len(body), hashlib.sha256(body).digest())
    return b"".join([head, key.sign(_WORD + head), body])


def unseal(blob: bytes, trusted: TrustedKeys, *, pipeline: str | None = None) -> tuple[Manifest, bytes]:
    """What :func:`seal` was given, once length, hash and signature are verified.

    ``pipeline``: whose models are taken (None: anyone's). Raises ArtefactRefused with a reason and a remedy.
    """
    if len(blob) > MAX_ARTEFACT_BYTES:
        raise ArtefactRefused(
            Refusal.TOO_LARGE,
            f"a model of {len(blob):,} bytes is larger than {MAX_ARTEFACT_BYTES:,}",
            remedy="train one with fewer or shallower trees",
        )
    if blob[:4] != _MAGIC[: len(blob)] or not blob:
        raise ArtefactRefused(
            Refusal.FOREIGN, "these bytes are no sealed model of Tidegate (TGM1 missing)", remedy=_TAKE_AGAIN
        )
    if len(blob) < _PREFIX:
        raise _truncated(len(blob), _PREFIX)
    _, key_id, length, digest = _HEAD.unpack_from(blob)
    if len(blob) != _PREFIX + length:
        raise _truncated(len(blob), _PREFIX + length)
    body = memoryview(blob)[_PREFIX:]
    if hashlib.sha256(body).digest() != digest:
        raise ArtefactRefused(
            Refusal.DAMAGED,
            "a sealed model is not what was sealed: its SHA-256 differs from the one it carries",
            remedy=_TAKE_AGAIN,
        )
    if not trusted.holds(key_id):
        raise ArtefactRefused(
            Refusal.UNTRUSTED,
            f"a model is signed with the key {key_id.hex()}, which is not among the {len(trusted.keys)} trusted",
            remedy="if you know who signed it, add their public key to TIDEGATE_MODEL_TRUSTED; "
            "`tidegate models key` shows the one of this machine",
        )
    if not trusted.verified(key_id, blob[_HEAD.size : _PREFIX], _WORD + blob[: _HEAD.size]):
        raise ArtefactRefused(
            Refusal.FORGED,
            f"a model names the trusted key {key_id.hex()}, but that key did not sign it",
            remedy="find out who made this file before you take any other from there",
        )
    return _opened(body, pipeline)


def _opened(body: memoryview, pipeline: str | None) -> tuple[Manifest, bytes]:
    """What is inside of a body that somebody trusted has signed."""
    try:
        (length,) = _MANIFEST_LENGTH.unpack_from(body)
        start = _MANIFEST_LENGTH.size
        if length > len(body) - start:
            raise ValueError("its manifest is longer than all of it")
        manifest = _decode(body[start : start + length])
        if manifest.format != MANIFEST_FORMAT:
            raise ValueError(f"its format is {manifest.format}, this version reads {MANIFEST_FORMAT}")
        model = bytes(body[start + length :])
        if manifest.sha256 != hashlib.sha256(model).hexdigest() or manifest.version != version_of(model):
            raise ValueError("its manifest is about another model")
    except (struct.error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ArtefactRefused(
            Refusal.UNREADABLE,
            f"a rightly signed model can not be read: {error}",
            remedy="run the same version of Tidegate where models are trained and where they are run",
        ) from error
    if pipeline is not None and manifest.pipeline != pipeline:
        raise ArtefactRefused(
            Refusal.FOREIGN,
            f"model {manifest.version} was trained for pipeline {manifest.pipeline}, this one is {pipeline}",
            remedy="train one for this pipeline; features of the same name may mean something else there",
        )
    return manifest, model


def _truncated(length: int, expected: int) -> ArtefactRefused:
    return ArtefactRefused(
        Refusal.TRUNCATED,
        f"a sealed model has {length:,} bytes where it should have {expected:,}",
        remedy=_TAKE_AGAIN,
    )
