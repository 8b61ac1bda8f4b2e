"""Starting a run from another run's parameters, on data with other nodes: `train --init_from`.

Rows of embedding tables are matched by the nodes' external ids: known nodes keep their rows bit for bit, new ones start
from the mean of the known ones (of their category, `config.new_ids`), those that are gone are dropped. With moments
"keep", the optimizer's moments of known rows and of dense parameters come along, those of new rows are as at the start
of training, and so stays Adam's count: its bias correction is for moments that are still near their start at zero, and
would multiply kept ones by up to 1 / (1 - b1). The new run counts its own steps, and with them its learning rate's
schedule, its batches and its draws, from 0.

`carry` does this for any two states of one model, whatever runs or stages they belong to.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import scipy.sparse
from absl import logging

from lsec_jax import config as config_lib
from lsec_jax import config_json
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.graph_fields import UNKNOWN_CHILD
from lsec_jax.parallel import processes
from lsec_jax.parallel.strategies import Part
from lsec_jax.schema import DataError, Feature, NodeTable
from lsec_jax.training import vocabulary
from lsec_jax.training.base_run import Run
from lsec_jax.training.checkpoint_folders import CheckpointError, steps_in
from lsec_jax.training.checkpoints import Checkpoints, read_chosen
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from lsec_jax.training.workdirs import RECORD, read_data_record

MOMENTS = ("keep", "reset")
_RECORDED = {"workdir", "asked_step", "moments", "step", "parameters_sha256"}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run starts.

    Attributes:
        workdir: of the earlier run.
        step: "best", "last" or a number.
        moments: "keep" or "reset".
    """

    workdir: Path
    step: str = "best"
    moments: str = "keep"


class Start(NamedTuple):
    """What a run starts with.

    Attributes:
        state: the state before the first step.
        record: where it comes from, JSON, for the workdir's data.json.
    """

    state: TrainState
    record: dict[str, Any]


class Placement(NamedTuple):
    """Where the nodes of one type were in an earlier run.

    Attributes:
        rows: the earlier row of each row of the table, [n] int64, -1 = new.
        groups: its category, [n] int32, -1 = none is known.
        num_earlier: nodes of the earlier run.
        num_reserved: rows before those of nodes, which stand for none of them, in both runs.
    """

    rows: np.ndarray
    groups: np.ndarray
    num_earlier: int
    num_reserved: int = 0

    def counts(self) -> dict[str, int]:
        """How many nodes are known, new, and dropped."""
        known = int((self.rows >= 0).sum()) - self.num_reserved
        return {"known": known, "new": len(self.rows) - self.num_reserved - known, "dropped": self.num_earlier - known}


def settle(workdir: Path, config: RunConfig, origin: Origin | None) -> Origin | None:
    """Checks, before anything is loaded, where a run starts.

    A run that was begun keeps its origin: the record in its workdir, which the flags may repeat but not change.

    Args:
        workdir: of the run.
        config: of the run.
        origin: as asked for.

    Returns:
        The origin, of a run that was begun with the very step that it began with.

    Raises:
        ConfigError: another origin than the run began with, or one that cannot be used.
        CheckpointError: a file of the earlier run is damaged.
    """
    if origin is not None:
        _check_flags(workdir, origin)
    if (workdir / "config.json").exists():
        stored = _read_origin(workdir)
        found = None if stored is None else {name: stored[name] for name in ("workdir", "asked_step", "moments")}
        given = None if origin is None else _as_asked(origin)
        if given is not None and found != given:
            lines = config_json.differences(found or {}, given, "--init_from")
            raise ConfigError(
                f"workdir {workdir} was begun otherwise (stored -> given):\n  "
                + "\n  ".join(lines)
                + "\nUse another --workdir, or leave --init_from out to resume."
            )
        return None if stored is None else Origin(Path(stored["workdir"]), str(stored["step"]), stored["moments"])
    if origin is not None:
        _check_earlier_config(origin, config)
    return origin


