"""Checkpoints on other meshes, of other runs and with damage; which of them stay."""

import errno
import gc
import itertools
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import path as orbax_path

from lsec_jax.schema import DataError
from lsec_jax.training import fit, run, workdirs
from lsec_jax.training.checkpoint_folders import CheckpointError, DamagedCheckpointError
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from tests import runs

pytestmark = pytest.mark.usefixtures("no_pictures")

NUM_ROWS, WIDTH = 10, 3
ZSTD = b"\x28\xb5\x2f\xfd"  # with which arrays begin


def new_state(num_rows=NUM_ROWS, width=WIDTH, seed=0, step=3):
    """A dense part and a table, both with Adam's moments; rows past NUM_ROWS are zeros."""
    drawn = [jax.random.normal(key, (NUM_ROWS, width)) for key in jax.random.split(jax.random.key(seed), 4)]
    padding = ((0, max(num_rows - NUM_ROWS, 0)), (0, 0))
    tables = [{"user": jnp.pad(values, padding)[:num_rows]} for values in drawn[1:]]
    params = Params({"w": drawn[0], "b": jnp.array(True)}, tables[0])
    own = optax.adam(0.1).init(Params({"w": drawn[0]}, tables[0]))
    moments = own[0]._replace(mu=Params({"w": drawn[1]}, tables[1]), nu=Params({"w": drawn[2]}, tables[2]))
    return TrainState(jnp.asarray(step, jnp.int32), params, (moments, *own[1:]))


def on_mesh(state, num_devices):
    """The state with its tables row-sharded over some devices, and everything else on each of them."""
    mesh = jax.make_mesh((num_devices,), ("model",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:num_devices])

    def place(path, leaf):
        is_table = "tables" in jax.tree_util.keystr(path)
        return jax.device_put(leaf, NamedSharding(mesh, P("model", None) if is_table else P()))

    return jax.tree_util.tree_map_with_path(place, state)


def save(folder, state, **rest):
    with Checkpoints(folder, **rest) as checkpoints:
        checkpoints.save(state, Progress())


def restore(folder, template, step=3):
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore(template, step)[0]


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


