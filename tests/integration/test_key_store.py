"""API keys in a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from domain.clock import ManualClock
from lifecycle import key_store
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.key_store import KeyRefused, KeyStore, UnknownKey
from lifecycle.keys import ApiKey, StoredKey, fingerprint, key_id_of, new_key
from tests.models import NOW

SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/keys.sqlite" if sqlite else request.getfixturevalue("postgres_url")
    with closing(Database(url)) as opened:
        yield opened


@pytest.fixture
def store(database: Database, clock: ManualClock) -> KeyStore:
    return KeyStore(database, "payments", clock)


def made(store: KeyStore, name: str = "shop", **more: int) -> tuple[ApiKey, str]:
    return store.create(name, ["score", "labels:write", "score"], by="ana", reason="new shop", **more)


def actions(database: Database, pipeline: str = "payments") -> list[tuple[str, str, str]]:
    trail = AuditTrail(pipeline)
    with database.reading() as connection:
        assert trail.verify(connection) is None
        return [(r.action, r.subject, r.by) for r in trail.after(connection, 0, 100)]


def test_a_key_is_shown_once_and_only_its_hash_is_kept(store: KeyStore, database: Database) -> None:
    key, secret = made(store, rate=5, burst=10)
    assert key.scopes == ("labels:write", "score")
    assert key_id_of(secret) == key.id
    assert len(secret.rpartition("_")[2]) * 4 >= 128
    [stored] = store.live()
    assert stored.key == key == store.get(key.id)
    assert (key.rate, key.burst, key.created_by, key.created_at) == (5, 10, "ana", NOW)
    assert stored.is_of(secret)
    assert not stored.is_of(secret[:-1] + ("0" if secret[-1] != "0" else "1"))
    assert actions(database) == [("key.create", key.id, "ana")]
    with database.reading() as connection:
        tables = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in ("api_keys", "audit")]
    everything = repr(tables)
    assert fingerprint(secret) in everything
    assert secret.rpartition("_")[2] not in everything
    assert stored.sha256 not in repr(stored)


def test_revoking_ends_a_key_and_is_audited_once(store: KeyStore, database: Database) -> None:
    key, _ = made(store)
    gone = store.revoke(key.id, by="bo", reason="left")
    assert gone.revoked_at == NOW
    assert store.revoke(key.id, by="bo", reason="again") == gone
    assert store.live() == []
    assert store.newest() == []
    assert store.newest(dead=True) == [gone]
    assert actions(database) == [("key.create", key.id, "ana"), ("key.revoke", key.id, "bo")]


def test_a_key_ends_at_its_expiry(store: KeyStore, clock: ManualClock) -> None:
    key, _ = made(store, expires_at=NOW + 10 * SECOND)
    clock.advance(9.999_999)
    assert [stored.key for stored in store.live()] == [key]
    clock.advance(0.000_001)
    assert store.live() == []
    assert not key.live(clock.now())
    with pytest.raises(KeyRefused, match="not valid any more"):
        store.rotate(key.id, by="ana", reason="late", overlap_s=60)


def test_rotation_overlaps_and_keeps_what_the_key_may_do(
    store: KeyStore, clock: ManualClock, database: Database
) -> None:
    old, first = made(store, rate=7, expires_at=NOW + 30 * DAY)
    clock.advance(86_400 * 29)
    new, second = store.rotate(old.id, by="bo", reason="monthly", overlap_s=3600)
    assert second != first
    assert (new.name, new.scopes, new.rate, new.replaces) == (old.name, old.scopes, old.rate, old.id)
    assert new.expires_at == clock.now() + 30 * DAY
    assert {stored.key.id for stored in store.live()} == {old.id, new.id}
    clock.advance(3600)
    assert [stored.key.id for stored in store.live()] == [new.id]
    assert actions(database)[1:] == [("key.rotate", new.id, "bo"), ("key.expire", old.id, "bo")]


def test_an_overlap_never_lengthens_a_keys_life(store: KeyStore) -> None:
    old, _ = made(store, expires_at=NOW + 10 * SECOND)
    store.rotate(old.id, by="bo", reason="x", overlap_s=3600, expires_at=NOW + DAY)
    assert store.get(old.id).expires_at == NOW + 10 * SECOND


def test_pipelines_do_not_see_each_others_keys(
    store: KeyStore, database: Database, clock: ManualClock
) -> None:
    key, _ = made(store)
    other = KeyStore(database, "logins", clock)
    assert other.live() == []
    assert other.newest(dead=True) == []
    for call in (
        lambda: other.get(key.id),
        lambda: other.revoke(key.id, by="eve", reason="x"),
        lambda: other.rotate(key.id, by="eve", reason="x", overlap_s=0),
    ):
        with pytest.raises(UnknownKey, match="logins has no such key"):
            call()
    assert store.get(key.id) == key
    assert actions(database, "logins") == []


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scope"),
        ({"expires_at": NOW}, "future"),
        ({"expires_at": 1 << 70}, "future"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"burst": 0}, "burst"),
    ],
)
def test_what_can_not_be_a_key(store: KeyStore, given: dict[str, object], what: str) -> None:
    wanted: dict[str, object] = {"name": "shop", "scopes": ["score"], "by": "ana", "reason": "x", **given}
    with pytest.raises(KeyRefused, match=what) as error:
        store.create(**wanted)  # type: ignore[arg-type]
    assert error.value.remedy
    assert store.newest(dead=True) == []


def test_the_number_of_live_keys_is_bounded(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store, "MAX_LIVE", 2)
    first, _ = made(store)
    made(store)
    with pytest.raises(KeyRefused, match="2 keys"):
        made(store)
    store.revoke(first.id, by="ana", reason="room")
    made(store)


def test_the_form_of_keys() -> None:
    assert new_key(lambda n: "ab" * n) == f"tg_{'ab' * 6}_{'ab' * 24}"
    good = new_key()
    assert key_id_of(good) is not None
    for bad in ("", "tg_", good + "0", good.upper(), good.replace("_", "-"), " " + good, good + "\n"):
        assert key_id_of(bad) is None
    shown = msgspec.json.encode(ApiKey(id="a", name="b", scopes=(), created_at=1, created_by="c"))
    assert b"sha256" not in shown
    assert not StoredKey(
        ApiKey(id="a", name="b", scopes=(), created_at=1, created_by="c"), fingerprint(good)
    ).is_of("\ud800")
