"""What the first process does alone."""

import threading

import pytest

from lsec_jax.config import ConfigError
from lsec_jax.parallel import processes
from lsec_jax.training.locks import await_sight
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
    (tmp_path / "lock").write_text("of an earlier run")
    timer = threading.Timer(0.2, (tmp_path / "lock").write_text, ["of this run"])
    timer.start()
    await_sight(tmp_path / "lock", "of this run", seconds=60.0)
    assert (tmp_path / "lock").read_text() == "of this run"
    timer.join()


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    (tmp_path / "lock").write_text("of an earlier run")
    for path, text in ((tmp_path / "lock", "of this run"), (tmp_path / "8", None)):
        with pytest.raises(ConfigError, match=f"{path}: .* give a --workdir that all processes share"):
            await_sight(path, text, seconds=0.0)
