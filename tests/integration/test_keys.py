"""Keys of the command line open the API over real HTTP, from a database both share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from typer.testing import CliRunner

from api.access import needed, routes_of
from api.app import create_app
from domain.clock import SystemClock
from lifecycle.keys import new_key
from tests.system.scene import PATIENCE, eventually
from tests.unit.api.entering import bearer
from tests.unit.api.fakes import World
from tests.unit.api.test_connections import served
from tests.unit.api.test_every_route import requests
from tidegate.cli import app
from tidegate.entrance import entrance_of
from tidegate.model_registry import DatabaseWhenNeeded
from tidegate.settings import Settings


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    sqlite = request.param == "sqlite"
    found: str = f"sqlite:///{tmp_path}/t.sqlite" if sqlite else request.getfixturevalue("postgres_url")
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", found)
    return found


@contextmanager
def opened(url: str, **settings: Any) -> Iterator[httpx.Client]:
    """An API that asks for keys of ``url``, as ``tidegate api`` puts it together."""
    world = World()
    with closing(DatabaseWhenNeeded(url)) as database:
        found = Settings(api_auth=True, database_url=SecretStr(url), **settings)
        entrance = entrance_of(found, "payments", database, SystemClock(), CollectorRegistry())
        deps = replace(
            world.deps, access=entrance.access, keys_changed=entrance.keys_changed, database=database,
            clock=SystemClock(),
        )  # fmt: skip
        with (
            served(create_app(deps)) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client,
        ):
            yield client


LOGINS = Path(__file__).resolve().parents[2] / "examples" / "logins" / "pipeline.yaml"


def keys(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["keys", *arguments, "--reason", "x", "--json"])
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def test_a_key_opens_until_it_is_revoked(url: str) -> None:
    root = new_key()
    with opened(url, api_key=SecretStr(root)) as client:

        def status(key: str) -> int:
            return client.get("/v1/verdicts", headers=bearer(key)).status_code

        made = keys("create", "console", "--role", "viewer")
        eventually("the key is known", lambda: status(made["secret"]) == 200)
        successor = keys("rotate", made["key"]["id"], "--overlap", "1h")
        eventually("both are good", lambda: status(successor["secret"]) == status(made["secret"]) == 200)
        keys("revoke", made["key"]["id"])
        eventually("the old one is not", lambda: status(made["secret"]) == 401)
        assert status(successor["secret"]) == 200

        # made over HTTP
        wanted = {"name": "a", "scopes": ["verdicts:read"], "reason": "x"}
        answer = client.post("/v1/keys", json=wanted, headers=bearer(root))
        assert answer.status_code == 201, answer.text
        made_here = answer.json()["secret"]
        eventually("the key made here is known", lambda: status(made_here) == 200)
        gone = client.post(
            f"/v1/keys/{answer.json()['key']['id']}:revoke", json={"reason": "x"}, headers=bearer(root)
        )
        assert gone.status_code == 200
        eventually("the key revoked here is not", lambda: status(made_here) == 401)
        assert client.get("/v1/verdicts").status_code == 401


def test_a_key_of_another_tenant_in_the_same_database_opens_no_route(url: str) -> None:
    others = keys("create", "other", "--role", "admin", "--pipeline", str(LOGINS))["secret"]
    ours = keys("create", "ours", "--role", "admin")["secret"]
    tried = 0
    with opened(url) as client:

        def refused(method: str, path: str) -> None:
            def code() -> str:
                found: str = client.request(method, path, headers=bearer(others)).json()["code"]
                # 503: this machine was too busy to ask the database in time
                assert found in {"unauthenticated", "unavailable"}, path
                return found

            eventually("it is refused", lambda: code() == "unauthenticated")

        for route in routes_of(create_app(World().deps).routes):
            if needed(route) is not None:
                for method, path in requests(route):
                    refused(method, path)
                    tried += 1
        assert tried >= 17
        mine = client.get("/v1/keys", headers=bearer(ours)).json()["keys"]
        assert [key["name"] for key in mine] == ["ours"]
        theirs = others.split("_")[1]
        gone = client.post(f"/v1/keys/{theirs}:revoke", json={"reason": "x"}, headers=bearer(ours))
        assert (gone.status_code, gone.json()["code"]) == (404, "no-such-key")
