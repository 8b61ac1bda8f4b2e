"""The rankers that eLiveRec is compared with, on the same declared features, tasks, weights and towers.

- "wdl": Wide & Deep (Cheng et al. 2016). Wide: a learned weight for each id of the record's fields; deep: a tower over
  all fields and the mean of each sequence's elements.
- "din": Deep Interest Network (Zhou et al. 2018): each sequence as the sum of its elements, weighted by an activation
  unit that sees the target.
- "bst": Behavior Sequence Transformer (Chen et al. 2019): the target stands behind the sequence, and the Transformer's
  outputs go to the tower side by side.
- "hgn": Hierarchical Gating Network (Ma et al. 2019): gated elements and their mean.
- "eta": End-to-end Target Attention (Chen et al. 2021): the target attends to the `num_retrieved` elements whose
  SimHash is nearest to its own.
- "mmoe": Multi-gate Mixture-of-Experts (Ma et al. 2018) over all fields and the mean of each sequence's elements; all
  tasks, the primary one as well, have a gate.

Each reads the sequences that the config names: one of them or several. With `tasks`, the towers of the other tasks
share what the primary one reads (shared bottom).

Departures:
- WDL: no crossed features, since none are declared; both parts have the run's optimizer.
- BST: positions are counted from the newest element, and the target's is the newest of all. Times stand in the elements
  if they are declared.
- ETA: hashes are recomputed from the elements at each step instead of being kept; `num_hashes` random directions are
  drawn once and not trained.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.declaration.layout import Layout, SequenceLayout
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.impressions.encoders import EncoderConfig, build_encoder, values_per_row
from lsec_jax.models.impressions.fields import Batch, Behaviours, Fields, Rows, history_products, side_by_side
from lsec_jax.models.impressions.ranker import Draws, ImpressionRanker, Represented, read_in_blocks
from lsec_jax.nn.attention import target_attention
from lsec_jax.nn.experts import MixtureOfExperts
from lsec_jax.nn.towers import Tower

VARIANTS = ("wdl", "din", "bst", "hgn", "eta", "mmoe")


@dataclasses.dataclass
class Config(EncoderConfig, ImpressionConfig):
    """A baseline; keys of encoders and of all rankers are inherited.

    Attributes:
        variant: which one, see the module.
        num_experts, expert_widths: of "mmoe".
        num_retrieved: elements that "eta" attends to.
        num_hashes: bits of its hashes.
    """

    variant: str = "din"
    num_experts: int = 4
    expert_widths: tuple[int, ...] = (64,)
    num_retrieved: int = 16
    num_hashes: int = 32

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        require_choice("config.model.variant", self.variant, VARIANTS)
        self.validate_encoder(self._encoders)
        for key in ("num_experts", "num_retrieved", "num_hashes"):
            require_at_least(f"config.model.{key}", getattr(self, key), 1)
        if not self.expert_widths or min(self.expert_widths) < 1:
            raise ConfigError(f"config.model.expert_widths = {self.expert_widths} must hold at least one width >= 1")

    @property
    def _encoders(self) -> tuple[str, ...]:
        return ("transformer",) if self.variant == "bst" else (self.variant,)

    def uses(self) -> dict[str, bool]:
        """Keys that some settings only read, and whether these do."""
        of_variants = {"num_experts": "mmoe", "expert_widths": "mmoe", "num_retrieved": "eta", "num_hashes": "eta"}
        own = {key: self.variant == variant for key, variant in of_variants.items()}
        return super().uses() | self.encoder_uses(self._encoders) | own

    @property
    def name(self) -> str:
        """For reports."""
        return self.variant

    def build(self, layout: Layout, rngs: nnx.Rngs) -> ImpressionRanker:
        """Builds the ranker for what an encoder found."""
        classes = {"wdl": WideAndDeep, "mmoe": Mmoe}
        return classes.get(self.variant, SequenceRanker)(self, layout, rngs)


class Mean(nnx.Module):
    """The mean of a sequence's elements; 0 of an empty one."""

    def __call__(self, sequence: Behaviours, target: Float[Array, "b d"], draws: Draws | None) -> Float[Array, "b d"]:
        """[b, t, d] -> [b, d]."""
        return sequence.mean()