def _read_origin(workdir: Path) -> dict[str, Any] | None:
    """What data.json of a workdir says of where its run began; None = from scratch."""
    stored = read_data_record(workdir).get(RECORD)
    if stored is not None and not (isinstance(stored, dict) and _RECORDED <= stored.keys()):
        raise CheckpointError(f"{workdir}/data.json: '{RECORD}' is damaged; restore the file, or use another --workdir")
    return stored


def _as_asked(origin: Origin) -> dict[str, str]:
    return {"workdir": str(origin.workdir.resolve()), "asked_step": origin.step, "moments": origin.moments}


def _check_flags(workdir: Path, origin: Origin) -> None:
    if origin.step not in ("best", "last") and not re.fullmatch(r"\d{1,18}", origin.step, re.ASCII):
        raise ConfigError(f"--init_step={origin.step}: give best, last, or the number of a step")
    config_lib.require_choice("--init_moments", origin.moments, MOMENTS)
    if origin.workdir.resolve() == workdir.resolve():
        raise ConfigError(
            f"--init_from={origin.workdir} is the --workdir itself; give another --workdir, or leave --init_from out "
            "to resume"
        )


def _check_earlier_config(origin: Origin, config: RunConfig) -> None:
    """Refuses an earlier run whose parameters would not fit, or mean something else."""
    place = f"--init_from={origin.workdir}"
    if not origin.workdir.is_dir():
        raise ConfigError(f"{place}: no such directory; give the --workdir of a trained run")
    path = origin.workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{place}: no config.json here; give the --workdir of a trained run")
    try:
        stored = json.loads(path.read_text())
        model, optimizer = stored["model"], stored["optimizer"].get("name", "adam")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore the file, or start from another run") from None
    own = config_json.to_json(config)["model"]
    if not isinstance(model, dict) or model.get("type") != own["type"]:
        stored_type = model.get("type") if isinstance(model, dict) else model
        lines = config_json.differences(stored_type, own["type"], "config.model.type")
    else:
        free = getattr(config.model, "training_keys", ())
        lines = [
            line
            for line in config_json.differences(config_json.with_defaults(model, config.model), own, "config.model")
            if _key_of(line) not in free
        ]
    if lines:
        raise ConfigError(
            f"{place} is of another model (its config -> this one's):\n  "
            + "\n  ".join(lines)
            + "\nStart from a run of the same model, or give its values."
        )
    if origin.moments == "keep" and optimizer != config.optimizer.name:
        raise ConfigError(
            f"{place} was trained with config.optimizer.name = '{optimizer}', whose moments '{config.optimizer.name}' "
            "cannot use; give --init_moments=reset"
        )


def _key_of(line: str) -> str:
    """The model's key in a line of `differences`, e.g. "tasks[].weight"."""
    key = line.partition(":")[0].removeprefix("config.model.")
    return re.sub(r"\[\d+\]", "[]", key)


