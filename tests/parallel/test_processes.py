"""Two processes with two devices each train together: the same numbers, checkpoints and report as one."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests import runs
from tests.parallel import test_strategies
from tests.started import ended as finish
from tests.started import free_port, places, start, together

# 16 steps of a batch that four devices can share.
OVERRIDES = ["--config.training.batch_size=48", "--config.training.num_steps=16", "--config.training.log_every=1"]
MESHES = {
    "pmap": ["--config.parallel.data=0"],
    "sharded": ["--config.parallel.strategy=sharded", "--config.parallel.data=2", "--config.parallel.model=2"],
}

STEPS_OF_A_MODEL = """
import json, sys
address, rank, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
from lsec_jax.config import ParallelConfig, RunConfig
from lsec_jax.parallel import startup
from lsec_jax.parallel.members import Member
startup.start(Member(address, 2, rank), RunConfig(None, None, parallel=ParallelConfig()), {})
from lsec_jax.training import run as run_lib
from tests.parallel import test_strategies as models
meshes = {"pmap": ParallelConfig("pmap", data=4), "sharded": ParallelConfig("sharded", data=2, model=2)}
if name == "ncf_lazy":
    meshes["all_to_all"] = ParallelConfig("sharded", data=2, model=2, lookup="all_to_all", lookup_capacity=1.5)
found = {
    mesh: models.stepped(run_lib.prepare(models.config_of(name, parallel)), name)[0]
    for mesh, parallel in meshes.items()
}
print(json.dumps(found))
"""


def train(config_file, workdir, *arguments):
    return ["-m", "lsec_jax.train", f"--config={config_file}", f"--workdir={workdir}", *OVERRIDES, *arguments]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(runs.CONFIG_FILE)
    return path


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory):
    """The workdir of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    (ended,) = together([train(config_file, workdir)])
    assert ended.code == 0, ended.err
    return workdir


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def values(workdir):
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    return {(row["model"], row["split"]): row["metrics"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", test_strategies.MODELS)
def test_every_model_trains_to_the_same_numbers_in_two_processes_of_two_devices(name):
    address = f"127.0.0.1:{free_port()}"
    both = [start(["-c", STEPS_OF_A_MODEL, address, rank, name], 2) for rank in range(2)]
    ended = finish(both)
    assert [of.code for of in ended] == [0, 0], "\n".join(of.err for of in ended)
    found = json.loads(ended[0].out.splitlines()[-1])
    wanted = test_strategies.reference(name)[0]
    assert len(found) == (3 if name == "ncf_lazy" else 2)
    for metrics in found.values():
        for of_step in metrics:
            of_step.pop("lookup_overflow", None)
        test_strategies.assert_close(metrics, wanted)


@pytest.mark.parametrize("mesh", MESHES)
def test_two_processes_train_to_the_numbers_of_one(mesh, alone, config_file, tmp_path):
    workdir = tmp_path / "run"
    ended = together([train(config_file, workdir, *MESHES[mesh], *place) for place in places()], num_devices=2)
    assert [of.code for of in ended] == [0, 0], "\n".join(of.err for of in ended)
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)
    wanted = values(alone)
    for name, metrics in values(workdir).items():
        for key, value in metrics.items():
            assert value == pytest.approx(wanted[name][key], abs=1e-4), (name, key)


@pytest.mark.parametrize(
    ("mesh", "later", "num_devices"),
    [("sharded", [], 1), pytest.param("pmap", MESHES["sharded"], 4, marks=pytest.mark.slow)],
)
def test_a_run_of_two_processes_goes_on_in_one_under_the_other_strategy(
    alone, config_file, tmp_path, mesh, later, num_devices
):
    workdir = tmp_path / "run"
    half = ["--config.training.max_seconds=0.001", *MESHES[mesh]]
    ended = together([train(config_file, workdir, *half, *place) for place in places()], num_devices=2)
    assert [of.code for of in ended] == [0, 0], "\n".join(of.err for of in ended)
    steps = runs.steps_of(workdir)
    assert 0 < steps[-1] < 16
    read_by_one(workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["training"]["max_seconds"] = 0.0
    (workdir / "config.json").write_text(json.dumps(config))
    shutil.rmtree(workdir / "plots")
    (done,) = together([train(config_file, workdir, *later)], num_devices)
    assert done.code == 0, done.err
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)


def read_by_one(workdir):
    """`evaluate` and `recommend` on one device of this process; the metrics are those of the run's own report."""
    assert runs.command("evaluate", f"--workdir={workdir}").code == 0
    (row,) = json.loads((workdir / "evaluation_test_candidates.json").read_text())["rows"]
    for key, value in values(workdir)[(row["model"], "test")].items():
        assert row["metrics"][key] == pytest.approx(value, abs=1e-4), key
    output = workdir.parent / "recommendations.csv"
    assert runs.command("recommend", f"--workdir={workdir}", f"--output={output}").code == 0
    assert len(output.read_text().splitlines()) > 1


@pytest.mark.slow
def test_two_processes_start_from_another_run_as_one_does(alone, config_file, tmp_path):
    origin = f"--init_from={alone}"
    (one,) = together([train(config_file, tmp_path / "one", origin)])
    assert one.code == 0, one.err
    both = [train(config_file, tmp_path / "two", origin, *MESHES["sharded"], *place) for place in places()]
    ended = together(both, num_devices=2)
    assert [of.code for of in ended] == [0, 0], "\n".join(of.err for of in ended)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    assert losses(tmp_path / "one")[0] < losses(alone)[0]


def test_a_process_that_cannot_start_from_another_run_ends_all_with_its_message(alone, config_file, tmp_path):
    arguments = train(config_file, tmp_path / "new", *MESHES["sharded"], f"--init_from={alone.name}")
    folders = [alone.parent, tmp_path]  # the path is relative, and the second process has nothing there
    ended = finish([start([*arguments, *place], 2, folder) for place, folder in zip(places(), folders, strict=True)])
    assert [of.code for of in ended] == [2, 2], "\n".join(of.err for of in ended)
    assert all(f"--init_from={alone.name}: no such directory" in of.err for of in ended)
    assert not (tmp_path / "new").exists()


def test_the_launcher_starts_both_processes_again_when_one_is_killed(alone, config_file, tmp_path):
    workdir, num_steps = tmp_path / "run", 60
    arguments = train(config_file, workdir, *MESHES["pmap"], f"--config.training.num_steps={num_steps}")[2:]
    launcher = start(["-m", "launch.local", "--processes=2", "--virtual_devices=2", "--", *arguments])
    try:
        while not runs.steps_of(workdir):
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.05)
        os.kill(process_with("--process_id=1", str(workdir)), signal.SIGKILL)
        (ended,) = finish([launcher])
    finally:
        launcher.kill()
    assert ended.code == 0, ended.err
    assert "starting again" in ended.err
    found = losses(workdir)
    assert len(found) == num_steps
    np.testing.assert_allclose(found[:16], losses(alone), rtol=1e-5)


