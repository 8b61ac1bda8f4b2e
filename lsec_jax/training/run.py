"""One run from its config: data, model, evaluator, and what its workdir holds."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from lsec_jax import config as config_lib
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data import audits
from lsec_jax.data.batches import EdgeBatches
from lsec_jax.data.event_statistics import split_sizes
from lsec_jax.data.files import write_json
from lsec_jax.data.history_audits import audit_all_histories
from lsec_jax.data.replay import ReplayBatches, replay_batches
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources.offers import check_needs
from lsec_jax.data.splits import assign_splits
from lsec_jax.metrics import metric_names
from lsec_jax.nn.rows import check_backend
from lsec_jax.ranking import Scorer
from lsec_jax.schema import FINGERPRINT_VERSION, SPLITS, DataError, LiveCommerceData, NodeTable
from lsec_jax.training import optimizers, vocabulary
from lsec_jax.training.checkpoints import CheckpointError, Checkpoints, Progress
from lsec_jax.training.evaluation import Evaluator
from lsec_jax.training.state import Keys, TrainableModel, TrainState, init_state, make_draw, make_train_step
from lsec_jax.training.step_inputs import StepInput
from lsec_jax.training.tables import TablePlan, plan
from lsec_jax.training.writers import make_directory

RECORD = "initialised_from"  # of data.json: where a run that did not start from scratch comes from


@dataclasses.dataclass
class Run:
    """A prepared run: everything that its config and its data determine.

    Attributes:
        config: the validated config.
        data: loaded, validated and split.
        model: pure functions of the model.
        inputs: the model's big arrays on the device.
        evaluator: of the primary task.
    """

    config: RunConfig
    data: LiveCommerceData
    model: TrainableModel
    inputs: Any
    evaluator: Evaluator

    @property
    def task(self) -> str:
        """The primary task's relation: what is evaluated and recommended."""
        return self.config.model.task_relations[0]

    def num_targets(self) -> int:
        """How many nodes there are to rank."""
        return len(self.data.nodes[self.data.relations[self.task].target])

    def has_edges(self, split: str) -> bool:
        """Whether the primary task has held-out edges in a split."""
        return bool(np.any(self.data.relations[self.task].split == SPLITS[split]))

    def held_out(self) -> list[str]:
        """The splits that can be evaluated."""
        return [split for split in ("validation", "test") if self.has_edges(split)]

    def audit(self) -> None:
        """Looks for leaks between training and evaluation; raises DataError with all that it finds.

        What relations that train whole tell of held-out pairs is logged as a warning.
        """
        tasks, is_leave_one_out = self.config.model.task_relations, self.config.split.method == "leave_one_out"
        audits.audit_splits(self.data)
        audit_all_histories(self.data)
        if is_leave_one_out:
            audits.audit_leave_one_out(self.data, tasks)
        for text in audits.told_elsewhere(self.data, tasks, is_leave_one_out):
            logging.warning("audit: %s; leave the relation out, or split by time", text)
        for split in self.held_out() if "candidates" in self.config.evaluation.protocols else []:
            audits.audit_candidates(self.data, self.task, SPLITS[split], self.evaluator.candidate_lists(split))

    def initial_state(self) -> TrainState:
        """The state before the first step, committed to its device as a restored one is: jit compiles once for both."""
        state = init_state(self.model, self._optimizer(), Keys.from_seed(self.config.seed))
        return jax.device_put(state, jax.devices()[0])

    def step_function(self) -> Callable[..., Any]:
        """The jitted training step; the log says how it updates the embedding tables."""
        chosen = self.table_plan()
        logging.info("embedding tables: %s", chosen.reason)
        return make_train_step(self.model, self._optimizer(), Keys.from_seed(self.config.seed).negatives, chosen.lazy)

    def table_plan(self) -> TablePlan:
        """Which embedding tables a step updates lazily."""
        num_slots = self.model.num_lookups(self.inputs, self.batch_at()(0))
        return plan(self.config.optimizer.tables, {name: len(of) for name, of in self._tables.items()}, num_slots)

    def embedded_nodes(self) -> list[NodeTable]:
        """The nodes behind the rows of the embedding tables."""
        return [self.data.nodes[name] for name in self._tables]

    @functools.cached_property
    def _tables(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(self.model.init, Keys.from_seed(self.config.seed)).tables

    def batch_at(self) -> Callable[[int], Mapping[str, np.ndarray]]:
        """Returns step -> positions of the step's examples by stream."""
        sizes, config = self.config.model.streams(self.inputs), self.config
        streams: dict[str, EdgeBatches | ReplayBatches] = {}
        for i, (name, num_examples) in enumerate(sizes.items()):
            seed = (config.seed, 1 + i)
            if config.replay.window:
                streams[name] = replay_batches(self.data, name, config.replay, config.training.batch_size, seed)
            else:
                streams[name] = EdgeBatches(num_examples, config.training.batch_size, seed)
        return lambda step: {name: stream(step) for name, stream in streams.items()}

    def input_at(self) -> Callable[[int], StepInput]:
        """Returns step -> its batch on the device, with the draws of a model that draws ahead."""
        batch_at, device = self.batch_at(), jax.devices()[0]
        draw = make_draw(self.model, Keys.from_seed(self.config.seed).negatives) if self.model.draws_ahead else None

        def make(step: int) -> StepInput:
            batch = jax.device_put(batch_at(step), device)
            if draw is None:
                return StepInput(batch)
            started = time.perf_counter()
            drawn = jax.block_until_ready(draw(self.inputs, batch, np.int32(step)))
            return StepInput(batch, drawn, time.perf_counter() - started)

        return make

    def scorer_function(self) -> Callable[[TrainState], Scorer]:
        """Returns the jitted function from a state to the primary task's scorer."""
        return lambda state: self._compute_scorer(state.params, self.inputs)

    @functools.cached_property
    def _compute_scorer(self) -> Any:
        return jax.jit(lambda params, inputs: self.model.module(params.dense).scorer(params.tables, inputs))

    def _optimizer(self) -> Any:
        return optimizers.build(self.config.optimizer, self.config.training.num_steps)


def prepare(config: RunConfig, data: LiveCommerceData | None = None) -> Run:
    """Loads, validates and splits the data and builds the model; writes nothing.

    Args:
        config: of the run.
        data: what its source would load, where that is there already.

    Raises:
        ConfigError: if the config cannot work, alone or with this data.
        DataError: if the data cannot be used.
    """
    config_lib.validate(config)
    _check_metric(config)
    model_config = config.model
    data = config.data.load() if data is None else data
    check_needs(data, model_config.needs)
    data.validate()
    data = assign_splits(data, config.split, model_config.task_relations)
    data = add_histories(data, config.histories)
    vocabulary.check_categories(data, config.new_ids)
    evaluator = Evaluator(data, model_config.task_relations[0], config.evaluation)
    model = TrainableModel(model_config.build(data, nnx.Rngs(Keys.from_seed(config.seed).dense)))
    if config.optimizer.tables == "lazy" and not model.has_lookups:
        raise ConfigError(
            f"config.optimizer.tables = 'lazy': {model_config.name} reads whole tables at every step; use 'auto' or "
            "'dense'"
        )
    inputs = model_config.inputs(data)
    for name, num_examples in model_config.streams(inputs).items():
        if num_examples == 0:
            raise DataError(f"'{name}' has no training examples after the split; change config.split")
    for text, count in sorted(data.counts.items()):
        if count:
            logging.info("data: %s: %d", text, count)
    run = Run(config, data, model, inputs, evaluator)
    if config.replay.window:
        run.batch_at()  # refuses a window that the edges' times do not allow
    for split in run.held_out():
        for protocol in config.evaluation.protocols:
            evaluator.check(split, protocol)  # makes the candidate lists, which are kept for later
    if config.training.patience and not run.has_edges("validation"):
        raise ConfigError(
            f"config.training.patience = {config.training.patience}, but '{run.task}' has no validation edges to stop "
            "by; set it to 0 to train all steps, or hold some edges out (config.split, or the source's "
            "validation_fraction)"
        )
    return run


def _check_metric(config: RunConfig) -> None:
    """Early stopping needs a metric that the first protocol measures."""
    protocol = config.evaluation.protocols[0]
    known = metric_names(protocol, config.evaluation.cutoffs)
    if config.training.metric not in known:
        raise ConfigError(
            f"config.training.metric = '{config.training.metric}' is not measured by protocol '{protocol}' with "
            f"config.evaluation.cutoffs = {config.evaluation.cutoffs}; choose one of: {', '.join(known)}"
        )


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
        ours = {"data.json", "data.json.tmp", "config.json.tmp", vocabulary.FOLDER}
        if workdir.is_dir() and any(path.name not in ours for path in workdir.iterdir()):
            raise ConfigError(f"workdir {workdir} is not empty and holds no run; choose an empty or new directory")
        return config
    known = config_lib.with_defaults(stored, config)
    optimizer = stored.get("optimizer") if isinstance(stored, dict) else None
    if isinstance(optimizer, dict) and "tables" not in optimizer:
        known["optimizer"]["tables"] = "dense"
        if config.optimizer.tables == "auto":
            config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, tables="dense"))
    if changed := config_lib.differences(known, config_lib.to_json(config)):
        raise ConfigError(
            f"workdir {workdir} belongs to another config (stored -> given):\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or give the stored values again to resume."
        )
    return config


