"""Runs over relations: batches of their edges, rankings of their targets."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from lsec_jax.config import RunConfig
from lsec_jax.data import audits
from lsec_jax.data.batches import EdgeBatches
from lsec_jax.data.history_audits import audit_all_histories
from lsec_jax.data.replay import ReplayBatches, replay_batches
from lsec_jax.parallel.divided_ranking import DividedRanking
from lsec_jax.parallel.strategies import Part
from lsec_jax.ranking import Rankable
from lsec_jax.schema import SPLITS, LiveCommerceData, NodeTable
from lsec_jax.scorers import NodeScorer, Scorer
from lsec_jax.training.base_run import Run
from lsec_jax.training.evaluation import baseline_scorers, oracle_scorer
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params


class RelationRun(Run):
    """A run whose model scores pairs of nodes; its evaluator is an `Evaluator`."""

    def num_targets(self) -> int:
        """How many nodes there are to rank."""
        return len(self.data.nodes[self.data.relations[self.task].target])

    def has_rows(self, split: str) -> bool:
        """Whether the primary task has held-out edges in a split."""
        return bool(np.any(self.data.relations[self.task].split == SPLITS[split]))

    def audit(self) -> None:
        """Looks for leaks between training and evaluation; raises DataError with all that it finds.

        What relations that train whole tell of held-out pairs is logged as a warning.
        """
        tasks, is_leave_one_out = self.config.model.task_tables, self.config.split.method == "leave_one_out"
        audits.audit_splits(self.data)
        audit_all_histories(self.data)
        if is_leave_one_out:
            audits.audit_leave_one_out(self.data, tasks)
        for text in audits.told_elsewhere(self.data, tasks, is_leave_one_out):
            logging.warning("audit: %s; leave the relation out, or split by time", text)
        for split in self.held_out() if "candidates" in self.config.evaluation.protocols else []:
            audits.audit_candidates(self.data, self.task, SPLITS[split], self.evaluator.candidate_lists(split))

    def embedded_nodes(self) -> list[NodeTable]:
        """The nodes behind the rows of the embedding tables."""
        return [self.data.nodes[name] for name in self.tables]

    def streams(self) -> dict[str, EdgeBatches | ReplayBatches]:
        """By task, step -> positions of the step's edges."""
        return streams(self.config, self.data, self.inputs)

    def batch_at(self) -> Callable[[int], Mapping[str, np.ndarray]]:
        """Returns step -> positions of the step's examples by stream."""
        streams = self.streams()
        return lambda step: {name: stream(step) for name, stream in streams.items()}

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

    @functools.cached_property
    def _fitted(self) -> dict[str, Scorer]:
        return baseline_scorers(self.data, self.task, self.config.evaluation)

    def baseline_scorers(self, split: str) -> dict[str, Scorer]:
        """The config's baselines fitted on the training edges, and the oracle of a simulated world."""
        oracle = oracle_scorer(self.data, self.task, split)
        return self._fitted if oracle is None else {**self._fitted, "oracle": oracle}

    def final_vectors(self, state: TrainState) -> dict[str, np.ndarray]:
        """The final vectors (Eq. 7) by node type, [n, d] float32; of a run in one process."""

        def vectors(params: Params, inputs: Any) -> Mapping[str, jax.Array]:
            return self.model.module(params.dense).final_vectors(params.tables, inputs)

        compiled = self.strategy.compile(vectors, [Part.STATE, Part.INPUTS], [Part.NODES])
        found = jax.device_get(compiled(state.params, self.inputs))
        return {name: values[: len(self.data.nodes[name])] for name, values in found.items()}


def streams(config: RunConfig, data: LiveCommerceData, inputs: Any) -> dict[str, EdgeBatches | ReplayBatches]:
    """By task, step -> positions of the step's edges; raises ConfigError for a replay that the edges do not allow."""
    found: dict[str, EdgeBatches | ReplayBatches] = {}
    for i, (name, num_examples) in enumerate(config.model.streams(inputs).items()):
        seed = (config.seed, 1 + i)
        if config.replay.window:
            found[name] = replay_batches(data, name, config.replay, config.training.batch_size, seed)
        else:
            found[name] = EdgeBatches(num_examples, config.training.batch_size, seed)
    return found