@pytest.mark.slow
def test_sigterm_to_the_launcher_ends_all_processes_with_143_at_one_step_and_the_same_command_resumes(
    alone, config_file, tmp_path
):
    workdir, num_steps = tmp_path / "run", 60
    arguments = train(config_file, workdir, *MESHES["sharded"], f"--config.training.num_steps={num_steps}")[2:]
    command = ["-m", "launch.local", "--processes=2", "--", *arguments]
    launcher = start(command, num_devices=2)
    try:
        while not runs.steps_of(workdir):
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.05)
        launcher.send_signal(signal.SIGTERM)
        (ended,) = finish([launcher])
    finally:
        launcher.kill()
    assert ended.code == 143 and "starting again" not in ended.err, ended.err
    last = runs.steps_of(workdir)[-1]
    assert last < num_steps and ended.err.count(f"terminated: saved step {last}") == 2, ended.err
    (resumed,) = together([command], num_devices=2)
    assert resumed.code == 0 and f"resuming from step {last}" in resumed.err, resumed.err
    found = losses(workdir)
    assert len(found) == num_steps
    np.testing.assert_allclose(found[:16], losses(alone), rtol=1e-5)


OWN_DATA = """
import dataclasses

from lsec_jax.data.sources import lightgcn_text
from tests.runs import tiny_config


def get_config(variant=""):
    return dataclasses.replace(tiny_config(), data=lightgcn_text.Config("data", validation_fraction=0.2))
"""


def test_processes_with_different_data_are_refused_with_the_difference(tmp_path):
    (tmp_path / "config.py").write_text(OWN_DATA)
    folders = [tmp_path / "0", tmp_path / "1"]
    for seed, folder in enumerate(folders):
        (folder / "data").mkdir(parents=True)
        items = np.random.default_rng(seed).permuted(np.tile(np.arange(40), (30, 1)), axis=1)
        for name, own in (("train", items[:, :6]), ("test", items[:, 6:8])):
            lines = [" ".join(map(str, (user, *of))) for user, of in enumerate(own)]
            (folder / "data" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    command = train(tmp_path / "config.py", tmp_path / "run", *MESHES["pmap"])
    ended = finish([start([*command, *place], 2, folder) for place, folder in zip(places(), folders, strict=True)])
    assert [of.code for of in ended] == [2, 2], "\n".join(of.err for of in ended)
    for of in ended:
        assert "the processes differ (process 0 -> other):\n" in of.err, of.err
        assert "process 1: data.fingerprint: " in of.err
        assert "Give every process the same files" in of.err and "Traceback" not in of.err
    assert not (tmp_path / "run").exists()


def process_with(*arguments):
    """The process that has these in its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = (folder / "cmdline").read_text()
            if "lsec_jax.train" in own and "launch.local" not in own and all(of in own for of in arguments):
                return int(folder.name)
    raise AssertionError(f"no process has {arguments}")
