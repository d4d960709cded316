"""The command line: every command is where its table says, and help needs none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tidegate.cli import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"{name} " in result.output


def test_a_misspelt_command_is_refused_with_the_one_that_was_meant() -> None:
    result = CliRunner().invoke(app, ["wroker"])
    assert result.exit_code == 2
    assert "worker" in result.output


def test_a_list_of_commands_loads_none_of_them() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from tidegate.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'numba', 'sklearn', 'confluent_kafka', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
