"""`prepare`, and runs on what it wrote."""

import json
import runpy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsec_jax.data.sources import lsec, prepared
from lsec_jax.training import run
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


LOG_CONFIG = """
from lsec_jax.config import HistoryConfig
from lsec_jax.data.sources.interactions import ColumnSpec, Config, EventSpec, RelationSpec, RoleSpec
from tests.runs import tiny_config


def get_config():
    config = tiny_config(num_steps=4)
    buy = RelationSpec("buy", "user", "item", "buy.csv", "user", "item", "time")
    shown = EventSpec(
        "impression",
        "shown.csv",
        (RoleSpec("user"), RoleSpec("streamer")),
        columns=(ColumnSpec("watched", kind="label"), ColumnSpec("stay", kind="measure"), ColumnSpec("scene")),
    )
    config.data = Config("log", (buy,), events=(shown,))
    config.histories = (HistoryConfig("watches", where="watched", length=5),)
    return config
"""


@pytest.fixture
def log(here):
    rng = np.random.default_rng(0)
    (here / "log").mkdir()
    n = 3_000
    shown = [rng.integers(0, 40, n), rng.integers(0, 9, n), rng.random(n), rng.integers(0, 2, n), rng.random(n)]
    rows = zip(*(values.tolist() for values in shown), strict=True)
    lines = [",".join(map(repr, row)) + f",{('feed', 'search', '')[i % 3]}\n" for i, row in enumerate(rows)]
    (here / "log" / "shown.csv").write_text("user,streamer,time,watched,stay,scene\n" + "".join(lines))
    bought = zip(rng.integers(0, 40, 600).tolist(), rng.integers(0, 50, 600).tolist(), rng.random(600), strict=True)
    lines = [f"{user},{item},{time}\n" for user, item, time in bought]
    (here / "log" / "buy.csv").write_text("user,item,time\n" + "".join(lines))
    (here / "direct.py").write_text(LOG_CONFIG)
    (here / "mapped.py").write_text(prepared_config(LOG_CONFIG))
    return here


def test_a_prepared_log_has_the_events_splits_and_histories_of_the_source(log):
    result = runs.command("prepare", "--config=direct.py", "--output=prepared", "--memory_gib=0.1")
    assert result.code == 0 and "| events impression | 3000 |" in result.out, result
    direct, mapped = (run.prepare(runpy.run_path(f"{name}.py")["get_config"]()).data for name in ("direct", "mapped"))
    assert direct.fingerprint() == mapped.fingerprint()
    assert np.bincount(direct.events["impression"].split).min() > 0
    one, other = direct.histories["watches"], mapped.histories["watches"]
    for name in ("starts", "items", "times", "rows"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.ends["impression"], other.ends["impression"])
    assert isinstance(other.items, np.memmap) and isinstance(mapped.events["impression"].time, np.memmap)
    statistics = json.loads((log / "prepared" / "manifest.json").read_text())["statistics"]
    shown = direct.events["impression"]
    train = shown.split == 0
    stay = statistics["events"]["impression"]["values"]["stay"]
    assert stay["mean"] == pytest.approx(shown.value("stay")[train].mean(dtype=float), rel=1e-6)
    assert stay["standard_deviation"] == pytest.approx(shown.value("stay")[train].std(dtype=float), rel=1e-6)
    scene = statistics["events"]["impression"]["features"]["scene"]
    codes = shown.features["scene"].values[train]
    assert scene == {"defined": pytest.approx((codes >= 0).mean()), "counts": np.bincount(codes[codes >= 0]).tolist()}
    lengths = one.ends["impression"] - one.starts[shown.ids("user")]
    assert statistics["histories"]["watches"]["moments"]["impression"]["length"] == pytest.approx(lengths.mean())


def with_scenarios(log, kind):
    """Adds a tree of the scenes, as text or Parquet, and its spec."""
    paths = [["feed", "C2C", "Sharing", "Feed", ""], ["search", "C2C", "Sharing", "Search", "Results"]]
    header = ["id", "level_1", "level_2", "level_3", "level_4"]
    if kind == "csv":
        (log / "log" / "paths.csv").write_text("".join(",".join(row) + "\n" for row in [header, *paths]))
    else:
        columns = {name: [row[i] or None for row in paths] for i, name in enumerate(header)}
        pq.write_table(pa.table(columns), log / "log" / "paths.parquet")
    tree = f'TreeSpec("scenario", "paths.{kind}", level_columns={tuple(header[1:])})'
    for name in ("direct", "mapped"):
        text = (log / f"{name}.py").read_text().replace("RoleSpec\n", "RoleSpec, TreeSpec\n")
        text = text.replace('RoleSpec("streamer"))', 'RoleSpec("streamer"), RoleSpec("scenario", "", "scene", True))')
        text = text.replace(', ColumnSpec("scene")', "").replace(
            "events=(shown,))", f"events=(shown,), trees=({tree},))"
        )
        (log / f"{name}.py").write_text(text)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_prepared_log_has_the_tree_of_the_source(log, kind):
    with_scenarios(log, kind)
    result = runs.command("prepare", "--config=direct.py", "--output=prepared")
    assert result.code == 0 and "| tree of scenario | 5 | - | - |" in result.out, result
    assert "| nodes scenario | 5 |" in result.out
    direct, mapped = (run.prepare(runpy.run_path(f"{name}.py")["get_config"]()).data for name in ("direct", "mapped"))
    assert direct.fingerprint() == mapped.fingerprint()
    expected = ["C2C", "C2C>Sharing", "C2C>Sharing>Search", "feed", "search"]
    assert sorted(mapped.nodes["scenario"].ids.tolist()) == sorted(expected)


