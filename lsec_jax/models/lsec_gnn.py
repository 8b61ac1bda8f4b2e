"""LSEC-GNN: recommendation on the user-item-streamer graph, and LightGCN as its one-relation case.

Yu et al., "Leveraging Tripartite Interaction Information from Live Stream E-Commerce for Improving Product
Recommendation", KDD 2021; He et al., "LightGCN", SIGIR 2020. Equation numbers are the former's.

Implemented: one embedding table per node type (Eq. 4), a stack of propagation layers per relation (Eq. 5-6) with
aggregators `gcn`, `lightgcn`, `ngcf` and `gat`, concatenation (Eq. 7) or attention over relations, an MLP or dot
predictor per task (Eq. 8), log loss (Eq. 9-10), BPR or softmax with sampled negatives, and a weighted sum over any
number of tasks (Eq. 11).

Departures:
- Training over the whole graph is the default (the paper samples neighbours, Sec. 6.2.3: `training_graph="sampled"`).
- Sampled messages are scaled up to the whole neighbourhood, so that training and evaluation mean the same sums: each
  layer's are unbiased, but for `gat`, whose softmax divides two such sums, only consistent.
- The step's own positive edges are left out of its messages (`exclude_batch_edges`), as the authors' code does: the
  model would otherwise learn to read off the edge that it predicts. Degrees are those that remain (`excluded_degrees`).
- A sampled negative that is a known training positive is masked (the authors' code keeps it), and, where the data says
  when targets are available, one that was not available when the positive happened.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lsec_jax import losses
from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.models.edge_tasks import TaskConfig, ids_by_type, task_loss
from lsec_jax.models.graph_inputs import Inputs, build_inputs, nodes_with_edges, quantile_fanouts
from lsec_jax.models.step_draws import Drawn, draw_negatives, draw_neighbors
from lsec_jax.nn import replicas
from lsec_jax.nn.attention import AdditiveAttention
from lsec_jax.nn.divided_graphs import divide
from lsec_jax.nn.embeddings import normal_tables
from lsec_jax.nn.graph_stack import AGGREGATORS, LAYER_COMBINATIONS, GraphStack
from lsec_jax.nn.predictors import DotPredictor, MlpPredictor
from lsec_jax.nn.propagation import DividedGraph, exclude_edges
from lsec_jax.nn.rows import Backend, check_backend
from lsec_jax.nn.sampling import PositiveEdges
from lsec_jax.schema import LiveCommerceData
from lsec_jax.schema.needs import Needs
from lsec_jax.scorers import DotScorer, MlpScorer

EXCLUDED_SHARE_WARNING = 0.1

Tables = Mapping[str, Float[Array, "_ d"]]


@dataclasses.dataclass
class Config:
    """LSEC-GNN. Defaults are the paper's LSEC-GCN (Sec. 6.2.4).

    Attributes:
        relations: bipartite graphs to propagate over, in the order of concatenation.
        tasks: the first one is the primary task: it is evaluated and recommended.
        embedding_dim: width of the embedding tables.
        embedding_std: their initial standard deviation (not specified; chosen as in LightGCN's code).
        aggregator: "gcn" (Eq. 5), "lightgcn" (no weights, no activation, no self-loop), "ngcf" or "gat".
        layer_dims: output width of each layer, for "gat" of each head; for "lightgcn" its length is the number of
            layers and every entry must equal embedding_dim.
        num_heads: of "gat", concatenated.
        self_loop: self-connections in "gcn" and "gat" (Eq. 5 has them, the authors' code does not); "lightgcn" never
            has any, "ngcf" always has its own.
        weights_per_direction: one set of weights per direction of an edge type instead of one per layer (authors'
            code), in "gcn" and "gat".
        last_activation: "same" as after the other layers (Eq. 5) or "none" (authors' code) after the last layer.
        layer_combination: "last" layer's output, or the "mean" (LightGCN, needs equal widths) or "concat" (NGCF) of
            the input and all layers' outputs.
        combination: of a node's vectors from its relations: "concat" (Eq. 7) or additive "attention".
        attention_hidden: hidden width of the latter.
        predictor: "mlp" (Eq. 8) or "dot".
        predictor_hidden: hidden width of the MLP.
        edge_weights: use the relations' weights in the adjacency (the paper binarises them).
        exclude_batch_edges: leave the step's positives out of its messages.
        excluded_degrees: normalise by the degrees that "remain" without them, or by those of the "whole" graph ("gat"
            has none). With "whole", the vector of a node that lost an edge is too short, and a model can recognise
            positives by that.
        training_graph: a step propagates over the "full" graph or over neighbours "sampled" for its batch (Sec.
            6.2.3), and then its cost at given fan-outs does not grow with the edges, only with the nodes (masks, dense
            gradients of the tables); evaluation is always over the full one.
        fanout_quantile: p of sampled training: neighbours drawn per node and layer, as a quantile of the degrees.
        fanout_limits: smallest and largest number of them (512 in the paper; the smallest as in the authors' code).
        l2: weight of half the squared norm of the batch's initial embeddings, mean over its rows; within each task's
            loss, so that the task's weight applies to it too.
        backend: of the neighbour sums: "segment", "bcsr", "chunked", "compiled" (kernels in C++, made on first
            use; CPU) or "auto": "compiled" on CPU where a compiler is there, else "bcsr"; "chunked" on other devices.
    """

    relations: tuple[str, ...] = ("buy", "follow", "sell")
    tasks: tuple[TaskConfig, ...] = dataclasses.field(
        default_factory=lambda: (TaskConfig("buy", weight=0.5), TaskConfig("follow", weight=0.5))
    )
    embedding_dim: int = 200
    embedding_std: float = 0.1
    aggregator: str = "gcn"
    layer_dims: tuple[int, ...] = (128, 64)
    num_heads: int = 8
    self_loop: bool = True
    weights_per_direction: bool = False
    last_activation: str = "same"
    layer_combination: str = "last"
    combination: str = "concat"
    attention_hidden: int = 64
    predictor: str = "mlp"
    predictor_hidden: int = 128
    edge_weights: bool = False
    exclude_batch_edges: bool = True
    excluded_degrees: str = "remain"
    training_graph: str = "full"
    fanout_quantile: float = 0.9
    fanout_limits: tuple[int, int] = (4, 512)
    l2: float = 0.0
    backend: str = "auto"

    def validate(self) -> None:
        """Checks the model's own keys; raises ConfigError."""
        require_choice("config.model.aggregator", self.aggregator, AGGREGATORS)
        require_choice("config.model.layer_combination", self.layer_combination, LAYER_COMBINATIONS)
        require_choice("config.model.combination", self.combination, ("concat", "attention"))
        require_choice("config.model.predictor", self.predictor, ("mlp", "dot"))
        require_choice("config.model.last_activation", self.last_activation, ("same", "none"))
        require_choice("config.model.excluded_degrees", self.excluded_degrees, ("remain", "whole"))
        require_choice("config.model.training_graph", self.training_graph, ("full", "sampled"))
        if not 0 < self.fanout_quantile <= 1:
            raise ConfigError(f"config.model.fanout_quantile = {self.fanout_quantile} must be in (0, 1]")
        if len(self.fanout_limits) != 2 or not 1 <= self.fanout_limits[0] <= self.fanout_limits[1]:
            raise ConfigError(
                f"config.model.fanout_limits = {self.fanout_limits} must be a smallest and a largest number >= 1"
            )
        check_backend("config.model.backend", self.backend)
        if not self.relations or len(set(self.relations)) != len(self.relations):
            raise ConfigError(f"config.model.relations = {self.relations} must name at least one relation, each once")
        if not self.tasks or len({task.relation for task in self.tasks}) != len(self.tasks):
            raise ConfigError("config.model.tasks must hold at least one task, and at most one per relation")
        widths = (self.embedding_dim, *self.layer_dims)
        require_at_least("config.model.embedding_dim", self.embedding_dim, 1)
        if not self.layer_dims or min(widths) < 1:
            raise ConfigError(f"config.model.layer_dims = {self.layer_dims} must hold at least one width >= 1")
        if self.aggregator == "gat" and self.layer_combination == "mean":
            widths = (self.embedding_dim, *(self.num_heads * width for width in self.layer_dims))
        if (self.aggregator == "lightgcn" or self.layer_combination == "mean") and len(set(widths)) > 1:
            raise ConfigError(
                f"config.model.layer_dims = {self.layer_dims}: aggregator 'lightgcn' and layer_combination 'mean' keep "
                f"the width; set every entry (for 'gat' times num_heads) to embedding_dim = {self.embedding_dim}"
            )
        if self.aggregator in ("lightgcn", "ngcf") and self.weights_per_direction:
            raise ConfigError(
                f"config.model.weights_per_direction = True: aggregator '{self.aggregator}' has no weights per "
                "direction; set it to False"
            )
        if self.aggregator == "gat" and self.excluded_degrees == "whole":
            raise ConfigError("config.model.excluded_degrees = 'whole': aggregator 'gat' has no degrees; use 'remain'")
        if self.aggregator == "gat" and self.edge_weights:
            raise ConfigError("config.model.edge_weights = True: aggregator 'gat' learns its weights; set it to False")
        if not self.embedding_std > 0:
            raise ConfigError(f"config.model.embedding_std = {self.embedding_std} must be positive: zeros never change")
        if not any(task.weight > 0 for task in self.tasks):
            raise ConfigError("config.model.tasks: every weight is 0, so nothing would be learnt; give one a weight")
        require_at_least("config.model.l2", self.l2, 0)
        for name in ("predictor_hidden", "num_heads", "attention_hidden"):
            require_at_least(f"config.model.{name}", getattr(self, name), 1)
        for i, task in enumerate(self.tasks):
            task.validate(f"config.model.tasks[{i}]")

    @property
    def name(self) -> str:
        """For reports, e.g. "lsec-gcn", or "gcn" with one relation."""
        return self.aggregator if len(self.relations) == 1 else f"lsec-{self.aggregator}"

    @property
    def task_tables(self) -> tuple[str, ...]:
        """The relations of the tasks, the primary one first."""
        return tuple(task.relation for task in self.tasks)

    @property
    def needs(self) -> Needs:
        """The relations to propagate over and those to predict."""
        return Needs(relations=tuple(dict.fromkeys((*self.relations, *self.task_tables))))

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Those of sampling, of what a step leaves out, of negatives and of weights in the loss."""
        of_tasks = ("weight", "num_negatives", "hardest_of", "rows_per_draw")
        sampling = ("training_graph", "fanout_quantile", "fanout_limits", "exclude_batch_edges", "excluded_degrees")
        return ("embedding_std", *sampling, "l2", "backend", *(f"tasks[].{name}" for name in of_tasks))

    def inputs(self, data: LiveCommerceData) -> Inputs:
        """Builds the model's big arrays from the training edges; raises as `build_inputs`."""
        self_loops = self.aggregator == "gcn" and self.self_loop  # "gat" takes no weights from the graph
        inputs = build_inputs(data, self.relations, self.task_tables, self.edge_weights, self_loops)
        if self.training_graph == "full":
            return inputs
        return inputs._replace(fanouts=quantile_fanouts(data, self.relations, self.fanout_quantile, self.fanout_limits))

    def divide(self, inputs: Inputs, num_parts: int) -> Inputs:
        """Cuts graphs that are trained whole; neighbours are drawn from a copy on every device."""
        if self.training_graph == "sampled":
            return inputs
        has_transposes = self.aggregator == "gat"
        return inputs._replace(
            graphs={name: divide(graph, num_parts, has_transposes) for name, graph in inputs.graphs.items()}
        )

    @property
    def rows_together(self) -> int:
        """Those that share their draws."""
        return math.lcm(*(task.rows_per_draw for task in self.tasks))

    def streams(self, inputs: Inputs) -> dict[str, int]:
        """One stream of batches per task: its training positives."""
        return {name: len(edges.source_ids) for name, edges in inputs.positives.items()}

    def build(self, data: LiveCommerceData, rngs: nnx.Rngs) -> "LsecGnn":
        """Builds the module.

        Args:
            data: gives node counts and the ends of relations.
            rngs: of the dense parameters.

        Raises:
            ConfigError: if a task's node type occurs in no relation, or "dot" would multiply unequal widths.
        """
        num_nodes = {name: len(table) for name, table in data.nodes.items()}
        relations = {name: data.relation(name) for name in self.needs.relations}
        ends = {name: (relation.source, relation.target) for name, relation in relations.items()}
        return LsecGnn(self, num_nodes, ends, rngs)

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


def _keys(key: Array, num_tasks: int) -> list[Array]:
    """One key per task, and one more that no task's depends on."""
    return [*jax.random.split(key, num_tasks), jax.random.fold_in(key, num_tasks)]


def _relation_stack(config: Config, rngs: nnx.Rngs) -> GraphStack:
    return GraphStack(
        config.aggregator,
        config.embedding_dim,
        config.layer_dims,
        rngs=rngs,
        num_heads=config.num_heads,
        self_loop=config.self_loop,
        weights_per_direction=config.weights_per_direction,
        activate_last=config.last_activation == "same",
        layer_combination=config.layer_combination,
        backend=cast(Backend, config.backend),
    )


class LsecGnn(nnx.Module):
    """The dense part of the model; the embedding tables live beside it."""

    def __init__(
        self, config: Config, num_nodes: Mapping[str, int], ends: Mapping[str, tuple[str, str]], rngs: nnx.Rngs
    ):
        self.config = config
        self.ends = dict(ends)
        self.stacks = nnx.Dict({relation: _relation_stack(config, rngs) for relation in config.relations})
        self.widths: dict[str, int] = {}
        for relation, stack in self.stacks.items():
            for node_type in ends[relation]:
                others = self.widths.get(node_type, 0) if config.combination == "concat" else 0
                self.widths[node_type] = others + stack.width
        self.num_nodes = {node_type: num_nodes[node_type] for node_type in self.widths}
        widths = self.widths if config.combination == "attention" else {}
        self.attention: Mapping[str, Any] = nnx.Dict(
            {name: AdditiveAttention(width, config.attention_hidden, rngs) for name, width in widths.items()}
        )
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
        return normal_tables(key, self.num_nodes, self.config.embedding_dim, self.config.embedding_std)

    def encode(
        self, tables: Tables, inputs: Inputs, wanted: Mapping[str, Bool[Array, " _"]] | None = None
    ) -> dict[str, Float[Array, "_ _"]]:
        """Propagates over every relation and combines per node type (Eq. 5-7).

        Args:
            tables: embedding tables by node type.
            inputs: gives the graphs.
            wanted: by node type, which vectors are needed; the others may be anything. None = all.
        """

        def encode(relation: str) -> tuple[Array, Array]:
            source, target = self.ends[relation]
            of_relation = None if wanted is None else (wanted[source], wanted[target])
            return self.stacks[relation](inputs.graphs[relation], tables[source], tables[target], of_relation)

        return self._combine(encode)

    def _combine(self, encode: Callable[[str], tuple[Array, Array]]) -> dict[str, Float[Array, "_ _"]]:
        """Encodes both ends of every relation and combines a node type's vectors."""
        parts: dict[str, list[Array]] = {}
        for relation in self.config.relations:
            for node_type, vectors in zip(self.ends[relation], encode(relation), strict=True):
                parts.setdefault(node_type, []).append(vectors)
        if self.config.combination == "attention":
            return {node_type: self.attention[node_type](jnp.stack(vectors)) for node_type, vectors in parts.items()}
        return {node_type: jnp.concatenate(vectors, axis=1) for node_type, vectors in parts.items()}

    @property
    def draws_ahead(self) -> bool:
        """Whether `draw` has something to draw that `loss` can be given."""
        return self.config.training_graph == "sampled"

    def draw(self, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]], key: Array) -> Drawn:
        """Draws negatives and neighbours of a step of sampled training, which depend on no parameter."""
        config = self.config
        *task_keys, sampling_key = _keys(key, len(config.tasks))
        negatives = draw_negatives(task_keys, config.tasks, inputs, batch)
        own_edges, keeps_counts = self._own_edges(inputs, batch), config.aggregator == "gat"
        of_model = config.tasks, self.ends, self.num_nodes, len(config.layer_dims), self._renormalizes, keeps_counts
        return draw_neighbors(sampling_key, inputs, batch, negatives, own_edges, *of_model)

    def loss(
        self,
        tables: Tables,
        inputs: Inputs,
        batch: Mapping[str, Int[Array, " b"]],
        key: Array,
        drawn: Drawn | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted multi-task loss of one step (Eq. 11).

        Args:
            tables: embedding tables by node type.
            inputs: graphs and positives.
            batch: for each task relation, positions of this step's positives in its PositiveEdges.
            key: of this step's draws.
            drawn: what `draw` makes of them, if it was made ahead.

        Returns:
            (loss, metrics by name).
        """
        if self.draws_ahead:
            drawn = self.draw(inputs, batch, key) if drawn is None else drawn
            negatives, vectors = drawn.negatives, self._encode_sample(tables, drawn)
            takes = {name: selection.take for name, selection in drawn.asked_for.items()}
        else:
            negatives = draw_negatives(_keys(key, len(self.config.tasks))[:-1], self.config.tasks, inputs, batch)
            vectors, takes = self._encode_thinned(tables, inputs, batch, negatives), {}
        total = jnp.zeros(())
        metrics: dict[str, Array] = {}
        for task in self.config.tasks:
            own = inputs.positives[task.relation], batch[task.relation], negatives[task.relation]
            task_loss, task_metrics = self._task_loss(task, tables, vectors, takes, *own)
            total += task.weight * task_loss
            metrics |= {f"{task.relation}/{name}": value for name, value in task_metrics.items()}
        return total, {"loss": total, **metrics}

    @property
    def _renormalizes(self) -> bool:
        return self.config.excluded_degrees == "remain" and self.config.aggregator != "gat"

    def _own_edges(self, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]]) -> dict[str, Int[Array, " _"]]:
        """The step's positives that its messages leave out, by relation: those of all devices."""
        if not self.config.exclude_batch_edges:
            return {}
        return {name: replicas.all_rows(ids) for name, ids in batch.items() if name in inputs.graphs}

    def _encode_thinned(
        self,
        tables: Tables,
        inputs: Inputs,
        batch: Mapping[str, Int[Array, " b"]],
        negatives: Mapping[str, Int[Array, "_ _"]],
    ) -> dict[str, Float[Array, "_ _"]]:
        """Vectors for a step's scores from the whole graph without its own edges, at the nodes' ids."""
        backend = cast(Backend, self.config.backend)
        graphs = dict(inputs.graphs)
        for name, ids in self._own_edges(inputs, batch).items():
            graphs[name] = exclude_edges(graphs[name], ids, self._renormalizes, backend)
        needed = ids_by_type(self.config.tasks, self.ends, inputs.positives, batch, negatives)
        nobody = jnp.zeros(0, jnp.int32)
        wanted = {
            name: replicas.mask_of(jnp.concatenate(needed.get(name, [nobody])), len(tables[name]))
            for name in self.num_nodes
        }
        return self.encode(tables, inputs._replace(graphs=graphs), wanted)

    def _encode_sample(self, tables: Tables, drawn: Drawn) -> dict[str, Float[Array, "_ _"]]:
        """Vectors of the nodes that a step's losses ask for."""

        def encode(relation: str) -> tuple[Array, Array]:
            own_tables = (tables[node_type] for node_type in self.ends[relation])
            return self.stacks[relation].of_sample(drawn.samples[relation], *own_tables)

        return self._combine(encode)

    def _task_loss(
        self,
        task: TaskConfig,
        tables: Tables,
        vectors: Mapping[str, Float[Array, "_ _"]],
        takes: Mapping[str, Callable[[Array, Array], Array]],
        edges: PositiveEdges,
        edge_ids: Int[Array, " b"],
        draws: Int[Array, "g k"],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        ends = self.ends[task.relation]
        predictor = self.predictors[task.relation]
        both = [vectors[end] for end in ends], [takes.get(end, replicas.take) for end in ends]
        loss, metrics, ids = task_loss(task, predictor, *both, edges, edge_ids, draws)
        if self.config.l2:
            embeddings = [replicas.take(tables[end], own) for end, own in zip(ends, ids, strict=True)]
            loss += self.config.l2 * losses.mean_squared_norm(*embeddings, num_rows=len(edge_ids))
        return loss, metrics

    def final_vectors(self, tables: Tables, inputs: Inputs) -> dict[str, Float[Array, "_ _"]]:
        """All vectors (Eq. 7) of this device's nodes; where graphs are not divided, each device makes those of all."""
        if replicas.num_shards() == 1 or any(isinstance(graph, DividedGraph) for graph in inputs.graphs.values()):
            return self.encode(tables, inputs)
        whole = {name: replicas.whole_table(tables[name], count) for name, count in self.num_nodes.items()}
        return {name: replicas.own_part(vectors) for name, vectors in self.encode(whole, inputs).items()}

    def scorer(self, tables: Tables, inputs: Inputs) -> DotScorer | MlpScorer:
        """Returns the primary task's scorer of this device's nodes, with their halves of the predictor made once."""
        task, vectors = self.config.tasks[0].relation, self.final_vectors(tables, inputs)
        source_type, target_type = self.ends[task]
        predictor = self.predictors[task]
        source_half = predictor.source_half(vectors[source_type])
        target_half = predictor.target_half(vectors[target_type])
        if isinstance(predictor, DotPredictor):
            return DotScorer(source_half, target_half)
        return MlpScorer(source_half, target_half, predictor.output_weights[...], predictor.output_bias[...])