class Pooled(nnx.Module):
    """A sequence encoder and its own way to one vector."""

    def __init__(self, config: Config, sequence: SequenceLayout, rngs: nnx.Rngs):
        self.encoder = build_encoder(config, config.variant, sequence, rngs)

    def __call__(self, sequence: Behaviours, target: Float[Array, "b d"], draws: Draws | None) -> Float[Array, "b d"]:
        """[b, t, d] -> [b, d]."""
        drawn = (None, None) if draws is None else draws
        states = self.encoder(sequence.elements, sequence.mask, target, *drawn)
        return self.encoder.pool(states, sequence.mask, target)


class BehaviorTransformer(nnx.Module):
    """BST: the outputs of a Transformer over the sequence and the target behind it, side by side."""

    def __init__(self, config: Config, sequence: SequenceLayout, rngs: nnx.Rngs):
        longer = dataclasses.replace(sequence, length=sequence.length + 1)
        self.encoder = build_encoder(config, "transformer", longer, rngs)

    def __call__(self, sequence: Behaviours, target: Float[Array, "b d"], draws: Draws | None) -> Float[Array, "b f"]:
        """[b, t, d] -> [b, (t + 1) d]."""
        drawn = (None, None) if draws is None else draws
        elements = jnp.concatenate([sequence.elements, target[:, None].astype(sequence.elements.dtype)], axis=1)
        mask = jnp.concatenate([sequence.mask, jnp.ones((len(target), 1), bool)], axis=1)
        states = self.encoder(elements, mask, target, *drawn)
        return states.reshape(len(states), -1)


class TargetAttention(nnx.Module):
    """ETA: attention of the target to the elements with the nearest SimHash."""

    def __init__(self, config: Config, sequence: SequenceLayout, rngs: nnx.Rngs):
        width = config.embedding_dim
        self.num_retrieved = min(config.num_retrieved, sequence.length)
        self.directions = nnx.Variable(jax.random.normal(rngs.params(), (width, config.num_hashes)))
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(jnp.stack([init(rngs.params(), (width, width), jnp.float32) for _ in range(3)]))

    def __call__(self, sequence: Behaviours, target: Float[Array, "b d"], draws: Draws | None) -> Float[Array, "b d"]:
        """[b, t, d] -> [b, d]."""
        elements = sequence.elements.astype(jnp.float32)
        kept = self.nearest(elements, sequence, target)
        chosen = jnp.take_along_axis(elements, kept[:, :, None], axis=1)
        mask = jnp.take_along_axis(sequence.mask, kept, axis=1)
        queries, keys, values = self.weights[...]
        found = target_attention(target @ queries, chosen @ keys, chosen @ values, mask, target.shape[1] ** -0.5)
        return found

    def nearest(
        self, elements: Float[Array, "b t d"], sequence: Behaviours, target: Float[Array, "b d"]
    ) -> Int[Array, "b r"]:
        """Places of the elements whose hashes share most bits with the target's; of equals the newest."""
        directions = jax.lax.stop_gradient(self.directions[...])
        own, others = (jax.lax.stop_gradient(of) @ directions > 0 for of in (target.astype(jnp.float32), elements))
        agreeing = (others == jnp.broadcast_to(own[:, None], others.shape)).sum(axis=2)
        length = elements.shape[1]
        order = agreeing * length + jnp.broadcast_to(jnp.arange(length)[None], agreeing.shape)
        return jax.lax.top_k(jnp.where(sequence.mask, order, -1), self.num_retrieved)[1]


