"""Reads a config's data once, checks and splits it, and writes columns that training maps into memory.

Example:
  python -m lsec_jax.prepare --config=configs/lsec_gcn_interactions.py --output=/data/prepared

Runs then read it with `config.data = prepared.Config(path="/data/prepared")` and give the same results. An interrupted
preparation is never taken for whole; the same command begins anew. A directory that holds the same data already is left
as it is, and one that holds anything else is refused.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from lsec_jax import cli
from lsec_jax.data import preparation

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional variant: FILE.py[:tiny].")
_OUTPUT = flags.DEFINE_string("output", None, "Directory: new, empty, or of the same preparation.", required=True)
_QUARANTINE = flags.DEFINE_bool("quarantine", False, "Leave out and count wrong rows instead of refusing the data.")


def main() -> None:
    """Runs the command."""
    print(preparation.run(cli.check_types(_CONFIG.value), Path(_OUTPUT.value), _QUARANTINE.value))


if __name__ == "__main__":
    cli.run(main)
