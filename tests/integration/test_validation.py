"""Every command checks the data that it reads, once."""

import ast
from pathlib import Path

import pytest

from lsec_jax import schema
from tests import runs
from tests.integration.test_cli import CSV_CONFIG, write_csv

SOURCES = Path(schema.__file__).parents[1] / "data" / "sources"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """The data sets that were checked, by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsec_jax.training.plots.draw", lambda *args: None)
    write_csv(runs.tiny_world().load(), tmp_path / "data")
    Path("config.py").write_text(CSV_CONFIG)
    Path("world.py").write_text(runs.CONFIG_FILE)
    names, find_problems = [], schema.find_problems

    def count(data):
        names.append(data.name)
        return find_problems(data)

    monkeypatch.setattr(schema, "find_problems", count)
    return names


COMMANDS = (
    ("train", "--config=config.py", "--workdir=run", "--audit"),
    ("evaluate", "--workdir=run"),
    ("recommend", "--workdir=run", "--output=list.csv"),
    ("prepare", "--config=config.py", "--output=prepared"),
    ("analyze", "--config=world.py", "--output=analysis", "--draws=1000", "--pairs=1000"),
)


def test_every_command_validates_its_data_exactly_once(checked):
    for command in COMMANDS:
        checked.clear()
        result = runs.command(*command)
        assert result.code == 0, result
        assert len(checked) == 1, command


def test_sources_leave_the_checks_to_those_who_load():
    """A source that validates could not be quarantined; lsec.write is a boundary of its own."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "load":
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Attribute) and call.attr == "validate"]
                found += [path.name for call in calls if getattr(call.value, "id", "") != "self"]
    assert found == []
