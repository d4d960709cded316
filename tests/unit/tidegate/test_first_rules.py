"""The files with rules that a pipeline file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domain.errors import RulesInvalid
from tests.unit.api.fakes import PIPELINE_TEXT
from tidegate.cli import app
from tidegate.loading import load
from tidegate.rules import first_rules


def written(folder: Path, *files: str) -> Path:
    names = [f"rules{number}.yaml" for number in range(len(files))]
    for name, text in zip(names, files, strict=True):
        (folder / name).write_text(text)
    pipeline = folder / "pipeline.yaml"
    pipeline.write_text(f"{PIPELINE_TEXT}rules: [{', '.join(names)}]\n")
    return pipeline


BIG = "rules: [{id: big, when: amount > 900.0, action: block}]"


def test_the_rules_of_all_files_come_together(tmp_path: Path) -> None:
    file = written(tmp_path, BIG, "rules: [{id: small, when: amount < 1.0, action: review}]")
    rules, typologies = first_rules(load(file), file)
    assert ([rule.id for rule in rules], typologies) == (["big", "small"], ())


@pytest.mark.parametrize("second", [BIG, "rules: [{id: x, when: amunt > 1.0, action: block}]", "rules: ["])
def test_check_names_what_is_wrong_in_them(tmp_path: Path, second: str) -> None:
    file = written(tmp_path, BIG, second)
    with pytest.raises(RulesInvalid):
        first_rules(load(file), file)
    found = CliRunner().invoke(app, ["pipeline", "check", str(file), "--json", "--no-measure"])
    assert found.exit_code == 1
    [problem] = json.loads(found.stdout)["problems"]
    assert problem["reason"]
    assert problem["remedy"]
