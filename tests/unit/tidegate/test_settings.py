"""Secrets of a machine that nobody configured."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from domain.errors import Fatal
from lifecycle.model_keys import ModelKey
from tidegate.settings import Settings


def test_a_machine_makes_its_model_key_once_and_trusts_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Settings(state_dir=tmp_path).signing_key().public, range(16)))
    assert len(set(made)) == 1
    assert stat.S_IMODE((tmp_path / "model.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["model.key"]
    trusted = Settings(state_dir=tmp_path).trusted_models()
    assert trusted.holds(ModelKey.parse((tmp_path / "model.key").read_text()).key_id)


def test_configured_keys_come_before_the_machines(tmp_path: Path) -> None:
    key, other = ModelKey.generate(), ModelKey.generate()
    settings = Settings(
        state_dir=tmp_path, model_key=SecretStr(key.secret()), model_trusted=f"{other.public},{key.public}"
    )
    assert settings.signing_key().public == key.public
    assert settings.trusted_models().holds(other.key_id)
    assert list(tmp_path.iterdir()) == []
    assert key.secret() not in repr(settings)
    only_other = Settings(state_dir=tmp_path, model_trusted=other.public)
    assert not only_other.trusted_models().holds(only_other.signing_key().key_id)


def test_a_spoilt_key_file_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "model.key").write_text("oops")
    with pytest.raises(Fatal, match=r"model\.key in TIDEGATE_STATE_DIR") as error:
        Settings(state_dir=tmp_path).signing_key()
    assert "oops" not in str(error.value)


def test_the_privacy_key_is_made_once_too(tmp_path: Path) -> None:
    first, second = (Settings(state_dir=tmp_path).protector() for _ in range(2))
    assert first.protect("4929") == second.protect("4929")
    assert stat.S_IMODE((tmp_path / "privacy.key").stat().st_mode) == 0o600


def test_the_database_is_a_file_of_the_machine_unless_configured(tmp_path: Path) -> None:
    assert Settings(state_dir=tmp_path).database() == f"sqlite:///{tmp_path}/tidegate.sqlite"
    url = "postgresql://u:topsecret@h/d"
    settings = Settings(state_dir=tmp_path, database_url=SecretStr(url))
    assert settings.database() == url
    assert "topsecret" not in repr(settings)
