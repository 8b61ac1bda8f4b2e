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
from lsec_jax.config import ConfigError, ParallelConfig, RunConfig
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
from lsec_jax.parallel import strategies
from lsec_jax.parallel.mesh import check_batches
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.ranking import Scorer
from lsec_jax.schema import FINGERPRINT_VERSION, SPLITS, DataError, LiveCommerceData, NodeTable
from lsec_jax.training import optimizers, vocabulary
from lsec_jax.training.checkpoints import CheckpointError, Checkpoints, Progress, read_record, steps_in
from lsec_jax.training.evaluation import Evaluator
from lsec_jax.training.locks import LOCK_NAME
from lsec_jax.training.state import Keys, TrainableModel, TrainState, init_state, make_draw, make_train_step
from lsec_jax.training.step_inputs import StepInput
from lsec_jax.training.tables import Params, TablePlan, pad_tables, plan
from lsec_jax.training.writers import make_directory

# What a resumed run may change: it decides how the run goes on, not what comes out of the steps that it makes.
_MAY_CHANGE = (
    "config.checkpoint.",
    "config.parallel.",
    "config.training.on_nonfinite:",
    "config.training.max_skipped:",
)
RECORD = "initialised_from"  # of data.json: where a run that did not start from scratch comes from


@dataclasses.dataclass
class Run:
    """A prepared run: everything that its config and its data determine.

    Attributes:
        config: the validated config.
        data: loaded, validated and split.
        model: pure functions of the model.
        inputs: the model's big arrays where the strategy has them.
        evaluator: of the primary task.
        strategy: how the run is divided over devices.
    """

    config: RunConfig
    data: LiveCommerceData
    model: TrainableModel
    inputs: Any
    evaluator: Evaluator
    strategy: Strategy

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
        """The state before the first step, where the strategy has it."""
        state = init_state(self.model, self._optimizer(), Keys.from_seed(self.config.seed))
        return self.strategy.place(pad_tables(state, self.strategy.num_shards), Part.STATE)

    def step_function(self) -> Callable[..., Any]:
        """The compiled training step; the log says how it updates the embedding tables."""
        chosen = self.table_plan()
        logging.info("devices: %s", self.strategy.description)
        logging.info("embedding tables: %s", chosen.reason)
        key, may_skip = Keys.from_seed(self.config.seed).negatives, self.config.training.on_nonfinite == "skip"
        step = make_train_step(self.model, self._optimizer(), key, chosen.lazy, may_skip)
        drawn = [Part.ROWS] if self.model.draws_ahead else []
        arguments = [Part.STATE, Part.INPUTS, Part.ROWS, *drawn]
        return self.strategy.compile(step, arguments, [Part.STATE, Part.SAME], donates=True)

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
        streams = _streams(self.config, self.data, self.inputs)
        return lambda step: {name: stream(step) for name, stream in streams.items()}

    def input_at(self) -> Callable[[int], StepInput]:
        """Returns step -> its batch on the device, with the draws of a model that draws ahead."""
        batch_at, draw = self.batch_at(), None
        if self.model.draws_ahead:
            function = make_draw(self.model, Keys.from_seed(self.config.seed).negatives)
            draw = self.strategy.compile(function, [Part.INPUTS, Part.ROWS, Part.SAME], [Part.ROWS])

        def make(step: int) -> StepInput:
            batch = self.strategy.place(batch_at(step), Part.ROWS)
            if draw is None:
                return StepInput(batch)
            started = time.perf_counter()
            drawn = jax.block_until_ready(draw(self.inputs, batch, np.int32(step)))
            return StepInput(batch, drawn, time.perf_counter() - started)

        return make

    def scorer_function(self) -> Callable[[TrainState], Scorer]:
        """Returns the jitted function from a state to the primary task's scorer."""
        return lambda state: self.strategy.whole(self._compute_scorer(state.params, self.inputs))

    @functools.cached_property
    def _compute_scorer(self) -> Any:
        def scorer(params: Params, inputs: Any) -> Scorer:
            return self.model.module(params.dense).scorer(params.tables, inputs)

        return self.strategy.compile(scorer, [Part.STATE, Part.INPUTS], [Part.SAME])

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of the run that wrote it."""
        return {"config": config_lib.to_dict(self.config), "data": self.describe()}

    def describe(self, version: int = FINGERPRINT_VERSION) -> dict[str, Any]:
        """`describe_data` of the run's data, which is read once for it."""
        if version not in self._descriptions:
            self._descriptions[version] = describe_data(self.data, version)
        return self._descriptions[version]

    @functools.cached_property
    def _descriptions(self) -> dict[int, dict[str, Any]]:
        return {}

    def restore(self, checkpoints: Checkpoints, step: int) -> tuple[TrainState, Progress]:
        """Restores a checkpoint of this run.

        Raises:
            CheckpointError: if it is damaged, or of another model or data set.
        """
        record = checkpoints.record(step)
        if "config" in record:
            stored = config_lib.with_defaults(record["config"], self.config)
            models = [dict(of["model"]) for of in (stored, config_lib.to_json(self.config))]
            for model in models:
                model.pop("backend", None)  # how sums are made, not what they are
            lines = config_lib.differences(models[0], models[1], "config.model")
            lines += _data_differences(record["data"], self.describe)
            if lines:
                raise CheckpointError(
                    f"{checkpoints.directory}/{step}: is of another model or data set (stored -> now):\n  "
                    + "\n  ".join(lines)
                    + "\nTake it out of that folder, or use the --workdir that it belongs to."
                )
        return checkpoints.restore(self.initial_state(), step)

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
    strategy = strategies.make(config.parallel)
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
    inputs = _host_inputs(config, data, strategy)
    for name, num_examples in model_config.streams(inputs).items():
        if num_examples == 0:
            raise DataError(f"'{name}' has no training examples after the split; change config.split")
    for text, count in sorted(data.counts.items()):
        if count:
            logging.info("data: %s: %d", text, count)
    # Also refuses a replay window that the edges' times do not allow.
    sizes = {name: stream.batch_size for name, stream in _streams(config, data, inputs).items()}
    check_batches(sizes, model_config.rows_together, strategy.num_replicas)
    run = Run(config, data, model, strategy.place(inputs, Part.INPUTS), evaluator, strategy)
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


