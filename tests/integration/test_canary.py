"""A card number, and other sensitive values, through every path there is: found nowhere but where they were sent.

Where they were sent are the input topics, and the dead letters, which keep the record byte for byte (docs/privacy.md).
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
from confluent_kafka import Consumer, Producer
from deltalake import DeltaTable
from typer.testing import CliRunner

from domain.clock import SystemClock
from lifecycle.database import Database
from stream.archiver_offline import OfflineArchiverSettings, run_offline_archiver
from stream.kafka import KafkaConnection
from stream.label_logs import topic_records
from stream.log_reading import reader_conf
from stream.replay import Sendable, replay, replay_producer
from stream.topics import Topics, create_topics
from tests.system.scene import PRIVACY_KEY, eventually, metric
from tidegate import api_process, processes
from tidegate.cli import app
from tidegate.defaults import renamed_pipeline
from tidegate.embedded.process import free_port
from tidegate.loading import load
from tidegate.logs import set_up_logging
from tidegate.offline import offline_store
from tidegate.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

PIPELINE = Path(__file__).resolve().parents[1] / "system" / "canary_pipeline.yaml"
CARD = 4929123456781236
"""Its check digit is right, as a real one's is."""
GROUPED = "4929 1234 5678 1236"
ACCOUNT, DEVICE, HOLDER = f"canary-{CARD}", "canary-device-77120", "Canary McHolder"
SECRETS = [str(CARD), GROUPED, ACCOUNT, DEVICE, HOLDER]


def needles() -> list[bytes]:
    """The secrets as they are, and in the disguises in which programs write bytes."""
    found: set[bytes] = set()
    for secret in SECRETS:
        raw = secret.encode()
        found |= {raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret).encode()}
        # base64 of anything that holds it: three ways to fall into groups of three bytes, edges left out
        found |= {base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)}
    return sorted(found)


NEEDLES = needles()


def assert_clean(where: str, data: bytes | str) -> None:
    data = data.encode() if isinstance(data, str) else data
    for needle in NEEDLES:
        at = data.find(needle)
        assert at < 0, f"{where} holds {needle!r}: {data[max(at - 200, 0) : at + 100]!r}"