def claim_workdir(workdir: Path, run: Run, origin: Mapping[str, Any] | None = None) -> None:
    """Writes config.json, data.json and lists of ids into a new workdir, or checks that they are this run's already.

    Args:
        workdir: new, empty, or of this run.
        run: prepared.
        origin: where its initial state comes from, for data.json; None = from scratch.

    Raises:
        ConfigError: as `check_workdir`.
        DataError: if its data differs from this run's.
    """
    check_workdir(workdir, run.config)
    if (workdir / "config.json").exists():
        check_fingerprint(workdir, run.data)
        vocabulary.write(workdir, run.embedded_nodes(), only_missing=True)  # a run of before there were such lists
        return
    make_directory(workdir, f"--workdir={workdir}")
    vocabulary.write(workdir, run.embedded_nodes())
    write_json(workdir / "data.json", describe_data(run.data) | ({} if origin is None else {RECORD: dict(origin)}))
    write_json(workdir / "config.json", config_lib.to_dict(run.config))


def check_fingerprint(workdir: Path, data: LiveCommerceData) -> None:
    """Raises DataError unless the data is what the workdir's run was trained on."""
    stored = _read_json(workdir / "data.json")
    if not isinstance(stored, dict) or "fingerprint" not in stored:
        raise DataError(f"{workdir}/data.json is missing or damaged; restore the file, or train into another --workdir")
    version = stored.get("fingerprint_version", 1)
    if version not in range(1, FINGERPRINT_VERSION + 1):
        raise DataError(
            f"{workdir}/data.json: fingerprint_version = {version!r}; this version of lsec_jax knows 1 to "
            f"{FINGERPRINT_VERSION}: use the version that trained the run"
        )
    current = describe_data(data, version)
    if stored["fingerprint"] != current["fingerprint"]:
        stored.pop(RECORD, None)
        lines = config_lib.differences(stored, current, "data")
        raise DataError(
            f"the data differs from what {workdir} was trained on (stored -> now):\n  "
            + "\n  ".join(lines)
            + "\nGive the original data (evaluate and recommend: --data; analyze: --config), or train into another "
            "--workdir."
        )