def start(run: Run, origin: Origin) -> Start:
    """Makes the state that a run starts with from an earlier run's checkpoint.

    All processes of the run call it, and start from the same step.

    Args:
        run: prepared.
        origin: settled.

    Raises:
        CheckpointError: the checkpoint or the earlier run's id lists cannot be read, or do not fit the model.
        DataError: the data shares no id of some type with the earlier run's.
        ProcessError: that is so in another process.
    """
    with processes.agreed("looking at the earlier run"):
        if not origin.workdir.is_dir():  # of a run that was begun: nothing has looked at it yet
            raise CheckpointError(
                f"{origin.workdir}: gone, but the run that starts from it has no checkpoint of its own yet; bring it "
                "back, or use another --workdir"
            )
        template = run.unplaced_state()
        tables = template.params.tables
        earlier = vocabulary.read(origin.workdir, tables)
        features = vocabulary.check_categories(run.data, run.config.new_ids)
        nodes, reserved = {of.name: of for of in run.embedded_nodes()}, run.num_reserved_rows
        placements = {name: place(nodes[name], earlier[name], features.get(name), origin, reserved) for name in tables}
    parts = {"params": template.params}
    if origin.moments == "keep":
        parts["opt_state"] = template.opt_state
    step, stored = _read(origin, parts)
    with processes.agreed("starting from the earlier run"):
        _check_shapes(stored, parts, earlier, origin.workdir / "checkpoints" / str(step))
        state = carry(template, stored["params"], stored.get("opt_state"), placements)
        counts = {name: of.counts() for name, of in placements.items()}
        for name, of in counts.items():
            text = "initial vectors of %ss from step %d of %s: %d known, %d new, %d dropped"
            logging.info(text, name, step, origin.workdir, of["known"], of["new"], of["dropped"])
        record = {
            **_as_asked(origin),
            "step": step,
            "parameters_sha256": _hash(stored["params"]),
            "data_fingerprint": read_data_record(origin.workdir).get("fingerprint"),
            "nodes": counts,
        }
        return Start(run.strategy.place(state, Part.STATE), record)


def check_unchanged(workdir: Path, found: Start) -> None:
    """Refuses to begin a run again, after it was stopped before its first checkpoint, with other parameters.

    Raises:
        CheckpointError: the earlier run's checkpoint is not what it was.
    """
    stored = _read_origin(workdir) if (workdir / "config.json").exists() else None
    if stored is not None and stored["parameters_sha256"] != found.record["parameters_sha256"]:
        raise CheckpointError(
            f"{found.record['workdir']}: its checkpoint of step {stored['step']} is not the one that {workdir} was "
            "begun with; train into another --workdir"
        )


def place(
    nodes: NodeTable, earlier: NodeTable, feature: Feature | None, origin: Origin, num_reserved: int = 0
) -> Placement:
    """Finds nodes in an earlier run by their ids; raises DataError where none is there."""
    rows = earlier.index_of(nodes.ids)
    if not (rows >= 0)[~_are_unknown_children(nodes.ids)].any():
        raise DataError(
            f"--init_from={origin.workdir}: it knows none of the {len(nodes)} {nodes.name} ids of this data (its first "
            f"is {earlier.ids[:1].tolist()}, this data's {nodes.ids[:1].tolist()}); give data with ids of the same form"
        )
    groups = np.full(len(nodes), -1, np.int32) if feature is None else feature.values
    if num_reserved:
        rows = np.concatenate([np.arange(num_reserved), np.where(rows < 0, -1, rows + num_reserved)])
        groups = np.concatenate([np.full(num_reserved, -1, np.int32), groups])
    return Placement(rows, groups, len(earlier), num_reserved)


def _are_unknown_children(ids: np.ndarray) -> np.ndarray:
    """Rows of a path's table that every tree has, [n] bool."""
    return np.char.startswith(ids, UNKNOWN_CHILD) if ids.dtype.kind == "U" else np.zeros(len(ids), bool)


def carry(template: TrainState, params: Params, opt_state: Any, placements: Mapping[str, Placement]) -> TrainState:
    """Returns a state, of numpy arrays, with another one's dense parameters and, by id, its rows.

    Args:
        template: a fresh state: gives shapes, the step, rows of padding, and moments where there are none.
        params: the other one's, numpy; its tables may have rows of padding at their end.
        opt_state: its optimizer's state, of the same optimizer; None = a fresh one.
        placements: of the nodes of each table.
    """
    fresh = jax.device_get(template)

    def carried(own: Params, other: Params, is_vectors: bool) -> Params:
        tables: dict[str, Any] = {
            name: _table(values, other.tables[name], placements[name], is_vectors)
            for name, values in own.tables.items()
        }
        return Params(other.dense, tables)

    def moments(own: Any, other: Any) -> Any:
        if isinstance(own, Params):
            return carried(own, other, is_vectors=False)
        return own if isinstance(own, optax.ScaleByScheduleState) else other  # the schedule begins anew

    new_opt_state = fresh.opt_state
    if opt_state is not None:
        is_part = (Params, optax.ScaleByScheduleState)
        new_opt_state = jax.tree.map(moments, new_opt_state, opt_state, is_leaf=lambda node: isinstance(node, is_part))
    new = TrainState(fresh.step, carried(fresh.params, params, is_vectors=True), new_opt_state)
    return jax.tree.map(lambda value, like: np.asarray(value, like.dtype), new, fresh)