def event(id_: str, **fields: Any) -> dict[str, Any]:
    made = {
        "id": id_, "at": datetime.now(UTC).isoformat(), "account": ACCOUNT, "device": DEVICE, "card": CARD,
        "holder": HOLDER, "amount": 10.0, "channel": "web", **fields,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def bad_events() -> list[bytes]:
    """Records with secrets that are no events, each for a reason of its own."""
    good = json.dumps(event("x"))
    changed: list[dict[str, Any]] = [
        event("x", channel=str(CARD)), event("x", channel=GROUPED), event("x", amount=str(CARD)),
        event("x", amount=CARD), event("x", at=str(CARD)), event("x", at=GROUPED), event("x", id=CARD),
        event("x", id=str(CARD) * 3), event("x", account=None), event("x", account=CARD),
        event("x", account=ACCOUNT * 3), event("x", card=str(CARD)), event("x", card=CARD * 10**9),
        event("x", holder=[HOLDER]), event("x", device=DEVICE + "\0"), event("x", device=""),
        event("x", holder=HOLDER + "\ud800"), event("x", at="2150-01-01T00:00:00Z"),
        {**event("x"), str(CARD): 1}, {**event("x"), f"card {GROUPED}": 1},
        {**event("x"), "x" * 70 + str(CARD): 1},
    ]  # fmt: skip
    texts = [json.dumps(one) for one in changed]
    texts += [good[:-1], good + good, f"[{good}]", f'"{CARD}"', str(CARD), f"<card>{CARD}</card>"]
    texts += [
        good.replace("10.0", "NaN"),
        good.replace("10.0", "1e400"),
        good.replace('"web"', '"web", "channel": 7'),
    ]
    return [text.encode() for text in texts] + [b"\xff" + good.encode()]


@contextmanager
def running(name: str, target: Callable[[threading.Event], None]) -> Iterator[None]:
    """``target`` in a thread, ended with the block; what it raised is raised."""
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            target(stop)
        except BaseException as error:
            failed.append(error)
            traceback.print_exc()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not failed, failed


def redis_content(url: str) -> Iterator[tuple[str, bytes]]:
    """Every key of the server and all that is under it."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key).decode()
            if kind == "string":
                held: Any = [client.get(key)]
            elif kind == "hash":
                held = [part for pair in client.hgetall(key).items() for part in pair]
            else:
                assert kind == "zset", kind
                held = client.zrange(key, 0, -1)
            yield f"redis {key!r}", b"\n".join([key, *(part for part in held if part is not None)])


def everything_of(kafka: str, topic: str) -> list[Any]:
    """Committed records of all partitions of ``topic``."""
    return list(topic_records(reader_conf(KafkaConnection(kafka), "canary-test", "canary-test"), topic))


def all_topics(kafka: str, prefix: str) -> list[str]:
    reader = Consumer({"bootstrap.servers": kafka, "group.id": "canary-test"})
    try:
        return sorted(name for name in reader.list_topics(timeout=30).topics if name.startswith(f"{prefix}."))
    finally:
        reader.close()


def ask_everything(client: httpx.Client) -> list[httpx.Response]:
    """Requests with secrets in them, right and wrong; the answers."""
    answers = [client.post("/v1/score?deadline_ms=30000", json=event(f"api-{n}")) for n in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    answers.append(client.post("/v1/score?dry_run=true", json=event("api-dry")))
    assert answers[-1].status_code == 200, answers[-1].text
    as_json = {"Content-Type": "application/json"}
    for bad in bad_events():
        for query in ("?deadline_ms=30000", "?dry_run=true"):
            answers.append(client.post(f"/v1/score{query}", content=bad, headers=as_json))
            assert 400 <= answers[-1].status_code < 500, (bad, answers[-1].status_code)
    answers += [
        client.post("/v1/score", content=json.dumps(event("x")), headers={"Content-Type": "text/plain"})
    ]
    answers += [client.get("/v1/verdicts", params={"entity": f"account:{ACCOUNT}"})]
    for name in ("entity", "entity_hash", "limit", "decision", "cursor", "from", "to"):
        answers.append(client.get("/v1/verdicts", params={name: str(CARD)}))
    answers.append(client.get("/v1/verdicts", params={"entity": f"card:{CARD}"}))
    for path in (f"/v1/verdicts/{CARD}", f"/v1/{ACCOUNT}", f"/v1/models/{CARD}", f"/{GROUPED}"):
        answers.append(client.get(path))
    for label in (
        {"id": "api-0", "label": CARD, "source": "analyst"},
        {"id": "api-0", "label": 1, "source": str(CARD)},
        {"id": "api-0", "label": 1, "source": "analyst", str(CARD): 1},
        {"id": "api-0", "label": 1, "source": "analyst", "known_at": CARD},
        {"id": CARD, "label": 1, "source": "analyst"},
        [str(CARD)],
    ):
        answers.append(client.post("/v1/labels", json=label))
        assert answers[-1].status_code in (400, 422), answers[-1].text
    answers.append(client.post("/v1/labels", json={"id": "api-0", "label": 1, "source": "analyst"}))
    assert answers[-1].status_code in (200, 202), answers[-1].text
    answers += [client.get(path) for path in ("/v1/audit", "/v1/drift", "/v1/workers", "/readyz", "/metrics")]
    return answers


def test_sensitive_values_are_found_nowhere_but_where_they_were_sent(
    kafka: str,
    redis_url: str,
    topic_prefix: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics, switch = Topics(topic_prefix), sys.getswitchinterval()
    file = renamed_pipeline(PIPELINE, topic_prefix, tmp_path / "pipeline.yaml")
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 1, replies_partitions=1)
    given: dict[str, object] = {
        "pipeline": file, "kafka_bootstrap": kafka, "redis_url": redis_url, "privacy_key": PRIVACY_KEY,
        "state_dir": tmp_path / "state", "worker_id": "w1",
        "kafka_extra": json.dumps({"debug": "msg,cgrp,eos"}),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"TIDEGATE_{name.upper()}", str(value))
    set_up_logging("DEBUG")
    ports = {name: free_port() for name in ("worker", "archiver", "joiner", "api")}
    settings = {
        name: Settings(**{"api_port" if name == "api" else "metrics_port": port})  # type: ignore[arg-type]
        for name, port in ports.items()
    }
    pipeline = load(file)
    store = offline_store(settings["api"], pipeline)
    quick = OfflineArchiverSettings(seconds=0.2)
    clock = SystemClock()
    with ExitStack() as stack:
        stack.callback(sys.setswitchinterval, switch)
        for name, target in (
            ("worker", lambda stop: processes.worker(settings["worker"], stop)),
            ("archiver", lambda stop: processes.archiver(settings["archiver"], stop)),
            ("joiner", lambda stop: processes.joiner(settings["joiner"], stop)),
            ("api", lambda stop: api_process.api(settings["api"], stop)),
            (
                "offline",
                lambda stop: run_offline_archiver(
                    settings["api"].kafka(), topic_prefix, store, stop, clock, settings=quick
                ),
            ),
        ):
            stack.enter_context(running(name, target))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}", timeout=60))

        def ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        eventually("the API is ready", ready)
        eventually("the worker is", lambda: metric(ports["worker"], "tidegate_partitions") == 1)
        with Database(settings["api"].database()).writing() as _:
            pass
        good = [Sendable(ACCOUNT.encode(), json.dumps(event(f"e{n}")).encode(), None) for n in range(30)]
        stray = Sendable(b"another", json.dumps(event("wrong-key")).encode(), None)
        bad = [Sendable(ACCOUNT.encode(), value, None) for value in bad_events()]
        records = [*good, stray, *bad]
        replay(records, replay_producer(KafkaConnection(kafka)), topics.events)
        stranger = Producer({"bootstrap.servers": kafka})
        stranger.produce(
            topics.events, json.dumps(event("h")), ACCOUNT, headers=[("x-card", str(CARD).encode())]
        )
        stranger.produce(topics.labels, json.dumps({"id": "e0", "label": CARD, "source": "analyst"}), b"e0")
        stranger.produce(topics.labels, json.dumps({"id": "e1", "label": 1, "source": str(CARD)}), b"e1")
        assert stranger.flush(60) == 0

        answers = ask_everything(client)
        answers += [
            httpx.get(f"http://127.0.0.1:{port}/metrics") for name, port in ports.items() if name != "api"
        ]
        assert b"tidegate" in answers[-1].content
        # the last event is scored, archived in both stores; the label is joined
        eventually("a verdict is hot", lambda: client.get("/v1/verdicts/api-2").status_code == 200)
        eventually(
            "the dead labels are there", lambda: len(everything_of(kafka, topics.raw_label_dead_letters)) == 2
        )
        eventually("the label is joined", lambda: len(everything_of(kafka, topics.labels_joined)) == 1)
        count = 31 + 3
        eventually("verdicts are offline", lambda: rows(store.verdicts.url) == count)
        letters = len(everything_of(kafka, topics.dead_letters))
        eventually("letters are offline", lambda: rows(store.dead_letters.url) == letters)
        eventually("the label is offline", lambda: rows(store.labels.url) == 1)

    printed = [
        CliRunner().invoke(app, ["dlq", *arguments]).output
        for arguments in (["list"], ["list", "--json"], ["show", "0:0"], ["show", "0:0", "--json"])
    ]
    logs = capfd.readouterr()
    assert "worker starts" in logs.err
    assert "joining labels" in logs.err

    assert_clean("the logs", logs.err + logs.out)
    for number, output in enumerate(printed):
        assert "0:0" in output
        assert_clean(f"command {number}", output)
    for answer in answers:
        shown = f"{answer.status_code} {dict(answer.headers)} {answer.text}"
        assert_clean(f"the answer to {answer.request.method} {str(answer.request.url)[:80]}", shown)
    check_topics(kafka, topic_prefix, topics)
    for where, data in redis_content(redis_url):
        assert_clean(where, data)
    for path in sorted(tmp_path.rglob("*")):
        assert_clean(f"the name of {path.name}", path.name)
        if path.is_file() and path != file:
            assert_clean(str(path), path.read_bytes())
    for table in store.tables:
        # compressed in the files
        assert_clean(table.url, str(DeltaTable(table.url).to_pyarrow_table().to_pylist()))


def rows(url: str) -> int:
    return DeltaTable(url).to_pyarrow_table().num_rows if DeltaTable.is_deltatable(url) else 0


def check_topics(kafka: str, prefix: str, topics: Topics) -> None:
    """Inputs hold what was sent; dead letters too, but nothing of it in our own headers; all others nothing."""
    inputs = {topics.events, topics.labels}
    letters = {topics.dead_letters, topics.raw_label_dead_letters, topics.label_dead_letters}
    seen: dict[str, int] = {}
    for topic in all_topics(kafka, prefix):
        for message in everything_of(kafka, topic):
            seen[topic] = seen.get(topic, 0) + 1
            if topic in inputs:
                continue
            parts = [value or b"" for _, value in message.headers() or []]
            if topic in letters:
                parts = [v or b"" for name, v in message.headers() or [] if name.startswith("tidegate-")]
            else:
                parts += [message.key() or b"", message.value() or b""]
            for part in parts:
                assert_clean(f"{topic} {message.partition()}:{message.offset()}", part)
    assert {topics.verdicts, topics.alerts, topics.replies, topics.dead_letters} <= seen.keys(), seen
    assert {topics.labels_joined, topics.label_claims, topics.raw_label_dead_letters} <= seen.keys(), seen
