"""Neural collaborative filtering: one relation, no graph.

He et al., "Neural Collaborative Filtering", WWW 2017. Implemented: GMF (Eq. 8-9), MLP (Eq. 10), NeuMF (Eq. 12) with
separate embeddings for its two halves, and the log loss with sampled negatives (Eq. 7).

Departures:
- NeuMF is trained from scratch, not from pretrained halves (Sec. 3.4.1 has both).
- A sampled negative that is a known training positive is masked instead of drawn again, and so is one that was not
  available when the positive happened, where the data says when.
- The first layer of the tower is kept as two halves, W1 [p ; q] = W1u p + W1i q: each node's half is computed once.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from lsec_jax import losses
from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.models.graph_inputs import Inputs, build_inputs, nodes_with_edges
from lsec_jax.nn import replicas
from lsec_jax.nn.embeddings import normal_tables
from lsec_jax.nn.sampling import negative_mask, uniform_targets
from lsec_jax.schema import LiveCommerceData
from lsec_jax.schema.needs import Needs
from lsec_jax.scorers import AnyArray, NodeScorer, map_pairs

Tables = Mapping[str, Float[Array, "_ d"]]


@dataclasses.dataclass
class Config:
    """NCF. The defaults are not specified by LSEC-GNN's paper; widths are chosen to match its 200-wide embeddings.

    Attributes:
        variant: "gmf", "mlp" or "neumf".
        relation: what is predicted.
        embedding_dim: width of GMF's and of the tower's embeddings; a node of NeuMF has both.
        embedding_std: initial standard deviation of the embeddings (0.01 in the authors' code).
        mlp_dims: output widths of the tower's layers.
        num_negatives: per positive (4 in the paper's main results).
        l2: weight of half the squared norm of the batch's embeddings, mean over its rows.
    """

    variant: str = "neumf"
    relation: str = "buy"
    embedding_dim: int = 100
    embedding_std: float = 0.01
    mlp_dims: tuple[int, ...] = (128, 64, 32)
    num_negatives: int = 4
    l2: float = 0.0

    def validate(self) -> None:
        """Checks the model's own keys; raises ConfigError."""
        require_choice("config.model.variant", self.variant, ("gmf", "mlp", "neumf"))
        for name in ("embedding_dim", "num_negatives"):
            require_at_least(f"config.model.{name}", getattr(self, name), 1)
        require_at_least("config.model.l2", self.l2, 0)
        if not self.embedding_std > 0:
            raise ConfigError(f"config.model.embedding_std = {self.embedding_std} must be positive: zeros never change")
        if not self.mlp_dims or min(self.mlp_dims) < 1:
            raise ConfigError(f"config.model.mlp_dims = {self.mlp_dims} must hold at least one width >= 1")

    @property
    def name(self) -> str:
        """For reports."""
        return f"ncf-{self.variant}"

    @property
    def task_tables(self) -> tuple[str, ...]:
        """The one relation."""
        return (self.relation,)

    @property
    def needs(self) -> Needs:
        """The one relation."""
        return Needs(relations=(self.relation,))

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Those of the start, of negatives and of the loss."""
        return ("embedding_std", "num_negatives", "l2")

    def inputs(self, data: LiveCommerceData) -> Inputs:
        """The training positives; no graphs."""
        return build_inputs(data, (), (self.relation,), edge_weights=False, self_loops=False)

    def divide(self, inputs: Inputs, num_parts: int) -> Inputs:
        """The inputs as they are: positives are copied to every device."""
        return inputs

    @property
    def rows_together(self) -> int:
        """Each row of a batch has draws of its own."""
        return 1

    def streams(self, inputs: Inputs) -> dict[str, int]:
        """The training positives."""
        return {self.relation: len(inputs.positives[self.relation].source_ids)}

    def build(self, data: LiveCommerceData, rngs: nnx.Rngs) -> "Ncf":
        """Builds the module for the data's node counts."""
        relation = data.relation(self.relation)
        num_nodes = {name: len(data.nodes[name]) for name in (relation.source, relation.target)}
        return Ncf(self, num_nodes, (relation.source, relation.target), rngs)

    def trained_nodes(self, data: LiveCommerceData, node_type: str) -> np.ndarray:
        """Which nodes have a training edge, [n] bool."""
        return nodes_with_edges(data, (self.relation,), node_type)

    def warnings(self, inputs: Inputs, batch_size: int) -> list[str]:
        """Nothing that could be known beforehand."""
        return []


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["source_factors", "target_factors", "source_halves", "target_halves", "layers", "output", "bias"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class NcfScorer(NodeScorer):
    """score(u, i) = source_factors[u] . target_factors[i] + tower(source_halves[u] + target_halves[i]) . output + bias.

    Attributes:
        source_factors, target_factors: p * h and q of GMF, [m, d], [n, d]; d = 0 without GMF. A training batch holds
            rows instead: [b, d], [b, k, d], and likewise below.
        source_halves, target_halves: first layer of the tower before its activation, [m, f], [n, f]; f = 0 without it.
        layers: (weights, bias) of its other layers.
        output: [last width].
        bias: scalar.
    """

    per_node = ("source_factors", "target_factors", "source_halves", "target_halves")
    source_factors: Float[Array, "*m d"]
    target_factors: Float[Array, "*n d"]
    source_halves: Float[Array, "*m f"]
    target_halves: Float[Array, "*n f"]
    layers: tuple[tuple[Array, Array], ...]
    output: Float[Array, " g"]
    bias: Float[Array, ""]

    def score_all(self, source_ids: AnyArray) -> Array:
        """[b] -> [b, n] float32."""
        return _score_all(self, source_ids)

    def score_pairs(self, source_ids: AnyArray, target_ids: AnyArray) -> Array:
        """[b], [b, k] -> [b, k] float32."""
        return _score_pairs(self, source_ids, target_ids)

    def score(
        self,
        source_factors: Float[Array, "*b d"],
        target_factors: Float[Array, "*b k d"],
        source_halves: Float[Array, "*b f"],
        target_halves: Float[Array, "*b k f"],
    ) -> Float[Array, "*b k"]:
        """Scores k targets for each source from their vectors, at full precision."""
        highest = lax.Precision.HIGHEST
        total = jnp.einsum("...d,...kd->...k", source_factors, target_factors, precision=highest) + self.bias
        hidden = jax.nn.relu(source_halves[..., None, :] + target_halves)
        for weights, bias in self.layers:
            projected = jnp.matmul(hidden, weights, precision=highest)
            hidden = jax.nn.relu(projected + jnp.broadcast_to(bias, projected.shape))
        return total + jnp.matmul(hidden, self.output, precision=highest)


# One user at a time: a tower over all pairs of a block would not fit any cache.
@jax.jit
def _score_all(scorer: NcfScorer, source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    def one_user(source: tuple[Array, Array]) -> Array:
        factors, halves = source
        return scorer.score(factors, scorer.target_factors, halves, scorer.target_halves)

    sources = (replicas.take_same(of, source_ids) for of in (scorer.source_factors, scorer.source_halves))
    return lax.map(one_user, tuple(sources))


@jax.jit
def _score_pairs(scorer: NcfScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def one_user(source: tuple[Array, Array], targets: tuple[Array, Array]) -> Array:
        return scorer.score(source[0], targets[0], source[1], targets[1])

    sources, targets = (scorer.source_factors, scorer.source_halves), (scorer.target_factors, scorer.target_halves)
    return map_pairs(one_user, sources, targets, source_ids, target_ids, batch_size=None)


class Tower(nnx.Module):
    """The MLP of Eq. 10 up to its last hidden layer."""

    def __init__(self, width: int, layer_dims: tuple[int, ...], rngs: nnx.Rngs):
        init = jax.nn.initializers.glorot_uniform()
        first = init(rngs.params(), (2 * width, layer_dims[0]), jnp.float32)
        self.source_weights, self.target_weights = nnx.Param(first[:width]), nnx.Param(first[width:])
        self.first_bias = nnx.Param(jnp.zeros(layer_dims[0]))
        pairs = list(itertools.pairwise(layer_dims))
        self.weights = nnx.List([nnx.Param(init(rngs.params(), pair, jnp.float32)) for pair in pairs])
        self.biases = nnx.List([nnx.Param(jnp.zeros(pair[1])) for pair in pairs])

    def halves(
        self, sources: Float[Array, "*b d"], targets: Float[Array, "*c d"]
    ) -> tuple[Float[Array, "*b f"], Float[Array, "*c f"]]:
        """(W1u p + b1, W1i q)."""
        projected = sources @ self.source_weights[...]
        biased = projected + jnp.broadcast_to(self.first_bias[...], projected.shape)
        return biased, targets @ self.target_weights[...]

    def layers(self) -> tuple[tuple[Array, Array], ...]:
        """(weights, bias) of the layers after the first."""
        return tuple((weights[...], bias[...]) for weights, bias in zip(self.weights, self.biases, strict=True))


class Ncf(nnx.Module):
    """The dense part; a node's embedding is [GMF's ; the tower's], as far as the variant has them."""

    def __init__(self, config: Config, num_nodes: Mapping[str, int], ends: tuple[str, str], rngs: nnx.Rngs):
        self.config, self.num_nodes, self.ends = config, dict(num_nodes), ends
        width = config.embedding_dim
        self.tower = None if config.variant == "gmf" else Tower(width, config.mlp_dims, rngs)
        output_dims = {"gmf": width, "mlp": config.mlp_dims[-1], "neumf": width + config.mlp_dims[-1]}
        init = jax.nn.initializers.glorot_uniform()
        self.output_weights = nnx.Param(init(rngs.params(), (output_dims[config.variant], 1), jnp.float32)[:, 0])
        self.output_bias = nnx.Param(jnp.zeros(()))

    def init_tables(self, key: Array) -> dict[str, Float[Array, "_ d"]]:
        """Draws the embedding tables, one per node type."""
        width = self.config.embedding_dim * (2 if self.config.variant == "neumf" else 1)
        return normal_tables(key, self.num_nodes, width, self.config.embedding_std)

    def final_vectors(self, tables: Tables, inputs: Inputs) -> dict[str, Float[Array, "_ _"]]:
        """The embeddings of this device's nodes as they are."""
        return dict(tables)

    def scorer(self, tables: Tables, inputs: Inputs) -> NcfScorer:
        """Returns the scorer of this device's nodes, with every node's half of the first layer computed once."""
        return self._scorer(*(tables[end] for end in self.ends))

    def _scorer(self, sources: Float[Array, "*b d"], targets: Float[Array, "*c d"]) -> NcfScorer:
        split = 0 if self.config.variant == "mlp" else self.config.embedding_dim
        factors, output = sources[..., :split], self.output_weights[...]
        source_halves, target_halves = sources[..., split:], targets[..., split:]
        layers: tuple[tuple[Array, Array], ...] = ()
        if self.tower is not None:
            source_halves, target_halves = self.tower.halves(source_halves, target_halves)
            layers = self.tower.layers()
        return NcfScorer(
            factors * jnp.broadcast_to(output[:split], factors.shape),
            targets[..., :split],
            source_halves,
            target_halves,
            layers,
            output[split:],
            self.output_bias[...],
        )

    def lookups(
        self, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]], key: Array
    ) -> dict[str, Int[Array, "b _"]]:
        """Which rows `loss_of_rows` needs: the sources first and the positives and negatives last."""
        source_ids, pair_ids = self._pairs(inputs, batch, key)
        if self.ends[0] == self.ends[1]:
            return {self.ends[0]: jnp.concatenate([source_ids[:, None], pair_ids], axis=1)}
        return {self.ends[0]: source_ids[:, None], self.ends[1]: pair_ids}

    def _pairs(
        self, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]], key: Array
    ) -> tuple[Int[Array, " b"], Int[Array, "b m_plus_1"]]:
        """The ids of the batch's sources, and of its positives and uniform negatives."""
        edges, edge_ids = inputs.positives[self.config.relation], batch[self.config.relation]
        negative_ids = uniform_targets(key, edges, len(edge_ids), self.config.num_negatives)
        return edges.source_ids[edge_ids], jnp.concatenate([edges.target_ids[edge_ids][:, None], negative_ids], axis=1)

    def loss(
        self, tables: Tables, inputs: Inputs, batch: Mapping[str, Int[Array, " b"]], key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The log loss of one step over the batch's positives and uniform negatives."""
        rows = {name: replicas.take(tables[name], ids) for name, ids in self.lookups(inputs, batch, key).items()}
        return self.loss_of_rows(rows, inputs, batch, key)

    def loss_of_rows(
        self,
        rows: Mapping[str, Float[Array, "b _ d"]],
        inputs: Inputs,
        batch: Mapping[str, Int[Array, " b"]],
        key: Array,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """`loss` from the rows that `lookups` asks for."""
        edges, edge_ids = inputs.positives[self.config.relation], batch[self.config.relation]
        _, pair_ids = self._pairs(inputs, batch, key)
        mask, metrics = negative_mask(edges, edge_ids, pair_ids[:, 1:])
        sources, targets = rows[self.ends[0]][:, 0], rows[self.ends[1]][:, -pair_ids.shape[1] :]
        scorer = self._scorer(sources, targets)
        scores = scorer.score(scorer.source_factors, scorer.target_factors, scorer.source_halves, scorer.target_halves)
        loss = losses.binary_cross_entropy(scores[:, 0], scores[:, 1:], mask)
        if self.config.l2:
            loss += self.config.l2 * losses.mean_squared_norm(sources, targets, num_rows=len(edge_ids))
        return loss, {"loss": loss, **metrics}
