"""A run that compiles and trains in about a second, and the command lines run inside the test process."""

import contextlib
import dataclasses
import io
import runpy
import sys
from typing import NamedTuple

import pytest
from absl import app, flags

import lsec_jax.cli  # noqa: F401 brings the flags of the libraries, which are not the command's own
from lsec_jax.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.parallel import strategies
from lsec_jax.training import writers


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
def compiled_functions():
    """Yields the list of the functions that runs on one device compile inside."""
    made, compile_ = [], strategies.OneDevice.compile

    def remember(*args, **kwargs):
        made.append(compile_(*args, **kwargs))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies.OneDevice, "compile", remember)
        yield made


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
