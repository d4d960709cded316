"""Sealed models: what was sealed comes back, anything else is refused before it is looked at."""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import ArtefactRefused, Fatal
from lifecycle import artefact
from lifecycle.artefact import Refusal, seal, unseal
from lifecycle.manifest import version_of
from lifecycle.model_keys import ModelKey, TrustedKeys
from tests.models import KEY, manifest_of, sealed

TRUSTED = TrustedKeys.parse(KEY.public)
OTHER = ModelKey.parse("22" * 32)
MODEL = random.Random(1).randbytes(3000)


def refused(blob: bytes, trusted: TrustedKeys = TRUSTED, pipeline: str | None = "payments") -> Refusal:
    with pytest.raises(ArtefactRefused) as error:
        unseal(blob, trusted, pipeline=pipeline)
    assert error.value.remedy
    return Refusal(error.value.reason)


@given(st.binary(max_size=200))
@settings(max_examples=25, deadline=None)
def test_what_was_sealed_comes_back(model: bytes) -> None:
    blob, manifest = sealed(model)
    assert unseal(blob, TRUSTED) == (manifest, model)
    assert unseal(blob, TRUSTED, pipeline="payments") == (manifest, model)
    assert sealed(model)[0] == blob


def test_a_manifest_about_something_else_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="other bytes"):
        seal(b"other", manifest_of(MODEL), KEY)
    with pytest.raises(ValueError, match="other bytes"):
        seal(MODEL, manifest_of(MODEL, version=version_of(b"other")), KEY)


def test_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    blob, _ = sealed(MODEL)
    monkeypatch.setattr(artefact, "MAX_ARTEFACT_BYTES", len(blob) - 1)
    with pytest.raises(ValueError, match="larger"):
        sealed(MODEL)
    assert refused(blob) is Refusal.TOO_LARGE


def test_every_changed_byte_is_noticed() -> None:
    blob, _ = sealed(b"model")
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        refused(bytes(changed))
    for place, reason in (
        (0, Refusal.FOREIGN),
        (4, Refusal.UNTRUSTED),
        (12, Refusal.TRUNCATED),
        (20, Refusal.DAMAGED),
        (60, Refusal.FORGED),
        (len(blob) - 1, Refusal.DAMAGED),
    ):
        changed = bytearray(blob)
        changed[place] ^= 1
        assert refused(bytes(changed)) is reason, place


def test_every_length_but_the_right_one_is_noticed() -> None:
    blob, _ = sealed(b"model")
    assert refused(b"") is Refusal.FOREIGN
    for length in range(1, len(blob)):
        assert refused(blob[:length]) is Refusal.TRUNCATED, length
    assert refused(blob + b"\0") is Refusal.TRUNCATED


@pytest.mark.parametrize("blob", [b"\x80\x04\x95", b"PK\x03\x04" + b"x" * 500, b"{}", b"x" * 4000])
def test_other_files_are_foreign(blob: bytes) -> None:
    assert refused(blob) is Refusal.FOREIGN


def test_who_is_not_trusted_is_refused() -> None:
    blob, _ = sealed(MODEL, OTHER)
    assert refused(blob) is Refusal.UNTRUSTED
    assert refused(blob, TrustedKeys.parse("")) is Refusal.UNTRUSTED
    both = TrustedKeys.parse(f"{KEY.public}, {OTHER.public}")
    assert unseal(blob, both)[1] == MODEL


def test_a_trusted_name_on_somebody_elses_signature_is_forged() -> None:
    blob, _ = sealed(MODEL, OTHER)
    head = blob[:4] + KEY.key_id + blob[12:52]
    assert refused(head + OTHER.sign(b"tidegate model artefact 1\0" + head) + blob[116:]) is Refusal.FORGED


def test_a_new_body_under_an_old_signature_is_forged() -> None:
    blob, _ = sealed(MODEL)
    body = blob[116:-1] + b"!"
    assert refused(blob[:20] + hashlib.sha256(body).digest() + blob[52:116] + body) is Refusal.FORGED


def test_a_signature_of_the_key_over_other_things_is_no_signature_of_a_model() -> None:
    blob, _ = sealed(MODEL)
    assert refused(blob[:52] + KEY.sign(blob[:52]) + blob[116:]) is Refusal.FORGED


def resealed(body: bytes) -> bytes:
    """Any body, rightly signed."""
    head = b"TGM1" + KEY.key_id + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest()
    return head + KEY.sign(b"tidegate model artefact 1\0" + head) + body


def test_what_is_rightly_signed_and_strange_is_unreadable() -> None:
    blob, manifest = sealed(MODEL)
    assert resealed(blob[116:]) == blob
    newer = msgspec.json.encode(msgspec.structs.replace(manifest, format=2))
    deep = b"[" * 100_000
    wrong = [b"", b"\xff", b"\xff\xff\xff\xff{}", len(deep).to_bytes(4, "little") + deep]
    wrong += [len(newer).to_bytes(4, "little") + newer + MODEL, blob[116:] + b"!"]
    for body in wrong:
        assert refused(resealed(body)) is Refusal.UNREADABLE


def test_a_model_of_another_pipeline_is_foreign() -> None:
    blob, manifest = sealed(MODEL, pipeline="logins")
    assert refused(blob) is Refusal.FOREIGN
    assert unseal(blob, TRUSTED) == (manifest, MODEL)


def test_keys_are_read_as_they_are_written_and_never_shown() -> None:
    key = ModelKey.generate()
    assert ModelKey.parse(key.secret() + "\n").public == key.public
    assert key.secret() not in repr(key)
    assert ModelKey.generate().secret() != key.secret()


@pytest.mark.parametrize("text", ["", "secret-secret", "gg" * 32, "11" * 31])
def test_a_bad_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(Fatal, match="TIDEGATE_MODEL_KEY") as error:
        ModelKey.parse(text)
    assert not text or text not in str(error.value)
    if text:
        with pytest.raises(Fatal, match="TIDEGATE_MODEL_TRUSTED"):
            TrustedKeys.parse(f"{KEY.public} {text}")
