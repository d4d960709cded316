"""What only a real Redis can do to us: forget scripts, stop, fill up, die, tear a flush, be misconfigured."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
import redis

from domain.errors import Fatal, ServiceMissing, StateFenced, StateMismatch, StoreUnavailable
from featurestore.online import CHUNK_BLOBS, RedisStateStore, encode_key_part
from featurestore.ports import Applied, EntityRequest, ModelSnapshot, PartitionFlush
from featurestore.redis_client import Client, connect
from featurestore.worker_reports import WorkerReports
from tests.contract.check_state_store import AWKWARD_KEYS, blob
from tests.redis_process import RedisProcess, embedded_binary, system_binary
from tidegate.embedded.process import free_port
from tidegate.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.redis

A10 = Applied(10, 1_000, 5)
A20 = Applied(20, 2_000, 15)
NEVER_IN_A_TEST = 120.0
"""Time-out in seconds for tests that are not about time-outs, on a busy machine."""


def entity_blobs(n: int, offset: int, size: int | None = None) -> list[tuple[str, str, bytes]]:
    each = blob(offset) if size is None else blob(offset, b"x" * size)
    return [("account", f"k{i}", each) for i in range(n)]


def stored_offsets(store: RedisStateStore, n: int) -> set[bytes | None]:
    [found] = store.load_entities([EntityRequest(0, "account", [f"k{i}" for i in range(n)])])
    return {None if content is None else content[:8] for content in found}


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url, timeout=NEVER_IN_A_TEST) as client:
        yield client


@pytest.fixture
def store(client: Client) -> RedisStateStore:
    return RedisStateStore(client, "payments")


@pytest.fixture
def own(new_redis: Callable[[], EmbeddedRedis]) -> EmbeddedRedis:
    return new_redis()


def test_keys_and_values_are_as_documented(store: RedisStateStore, client: Client) -> None:
    applied = Applied(10, 1_000, 5, labels_offset=3, incomplete_until=4)
    store.flush([PartitionFlush(3, None, applied, [("merchant id", "a:b", blob(9, b"state"))])])
    store.save_model(3, ModelSnapshot(7, 8, b"model"))
    assert {key: client.get(key) for key in client.scan_iter()} == {
        b"fs:{payments:3}:applied": b"".join(v.to_bytes(8, "little") for v in (13, 10, 1_000, 5, 2, 3, 4)),
        b"fs:{payments:3}:merchant%20id:a%3Ab": blob(9, b"state"),
        b"fs:{payments:3}:model": b"".join(v.to_bytes(8, "little") for v in (7, 8, 2)) + b"model",
    }


def test_encoded_key_parts_are_safe_bounded_and_distinct() -> None:
    encoded = [encode_key_part(key) for key in AWKWARD_KEYS]
    assert len(set(encoded)) == len(AWKWARD_KEYS)
    assert all(len(part) <= 200 and not set(part) & set(":{}*?[]\\") for part in encoded)


def test_scripts_come_back_after_script_flush(store: RedisStateStore, client: Client) -> None:
    flushes = [PartitionFlush(p, None, A10, entity_blobs(2 * CHUNK_BLOBS + 1, 9)) for p in range(3)]
    for advance in (flushes, [PartitionFlush(f.partition, A10, A20, f.blobs) for f in flushes]):
        client.script_flush()
        store.flush(advance)
    client.script_flush()
    store.save_model(0, ModelSnapshot(1, 1, b""))
    assert [store.load_applied(p) for p in range(3)] == [A20] * 3


def test_a_torn_flush_leaves_blobs_ahead_and_can_be_repeated(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        n = 4 * CHUNK_BLOBS
        store.flush([PartitionFlush(0, None, A10, entity_blobs(n, 9))])
        # four script calls of 4 MB: the first begins below the limit, a later one does not
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 10_000_000)
        flush = PartitionFlush(0, A10, A20, entity_blobs(n, 19, size=8_000))
        with pytest.raises(StoreUnavailable, match=r"OOM.*maxmemory"):
            store.flush([flush])
        assert store.load_applied(0) == A10
        assert stored_offsets(store, n) == {blob(9, b""), blob(19, b"")}
        client.config_set("maxmemory", 0)
        store.flush([flush])
        assert store.load_applied(0) == A20
        assert stored_offsets(store, n) == {blob(19, b"")}


@pytest.mark.parametrize("binary", [system_binary, embedded_binary], ids=["system", "embedded"])
def test_when_memory_is_full_nothing_advances(binary: Callable[[], str]) -> None:
    server = RedisProcess(binary())
    try:
        with connect(server.url, timeout=NEVER_IN_A_TEST) as client:
            store = RedisStateStore(client, "payments")
            store.flush([PartitionFlush(0, None, A10, entity_blobs(3, 9))])
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="OOM"):
                store.flush([PartitionFlush(0, A10, A20, entity_blobs(2 * CHUNK_BLOBS, 19))])
            with pytest.raises(StoreUnavailable, match="OOM"):
                store.save_model(0, ModelSnapshot(1, 1, b"m"))
            assert store.load_applied(0) == A10
            assert stored_offsets(store, 3) == {blob(9, b"")}
            assert store.load_model(0) is None
    finally:
        server.stop()


def test_applied_does_not_move_when_an_earlier_chunk_failed(store: RedisStateStore, client: Client) -> None:
    client.hset("fs:{payments:0}:account:k0", "somebody", "else")
    with pytest.raises(StateMismatch, match="did not write"):
        store.flush([PartitionFlush(0, None, A10, entity_blobs(CHUNK_BLOBS + 1, 9))])
    assert store.load_applied(0) is None


def test_a_zombie_is_fenced_between_its_chunks(store: RedisStateStore, client: Client) -> None:
    store.flush([PartitionFlush(0, None, A20, entity_blobs(1, 19))])
    with pytest.raises(StateFenced, match="stored 20, expected 10"):
        store.flush([PartitionFlush(0, A10, Applied(15, 0, 0), entity_blobs(CHUNK_BLOBS + 1, 14))])
    assert stored_offsets(store, CHUNK_BLOBS + 1) == {blob(19, b""), None}


def test_a_stopped_server_is_unavailable_and_the_flush_can_be_repeated(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        RedisStateStore(client, "payments").flush([PartitionFlush(0, None, A10, entity_blobs(3, 9))])
    with connect(own.url, timeout=0.2) as client:
        store = RedisStateStore(client, "payments")
        flush = PartitionFlush(0, A10, A20, entity_blobs(3, 19))
        own.pause()
        try:
            for call in (
                lambda: store.flush([flush]),
                lambda: store.load_applied(0),
                lambda: stored_offsets(store, 3),
                store.check_server,
            ):
                with pytest.raises(StoreUnavailable, match="Remedy"):
                    call()
        finally:
            own.resume()
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        # whether the first attempt was executed on waking up is unknown: the repetition is right either way
        store.flush([flush])
        assert store.load_applied(0) == A20
        assert stored_offsets(store, 3) == {blob(19, b"")}


def test_a_killed_server_is_unavailable_until_it_is_back(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        store.flush([PartitionFlush(0, None, A10, entity_blobs(3, 9))])
        own.kill()
        flush = PartitionFlush(0, A10, A20, entity_blobs(3, 19))
        with pytest.raises(StoreUnavailable, match="Remedy: start Redis"):
            store.flush([flush])
        own.restart()
        assert store.load_applied(0) == A10
        store.flush([flush])
        assert store.load_applied(0) == A20
        assert stored_offsets(store, 3) == {blob(19, b"")}


def test_a_restart_between_two_calls_goes_unnoticed(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        store.flush([PartitionFlush(0, None, A10, entity_blobs(3, 9))])
        own.kill()
        own.restart()
        store.flush([PartitionFlush(0, A10, A20, entity_blobs(3, 19))])
        assert store.load_applied(0) == A20


def test_a_replica_is_named_as_such(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match=r"READONLY.*primary"):
            RedisStateStore(client, "payments").flush([PartitionFlush(0, None, A10, entity_blobs(1, 9))])


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"redis://:secret@127.0.0.1:{bound.getsockname()[1]}"
        with connect(url) as client, pytest.raises(StoreUnavailable) as caught:
            RedisStateStore(client, "payments").load_applied(0)
    assert "secret" not in str(caught.value)


def test_server_settings_are_checked(own: EmbeddedRedis) -> None:
    with connect(own.url, timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        assert not [w for w in store.check_server() if "append-only" in w]
        client.config_set("appendonly", "no")
        assert [w for w in store.check_server() if "append-only" in w]
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(Fatal, match=r"allkeys-lru.*noeviction"):
            store.check_server()


def test_old_servers_are_accepted_with_a_warning() -> None:
    server = RedisProcess(embedded_binary())
    try:
        with connect(server.url, timeout=NEVER_IN_A_TEST) as client:
            warnings = RedisStateStore(client, "payments").check_server()
    finally:
        server.stop()
    assert [w for w in warnings if "6.2" in w]


RIGHTS = (
    """GET SET MGET GETRANGE UNLINK SCAN EVAL EVALSHA ZADD ZREM ZRANGE ZREMRANGEBYSCORE TIME PING CLIENT"""
)
"""As docs/redis-format.md lists them, without INFO."""


def test_documented_rights_suffice_and_missing_ones_are_named(own: EmbeddedRedis) -> None:
    commands = ["-@all", *(f"+{name}" for name in RIGHTS.split())]
    with redis.Redis.from_url(own.url) as admin:
        admin.acl_setuser("worker", enabled=True, passwords=["+pw"], commands=commands, keys=["fs:*", "wk:*"])
        admin.acl_setuser("blind", enabled=True, passwords=["+pw"], commands=["-@all"], keys=["fs:*"])
    host = own.url.removeprefix("redis://")
    with connect(f"redis://worker:pw@{host}", timeout=NEVER_IN_A_TEST) as client:
        store = RedisStateStore(client, "payments")
        assert "INFO" in store.check_server()[0]
        store.flush([PartitionFlush(p, None, A10, entity_blobs(3, 9)) for p in range(2)])
        store.save_model(0, ModelSnapshot(1, 1, b"m"))
        assert stored_offsets(store, 3) == {blob(9, b"")}
        store.reset(0)
        assert store.load_applied(0) is None
        reports = WorkerReports(client, "payments")
        reports.put("w", b"report", ttl=60)
        assert reports.all() == [b"report"]
        reports.remove("w")
    with (
        connect(f"redis://blind:pw@{host}", timeout=NEVER_IN_A_TEST) as client,
        pytest.raises(ServiceMissing, match="NOPERM"),
    ):
        RedisStateStore(client, "payments").load_applied(0)
    with (
        connect(f"redis://worker:wrong@{host}", timeout=NEVER_IN_A_TEST) as client,
        pytest.raises(ServiceMissing, match="WRONGPASS"),
    ):
        RedisStateStore(client, "payments").load_applied(0)


FORMAT_1 = b"".join(v.to_bytes(8, "little") for v in (10, 1_000, 5, 1))
"""``applied`` as the first format had it."""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("applied", b"short"),
        ("applied", b"\2" * 48),
        ("applied", FORMAT_1),
        ("applied", b"".join(v.to_bytes(8, "little") for v in (12, 10, 1_000, 5, 2, 1))),
        ("model", b"\2" * 40),
        ("model", FORMAT_1[:16] + FORMAT_1[24:]),
    ],
    ids=["short", "foreign", "format 1", "progress is not the sum", "foreign model", "model of format 1"],
)
def test_foreign_values_are_a_mismatch(
    store: RedisStateStore, client: Client, key: str, value: bytes
) -> None:
    client.set(f"fs:{{payments:0}}:{key}", value)
    with pytest.raises(StateMismatch, match=r"format 2.*state reset"):
        store.load_applied(0) if key == "applied" else store.load_model(0)


def test_a_damaged_fence_is_a_mismatch(store: RedisStateStore, client: Client) -> None:
    client.set("fs:{payments:0}:applied", b"short")
    with pytest.raises(StateMismatch):
        store.flush([PartitionFlush(0, None, A10, [])])


def test_works_in_a_cluster() -> None:
    bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server = RedisProcess(system_binary(), *bus, port=free_port())
    try:
        with redis.Redis.from_url(server.url) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while admin.cluster("INFO")["cluster_state"] != "ok":
                pass
        with connect(server.url, timeout=NEVER_IN_A_TEST, cluster=True) as client:
            store = RedisStateStore(client, "payments")
            assert store.check_server()
            flushes = [PartitionFlush(p, None, A10, entity_blobs(CHUNK_BLOBS + 1, 9)) for p in range(4)]
            store.flush(flushes)
            assert [store.load_applied(p) for p in range(4)] == [A10] * 4
            assert stored_offsets(store, CHUNK_BLOBS + 1) == {blob(9, b"")}
            store.save_model(0, ModelSnapshot(1, 1, b"m"))
            store.reset(0)
            assert store.load_model(0) is None
            assert store.load_applied(1) == A10
            reports = WorkerReports(client, "payments")
            reports.put("w1", b"one", ttl=60)
            assert reports.all() == [b"one"]
            client.disconnect_connection_pools()  # its close() leaves a connection of the node behind
    finally:
        server.stop()


def test_worker_reports_live_as_long_as_the_worker_speaks(client: Client) -> None:
    reports = WorkerReports(client, "payments")
    assert reports.all() == []
    reports.put("w:2", b"two", ttl=60)
    reports.put("w:1", b"one", ttl=60)
    reports.put("w:1", b"one again", ttl=60)
    WorkerReports(client, "logins").put("w:3", b"another pipeline", ttl=60)
    assert reports.all() == [b"one again", b"two"]
    client.delete("wk:{payments}:report:w%3A2")  # as its expiry does
    assert reports.all() == [b"one again"]
    client.zadd("wk:{payments}:workers", {"w:2": 1.0})  # expired in 1970
    reports.put("w:1", b"one", ttl=60)
    assert client.zrange("wk:{payments}:workers", 0, -1) == [b"w:1"]
    reports.remove("w:1")
    assert reports.all() == []
    assert client.keys("wk:{payments}:*") == []
    reports.put("w:4", b"x", ttl=60)
    assert 0 < client.pttl("wk:{payments}:report:w%3A4") <= 60_000
