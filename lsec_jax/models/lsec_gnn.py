"""LSEC-GNN: recommendation on the user-item-streamer graph, and LightGCN as its one-relation case.

Yu et al., "Leveraging Tripartite Interaction Information from Live Stream E-Commerce for Improving Product
Recommendation", KDD 2021; He et al., "LightGCN", SIGIR 2020. Equation numbers are the former's.

Implemented: one embedding table per node type (Eq. 4), a stack of propagation layers per relation (Eq. 5-6) with
aggregators `gcn` and `lightgcn`, concatenation over relations (Eq. 7), an MLP or dot predictor per task (Eq. 8), log
loss or BPR with sampled negatives (Eq. 9-10) and a weighted sum over any number of tasks (Eq. 11).

Departures:
- Full-graph training: every step propagates over the whole training graph (the paper samples neighbours, Sec. 6.2.3).
- The step's own positive edges are left out of its messages (`exclude_batch_edges`), as the authors' code does: the
  model would otherwise learn to read off the edge that it predicts. Degrees are those that remain (`excluded_degrees`).
- A sampled negative that is a known training positive is masked (the authors' code keeps it).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lsec_jax import losses
from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.models.graph_inputs import Inputs, build_inputs, nodes_with_edges
from lsec_jax.nn.graph_layers import GcnLayer, LightGcnLayer
from lsec_jax.nn.predictors import DotPredictor, MlpPredictor
from lsec_jax.nn.propagation import Backend, BipartiteGraph, exclude_edges
from lsec_jax.nn.sampling import PositiveEdges, is_positive, uniform_targets
from lsec_jax.ranking import DotScorer, MlpScorer
from lsec_jax.schema import LiveCommerceData

EXCLUDED_SHARE_WARNING = 0.1

Tables = Mapping[str, Float[Array, "_ d"]]


@dataclasses.dataclass
class TaskConfig:
    """One prediction task: which edges of a relation exist.

    Attributes:
        relation: whose edges are predicted; its two node types must occur in some relation of the model.
        weight: alpha of Eq. 11.
        loss: "bce" or "bpr".
        num_negatives: negatives per positive.
        hardest_of: each negative is the best-scored of this many uniform draws; 1 = plain uniform.
        rows_per_draw: this many rows of a batch choose their negatives from the same draws. Above 1, scoring the draws
            needs a gather of that many times fewer vectors, and with "dot" is a small matrix product; what each row
            draws from keeps its distribution, but rows of a group are no longer independent of each other.
    """

    relation: str = "buy"
    weight: float = 1.0
    loss: str = "bce"
    num_negatives: int = 4
    hardest_of: int = 1
    rows_per_draw: int = 1


@dataclasses.dataclass
class Config:
    """LSEC-GNN. Defaults are the paper's LSEC-GCN (Sec. 6.2.4).

    Attributes:
        relations: bipartite graphs to propagate over, in the order of concatenation.
        tasks: the first one is the primary task: it is evaluated and recommended.
        embedding_dim: width of the embedding tables.
        embedding_std: their initial standard deviation (not specified; chosen as in LightGCN's code).
        aggregator: "gcn" (Eq. 5) or "lightgcn" (no weights, no activation, no self-loop).
        layer_dims: output width of each layer; for "lightgcn" its length is the number of layers and every entry must
            equal embedding_dim.
        self_loop: self-connections in "gcn" (Eq. 5 has them, the authors' code does not); "lightgcn" never has any.
        weights_per_direction: one weight matrix per direction of an edge type instead of one per layer (authors' code).
        last_activation: "relu" as in Eq. 5, or "none" (authors' code) after the last "gcn" layer.
        layer_combination: "last" layer's output or the "mean" of all layers with the input (LightGCN); "mean" needs
            equal widths.
        predictor: "mlp" (Eq. 8) or "dot".
        predictor_hidden: hidden width of the MLP.
        edge_weights: use the relations' weights in the adjacency (the paper binarises them).
        exclude_batch_edges: leave the step's positives out of its messages.
        excluded_degrees: normalise by the degrees that "remain" without them, or by those of the "whole" graph. With
            "whole", the vector of a node that lost an edge is too short, and a model can recognise positives by that.
        l2: weight of half the squared norm of the batch's initial embeddings, mean over its rows.
        backend: of `propagate`.
    """

    relations: tuple[str, ...] = ("buy", "follow", "sell")
    tasks: tuple[TaskConfig, ...] = dataclasses.field(
        default_factory=lambda: (TaskConfig("buy", weight=0.5), TaskConfig("follow", weight=0.5))
    )
    embedding_dim: int = 200
    embedding_std: float = 0.1
    aggregator: str = "gcn"
    layer_dims: tuple[int, ...] = (128, 64)
    self_loop: bool = True
    weights_per_direction: bool = False
    last_activation: str = "relu"
    layer_combination: str = "last"
    predictor: str = "mlp"
    predictor_hidden: int = 128
    edge_weights: bool = False
    exclude_batch_edges: bool = True
    excluded_degrees: str = "remain"
    l2: float = 0.0
    backend: str = "auto"

    def validate(self) -> None:
        """Checks the model's own keys; raises ConfigError."""
        require_choice("config.model.aggregator", self.aggregator, ("gcn", "lightgcn"))
        require_choice("config.model.layer_combination", self.layer_combination, ("last", "mean"))
        require_choice("config.model.predictor", self.predictor, ("mlp", "dot"))
        require_choice("config.model.last_activation", self.last_activation, ("relu", "none"))
        require_choice("config.model.excluded_degrees", self.excluded_degrees, ("remain", "whole"))
        require_choice("config.model.backend", self.backend, ("auto", "segment", "bcsr"))
        if not self.relations or len(set(self.relations)) != len(self.relations):
            raise ConfigError(f"config.model.relations = {self.relations} must name at least one relation, each once")
        if not self.tasks or len({task.relation for task in self.tasks}) != len(self.tasks):
            raise ConfigError("config.model.tasks must hold at least one task, and at most one per relation")
        widths = (self.embedding_dim, *self.layer_dims)
        if not self.layer_dims or min(widths) < 1:
            raise ConfigError(f"config.model.layer_dims = {self.layer_dims} must hold at least one width >= 1")
        if (self.aggregator == "lightgcn" or self.layer_combination == "mean") and len(set(widths)) > 1:
            raise ConfigError(
                f"config.model.layer_dims = {self.layer_dims}: aggregator 'lightgcn' and layer_combination 'mean' keep "
                f"the width; set every entry to embedding_dim = {self.embedding_dim}"
            )
        if self.aggregator == "lightgcn" and self.weights_per_direction:
            raise ConfigError(
                "config.model.weights_per_direction = True: aggregator 'lightgcn' has no weights; set it to False"
            )
        if not self.embedding_std > 0:
            raise ConfigError(f"config.model.embedding_std = {self.embedding_std} must be positive: zeros never change")
        if not any(task.weight > 0 for task in self.tasks):
            raise ConfigError("config.model.tasks: every weight is 0, so nothing would be learnt; give one a weight")
        require_at_least("config.model.l2", self.l2, 0)
        require_at_least("config.model.predictor_hidden", self.predictor_hidden, 1)
        for i, task in enumerate(self.tasks):
            require_choice(f"config.model.tasks[{i}].loss", task.loss, ("bce", "bpr"))
            require_at_least(f"config.model.tasks[{i}].weight", task.weight, 0)
            require_at_least(f"config.model.tasks[{i}].num_negatives", task.num_negatives, 1)
            require_at_least(f"config.model.tasks[{i}].hardest_of", task.hardest_of, 1)
            require_at_least(f"config.model.tasks[{i}].rows_per_draw", task.rows_per_draw, 1)

    @property
    def name(self) -> str:
        """For reports, e.g. "lsec-gcn", or "gcn" with one relation."""
        return self.aggregator if len(self.relations) == 1 else f"lsec-{self.aggregator}"

    @property
    def task_relations(self) -> tuple[str, ...]:
        """The relations of the tasks, the primary one first."""
        return tuple(task.relation for task in self.tasks)

    @property
    def required_relations(self) -> tuple[str, ...]:
        """All relations that the data must have."""
        return tuple(dict.fromkeys((*self.relations, *self.task_relations)))

    def inputs(self, data: LiveCommerceData) -> Inputs:
        """Builds the model's big arrays from the training edges; raises as `build_inputs`."""
        self_loops = self.aggregator == "gcn" and self.self_loop
        return build_inputs(data, self.relations, self.task_relations, self.edge_weights, self_loops)

    def build(self, data: LiveCommerceData, seed: int) -> "LsecGnn":
        """Builds the module.

        Args:
            data: gives node counts and the ends of relations.
            seed: of the dense parameters.

        Raises:
            ConfigError: if a task's node type occurs in no relation, or "dot" would multiply unequal widths.
        """
        num_nodes = {name: len(table) for name, table in data.nodes.items()}
        relations = {name: data.relation(name) for name in self.required_relations}
        ends = {name: (relation.source, relation.target) for name, relation in relations.items()}
        return LsecGnn(self, num_nodes, ends, nnx.Rngs(seed))

    def trained_nodes(self, data: LiveCommerceData, node_type: str) -> np.ndarray:
        """Which nodes have a training edge in some relation of the model, [n] bool."""
        return nodes_with_edges(data, self.relations, node_type)

    def warnings(self, inputs: Inputs, batch_size: int) -> list[str]:
        """What may go wrong with these inputs."""
        shares = {name: batch_size / len(edges.source_ids) for name, edges in inputs.positives.items()}
        return [
            f"a batch holds {100 * min(share, 1.0):.0f}% of the training edges of '{name}' and excludes them from its "
            "messages; lower config.training.batch_size, or the graph that the model sees gets thin"
            for name, share in shares.items()
            if self.exclude_batch_edges and name in self.relations and share > EXCLUDED_SHARE_WARNING
        ]


class RelationStack(nnx.Module):
    """The propagation layers of one relation."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        widths = (config.embedding_dim, *config.layer_dims)
        backend = cast(Backend, config.backend)
        layers: list[nnx.Module] = []
        for i, (in_dim, out_dim) in enumerate(itertools.pairwise(widths)):
            if config.aggregator == "lightgcn":
                layers.append(LightGcnLayer(backend))
                continue
            layer = GcnLayer(
                in_dim,
                out_dim,
                rngs=rngs,
                self_loop=config.self_loop,
                weights_per_direction=config.weights_per_direction,
                activation=config.last_activation if i == len(config.layer_dims) - 1 else "relu",
                backend=backend,
            )
            layers.append(layer)
        self.layers = nnx.List(layers)
        self.layer_combination = config.layer_combination

    def __call__(
        self, graph: BipartiteGraph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "m f"], Float[Array, "n f"]]:
        """Returns the relation's vectors of its source and target nodes."""
        outputs = [(sources, targets)]
        for layer in self.layers:
            outputs.append(layer(graph, *outputs[-1]))
        if self.layer_combination == "mean":
            return tuple(sum(side) / len(outputs) for side in zip(*outputs, strict=True))
        return outputs[-1]


class LsecGnn(nnx.Module):
    """The dense part of the model; the embedding tables live beside it."""

    def __init__(
        self, config: Config, num_nodes: Mapping[str, int], ends: Mapping[str, tuple[str, str]], rngs: nnx.Rngs
    ):
        self.config = config
        self.ends = dict(ends)
        width = config.embedding_dim if config.aggregator == "lightgcn" else config.layer_dims[-1]
        self.widths: dict[str, int] = {}
        for relation in config.relations:
            for node_type in set(ends[relation]):
                self.widths[node_type] = self.widths.get(node_type, 0) + width
        self.num_nodes = {node_type: num_nodes[node_type] for node_type in self.widths}
        self.stacks = nnx.Dict({relation: RelationStack(config, rngs) for relation in config.relations})
        self.predictors: Mapping[str, Any] = nnx.Dict(
            {task.relation: self._predictor(config, task, rngs) for task in config.tasks}
        )

    def _predictor(self, config: Config, task: TaskConfig, rngs: nnx.Rngs) -> nnx.Module:
        for node_type in self.ends[task.relation]:
            if node_type not in self.widths:
                raise ConfigError(
                    f"task '{task.relation}' needs {node_type} vectors, but no relation of config.model.relations = "
                    f"{config.relations} has that node type; add one that has"
                )
        source_width, target_width = (self.widths[node_type] for node_type in self.ends[task.relation])
        if config.predictor == "mlp":
            return MlpPredictor(source_width, target_width, config.predictor_hidden, rngs)
        if source_width != target_width:
            raise ConfigError(
                f"predictor 'dot' needs equal widths, task '{task.relation}' has {source_width} and {target_width}; "
                "use predictor 'mlp'"
            )
        return DotPredictor()

    def init_tables(self, key: Array) -> dict[str, Float[Array, "_ d"]]:
        """Draws the embedding tables of Eq. 4, one per node type."""
        types = sorted(self.num_nodes)
        return {
            node_type: self.config.embedding_std
            * jax.random.normal(type_key, (self.num_nodes[node_type], self.config.embedding_dim))
            for node_type, type_key in zip(types, jax.random.split(key, len(types)), strict=True)
        }

    def encode(self, tables: Tables, graphs: Mapping[str, BipartiteGraph]) -> dict[str, Float[Array, "_ _"]]:
        """Propagates over every relation and concatenates per node type (Eq. 5-7)."""
        parts: dict[str, list[Array]] = {}
        for relation, stack in self.stacks.items():
            source, target = self.ends[relation]
            source_vectors, target_vectors = stack(graphs[relation], tables[source], tables[target])
            parts.setdefault(source, []).append(source_vectors)
            parts.setdefault(target, []).append(target_vectors)
        return {node_type: jnp.concatenate(vectors, axis=1) for node_type, vectors in parts.items()}

    def loss(
        self, tables: Tables, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted multi-task loss of one step (Eq. 11).

        Args:
            tables: embedding tables by node type.
            inputs: graphs and positives.
            batch: for each task relation, positions of this step's positives in its PositiveEdges.
            key: of this step's negatives.

        Returns:
            (loss, metrics by name).
        """
        graphs = dict(inputs.graphs)
        if self.config.exclude_batch_edges:
            renormalize = self.config.excluded_degrees == "remain"
            excluded = {name: ids for name, ids in batch.items() if name in graphs}
            graphs |= {name: exclude_edges(graphs[name], ids, renormalize) for name, ids in excluded.items()}
        vectors = self.encode(tables, graphs)
        total = jnp.zeros(())
        metrics: dict[str, Array] = {}
        for task, task_key in zip(self.config.tasks, jax.random.split(key, len(self.config.tasks)), strict=True):
            task_loss, task_metrics = self._task_loss(
                task, tables, vectors, inputs.positives[task.relation], batch[task.relation], task_key
            )
            total += task.weight * task_loss
            metrics |= {f"{task.relation}/{name}": value for name, value in task_metrics.items()}
        return total, {"loss": total, **metrics}

    def _task_loss(
        self,
        task: TaskConfig,
        tables: Tables,
        vectors: Mapping[str, Float[Array, "_ _"]],
        edges: PositiveEdges,
        edge_ids: Int[Array, " b"],
        key: Array,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        source_type, target_type = self.ends[task.relation]
        source_ids, positive_ids = edges.source_ids[edge_ids], edges.target_ids[edge_ids]
        predictor = self.predictors[task.relation]
        sources = predictor.source_half(vectors[source_type])[source_ids]
        targets = predictor.target_half(vectors[target_type])
        negative_ids = self._draw_negatives(task, sources, targets, edges, key)
        mask = ~is_positive(edges, source_ids, negative_ids)
        pair_ids = jnp.concatenate([positive_ids[:, None], negative_ids], axis=1)
        scores = predictor(sources[:, None], targets[pair_ids])[:, 0]
        loss_function = losses.binary_cross_entropy if task.loss == "bce" else losses.bayesian_personalized_ranking
        loss = loss_function(scores[:, 0], scores[:, 1:], mask)
        metrics = {"loss": loss, "false_negatives": 1.0 - mask.mean()}
        if self.config.l2:
            rows = (tables[source_type][source_ids], tables[target_type][pair_ids])
            loss += self.config.l2 * losses.mean_squared_norm(*rows, num_rows=len(edge_ids))
        return loss, metrics

    def _draw_negatives(
        self,
        task: TaskConfig,
        sources: Float[Array, "b h"],
        targets: Float[Array, "n h"],
        edges: PositiveEdges,
        key: Array,
    ) -> Int[Array, "b m"]:
        """Draws `num_negatives` targets for every row, each the best-scored of `hardest_of` uniform draws.

        Args:
            task: whose predictor scores.
            sources: the predictor's halves of the batch's sources.
            targets: its halves of all targets.
            edges: give the number of targets.
            key: of the draws.
        """
        num_rows, rows = len(sources), task.rows_per_draw
        num_groups = -(-num_rows // rows)
        draws = uniform_targets(key, edges, num_groups, task.num_negatives * task.hardest_of)
        if task.hardest_of == 1:
            return jnp.repeat(draws, rows, axis=0)[:num_rows]
        padded = jnp.pad(sources, ((0, num_groups * rows - num_rows), (0, 0))).reshape(num_groups, rows, -1)
        scores = jax.lax.stop_gradient(self.predictors[task.relation](padded, targets[draws]))
        best = scores.reshape(num_groups, rows, task.num_negatives, task.hardest_of).argmax(axis=3)
        first = task.hardest_of * jnp.arange(task.num_negatives)
        chosen = jnp.take_along_axis(draws[:, None, :], best + first[None, None, :], axis=2)
        return chosen.reshape(num_groups * rows, task.num_negatives)[:num_rows]

    def scorer(self, tables: Tables, inputs: Inputs) -> DotScorer | MlpScorer:
        """Returns the primary task's scorer, with every node's half of the predictor computed once."""
        task = self.config.tasks[0].relation
        vectors = self.encode(tables, inputs.graphs)
        source_type, target_type = self.ends[task]
        predictor = self.predictors[task]
        source_half, target_half = (
            predictor.source_half(vectors[source_type]),
            predictor.target_half(vectors[target_type]),
        )
        if isinstance(predictor, DotPredictor):
            return DotScorer(source_half, target_half)
        return MlpScorer(source_half, target_half, predictor.output_weights[...], predictor.output_bias[...])
