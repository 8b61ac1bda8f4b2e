import json
import re
import runpy
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pa_parquet
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.sources import lsec
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, VALIDATION
from tests import runs, stand_ins

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
ON_REAL_DATA = [path for path in CONFIGS if "LSEC_JAX_DATA" in path.read_text()]

CSV_CONFIG = """
from lsec_jax.data.sources import interactions
from tests.runs import tiny_config


def get_config():
    config = tiny_config(num_steps=2)
    specs = [
        interactions.RelationSpec(n, s, t, f"{n}.csv", s, t, time_column="time")
        for n, s, t in (("buy", "user", "item"), ("follow", "user", "streamer"))
    ]
    config.data = interactions.Config("data", tuple(specs))
    return config
"""

LSEC_CONFIG = """
from lsec_jax.data.sources import lsec
from tests.runs import tiny_config


def get_config():
    config = tiny_config(num_steps=2)
    config.data = lsec.Config("published")
    return config
"""


@pytest.fixture(scope="module")
def world():
    return runs.tiny_world().load()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr("lsec_jax.training.plots.draw", lambda *args: None)


def write_csv(world, folder):
    folder.mkdir()
    for name in ("buy", "follow"):
        relation = world.relations[name]
        ends = [world.nodes[end].ids for end in (relation.source, relation.target)]
        rows = zip(ends[0][relation.source_ids], ends[1][relation.target_ids], relation.time, strict=True)
        lines = [f"{relation.source},{relation.target},time", *(f"{a},{b},{float(t)!r}" for a, b, t in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def write_lightgcn_text(world, folder):
    """Purchases as lines of a user and its items; every fifth one for testing."""
    folder.mkdir(parents=True)
    relation = world.relations["buy"]
    is_test = np.arange(len(relation)) % 5 == 0
    for name, rows in (("train", ~is_test), ("test", is_test)):
        lines = [
            " ".join(map(str, [user, *relation.target_ids[rows & (relation.source_ids == user)]]))
            for user in range(len(world.nodes["user"]))
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_published(world, folder):
    data = assign_splits(world, SplitConfig(), ("buy",))
    lists = {("buy", split): generate_candidates(data, "buy", split, 15, 0) for split in (VALIDATION, TEST)}
    lsec.write(data, folder, candidates=lists)


def test_train_evaluate_recommend(here):
    """One run, from a config file to recommendations, with everything it leaves behind."""
    (here / "tiny.py").write_text(runs.CONFIG_FILE)
    overrides = (
        "--config.training.num_steps=4",
        "--config.evaluation.protocols=candidates",
        "--config.evaluation.protocols=full_ranking",
    )
    trained = runs.command("train", "--config=tiny.py", "--workdir=run", *overrides)
    assert trained.code == 0 and "| oracle |" in trained.out, trained
    for name in ("config.json", "metrics.jsonl", "report.json", "report.md", "plots/training.png"):
        assert (here / "run" / name).stat().st_size > 0
    assert list((here / "run" / "tensorboard").iterdir()) and (here / "run" / "checkpoints" / "4").is_dir()
    report = json.loads((here / "run" / "report.json").read_text())
    assert json.loads((here / "run" / "config.json").read_text())["training"]["num_steps"] == 4

    shutil.move("tiny.py", "gone.py")  # evaluation needs the workdir only
    for split in ("validation", "test"):
        for protocol in ("candidates", "full_ranking"):
            result = runs.command("evaluate", "--workdir=run", f"--split={split}", f"--protocol={protocol}")
            assert result.code == 0, result
            rows = json.loads((here / "run" / f"evaluation_{split}_{protocol}.json").read_text())["rows"]
            wanted = [r for r in report["rows"] if (r["split"], r["protocol"]) == (split, protocol)]
            assert rows[0]["metrics"] == wanted[0]["metrics"] and rows[0]["model"] == wanted[0]["model"]
            assert f"{rows[0]['metrics']['ndcg@10']:.4f}" in result.out

    result = runs.command("recommend", "--workdir=run", "--k=3", "--output=r.parquet", "--export_embeddings=vectors")
    assert result.code == 0, result
    table = pa_parquet.read_table("r.parquet")
    assert table.column_names == ["user_id", "rank", "item_id", "score", "source"] and len(table) == 60 * 3
    assert (here / "vectors" / "user.npy").exists()

    for arguments, expected in (
        (("--output=r.xlsx",), "unknown ending; use one of .parquet, .csv, .tsv"),
        (("--output=nowhere/r.csv",), "the folder nowhere does not exist"),
        (("--output=r.csv", "--users=nobody.txt"), "--users=nobody.txt: no such file"),
        (("--output=r.csv", "--k=0"), "--k=0"),
        (("--output=r.csv", "--export_embeddings=vectors"), "not empty"),
        (("--output=r.csv", "--data=elsewhere"), "has no path"),
        ((), "output"),
    ):
        assert expected in runs.refusal("recommend", "--workdir=run", *arguments)
    assert not (here / "r.csv").exists()
    assert "elsewhere" in runs.refusal("evaluate", "--workdir=run", "--output=elsewhere/e.json")
    assert "top" in runs.refusal("evaluate", "--workdir=run", "--split=top")
    message = runs.refusal("train", "--config=gone.py", "--workdir=run", *overrides[1:])
    assert "config.training.num_steps: 4 -> 8" in message

    shutil.rmtree(here / "run" / "checkpoints" / "4" / "state")
    shutil.rmtree(here / "run" / "checkpoints" / "2", ignore_errors=True)
    assert re.search(r"checkpoints/4: damaged \(.*state", runs.refusal("evaluate", "--workdir=run"))
    shutil.rmtree(here / "run" / "checkpoints")
    assert "no checkpoints here; train first" in runs.refusal("evaluate", "--workdir=run")


def test_an_audited_run_trains_and_one_whose_negatives_are_positives_is_refused(here, world, without_pictures, caplog):
    write_published(world, here / "published")
    (here / "own.py").write_text(LSEC_CONFIG)
    result = runs.command("train", "--config=own.py", "--workdir=run", "--audit")
    assert result.code == 0 and "nothing leaks" in caplog.text, result
    folder = here / "published"
    rows = [line.split("\t") for line in (folder / "test" / "user-item-buy.tsv").read_text().splitlines()]
    bought = dict(
        line.split("\t")[:2] for line in (folder / "train" / "user-item-buy.tsv").read_text().splitlines()[1:]
    )
    negative = next(row for row in rows[1:] if row[2] == "0" and row[0] in bought)
    negative[1] = bought[negative[0]]
    (folder / "test" / "user-item-buy.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    assert "1 negatives are edges" in runs.refusal("train", "--config=own.py", "--workdir=leaky", "--audit")
    assert not (here / "leaky").exists()


def test_a_diverged_run_is_refused_and_its_last_checkpoint_evaluates(here, monkeypatch, without_pictures):
    (here / "tiny.py").write_text(runs.CONFIG_FILE)
    from lsec_jax.training import base_run, state

    make = state.make_train_step

    def diverging(*args):
        step = make(*args)

        def poisoned(old, inputs, batch):
            new, metrics = step(old, inputs, batch)
            return new, {**metrics, "loss": metrics["loss"] + jnp.where(new.step == 5, jnp.nan, 0.0)}

        return poisoned

    monkeypatch.setattr(base_run, "make_train_step", diverging)
    message = runs.refusal("train", "--config=tiny.py", "--workdir=run")
    assert "step 5: loss is not finite" in message and "step 4 is intact" in message
    assert runs.command("evaluate", "--workdir=run").code == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_tiny_variant_of_every_config_trains_two_steps(path, world, here, without_pictures, monkeypatch):
    write_lightgcn_text(world, here / "real" / "gowalla")
    for name, write in stand_ins.WRITERS.items():
        write(world, here / "real" / name)
    stand_ins.write_kuailive(world, here / "kuailive")  # whose config names the folder, as no other place has it
    monkeypatch.setenv("LSEC_JAX_DATA", str(here / "real"))
    train_two_steps(path)
    assert "unknown variant ':huge'" in runs.refusal("train", f"--config={path}:huge")


@pytest.mark.slow
@pytest.mark.parametrize("path", ON_REAL_DATA, ids=lambda path: path.stem)
def test_the_tiny_variant_trains_two_steps_on_the_real_data(path, data_dir, here, without_pictures):
    train_two_steps(path)


def train_two_steps(path):
    protocols = runpy.run_path(str(path))["get_config"]("tiny").evaluation.protocols
    protocol = "impressions" if "impressions" in protocols else "candidates"
    overrides = ("training.num_steps=2", "training.evaluate_every=2", f"evaluation.protocols={protocol}")
    metric = "auc"  # what every protocol list can pick by once it is cut to one
    result = runs.command(
        "train",
        f"--config={path}:tiny",
        "--workdir=run",
        f"--config.training.metric={metric}",
        "--config.evaluation.baselines=('popularity',)",
        *(f"--config.{override}" for override in overrides),
    )
    assert result.code == 0, result.err


@pytest.mark.parametrize("kind", ["interactions", "lsec"])
def test_training_from_files(world, here, without_pictures, kind):
    if kind == "interactions":
        write_csv(world, here / "data")
        (here / "config.py").write_text(CSV_CONFIG)
    else:
        write_published(world, here / "published")
        (here / "config.py").write_text(LSEC_CONFIG)
    result = runs.command("train", "--config=config.py", "--workdir=run")
    assert result.code == 0 and "| popularity |" in result.out, result
    shutil.move("data" if kind == "interactions" else "published", "moved")
    assert runs.refusal("evaluate", "--workdir=run")
    moved = runs.command("evaluate", "--workdir=run", "--data=moved")
    assert moved.code == 0, moved.err
    first = json.loads((here / "run" / "report.json").read_text())["rows"]
    rows = json.loads((here / "run" / "evaluation_test_candidates.json").read_text())["rows"]
    assert rows[0]["metrics"] == next(r for r in first if r["split"] == "test")["metrics"]


def damage_csv(folder, case):
    path = folder / "buy.csv"
    text = path.read_text()
    if case == "missing file":
        path.unlink()
    elif case == "cut file":
        path.write_text(text[: text.rindex(",", 0, len(text) - 2)].rstrip("0123456789"))
    elif case == "wrong column":
        path.write_text(text.replace("user,item,time", "user,product,time", 1))
    elif case == "empty file":
        path.write_text("")
    elif case == "header only":
        path.write_text("user,item,time\n")
    elif case == "bad time":
        path.write_text(
            re.sub(r",[^,]*\n", ",yesterday\n", text, count=2).replace("user,item,yesterday", "user,item,time")
        )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("missing file", r"buy\.csv"),
        ("cut file", r"buy\.csv.*(row|line) "),
        ("wrong column", r"buy\.csv.*'item'"),
        ("empty file", r"buy\.csv"),
        ("header only", r"buy"),
        ("bad time", r"buy\.csv.*time.*yesterday"),
    ],
)
def test_bad_csv_files_end_in_one_message_and_no_workdir(world, here, case, expected):
    write_csv(world, here / "data")
    (here / "config.py").write_text(CSV_CONFIG)
    damage_csv(here / "data", case)
    message = runs.refusal("train", "--config=config.py", "--workdir=run")
    assert re.search(expected, message, re.DOTALL) and len(message) < 700, message
    assert not (here / "run").exists()


def test_a_relation_or_column_that_the_data_lacks_is_named(world, here):
    write_csv(world, here / "data")
    (here / "config.py").write_text(CSV_CONFIG)
    for override, expected in (
        ("--config.model.relations=buy,sell", "--config.model.relations=buy --config.model.relations=sell"),
        ("--config.model.relations=('buy','sell')", "relation 'sell' is not in data set 'data'; it has: buy, follow"),
        ("--config.model.tasks[0].relation=sell", "relation 'sell' is not in data set"),
        ("--config.data.relations[0].source_column=usr", "usr"),
        ("--config.data.relations[0].path=bye.csv", "bye.csv"),
        ("--config.data.path=elsewhere", "elsewhere"),
        ("--config.model.edge_weights=true", "has no weights"),
        ("--config.split.method=given", "gives no split"),
        ("--config.model.predictor=dott", "'dott'"),
    ):
        message = runs.refusal("train", "--config=config.py", "--workdir=run", override)
        assert expected in message and len(message) < 700, message
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("column", "value", "expected"), [(2, "2", "label"), (1, "-4", "-4"), (1, "999999", "999999"), (1, "x", "x")]
)
def test_bad_candidate_lists_are_named_by_file_and_row(world, here, column, value, expected):
    write_published(world, here / "published")
    (here / "config.py").write_text(LSEC_CONFIG)
    path = here / "published" / "test" / "user-item-buy.tsv"
    lines = path.read_text().splitlines()
    cells = lines[7].split("\t")
    cells[column] = value
    path.write_text("\n".join([*lines[:7], "\t".join(cells), *lines[8:]]) + "\n")
    message = runs.refusal("train", "--config=config.py", "--workdir=run")
    assert path.name in message and expected in message and re.search(r"(row|line) (7|8)\b", message), message
    assert not (here / "run").exists()


AVAILABLE_CONFIG = CSV_CONFIG.replace(
    """tuple(specs))
""",
    """tuple(specs), availability=(interactions.AvailabilitySpec("item", "items.csv"),))
""",
)


def test_items_with_windows_train_evaluate_and_are_recommended_at_a_time(here, world, without_pictures, caplog):
    write_csv(world, here / "data")
    items = world.nodes["item"].ids.tolist()
    windows = [(0, 30) if i % 2 else (20, "") for i in range(len(items))]
    lines = [f"{name},{start},{end}" for name, (start, end) in zip(items, windows, strict=True)]
    (here / "data" / "items.csv").write_text("id,start,end\n" + "\n".join(lines) + "\n")
    (here / "config.py").write_text(AVAILABLE_CONFIG)
    result = runs.command("train", "--config=config.py", "--workdir=w")
    assert result.code == 0, result.err
    assert (
        json.loads((here / "w" / "data.json").read_text())["counts"]["buy: edges while the item is not available"] > 0
    )
    assert runs.command("evaluate", "--workdir=w", "--protocol=full_ranking").code == 0
    report = json.loads((here / "w" / "evaluation_test_full_ranking.json").read_text())
    assert "20 that are not available in the period" in json.dumps(report)
    for time, left in (("10", 1), ("40", 0)):
        caplog.clear()
        assert runs.command("recommend", "--workdir=w", f"--at={time}", "--output=r.parquet").code == 0
        assert f"--at={time} ({time}.0): {len(items) // 2} of {len(items)} items available" in caplog.text
        found = set(pa_parquet.read_table("r.parquet").to_pydict()["item_id"])
        assert found <= {name for i, name in enumerate(items) if i % 2 == left}
    assert runs.command("recommend", "--workdir=w", "--k=40", "--output=all.parquet").code == 0
    assert set(pa_parquet.read_table("all.parquet").to_pydict()["item_id"]) == set(items)
    message = runs.refusal("recommend", "--workdir=w", "--at=yesterday", "--output=r.parquet")
    assert message == (
        "--at=yesterday: neither a number nor an ISO 8601 date such as 2021-05-01 or 2021-05-01T20:15:00"
    )
    message = runs.refusal("recommend", "--workdir=w", "--at=2024-05-01", "--output=r.parquet")
    assert message.startswith(
        "--at=2024-05-01: a date, but this data's times are numbers; windows start at 0.0 to 20.0"
    )
