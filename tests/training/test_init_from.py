"""Starting a run from another one's parameters, on data with other nodes (`train --init_from`)."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, NewIdsConfig
from lsec_jax.models import ncf
from lsec_jax.schema import DataError, Feature, NodeTable
from lsec_jax.training import fit, initialisation, run, workdirs
from lsec_jax.training.checkpoints import CheckpointError, Checkpoints
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from tests import runs

# The later data: items in another order, some gone, some new. Users stay.
GONE, NUM_NEW = (3, 4, 39), 5


@dataclasses.dataclass
class Later:
    """The tiny world one day later; `colours` are an item feature."""

    has_colours: bool = True

    def load(self):
        data = runs.tiny_world().load()
        items = data.nodes["item"]
        order = np.setdiff1d(np.arange(len(items)), GONE)[::-1]
        ids = items.ids[order].astype("U20")
        ids[:NUM_NEW] = [f"a_new_item_{i}" for i in range(NUM_NEW)]
        at = np.full(len(items), -1)
        at[order] = np.arange(len(order))
        # Of colour 2 there are only new items, and the last one's is not known.
        colours = np.where(np.arange(len(order)) < 2, 2, np.arange(len(order)) % 2).astype(np.int32)
        colours[[NUM_NEW - 1, -1]] = -1
        features = {"colour": Feature("categorical", colours, ("red", "green", "blue"))} if self.has_colours else {}
        buy = data.relations["buy"].take(at[data.relations["buy"].target_ids] >= 0)
        buy = dataclasses.replace(buy, target_ids=at[buy.target_ids].astype(np.int32))
        nodes = {**data.nodes, "item": NodeTable("item", ids, features)}
        return data.replace(nodes=nodes, relations={"buy": buy}, truth=None)


def later_config(**training):
    return dataclasses.replace(runs.tiny_config(**training), data=Later())


def ncf_config(**training):
    model = ncf.Config(embedding_dim=4, mlp_dims=(8,))
    config = dataclasses.replace(runs.tiny_config(**training), model=model)
    return runs.replace(config, optimizer={"tables": "lazy"})


def stored(workdir, step):
    """The state of a checkpoint, as numpy."""
    template = run.prepare(workdirs.load_config(workdir, None, ("tests",))).initial_state()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(template, step)[0])


def started(config, origin):
    """(data, numpy state, record) of a run before its first step."""
    prepared = run.prepare(config)
    found = initialisation.start(prepared, origin)
    return prepared.data, jax.device_get(found.state), found.record


def of_ids(values, nodes):
    """Rows of a table by external id."""
    return dict(zip(nodes.ids.tolist(), values[: len(nodes)], strict=True))


def parts(state):
    """The parameters and all moments, by name."""
    adam = state.opt_state[0]
    return {"params": state.params, "mu": adam.mu, "nu": adam.nu}


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.plots, "draw", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "yesterday"
    fit.run(runs.tiny_config(), workdir)
    return workdir


@pytest.fixture
def copy(earlier, tmp_path):
    """A copy of the earlier run that a test may damage."""
    return shutil.copytree(earlier, tmp_path / "copy")


def test_known_rows_and_their_moments_come_along_bit_for_bit_though_their_places_moved(earlier):
    data, new, _ = started(later_config(), Origin(earlier, "last"))
    old_nodes, old = runs.tiny_world().load().nodes, stored(earlier, 8)
    for name, count in (("user", 60), ("item", 40 - len(GONE) - NUM_NEW)):
        moved = 0
        for part, own in parts(new).items():
            before = of_ids(parts(old)[part].tables[name], old_nodes[name])
            after = of_ids(own.tables[name], data.nodes[name])
            known = before.keys() & after.keys()
            assert len(known) == count
            for external in known:
                np.testing.assert_array_equal(after[external], before[external], strict=True)
            moved += part == "mu" and sum(np.any(after[external]) for external in known)
        assert moved > 20
        places = [old_nodes[name].index_of(data.nodes[name].ids), np.arange(len(data.nodes[name]))]
        assert (places[0] == places[1]).all() == (name == "user")
    jax.tree.map(np.testing.assert_array_equal, new.params.dense, old.params.dense)


def test_new_rows_are_the_mean_of_the_known_ones_and_their_moments_are_as_at_the_start(earlier):
    data, new, record = started(later_config(), Origin(earlier))
    is_new = np.char.startswith(data.nodes["item"].ids, "a_new")
    mean = new.params.tables["item"][~is_new].mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(new.params.tables["item"][is_new], np.broadcast_to(mean, (NUM_NEW, len(mean))))
    for part in ("mu", "nu"):
        assert not parts(new)[part].tables["item"][is_new].any() and parts(new)[part].tables["item"][~is_new].any()
    assert record["nodes"]["item"] == {"known": 32, "new": 5, "dropped": len(GONE) + NUM_NEW}
    assert record["nodes"]["user"] == {"known": 60, "new": 0, "dropped": 0}


def test_new_rows_of_a_category_are_the_mean_of_its_known_ones(earlier):
    config = dataclasses.replace(later_config(), new_ids=NewIdsConfig(("item.colour",)))
    data, new, _ = started(config, Origin(earlier))
    table, colours = new.params.tables["item"], data.nodes["item"].features["colour"].values
    is_new = np.char.startswith(data.nodes["item"].ids, "a_new")
    for i in range(NUM_NEW):
        same = ~is_new & (colours == colours[i]) & (colours[i] >= 0)
        of = same if same.any() else ~is_new
        np.testing.assert_allclose(table[i], table[of].mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert sorted(colours[:NUM_NEW]) == [-1, 0, 1, 2, 2]
    assert len(np.unique(table[:NUM_NEW], axis=0)) == 3  # of colours 0 and 1, and of all


def test_adams_count_stays_with_the_moments_and_the_schedule_begins_anew(earlier):
    _, kept, record = started(later_config(), Origin(earlier))
    best = record["step"]
    adam, schedule = kept.opt_state
    assert (kept.step, adam.count, schedule.count) == (0, best, 0) and best > 0
    _, reset, _ = started(later_config(), Origin(earlier, moments="reset"))
    adam, schedule = reset.opt_state
    assert (adam.count, schedule.count) == (0, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves((adam.mu, adam.nu)))
    jax.tree.map(np.testing.assert_array_equal, kept.params, reset.params)


@pytest.mark.parametrize("config", [runs.tiny_config, ncf_config], ids=["lightgcn", "ncf, lazy"])
def test_on_the_same_data_it_goes_on_as_the_earlier_run_would_have(config, tmp_path):
    """With the earlier run's step, and so its batches and draws, parameters and moments are equal bit for bit."""
    fit.run(config(), tmp_path / "long")
    with runs.killed_at(6):
        fit.run(config(), tmp_path / "short")
    prepared = run.prepare(config(num_steps=8))
    state = initialisation.start(prepared, Origin(tmp_path / "short", "4")).state
    assert state.step == 0
    state = state._replace(step=jax.device_put(np.int32(4), state.step.sharding))
    step_function, input_at = prepared.step_function(), prepared.input_at()
    for step in range(4, 8):
        state, _ = step_function(state, prepared.inputs, input_at(step).batch)
    whole = stored(tmp_path / "long", 8)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), whole.params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.opt_state[0]), whole.opt_state[0])
    assert (state.opt_state[1].count, whole.opt_state[1].count) == (4, 8)


