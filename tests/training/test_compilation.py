"""What compiles when, and the cache of compiled programs."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsec_jax
from lsec_jax.config import TrainingConfig
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.nn.native import kernels
from lsec_jax.training import compilation, fit, loop, reports, run, state, workdirs, writers
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.step_inputs import StepInput
from tests import runs

BOTH_TASKS = (lsec_gnn.TaskConfig("buy", weight=0.5), lsec_gnn.TaskConfig("follow", weight=0.5))
WIDE = {"tasks": BOTH_TASKS, "embedding_dim": 8, "layer_dims": (8, 4), "num_heads": 2, "predictor_hidden": 8}
MODELS = {
    "lsec_gcn": lsec_gnn.Config(**WIDE),
    "lsec_gcn_sampled": lsec_gnn.Config(**WIDE, training_graph="sampled", fanout_limits=(2, 3)),
    "lsec_gat": lsec_gnn.Config(**WIDE, aggregator="gat"),
    "lightgcn": runs.tiny_config().model,
    "ncf": ncf.Config(embedding_dim=8),
}


@pytest.fixture
def compilation_counts(monkeypatch, no_pictures):
    """For each training loop, how many programs were asked for after its first checkpoint."""
    counts, warm = [], []
    save, train = Checkpoints.save, loop.train

    def remember(self, *args):
        save(self, *args)
        warm.append(compilation.log().now().programs)

    def count(*args):
        warm.clear()
        try:
            return train(*args)
        finally:
            counts.append(compilation.log().now().programs - warm[0])

    monkeypatch.setattr(Checkpoints, "save", remember)
    monkeypatch.setattr(loop, "train", count)
    return counts


@pytest.mark.parametrize("name", MODELS)
def test_nothing_compiles_after_the_first_step_and_the_first_validation(name, tmp_path, compilation_counts):
    config = runs.tiny_config(num_steps=12, patience=4, log_every=1, track_test=True)
    config.model, config.optimizer.learning_rate = MODELS[name], 1e-30  # nothing is learnt: patience ends it early
    with runs.killed_at(7):
        fit.run(config, tmp_path)
    fit.run(config, tmp_path)
    assert compilation_counts == [0, 0]
    assert json.loads((tmp_path / "report.json").read_text())["last_step"] == 10

    prepared = run.prepare(config)
    before = []
    for _ in range(2):
        best, _ = workdirs.restore_best(prepared, tmp_path)
        before.append(compilation.log().now().programs)
        rows = reports.rows(prepared, {"model": prepared.scorer_function()(best)}, ["test"], ["candidates"], 0.0)
    assert rows and compilation.log().now().programs == before[1]


def train(workdir, num_steps, shape_at, validate=lambda state: {}, compile_seconds=0.0):
    """Trains a counter on batches of the given shapes."""

    @jax.jit
    def step(old, inputs, batch):
        return old._replace(step=old.step + 1), {"loss": jnp.sum(batch["x"])}

    config = TrainingConfig(num_steps=num_steps, evaluate_every=2, patience=0, log_every=2)
    progress = Progress(train_seconds=compile_seconds, compile_seconds=compile_seconds)
    with (
        Checkpoints(workdir / "checkpoints", 1) as checkpoints,
        writers.MetricWriter(workdir, 0, num_steps) as writer,
    ):
        loop.train(
            config,
            state.TrainState(jnp.zeros((), int), {"w": jnp.zeros(3)}, ()),
            progress,
            step,
            lambda number: StepInput({"x": np.ones(shape_at(number))}),
            None,
            validate,
            checkpoints,
            writer,
        )
    return progress


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "compiled again after warm-up" in record.getMessage()]


def test_a_step_that_compiles_after_warm_up_is_named_once(tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"):
        train(tmp_path, 8, lambda step: 2 if step < 4 else 3 + step)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("step 5: the training step compiled again") and "step" in warning.partition(": ")[2]


def test_a_validation_that_compiles_again_is_named(tmp_path, caplog):
    lengths = iter(range(2, 10))
    train(
        tmp_path,
        6,
        lambda step: 2,
        lambda state: dict(zip([], jax.jit(lambda x: x * 3)(jnp.ones(next(lengths))), strict=False)),
    )
    (warning,) = warnings_of(caplog)
    assert warning.startswith("step 4: validation compiled again")


def test_compilation_is_announced_and_told_apart_from_the_rest_of_training_time(tmp_path, caplog):
    writers.logging.set_verbosity(writers.logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        progress = train(tmp_path, 4, lambda step: 2)
    assert 0 < progress.compile_seconds <= progress.train_seconds
    shown = [record.getMessage() for record in caplog.records if "the training step" in record.getMessage()]
    assert shown[0] == "compiling the training step" and shown[1].startswith("compiled the training step in ")
    assert not warnings_of(caplog)


def test_a_resumed_run_adds_to_the_compilation_of_earlier_processes_and_announces_its_own(tmp_path, caplog):
    writers.logging.set_verbosity(writers.logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        progress = train(tmp_path, 4, lambda step: 2, compile_seconds=5000.0)
    assert 5000 < progress.compile_seconds <= progress.train_seconds < 6000
    (shown,) = [
        record.getMessage() for record in caplog.records if "compiled the training step in" in record.getMessage()
    ]
    assert 0 <= float(shown.split()[-2]) < 1000


class SlowList(list):
    """Lets other threads go on between a look at an entry and what is done about it, and before a new one is there."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        time.sleep(1e-4)
        return found

    def append(self, entry):
        time.sleep(1e-4)
        super().append(entry)


