"""TREEMS: sharing recommendation over a tree of scenarios (Niu et al., WSDM 2021).

Implemented: experts of which every layer's output is kept (Eq. 3, 5), mixed by one gate per layer that reads the state
of an LSTM on the path from the tree's root to the scenario (Eq. 4, 6); the mixtures of all layers side by side go to
the towers (Eq. 7). Users' vectors are those after attention over sampled neighbours in each view, with the scenario's
context inside the attention (Eq. 8-13). Loss: log loss (Eq. 14), the inconsistency of the gates (Eq. 15-16) and L2.

Departures:
- A path that is shorter than the tree is deep keeps the state of its last node at the levels below it; one whose end
  training does not know ends with the unknown child of its level (`data/scenario_paths.py`). The paper says nothing of
  either.
- x has the declared fields of u and v besides their vectors from the views, as the paper's Figure 3 has features.
- While a step takes a node of the path for unknown, c still shows the scenario's own id: the unknown child learns
  beside ids that are known, and is read beside the row of all unknown ids.
- Attention "dynamic" is an option (`nn/view_attention.py`): as published, the context cannot change which neighbour
  weighs more.
- Other labels can be learned beside the primary one, as in all rankers of impressions.
- L2 is of the embeddings that the batch looked up, not of all parameters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.config import ImpressionConfig, require_finite
from lsec_jax.models.impressions.fields import Batch, Fields, Hops
from lsec_jax.models.impressions.ranker import Represented
from lsec_jax.models.sharing import GraphRanker, RoleGraph
from lsec_jax.nn import replicas
from lsec_jax.nn.tree_experts import TreeGuidedExperts, inconsistency
from lsec_jax.nn.view_attention import AttentionKind, MultiViewAttention

READERS = ("lstm", "sum", "leaf")
ATTENTIONS = ("published", "dynamic")


@dataclasses.dataclass
class Config(ImpressionConfig):
    """TREEMS; keys of all rankers of impressions are inherited.

    Attributes:
        path: name of the declared path to the scenario.
        num_experts: n.
        expert_widths: of the experts' layers, one for each level of the tree, root first; falling, as the paper's
            towers, where more is to be shared than told apart.
        reader: of the path: "lstm", or an ablation: "sum" (no order), "leaf" (the scenario alone: no tree).
        has_graph: whether users' vectors are augmented by the declared neighbourhoods.
        attention: "published" (Eq. 10) or "dynamic".
        inconsistency_weight: gamma of Eq. 16. The inconsistency is smallest for even gates, so a large one keeps
            experts from specialising.
    """

    path: str = "path"
    num_experts: int = 8
    expert_widths: tuple[int, ...] = (64, 48, 32, 24, 16)
    reader: str = "lstm"
    has_graph: bool = True
    attention: str = "published"
    inconsistency_weight: float = 0.01

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        require_at_least("config.model.num_experts", self.num_experts, 1)
        super().validate()
        require_choice("config.model.path", self.path, tuple(of.name for of in self.features.paths))
        if len(self.features.paths) > 1:
            raise ConfigError(
                "config.model.features.paths: one path says which experts count; leave the others out, there are: "
                + ", ".join(of.name for of in self.features.paths)
            )
        require_choice("config.model.reader", self.reader, READERS)
        require_choice("config.model.attention", self.attention, ATTENTIONS)
        require_finite("config.model.inconsistency_weight", self.inconsistency_weight)
        if not self.expert_widths or min(self.expert_widths) < 1:
            raise ConfigError(
                f"config.model.expert_widths = {self.expert_widths} must hold a width >= 1 for each level"
            )
        if self.has_graph and not self.features.neighbourhoods:
            raise ConfigError(
                "config.model.has_graph: config.model.features.neighbourhoods is empty; declare views to read, or set "
                "has_graph to False"
            )

    def uses(self) -> dict[str, bool]:
        """Keys that some settings only read, and whether these do."""
        return super().uses() | {"attention": self.has_graph, "inconsistency_weight": self.num_experts > 1}

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that change neither shapes nor meanings."""
        return (*super().training_keys, "inconsistency_weight")

    @property
    def name(self) -> str:
        """For reports."""
        return "treems"

    @property
    def reads_neighbours(self) -> bool:
        """Whether neighbours are drawn."""
        return self.has_graph

    @property
    def reads_paths(self) -> bool:
        """Always."""
        return True

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "Treems":
        """Builds the model; raises ConfigError for widths that are not one for each level of the tree."""
        depth = next(of.depth for of in layout.paths if of.name == self.path)
        if len(self.expert_widths) != depth:
            raise ConfigError(
                f"config.model.expert_widths = {self.expert_widths}: the tree has {depth} levels, and each level mixes "
                f"the outputs of one layer; give {depth} widths"
            )
        return Treems(self, layout, rngs)


