"""Runs over impressions, whole: trained, stopped, resumed, evaluated, and begun from an earlier one."""

import dataclasses
import json
import os
import runpy
import signal

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, NewIdsConfig, ReplayConfig
from lsec_jax.schema import SPLITS, DataError
from lsec_jax.training import compilation, fit, initialisation, prequential, run, workdirs
from lsec_jax.training.base_run import Run
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.termination import Terminated
from tests import event_runs, runs
from tests.event_runs import compiled_once  # noqa: F401 a fixture
from tests.training.later_feed import LaterFeed

pytestmark = pytest.mark.usefixtures("no_pictures", "compiled_once")

MODELS = {
    "eliverec": event_runs.eliverec_model(),
    "din": event_runs.baseline_model("din"),
    "wdl": event_runs.baseline_model(dropout=0.3),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of an eLiveRec run that has ended, and its report."""
    workdir = tmp_path_factory.mktemp("runs") / "eliverec"
    return workdir, fit.run(event_runs.event_config(MODELS["eliverec"]), workdir)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same of the model that compiles fastest, with dropout."""
    workdir = tmp_path_factory.mktemp("runs") / "wdl"
    fit.run(event_runs.event_config(MODELS["wdl"]), workdir)
    return workdir


def stored(workdir, step=8):
    """The state of a checkpoint, as numpy."""
    template = run.prepare(workdirs.load_config(workdir, None, ("tests",))).initial_state()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(template, step)[0])


def timeless(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: of for name, of in line.items() if not name.endswith(runs.TIMING)} for line in lines]


def assert_same_end(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, stored(workdir), stored(other))
    assert timeless(workdir) == timeless(other)
    rows = [json.loads((of / "report.json").read_text())["rows"] for of in (workdir, other)]
    assert [row["metrics"] for row in rows[0]] == [row["metrics"] for row in rows[1]]


def test_a_report_has_model_baselines_and_oracle_on_both_splits_with_their_parts(trained):
    workdir, text = trained
    report = json.loads((workdir / "report.json").read_text())
    names = {"eliverec", "popularity", "watch_rate", "oracle"}
    assert {(row["model"], row["split"]) for row in report["rows"]} == {
        (name, split) for name in names for split in ("validation", "test")
    }
    for row in report["rows"]:
        assert row["protocol"] == "impressions" and 0 <= row["metrics"]["gauc"] <= 1
        assert ("auc_bag" in row["metrics"]) == (row["model"] in ("eliverec", "oracle"))
    metrics = {row["model"]: row["metrics"] for row in report["rows"] if row["split"] == "test"}
    assert metrics["oracle"]["auc"] > metrics["popularity"]["auc"] + 0.05
    assert {"eliverec", "oracle"} <= report["examined"].keys() and "streamers new to the user" in text
    assert report["examined"]["eliverec"]["metrics"] == metrics["eliverec"]
    assert "2 requests at full length" in text and text.count("streamer_id, category, ranked by eliverec") == 2


