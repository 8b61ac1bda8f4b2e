"""Day by day: train on what was before, evaluate on the next day."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, EvaluationConfig, ReplayConfig
from lsec_jax.data import csr
from lsec_jax.data.audits import audit_splits
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.schema import TEST, TRAIN, DataError
from lsec_jax.training import fit, prequential, prequential_report
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.prequential import Settings, Timeline
from lsec_jax.training.run import prepare
from tests import runs

SETTINGS = Settings((30, 31), num_days=2, warm_steps=4)


def day_config(**training):
    """The tiny run on a world with new items; purchases are dense enough for every day."""
    config = runs.tiny_config(num_steps=6, **training)
    live = LiveConfig(num_impressions=300, new_items=0.5)
    config.data = dataclasses.replace(runs.tiny_world(num_buy=1500), live=live)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("days") / "run"
    text = prequential.run(day_config(), SETTINGS, workdir)
    return workdir, text


def outcomes(workdir):
    return json.loads((workdir / "prequential.json").read_text())["outcomes"]


def warm_from_30(workdir):
    return [of for of in outcomes(workdir) if of["policy"] == "warm" and of["start_day"] == 30]


def test_every_policy_is_measured_on_every_day_of_every_start_and_seed(finished):
    workdir, text = finished
    found = [(of["policy"], of["seed"], of["start_day"], of["age"]) for of in outcomes(workdir)]
    policies = (*prequential.POLICIES, "popularity", "oracle")
    wanted = [(p, 0, d, a) for p in policies for d in (30, 31) for a in (0, 1)]
    assert sorted(found) == sorted(wanted)
    assert (workdir / "prequential.png").stat().st_size > 10_000 and (workdir / "prequential.md").read_text() == text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| age, days | oracle | cold | warm | refreshed | frozen | popularity |" and len(lines) == 6


def test_all_models_are_the_same_on_the_first_day(finished):
    for start in (30, 31):
        own = [of for of in outcomes(finished[0]) if (of["start_day"], of["age"]) == (start, 0)]
        metrics = [of["metrics"] for of in own if of["policy"] in prequential.POLICIES]
        assert len(metrics) == 4 and all(of == metrics[0] for of in metrics)


def test_later_the_policies_differ_and_are_measured_on_the_same_users_and_candidates(finished):
    later = [of for of in outcomes(finished[0]) if of["age"] == 1 and of["policy"] in prequential.POLICIES]
    for start in (30, 31):
        own = [of for of in later if of["start_day"] == start]
        assert len({(of["users"], of["protocol"]) for of in own}) == 1
        assert len({json.dumps(of["metrics"]) for of in own}) == 4


def test_new_items_come_every_day_and_get_rows(finished):
    known = {}
    for path in (finished[0] / "seed0").glob("warm*/*/data.json"):
        record = json.loads(path.read_text())["initialised_from"]
        known[path.parent.name, path.parent.parent.name] = record["nodes"]["item"]
    assert len(known) == 2 and any(of["new"] for of in known.values())
    assert all(of["dropped"] == 0 for of in known.values())


def test_the_same_command_does_nothing_again_and_goes_on_with_more_days_and_seeds(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(prequential.fit, "train", lambda *args: pytest.fail("trains again"))
        assert prequential.run(day_config(), SETTINGS, workdir) == finished[1]
    trained = []
    train = prequential.fit.train
    monkeypatch.setattr(prequential.fit, "train", lambda *args: trained.append(str(args[1])) or train(*args))
    longer = dataclasses.replace(SETTINGS, num_days=3, start_days=(30,), policies=("warm",))
    prequential.run(day_config(), longer, workdir)
    found, before = warm_from_30(workdir), warm_from_30(finished[0])
    assert found[:2] == before and found[2]["day"] == 32
    prequential.run(day_config(), dataclasses.replace(longer, num_days=1, seeds=(0, 1)), workdir)
    assert trained == [f"{workdir}/seed0/warm from 30/32", f"{workdir}/seed1/cold/30"]
    values = [of["metrics"] for of in outcomes(workdir) if of["policy"] == "warm"]
    assert len(values) == 2 and values[0] == before[0]["metrics"] != values[1]


def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path):
    only = dataclasses.replace(SETTINGS, start_days=(30,), policies=("warm",))
    with runs.killed_at(4):
        prequential.run(day_config(log_every=1), only, tmp_path / "broken")
    prequential.run(day_config(log_every=1), only, tmp_path / "broken")
    assert warm_from_30(tmp_path / "broken") == warm_from_30(finished[0])


# Nothing of a day is seen before it is evaluated.


def test_a_workdir_of_a_version_that_lacked_a_key_of_the_config_goes_on(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "older")
    stored = json.loads((workdir / "settings.json").read_text())
    del stored["config"]["evaluation"]["head_share"]
    (workdir / "settings.json").write_text(json.dumps(stored))
    assert prequential.run(day_config(), SETTINGS, workdir) == finished[1]


def timeline(folder, config=None, settings=SETTINGS):
    return Timeline(config or day_config(), settings, 0, folder)


def test_no_model_reads_anything_of_the_day_that_it_is_evaluated_on(tmp_path):
    own = timeline(tmp_path)
    for train_day, test_day in ((30, 30), (30, 32)):
        config = own._cell(train_day, test_day, 1)
        found = prepare(config, own._cut(config))
        found.audit()
        audit_splits(found.data)
        for name, relation in found.data.relations.items():
            train, test = (relation.edge_times(split) for split in (TRAIN, TEST))
            assert (train < train_day).all() and (test >= test_day).all() and (test < test_day + 1).all(), name
        buy = found.data.relations["buy"]
        positives = found.inputs.positives["buy"]
        np.testing.assert_array_equal(positives.source_ids, buy.edges(TRAIN)[0])
        np.testing.assert_array_equal(positives.target_ids, buy.edges(TRAIN)[1])
        lists = found.evaluator.candidate_lists("test")
        start = found.data.availability["item"].start
        assert (start < test_day + 1).all()  # what comes later is not even a row
        pairs = csr.csr_from_pairs(buy.source_ids, buy.target_ids, len(found.data.nodes["user"]))
        for row, user in enumerate(lists.source_ids):
            bought = pairs[1][pairs[0][user] : pairs[0][user + 1]]
            assert not np.isin(lists.target_ids[row][~lists.labels[row]], bought).any()


def test_a_model_does_not_depend_on_the_day_that_it_is_evaluated_on_or_on_later_ones(tmp_path, monkeypatch):
    """Other purchases and follows from day 31 on: the models for days 30 and 31 are the same bit for bit."""
    load = synthetic.Config.load

    def other_future(self):
        data = load(self)
        relations = dict(data.relations)
        for name in ("buy", "follow"):
            of = relations[name]
            late = of.time >= 31.0
            relations[name] = of.take(~late | (np.cumsum(late) % 3 > 0))
        return data.replace(relations=relations)

    settings = dataclasses.replace(SETTINGS, start_days=(30,), policies=("warm",))
    prequential.run(day_config(), settings, tmp_path / "one")
    monkeypatch.setattr(synthetic.Config, "load", other_future)
    prequential.run(day_config(), settings, tmp_path / "two")
    for cell, step in (("cold/30", 6), ("warm from 30/31", 4)):
        states = []
        for name in ("one", "two"):
            path = tmp_path / name / "seed0" / cell / "checkpoints"
            with Checkpoints(path, read_only=True) as checkpoints:
                template = {"params": prepare_template(tmp_path / name, cell)}
                states.append(checkpoints.restore_on_host(template, step))
        jax.tree.map(np.testing.assert_array_equal, *states)
    found = [[of["metrics"] for of in outcomes(tmp_path / name) if of["day"] == 31] for name in ("one", "two")]
    assert found[0] != found[1]


def prepare_template(workdir, cell):
    own = timeline(workdir / "unused")
    day = int(cell.rpartition("/")[2])
    config = own._cell(day, day, 1)
    return prepare(config, own._cut(config)).initial_state().params


def test_a_day_that_leaks_into_training_is_refused(tmp_path, monkeypatch):
    cut = prequential.period.Config.cut

    def leaky(self, data):
        found = cut(self, data)
        buy = found.relations["buy"]
        split = buy.split.copy()
        split[np.flatnonzero(split == TEST)[0]] = TRAIN
        return found.replace(relations={**found.relations, "buy": dataclasses.replace(buy, split=split)})

    monkeypatch.setattr(prequential.period.Config, "cut", leaky)
    with pytest.raises(DataError, match="leaks between splits"):
        prequential.run(day_config(), SETTINGS, tmp_path / "run")


def test_a_replay_window_is_for_warm_models_only(tmp_path, monkeypatch):
    config = dataclasses.replace(day_config(), replay=ReplayConfig(window=2.0, share=0.2))
    found = {}

    def train(config, workdir, *_):
        found[workdir.name] = config.replay
        return fit.Trained(None, None, None, 0)

    monkeypatch.setattr(prequential.fit, "train", train)
    timeline(tmp_path, config)._trained(30, 31)
    assert found == {"30": ReplayConfig(), "31": config.replay}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start_days": (0,)}, "--start_days=(0,): give whole numbers of at least 1"),
        ({"start_days": (49,)}, "reach day 50, but data set"),
        ({"start_days": (3, 3)}, "each once"),
        ({"num_days": 0}, "--days = 0 must be at least 1"),
        ({"policies": ("hot",)}, "--policies = 'hot' is not known; choose one of: cold, warm"),
        ({"policies": ()}, "--policies=()"),
        ({"day_length": 0.0}, "--day_length=0.0"),
        ({"seeds": ()}, "--seeds=()"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, changes, expected):
    with pytest.raises(ConfigError) as caught:
        prequential.run(day_config(), dataclasses.replace(SETTINGS, **changes), tmp_path / "run")
    assert expected in str(caught.value)


def test_a_model_of_relations_without_times_is_refused(tmp_path, monkeypatch):
    load = synthetic.Config.load

    def timeless(self):
        data = load(self)
        return data.replace(relations={**data.relations, "buy": dataclasses.replace(data.relations["buy"], time=None)})

    monkeypatch.setattr(synthetic.Config, "load", timeless)
    with pytest.raises(ConfigError, match="relation 'buy' has no times, so that nothing says"):
        prequential.run(day_config(), SETTINGS, tmp_path / "run")


def test_a_workdir_of_other_settings_or_of_something_else_is_refused(finished, tmp_path):
    config = day_config()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"prequential\.config\.optimizer\.learning_rate: 0\.0005 -> 0\.5"):
        prequential.run(config, SETTINGS, finished[0])
    with pytest.raises(ConfigError, match="warm_steps: 4 -> 5"):
        prequential.run(day_config(), dataclasses.replace(SETTINGS, warm_steps=5), finished[0])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no prequential run"):
        prequential.run(day_config(), SETTINGS, tmp_path)


def test_curves_are_means_over_starts_and_spread_over_seeds():
    def outcome(policy, seed, start, age, value):
        return {
            "policy": policy,
            "seed": seed,
            "start_day": start,
            "day": start + age,
            "age": age,
            "metrics": {"m": value},
        }

    values = {
        "cold": {(0, 1): 1.0, (0, 2): 3.0, (1, 1): 5.0, (1, 2): 5.0},
        "frozen": {(0, 1): 0.5, (0, 2): 1.5, (1, 1): 4.0, (1, 2): 3.0},
    }
    found = prequential_report.curves(
        [
            outcome(policy, seed, start, 0, value)
            for policy, of in values.items()
            for (seed, start), value in of.items()
        ],
        "m",
    )
    assert found["cold"][0]["values"] == [2.0, 5.0] and found["cold"][0]["mean"] == 3.5
    assert found["cold"][0]["std"] == pytest.approx(np.std([2.0, 5.0], ddof=1)) and "minus_cold" not in found["cold"][0]
    assert found["frozen"][0]["minus_cold"]["values"] == [-1.0, -1.5]
    text = prequential_report.table(found)
    assert "| 0 | 3.5000 +- 2.1213 | 2.2500 +- 1.7678 |" in text and "| 0 | -1.2500 +- 0.3536 |" in text


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "days.py").write_text(
        "from tests.training.test_prequential import day_config\n\n\ndef get_config():\n    return day_config()\n"
    )
    command = ("prequential", "--config=days.py", "--workdir=run")
    assert "start_days" in runs.refusal(*command)
    assert "--start_days=30,x: give whole numbers" in runs.refusal(*command, "--start_days=30,x")
    assert "choose one of: cold" in runs.refusal(*command, "--start_days=30", "--policies=warm,cool")
    assert not (tmp_path / "run").exists()
    result = runs.command(
        *command, "--start_days=30", "--days=2", "--policies=warm,frozen", "--config.training.num_steps=5"
    )
    assert result.code == 0 and "| age, days | oracle | warm | frozen | popularity |" in result.out, result
    content = json.loads((tmp_path / "run" / "prequential.json").read_text())
    assert content["settings"]["warm_steps"] == 1 and content["metric"] == "ndcg@10"
    assert runs.command("evaluate", "--workdir=run/seed0/warm from 30/31").code == 0


def test_the_config_that_drives_it_evaluates_the_first_protocol_alone(tmp_path):
    config = dataclasses.replace(
        day_config(), evaluation=EvaluationConfig(protocols=("full_ranking", "candidates"), cutoffs=(10,))
    )
    cell = timeline(tmp_path, config)._cell(30, 31, 7)
    assert cell.evaluation.protocols == ("full_ranking",) and cell.training.num_steps == 7
    assert (cell.data.train_end, cell.data.test_start, cell.data.end) == (30.0, 31.0, 32.0)
