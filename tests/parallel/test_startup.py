"""Real processes on this machine: they see each other's devices, agree, and end together."""

import json

import pytest

from lsec_jax.parallel import processes, startup
from tests.runs import CONFIG_FILE
from tests.started import places, together

# Four devices in two processes; then an error of process 1 alone.
SCRIPT = """
import json, sys
import jax
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.parallel import processes, startup
from lsec_jax.parallel.members import Member

address, number = sys.argv[1:]
startup.start(Member(address, 2, int(number)), RunConfig(None, None), {})
with processes.agreed("nothing"):
    pass
seen = {
    "devices": jax.device_count(),
    "own_devices": jax.local_device_count(),
    "is_first": processes.is_first(),
    "of_first": processes.of_first({"seconds": 1.5 + int(number)}),
    "texts": processes.gather_texts("short" if processes.is_first() else "a longer one"),
}
processes.require_same({"name": "equal"}, "")
print("SEEN " + json.dumps(seen))
try:
    with processes.agreed("reading"):
        if not processes.is_first():
            raise ConfigError("no such file")
except Exception as error:
    print(f"RAISED {type(error).__name__}: {error}")
sys.exit(3 + int(number))
"""


@pytest.fixture(scope="module")
def pair():
    """How two processes with two devices each ended."""
    address = places()[0][0].partition("=")[2]
    return together([["-c", SCRIPT, address, i] for i in range(2)], num_devices=2)


def line_of(ended, start):
    return next(line for line in ended.out.splitlines() if line.startswith(start)).removeprefix(start)


def test_two_processes_with_two_devices_see_four(pair):
    for i, ended in enumerate(pair):
        seen = json.loads(line_of(ended, "SEEN "))
        assert (seen["devices"], seen["own_devices"], seen["is_first"]) == (4, 2, i == 0), ended.err


def test_texts_of_all_processes_are_gathered_in_their_order(pair):
    for ended in pair:
        assert json.loads(line_of(ended, "SEEN "))["texts"] == ["short", "a longer one"]


def test_what_follows_from_a_clock_is_decided_by_the_first_process(pair):
    for ended in pair:
        assert json.loads(line_of(ended, "SEEN "))["of_first"] == {"seconds": 1.5}


def test_an_error_of_one_process_ends_all_of_them(pair):
    assert line_of(pair[0], "RAISED ") == "ProcessError: reading: process 1 failed: no such file"
    assert line_of(pair[1], "RAISED ") == "ConfigError: no such file"


def test_after_a_common_error_each_process_ends_with_a_code_of_its_own(pair):
    assert [ended.code for ended in pair] == [3, 4]


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG_FILE)
    return tmp_path / "config.py"


def train(config_file, workdir, *differing):
    """Runs `lsec_jax.train` in two processes; `differing` are additional arguments of each."""
    shared = ["-m", "lsec_jax.train", f"--config={config_file}", f"--workdir={workdir}"]
    return together([[*shared, *place, *own] for place, own in zip(places(), differing, strict=True)])


def test_processes_of_different_configs_all_end_with_the_difference(config_file, tmp_path):
    changed = ["--config.seed=1", "--config.training.num_steps=9", "--audit"]
    first, second = train(config_file, tmp_path / "run", [], changed)
    for name, ended in (("", first), ("process 1: ", second)):
        assert ended.code == 2
        assert f"{name}error: the processes differ (process 0 -> other):" in ended.err
        for line in ("config.seed: 0 -> 1", "config.training.num_steps: 8 -> 9", "arguments.audit: false -> true"):
            assert f"\n  process 1: {line}\n" in ended.err
        assert "Traceback" not in ended.err
    assert second.out == ""
    assert not (tmp_path / "run").exists()


def test_an_error_of_process_0_in_the_workdir_ends_the_others_too(config_file, tmp_path):
    """Only process 0 makes the workdir."""
    (tmp_path / "file").write_text("")
    first, second = train(config_file, tmp_path / "file" / "run", [], [])
    assert (first.code, second.code) == (2, 2)
    assert "error: --workdir=" in first.err and "cannot be created" in first.err
    assert "process 1: error: making the workdir: process 0 failed: --workdir=" in second.err
    assert second.err.count("process 1: ") == len([line for line in second.err.splitlines() if line]), second.err


def test_an_unreachable_coordinator_is_one_message_and_exit_code_2(config_file, tmp_path):
    place = places()[1]
    arguments = [f"--config={config_file}", f"--workdir={tmp_path}/run", "--config.parallel.initialization_seconds=1"]
    (ended,) = together([["-m", "lsec_jax.train", *arguments, *place]])
    assert ended.code == 2
    address = place[0].partition("=")[2]
    assert ended.err.startswith(f"process 1: error: the coordinator {address} cannot be reached within 1 s (")
    assert ended.err.count("\n") == 1


def test_one_process_connects_with_nobody():
    with processes.agreed("anything"):
        pass
    processes.require_same({"value": object()}, "")  # not even looked at
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert not processes.are_connected()


def test_the_code_version_knows_every_source_file(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(startup, "_PACKAGE", tmp_path)
    before = startup.code_version()
    assert before["commit"] is None  # no checkout
    (tmp_path / "data" / "a.py").write_text("x = 2\n")
    assert startup.code_version()["sources"] != before["sources"]


def test_the_code_version_of_a_checkout_has_its_commit():
    commit = startup.code_version()["commit"]
    assert commit is None or len(commit) == 40
