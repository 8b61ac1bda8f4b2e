"""Trains a model and reports how good it is.

Example:
  python -m lsec_jax.train --config=configs/lsec_gcn_synthetic.py --workdir=/tmp/run --config.training.num_steps=500

`--config=FILE.py:tiny` takes a variant that ends in seconds. Any key can be overridden with --config.KEY=VALUE. The
workdir gets config.json, metrics.jsonl, tensorboard/, checkpoints/, report.json, report.md and plots/. The same command
on the same workdir resumes; a workdir of another config is refused. SIGTERM saves and ends with exit code 143. Several
processes run this command together, on one workdir that all of them see: launch/README.md.

--init_from=WORKDIR starts from an earlier run's parameters, on other data: rows are matched by the nodes' own ids, new
ids start from the mean of the known ones (docs/updating.md).
"""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from lsec_jax import cli
from lsec_jax.config import ConfigError
from lsec_jax.parallel import processes
from lsec_jax.training import fit
from lsec_jax.training.initialisation import MOMENTS, Origin

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional variant: FILE.py[:tiny].")
_AUDIT = flags.DEFINE_bool("audit", False, "Look for leaks between training and evaluation before training.")
_FALL_BACK = flags.DEFINE_bool(
    "fall_back",
    False,
    "Move damaged checkpoints to WORKDIR/damaged_checkpoints and go on from the newest one that is whole.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write; default workdirs/<config name>[-variant].")
_INIT_FROM = flags.DEFINE_string("init_from", None, "Workdir of an earlier run to start from.")
_INIT_STEP = flags.DEFINE_string("init_step", "best", "Its checkpoint: best, last, or the number of a step.")
_INIT_MOMENTS = flags.DEFINE_enum("init_moments", "keep", MOMENTS, "What becomes of the optimizer's moments.")
cli.define_compilation_cache()
cli.define_processes()


def main() -> None:
    """Runs the command."""
    workdir = Path(_WORKDIR.value or _default_workdir())
    config = cli.check_types(_CONFIG.value)
    arguments = {"workdir": str(workdir), "audit": _AUDIT.value, "fall_back": _FALL_BACK.value}
    arguments |= {"init_from": _INIT_FROM.value, "init_step": _INIT_STEP.value, "init_moments": _INIT_MOMENTS.value}
    cli.start_processes(config, **arguments)
    report = fit.run(config, workdir, _AUDIT.value, _FALL_BACK.value, _origin())
    if processes.is_first():
        print(report)
    logging.info("wrote %s", workdir)


def _origin() -> Origin | None:
    if _INIT_FROM.value:
        return Origin(Path(_INIT_FROM.value), _INIT_STEP.value, _INIT_MOMENTS.value)
    if _INIT_FROM.value is not None:
        raise ConfigError("--init_from is empty; give the workdir of an earlier run, or leave the flag out")
    for flag in (_INIT_STEP, _INIT_MOMENTS):
        if flag.present:
            raise ConfigError(f"--{flag.name}={flag.value} says how to start from another run; give --init_from too")
    return None


def _default_workdir() -> str:
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"workdirs/{Path(path).stem}{'-' + variant if variant else ''}"


if __name__ == "__main__":
    cli.run(main)
