import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, TrainingConfig
from lsec_jax.data.sources import lightgcn_text
from lsec_jax.schema import DataError
from lsec_jax.training import data_records, fit, locks, loop, run, state, workdirs, writers
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.step_inputs import StepInput
from tests import runs

pytestmark = pytest.mark.usefixtures("no_pictures")


def lines_of(workdir, kind=None):
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if kind in (None, line["kind"])]
    return [{name: value for name, value in line.items() if not name.endswith(runs.TIMING)} for line in lines]


def stored(workdir, step):
    """(state, progress) of one checkpoint, as numpy, the time left out."""
    config = workdirs.load_config(workdir, None, ())
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        found, progress = checkpoints.restore(run.prepare(config).initial_state(), step)
    progress.train_seconds = progress.compile_seconds = 0.0
    return jax.device_get(found), progress


@pytest.fixture(scope="module")
def unbroken_and_compiled(tmp_path_factory, no_pictures):
    """The workdir of a finished run, and the names of what it compiled."""
    workdir = tmp_path_factory.mktemp("unbroken")
    with runs.compiled_names() as compiled:
        fit.run(runs.tiny_config(log_every=1), workdir)
    return workdir, compiled


@pytest.fixture(scope="module")
def unbroken(unbroken_and_compiled):
    return unbroken_and_compiled[0]


@pytest.fixture
def finished(unbroken, tmp_path):
    """A copy of a finished run that a test may damage."""
    return shutil.copytree(unbroken, tmp_path / "run")