def test_a_report_has_the_impressions_by_scenario_where_the_config_names_their_role(trained, tmp_path):
    config = event_runs.event_config(MODELS["wdl"])
    config.evaluation.scenario, config.evaluation.bootstrap_samples = "streamer", 50
    text = fit.run(config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    metrics = {row["model"]: row["metrics"] for row in report["rows"] if row["split"] == "test"}
    assert {"wdl", "oracle"} < report["examined"].keys() and len(report["examined"]) == 3
    for model, of in report["examined"].items():
        scenarios = of["scenarios"]
        assert scenarios["role"] == "streamer" and list(scenarios["groups"]) == ["all", "head", "tail", "cold"]
        whole = scenarios["groups"]["all"]
        assert whole["metrics"] == pytest.approx({name: metrics[model][name] for name in whole["metrics"]})
        assert whole["metrics"].keys() == {"auc", "gauc", "mrr", "hr@1", "hr@3"} == whole["intervals"].keys()
        assert scenarios["compared_to"] == ("" if model == "wdl" else "wdl")
        sizes = [part["counts"]["impressions"] for part in scenarios["scenarios"].values()]
        assert sum(sizes) == whole["counts"]["impressions"] == of["counts"]["impressions"]
    assert "### test, impressions by scenario" in text and "| oracle - wdl | head | +0." in text
    assert "impressions by scenario" not in trained[1]


def test_evaluate_gives_the_metrics_of_the_report(trained):
    workdir, _ = trained
    report = json.loads((workdir / "report.json").read_text())["rows"]
    for split in ("validation", "test"):
        result = runs.command("evaluate", f"--workdir={workdir}", f"--split={split}", "--plugin=tests")
        assert result.code == 0, result.err
        (row,) = json.loads((workdir / f"evaluation_{split}_impressions.json").read_text())["rows"]
        wanted = next(of for of in report if (of["model"], of["split"]) == ("eliverec", split))
        assert row["metrics"] == wanted["metrics"]


def test_undefined_answers_and_empty_histories_are_trained_on_and_all_that_is_logged_is_finite(trained):
    workdir, _ = trained
    prepared = run.prepare(event_runs.event_config(MODELS["eliverec"]))
    batch = prepared.batch_at()(0)
    assert np.isnan(batch["labels"][:, 1:]).any() and not np.isnan(batch["labels"][:, 0]).any()
    assert all((~mask.any(axis=1)).any() and mask.any() for mask in batch["masks"].values())
    lines = [line for line in timeless(workdir) if line["kind"] == "train"]
    assert len(lines) == 4 and "distance_correlation/watches" in lines[0] and "bag/weight" in lines[0]
    for line in lines:
        assert all(np.isfinite(of) for of in line.values() if isinstance(of, float)), line


def test_ids_that_training_does_not_know_have_row_0_and_the_report_counts_them(trained):
    workdir, text = trained
    prepared = run.prepare(event_runs.event_config())
    events = prepared.data.events["impression"]
    users = events.ids("user")
    seen = np.bincount(users[events.split == SPLITS["train"]], minlength=60)
    rows = np.flatnonzero(events.split == SPLITS["test"])
    is_unknown = seen[users[rows]] < 20
    assert 0 < is_unknown.sum() < len(rows)
    batch = prepared.encoder.encode(rows)
    np.testing.assert_array_equal(batch["ids"]["user"][:, 0] == 0, is_unknown)
    counted = json.loads((workdir / "report.json").read_text())["examined"]["eliverec"]["unknown"]
    assert counted["user_id"] == is_unknown.sum() and counted["streamer_id"] == 0 and "clicks.item_id" in counted
    line = f"- test: ids of 'user_id' that training does not know, in {len(rows)} impressions: {is_unknown.sum()}"
    assert line in text and "'streamer_id' that" not in text


@pytest.mark.parametrize("name", ["eliverec", "din"])
def test_nothing_compiles_after_the_first_step_and_the_first_validation(name, tmp_path, monkeypatch):
    asked, save = [], Checkpoints.save

    def remember(self, *args):
        save(self, *args)
        asked.append(compilation.log().now().programs)

    monkeypatch.setattr(Checkpoints, "save", remember)
    monkeypatch.setattr(fit, "_report", lambda *args: "")
    fit.run(event_runs.event_config(MODELS[name], evaluate_every=2), tmp_path / "run")
    assert len(asked) == 4 and len(set(asked)) == 1


def test_batches_are_a_function_of_the_step_and_the_seed_alone(unbroken):
    config = event_runs.event_config()
    first, second = (run.prepare(config).batch_at() for _ in range(2))
    wanted = [first(step) for step in range(40)]  # one and a half epochs
    for step in (39, 3, 26, 3):
        jax.tree.map(np.testing.assert_array_equal, second(step), wanted[step])
    rows = [of["rows"] for of in wanted]
    num_train = 1679
    epoch = np.concatenate(rows)[:num_train]
    assert len(np.unique(epoch)) == num_train and (np.concatenate(rows) < num_train).all()
    other = run.prepare(dataclasses.replace(config, seed=1)).batch_at()
    assert (other(3)["rows"] != wanted[3]["rows"]).any()
    np.testing.assert_array_equal(wanted[3]["places"], np.arange(64))


def test_a_run_that_was_killed_between_checkpoints_ends_like_an_unbroken_one(unbroken, tmp_path):
    with runs.killed_at(6):
        fit.run(event_runs.event_config(MODELS["wdl"]), tmp_path / "broken")
    assert runs.steps_of(tmp_path / "broken") == [4]
    fit.run(event_runs.event_config(MODELS["wdl"]), tmp_path / "broken")
    assert_same_end(tmp_path / "broken", unbroken)


def test_a_run_that_was_asked_to_end_saves_its_step_and_ends_like_an_unbroken_one(unbroken, tmp_path, monkeypatch):
    make_input_at = Run.input_at

    def input_at(self):
        make = make_input_at(self)

        def made(step):
            if step + 1 == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return make(step)

        return made

    config = event_runs.event_config(MODELS["wdl"], prefetch=0)
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(Run, "input_at", input_at)
        fit.run(config, tmp_path / "broken")
    assert runs.steps_of(tmp_path / "broken")[-1] in (6, 7)
    fit.run(config, tmp_path / "broken")
    assert_same_end(tmp_path / "broken", unbroken)


def later_config(**changes):
    return dataclasses.replace(event_runs.event_config(MODELS["wdl"]), data=LaterFeed(**changes))


def test_rows_of_ids_that_an_earlier_run_knows_come_along_and_new_ones_are_means_of_those(unbroken):
    prepared = run.prepare(later_config())
    state, record = initialisation.start(prepared, Origin(unbroken, "last"))
    earlier = run.prepare(event_runs.event_config(MODELS["wdl"])).encoder.table_ids()
    before, after = stored(unbroken), jax.device_get(state)
    for part, was in (("params", before.params), ("mu", before.opt_state[0].mu)):
        own = after.params if part == "params" else after.opt_state[0].mu
        for name, ids in prepared.encoder.table_ids().items():
            old, new = was.tables[name], own.tables[name]
            assert len(new) == 1 + len(ids)
            np.testing.assert_array_equal(new[0], old[0])  # of all that is unknown
            rows = {external: old[1 + i] for i, external in enumerate(earlier[name].tolist())}
            mean = old[1:][np.isin(earlier[name], ids)].mean(axis=0, dtype=np.float64)
            for external, row in zip(ids.tolist(), new[1:], strict=True):
                if external in rows:
                    np.testing.assert_array_equal(row, rows[external])
                else:
                    np.testing.assert_allclose(row, mean if part == "params" else 0.0, rtol=1e-5, atol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, after.params.dense, before.params.dense)
    assert record["nodes"]["streamer"] == {"known": 6, "new": 2, "dropped": 2}
    assert record["nodes"]["item"] == {"known": 16, "new": 0, "dropped": 0}  # hashed
    assert [*prepared.encoder.table_ids()["streamer"]] != [*earlier["streamer"]]
    assert before.opt_state[0].mu.tables["streamer"][1:].any()


def test_a_run_from_an_earlier_one_trains_and_the_same_command_goes_on(unbroken, tmp_path):
    origin = Origin(unbroken)
    fit.run(later_config(), tmp_path / "whole", origin=origin)
    with runs.killed_at(2):
        fit.run(later_config(), tmp_path / "broken", origin=origin)
    fit.run(later_config(), tmp_path / "broken", origin=origin)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(stored_of(later_config(), tmp_path / name) for name in ("whole", "broken")),
    )


