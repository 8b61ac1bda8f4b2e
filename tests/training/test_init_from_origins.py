"""Which runs another one may start from, and which are refused."""

import dataclasses
import shutil

import numpy as np
import pytest

from lsec_jax.config import ConfigError, NewIdsConfig
from lsec_jax.schema import DataError, NodeTable
from lsec_jax.training import fit, initialisation, run
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.tables import Params
from tests import runs
from tests.training.later_data import Later, later_config, ncf_config, started
from tests.training.test_checkpoints import damage

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_a_run_keeps_the_origin_that_it_began_with(earlier, copy, tmp_path):
    fit.run(runs.tiny_config(), tmp_path / "new", origin=Origin(earlier))
    for origin, expected in (
        (Origin(earlier, "last"), r'asked_step: "best" -> "last"'),
        (Origin(earlier, moments="reset"), r'moments: "keep" -> "reset"'),
        (Origin(copy), r"--init_from\.workdir: .*yesterday.* -> .*copy"),
    ):
        with pytest.raises(ConfigError, match=expected):
            fit.run(runs.tiny_config(), tmp_path / "new", origin=origin)
    with pytest.raises(ConfigError, match=r"was begun otherwise.*\n  --init_from\.asked_step: \"\(absent\)\""):
        fit.run(runs.tiny_config(), copy, origin=Origin(earlier))


def test_a_chosen_step_is_taken_and_one_that_is_not_there_is_refused(earlier):
    for step, taken in (("last", 8), ("8", 8)):
        assert started(runs.tiny_config(), Origin(earlier, step))[2]["step"] == taken
    with pytest.raises(CheckpointError, match=r"--init_from=.*no checkpoint of step 5; there are those of .*8"):
        started(runs.tiny_config(), Origin(earlier, "5"))


@pytest.mark.parametrize("step", ["best", "last"])
def test_of_a_run_that_still_trains_the_next_checkpoint_is_taken(copy, monkeypatch, step):
    """Its training removes a checkpoint just before it is read, as it does with one that is neither new nor best."""
    restore, gone = Checkpoints.restore_on_host, []

    def late(self, template, step):
        if not gone:
            shutil.rmtree(self.directory / str(step))
            gone.append(step)
        return restore(self, template, step)

    monkeypatch.setattr(Checkpoints, "restore_on_host", late)
    taken = started(runs.tiny_config(), Origin(copy, step))[2]["step"]
    assert gone and taken != gone[0] and taken in runs.steps_of(copy)


def test_a_chosen_step_that_is_removed_meanwhile_is_refused(copy, monkeypatch):
    restore = Checkpoints.restore_on_host

    def late(self, template, step):
        shutil.rmtree(self.directory / str(step))
        return restore(self, template, step)

    monkeypatch.setattr(Checkpoints, "restore_on_host", late)
    with pytest.raises(CheckpointError, match=r"--init_from=.*no checkpoint of step 8; there are those of"):
        initialisation.start(run.prepare(runs.tiny_config()), Origin(copy, "8"))


def test_what_only_trains_may_differ_and_what_gives_parameters_their_meaning_may_not(earlier, tmp_path):
    config = runs.tiny_config(num_steps=2, batch_size=20)
    config.optimizer.learning_rate, config.optimizer.schedule, config.seed = 0.1, "cosine", 7
    config.model.l2, config.model.tasks[0].num_negatives = 0.1, 3
    fit.run(config, tmp_path / "trained", origin=Origin(earlier))
    config.model.embedding_dim, config.model.layer_dims, config.model.predictor = 16, (16,), "mlp"
    config.model.tasks[0].loss = "bce"
    with pytest.raises(ConfigError) as caught:
        fit.run(config, tmp_path / "refused", origin=Origin(earlier))
    lines = str(caught.value).splitlines()
    assert "is of another model" in lines[0] and "Start from a run of the same model" in lines[-1]
    assert [line.strip() for line in lines[1:-1]] == [
        "config.model.embedding_dim: 8 -> 16",
        "config.model.layer_dims: [8] -> [16]",
        'config.model.predictor: "dot" -> "mlp"',
        'config.model.tasks[0].loss: "bpr" -> "bce"',
    ]
    with pytest.raises(ConfigError, match=r'config\.model\.type: "lsec_jax\.models\.lsec_gnn:Config" -> .*ncf:Config'):
        fit.run(ncf_config(), tmp_path / "refused", origin=Origin(earlier))
    other = runs.replace(runs.tiny_config(), optimizer={"name": "sgd"})
    with pytest.raises(ConfigError, match=r"name = 'adam', whose moments 'sgd' cannot use; give --init_moments=reset"):
        fit.run(other, tmp_path / "refused", origin=Origin(earlier))
    assert not (tmp_path / "refused").exists()
    assert started(other, Origin(earlier, moments="reset"))[1].params.tables.keys() == {"user", "item"}


def test_another_tree_shares_no_scenario_though_all_trees_have_unknown_children(tmp_path):
    own, other = (NodeTable("path", np.array([name, "unknown child of level 0"])) for name in ("root", "top"))
    with pytest.raises(DataError, match="knows none of the 2 path ids of this data"):
        initialisation.place(own, other, None, Origin(tmp_path))
    both = NodeTable("path", np.array(["root", "leaf", "unknown child of level 0"]))
    assert initialisation.place(both, own, None, Origin(tmp_path)).rows.tolist() == [0, -1, 1]