def test_what_is_wrong_with_a_tree_is_refused_before_anything_is_written(log):
    with_scenarios(log, "csv")
    with (log / "log" / "paths.csv").open("a") as stream:
        stream.write("home,C2C,,Home,\n")
    for flags in ((), ("--quarantine",)):
        message = runs.refusal("prepare", "--config=direct.py", "--output=prepared", *flags)
        assert "paths.csv, line 4, column 'level_2': empty value, but the path goes on" in message
    assert not (log / "prepared").exists()


def test_histories_that_were_prepared_otherwise_are_refused(log):
    assert runs.command("prepare", "--config=direct.py", "--output=prepared").code == 0
    text = (log / "mapped.py").read_text()
    (log / "mapped.py").write_text(text.replace("length=5", "length=6"))
    message = runs.refusal("train", "--config=mapped.py", "--workdir=run")
    assert "histories 'watches' of data set 'log' were prepared otherwise" in message and ".length: 5 -> 6" in message


def test_what_is_wrong_in_a_log_leaves_no_directory_behind(log):
    with (log / "log" / "shown.csv").open("a") as stream:
        stream.write("7,3,soon,1,1,feed\n7,,1,2,1,feed\n")
    message = runs.refusal("prepare", "--config=direct.py", "--output=prepared")
    for place in ("line 3002, column 'time': 'soon'", "line 3003, column 'streamer'", "line 3003, column 'watched'"):
        assert place in message
    assert not (log / "prepared").exists()
    result = runs.command("prepare", "--config=direct.py", "--output=prepared", "--quarantine")
    assert result.code == 0 and "| events impression | 3000 |" in result.out, result
    assert "column 'time': 1" in result.out
    assert "--output is empty" in runs.refusal("prepare", "--config=direct.py", "--output=")


def test_a_leave_one_out_run_passes_its_audit_on_its_source_and_on_prepared_data(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    method = "--config.split.method=leave_one_out"
    assert runs.command("prepare", "--config=direct.py", "--output=prepared", method).code == 0
    for name in ("direct", "mapped"):
        result = runs.command("train", f"--config={name}.py", f"--workdir={name}", method, "--audit")
        assert result.code == 0, result
    assert metrics(here / "direct") == metrics(here / "mapped")


def test_frozen_candidates_are_on_disk_and_are_the_ones_that_a_run_would_draw(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    assert runs.command("prepare", "--config=direct.py", "--output=prepared", "--freeze_candidates").code == 0
    assert (here / "prepared" / "candidates" / "buy.2" / "target_ids.npy").exists()
    for name in ("direct", "mapped"):
        result = runs.command("train", f"--config={name}.py", f"--workdir={name}", "--audit")
        assert result.code == 0, result
    assert metrics(here / "direct") == metrics(here / "mapped")
    message = runs.refusal("prepare", "--config=direct.py", "--output=prepared")
    assert "source.frozen_candidates" in message


def test_the_output_may_be_in_the_home_directory_and_a_relative_source_is_that_of_its_working_directory(
    log, monkeypatch
):
    monkeypatch.setenv("HOME", str(log))
    assert runs.command("prepare", "--config=direct.py", "--output=~/prepared").code == 0
    assert (log / "prepared" / "manifest.json").exists() and not (log / "~").exists()
    stored = json.loads((log / "prepared" / "manifest.json").read_text())["source"]["data"]["path"]
    assert stored == str(log / "log")
    (log / "elsewhere" / "log").mkdir(parents=True)
    monkeypatch.chdir(log / "elsewhere")
    assert "source.data.path" in runs.refusal("prepare", "--config=../direct.py", "--output=../prepared")


def test_a_config_that_asks_for_what_is_not_there_is_refused_before_a_log_is_read(log):
    (log / "log" / "shown.csv").unlink()
    (log / "log" / "buy.csv").unlink()
    wrong = (log / "direct.py").read_text().replace('where="watched"', 'where="wached"')
    (log / "direct.py").write_text(wrong)
    assert "no column 'wached'" in runs.refusal("prepare", "--config=direct.py", "--output=prepared")
    other = ("--config.model.tasks[0].relation=sell", "--config.model.relations=('sell',)")
    assert "relation 'sell'" in runs.refusal("prepare", "--config=direct.py", "--output=prepared", *other)
    assert not (log / "prepared").exists()


def test_a_run_that_asks_for_other_candidates_than_the_frozen_ones_is_refused(here):
    (here / "direct.py").write_text(WORLD_CONFIG)
    (here / "mapped.py").write_text(prepared_config(WORLD_CONFIG))
    assert runs.command("prepare", "--config=direct.py", "--output=prepared", "--freeze_candidates").code == 0
    for change, line in (
        ("num_candidates=15", "config.evaluation.num_candidates: 20 -> 15"),
        ("candidates_seed=4", "config.evaluation.candidates_seed: 0 -> 4"),
    ):
        given = f"--config.evaluation.{change}"
        message = runs.refusal("train", "--config=mapped.py", "--workdir=other", given)
        assert line in message and "--freeze_candidates" in message
        # A run that ranks no candidates has no use for them.
        full = ("--config.evaluation.protocols=('full_ranking',)", "--config.training.num_steps=2")
        result = runs.command("train", "--config=mapped.py", f"--workdir=full_{change}", given, *full)
        assert result.code == 0, result
    assert not (here / "other").exists()