@pytest.mark.parametrize(("name", "fresh"), [("adagrad", 0.25), ("sgd", None)])
def test_moments_of_new_rows_are_those_that_the_optimizer_starts_with(name, fresh, tmp_path):
    optimizer = {"name": name, **({"initial_accumulator": fresh} if fresh else {})}
    fit.run(runs.replace(runs.tiny_config(num_steps=2), optimizer=optimizer), tmp_path / "run")
    data, new, _ = started(runs.replace(later_config(), optimizer=optimizer), Origin(tmp_path / "run"))
    is_new = np.char.startswith(data.nodes["item"].ids, "a_new")
    if fresh is None:
        assert len(jax.tree.leaves(new.opt_state)) == 1  # the schedule's count
        return
    sums = new.opt_state[0].sum_of_squares.tables["item"]
    assert (sums[is_new] == fresh).all() and (sums[~is_new] > fresh).any()


def test_rows_of_padding_are_left_behind_and_those_of_the_new_table_stay(earlier):
    prepared = run.prepare(later_config())
    template = prepared.initial_state()
    nodes = prepared.embedded_nodes()
    placements = {table.name: initialisation.place(table, table, None, Origin(earlier)) for table in nodes}

    def padded(tree, value):
        pad = lambda table: np.pad(np.asarray(table), ((0, 3), (0, 0)), constant_values=value)  # noqa: E731
        return Params(tree.dense, {name: pad(table) for name, table in tree.tables.items()})

    ones = jax.tree.map(np.ones_like, jax.device_get(template.params))
    wide = template._replace(params=jax.device_put(padded(template.params, 7.0)), opt_state=())
    found = jax.device_get(initialisation.carry(wide, padded(ones, np.nan), None, placements))
    for table in found.params.tables.values():
        assert (table[:-3] == 1.0).all() and (table[-3:] == 7.0).all()


