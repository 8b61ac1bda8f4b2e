"""Draws Figures 5 to 9 of TREEMS from a trained run: scenarios beside rivals, use of the experts, representations.

Example:
  python -m lsec_jax.figures --workdir=/tmp/treems --beside=/tmp/mmoe,/tmp/dnn,/tmp/treems_without_inconsistency

Of the run and those beside it, which must be of the same data, split and answers: metrics in five head and five
long-tail scenarios with bootstrap intervals (5, 6), the gates of one scenario and of head, tail and cold ones in each
run of TREEMS (7, 8), and where scenarios lie in each model that has vectors of them (9). The output gets figures.md,
the pictures, and figures.json with all that they show.
"""

from pathlib import Path

from absl import flags, logging

from lsec_jax import cli
from lsec_jax.training import treems_figures

_WORKDIR = cli.define_workdir()
_BESIDE = flags.DEFINE_list("beside", [], "Workdirs of other runs on the same data: rivals, or TREEMS in another way.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory: new, empty or of earlier figures; default WORKDIR/figures.")
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "Which held-out part Figures 5 and 6 are of.")
_SCENARIO = flags.DEFINE_string("scenario", "", "Whose gates Figures 7 and 8 show alone; default: the most frequent.")
_MIN_REQUESTS = flags.DEFINE_integer(
    "min_requests", 10, "Requests that a scenario of Figures 5 and 6 must have in the split.", lower_bound=1
)
_DATA = cli.define_data()
_PLUGINS = cli.define_plugins()
cli.define_compilation_cache()


def main() -> None:
    """Runs the command."""
    cli.start_devices()
    workdir = Path(_WORKDIR.value)
    output = Path(_OUTPUT.value or workdir / "figures")
    settings = treems_figures.Settings(_SPLIT.value, _SCENARIO.value, _MIN_REQUESTS.value)
    beside = [Path(path) for path in _BESIDE.value]
    print(treems_figures.draw(workdir, beside, output, settings, _DATA.value, tuple(_PLUGINS.value)))
    logging.info("wrote %s", output)


if __name__ == "__main__":
    cli.run(main)
