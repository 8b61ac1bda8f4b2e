"""One run from its config: data, model, evaluator, and how it is divided over devices."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from lsec_jax import config as config_lib
from lsec_jax import config_json
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data import audits
from lsec_jax.data.batches import EdgeBatches
from lsec_jax.data.history_audits import audit_all_histories
from lsec_jax.data.replay import ReplayBatches, replay_batches
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources.offers import check_needs
from lsec_jax.data.splits import assign_splits
from lsec_jax.metrics import metric_names
from lsec_jax.parallel import platforms, strategies
from lsec_jax.parallel.divided_ranking import DividedRanking
from lsec_jax.parallel.mesh import check_batches
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.ranking import Rankable
from lsec_jax.schema import FINGERPRINT_VERSION, SPLITS, DataError, LiveCommerceData, NodeTable
from lsec_jax.scorers import NodeScorer
from lsec_jax.training import optimizers, vocabulary
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.data_records import data_differences, describe_data
from lsec_jax.training.evaluation import Evaluator
from lsec_jax.training.state import Keys, TrainableModel, TrainState, init_state, make_draw, make_train_step
from lsec_jax.training.step_inputs import StepInput
from lsec_jax.training.tables import Params, TablePlan, pad_tables, plan


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
        return self.strategy.place(self.unplaced_state(), Part.STATE)

    def unplaced_state(self) -> TrainState:
        """The same on this process's first device, whatever the strategy; its tables are filled up for the parts."""
        state = init_state(self.model, self._optimizer(), Keys.from_seed(self.config.seed))
        return pad_tables(state, self.strategy.num_shards)

    def step_function(self) -> Callable[..., Any]:
        """The compiled training step; the log says how it updates the embedding tables."""
        chosen = self.table_plan()
        logging.info("devices: %s", self.strategy.description)
        logging.info("embedding tables: %s", chosen.reason)
        key, may_skip = Keys.from_seed(self.config.seed).negatives, self.config.training.on_nonfinite == "skip"
        step = make_train_step(self.model, self._optimizer(), key, chosen.lazy, may_skip)
        drawn = [Part.REPLICATED] if self._draws_ahead else []
        arguments = [Part.STATE, Part.INPUTS, Part.ROWS, *drawn]
        return self.strategy.compile(step, arguments, [Part.STATE, Part.REPLICATED], donates=True)

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
        if self._draws_ahead:
            function = make_draw(self.model, Keys.from_seed(self.config.seed).negatives)
            draw = self.strategy.compile(function, [Part.INPUTS, Part.ROWS, Part.REPLICATED], [Part.REPLICATED])

        def make(step: int) -> StepInput:
            batch = self.strategy.place(batch_at(step), Part.ROWS)
            if draw is None:
                return StepInput(batch)
            started = time.perf_counter()
            drawn = jax.block_until_ready(draw(self.inputs, batch, np.int32(step)))
            return StepInput(batch, drawn, time.perf_counter() - started)

        return make

    @property
    def _draws_ahead(self) -> bool:
        """On several devices the step draws itself: two threads would start collectives in orders of their own."""
        return self.model.draws_ahead and self.strategy.num_replicas == 1

    def scorer_function(self) -> Callable[[TrainState], Rankable]:
        """Returns the compiled function from a state to the primary task's scorer; on several devices to its ranker."""
        compute, ranking = self._scorer_programs
        if ranking is None:
            return lambda state: compute(state.params, self.inputs)
        return lambda state: ranking.of(compute(state.params, self.inputs))

    @functools.cached_property
    def _scorer_programs(self) -> tuple[Callable[[Params, Any], NodeScorer], DividedRanking | None]:
        def scorer(params: Params, inputs: Any) -> NodeScorer:
            return self.model.module(params.dense).scorer(params.tables, inputs)

        compiled = self.strategy.compile(scorer, [Part.STATE, Part.INPUTS], [Part.SCORER])
        is_divided = self.strategy.num_replicas > 1
        return compiled, DividedRanking(self.strategy, self.num_targets()) if is_divided else None

    def final_vectors(self, state: TrainState) -> dict[str, np.ndarray]:
        """The final vectors (Eq. 7) by node type, [n, d] float32; of a run in one process."""

        def vectors(params: Params, inputs: Any) -> Mapping[str, jax.Array]:
            return self.model.module(params.dense).final_vectors(params.tables, inputs)

        compiled = self.strategy.compile(vectors, [Part.STATE, Part.INPUTS], [Part.NODES])
        found = jax.device_get(compiled(state.params, self.inputs))
        return {name: values[: len(self.data.nodes[name])] for name, values in found.items()}

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of the run that wrote it."""
        return {"config": config_json.to_dict(self.config), "data": self.describe()}

    def describe(self, version: int = FINGERPRINT_VERSION) -> dict[str, Any]:
        """`describe_data` of the run's data, which is read once for it."""
        if version not in self._descriptions:
            self._descriptions[version] = describe_data(self.data, version)
        return self._descriptions[version]

    @functools.cached_property
    def _descriptions(self) -> dict[int, dict[str, Any]]:
        return {}

    def restore(self, checkpoints: Checkpoints, step: int, verifies: bool = True) -> tuple[TrainState, Progress]:
        """Restores a checkpoint of this run; arguments as `Checkpoints.restore`.

        Raises:
            CheckpointError: if it is damaged, or of another model or data set.
        """
        record = checkpoints.record(step)
        if "config" in record:
            own = dataclasses.replace(self.config, data=None)  # loaded data may stand there
            stored = config_json.with_defaults(record["config"], own)
            models = [dict(of["model"]) for of in (stored, config_json.to_json(own))]
            for model in models:
                model.pop("backend", None)  # how sums are made, not what they are
            lines = config_json.differences(models[0], models[1], "config.model")
            lines += data_differences(record["data"], self.describe)
            if lines:
                raise CheckpointError(
                    f"{checkpoints.directory}/{step}: is of another model or data set (stored -> now):\n  "
                    + "\n  ".join(lines)
                    + "\nTake it out of that folder, or use the --workdir that it belongs to."
                )
        return checkpoints.restore(self.initial_state(), step, verifies)

    def _optimizer(self) -> Any:
        return optimizers.build(self.config.optimizer, self.config.training.num_steps)


