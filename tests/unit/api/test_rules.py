"""Rules, lists and snoozes over HTTP: what there is, changing it, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.deps import ApiDeps
from api.ports import WorkerReport
from api.rules_watch import RulesWatch
from domain.errors import Retriable
from domain.rule_records import RuleSet, read_rules
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.list_store import SqlListStore
from lifecycle.rule_changes import rule_store
from lifecycle.rule_trial import RulesTrial, TrialReport
from tests.unit.api.fakes import World
from tests.unit.api.test_routes import problem

pytestmark = pytest.mark.anyio
BIG = {"id": "big", "when": "amount > 900.0", "action": "block", "reason": "a large amount"}


@dataclass
class Told:
    """What was published; ``away``: Kafka does not answer."""

    rules: int = 0
    lists: int = 0
    away: bool = False

    def _tell(self, what: str) -> None:
        if self.away:
            raise Retriable("kafka.internal is away")
        setattr(self, what, getattr(self, what) + 1)

    def tell_rules(self) -> None:
        self._tell("rules")

    def tell_lists(self) -> None:
        self._tell("lists")


@dataclass
class Ruled:
    world: World
    told: Told
    database: Database
    deps: ApiDeps = field(init=False)

    def __post_init__(self) -> None:
        self.deps = replace(
            self.world.deps,
            database=lambda: self.database,
            publish_rules=self.told.tell_rules,
            publish_lists=self.told.tell_lists,
        )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: making the tables takes longer than all the rest."""
    path = tmp_path_factory.mktemp("rules") / "empty.sqlite"
    Database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def ruled(tables: Path, tmp_path: Path) -> Iterator[Ruled]:
    database = Database(f"sqlite:///{shutil.copy(tables, tmp_path / 'rules.sqlite')}")
    # a database on a busy disk: nothing here is about time-outs
    yield Ruled(World(answer_seconds=60.0, publish_seconds=60.0), Told(), database)
    database.close()