def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(unbroken, tmp_path, monkeypatch):
    write = writers.MetricWriter.write

    def killed(self, step, kind, *rest):
        write(self, step, kind, *rest)
        if step == 5:
            self._file.write('{"step": 6, "ki')  # the line that a kill cuts
            raise KeyboardInterrupt

    monkeypatch.setattr(writers.MetricWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        fit.run(runs.tiny_config(log_every=1), tmp_path)
    assert runs.steps_of(tmp_path)[-1] == 4
    monkeypatch.undo()
    fit.run(runs.tiny_config(log_every=1), tmp_path)

    broken, whole = stored(tmp_path, 8), stored(unbroken, 8)
    for left, right in zip(jax.tree.leaves(broken[0]), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_array_equal(left, right)
    assert broken[1] == whole[1]
    assert lines_of(tmp_path) == lines_of(unbroken)
    assert runs.steps_of(tmp_path) == runs.steps_of(unbroken)
    rows = [json.loads((path / "report.json").read_text())["rows"] for path in (tmp_path, unbroken)]
    assert [row["metrics"] for row in rows[0]] == [row["metrics"] for row in rows[1]]


def test_a_finished_run_started_again_only_reports(finished, monkeypatch):
    before = lines_of(finished)
    report = (finished / "report.md").read_text()
    (finished / "report.json").unlink()
    monkeypatch.setattr(run.Run, "step_function", lambda self: pytest.fail)
    assert fit.run(runs.tiny_config(log_every=1), finished) == report
    assert lines_of(finished) == before and (finished / "report.json").exists()


def test_the_workdir_of_another_config_is_refused_with_the_difference(finished):
    config = runs.replace(runs.tiny_config(log_every=1), optimizer={"learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"config\.optimizer\.learning_rate: 0\.0005 -> 0\.5"):
        fit.run(config, finished)


def test_a_run_goes_on_with_other_devices_and_processes(finished):
    config = runs.replace(runs.tiny_config(log_every=1), parallel={"heartbeat_seconds": 7})
    assert workdirs.check_workdir(finished, config) == config


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        fit.run(runs.tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_workdir_whose_data_changed_is_refused(finished, monkeypatch):
    load = type(runs.tiny_config().data).load

    def other_data(self):
        data = load(self)
        buy = data.relations["buy"]
        changed = buy.source_ids.copy(), buy.target_ids.copy()
        relation = type(buy)("buy", "user", "item", changed[0][1:], changed[1][1:], buy.time[1:])
        return data.replace(relations={**data.relations, "buy": relation}, truth=None)

    monkeypatch.setattr(type(runs.tiny_config().data), "load", other_data)
    with pytest.raises(DataError, match=r"data\.edges\.buy: 700 -> 699"):
        fit.run(runs.tiny_config(log_every=1), finished)


@pytest.mark.parametrize("content", [None, "{}", "[]"])
def test_a_workdir_whose_record_of_the_data_is_gone_is_refused_with_the_remedy(finished, content):
    (finished / "data.json").unlink()
    if content is not None:
        (finished / "data.json").write_text(content)
    with pytest.raises(DataError, match=r"data\.json is missing or damaged; restore the file"):
        fit.run(runs.tiny_config(log_every=1), finished)


def test_a_workdir_of_before_there_were_versions_of_fingerprints_is_still_known(finished):
    config = runs.tiny_config(log_every=1)
    record = json.loads((finished / "data.json").read_text())
    data = run.prepare(config).data
    assert record.pop("fingerprint_version") == 2 and record["fingerprint"] == data.fingerprint()
    record["fingerprint"] = data.fingerprint(version=1)
    assert record["fingerprint"] != data.fingerprint()
    (finished / "data.json").write_text(json.dumps(record))
    workdirs.check_fingerprint(finished, data)
    later = data.replace(cut_times=tuple(np.add(data.cut_times, 1e-6)))
    workdirs.check_fingerprint(finished, later)  # all that the old fingerprint can tell
    (finished / "data.json").write_text(json.dumps(data_records.describe_data(data)))
    with pytest.raises(DataError, match=r"data\.fingerprint: "):
        workdirs.check_fingerprint(finished, later)
    (finished / "data.json").write_text(json.dumps({**record, "fingerprint_version": 3}))
    with pytest.raises(DataError, match=r"fingerprint_version = 3; this version of lsec_jax knows 1 to 2"):
        workdirs.check_fingerprint(finished, data)


def test_a_run_of_before_inputs_were_made_ahead_and_compilation_was_counted_goes_on(finished, unbroken):
    shutil.rmtree(finished / "checkpoints" / "8")
    config = json.loads((finished / "config.json").read_text())
    assert config["training"].pop("prefetch") == 2
    (finished / "config.json").write_text(json.dumps(config))
    for path in (finished / "checkpoints").glob("*/progress/metadata"):
        progress = json.loads(path.read_text())
        assert progress.pop("compile_seconds") > 0
        path.write_text(json.dumps(progress))
    fit.run(runs.tiny_config(log_every=1), finished)
    old, new = stored(finished, 8), stored(unbroken, 8)
    jax.tree.map(np.testing.assert_array_equal, old[0], new[0])
    assert old[1] == new[1] and lines_of(finished) == lines_of(unbroken)
    report = json.loads((finished / "report.json").read_text())
    assert 0 < report["compile_seconds"] < report["train_seconds"]


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--workdir=.*cannot be created .*choose another place"):
        fit.run(runs.tiny_config(), tmp_path / "file" / "run")


def test_a_disk_that_is_full_under_the_metrics_is_named_by_its_workdir(tmp_path, monkeypatch):
    write = writers.MetricWriter.write

    def full(self, step, *rest):
        if step == 5:
            self._file.close()
            self._file = open("/dev/full", "a")
        write(self, step, *rest)

    monkeypatch.setattr(writers.MetricWriter, "write", full)
    message = r"^workdir .*: cannot be written \(No space left on device\)\. Make room there; then the same command"
    with pytest.raises(fit.WorkdirError, match=message):
        fit.run(runs.tiny_config(log_every=1), tmp_path)
    assert runs.steps_of(tmp_path)[-1] == 4


def test_a_disk_that_is_full_under_the_lock_is_named_by_its_workdir(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(locks.WorkdirLock, "_lock", full)
    (tmp_path / locks.LOCK_NAME).touch()
    with pytest.raises(fit.WorkdirError, match=r"^workdir .*: cannot be written \(No space left on device\)"):
        fit.run(runs.tiny_config(), tmp_path)


def test_without_validation_edges_patience_must_be_zero(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pairs = "".join(f"{u} {' '.join(str((u + i) % 30) for i in range(8))}\n" for u in range(20))
    (folder / "train.txt").write_text(pairs)
    (folder / "test.txt").write_text("".join(f"{u} {(u + 9) % 30}\n" for u in range(20)))
    config = runs.tiny_config(num_steps=3, evaluate_every=2, patience=2)
    config.data = lightgcn_text.Config(str(folder))
    with pytest.raises(ConfigError, match=r"patience = 2, but 'buy' has no validation edges.*set it to 0"):
        fit.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.training.patience = 0
    fit.run(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    assert {row["split"] for row in rows} == {"test"}
    assert not lines_of(tmp_path / "run", "validation")
    assert stored(tmp_path / "run", 3)[0].step == 3


def test_the_step_and_the_scorer_compile_once(unbroken_and_compiled):
    assert [unbroken_and_compiled[1].count(name) for name in ("step", "scorer")] == [1, 1]


# The loop alone, on a counter instead of a model.


def counter_step(losses=()):
    @jax.jit
    def step(old, inputs, batch):
        position = old.step
        loss = jax.numpy.asarray([*losses, *[1.0] * 50])[position] if losses else 1.0 * position
        return state.TrainState(position + 1, {"w": old.params["w"] + 1.0}, old.opt_state), {"loss": loss}

    return step


def new_state():
    return state.TrainState(jax.numpy.zeros((), int), {"w": jax.numpy.zeros(3)}, ())


def train_counter(workdir, values, config, losses=(), progress=None):
    """Trains; `values` are the validation metrics to come."""
    pending = iter(values)
    progress = progress or Progress()
    with (
        Checkpoints(workdir / "checkpoints", 1) as checkpoints,
        writers.MetricWriter(workdir, 0, config.num_steps) as writer,
    ):
        loop.train(
            config,
            new_state(),
            progress,
            counter_step(losses),
            lambda step: StepInput({}),
            None,
            lambda state: {"validation": {"auc": next(pending)}},
            checkpoints,
            writer,
        )
    return progress


def best_of(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(new_state(), checkpoints.best_step())[0]


def test_early_stopping_waits_for_patience_and_keeps_the_best(tmp_path):
    config = TrainingConfig(num_steps=100, evaluate_every=2, patience=3, log_every=1)
    progress = train_counter(tmp_path, [0.1, 0.5, 0.4, 0.5, 0.3], config)
    assert (progress.best_step, progress.best_value, progress.misses) == (4, 0.5, 3)
    assert [line["step"] for line in lines_of(tmp_path, "validation")] == [2, 4, 6, 8, 10]
    assert best_of(tmp_path).step == 4 and best_of(tmp_path).params["w"][0] == 4.0
    assert runs.steps_of(tmp_path) == [4, 10]


def test_equal_values_keep_the_earliest_checkpoint(tmp_path):
    progress = train_counter(tmp_path, [1.0] * 4, TrainingConfig(num_steps=8, evaluate_every=2, patience=0))
    assert progress.best_step == 2 == best_of(tmp_path).step


def test_a_nan_loss_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
    config = TrainingConfig(num_steps=20, evaluate_every=4, patience=0, log_every=2)
    losses = [0.5] * 6 + [float("nan")]
    with pytest.raises(loop.NonFiniteError, match=r"step 7: loss is not finite.*checkpoint of step 4 is intact"):
        train_counter(tmp_path, [0.5] * 5, config, losses)
    assert best_of(tmp_path).step == 4
    assert [line["step"] for line in lines_of(tmp_path, "train")] == [2, 4, 6]
    with pytest.raises(loop.NonFiniteError, match=r"step 1: loss is not finite.*no checkpoint"):
        train_counter(tmp_path / "again", [0.5] * 5, config, [float("inf")])


def test_metrics_that_a_resumed_run_has_no_more_are_means_over_the_steps_that_had_them(tmp_path):
    """Such as those of another way of lookups."""
    progress = Progress(pending=[{"loss": 5.0, "lookup_overflow": 3.0}, {"loss": 3.0, "lookup_overflow": 4.0}])
    train_counter(tmp_path, [0.5], TrainingConfig(num_steps=2, patience=0, log_every=2), progress=progress)
    (line,) = lines_of(tmp_path, "train")
    assert (line["loss"], line["lookup_overflow"]) == ((5 + 3 + 0 + 1) / 4, 3.5)


def test_the_time_limit_stops_with_a_validated_checkpoint(tmp_path):
    config = TrainingConfig(num_steps=10**6, evaluate_every=10**6, patience=0, log_every=3, max_seconds=0.05)
    progress = train_counter(tmp_path, [0.5] * 5, config)
    last = runs.steps_of(tmp_path)[-1]
    assert last % 3 == 0 and progress.best_step == last and 0.05 <= progress.train_seconds < 30
    assert not loop.is_finished(config, 1, Progress()) and loop.is_finished(config, last, progress)


def test_the_time_left_counts_validations_but_not_compilation(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    config = TrainingConfig(num_steps=40, evaluate_every=10)
    clock = loop._Clock(0.0)
    now[0] += 60.0  # the step that compiles
    assert clock.after_step([{}])
    now[0] += 9 * 0.5
    assert not clock.after_step([{}] * 10)
    assert clock.seconds() == 64.5
    assert clock.rates(10)["seconds_per_step"] == 0.5
    with clock.validating():
        now[0] += 7.0
    assert clock.seconds_left(config, 10) == 30 * 0.5 + 3 * 7.0
    assert clock.seconds() == 64.5
    assert clock.seconds_left(config, 40) == 0.0


def test_progress_lines_show_rate_time_left_and_metrics_once_a_validation(tmp_path, caplog):
    writers.logging.set_verbosity(writers.logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        train_counter(tmp_path, [0.25, 0.5], TrainingConfig(num_steps=4, evaluate_every=2, patience=0, log_every=1))
    shown = [r.getMessage() for r in caplog.records if "steps/s" in r.getMessage()]
    assert [line.split("  ")[0] for line in shown] == [f"step {i}/4" for i in range(1, 5)]
    assert " left  loss " in shown[1] and shown[1].endswith("  auc 0.25  best 0.25")
    assert not [r for r in caplog.records if "illegal" in r.getMessage()]
