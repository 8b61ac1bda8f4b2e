"""What tree-guided experts do with each scenario: their gates and states, which depend on the scenario's path alone.

Scenarios are the leaves of the tree, and the other nodes that the run's table of events shows as scenarios.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from lsec_jax.config import ConfigError
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.scenario_paths import PADDING
from lsec_jax.models import treems
from lsec_jax.nn import replicas
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.training.event_evaluation import ImpressionEvaluator
from lsec_jax.training.scenario_groups import GROUPS, scenarios_of
from lsec_jax.training.state import TrainableModel
from lsec_jax.training.tables import Params


@dataclasses.dataclass(frozen=True)
class TreeScenarios:
    """The scenarios of a tree, s of them, in the order of its nodes.

    Attributes:
        role: of the events.
        nodes: of the tree, [s] int64.
        ids: the user's own, [s].
        parents: nodes above them, -1 = none, [s] int64.
        ancestors: nodes at the second level above them, or they themselves where they are as high, [s] int64.
        paths: as rows of the table of the path, [s, levels] int32.
        training_impressions: [s] int64.
        groups: position in `scenario_groups.GROUPS`, [s] int8.
        node_ids: the user's own of all nodes.
    """

    role: str
    nodes: Int[np.ndarray, " s"]
    ids: np.ndarray
    parents: Int[np.ndarray, " s"]
    ancestors: Int[np.ndarray, " s"]
    paths: Int[np.ndarray, "s levels"]
    training_impressions: Int[np.ndarray, " s"]
    groups: Int[np.ndarray, " s"]
    node_ids: np.ndarray

    def weights(self) -> Float[np.ndarray, "groups s"]:
        """Of the scenarios in each group's mean: head and tail by training impressions, cold alike; rows sum to 1.

        A group without scenarios has zeros.
        """
        belongs = self.groups[None] == np.arange(len(GROUPS))[:, None]
        counted = np.where(self.groups == GROUPS.index("cold"), 1, self.training_impressions)
        weights = np.where(belongs, counted[None], 0).astype(np.float64)
        return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)


class Read(NamedTuple):
    """What a run makes of its scenarios.

    Attributes:
        gates: of each layer, [s, H, n] float32; each sums to 1.
        states: of the path's reader after each level, [s, H, d] float32.
    """

    gates: Float[np.ndarray, "s h n"]
    states: Float[np.ndarray, "s h d"]


class GateReader:
    """Reads the gates and states of all scenarios of a run of TREEMS from its parameters, all in one compiled call."""

    def __init__(
        self, model: TrainableModel, evaluator: ImpressionEvaluator, encoder: EventEncoder, strategy: Strategy
    ):
        """Takes the parts of a prepared run whose model is `treems.Treems`."""
        declared = encoder.declaration.paths[0]
        self._model, self._strategy, self._name = model, strategy, declared.name
        self.scenarios = _tree_scenarios(evaluator, encoder, declared.role)
        paths = self.scenarios.paths
        missing = -len(paths) % strategy.num_replicas
        padded = np.concatenate([paths, np.full((missing, paths.shape[1]), PADDING, np.int32)])
        self._paths = strategy.place(padded, Part.ROWS)

    def read(self, params: Params) -> Read:
        """Gates and states under some parameters."""
        found = jax.device_get(self._strategy.whole(self._read(params, self._paths)))
        count = len(self.scenarios.nodes)
        return Read(*(np.asarray(of, np.float32)[:count] for of in found))

    @functools.cached_property
    def _read(self) -> Callable[..., Any]:
        def read(params: Params, paths: jax.Array) -> tuple[jax.Array, jax.Array]:
            module = self._model.module(params.dense)
            vectors, mask = replicas.take(params.tables[self._name], paths), paths != PADDING
            states = module.states(vectors, mask)
            return replicas.all_rows(module.gates(vectors, mask)), replicas.all_rows(states)

        return self._strategy.compile(read, [Part.STATE, Part.ROWS], [Part.REPLICATED, Part.REPLICATED])

    def statistics(self, params: Params) -> dict[str, float]:
        """How each group's scenarios use the experts: `gates/GROUP/layerI/entropy` and `.../largest`.

        Of the mean gate of the group, as `utilisation` says; groups without scenarios are left out.
        """
        found: dict[str, float] = {}
        gates, weights = self.read(params).gates, self.scenarios.weights()
        for group, of in zip(GROUPS, weights, strict=True):
            if of.any():
                for name, values in utilisation(mean_gates(gates, of)).items():
                    found |= {f"gates/{group}/layer{i + 1}/{name}": float(value) for i, value in enumerate(values)}
        return found


def mean_gates(gates: Float[np.ndarray, "s h n"], weights: Float[np.ndarray, " s"]) -> Float[np.ndarray, "h n"]:
    """The weighted mean, float64; weights sum to 1."""
    return np.einsum("s,shn->hn", weights, gates.astype(np.float64))


def utilisation(mean: Float[np.ndarray, "h n"]) -> Mapping[str, Float[np.ndarray, " h"]]:
    """How a mean gate is spread over the experts, for each layer.

    Returns:
        "entropy", as a share of an even gate's: 1 = all experts alike, 0 = one alone; "largest" weight.
    """
    entropy = -(mean * np.log(np.maximum(mean, 1e-12))).sum(axis=1) / np.log(max(mean.shape[1], 2))
    return {"entropy": entropy, "largest": mean.max(axis=1)}


def require_treems(config: Any, flag: str) -> treems.Config:
    """Returns the model's config, or raises ConfigError naming the flag that gave another model's run."""
    if not isinstance(config, treems.Config):
        raise ConfigError(
            f"{flag}: holds a run of '{config.name}', which has no experts guided by a tree of scenarios; give the "
            "workdir of a run of TREEMS (lsec_jax.models.treems), and those of other models to --beside"
        )
    return config


def _tree_scenarios(evaluator: ImpressionEvaluator, encoder: EventEncoder, role: str) -> TreeScenarios:
    """Finds the scenarios, and counts their training impressions as reports do."""
    asked = dataclasses.replace(evaluator.config, scenario=role)
    known = scenarios_of(ImpressionEvaluator(evaluator.data, encoder, asked))
    tree = evaluator.data.tree_of(evaluator.events.nodes[role].node_type)
    is_scenario = np.ones(len(tree.parents), bool)
    is_scenario[tree.parents[tree.parents >= 0]] = False
    is_scenario[known.of_rows[known.of_rows >= 0]] = True
    nodes = np.flatnonzero(is_scenario)
    above = tree.paths()[nodes]
    second = above[:, min(1, above.shape[1] - 1)]
    return TreeScenarios(
        role=role,
        nodes=nodes,
        ids=known.ids[nodes],
        parents=tree.parents[nodes].astype(np.int64),
        ancestors=np.where(second >= 0, second, nodes),
        paths=encoder.scenario_paths[encoder.declaration.paths[0].name].of(nodes),
        training_impressions=known.training_impressions[nodes],
        groups=known.groups[nodes],
        node_ids=known.ids,
    )