def _host_inputs(config: RunConfig, data: LiveCommerceData, strategy: Strategy) -> Any:
    """The model's big arrays, made where several devices take their parts from: no device could hold them whole."""
    if strategy.num_replicas == 1:
        return config.model.inputs(data)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        inputs = config.model.inputs(data)
        return inputs if strategy.num_shards == 1 else config.model.divide(inputs, strategy.num_shards)


def _streams(config: RunConfig, data: LiveCommerceData, inputs: Any) -> dict[str, EdgeBatches | ReplayBatches]:
    streams: dict[str, EdgeBatches | ReplayBatches] = {}
    for i, (name, num_examples) in enumerate(config.model.streams(inputs).items()):
        seed = (config.seed, 1 + i)
        if config.replay.window:
            streams[name] = replay_batches(data, name, config.replay, config.training.batch_size, seed)
        else:
            streams[name] = EdgeBatches(num_examples, config.training.batch_size, seed)
    return streams


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
        ours = {"data.json", "data.json.tmp", "config.json.tmp", LOCK_NAME, vocabulary.FOLDER}
        if workdir.is_dir() and any(path.name not in ours for path in workdir.iterdir()):
            raise ConfigError(f"workdir {workdir} is not empty and holds no run; choose an empty or new directory")
        return config
    known = config_lib.with_defaults(stored, config)
    optimizer = stored.get("optimizer") if isinstance(stored, dict) else None
    if isinstance(optimizer, dict) and "tables" not in optimizer:
        known["optimizer"]["tables"] = "dense"
        if config.optimizer.tables == "auto":
            config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, tables="dense"))
    changed = config_lib.differences(known, config_lib.to_json(config))
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
        workdir: new, empty, or of this run.
        run: prepared.
        origin: where its initial state comes from, for data.json; None = from scratch.

    Raises:
        ConfigError: as `check_workdir`.
        DataError: if its data differs from this run's.
    """
    check_workdir(workdir, run.config)
    current = config_lib.to_json(run.config)
    stored = _read_json(workdir / "config.json")
    if stored is None:
        make_directory(workdir, f"--workdir={workdir}")
        vocabulary.write(workdir, run.embedded_nodes())
        write_json(workdir / "data.json", run.describe() | ({} if origin is None else {RECORD: dict(origin)}))
        write_json(workdir / "config.json", current)
        return
    _check_fingerprint(workdir, run.describe)
    vocabulary.write(workdir, run.embedded_nodes(), only_missing=True)  # a run of before there were such lists
    changed = config_lib.differences(config_lib.with_defaults(stored, run.config), current)
    if changed := [line for line in changed if line.startswith(_MAY_CHANGE)]:
        logging.info("changed since this run was started: %s", ", ".join(changed))
        write_json(workdir / "config.json", current)


def await_claim(workdir: Path, seconds: float = 60.0) -> None:
    """Returns when this process sees what the first one wrote; network file systems may take a while.

    Raises:
        ConfigError: if it does not see it in time.
    """
    deadline = time.monotonic() + seconds
    while not (workdir / "config.json").exists():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"--workdir={workdir}: this process does not see the config.json that process 0 wrote there; give a "
                "directory that all processes share"
            )
        time.sleep(0.1)


def check_fingerprint(workdir: Path, data: LiveCommerceData) -> None:
    """Raises DataError unless the data is what the workdir's run was trained on."""
    _check_fingerprint(workdir, functools.partial(describe_data, data))