class SequenceRanker(ImpressionRanker):
    """Rankers that have one vector for each sequence beside the record's fields."""

    def __init__(self, config: Config, layout: Layout, rngs: nnx.Rngs):
        super().__init__(config, layout, rngs)
        self.config: Config
        self.pools = nnx.Dict({of.name: self._pool(config, of, rngs) for of in layout.sequences})
        parts = self.fields.part_widths
        widths = [self._pooled_width(config, of) for of in layout.sequences]
        widths += [config.embedding_dim] * (len(layout.sequences) if config.history_products else 0)
        self.shared_width = sum(parts["context"]) + config.embedding_dim + sum(widths)
        self.make_towers(rngs)

    def make_towers(self, rngs: nnx.Rngs) -> None:
        """Towers on the shared representation."""
        self.build_towers(self.shared_width, rngs)

    def _pool(self, config: Config, sequence: SequenceLayout, rngs: nnx.Rngs) -> Any:
        classes = {"bst": BehaviorTransformer, "eta": TargetAttention}
        if config.variant in ("wdl", "mmoe"):
            return Mean()
        return classes.get(config.variant, Pooled)(config, sequence, rngs)

    def _pooled_width(self, config: Config, sequence: SequenceLayout) -> int:
        return config.embedding_dim * (sequence.length + 1 if config.variant == "bst" else 1)

    def _values_per_row(self, sequence: SequenceLayout) -> int:
        kinds = {"bst": "transformer", "din": "din", "hgn": "hgn"}
        kind = kinds.get(self.config.variant)
        return 0 if kind is None else values_per_row(self.config, kind, sequence.length)

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """Context, target and one vector for each sequence, side by side."""
        pooled = []
        for i, sequence in enumerate(self.layout.sequences):
            own = None if draws is None else draws._replace(key=jax.random.fold_in(draws.key, i))
            read = self.pools[sequence.name], fields.sequences[sequence.name], fields.target_vector, own
            pooled.append(read_in_blocks(*read, self._values_per_row(sequence)))
        pooled += history_products(fields) if self.config.history_products else []
        return Represented(side_by_side([fields.context, fields.target_vector, *pooled]), fields.dynamic)


class WideAndDeep(SequenceRanker):
    """A row of a table holds its embedding and, last, its weight in the wide part."""

    def __init__(self, config: Config, layout: Layout, rngs: nnx.Rngs):
        super().__init__(config, layout, rngs)
        self.wide_bias = nnx.Param(jnp.zeros(()))

    def table_width(self, name: str) -> int:
        """The embedding's width and one."""
        return super().table_width(name) + 1

    def _represent(self, rows: Rows, batch: Batch, draws: Draws | None) -> Represented:
        deep = {name: of[..., :-1] for name, of in rows.items()}
        represented = super()._represent(deep, batch, draws)
        places = [of for of in self.layout.fields if of.kind == "ids"]
        wide = sum(
            (rows[of.table][:, of.start : of.stop, -1].sum(axis=1) for of in places), jnp.zeros(len(batch["labels"]))
        )
        return represented._replace(offset=wide + self.wide_bias[...])


class Mmoe(SequenceRanker):
    """Experts over the shared representation and the dynamic context, mixed by a gate for each task."""

    def make_towers(self, rngs: nnx.Rngs) -> None:
        """Experts, and a tower on the mixture of each task."""
        config = self.config
        num_tasks = len(self.layout.labels)
        read = self.shared_width + (sum(self.fields.part_widths["dynamic"]) if self._reads_dynamic else 0)
        self.experts = MixtureOfExperts(
            read, config.num_experts, config.expert_widths, num_tasks, rngs, dtype=self.dtype
        )
        width = config.expert_widths[-1]
        widths = [config.tower_widths, *[config.task_tower_widths] * (num_tasks - 1)]
        self.heads = nnx.List([Tower(width, of, rngs, out_width=1, dtype=self.dtype) for of in widths])

    @property
    def _reads_dynamic(self) -> bool:
        return self.config.tower_reads_dynamic or len(self.layout.labels) > 1

    def outputs(self, represented: Represented, shared: Float[Array, "b D"]) -> Float[Array, "b m"]:
        """Each task's tower on its mixture of the experts."""
        read = jnp.concatenate([shared, represented.dynamic], axis=1) if self._reads_dynamic else shared
        mixed, _ = self.experts(read)
        return jnp.concatenate([head(mixed[:, i]) for i, head in enumerate(self.heads)], axis=1)