def test_ids_of_another_form_are_refused(earlier, tmp_path, monkeypatch):
    load = Later.load

    def numbered(self):
        data = load(self)
        return data.replace(nodes={**data.nodes, "user": NodeTable("user", np.arange(60))})

    monkeypatch.setattr(Later, "load", numbered)
    with pytest.raises(DataError, match=r"knows none of the 60 user ids .*\['user_00000'\], this data's \[0\]"):
        fit.run(later_config(), tmp_path / "new", origin=Origin(earlier))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("color", r"'item' has no categorical or ordinal feature 'color'; it has: colour"),
        ("colour", None),
    ],
)
def test_a_category_must_be_a_feature_of_the_data(name, expected):
    config = dataclasses.replace(later_config(), new_ids=NewIdsConfig((f"item.{name}",)))
    if expected is None:
        run.prepare(config)
        return
    with pytest.raises(ConfigError, match=expected):
        run.prepare(config)
    with pytest.raises(ConfigError, match=r"the data has no nodes 'shop'; it has: user, item"):
        run.prepare(dataclasses.replace(config, new_ids=NewIdsConfig(("shop.colour",))))


@pytest.mark.parametrize(
    ("categories", "expected"),
    [(("item",), "write TYPE.FEATURE"), (("item.a", "item.b"), "'item' has one already")],
)
def test_categories_are_written_as_type_and_feature_once_for_each_type(categories, expected):
    config = dataclasses.replace(later_config(), new_ids=NewIdsConfig(categories))
    with pytest.raises(ConfigError, match=expected):
        run.prepare(config)


@pytest.mark.parametrize("how", ["cut", "other", "gone", "flipped"])
def test_a_damaged_checkpoint_or_list_of_ids_is_named(copy, tmp_path, how):
    path = copy / "vocabulary" / "item.parquet"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:50])
        expected = r"vocabulary/item\.parquet: damaged"
    elif how == "other":
        (copy / "vocabulary" / "user.parquet").rename(path)
        shutil.copy(path, copy / "vocabulary" / "user.parquet")
        expected = r"does not fit this model|knows none of"
    elif how == "gone":
        damage(copy / "checkpoints" / "8", "state")
        expected = r"checkpoints/8: cannot be read"
    else:
        damage(copy / "checkpoints" / "8", how)
        expected = r"--init_from=.*checkpoints/8: wrong checksum of .*; give another --init_step"
    with pytest.raises((CheckpointError, DataError), match=expected):
        fit.run(later_config(), tmp_path / "new", origin=Origin(copy, "last"))
    assert not (tmp_path / "new").exists()


def test_a_run_of_before_there_were_lists_of_ids_gets_them_by_its_own_command(copy, tmp_path):
    shutil.rmtree(copy / "vocabulary")
    with pytest.raises(CheckpointError, match=r"item\.parquet: missing.*Run its own training command again"):
        fit.run(later_config(), tmp_path / "new", origin=Origin(copy))
    fit.run(runs.tiny_config(), copy)
    assert started(later_config(), Origin(copy))[2]["nodes"]["item"]["known"] == 32


def test_the_flags_of_the_command(earlier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(runs.CONFIG_FILE)
    (tmp_path / "empty").mkdir()
    command = ("train", "--config=tiny.py", "--workdir=new")
    for flags, expected in (
        (("--init_from=nowhere",), "--init_from=nowhere: no such directory"),
        (("--init_from=empty",), "--init_from=empty: no config.json here; give the --workdir of a trained run"),
        (("--init_from=",), "--init_from is empty"),
        (("--init_from=new",), "--init_from=new is the --workdir itself"),
        (("--init_from=./empty/../new/",), "is the --workdir itself"),
        ((f"--init_from={earlier}", "--init_step=newest"), "--init_step=newest: give best, last, or the number"),
        ((f"--init_from={earlier}", "--init_moments=some"), "init_moments"),
        (("--init_step=last",), "--init_step=last says how to start from another run; give --init_from too"),
        (("--init_moments=reset",), "give --init_from too"),
    ):
        assert expected in runs.refusal(*command, *flags)
        assert not (tmp_path / "new").exists()
    (tmp_path / "empty" / "config.json").write_text("[]")
    assert "config.json: damaged" in runs.refusal(*command, "--init_from=empty")
    shutil.copy(earlier / "config.json", tmp_path / "empty")
    assert "vocabulary/item.parquet: missing" in runs.refusal(*command, "--init_from=empty")
    shutil.copytree(earlier / "vocabulary", tmp_path / "empty" / "vocabulary")
    assert "no checkpoints here" in runs.refusal(*command, "--init_from=empty")
    assert not (tmp_path / "new").exists()
    result = runs.command(*command, f"--init_from={earlier}", "--init_step=last", "--init_moments=reset")
    assert result.code == 0, result
    assert runs.command(*command).code == 0
    assert runs.command("evaluate", "--workdir=new").code == 0


def test_the_state_of_another_shape_is_refused(earlier, tmp_path):
    prepared = run.prepare(runs.tiny_config())
    template = prepared.initial_state()
    nodes = {table.name: table for table in prepared.embedded_nodes()}
    wrong = {"params": Params({}, {name: np.zeros((len(of), 9)) for name, of in nodes.items()})}
    with pytest.raises(
        CheckpointError, match=r"(?s)does not fit this model:\n.*user.*\(60, 9\), this model has \(60, 8\)"
    ):
        initialisation._check_shapes(wrong, {"params": template.params}, nodes, tmp_path)
    short = {"params": Params({}, {name: np.zeros((len(of) - 1, 8)) for name, of in nodes.items()})}
    with pytest.raises(CheckpointError, match="does not fit"):
        initialisation._check_shapes(short, {"params": template.params}, nodes, tmp_path)