@pytest.mark.parametrize("saved_on", [1, 2, 4, 8])
def test_a_checkpoint_restores_on_any_mesh_with_as_many_rows_of_zeros_as_it_needs(tmp_path, saved_on):
    def padded(num_devices, seed):
        return on_mesh(new_state(-(-NUM_ROWS // num_devices) * num_devices, seed=seed), num_devices)

    save(tmp_path / "0", padded(saved_on, seed=0))
    for i, num_devices in enumerate((4, 8, 1, saved_on)):
        restored = restore(tmp_path / str(i), padded(num_devices, seed=1))
        assert_same(restored, padded(num_devices, seed=0))
        table = restored.params.tables["user"]
        assert len(table.sharding.device_set) == num_devices == len(table.addressable_shards)
        save(tmp_path / str(i + 1), restored)
    assert_same(restore(tmp_path / "4", new_state(seed=1)), new_state())


def test_rows_past_those_stored_are_zeros_on_devices_that_hold_none_of_them(tmp_path):
    save(tmp_path, new_state())
    assert_same(restore(tmp_path, on_mesh(new_state(32, seed=1), 8)), new_state(32))


def test_rows_that_are_not_zeros_are_never_left_out(tmp_path):
    save(tmp_path, new_state())
    with pytest.raises(DamagedCheckpointError, match=r"/3: damaged \(wrong checksum of params.tables\['user'\]"):
        restore(tmp_path, new_state(NUM_ROWS - 2))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (new_state(width=4), r"params\.dense\['w'\]: float32\[10, 3\] -> float32\[10, 4\]"),
        (new_state(width=4), r"opt_state\[0\]\.mu\.tables\['user'\]: float32\[any, 3\] -> float32\[any, 4\]"),
        (new_state()._replace(opt_state=()), r"opt_state\[0\]\.count: int32\[\] -> \(absent\)"),
        (new_state()._replace(step=jnp.zeros(1, jnp.int32)), r"step: int32\[\] -> int32\[1\]"),
        (new_state()._replace(step=jnp.zeros(())), r"step: int32\[\] -> float32\[\]"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path, template, expected):
    save(tmp_path, new_state())
    with pytest.raises(CheckpointError, match=r"/3: is of another model \(stored -> now\):\n") as caught:
        restore(tmp_path, template)
    assert re.search(expected, str(caught.value))
    assert type(caught.value) is CheckpointError  # it is whole, and not to be moved aside


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint32", "bool", "float32"])
def test_a_single_wrong_value_of_any_type_is_noticed(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4) % 2
    state = TrainState(jnp.asarray(3, jnp.int32), {"w": jnp.asarray(values, dtype)}, ())
    save(tmp_path, state)
    path = tmp_path / "3" / "record" / "metadata"
    record = json.loads(path.read_text())
    assert_same(restore(tmp_path, state), state)
    wrong = state._replace(params={"w": state.params["w"].at[1, 2, 3].set(values.dtype.type(0).astype(dtype))})
    save(tmp_path / "wrong", wrong)
    record["arrays"] = json.loads((tmp_path / "wrong" / "3" / "record" / "metadata").read_text())["arrays"]
    path.write_text(json.dumps(record))
    with pytest.raises(DamagedCheckpointError, match=r"wrong checksum of params\['w'\]"):
        restore(tmp_path, state)


def validated(folder, values, num_last, num_best):
    """Saves a checkpoint for each value of a validation, None = without; returns the steps that stay."""
    progress = Progress()
    for step, value in enumerate(values, 1):
        if step in (1, 4):  # opened again: what stays does not depend on that
            checkpoints = Checkpoints(folder, num_last, keep_best=num_best)
        if value is not None:
            progress.record(step, value)
        checkpoints.save(new_state(step=step), progress, value)
        if step in (3, len(values)):
            checkpoints.__exit__(None)
    with Checkpoints(folder, read_only=True) as checkpoints:
        best = checkpoints.best_step()
    return [int(path.name) for path in sorted(folder.iterdir()) if path.name.isdigit()], best


@pytest.mark.parametrize(
    ("values", "num_last", "num_best", "kept", "best"),
    [
        ([0.1, 0.9, 0.5, 0.9, 0.2, 0.3], 1, 1, [2, 6], 2),
        ([0.1, 0.9, 0.5, 0.9, 0.2, 0.3], 2, 3, [2, 3, 4, 5, 6], 2),
        ([0.1, None, 0.5, None, None, None], 2, 2, [1, 3, 5, 6], 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2, 1, [5, 6], 6),
        ([None] * 6, 2, 3, [5, 6], 6),
    ],
)
def test_the_newest_and_those_of_the_best_validations_stay(tmp_path, values, num_last, num_best, kept, best):
    assert validated(tmp_path, values, num_last, num_best) == (kept, best)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, no_pictures):
    workdir = tmp_path_factory.mktemp("trained")
    fit.run(runs.tiny_config(log_every=1), workdir)
    return workdir


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def prepared():
    return run.prepare(runs.tiny_config(log_every=1))


def resumed(prepared, workdir, fall_back=False):
    """The state that training of this workdir would go on from."""
    return fit._restore(prepared, workdir / "checkpoints", fall_back, Checkpoints.latest_step)[0]


def damage(folder, how):
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    arrays = [path for path in files if "/d/" in path.as_posix()]
    if how == "truncated":
        content = arrays[-1].read_bytes()
        arrays[-1].write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content = bytearray(arrays[-1].read_bytes())
        frames = [found.start() for found in re.finditer(re.escape(ZSTD), content)]
        begin, end = max(itertools.pairwise([*frames, len(content)]), key=lambda of: of[1] - of[0])
        content[(begin + end) // 2] ^= 4  # in the middle of an array: not all else in such files is read
        arrays[-1].write_bytes(bytes(content))
    elif how == "emptied":
        for path in files:
            path.write_bytes(b"")
    else:
        shutil.rmtree(folder / how)


# Orbax leaves coroutines and an event loop behind where it finds files damaged; they are collected within this test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "state", "progress", "metrics"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_used_on_request_only(finished, prepared, how):
    damage(finished / "checkpoints" / "8", how)
    before = runs.steps_of(finished)
    with pytest.raises(DamagedCheckpointError, match=r"checkpoints/8: damaged \(.*--fall_back") as caught:
        resumed(prepared, finished)
    assert len(str(caught.value)) < 700 and runs.steps_of(finished) == before
    assert resumed(prepared, finished, fall_back=True).step == 6
    assert (finished / "damaged_checkpoints" / "8").is_dir()
    gc.collect()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        MemoryError("no room"),
        RuntimeError("[gloo] Connection reset by peer"),
        ValueError("RESOURCE_EXHAUSTED: Error opening local file: Too many open files"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Buffer was deleted or donated"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_for_another_reason_is_not_set_aside(finished, prepared, monkeypatch, error):
    def failing(*args, **kwargs):
        raise error

    before = runs.steps_of(finished)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", failing)
        with pytest.raises(CheckpointError, match=r"8: cannot be read .* not known to be damaged; the") as caught:
            resumed(prepared, finished, fall_back=True)
    assert type(caught.value) is CheckpointError and runs.steps_of(finished) == before
    assert resumed(prepared, finished).step == 8


def test_a_run_that_falls_back_comes_to_the_same_end(finished, prepared, trained, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(runs.CONFIG_FILE.replace("tiny_config()", "tiny_config(log_every=1)"))
    damage(finished / "checkpoints" / "8", "flipped")
    command = ("train", f"--config={config}", f"--workdir={finished}")
    assert "checkpoints/8: damaged (" in runs.refusal(*command)
    assert runs.command(*command, "--fall_back").code == 0
    assert_same(resumed(prepared, finished), resumed(prepared, trained))


def test_a_second_damaged_checkpoint_of_a_step_does_not_replace_the_first(finished, prepared):
    for _ in range(2):
        shutil.copytree(finished / "checkpoints" / "6", finished / "checkpoints" / "8", dirs_exist_ok=True)
        damage(finished / "checkpoints" / "8", "state")
        assert resumed(prepared, finished, fall_back=True).step == 6
    assert {path.name for path in (finished / "damaged_checkpoints").iterdir()} == {"8", "8.1"}


def test_the_last_whole_checkpoint_is_not_given_up(finished, prepared):
    for step in runs.steps_of(finished):
        damage(finished / "checkpoints" / str(step), "state")
    with pytest.raises(CheckpointError, match="there is no other checkpoint to fall back on; restore that folder"):
        resumed(prepared, finished, fall_back=True)
    assert len(runs.steps_of(finished)) == 1


def test_a_checkpoint_and_the_data_are_all_that_evaluation_needs(finished):
    for path in finished.iterdir():
        if path.name != "checkpoints":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert runs.command("evaluate", f"--workdir={finished}").code == 0
    assert runs.command("recommend", f"--workdir={finished}", f"--output={finished / 'r.csv'}").code == 0


def test_the_checkpoint_of_another_model_or_data_set_is_refused(finished, prepared, tmp_path):
    other = runs.replace(runs.tiny_config(log_every=1), model={"layer_dims": (8, 8)})
    other.data = runs.tiny_world(num_buy=650)
    fit.run(other, tmp_path / "other")
    shutil.rmtree(finished / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", finished / "checkpoints")
    message = runs.refusal("evaluate", f"--workdir={finished}")
    assert "/8: is of another model or data set (stored -> now):" in message
    assert "config.model.layer_dims: [8, 8] -> [8]" in message and "data.edges.buy: 650 -> 700" in message
    with pytest.raises(CheckpointError, match="is of another model or data set"):
        resumed(prepared, finished, fall_back=True)


def test_evaluation_takes_the_new_best_checkpoint_where_training_replaces_it_meanwhile(finished, prepared, monkeypatch):
    restored = run.Run.restore
    monkeypatch.setattr(Checkpoints, "best_step", lambda self: self.latest_step())
    shutil.copytree(finished / "checkpoints" / "8", finished / "checkpoints" / "9")

    def replaced(self, checkpoints, step):
        if step == 9:
            shutil.rmtree(finished / "checkpoints" / "9")
        return restored(self, checkpoints, step)

    monkeypatch.setattr(run.Run, "restore", replaced)
    assert workdirs.restore_best(prepared, finished)[0].step == 8


def test_a_checkpoint_that_training_removes_while_the_directory_is_opened_is_not_missed(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, new_state(step=step), keep_last=2)
    commit_timestamp, gone = orbax_path.step.Metadata.commit_timestamp, tmp_path / "gone"

    def removed_first(metadata):
        if metadata.step == 1 and not gone.exists():
            (tmp_path / "1").rename(gone)
        return commit_timestamp.fget(metadata)

    monkeypatch.setattr(orbax_path.step.Metadata, "commit_timestamp", property(removed_first))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() == checkpoints.latest_step() == 2
    assert gone.exists()


def test_a_resumed_run_may_change_which_checkpoints_stay_and_the_workdir_says_so(finished):
    config = runs.replace(runs.tiny_config(log_every=1), checkpoint={"keep_last": 1}, training={"max_skipped": 3})
    shutil.rmtree(finished / "checkpoints" / "8")
    fit.run(config, finished)
    stored = json.loads((finished / "config.json").read_text())
    assert stored["checkpoint"]["keep_last"] == 1 and stored["training"]["max_skipped"] == 3


def test_a_checkpoint_of_before_there_were_records_still_goes_on(finished, prepared, trained):
    shutil.rmtree(finished / "checkpoints" / "8")
    for path in (finished / "checkpoints").glob("*/record"):
        shutil.rmtree(path)
    for path in (finished / "checkpoints").glob("*/progress/metadata"):
        progress = json.loads(path.read_text())
        for name in ("skipped", "pending", "owes_validation"):
            del progress[name]
        path.write_text(json.dumps(progress))
    fit.run(runs.tiny_config(log_every=1), finished)
    assert_same(resumed(prepared, finished), resumed(prepared, trained))


def test_records_of_a_later_version_of_fingerprints_are_refused(finished, prepared):
    for path in finished.glob("checkpoints/*/record/metadata"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "data": {**record["data"], "fingerprint_version": 99}}))
    with pytest.raises(DataError, match="fingerprint_version = 99"):
        resumed(prepared, finished)