def _table(fresh: Any, earlier: Any, placement: Placement, is_vectors: bool) -> np.ndarray:
    """A table with the earlier rows of known nodes; new nodes' vectors are means, their moments stay fresh."""
    table, rows = np.array(fresh), placement.rows
    known = np.flatnonzero(rows >= 0)
    table[known] = earlier[rows[known]]
    new = np.flatnonzero(rows < 0)
    if is_vectors and len(new):
        nodes = known[known >= placement.num_reserved]
        table[new] = means(table[: len(rows)], nodes, placement.groups)[placement.groups[new]]
    return table


def means(vectors: np.ndarray, known: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean vectors of the known nodes by group, in double precision; where a group has none, of all known ones.

    Args:
        vectors: [n, d].
        known: positions of the known nodes, at least one.
        groups: of all nodes, [n], -1 = none.

    Returns:
        [groups + 1, d] float64; the last row, which -1 finds, is the mean of all.
    """
    num_groups = int(groups.max(initial=-1)) + 1
    own = np.where(groups[known] < 0, num_groups, groups[known])
    members = scipy.sparse.csr_array((np.ones(len(known)), (own, known)), shape=(num_groups + 1, len(vectors)))
    sums = members @ vectors  # in float64, as `members` is
    counts = np.bincount(own, minlength=num_groups + 1)
    found = sums / np.maximum(counts, 1)[:, None]
    overall = sums.sum(axis=0) / len(known)
    found[counts == 0] = overall
    found[-1] = overall
    return found


def _read(origin: Origin, parts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Reads parts of the chosen checkpoint of an earlier run, which may still train; returns its step and them."""
    try:
        return read_chosen(
            origin.workdir / "checkpoints",
            lambda checkpoints: _choose_step(checkpoints, origin.step),
            lambda checkpoints, step: checkpoints.restore_on_host(parts, step),
        )
    except CheckpointError as error:
        raise CheckpointError(f"--init_from={origin.workdir}: {error}") from error


def _choose_step(checkpoints: Checkpoints, step: str) -> int:
    steps = steps_in(checkpoints.directory)
    if step == "best":
        return checkpoints.best_step()
    if step == "last":
        return steps[-1]
    if int(step) not in steps:
        raise CheckpointError(f"no checkpoint of step {step}; there are those of {', '.join(map(str, steps))}")
    return int(step)


def _check_shapes(stored: Any, template: Any, earlier: Mapping[str, NodeTable], place: Path) -> None:
    """Refuses arrays that are not the model's; tables may be longer than their ids, but not shorter."""
    problems = []
    for (path, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(stored), jax.tree.leaves(template), strict=True
    ):
        name = jax.tree_util.keystr(path)
        table = re.search(r"\.tables\['(.+?)'\]", name)
        first = slice(1 if table else 0, None)
        if np.shape(found)[first] != wanted.shape[first] or (table and len(found) < len(earlier[table[1]])):
            problems.append(f"{name}: {np.shape(found)}, this model has {wanted.shape}")
    if problems:
        raise CheckpointError(f"{place}: does not fit this model:\n  " + "\n  ".join(problems))


def _hash(params: Params) -> str:
    """SHA-256 over all parameters, hex."""
    digest = hashlib.sha256()
    for path, values in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