def prepare(config: RunConfig, data: LiveCommerceData | None = None, trains: bool = True) -> Run:
    """Loads, validates and splits the data and builds the model; writes nothing.

    Args:
        config: of the run.
        data: what its source would load, where that is there already.
        trains: whether its batches must suit its devices.

    Raises:
        ConfigError: if the config cannot work, alone or with this data.
        DataError: if the data cannot be used.
    """
    config_lib.validate(config)
    _check_metric(config)
    strategy = strategies.make(config.parallel)
    host = platforms.host_device() if strategy.num_replicas > 1 else None
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
    inputs = _host_inputs(config, data, strategy.num_shards, host)
    for name, num_examples in model_config.streams(inputs).items():
        if num_examples == 0:
            raise DataError(f"'{name}' has no training examples after the split; change config.split")
    for text, count in sorted(data.counts.items()):
        if count:
            logging.info("data: %s: %d", text, count)
    # Also refuses a replay window that the edges' times do not allow.
    sizes = {name: stream.batch_size for name, stream in _streams(config, data, inputs).items()}
    if trains:
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


def _host_inputs(config: RunConfig, data: LiveCommerceData, num_shards: int, host: jax.Device | None) -> Any:
    """The model's big arrays; those of several devices are made on the host: no device could hold them whole."""
    if host is None:
        return config.model.inputs(data)
    with jax.default_device(host):
        inputs = config.model.inputs(data)
        return inputs if num_shards == 1 else config.model.divide(inputs, num_shards)


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