def _check_fingerprint(workdir: Path, describe: Callable[[int], dict[str, Any]]) -> None:
    stored = _read_json(workdir / "data.json")
    if not isinstance(stored, dict) or "fingerprint" not in stored:
        raise DataError(f"{workdir}/data.json is missing or damaged; restore the file, or train into another --workdir")
    stored.pop(RECORD, None)
    if lines := _data_differences(stored, describe, f"{workdir}/data.json: "):
        raise DataError(
            f"the data differs from what {workdir} was trained on (stored -> now):\n  "
            + "\n  ".join(lines)
            + "\nGive the original data (evaluate and recommend: --data; analyze: --config), or train into another "
            "--workdir."
        )


def _data_differences(
    stored: Mapping[str, Any], describe: Callable[[int], dict[str, Any]], where: str = ""
) -> list[str]:
    """Compares what `describe_data` once said with the data now: one line for each difference, none if it is the same.

    Raises:
        DataError: if a later version described it; `where` begins the message.
    """
    version = stored.get("fingerprint_version", 1)
    if version not in range(1, FINGERPRINT_VERSION + 1):
        raise DataError(
            f"{where}fingerprint_version = {version!r}; this version of lsec_jax knows 1 to "
            f"{FINGERPRINT_VERSION}: use the version that trained the run"
        )
    current = describe(version)
    return [] if stored["fingerprint"] == current["fingerprint"] else config_lib.differences(stored, current, "data")


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
    """Reads a workdir's config.json, for one device: which ones trained the run does not matter.

    A run that was trained with the compiled kernels can be read where there are none: then its sums are made by the
    device's own backend, which changes their rounding only, and a warning says so.

    Args:
        workdir: of a trained run.
        data_path: replaces the source's `path`, or None.
        plugins: packages besides lsec_jax whose classes the config may name.

    Raises:
        ConfigError: if there is none, or it cannot be used.
    """
    stored = _read_json(workdir / "config.json") or _newest_record(workdir).get("config")
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
    config.parallel = ParallelConfig(data=1)
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
    while True:
        with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
            step = checkpoints.best_step()
            try:
                return run.restore(checkpoints, step)
            except CheckpointError:
                if step in steps_in(checkpoints.directory):
                    raise
        logging.info("a better checkpoint has replaced that of step %d", step)


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