def test_the_log_takes_programs_of_several_threads_at_once():
    log, num_each = compilation.CompilationLog(), 50
    log._spans = SlowList()

    def compile_much(thread):
        for _ in range(num_each):
            log.on_span(compilation._COMPILE, 1.0, 2.0 + thread, fun_name="f")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compile_much, range(4)))
    assert log.now() == compilation.Compiled(4 * num_each, 0, 4.0)


def test_phases_within_each_other_and_of_several_threads_count_once():
    log = compilation.CompilationLog()
    trace, _, compiling = compilation._PHASES
    for event, start, end in [(trace, 1.0, 2.0), (trace, 0.5, 3.0), (compiling, 3.5, 4.0), ("other", 4.0, 9.0)]:
        log.on_span(event, start, end)
    assert log.now() == compilation.Compiled(1, 0, 3.0)
    log.on_span(compiling, 2.5, 4.5)
    assert log.now() == compilation.Compiled(2, 0, 4.0)


@pytest.fixture
def no_cache_after():
    with runs.no_cache_after():
        yield


@pytest.mark.compiled
def test_programs_with_compiled_kernels_come_from_the_cache_and_give_the_same(tmp_path, no_cache_after):
    compilation.use_cache(tmp_path / "cache")
    indptr, senders = jnp.array([0, 2, 3]), jnp.array([1, 0, 1])
    vectors = jnp.arange(40.0).reshape(2, 20)
    results, from_cache = [], []
    for _ in range(2):
        jax.clear_caches()

        def doubled(vectors):
            return 2 * kernels.neighbor_sum(indptr, senders, jnp.ones(3), vectors)

        results.append(np.asarray(jax.jit(doubled)(vectors)))
        from_cache.append(compilation.log().now().from_cache)
    np.testing.assert_array_equal(*results)
    assert from_cache[1] > from_cache[0] and any((tmp_path / "cache").iterdir())


def test_a_second_training_with_the_cache_compiles_nothing(tmp_path, no_cache_after, no_pictures):
    config = tmp_path / "config.py"
    config.write_text(runs.CONFIG_FILE)
    asked = []
    for name in ("first", "second"):
        jax.clear_caches()
        before = compilation.log().now()
        flags = f"--config={config}", f"--workdir={tmp_path / name}", f"--compilation_cache={tmp_path / 'cache'}"
        result = runs.command("train", *flags)
        assert result.code == 0, result.err
        after = compilation.log().now()
        asked.append((after.programs - before.programs, after.from_cache - before.from_cache))
    assert asked[1][0] == asked[1][1] > 0 and asked[0][0] > asked[0][1]
    lines = [
        [line for line in (tmp_path / name / "report.md").read_text().splitlines() if "|" in line]
        for name in ("first", "second")
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{}/config.py/cache", "cannot be written (Not a directory); choose another"),
        ("{}/config.py", "cannot be written (File exists); choose another"),
        ("{}/run/cache", "lies in --workdir="),
        ("{}/run", "lies in --workdir="),
        ("", "is empty; give a directory"),
    ],
)
def test_what_cannot_be_the_directory_of_the_cache_is_refused_before_anything_else(value, text, tmp_path):
    config, directory = tmp_path / "config.py", value.format(tmp_path)
    config.write_text(runs.CONFIG_FILE)
    before = jax.config.jax_compilation_cache_dir
    flags = f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--compilation_cache={directory}"
    message = runs.refusal("train", *flags)
    assert message.startswith("--compilation_cache") and directory in message and text in message
    assert not (tmp_path / "run").exists() and jax.config.jax_compilation_cache_dir == before


PROCESS = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from lsec_jax.training import compilation

compilation.use_cache(pathlib.Path(sys.argv[1]))
result = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(9.0).reshape(3, 3))
print(json.dumps([compilation.log().now(), result.tolist()]))
"""


def test_processes_share_the_cache_and_a_damaged_entry_costs_one_compilation_and_a_warning(tmp_path):
    root = Path(lsec_jax.__file__).parents[1]

    def start():
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "cache")]
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return *json.loads(out), err

    both = [start(), start()]  # at the same time, on an empty directory
    (_, result, _), (_, same, _) = map(end, both)
    damaged = next((tmp_path / "cache").glob("jit__lambda*-cache"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    (programs, from_cache, _), third, warning = end(start())
    assert result == same == third
    assert from_cache == programs - 1 > 0
    assert "Error reading persistent compilation cache entry" in warning
