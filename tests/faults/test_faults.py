"""Faults of a run, each in a process of its own: whatever happens, the same command goes on to the same end.

Every fault comes at a step that is not one of a line of metrics, so that lines are cut in their middle, too.
"""

import json
import os
import signal
import time

import pytest

from lsec_jax import cli
from lsec_jax.training import compilation, fit
from tests import runs

CONFIG_FILE = """
from tests.runs import replace, tiny_config


def get_config(variant=""):
    config = tiny_config(num_steps=12, log_every=5, evaluate_every=4, prefetch=0)
    checkpoint = {"save_every": 3, "keep_last": 2, "keep_best": 2}
    optimizer = {"schedule": "cosine", "warmup_steps": 2}
    return replace(config, optimizer=optimizer, checkpoint=checkpoint, evaluation={"baselines": ()})
"""
LINES = [("train", 4), ("validation", 4), ("train", 5), ("train", 8), ("validation", 8), ("train", 10), ("train", 12)]
LINES += [("validation", 12)]
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
IMPORTS = "import os, signal, time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the config is, and the programs that all runs share."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "config.py").write_text(CONFIG_FILE)
    with runs.no_cache_after(), runs.no_pictures():
        compilation.use_cache(folder / "programs")
        yield folder


@pytest.fixture(scope="module")
def config_file(folder):
    return folder / "config.py"


@pytest.fixture(scope="module")
def start(folder, config_file):
    """start(workdir, patch): training in a process of its own; see `runs.start_training`."""
    cache = f"--compilation_cache={folder / 'programs'}"
    return lambda workdir, patch: runs.start_training(config_file, workdir, f"{IMPORTS}\n{patch}", cache)


@pytest.fixture(scope="module")
def config(config_file):
    return cli._load_config_file(str(config_file))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, config):
    """The end of a run that nothing broke."""
    workdir = tmp_path_factory.mktemp("unbroken")
    fit.run(config, workdir)
    whole = end_of(workdir)
    assert [(line["kind"], line["step"]) for line in whole["lines"]] == LINES
    return whole


def end_of(workdir):
    """Everything that a finished run left which does not depend on the clock.

    Arrays are compared by the checksums of their bits.
    """
    folder = workdir / "checkpoints" / "12"
    progress = json.loads((folder / "progress" / "metadata").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "arrays": json.loads((folder / "record" / "metadata").read_text())["arrays"],
        "progress": timeless(progress),
        "lines": [timeless(line) for line in lines],
        "shown": [shown for shown in runs.shown_by_tensorboard(workdir / "tensorboard") if timeless({shown[1]: 0})],
        "metrics": [row["metrics"] for row in json.loads((workdir / "report.json").read_text())["rows"]],
        "steps": runs.steps_of(workdir),
    }


def timeless(record):
    return {name: value for name, value in record.items() if not name.endswith(runs.TIMING)}


def assert_same_end(workdir, unbroken, config, same_steps=True):
    """Resumes, and compares with the unbroken run."""
    fit.run(config, workdir)
    end = end_of(workdir)
    for name, value in unbroken.items():
        assert end[name] == value or (name == "steps" and not same_steps), name
    left = [path for pattern in ("*tmp*", "deleted/*") for path in (workdir / "checkpoints").glob(pattern)]
    assert not left


def test_sigterm_saves_the_step_and_the_same_command_resumes(start, config, unbroken, tmp_path):
    patch = "before_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM))"
    child = start(tmp_path, patch)
    error = child.communicate(timeout=300)[1]
    assert child.returncode == 143 and "terminated: saved step 7; the same command resumes" in error, error
    assert "Traceback" not in error and runs.steps_of(tmp_path)[-1] == 7
    assert_same_end(tmp_path, unbroken, config, same_steps=False)


def test_sigterm_during_validation_does_not_wait_for_its_end(start, config, unbroken, tmp_path):
    patch = """from lsec_jax.training.evaluation import Evaluator
def evaluate(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)
Evaluator.evaluate = evaluate
"""
    child = start(tmp_path, patch)
    error = child.communicate(timeout=300)[1]
    assert child.returncode == 143 and "saved step 4, whose validation comes first" in error, error
    assert_same_end(tmp_path, unbroken, config)


@pytest.mark.parametrize("moment", ["loading", "compiling"])
def test_sigterm_before_the_first_step_is_done_ends_the_process_at_once(start, tmp_path, moment):
    owner, name = {"loading": ("run", "check_needs"), "compiling": ("run.Run", "step_function")}[moment]
    told = tmp_path / "told"
    patch = f"{owner}.{name} = lambda *args: (open({str(told)!r}, 'w'), time.sleep(1000))"
    child = start(tmp_path / "run", patch)
    wait_for(told.exists, child)
    started = time.monotonic()
    child.terminate()
    assert child.wait(timeout=60) == -signal.SIGTERM and time.monotonic() - started < 20
    child.stderr.close()


def wait_for(condition, child):
    for _ in range(2000):
        if condition():
            return
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("nothing happened")


SAVING = """
from orbax.checkpoint._src.path import atomicity
finalize = atomicity.AtomicRenameTemporaryPath.finalize
async def killed(self):
    if self._final_path.name == "8":
        {kill}
    await finalize(self)
atomicity.AtomicRenameTemporaryPath.finalize = killed
"""
DELETING = """
import shutil
def killed(path, **rest):
    next(found for found in path.rglob("*") if found.is_file()).unlink()
    {kill}
shutil.rmtree = killed
"""


@pytest.mark.parametrize("moment", ["saving", "deleting"])
def test_a_run_that_was_killed_goes_on_from_its_last_whole_checkpoint(start, config, unbroken, tmp_path, moment):
    patches = {"saving": SAVING, "deleting": DELETING}
    child = start(tmp_path, patches[moment].replace("{kill}", KILL))
    error = child.communicate(timeout=300)[1]
    assert child.returncode == -signal.SIGKILL, error
    assert runs.steps_of(tmp_path)[-1] <= (8 if moment == "deleting" else 6)
    if moment == "saving":
        assert list((tmp_path / "checkpoints").glob("8*tmp*"))
    assert_same_end(tmp_path, unbroken, config)


def test_a_full_disk_is_named_and_the_same_command_resumes_when_there_is_room(start, config, unbroken, tmp_path):
    patch = "import resource\n"
    patch += "before_step(7, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)))"
    child = start(tmp_path, patch)
    error = child.communicate(timeout=300)[1]
    assert child.returncode == 2 and error.count("error: ") == 1, error
    message = error[error.index("error: ") :]
    assert str(tmp_path) in message and "Make room" in message and "same command resumes" in message, message
    assert "is intact" in message and runs.steps_of(tmp_path)[-1] <= 6
    assert_same_end(tmp_path, unbroken, config)


def test_a_workdir_in_use_is_refused_to_other_runs_but_not_to_readers(start, config_file, config, unbroken, tmp_path):
    patch = "before_step(6, lambda: time.sleep(1000))"
    child = start(tmp_path, patch)
    wait_for(lambda: 4 in runs.steps_of(tmp_path), child)
    started = time.monotonic()
    message = runs.refusal("train", f"--config={config_file}", f"--workdir={tmp_path}")
    assert f"{tmp_path} is in use by process {child.pid} on host {os.uname().nodename} since " in message
    assert time.monotonic() - started < 20
    assert runs.command("evaluate", f"--workdir={tmp_path}").code == 0
    child.kill()
    child.wait()
    child.stderr.close()
    (tmp_path / "evaluation_test_candidates.json").unlink()
    assert_same_end(tmp_path, unbroken, config)
