"""What the first process does alone."""

import threading

import pytest

from lsec_jax.config import ConfigError
from lsec_jax.parallel import processes
from lsec_jax.training.workdirs import await_claim
from lsec_jax.training.writers import open_writer


@pytest.fixture
def second_process():
    """This process takes itself for process 1 of 2."""
    processes.set_own(1, 2)
    yield
    processes.set_own(0, 1)


def use(workdir):
    with open_writer(workdir, 0, 10) as writer:
        writer.announce("compiling")
        writer.write(1, "train", {"loss": 1.0}, 0.5)
        writer.progress(1, 0.1, 1.0, {"loss": 1.0})


def test_only_the_first_process_writes_metrics(tmp_path, second_process):
    use(tmp_path)
    assert list(tmp_path.iterdir()) == []
    processes.set_own(0, 2)
    use(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_other_processes_wait_until_they_see_the_workdir(tmp_path):
    timer = threading.Timer(0.2, (tmp_path / "config.json").write_text, ["{}"])
    timer.start()
    await_claim(tmp_path, seconds=60.0)
    assert (tmp_path / "config.json").exists()
    timer.join()


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"--workdir={tmp_path}: .* give a directory that all processes share"):
        await_claim(tmp_path, seconds=0.0)
