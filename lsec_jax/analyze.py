"""Analyses a data set: do streamers join users with what they buy, users with users and items with items?

Example:
  python -m lsec_jax.analyze --config=configs/lsec_gcn_synthetic.py --output=/tmp/analysis

Nothing is trained: of the config, the data source counts, and all its edges. The output gets analysis.json, analysis.md
and influence.png, users.png and items.png; of data with impressions, what happens in its rooms, and live.png. With the
workdirs of three runs on the same data, --ncf=DIR --gcn=DIR --lsec=DIR, it gets figure4.png and figure4.json too: t-SNE
of their vectors, coloured by streamer (needs scikit-learn).
"""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from lsec_jax import cli
from lsec_jax.config import ConfigError
from lsec_jax.data.live_statistics import SECONDS
from lsec_jax.training import analysis, figure4

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional variant: FILE.py[:tiny].")
_OUTPUT = flags.DEFINE_string("output", None, "Directory: new, empty or of an earlier analysis.", required=True)
_PURCHASE = flags.DEFINE_string("purchase", "buy", "Relation of users and the items that they buy.")
_FOLLOW = flags.DEFINE_string("follow", "follow", "Relation of users and the streamers whom they follow.")
_SELL = flags.DEFINE_string("sell", "sell", "Relation of streamers and the items that they sell.")
_DRAWS = flags.DEFINE_integer(
    "draws", 20_000_000, "Pairs of each Monte Carlo repeat.", lower_bound=1, upper_bound=10_000_000_000
)
# A drawn pair takes 32 bytes as long as the analysis runs.
_PAIRS = flags.DEFINE_integer(
    "pairs", 1_000_000, "Drawn pairs of users, and of items, in each group.", lower_bound=1, upper_bound=50_000_000
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0)
_TIME_UNIT = flags.DEFINE_enum("time_unit", "days", list(SECONDS), "Of the data's times, for bursts of gifts.")
_WORKDIRS = {role: flags.DEFINE_string(role, None, f"Workdir of a trained {role} run.") for role in figure4.ROLES}
_PLUGINS = cli.define_plugins()
cli.define_compilation_cache()


def main() -> None:
    """Runs the command."""
    cli.start_devices()
    workdirs = {role: Path(flag.value) for role, flag in _WORKDIRS.items() if flag.value}
    missing = [f"--{role}" for role in figure4.ROLES if role not in workdirs]
    if workdirs and missing:
        raise ConfigError(f"Figure 4 needs three trained runs; {' and '.join(missing)} missing: give all three or none")
    names = _PURCHASE.value, _FOLLOW.value, _SELL.value
    settings = analysis.Settings(*names, _DRAWS.value, _PAIRS.value, _SEED.value, _TIME_UNIT.value)
    output = Path(_OUTPUT.value)
    print(analysis.run(cli.check_types(_CONFIG.value), settings, output, workdirs, tuple(_PLUGINS.value)))
    logging.info("wrote %s", output)


if __name__ == "__main__":
    cli.run(main)