@pytest.fixture
async def client(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(ruled.deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def worker(name: str, epoch: int, lists: int = 0, **more: Any) -> WorkerReport:
    return WorkerReport(
        worker=name, reported_at=1, partitions=(0,), code="c", pipeline=1, pipeline_digest="d", models={},
        rules=epoch, lists=lists, **more,
    )  # fmt: skip


async def test_rules_are_put_in_force_one_by_one_and_all_at_once(
    client: httpx.AsyncClient, ruled: Ruled
) -> None:
    assert (await client.get("/v1/rules")).json()["in_force"]["epoch"] == 0
    answer = await client.put("/v1/rules", json={"rules": [BIG], "reason": "begin"})
    assert answer.status_code == 200
    assert answer.json()["published"] is True
    first = answer.json()["in_force"]
    assert (first["epoch"], first["changed_by"]) == (1, "local (API)")
    assert [(r["id"], r["version"], r["action"]) for r in first["rules"]] == [("big", 1, "block")]
    odd = {"when": "amount < 0.01", "action": "review"}
    answer = await client.put("/v1/rules/odd", json={"rule": odd, "reason": "card testing", "epoch": 1})
    assert [r["id"] for r in answer.json()["in_force"]["rules"]] == ["big", "odd"]
    changed = await client.put(
        "/v1/rules/big", json={"rule": {**BIG, "when": "amount > 800.0"}, "reason": "lower"}
    )
    assert changed.json()["in_force"]["rules"][0]["version"] == 2
    one = (await client.get("/v1/rules/big")).json()
    assert (one["epoch"], one["rule"]["when"]) == (3, "amount > 800.0")
    assert [(v["version"], v["content"]["when"]) for v in one["versions"]] == [
        (2, "amount > 800.0"),
        (1, "amount > 900.0"),
    ]
    gone = await client.delete("/v1/rules/odd", params={"reason": "too many", "epoch": 3})
    assert [r["id"] for r in gone.json()["in_force"]["rules"]] == ["big"]
    page = (await client.get("/v1/rules:history", params={"limit": 3})).json()
    assert ([one["epoch"] for one in page["rule_sets"]], page["next"]) == ([4, 3, 2], 2)
    page = (await client.get("/v1/rules:history", params={"limit": 3, "before": 2})).json()
    assert ([one["epoch"] for one in page["rule_sets"]], page["next"]) == ([1], None)
    assert ruled.told.rules == 4
    with ruled.database.reading() as connection:
        actions = [r.action for r in AuditTrail("payments").after(connection, 0, 10)]
    assert actions == ["rules.apply", "rule.put", "rule.put", "rule.delete"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        (
            "PUT",
            "/v1/rules",
            {"rules": [{**BIG, "when": "amunt > 1.0"}], "reason": "x"},
            422,
            "rules-invalid",
        ),
        ("PUT", "/v1/rules", {"rules": [{"id": "x"}], "reason": "x"}, 422, "rules-invalid"),
        ("PUT", "/v1/rules", {"rules": [BIG, BIG], "reason": "x"}, 422, "rules-invalid"),
        ("PUT", "/v1/rules", {"rules": [BIG]}, 422, "invalid-parameter"),
        ("PUT", "/v1/rules", {"rules": [BIG], "reason": " "}, 422, "invalid-parameter"),
        ("PUT", "/v1/rules", {"rules": [BIG], "reason": "x", "epoch": 7}, 409, "conflict"),
        ("PUT", "/v1/rules", {"rules": 7, "reason": "x"}, 422, "invalid-parameter"),
        ("PUT", "/v1/rules/big", {"rule": {**BIG, "id": "other"}, "reason": "x"}, 422, "rules-invalid"),
        ("PUT", "/v1/rules/BIG", {"rule": {"when": "true"}, "reason": "x"}, 422, "rules-invalid"),
        ("PUT", "/v1/rules/big", {"rule": {**BIG, "typology": "t"}, "reason": "x"}, 422, "rules-invalid"),
        ("GET", "/v1/rules/none", None, 404, "no-such-rule"),
        ("GET", "/v1/rules/%00", None, 404, "no-such-rule"),
        ("DELETE", "/v1/rules/none?reason=x", None, 404, "no-such-rule"),
        ("DELETE", "/v1/rules/none", None, 422, "invalid-parameter"),
    ],
)
async def test_what_is_no_rule_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, ruled: Ruled, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await client.request(method, path, json=body)
    problem(answer, status, code)
    assert (await client.get("/v1/rules")).json()["in_force"]["epoch"] == 0
    assert ruled.told.rules == 0


async def test_mistakes_say_which_rule_and_where(client: httpx.AsyncClient) -> None:
    rules = [{**BIG, "when": "amunt > 1.0"}, {"id": "two", "when": "amount > ", "action": "block"}]
    found = problem(await client.put("/v1/rules", json={"rules": rules, "reason": "x"}), 422, "rules-invalid")
    assert [(e["rule"], e["field"]) for e in found["errors"]] == [("big", "when"), ("two", "when")]
    assert all(e["remedy"] for e in found["errors"])


async def test_what_kafka_did_not_take_is_told_later(client: httpx.AsyncClient, ruled: Ruled) -> None:
    ruled.told.away = True
    answer = await client.put("/v1/rules", json={"rules": [BIG], "reason": "begin"})
    assert (answer.status_code, answer.json()["published"]) == (202, False)
    entries = {"entries": [{"field": "merchant_id", "value": "m1"}], "reason": "x"}
    assert (await client.post("/v1/lists/bad/entries", json=entries)).status_code == 202
    metrics = CollectorRegistry()
    watch = RulesWatch(replace(ruled.deps, registry=metrics))
    with pytest.raises(Retriable):
        watch.look()
    ruled.told.away = False
    ruled.world.models.found = [worker("a", 1, 1), worker("b", 0, 1), worker("c", 1, 0)]
    watch.look()
    assert (ruled.told.rules, ruled.told.lists) == (1, 1)
    assert metrics.get_sample_value("tidegate_rules_workers_behind") == 2
    watch.look()
    assert (ruled.told.rules, ruled.told.lists) == (1, 1)


async def test_who_does_not_go_by_the_rules_is_named(client: httpx.AsyncClient, ruled: Ruled) -> None:
    await client.put("/v1/rules", json={"rules": [BIG], "reason": "begin"})
    assert (await client.get("/v1/rules")).json()["agreed"] is False
    ruled.world.models.found = [worker("a", 1), worker("b", 1, rules_refused={"2": "x"}), worker("c", 0)]
    found = (await client.get("/v1/rules")).json()
    assert (found["agreed"], found["behind"]) == (False, ["b", "c"])
    ruled.world.models.found = [worker("a", 1)]
    assert (await client.get("/v1/rules")).json()["agreed"] is True


async def test_a_list_takes_gives_and_forgets_values(client: httpx.AsyncClient, ruled: Ruled) -> None:
    entries = [
        {"field": "account_id", "value": "4929-1", "expires_in": 60, "note": "chargeback", "source": "desk"},
        {"field": "merchant_id", "value": "m/1", "expires_at": "2024-01-31T12:00:00+01:00"},
    ]
    answer = await client.post("/v1/lists/bad/entries", json={"entries": entries, "reason": "ticket 7"})
    assert answer.status_code == 200
    assert answer.json()["changed"] == {"version": 2, "added": 2, "renewed": 0, "removed": 0, "same": 0}
    assert ruled.told.lists == 1
    found = (await client.get("/v1/lists")).json()
    assert found["version"] == 2
    assert [(one["list"], one["field"], one["entries"]) for one in found["lists"]] == [
        ("bad", "account_id", 1),
        ("bad", "merchant_id", 1),
    ]
    page = (await client.get("/v1/lists/bad/entries")).json()
    shop, account = page["entries"]
    assert (shop["value"], shop["expires_at"], shop["hashed"]) == ("m/1", "2024-01-31T11:00:00Z", False)
    assert account["hashed"] is True
    assert account["value"] == ruled.world.protector.protect("4929-1")
    assert (account["note"], account["source"], account["added_by"]) == ("chargeback", "desk", "local (API)")
    one = await client.get("/v1/lists/bad/entries", params={"limit": 1})
    rest = await client.get("/v1/lists/bad/entries", params={"limit": 1, "before": one.json()["next"]})
    assert rest.json()["entries"] == [account]
    stands = (await client.get("/v1/entities/merchant_id/m%2F1/lists")).json()
    assert [entry["list"] for entry in stands["entries"]] == ["bad"]
    # by what was written, and by what is shown
    gone = await client.delete(
        "/v1/lists/bad/entries", params={"field": "merchant_id", "value": "m/1", "reason": "x"}
    )
    assert gone.json()["changed"]["removed"] == 1
    remove = {"entries": [{"field": "account_id", "value": account["value"], "hashed": True}], "reason": "x"}
    gone = await client.post("/v1/lists/bad/entries:remove", json=remove)
    assert gone.json()["changed"]["removed"] == 1
    assert (await client.get("/v1/lists")).json()["lists"] == []
    with ruled.database.reading() as connection:
        told = repr(AuditTrail("payments").after(connection, 0, 10))
    assert "4929-1" not in told


async def test_an_entity_is_tagged_snoozed_and_heard_of_again(
    client: httpx.AsyncClient, ruled: Ruled
) -> None:
    tag = {"entries": [{"field": "account_id", "value": "a/7"}], "reason": "gold"}
    assert (await client.post("/v1/lists/tag:vip/entries", json=tag)).status_code == 200
    path = "/v1/entities/account_id/a%2F7"
    answer = await client.post(f"{path}:snooze", json={"expires_in": 3600, "reason": "holiday", "note": "n"})
    assert answer.status_code == 200
    lists = (await client.get(f"{path}/lists")).json()["entries"]
    assert [(e["list"], e["source"], e["note"]) for e in lists] == [
        ("snoozed", "snooze", "n"),
        ("tag:vip", "api", ""),
    ]
    [entry] = SqlListStore(ruled.database, "payments", ruled.world.clock).entries("snoozed")
    assert entry.expires_at == ruled.world.clock.now() + 3_600_000_000
    assert (await client.post(f"{path}:unsnooze", json={"reason": "back"})).json()["changed"]["removed"] == 1


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (
            "/v1/lists/Bad/entries",
            {"entries": [{"field": "merchant_id", "value": "m"}], "reason": "x"},
            "list",
        ),
        ("/v1/lists/bad/entries", {"entries": [{"field": "amount", "value": "1"}], "reason": "x"}, "field"),
        (
            "/v1/lists/bad/entries",
            {"entries": [{"field": "merchant_id", "value": ""}], "reason": "x"},
            "value",
        ),
        ("/v1/lists/bad/entries", {"entries": [], "reason": "x"}, "body"),
        (
            "/v1/lists/bad/entries",
            {"entries": [{"field": "merchant_id", "value": 1.5}], "reason": "x"},
            "body",
        ),
        (
            "/v1/lists/bad/entries",
            {"entries": [{"field": "merchant_id", "value": "m", "expires_at": "tomorrow"}], "reason": "x"},
            "expires_at",
        ),
        (
            "/v1/lists/bad/entries",
            {
                "entries": [{"field": "merchant_id", "value": "m", "expires_at": "2024-01-31T12:00:00"}],
                "reason": "x",
            },
            "expires_at",
        ),
        (
            "/v1/lists/bad/entries",
            {
                "entries": [
                    {
                        "field": "merchant_id",
                        "value": "m",
                        "expires_at": "2024-01-31T12:00:00Z",
                        "expires_in": 5,
                    }
                ],
                "reason": "x",
            },
            "expires_at",
        ),
        ("/v1/entities/merchant_id/m:snooze", {"reason": "x"}, "expires_in"),
        ("/v1/entities/amount/1:snooze", {"reason": "x", "expires_in": 5}, "field"),
    ],
)
async def test_what_can_not_stand_in_a_list_is_refused(
    client: httpx.AsyncClient, ruled: Ruled, path: str, body: Any, field: str
) -> None:
    assert problem(await client.post(path, json=body), 422, "invalid-parameter")["field"] == field
    assert (await client.get("/v1/lists")).json()["version"] == 0
    assert ruled.told.lists == 0


