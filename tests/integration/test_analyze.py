"""`python -m lsec_jax.analyze` as a user runs it, with Figure 4 from three trained runs."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lsec_jax.models import ncf
from lsec_jax.training import fit
from tests import runs

CONFIG_FILE = """
from tests.integration.test_analyze import config_of


def get_config(variant=""):
    return config_of("gcn", **({"seed": 1} if variant == "other" else {}))
"""
SHOP_FILE = """
from lsec_jax.data.sources import interactions
from tests.runs import tiny_config

ENDS = (("buy", "user", "item"), ("follow", "user", "streamer"), ("sell", "streamer", "item"))


def get_config():
    config = tiny_config()
    specs = [interactions.RelationSpec(n, s, t, f"{{n}}.csv", f"{{s}}_id", f"{{t}}_id") for n, s, t in ENDS]
    config.data = interactions.Config({folder!r}, tuple(specs))
    return config
"""
TABLES = ("analysis.json", "analysis.md", "influence.png", "users.png", "items.png")
SMALL = ("--draws=20000", "--pairs=500")


def config_of(role, **changes):
    """A run of two steps on a world with few sales, so that streamers have items of their own."""
    config = runs.tiny_config(num_steps=2, evaluate_every=2)
    config.data = runs.tiny_world(num_follow=110, num_sell=60, **changes)
    if role == "ncf":
        config.model = ncf.Config(embedding_dim=4, mlp_dims=(8, 4))
    elif role == "lsec":
        config.model = dataclasses.replace(config.model, relations=("buy", "follow", "sell"))
    return config


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Returns {role: workdir} of trained runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsec_jax.training.plots.draw", lambda *args: None)
        for role in ("ncf", "gcn", "lsec"):
            fit.run(config_of(role), folder / role)
    return {role: folder / role for role in ("ncf", "gcn", "lsec")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG_FILE)
    return tmp_path


def test_an_analysis_writes_tables_and_pictures_and_replaces_an_earlier_one(here, workdirs, caplog):
    trained = [f"--{role}={workdirs[role]}" for role in ("ncf", "gcn", "lsec")]
    result = runs.command("analyze", "--config=config.py", "--output=a/b", *SMALL, *trained)
    assert result.code == 0, result
    assert "pairs of users: " in caplog.text and "done in " in caplog.text
    assert {path.name for path in (here / "a/b").iterdir()} == {*TABLES, "figure4.json", "figure4.png"}
    for path in (here / "a/b").glob("*.png"):
        assert imread(path).std() > 0
    content = json.loads((here / "a/b/analysis.json").read_text())
    influence, truth = content["influence"], content["influence"]["truth"]
    assert influence["apart"]["pairs"] + influence["joined"]["pairs"] == 60 * 40
    assert influence["apart"]["purchases"] + influence["joined"]["purchases"] == 700
    assert truth["users"] == 60 and abs(truth["z_score"]) < 4
    assert influence["monte_carlo_ratio"]["mean"] == pytest.approx(influence["ratio"], rel=0.2)
    assert list(content["items"]["joined"]["cosine"]["quantiles"]) == ["0.98", "0.99", "0.999", "0.9999"]
    text = (here / "a/b/analysis.md").read_text()
    assert text in result.out and f"| {influence['joined']['pairs']} |" in text and f"{truth['ratio']:.3f}" in text

    again = runs.command("analyze", "--config=config.py:other", "--output=a/b", *SMALL)
    assert again.code == 0, again
    assert {path.name for path in (here / "a/b").iterdir()} == set(TABLES)  # no picture of the other data is left
    assert json.loads((here / "a/b/analysis.json").read_text())["data"] != content["data"]


def test_figure_4_has_the_points_and_scores_of_the_vectors(here, workdirs):
    from sklearn.metrics import silhouette_score

    from lsec_jax.training.run import prepare
    from lsec_jax.training.workdirs import load_config, restore_best

    trained = [f"--{role}={workdirs[role]}" for role in ("ncf", "gcn", "lsec")]
    assert runs.command("analyze", "--config=config.py", "--output=out", *SMALL, *trained).code == 0
    found = json.loads((here / "out/figure4.json").read_text())
    names = [streamer["id"] for streamer in found["streamers"]]
    assert len(names) == len(set(names)) >= 2
    roles = ("ncf", "gcn", "lsec", "lsec")
    for role, end, panel in zip(roles, ("user", "user", "user", "item"), found["panels"], strict=True):
        run = prepare(load_config(workdirs[role], None, ()))
        vectors = run.final_vectors(restore_best(run, workdirs[role])[0])[end]
        at = run.data.nodes[end].index_of(np.array(panel["ids"]))
        assert panel["silhouette"] == pytest.approx(silhouette_score(vectors[at], panel["streamers"]), abs=1e-5)
        relation = run.data.relations["follow" if end == "user" else "sell"]
        nodes, others = relation.source_ids, relation.target_ids
        if end == "item":
            nodes, others = others, nodes
        for node, name in zip(at, panel["streamers"], strict=True):
            linked = run.data.nodes["streamer"].ids[others[nodes == node]]
            assert [other for other in linked if other in names] == [name]
        assert min(panel["streamers"].count(name) for name in names) >= 5
        assert len(panel["x"]) == len(panel["y"]) == len(at) == panel["num_points"]


def test_what_cannot_be_analysed_is_refused_before_anything_is_written(here, workdirs, monkeypatch):
    (here / "full").mkdir()
    (here / "full/notes.txt").write_text("mine")
    (here / "theirs").mkdir()
    (here / "theirs/analysis.json").write_text('{"by": "somebody else"}')
    ncf_run, gcn_run, lsec_run = (workdirs[role] for role in ("ncf", "gcn", "lsec"))
    damaged = shutil.copytree(gcn_run, here / "damaged")
    shutil.rmtree(damaged / "checkpoints")
    for arguments, expected in (
        (("--output=full",), "--output=full: not empty, and holds no earlier analysis"),
        (("--output=theirs",), "--output=theirs: not empty, and holds no earlier analysis"),
        (("--output=config.py",), "--output=config.py: this is a file"),
        (("--output=config.py/out",), "config.py; choose another place"),
        ((), "output"),
        (("--output=out", "--purchase=bought"), "--purchase=bought: data set"),
        (("--output=out", "--sell=follow"), "--sell=follow: runs from user to streamer"),
        (("--output=out", "--draws=0"), "--draws=0"),
        (("--output=out", "--draws=1000000000000"), "is not an integer in the range [1, 10000000000]"),
        (("--output=out", "--pairs=1000000000"), "is not an integer in the range [1, 50000000]"),
        (("--output=out", "--config.data.num_follow=1"), "no two users have a streamer in common"),
        (("--output=out", f"--ncf={ncf_run}", f"--gcn={gcn_run}"), "--lsec missing: give all three or none"),
        (trained_on("nowhere", gcn_run, lsec_run), "nowhere: no config.json here"),
        (trained_on(gcn_run, gcn_run, lsec_run), "not of NCF for 'buy'"),
        (trained_on(ncf_run, lsec_run, lsec_run), "not of LSEC-GNN with the one relation 'buy'"),
        (trained_on(ncf_run, gcn_run, gcn_run), "not of LSEC-GNN with several relations"),
        (
            ("--config.data.seed=1", *trained_on(ncf_run, gcn_run, lsec_run)),
            f"the data differs from what {ncf_run} was trained on",
        ),
        (trained_on(ncf_run, damaged, lsec_run), "no checkpoints here; train first"),
    ):
        message = runs.refusal("analyze", "--config=config.py", *SMALL, *arguments)
        assert expected in message, (arguments, message)
        assert not (here / "out").exists()
    assert [path.name for path in (here / "full").iterdir()] == ["notes.txt"]

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    message = runs.refusal("analyze", "--config=config.py", *trained_on(ncf_run, gcn_run, lsec_run))
    assert "needs scikit-learn, which is optional: python -m pip install" in message


def trained_on(ncf_run, gcn_run, lsec_run):
    return "--output=out", f"--ncf={ncf_run}", f"--gcn={gcn_run}", f"--lsec={lsec_run}"


def test_files_without_times_or_truth_are_analysed_too(here):
    shop = Path(__file__).parents[1] / "fixtures" / "shop"
    (here / "shop.py").write_text(SHOP_FILE.format(folder=str(shop)))
    result = runs.command("analyze", "--config=shop.py", "--output=out", *SMALL, "--seed=3")
    assert result.code == 0 and "true probability" not in result.out, result
    assert "truth" not in json.loads((here / "out/analysis.json").read_text())["influence"]


def test_what_happens_in_rooms_is_analysed_where_there_are_impressions(here):
    live = "config.data.live = LiveConfig(num_impressions=3000)"
    (here / "live.py").write_text(
        "from lsec_jax.data.sources.live_world.config import LiveConfig\n"
        f"from tests.integration.test_analyze import config_of\n\n\ndef get_config():\n    config = config_of('gcn')\n"
        f"    {live}\n    return config\n"
    )
    arguments = ("--config=live.py", "--config.data.live.num_impressions=2000", "--output=out", *SMALL)
    result = runs.command("analyze", *arguments)
    assert result.code == 0 and "| impressions | 2000 |" in result.out, result
    assert {path.name for path in (here / "out").iterdir()} == {*TABLES, "live.png"}
    assert json.loads((here / "out/analysis.json").read_text())["live"]["impressions"] == 2000
    assert imread(here / "out/live.png").std() > 0
    assert runs.command("analyze", "--config=config.py", "--output=out", *SMALL).code == 0
    assert not (here / "out/live.png").exists()  # no picture of the other data is left