def stored_of(config, workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(run.prepare(config).initial_state(), 8)[0])


def test_an_earlier_run_with_other_features_or_another_number_of_buckets_is_refused(unbroken, tmp_path):
    features = event_runs.small_declaration()
    tables = tuple(dataclasses.replace(of, buckets=32) if of.name == "item" else of for of in features.tables)
    model = event_runs.baseline_model(features=dataclasses.replace(features, tables=tables), dropout=0.3)
    config = dataclasses.replace(later_config(), model=model)
    with pytest.raises(ConfigError, match=r"config.model.features.tables\[2\].buckets: 16 -> 32"):
        fit.run(config, tmp_path / "new", origin=Origin(unbroken))
    with pytest.raises(DataError, match=r"it knows none of the .* streamer ids"):
        fit.run(later_config(num_known=0), tmp_path / "new", origin=Origin(unbroken))
    assert not (tmp_path / "new").exists()


def evaluation(config, **keys):
    return runs.replace(config, evaluation=keys)


EVENTS, RELATIONS = event_runs.event_config, runs.tiny_config
REFUSED = {
    "candidates of events": (
        lambda: evaluation(EVENTS(), protocols=("impressions", "candidates")),
        r"'candidates' is not for models of a table of events, as 'wdl' is; choose from: impressions$",
    ),
    "impressions of relations": (
        lambda: evaluation(RELATIONS(), protocols=("impressions",)),
        r"'impressions' is not for models of relations, as 'lightgcn' is; choose from: candidates, full_ranking$",
    ),
    "baselines of relations": (
        lambda: evaluation(EVENTS(), baselines=("popularity", "item_knn")),
        r"evaluation.baselines = .*'item_knn' is not for models of a table of events",
    ),
    "baselines of events": (
        lambda: evaluation(RELATIONS(), baselines=("watch_rate",)),
        r"evaluation.baselines = .*'watch_rate' is not for models of relations",
    ),
    "metric of relations": (lambda: EVENTS(metric="recall@10"), r"'recall@10' is not measured .* auc, gauc"),
    "cutoff": (lambda: EVENTS(metric="ndcg@10"), r"metric = 'ndcg@10' is not measured .*cutoffs = \(1, 3\)"),
    "low is good": (lambda: EVENTS(metric="logloss"), r"'logloss': .* a high one is no good; choose one of: auc, gauc"),
    "a task's error": (
        lambda: EVENTS(event_runs.eliverec_model(), metric="rmse_stay"),
        r"'rmse_stay': the best checkpoint is that of the highest value",
    ),
    "replay": (
        lambda: dataclasses.replace(EVENTS(), replay=ReplayConfig(window=3.0)),
        r"config.replay.window = 3.0: replay chooses edges of relations, .* set it to 0",
    ),
    "categories of new ids": (
        lambda: dataclasses.replace(EVENTS(), new_ids=NewIdsConfig(("streamer.fans_band",))),
        r"config.new_ids.categories = \('streamer.fans_band',\): these are of nodes, .*; leave it empty",
    ),
    "patience without validation": (
        lambda: runs.replace(EVENTS(patience=2), split={"fractions": (0.8, 0.0, 0.2)}),
        r"config.training.patience = 2, but 'impression' has no validation",
    ),
    "groups that do not fill a batch": (
        lambda: EVENTS(event_runs.eliverec_model(regulariser_group_size=24)),
        r"a batch has 64 rows .*config.model.regulariser_group_size = 24 .* set that to a divisor of the batch",
    ),
    "a length that nothing reads": (
        lambda: dataclasses.replace(
            EVENTS(), histories=(dataclasses.replace(event_runs.HISTORIES[0], length=3), event_runs.HISTORIES[1])
        ),
        r"config.histories\[0\].length = 3 has no effect: .* set config.model.features.sequences",
    ),
    "scenarios of another role": (
        lambda: evaluation(EVENTS(), scenario="shop"),
        r"evaluation.scenario = 'shop': events 'impression' have no such role; choose one of: .*streamer",
    ),
    "scenarios of relations": (
        lambda: evaluation(RELATIONS(), scenario="streamer"),
        r"evaluation.scenario = 'streamer': scenarios are of impressions, and 'lightgcn' is a model of relations",
    ),
    "head of nothing": (lambda: evaluation(EVENTS(), head_share=0.0), r"evaluation.head_share = 0.0 must be above 0"),
    "head of more": (lambda: evaluation(EVENTS(), head_share=1.1), r"head_share = 1.1 must be above 0 and at most 1"),
    "samples": (lambda: evaluation(EVENTS(), bootstrap_samples=-1), r"bootstrap_samples = -1 must be at least 0"),
    "large batches": (lambda: EVENTS(batch_size=4096), r"batch_size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_for_the_other_kind_of_model_or_cannot_work_is_refused_with_a_remedy(case):
    make, message = REFUSED[case]
    with pytest.raises((ConfigError, DataError), match=message):
        run.prepare(make())


def test_a_metric_of_requests_needs_events_with_groups():
    class WithoutGroups:
        def load(self):
            data = event_runs.small_world().load()
            events = {**data.events, "impression": dataclasses.replace(data.events["impression"], group=None)}
            return data.replace(events=events)

    for metric in ("ndcg@3", "gauc_request"):
        with pytest.raises(ConfigError, match=f"'{metric}' is of rows that were shown together, .* choose auc or gauc"):
            run.prepare(event_runs.event_config(data=WithoutGroups(), metric=metric))
    assert run.prepare(event_runs.event_config(data=WithoutGroups(), metric="gauc")).has_rows("test")


def test_a_metric_that_the_validation_rows_do_not_define_is_named(tmp_path, monkeypatch):
    model = event_runs.baseline_model(tasks=("bag",), task_weights=(0.1,))
    config = event_runs.event_config(model, metric="auc_bag")
    load = type(config.data).load

    def without_clicks(source):
        data = load(source)
        impression = data.events["impression"]
        nobody = {"goods_bag_click": np.zeros(len(impression), bool)}
        changed = dataclasses.replace(impression, values={**impression.values, **nobody})
        return data.replace(events={**data.events, "impression": changed})

    monkeypatch.setattr(type(config.data), "load", without_clicks)
    with pytest.raises(DataError, match=r"'auc_bag': the validation rows do not define it"):
        fit.run(config, tmp_path / "run")


def test_a_column_that_the_events_lack_is_named():
    features = event_runs.small_declaration()
    fields = tuple(dataclasses.replace(of, source=".fans") if of.name == "viewers" else of for of in features.fields)
    model = event_runs.baseline_model(features=dataclasses.replace(features, fields=fields))
    with pytest.raises((ConfigError, DataError), match=r"'fans'"):
        run.prepare(event_runs.event_config(model))


def test_commands_for_models_of_relations_refuse_those_of_events_before_anything_is_loaded(trained, tmp_path):
    class Unreadable:
        def load(self):
            raise AssertionError("nothing is to be loaded")

    config = dataclasses.replace(event_runs.event_config(), data=Unreadable())
    settings = prequential.Settings((5,), 1, (0,))
    with pytest.raises(ConfigError, match=r"'wdl' trains on the table of events 'impression'; this command is for"):
        prequential.run(config, settings, tmp_path / "days")
    workdir, _ = trained
    (tmp_path / "tiny.py").write_text(runs.CONFIG_FILE)
    figure = [f"--{role}={workdir}" for role in ("ncf", "gcn", "lsec")]
    message = runs.refusal("analyze", f"--config={tmp_path}/tiny.py", f"--output={tmp_path}/out", *figure)
    assert "holds a run of eliverec for 'impression', not of NCF for 'buy'" in message
    assert not (tmp_path / "days").exists() and not (tmp_path / "out").exists()


CONFIG_FILE = """
from tests.event_runs import baseline_model, event_config


def get_config():
    config = event_config(baseline_model(dropout=0.3))
    return config
"""


def test_a_run_on_prepared_data_is_the_run_on_its_source_bit_for_bit(unbroken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "direct.py").write_text(CONFIG_FILE)
    result = runs.command("prepare", "--config=direct.py", "--output=prepared")
    assert result.code == 0 and "| events impression | 2400 |" in result.out, result
    mapped = CONFIG_FILE.replace("\n\ndef", "from lsec_jax.data.sources import prepared\n\n\ndef", 1)
    (tmp_path / "mapped.py").write_text(
        mapped.replace("    return", '    config.data = prepared.Config("prepared")\n    return')
    )
    config = runpy.run_path(str(tmp_path / "mapped.py"))["get_config"]()
    fit.run(config, tmp_path / "mapped")
    state = stored_of(config, tmp_path / "mapped")
    jax.tree.map(np.testing.assert_array_equal, state, stored(unbroken))
    assert timeless(tmp_path / "mapped") == timeless(unbroken)
    reports = [json.loads((of / "report.json").read_text()) for of in (tmp_path / "mapped", unbroken)]
    assert [row["metrics"] for row in reports[0]["rows"] if row["model"] != "oracle"] == [
        row["metrics"] for row in reports[1]["rows"] if row["model"] != "oracle"
    ]
