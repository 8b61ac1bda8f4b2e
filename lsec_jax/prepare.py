"""Reads a config's data once, checks and splits it, and writes columns that training maps into memory.

Example:
  python -m lsec_jax.prepare --config=configs/lsec_gcn_interactions.py --output=/data/prepared

A source that reads in blocks (interactions, its events) may be larger than memory.

Runs then read it with `config.data = prepared.Config(path="/data/prepared")` and give the same results. An interrupted
preparation is never taken for whole; the same command begins anew. A directory that holds the same data already is left
as it is, and one that holds anything else is refused.
"""

from absl import flags
from ml_collections import config_flags

from lsec_jax import cli
from lsec_jax.config import ConfigError
from lsec_jax.data import preparation
from lsec_jax.data.files import expand_path

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional variant: FILE.py[:tiny].")
_OUTPUT = flags.DEFINE_string("output", None, "Directory: new, empty, or of the same preparation.", required=True)
_QUARANTINE = flags.DEFINE_bool("quarantine", False, "Leave out and count wrong rows instead of refusing the data.")
_FREEZE = flags.DEFINE_bool(
    "freeze_candidates", False, "Draw the candidate lists of the config's evaluation now and keep them with the data."
)
_MEMORY = flags.DEFINE_float(
    "memory_gib", 1.0, "What sorting events may take in memory before it uses the disk under --output.", lower_bound=0.1
)


def main() -> None:
    """Runs the command."""
    if not _OUTPUT.value:
        raise ConfigError("--output is empty; give a directory: new, empty, or of the same preparation")
    config = cli.check_types(_CONFIG.value)
    memory_bytes = int(_MEMORY.value * 2**30)
    print(preparation.run(config, expand_path(_OUTPUT.value), _QUARANTINE.value, _FREEZE.value, memory_bytes))


if __name__ == "__main__":
    cli.run(main)
