"""A run that compiles and trains in about a second, and the command lines run inside the test process."""

import contextlib
import dataclasses
import io
import os
import runpy
import struct
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest
from absl import app, flags
from tensorboardX.proto.event_pb2 import Event, SessionLog

import lsec_jax.cli  # noqa: F401 brings the flags of the libraries, which are not the command's own
from lsec_jax.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.training import compilation, writers

# Endings of metrics' names that depend on the clock.
TIMING = ("train_seconds", "compile_seconds", "seconds_per_step", "wait_share", "draw_seconds")


def steps_of(workdir):
    """Steps of the checkpoints of a workdir."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


@contextlib.contextmanager
def no_cache_after():
    """What is inside may choose a cache of compiled programs; afterwards there is the one of before, or none."""
    names = ["compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"]
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation.compilation_cache.reset_cache()


@contextlib.contextmanager
def no_pictures():
    """Training inside draws none, which takes as long as a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsec_jax.training.plots.draw", lambda *args: None)
        yield


@contextlib.contextmanager
def killed_at(step):
    """The training inside has to be killed right after it has written metrics of a step."""
    write = writers.MetricWriter.write

    def killed(self, at, *rest):
        write(self, at, *rest)
        if at == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writers.MetricWriter, "write", killed)
        yield


@contextlib.contextmanager
def compiled_names():
    """Yields the list of the names of the functions compiled inside, one for each compilation.

    The sizes of jitted functions' caches do not count them: all share one, which forgets new functions once it is full.
    """
    found = []

    def listen(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(fun_name.removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def compilations():
    """Yields the list of the seconds of each compilation inside."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def tiny_world(**changes):
    sizes = {"num_users": 60, "num_items": 40, "num_streamers": 8, "num_topics": 4, "items_per_session": 15.0}
    return synthetic.Config(**{**sizes, "num_buy": 700, "num_follow": 200, "num_sell": 150, **changes})


def tiny_config(**training):
    """One relation, one layer, one protocol; eight steps with a validation after every second."""
    steps = {"num_steps": 8, "batch_size": 50, "evaluate_every": 2, "patience": 0, "metric": "ndcg@10", "log_every": 2}
    return RunConfig(
        data=tiny_world(),
        model=lsec_gnn.Config(
            relations=("buy",),
            tasks=(lsec_gnn.TaskConfig("buy", loss="bpr", num_negatives=1),),
            embedding_dim=8,
            aggregator="lightgcn",
            layer_dims=(8,),
            predictor="dot",
        ),
        training=TrainingConfig(**{**steps, **training}),
        evaluation=EvaluationConfig(
            protocols=("candidates",), num_candidates=20, cutoffs=(5, 10), block_size=64, baselines=("popularity",)
        ),
        checkpoint=CheckpointConfig(keep_last=2),
    )


CONFIG_FILE = """
import dataclasses

from tests.runs import tiny_config


def get_config(variant=""):
    config = tiny_config()
    if variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has none")
    return config
"""


CHILD = """
import runpy, sys
from lsec_jax.training import fit, run
fit.plots.draw = lambda *args: None

def before_step(number, action):
    make_input_at = run.Run.input_at
    def input_at(self):
        make = make_input_at(self)
        def made(step):
            if step + 1 == number:
                action()
            return make(step)
        return made
    run.Run.input_at = input_at

{patch}
sys.argv = {argv}
runpy.run_module("lsec_jax.train", run_name="__main__", alter_sys=True)
"""


def start_training(config_file, workdir, patch, *arguments):
    """Starts `python -m lsec_jax.train` in a process of its own.

    Args:
        config_file: its config.
        workdir: its workdir.
        patch: code that runs before; `before_step(number, action)` calls the action before a step, counted from 1.
        *arguments: more of the command line.
    """
    argv = ["train", f"--config={config_file}", f"--workdir={workdir}", *arguments]
    code = CHILD.format(patch=patch, argv=argv)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


class Result(NamedTuple):
    code: int
    out: str
    err: str


def command(name, *arguments):
    """Runs `python -m lsec_jax.NAME ARGUMENTS` in this process, as often as one likes."""
    app.define_help_flags()
    before, argv = set(flags.FLAGS), sys.argv
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(f"lsec_jax.{name}", run_name="__main__", alter_sys=True)
        raise AssertionError("absl's app.run always exits")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
        for flag in set(flags.FLAGS) - before:
            if flag in flags.FLAGS:
                delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()
    return Result(code, out.getvalue(), err.getvalue())


def refusal(name, *arguments):
    """Runs a command that must end in one message; returns the message."""
    result = command(name, *arguments)
    assert result.code == 2, result
    assert result.err.count("error: ") == 1 and "Traceback" not in result.err, result.err
    return result.err[result.err.index("error: ") + len("error: ") :].strip()


def replace(config, **changes):
    """A copy of a config with some of its parts changed, each given as a dict of fields."""
    parts = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **parts)


def shown_by_tensorboard(folder):
    """(step, tag, value) of every scalar in a folder of events, without those that a later session start purges."""
    scalars = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at + 8 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):
                break  # cut by a kill
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                scalars = [scalar for scalar in scalars if scalar[0] < event.step]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return scalars