class Treems(GraphRanker):
    """Tree-guided experts over u, v, t and c, u and v with their neighbours."""

    config: Config

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """Attention in each view."""
        kind: AttentionKind = self.config.attention  # type: ignore[assignment]
        context_width = sum(self.fields.part_widths["dynamic"])
        return MultiViewAttention(of.width, context_width, len(of.neighbourhoods), of.num_hops, rngs, kind)

    def graph_width(self, of: RoleGraph) -> int:
        """A vector for each view."""
        return len(of.neighbourhoods) * of.width

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """The node after attention in each of its views, the scenario's context inside (Eq. 8-13)."""
        return graph([(of.vectors, of.masks) for of in views], fields.dynamic.astype(jnp.float32))

    def build_head(self, rngs: nnx.Rngs) -> None:
        """Experts on x, and towers on what they are mixed to."""
        config = self.config
        path_width = next(of.width for of in self.layout.tables if of.name == config.path) or config.embedding_dim
        self.experts = TreeGuidedExperts(
            self.in_width,
            config.num_experts,
            tuple(config.expert_widths),
            path_width,
            rngs,
            config.reader,  # type: ignore[arg-type]
            dtype=self.dtype,
        )
        self.build_towers(sum(config.expert_widths), rngs)

    def mix(self, x: Float[Array, "b f"], fields: Fields, batch: Batch) -> Represented:
        """The mixtures of all layers, the inconsistency of the gates, and how they spread."""
        path = fields.paths[self.config.path]
        guided = self.experts(x, path.vectors, path.mask)
        penalty = self.config.inconsistency_weight * inconsistency(guided.gates)
        return Represented(guided.mixed, fields.dynamic, penalty, gate_metrics(guided.gates))

    def gates(self, path: Float[Array, "s h d"], mask: Array) -> Float[Array, "s h n"]:
        """The gates of some scenarios, from the rows of their paths' nodes: they depend on nothing else."""
        return self.experts.gates_of(self.experts.reader(path, mask))

    def states(self, path: Float[Array, "s h d"], mask: Array) -> Float[Array, "s h d"]:
        """What the LSTM makes of some scenarios' paths."""
        return self.experts.reader(path, mask)


def gate_metrics(gates: Float[Array, "b h n"]) -> dict[str, Float[Array, ""]]:
    """Of each layer: the entropy of the rows' mean gate, as a share of an even one's, and the largest mean gate.

    An entropy of 1 says that all experts are used alike, over all scenarios; one of 0 that one expert is used alone.
    """
    mean = replicas.mean(gates.mean(axis=0))
    entropy = -(mean * jnp.log(jnp.maximum(mean, 1e-12))).sum(axis=1) / jnp.log(max(gates.shape[2], 2))
    largest = mean.max(axis=1)
    found = {f"gates/layer{i + 1}/entropy": entropy[i] for i in range(gates.shape[1])}
    return found | {f"gates/layer{i + 1}/largest": largest[i] for i in range(gates.shape[1])}
