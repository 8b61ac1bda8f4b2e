"""`python -m lsec_jax.figures` as a user runs it, on three trained runs."""

import json
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from lsec_jax.event_metrics import EventMetrics
from lsec_jax.training import fit, scenario_groups, treems_figures
from lsec_jax.training.run import prepare
from lsec_jax.training.workdirs import load_config, restore_best
from tests import runs
from tests.event_runs import compiled_once  # noqa: F401 a fixture
from tests.training import tree_runs

pytestmark = pytest.mark.usefixtures("compiled_once")

PICTURES = ("figure5.png", "figure6.png", "figure7_8.png", "figure9.png")


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Returns {name: workdir} of trained runs: TREEMS with and without inconsistency loss, and two rivals."""
    folder = tmp_path_factory.mktemp("runs")
    models = {
        "treems": tree_runs.treems_model(),
        "without": tree_runs.treems_model(inconsistency_weight=0.0),
        "wdl": tree_runs.rival_model(),
        "blind": tree_runs.rival_model(has_scenario=False),
    }
    with runs.no_pictures():
        for name, model in models.items():
            fit.run(tree_runs.config(model), folder / name)
    return {name: folder / name for name in models}


def figures(workdirs, output, *arguments, beside=("without", "wdl", "blind")):
    rivals = ",".join(str(workdirs[name]) for name in beside)
    common = ("--plugin=tests", f"--workdir={workdirs['treems']}", f"--output={output}")
    return runs.command("figures", *common, *([f"--beside={rivals}"] if beside else []), *arguments)


@pytest.fixture(scope="module")
def drawn(workdirs, tmp_path_factory):
    """The output of the command for all runs, and what it printed."""
    output = tmp_path_factory.mktemp("drawn") / "out"
    result = figures(workdirs, output, "--min_requests=4")
    assert result.code == 0, result
    return output, result.out


LABELS = {"treems": "treems (treems)", "without": "treems (without)", "wdl": "wdl (wdl)", "blind": "wdl (blind)"}


def opened(workdirs, name):
    run = prepare(load_config(workdirs[name], None, ("tests",)), trains=False)
    return run, restore_best(run, workdirs[name])[0]


def test_the_output_has_all_pictures_the_page_that_links_them_and_their_numbers(drawn):
    output, printed = drawn
    assert {path.name for path in output.iterdir()} == {"figures.json", "figures.md", *PICTURES}
    text = (output / "figures.md").read_text()
    assert text in printed
    for name in PICTURES:
        assert imread(output / name).std() > 0 and f"]({name})" in text
    content = json.loads((output / "figures.json").read_text())
    assert list(content["models"]) == list(LABELS.values())
    assert "wdl (blind) has no field of the scenario" in text
    for figure in ("figure5", "figure6"):
        for of in content[figure]["scenarios"]:
            for label in LABELS.values():
                assert f"{of['models'][label]['auc']['value']:.4f}" in text


def test_figures_5_and_6_have_the_metrics_of_each_scenario_alone(drawn, workdirs):
    content = json.loads((drawn[0] / "figures.json").read_text())
    groups = scenario_groups.scenarios_of(treems_figures._evaluator(opened(workdirs, "treems")[0], "scenario"))
    of_figure = {"figure5": content["figure5"]["scenarios"], "figure6": content["figure6"]["scenarios"]}
    for name in ("treems", "wdl"):
        run, state = opened(workdirs, name)
        events = run.data.events["share"]
        rows = np.flatnonzero(events.split == 2)
        shown = run.data.nodes["scenario"].ids[events.ids("scenario")[rows]]
        for figure, group in (("figure5", 0), ("figure6", 1)):
            assert 1 <= len(of_figure[figure]) <= 5
            for of in of_figure[figure]:
                own = rows[shown == of["name"]]
                assert len(own) == of["impressions"] >= 4
                (node,) = run.data.nodes["scenario"].index_of(np.array([of["name"]]))
                assert groups.groups[node] == group
                metrics = EventMetrics(run.encoder.declaration.labels, (1,), 60, 0)
                metrics.add(run.score(state.params, own), run.encoder.answers(own), events.ids("user")[own])
                found = of["models"][LABELS[name]]["auc"]
                assert found["value"] == pytest.approx(metrics.result().metrics["auc"], abs=1e-6)
                assert "low" not in found or found["low"] <= found["value"] <= found["high"]
    trained = [of["training_impressions"] for of in of_figure["figure5"]]
    assert trained == sorted(trained, reverse=True)
    trained = [of["training_impressions"] for of in of_figure["figure6"]]
    assert trained == sorted(trained)


def test_figures_7_and_8_have_the_gates_of_both_runs(drawn, workdirs):
    section = json.loads((drawn[0] / "figures.json").read_text())["figure7_8"]
    assert list(section["runs"]) == [LABELS["treems"], LABELS["without"]]
    assert [of["inconsistency_weight"] for of in section["runs"].values()] == [0.01, 0.0]
    for name in ("treems", "without"):
        run, state = opened(workdirs, name)
        scenarios, gates = run.gate_reader.scenarios, run.gate_reader.read(state.params).gates.astype(np.float64)
        parts = section["runs"][LABELS[name]]["parts"]
        assert [part["name"] for part in parts] == [section["scenario"], "head", "tail", "cold"]
        (chosen,) = np.flatnonzero(scenarios.ids == section["scenario"])
        assert scenarios.training_impressions[chosen] == scenarios.training_impressions.max()
        np.testing.assert_allclose(parts[0]["gates"], gates[chosen], atol=1e-6)
        logged = run.state_metrics(state)
        for part, code in zip(parts[1:], range(3), strict=True):
            members = np.flatnonzero(scenarios.groups == code)
            counts = scenarios.training_impressions[members] if part["name"] != "cold" else np.ones(len(members))
            mean = sum(count * gates[i] for count, i in zip(counts, members, strict=True)) / counts.sum()
            np.testing.assert_allclose(part["gates"], mean, atol=1e-6)
            own = [-(gates[i] * np.log(gates[i])).sum(axis=1) / np.log(3) for i in members]
            np.testing.assert_allclose(part["own_entropy"], np.average(own, axis=0, weights=counts), atol=1e-6)
            assert part["scenarios"] == len(members)
            for key in ("entropy", "largest"):
                wanted = [logged[f"gates/{part['name']}/layer{i + 1}/{key}"] for i in range(3)]
                assert part[key] == pytest.approx(wanted, abs=1e-6)


def test_figure_9_has_states_of_treems_and_embeddings_of_rivals_that_have_any(drawn, workdirs):
    section = json.loads((drawn[0] / "figures.json").read_text())["figure9"]
    assert [panel["title"] for panel in section["panels"]] == [LABELS[name] for name in ("treems", "without", "wdl")]
    is_trained = np.array([group != "cold" for group in section["groups"]])
    names = np.array(section["scenarios"])
    assert section["ancestors"] == [name.rpartition(".")[0] for name in names]
    run, state = opened(workdirs, "treems")
    states = run.gate_reader.read(state.params).states[:, -1]
    rival, rival_state = opened(workdirs, "wdl")
    rows = [np.flatnonzero(rival.encoder.table_ids()["scenario_id"] == name) + 1 for name in names]
    embeddings = np.array(
        [np.asarray(rival_state.params.tables["scenario_id"])[row[0] if len(row) else 0] for row in rows]
    )
    for panel, vectors in ((section["panels"][0], states), (section["panels"][2], embeddings)):
        centered = vectors.astype(np.float64) - vectors[is_trained].mean(axis=0)
        covariance = centered[is_trained].T @ centered[is_trained]
        values, directions = np.linalg.eigh(covariance)
        for axis, direction, value in zip("xy", directions.T[::-1], values[::-1], strict=False):
            np.testing.assert_allclose(np.abs(panel[axis]), np.abs(centered @ direction), atol=1e-5)
            assert value / values.sum() == pytest.approx(panel["explained"]["xy".index(axis)], abs=1e-5)
        assert -1 <= panel["silhouette"] <= 1 and 0 <= panel["nearest"] <= 1


def test_a_scenario_can_be_chosen_and_what_was_drawn_before_is_replaced(workdirs, tmp_path):
    output = tmp_path / "out"
    assert figures(workdirs, output, "--min_requests=4", beside=()).code == 0
    result = figures(workdirs, output, "--min_requests=100000", "--scenario=C2C.1.2", "--split=validation", beside=())
    assert result.code == 0, result
    assert "There are none; a smaller --min_requests than 100000 may find some" in result.out
    assert {path.name for path in output.iterdir()} == {"figures.json", "figures.md", *PICTURES[2:]}
    content = json.loads((output / "figures.json").read_text())
    assert content["figure7_8"]["runs"]["treems"]["parts"][0]["name"] == "C2C.1.2"
    assert content["scenarios"]["split"] == "validation"


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(workdirs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    damaged = shutil.copytree(workdirs["wdl"], tmp_path / "damaged")
    shutil.rmtree(damaged / "checkpoints")
    other = tmp_path / "other"
    with runs.no_pictures():
        fit.run(runs.tiny_config(num_steps=2, evaluate_every=2), tmp_path / "lightgcn")
        config = tree_runs.config(tree_runs.rival_model(), num_steps=3)
        config.split.fractions = (0.6, 0.2, 0.2)
        fit.run(config, other)
    treems, wdl = (f"--workdir={workdirs[name]}" for name in ("treems", "wdl"))
    for arguments, expected in (
        (
            (wdl,),
            f"{wdl}: holds a run of 'wdl', which has no experts guided by a tree of scenarios; give the workdir of",
        ),
        ((f"--workdir={tmp_path / 'lightgcn'}",), "which has no experts guided by a tree"),
        ((f"--workdir={tmp_path}",), f"{tmp_path}: no config.json here"),
        ((treems, f"--beside={tmp_path / 'lightgcn'}"), "not one that scores the events 'share'; leave it out"),
        ((treems, f"--beside={workdirs['treems']}"), "this workdir is given twice"),
        ((treems, f"--beside={damaged}"), "no checkpoints here; train first"),
        ((treems, f"--beside={other}"), "other rows of 'share' are held out than in --workdir"),
        ((treems, "--scenario=C2C"), "--scenario=C2C: none of the 18 scenarios; the most frequent ones are: C2C."),
        ((treems, "--min_requests=0"), "--min_requests=0"),
        ((treems, f"--output={tmp_path / 'full'}"), "not empty, and holds no earlier figures"),
    ):
        given = (f"--output={tmp_path / 'out'}",) if not any(of.startswith("--output") for of in arguments) else ()
        message = runs.refusal("figures", "--plugin=tests", *arguments, *given)
        assert expected in message, (arguments, message)
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
