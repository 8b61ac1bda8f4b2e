"""Writes recommendations of a trained run, in the data's own ids.

Example:
  python -m lsec_jax.recommend --workdir=/tmp/run --k=20 --users=users.txt --output=recs.parquet

--users is a file with one user id a line (default: all users). Items that a user has already bought, in any split, are
left out unless --include_seen. With --at=TIME, a number or an ISO 8601 date as in the data, only items that are
available then are listed; the data must say when that is. A user whom the data does not know, or who has no training
edge in any of the model's relations, gets the popularity list; the column `source` then says "popularity" instead of
"model". Columns: user_id, rank, item_id, score, source. --export_embeddings=DIR also writes the final vectors of every
node type with their ids. --mesh=DATAxMODEL divides the work over devices as in lsec_jax.evaluate.

A model of impressions (eLiveRec) needs --at: candidates are the rooms that are live then, and what is read of them and
of the users was known before. Columns: user_id, rank, room_id, score, source, is_repeat. Or it needs --requests=FILE,
with a row for each candidate: columns for the user, the target and the other roles that the model reads, e.g. user,
target_user and scenario, the time unless --at gives it, and features of the event (docs/data-formats.md). Candidates of
one user, time and other roles are a request; columns: the request's, rank, the target, score.
"""

from pathlib import Path

import numpy as np
from absl import flags, logging

from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.training import live_serving, request_serving, serving
from lsec_jax.training.event_run import EventRun
from lsec_jax.training.relation_run import RelationRun
from lsec_jax.training.run import learns_events, prepare
from lsec_jax.training.workdirs import load_config, restore_best
from lsec_jax.training.writers import require_writable

_WORKDIR = cli.define_workdir()
_DATA = cli.define_data()
_PLUGINS = cli.define_plugins()
_MESH = cli.define_mesh()
_K = flags.DEFINE_integer("k", 20, "Recommendations per user.", lower_bound=1)
_USERS = flags.DEFINE_string("users", None, "File with one user id a line; default: all users of the data.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write: .parquet, .csv or .tsv.", required=True)
_INCLUDE_SEEN = flags.DEFINE_bool("include_seen", False, "Also recommend what a user has already bought.")
_AT = flags.DEFINE_string("at", None, "Only items that are available at this time: a number or date as in the data.")
_REQUESTS = flags.DEFINE_string("requests", None, "File of candidates to rank: .csv, .tsv or .parquet.")
_EXPORT = flags.DEFINE_string("export_embeddings", None, "Directory for vectors (.npy) and ids (.txt) per node type.")
cli.define_compilation_cache()


def main() -> None:
    """Runs the command."""
    cli.start_devices()
    workdir, output = Path(_WORKDIR.value), Path(_OUTPUT.value)
    cli.check_output(output, serving.FORMATS)
    if _REQUESTS.value:
        _recommend_requests(workdir, Path(_REQUESTS.value), output)
        return
    export = Path(_EXPORT.value) if _EXPORT.value else None
    if export is not None and export.exists() and (not export.is_dir() or any(export.iterdir())):
        raise ConfigError(f"--export_embeddings={export}: this is a file or not empty; choose a new directory")
    if export is not None:
        require_writable(export.parent, f"--export_embeddings={export}")
    at = None if _AT.value is None else serving.read_time(_AT.value)
    users = serving.read_users(Path(_USERS.value)) if _USERS.value else None
    config = load_config(workdir, _DATA.value, tuple(_PLUGINS.value), cli.read_mesh(_MESH.value))
    if learns_events(config):
        _recommend_live(config, workdir, users, output, at)
        return
    run = prepare(config, trains=False)
    assert isinstance(run, RelationRun)
    offered = None if at is None else serving.offered_at(run, at)
    state, _ = restore_best(run, workdir)
    if _K.value > (num_items := run.num_targets()):
        logging.warning("--k=%d, but there are only %d items: the lists are shorter", _K.value, num_items)
    counts = serving.write_recommendations(run, state, users, _K.value, output, _INCLUDE_SEEN.value, offered)
    logging.info("wrote %s: %s", output, ", ".join(f"{name} {count}" for name, count in counts.items()))
    if export is not None:
        serving.export_embeddings(run, state, export)
        logging.info("wrote %s", export)


def _recommend_live(
    config: RunConfig, workdir: Path, users: np.ndarray | None, output: Path, at: serving.Moment | None
) -> None:
    """Lists of a model of impressions; refuses flags that have no meaning for it."""
    if at is None:
        raise ConfigError(
            f"--at is missing: '{config.model.name}' ranks what is available at a time; give a number or date as "
            "in the data"
        )
    if _INCLUDE_SEEN.value:
        raise ConfigError("--include_seen: rooms of known streamers are always candidates; leave the flag out")
    if _EXPORT.value:
        raise ConfigError(
            f"--export_embeddings: '{config.model.name}' has no final vectors of nodes; leave the flag out"
        )
    run = prepare(config, trains=False)
    assert isinstance(run, EventRun)
    live_serving.candidates_at(run, at)  # before the checkpoint is read
    state, _ = restore_best(run, workdir)
    counts = live_serving.write_live_recommendations(run, state, users, _K.value, output, at)
    logging.info("wrote %s: %s", output, ", ".join(f"{name} {count}" for name, count in counts.items()))


def _recommend_requests(workdir: Path, path: Path, output: Path) -> None:
    """Lists of a model of impressions for the requests of a file; refuses flags that say whom or what to list."""
    given = {"users": _USERS.value, "include_seen": _INCLUDE_SEEN.value, "export_embeddings": _EXPORT.value}
    if refused := [name for name, value in given.items() if value]:
        raise ConfigError(f"--{refused[0]}: --requests={path} says who is asked about whom; leave one of them out")
    if output.resolve() == path.resolve():
        raise ConfigError(f"--output={output}: this is the file of --requests; give another name")
    at = None if _AT.value is None else serving.read_time(_AT.value)
    config = load_config(workdir, _DATA.value, tuple(_PLUGINS.value), cli.read_mesh(_MESH.value))
    if not learns_events(config):
        raise ConfigError(
            f"--requests={path}: '{config.model.name}' learns relations, and its lists are of all items; leave it out, "
            "and say with --users whose lists to write"
        )
    run = prepare(config, trains=False)
    assert isinstance(run, EventRun)
    asked = request_serving.asked_of(run, path, at)  # before the checkpoint is read
    state, _ = restore_best(run, workdir)
    counts = request_serving.write_requests(run, state, asked, _K.value, output)
    logging.info("wrote %s: %s", output, ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    cli.run(main)