def describe_data(data: LiveCommerceData, version: int = FINGERPRINT_VERSION) -> dict[str, Any]:
    """Counts and fingerprint (of a version) of a data set, as stored in data.json."""
    splits = {
        name: None if relation.split is None else split_sizes(relation.split)
        for name, relation in data.relations.items()
    }
    return {
        "name": data.name,
        "fingerprint": data.fingerprint(version),
        **({} if version == 1 else {"fingerprint_version": version}),  # which files of version 1 do not name
        "nodes": {name: len(table) for name, table in data.nodes.items()},
        "edges": {name: len(relation) for name, relation in data.relations.items()},
        "edges_train_validation_test": splits,
        "counts": dict(data.counts),
    }


def load_config(workdir: Path, data_path: str | None, plugins: tuple[str, ...]) -> RunConfig:
    """Reads a workdir's config.json.

    A run that was trained with the compiled kernels can be read where there are none: then its sums are made by the
    device's own backend, which changes their rounding only, and a warning says so.

    Args:
        workdir: of a trained run.
        data_path: replaces the source's `path`, or None.
        plugins: packages besides lsec_jax whose classes the config may name.

    Raises:
        ConfigError: if there is none, or it cannot be used.
    """
    stored = _read_json(workdir / "config.json")
    if stored is None:
        raise ConfigError(f"{workdir}: no config.json here; give the --workdir of a trained run")
    config = config_lib.from_dict(RunConfig, stored, plugins)
    if data_path is not None:
        source = config.data
        while not hasattr(source, "path") and hasattr(source, "source"):
            source = source.source  # whose data it reads
        if not hasattr(source, "path"):
            raise ConfigError(f"--data={data_path}: this run's data source ({type(source).__module__}) has no path")
        source.path = data_path
    if getattr(config.model, "backend", None) == "compiled":
        try:
            check_backend("config.model.backend", "compiled")
        except ConfigError as error:
            logging.warning("%s: this is done here", error)
            config.model.backend = "auto"
    return config


def restore_best(run: Run, workdir: Path) -> tuple[TrainState, Progress]:
    """Restores the best checkpoint of a workdir.

    Raises:
        CheckpointError: if there is none or it is damaged.
        DataError: if the data is not what the run was trained on.
    """
    check_fingerprint(workdir, run.data)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(run.initial_state(), checkpoints.best_step())


def read_record(workdir: Path) -> dict[str, Any]:
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