async def test_rules_are_tried_without_being_put_in_force(ruled: Ruled) -> None:
    asked: list[tuple[list[str], int]] = []

    def trying(rules: RuleSet, last: int) -> TrialReport:
        asked.append(([rule.id for rule in rules.rules], last))
        return RulesTrial(ruled.deps.pipeline, rules).report()

    transport = httpx.ASGITransport(app=create_app(replace(ruled.deps, try_rules=trying)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/rules:test", json={"rules": [BIG], "last": 50})
        assert answer.status_code == 200
        assert [(one["id"], one["hits"]) for one in answer.json()["rules"]] == [("big", 0)]
        for wrong, code in (
            ({"rules": [{**BIG, "when": "amunt > 1.0"}]}, "rules-invalid"),
            ({"rules": [{"id": "x"}]}, "rules-invalid"),
            ({"rules": [BIG], "last": 0}, "invalid-parameter"),
            ({"last": 5}, "invalid-parameter"),
        ):
            problem(await client.post("/v1/rules:test", json=wrong), 422, code)
        assert (await client.get("/v1/rules")).json()["in_force"]["epoch"] == 0
    assert asked == [(["big"], 50), (["big"], 1_000)]


async def test_the_first_rules_are_those_of_the_pipeline_file(ruled: Ruled) -> None:
    rules, _ = read_rules({"rules": [BIG]})
    metrics = CollectorRegistry()
    watch = RulesWatch(replace(ruled.deps, registry=metrics, first_rules=lambda: (rules, ())))
    watch.look()
    store = rule_store(ruled.database, ruled.deps.pipeline, ruled.world.clock)
    assert [(store.current().epoch, one.id) for one in store.current().rules] == [(1, "big")]
    assert ruled.told.rules == 1
    store.delete("big", by="x", reason="y")
    watch.look()
    assert (store.current().epoch, store.current().rules) == (2, ())


async def test_first_rules_that_can_not_run_stop_nobody(ruled: Ruled) -> None:
    rules, _ = read_rules({"rules": [{**BIG, "when": "amunt > 1.0"}]})
    watch = RulesWatch(replace(ruled.deps, registry=CollectorRegistry(), first_rules=lambda: (rules, ())))
    watch.look()
    assert rule_store(ruled.database, ruled.deps.pipeline, ruled.world.clock).current().epoch == 0


async def test_without_a_database_there_are_no_rules(world: World) -> None:
    transport = httpx.ASGITransport(app=create_app(world.deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/v1/rules", "/v1/lists"):
            problem(await client.get(path), 404, "no-database")
