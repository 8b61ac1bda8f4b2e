"""What all prepared runs have in common: a model, its step, its state, and how they are divided over devices."""

import abc
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from absl import logging

from lsec_jax import config_json
from lsec_jax.config import RunConfig
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.schema import FINGERPRINT_VERSION, LiveCommerceData, NodeTable
from lsec_jax.training import optimizers
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.data_records import data_differences, describe_data
from lsec_jax.training.evaluation import EvaluationRow
from lsec_jax.training.state import Keys, TrainableModel, TrainState, init_state, make_draw, make_train_step
from lsec_jax.training.step_inputs import StepInput
from lsec_jax.training.tables import TablePlan, pad_tables, plan


class AnyEvaluator(Protocol):
    """Evaluates what a run's `scorer_function` or `baseline_scorers` return."""

    def evaluate(self, scorer: Any, split: str, protocol: str, users: np.ndarray | None = None) -> EvaluationRow:
        """Scores, ranks and averages; of some users (internal indices), or None = all."""
        ...

    def validation_users(self, split: str = "validation") -> np.ndarray | None:
        """The fixed random subset to evaluate during training, [u] int32 ascending; None = all users."""
        ...

    def check(self, split: str, protocol: str) -> None:
        """Refuses a split and protocol under which nothing can be ranked, before any scoring."""
        ...


@dataclasses.dataclass
class Run(abc.ABC):
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
    evaluator: Any
    strategy: Strategy

    # Rows before those of nodes at the start of each embedding table, which stand for none of them.
    num_reserved_rows: ClassVar[int] = 0

    @property
    def task(self) -> str:
        """The primary task's relation, or table of events: what is evaluated and recommended."""
        return self.config.model.task_tables[0]

    @abc.abstractmethod
    def has_rows(self, split: str) -> bool:
        """Whether the primary task has held-out examples in a split."""

    @abc.abstractmethod
    def audit(self) -> None:
        """Looks for leaks between training and evaluation; raises DataError with all that it finds."""

    @abc.abstractmethod
    def streams(self) -> Mapping[str, Callable[[int], Any]]:
        """By name, step -> what the step reads of the training examples."""

    @abc.abstractmethod
    def batch_at(self) -> Callable[[int], Mapping[str, Any]]:
        """Returns step -> the step's batch, of arrays with a row per example."""

    @abc.abstractmethod
    def scorer_function(self) -> Callable[[TrainState], Any]:
        """Returns the compiled function from a state to what the evaluator evaluates."""

    @abc.abstractmethod
    def baseline_scorers(self, split: str) -> Mapping[str, Any]:
        """The config's baselines fitted on training data, and the oracle of a simulated world, by name."""

    def examined(self, scorers: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """What a report says besides the leaderboard: Markdown, and the same for JSON.

        Args:
            scorers: by name, as `scorer_function` returns them.
            rows: of the leaderboard, those of baselines too.
        """
        del scorers, rows
        return "", {}

    def state_metrics(self, state: TrainState) -> dict[str, float]:
        """What training logs of a state at every validation besides metrics of held-out rows; nothing by default."""
        del state
        return {}

    @abc.abstractmethod
    def embedded_nodes(self) -> Iterable[NodeTable]:
        """The nodes behind the rows of the embedding tables, by name of the table."""

    def held_out(self) -> list[str]:
        """The splits that can be evaluated."""
        return [split for split in ("validation", "test") if self.has_rows(split)]

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
        return plan(self.config.optimizer.tables, {name: len(of) for name, of in self.tables.items()}, num_slots)

    @functools.cached_property
    def tables(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shapes of the embedding tables by name."""
        return jax.eval_shape(self.model.init, Keys.from_seed(self.config.seed)).tables

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
