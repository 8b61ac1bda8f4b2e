"""Evaluates the best checkpoint of a trained run.

Example:
  python -m lsec_jax.evaluate --workdir=/tmp/run --split=test --protocol=full_ranking

Needs the workdir and the data only; give --data=PATH if the data has moved. Prints a table and writes JSON.
--mesh=DATAxMODEL divides users over DATA x MODEL devices and tables, graphs and vectors over MODEL.
"""

from pathlib import Path

from absl import flags, logging

from lsec_jax import cli
from lsec_jax.config import PROTOCOLS
from lsec_jax.data.files import write_json
from lsec_jax.training import reports
from lsec_jax.training.event_run import EventRun, log_unknown
from lsec_jax.training.run import prepare
from lsec_jax.training.workdirs import load_config, restore_best

_WORKDIR = cli.define_workdir()
_DATA = cli.define_data()
_PLUGINS = cli.define_plugins()
_MESH = cli.define_mesh()
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "Which held-out part.")
_PROTOCOL = flags.DEFINE_enum("protocol", None, list(PROTOCOLS), "Default: the first protocol of the run's config.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; default WORKDIR/evaluation_SPLIT_PROTOCOL.json.")
cli.define_compilation_cache()


def main() -> None:
    """Runs the command."""
    cli.start_devices()
    workdir = Path(_WORKDIR.value)
    config = load_config(workdir, _DATA.value, tuple(_PLUGINS.value), cli.read_mesh(_MESH.value))
    protocol = _PROTOCOL.value or config.evaluation.protocols[0]
    output = Path(_OUTPUT.value or workdir / f"evaluation_{_SPLIT.value}_{protocol}.json")
    cli.check_output(output, (".json",))
    run = prepare(config, trains=False)
    state, progress = restore_best(run, workdir)
    scorers = {reports.model_name(config): run.scorer_function()(state)}
    rows = reports.rows(run, scorers, [_SPLIT.value], [protocol], progress.train_seconds)
    print(reports.table(rows))
    if isinstance(run, EventRun):
        log_unknown(run, _SPLIT.value)
    write_json(output, {"step": int(state.step), "rows": rows})
    logging.info("wrote %s", output)


if __name__ == "__main__":
    cli.run(main)
