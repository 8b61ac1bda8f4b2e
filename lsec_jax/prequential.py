"""Trains up to a day, evaluates on the next one, moves on: how fast does a model age, and what does updating it bring?

Example:
  python -m lsec_jax.prequential --config=configs/lsec_gcn_live.py:tiny --workdir=/tmp/days --start_days=30,35 --days=4

Compares "cold" (trained from scratch each day), "warm" (yesterday's model trained a little more, as `train --init_from`
does), "refreshed" and "frozen" (never trained again, over today's graph or the start day's). Every relation of the
model needs times. The workdir gets prequential.json, prequential.md and prequential.png, and a workdir of each
training; the same command goes on after a stop.
"""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from lsec_jax import cli
from lsec_jax.config import ConfigError
from lsec_jax.training import prequential

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional variant: FILE.py[:tiny].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory: new, empty, or of the same config.", required=True)
_START_DAYS = flags.DEFINE_list("start_days", None, "Days before which first models are trained.", required=True)
_DAYS = flags.DEFINE_integer("days", 5, "How many days each start is evaluated on.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the run, and of the data source where it has one.")
_POLICIES = flags.DEFINE_list("policies", list(prequential.POLICIES), "Which are compared.")
_WARM_STEPS = flags.DEFINE_integer("warm_steps", None, "Steps a day under warm; default: a tenth of the config's.")
_DAY_LENGTH = flags.DEFINE_float(
    "day_length", None, "Of a day in the data's unit of time; default: 86400 where times are dates, else 1."
)
cli.define_compilation_cache()


def main() -> None:
    """Runs the command."""
    cli.start_devices()
    config = cli.check_types(_CONFIG.value)
    warm_steps = max(1, config.training.num_steps // 10) if _WARM_STEPS.value is None else _WARM_STEPS.value
    settings = prequential.Settings(
        _whole("start_days", _START_DAYS.value),
        _DAYS.value,
        _whole("seeds", _SEEDS.value),
        tuple(_POLICIES.value),
        warm_steps,
        _DAY_LENGTH.value,
    )
    workdir = Path(_WORKDIR.value)
    print(prequential.run(config, settings, workdir))
    logging.info("wrote %s", workdir)


def _whole(name: str, values: list[str]) -> tuple[int, ...]:
    if not all(value.strip().isdecimal() for value in values):
        raise ConfigError(f"--{name}={','.join(values)}: give whole numbers, for example --{name}=30,35")
    return tuple(int(value) for value in values)


if __name__ == "__main__":
    cli.run(main)