def test_the_record_says_where_a_run_comes_from_and_resuming_needs_the_earlier_run_no_more(copy, tmp_path):
    origin = Origin(copy, "last")
    fit.run(later_config(), tmp_path / "unbroken", origin=origin)
    with runs.killed_at(2):  # before the first validation and its checkpoint
        fit.run(later_config(), tmp_path / "broken", origin=origin)
    shutil.rmtree(copy)
    fit.run(later_config(), tmp_path / "broken", origin=origin)
    whole, resumed = (stored(tmp_path / name, 8) for name in ("unbroken", "broken"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    fit.run(later_config(), tmp_path / "broken")  # nor the flag
    record = json.loads((tmp_path / "broken" / "data.json").read_text())[workdirs.RECORD]
    assert (record["workdir"], record["asked_step"], record["step"]) == (str(copy), "last", 8)
    assert len(record["parameters_sha256"]) == 64 and record["moments"] == "keep"
    data = run.prepare(later_config()).data
    workdirs.check_fingerprint(tmp_path / "broken", data)
    with pytest.raises(DataError) as caught:
        workdirs.check_fingerprint(tmp_path / "broken", data.replace(end_time=1e6))
    assert workdirs.RECORD not in str(caught.value)


def test_a_run_stopped_before_its_first_checkpoint_begins_again_with_the_same_parameters_or_not_at_all(
    copy, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", stop)
        fit.run(later_config(num_steps=2), tmp_path / "new", origin=Origin(copy))
    record = json.loads((tmp_path / "new" / "data.json").read_text())
    changed = {**record, workdirs.RECORD: {**record[workdirs.RECORD], "parameters_sha256": "0" * 64}}
    (tmp_path / "new" / "data.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="is not the one that"):
        fit.run(later_config(num_steps=2), tmp_path / "new", origin=Origin(copy))
    (tmp_path / "new" / "data.json").write_text(json.dumps(record))
    copy.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="copy: gone, but the run that starts from it has no checkpoint"):
        fit.run(later_config(num_steps=2), tmp_path / "new")
    (tmp_path / "elsewhere").rename(copy)
    fit.run(later_config(num_steps=2), tmp_path / "new")
    fit.run(later_config(num_steps=2), tmp_path / "other", origin=Origin(copy))
    jax.tree.map(np.testing.assert_array_equal, *(stored(tmp_path / name, 2) for name in ("new", "other")))


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


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_checkpoint_or_list_of_ids_is_named(copy, tmp_path, damage):
    path = copy / "vocabulary" / "item.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
        expected = r"vocabulary/item\.parquet: damaged"
    elif damage == "other":
        (copy / "vocabulary" / "user.parquet").rename(path)
        shutil.copy(path, copy / "vocabulary" / "user.parquet")
        expected = r"does not fit this model|knows none of"
    else:
        shutil.rmtree(copy / "checkpoints" / "8" / "state")
        expected = r"checkpoints/8: cannot be read"
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
    assert isinstance(template, TrainState)
