"""The launcher of one machine really starts, ends and restarts processes."""

import os
import signal
import sys
import time
from contextlib import suppress

import pytest

from tests.runs import CONFIG_FILE
from tests.started import ended, start

# Two processes that exchange texts: without end at the first start, once at the second.
EXCHANGING = """
import os, pathlib, sys, time
from lsec_jax.config import RunConfig
from lsec_jax.parallel import members, processes, startup

folder = pathlib.Path(sys.argv[1])
flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
place = flags["coordinator"], int(flags["num_processes"]), int(flags["process_id"])
startup.start(members.find("auto", *place, timeout_seconds=60), RunConfig(None, None), {})
is_restart = (folder / "pid-0").exists()
processes.gather_texts("before the files are written")
name = f"pid-{processes.index()}" + ("-again" if is_restart else "")
(folder / "part").with_suffix(f".{os.getpid()}").write_text(str(os.getpid()))
(folder / "part").with_suffix(f".{os.getpid()}").rename(folder / name)
while processes.gather_texts("step") and not is_restart:
    time.sleep(0.02)
"""


def supervised(script, folder, restarts, num_processes=2, grace_seconds=60):
    """Starts a launcher of processes that run a script with the folder and their place as arguments."""
    launcher = (
        "import sys; from launch.local import Supervisor; "
        f"sys.exit(Supervisor([sys.executable, '-c', sys.argv[1], sys.argv[2]], [{{}}] * {num_processes}, None, "
        f"{grace_seconds}).run({restarts}))"
    )
    return start(["-c", launcher, script, folder])


def wait_for(*paths, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"not there: {[path for path in paths if not path.exists()]}"
        time.sleep(0.02)


def is_alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_when_a_process_is_killed_all_are_ended_and_started_again(tmp_path):
    launcher = supervised(EXCHANGING, tmp_path, restarts=3)
    try:
        wait_for(tmp_path / "pid-0", tmp_path / "pid-1")
        pids = [int((tmp_path / f"pid-{i}").read_text()) for i in range(2)]
        os.kill(pids[1], signal.SIGKILL)
        wait_for(tmp_path / "pid-0-again", tmp_path / "pid-1-again")
        assert not any(is_alive(pid) for pid in pids)
    finally:
        (result,) = ended([launcher])
    assert result.code == 0, result.err
    assert result.err.count("launch: started process 0 (pid ") == 2
    assert "launch: starting again, 3 left" in result.err


COUNTING = """
import pathlib, sys, time
folder, number = pathlib.Path(sys.argv[1]), sys.argv[-1].removeprefix("--process_id=")
starts = len(list(folder.glob(f"start-{number}-*")))
(folder / f"start-{number}-{starts}").write_text("")
"""


@pytest.mark.parametrize(("code", "restarts", "starts"), [(1, 2, 3), (2, 2, 1), (143, 1, 2), (0, 2, 1), (7, 0, 1)])
def test_restarts_are_bounded_and_wrong_input_is_not_tried_again(tmp_path, code, restarts, starts):
    script = COUNTING + f"sys.exit({code} if number == '1' else 0)"
    (result,) = ended([supervised(script, tmp_path, restarts)])
    assert result.code == code
    assert len(list(tmp_path.glob("start-1-*"))) == starts


SAVING = """
import pathlib, signal, sys, time
folder, number = pathlib.Path(sys.argv[1]), sys.argv[-1].removeprefix("--process_id=")

def save(*_):
    time.sleep(0.6 * int(number))
    (folder / f"saved-{number}").write_text("")
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
(folder / f"ready-{number}").write_text("")
while True:  # a signal right before a long sleep would be seen after it
    time.sleep(0.05)
"""


def test_sigterm_is_passed_on_and_all_processes_may_save(tmp_path):
    launcher = supervised(SAVING, tmp_path, restarts=3)
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    launcher.send_signal(signal.SIGTERM)
    (result,) = ended([launcher])
    assert result.code == 143 and "starting again" not in result.err
    assert (tmp_path / "saved-0").exists() and (tmp_path / "saved-1").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_processes_save_and_end_when_the_launcher_is_killed(tmp_path):
    launcher = supervised(SAVING, tmp_path, restarts=3)
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    launcher.kill()
    wait_for(tmp_path / "saved-0", tmp_path / "saved-1")
    ended([launcher])


def test_a_process_that_does_not_end_is_killed(tmp_path):
    script = SAVING.replace("time.sleep(0.6 * int(number))", "return")
    launcher = supervised(script, tmp_path, restarts=3, grace_seconds=0.3)
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    launcher.send_signal(signal.SIGTERM)
    (result,) = ended([launcher])
    assert result.code == 143 and "killed" in result.err


def test_the_launcher_trains(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG_FILE)
    training = [f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"]
    (result,) = ended([start(["-m", "launch.local", "--device=cpu", "--", *training])])
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "report.md").read_text() in result.out
