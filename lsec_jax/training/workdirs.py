"""What a workdir says of its run, and whether another one may use it."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from lsec_jax import config_json
from lsec_jax.config import ConfigError, ParallelConfig, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.nn.rows import check_backend
from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.training import vocabulary
from lsec_jax.training.base_run import Run
from lsec_jax.training.checkpoint_folders import CheckpointError, read_record, steps_in
from lsec_jax.training.checkpoints import Checkpoints, Progress, read_chosen
from lsec_jax.training.data_records import data_differences, describe_data
from lsec_jax.training.locks import LOCK_NAME
from lsec_jax.training.state import TrainState

# What a resumed run may change: it decides how the run goes on, not what comes out of the steps that it makes.
_MAY_CHANGE = (
    "config.checkpoint.",
    "config.parallel.",
    "config.training.on_nonfinite:",
    "config.training.max_skipped:",
)
RECORD = "initialised_from"  # of data.json: where a run that did not start from scratch comes from


def check_workdir(workdir: Path, config: RunConfig) -> RunConfig:
    """Checks, before anything is loaded, that the workdir is new, empty or of this very config.

    Returns:
        The config to go on with: where it leaves the updates of the tables open ("auto"), a run of a version that had
        dense ones only keeps them.

    Raises:
        ConfigError: if the workdir belongs to another config, with the differences, or holds something else.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is a file; choose an empty or new directory")
    stored = _read_json(workdir / "config.json")
    if stored is None:
        # A run that was killed while it claimed the workdir leaves these.
        ours = {"data.json", "data.json.tmp", "config.json.tmp", LOCK_NAME, vocabulary.FOLDER}
        if workdir.is_dir() and any(path.name not in ours for path in workdir.iterdir()):
            raise ConfigError(f"workdir {workdir} is not empty and holds no run; choose an empty or new directory")
        return config
    known = config_json.with_defaults(stored, config)
    optimizer = stored.get("optimizer") if isinstance(stored, dict) else None
    if isinstance(optimizer, dict) and "tables" not in optimizer:
        known["optimizer"]["tables"] = "dense"
        if config.optimizer.tables == "auto":
            config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, tables="dense"))
    changed = config_json.differences(known, config_json.to_json(config))
    if changed := [line for line in changed if not line.startswith(_MAY_CHANGE)]:
        raise ConfigError(
            f"workdir {workdir} belongs to another config (stored -> given):\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or give the stored values again to resume."
        )
    return config


def claim_workdir(workdir: Path, run: Run, origin: Mapping[str, Any] | None = None) -> None:
    """Writes config.json, data.json and lists of ids into a new workdir, or checks that they are this run's already.

    Args:
        workdir: exists; empty, or of this run.
        run: prepared.
        origin: where its initial state comes from, for data.json; None = from scratch.

    Raises:
        ConfigError: as `check_workdir`.
        DataError: if its data differs from this run's.
    """
    check_workdir(workdir, run.config)
    current = config_json.to_json(run.config)
    stored = _read_json(workdir / "config.json")
    if stored is None:
        vocabulary.write(workdir, run.embedded_nodes())
        write_json(workdir / "data.json", run.describe() | ({} if origin is None else {RECORD: dict(origin)}))
        write_json(workdir / "config.json", current)
        return
    _check_fingerprint(workdir, run.describe)
    vocabulary.write(workdir, run.embedded_nodes(), only_missing=True)  # a run of before there were such lists
    changed = config_json.differences(config_json.with_defaults(stored, run.config), current)
    if changed := [line for line in changed if line.startswith(_MAY_CHANGE)]:
        logging.info("changed since this run was started: %s", ", ".join(changed))
        write_json(workdir / "config.json", current)


def check_fingerprint(workdir: Path, data: LiveCommerceData) -> None:
    """Raises DataError unless the data is what the workdir's run was trained on."""
    _check_fingerprint(workdir, functools.partial(describe_data, data))


def _check_fingerprint(workdir: Path, describe: Callable[[int], dict[str, Any]]) -> None:
    stored = _read_json(workdir / "data.json")
    if not isinstance(stored, dict) or "fingerprint" not in stored:
        raise DataError(f"{workdir}/data.json is missing or damaged; restore the file, or train into another --workdir")
    stored.pop(RECORD, None)
    if lines := data_differences(stored, describe, f"{workdir}/data.json: "):
        raise DataError(
            f"the data differs from what {workdir} was trained on (stored -> now):\n  "
            + "\n  ".join(lines)
            + "\nGive the original data (evaluate and recommend: --data; analyze: --config), or train into another "
            "--workdir."
        )


def load_config(
    workdir: Path, data_path: str | None, plugins: tuple[str, ...], parallel: ParallelConfig | None = None
) -> RunConfig:
    """Reads a workdir's config.json, for other devices: which ones trained the run does not matter.

    A run that was trained with the compiled kernels can be read where there are none: then its sums are made by the
    device's own backend, which changes their rounding only, and a warning says so.

    Args:
        workdir: of a trained run.
        data_path: replaces the source's `path`, or None.
        plugins: packages besides lsec_jax whose classes the config may name.
        parallel: the devices; None = one.

    Raises:
        ConfigError: if there is none, or it cannot be used.
    """
    stored = _read_json(workdir / "config.json") or _newest_record(workdir).get("config")
    if stored is None:
        raise ConfigError(f"{workdir}: no config.json here; give the --workdir of a trained run")
    config = config_json.from_dict(RunConfig, stored, plugins)
    if data_path is not None:
        source = config.data
        while not hasattr(source, "path") and hasattr(source, "source"):
            source = source.source  # whose data it reads
        if not hasattr(source, "path"):
            raise ConfigError(f"--data={data_path}: this run's data source ({type(source).__module__}) has no path")
        source.path = data_path
    config.parallel = ParallelConfig(data=1) if parallel is None else parallel
    if getattr(config.model, "backend", None) == "compiled":
        try:
            check_backend("config.model.backend", "compiled")
        except ConfigError as error:
            logging.warning("%s: this is done here", error)
            config.model.backend = "auto"
    return config


def restore_best(run: Run, workdir: Path) -> tuple[TrainState, Progress]:
    """Restores the best checkpoint of a workdir, in which training may go on meanwhile.

    Raises:
        CheckpointError: if there is none or it is damaged.
        DataError: if the data is not what the run was trained on.
    """
    if (workdir / "data.json").exists() or not _newest_record(workdir):  # else the checkpoint says it
        _check_fingerprint(workdir, run.describe)
    return read_chosen(workdir / "checkpoints", Checkpoints.best_step, run.restore)[1]


def _newest_record(workdir: Path) -> dict[str, Any]:
    """What the newest checkpoint says of its run; empty if there is none, or it says nothing."""
    steps = steps_in(workdir / "checkpoints")
    return read_record(workdir / "checkpoints" / str(steps[-1])) if steps else {}


def read_data_record(workdir: Path) -> dict[str, Any]:
    """Returns what data.json of a workdir holds; nothing where it is missing or no table, as `check_fingerprint` says.

    Raises:
        CheckpointError: it is not JSON.
    """
    stored = _read_json(workdir / "data.json")
    return stored if isinstance(stored, dict) else {}


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); the file is damaged") from None
