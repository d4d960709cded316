"""Settings decide who gets in; and off loopback nothing listens that lets everybody in."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from api.access import EverybodyOnThisMachine
from api.keys import KeyAccess
from domain.clock import ManualClock
from domain.errors import Fatal
from lifecycle.database import Database
from lifecycle.keys import new_key
from tidegate.api_process import api
from tidegate.entrance import entrance_of, is_loopback
from tidegate.settings import Settings


def no_database() -> Database:
    raise AssertionError("nobody asked yet")


def access(**settings: Any) -> object:
    found = Settings(**settings)
    return entrance_of(found, "payments", no_database, ManualClock(), CollectorRegistry()).access


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("api.internal", False),
        ("", False),
    ],
)
def test_without_authentication_only_loopback_listens(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    if local:
        assert isinstance(access(api_host=host), EverybodyOnThisMachine)
    else:
        with pytest.raises(Fatal, match="let everybody in") as error:
            access(api_host=host)
        assert "TIDEGATE_API_KEY" in error.value.remedy
    assert isinstance(access(api_host=host, api_auth=True), KeyAccess)
    assert isinstance(access(api_host=host, api_key=SecretStr(new_key())), KeyAccess)
    assert isinstance(access(api_host=host, api_open=True), EverybodyOnThisMachine)


def test_open_and_guarded_at_once_is_refused() -> None:
    with pytest.raises(Fatal, match="TIDEGATE_API_OPEN"):
        access(api_open=True, api_auth=True)


def test_the_process_refuses_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # neither Kafka nor Redis is there: it would fail otherwise if it came that far
    settings = Settings(api_host="0.0.0.0", state_dir=tmp_path / "state", kafka_bootstrap="127.0.0.1:1")
    with pytest.raises(Fatal, match="let everybody in"):
        api(settings, threading.Event())
    assert not (tmp_path / "state").exists()


def test_a_key_of_the_environment_is_not_shown() -> None:
    key = new_key()
    assert key not in repr(Settings(api_key=SecretStr(key)))
    with pytest.raises(Fatal, match="TIDEGATE_API_KEY is no key") as error:
        access(api_key=SecretStr("hunter2"))
    assert "hunter2" not in str(error.value)
