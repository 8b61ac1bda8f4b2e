"""Starting a run from another one's parameters, on data with other nodes: what comes along."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from lsec_jax.config import NewIdsConfig
from lsec_jax.schema import DataError
from lsec_jax.training import fit, initialisation, run, workdirs
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.tables import Params
from tests import runs
from tests.training.later_data import GONE, NUM_NEW, later_config, ncf_config, started, stored

pytestmark = pytest.mark.usefixtures("no_pictures")


def of_ids(values, nodes):
    """Rows of a table by external id."""
    return dict(zip(nodes.ids.tolist(), values[: len(nodes)], strict=True))


def parts(state):
    """The parameters and all moments, by name."""
    adam = state.opt_state[0]
    return {"params": state.params, "mu": adam.mu, "nu": adam.nu}


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
