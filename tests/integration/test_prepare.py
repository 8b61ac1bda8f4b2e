"""`prepare`, and runs on what it wrote."""

import json

import pytest

from lsec_jax.data.sources import lsec, prepared
from tests import runs
from tests.integration.test_cli import CSV_CONFIG, write_csv, write_published


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsec_jax.training.plots.draw", lambda *args: None)
    return tmp_path


def metrics(workdir):
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    return {(row["model"], row["split"], row["protocol"]): row["metrics"] for row in rows}


def prepared_config(text):
    """The same run on the prepared directory."""
    return text.replace(
        "    return config\n", '    config.data = prepared.Config("prepared")\n    return config\n'
    ).replace("\ndef get_config", "from lsec_jax.data.sources import prepared\n\n\ndef get_config")


LSEC_CONFIG = """
from lsec_jax.data.sources import lsec
from tests.runs import tiny_config


def get_config():
    config = tiny_config(num_steps=4)
    config.data = lsec.Config("published")
    return config
"""

WORLD_CONFIG = """
from tests.runs import tiny_config


def get_config():
    config = tiny_config(num_steps=4)
    return config
"""


@pytest.mark.parametrize("kind", ["csv", "lsec", "world"])
def test_a_run_on_prepared_data_is_the_run_on_its_source_bit_for_bit(here, kind):
    if kind == "csv":
        write_csv(runs.tiny_world().load(), here / "data")
    if kind == "lsec":
        write_published(runs.tiny_world().load(), here / "published")
    text = {"csv": CSV_CONFIG, "lsec": LSEC_CONFIG, "world": WORLD_CONFIG}[kind]
    (here / "direct.py").write_text(text)
    (here / "mapped.py").write_text(prepared_config(text))
    result = runs.command("prepare", "--config=direct.py", "--output=prepared")
    assert result.code == 0 and "| relation buy: user - item | 700 |" in result.out, result
    for name in ("direct", "mapped"):
        result = runs.command("train", f"--config={name}.py", f"--workdir={name}")
        assert result.code == 0, result
    assert metrics(here / "direct") == metrics(here / "mapped")
    first, second = (json.loads((here / name / "data.json").read_text()) for name in ("direct", "mapped"))
    assert first == second
    evaluated = runs.command("evaluate", "--workdir=mapped", "--split=test", "--protocol=candidates")
    assert evaluated.code == 0, evaluated


def test_a_directory_that_cannot_be_used_is_refused_before_anything_is_written(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    assert "no manifest.json here" in runs.refusal("train", "--config=mapped.py", "--workdir=run")
    assert not (here / "run").exists()
    assert "not empty, and not begun by `prepare`" in runs.refusal("prepare", "--config=direct.py", "--output=.")
    assert "--output" in runs.refusal("prepare", "--config=direct.py")
    assert runs.command("prepare", "--config=direct.py", "--output=prepared").code == 0
    column = here / "prepared" / "relations" / "buy" / "target_ids.npy"
    column.write_bytes(column.read_bytes()[:-1])
    assert "target_ids.npy: cut or damaged" in runs.refusal("train", "--config=mapped.py", "--workdir=run")
    assert not (here / "run").exists()


def test_prepared_data_keep_their_own_candidate_lists(here):
    write_published(runs.tiny_world().load(), here / "published")
    (here / "direct.py").write_text(LSEC_CONFIG)
    assert runs.command("prepare", "--config=direct.py", "--output=prepared").code == 0
    found = prepared.Config("prepared").load().candidates
    assert found.keys() == lsec.Config("published").load().candidates.keys() and found


def test_a_run_with_another_split_or_other_tasks_than_the_prepared_ones_is_refused(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    assert runs.command("prepare", "--config=direct.py", "--output=prepared").code == 0
    train = ("train", "--config=mapped.py", "--workdir=run")
    other = ("--config.split.seed=1", "--config.split.method=time", "--config.model.tasks[0].relation=follow")
    message = runs.refusal(*train, *other, "--config.model.relations=('follow',)")
    for line in ('config.split.method: "auto" -> "time"', "config.split.seed: 0 -> 1", 'tasks: ["buy"] -> ["follow"]'):
        assert line in message
    assert "lsec_jax.prepare` with this config's source into another directory" in message
    assert not (here / "run").exists()
    assert runs.command(*train, "--config.split.method=given").code == 0


def test_a_leave_one_out_run_passes_its_audit_on_its_source_and_on_prepared_data(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    method = "--config.split.method=leave_one_out"
    assert runs.command("prepare", "--config=direct.py", "--output=prepared", method).code == 0
    for name in ("direct", "mapped"):
        result = runs.command("train", f"--config={name}.py", f"--workdir={name}", method, "--audit")
        assert result.code == 0, result
    assert metrics(here / "direct") == metrics(here / "mapped")
