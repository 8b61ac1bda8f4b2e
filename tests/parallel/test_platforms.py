"""The platforms that JAX_PLATFORMS lists, of which this machine may have none."""

import dataclasses
import os
import subprocess
import sys

import jax
import pytest
from jax._src import xla_bridge

from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.parallel import platforms
from lsec_jax.training import run as run_lib
from tests import runs


@pytest.fixture
def asked():
    """Returns ask(list): JAX_PLATFORMS as if it had been set so; jax has started already, and its devices stay."""
    before = jax.config.jax_platforms
    yield lambda text: jax.config.update("jax_platforms", text)
    jax.config.update("jax_platforms", before)


@pytest.fixture
def without_cpu(asked, monkeypatch):
    """jax has one platform, which is not called cpu."""
    monkeypatch.setattr(xla_bridge, "_backends", {"cuda": xla_bridge.backends()["cpu"]})
    _forget()
    asked("cuda")
    yield
    monkeypatch.undo()
    _forget()


def _forget():
    for cached in (xla_bridge.get_backend, xla_bridge.local_devices):
        getattr(cached, "cache_clear", lambda: None)()


def test_several_devices_need_the_cpu_besides_and_the_message_says_how_before_data_is_read(without_cpu):
    @dataclasses.dataclass
    class Unread:
        def load(self):
            pytest.fail("read")

    message = r"JAX_PLATFORMS=cuda leaves out the CPU, .* set JAX_PLATFORMS=cuda,cpu"
    for parallel in (ParallelConfig("pmap", data=2), ParallelConfig("sharded", data=1, model=2)):
        with pytest.raises(ConfigError, match=message):
            run_lib.prepare(dataclasses.replace(runs.tiny_config(), data=Unread(), parallel=parallel))


def test_one_device_needs_no_cpu_besides(without_cpu):
    assert run_lib.prepare(runs.tiny_config()).strategy.num_replicas == 1


@pytest.mark.parametrize("listed", ["cuda,cpu", "tpu,cpu", "rocm"])
def test_the_cpu_does_not_stand_in_for_what_was_asked_for(asked, listed):
    asked(listed)
    first = listed.partition(",")[0]
    with pytest.raises(
        ConfigError, match=f"JAX_PLATFORMS={listed}: jax finds no '{first}' .*; .* set JAX_PLATFORMS=cpu"
    ):
        platforms.require_devices()
    for fits in ("", "cpu", "cpu,cuda"):
        asked(fits)
        platforms.require_devices()


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--config=configs/lsec_gcn_synthetic.py:tiny", "--workdir=WORKDIR"),
        ("evaluate", "--workdir=WORKDIR"),
        ("recommend", "--workdir=WORKDIR", "--output=WORKDIR.csv"),
        ("prequential", "--config=configs/lsec_gcn_live.py:tiny", "--workdir=WORKDIR", "--start_days=30"),
        ("analyze", "--config=configs/lsec_gcn_synthetic.py:tiny", "--output=WORKDIR"),
    ],
    ids=lambda command: command[0],
)
def test_commands_begin_with_their_devices(asked, tmp_path, command):
    asked("tpu,cpu")
    name, *arguments = command
    shown = runs.refusal(name, *(argument.replace("WORKDIR", str(tmp_path / "run")) for argument in arguments))
    assert shown.startswith("JAX_PLATFORMS=tpu,cpu: jax finds no 'tpu' here") and "\n" not in shown
    assert not (tmp_path / "run").exists()


def test_a_platform_that_is_not_there_is_one_message_and_exit_code_2(tmp_path):
    """In a new process, where jax itself starts what is listed."""
    command = [sys.executable, "-m", "lsec_jax.evaluate", f"--workdir={tmp_path}"]
    ended = subprocess.run(
        command, env={**os.environ, "JAX_PLATFORMS": "nowhere"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: JAX_PLATFORMS=nowhere: Unable to initialize backend 'nowhere'")
    assert ended.stderr.count("\n") == 1


def test_where_jax_only_asserts_that_there_is_a_platform_the_message_says_more(asked, monkeypatch):
    """As where JAX_PLATFORMS=cuda and there is no GPU."""

    def assert_false():
        raise AssertionError

    monkeypatch.setattr(jax, "default_backend", assert_false)
    asked("cuda")
    with pytest.raises(ConfigError, match="JAX_PLATFORMS=cuda: there are no such devices; check the drivers"):
        platforms.require_devices()
