"""eLiveRec: live channels ranked from two behaviour sequences, with in-channel actions as auxiliary tasks.

"eLiveRec", 2023 (the paper's equations are cited by number). Implemented: sequence encoders per domain (Eq. 3-4), the
disentangled encoder (Eq. 5-7), distance correlation and contrastive regularisers (Eq. 8-10), the intra-channel tower
(Eq. 11), the embedding gate unit and the multi-gate mixture of experts (Eq. 12-13), adaptive task weights (Eq. 14-15),
and the ablations of its Tables III and IV as keys.

Departures:
- The regularisers are computed inside fixed groups of `regulariser_group_size` rows, so that the number of devices does
  not change the loss; the paper takes the whole batch of each worker.
- Distance correlation is the unbiased estimate by default: on groups of few rows the biased one is mostly bias.
- InfoNCE's negatives are rows of other users: a request has several rows of one user, whose vectors are no negatives.
- The net of the adaptive weights is trained by a look-ahead, not by the loss that it weights
  (`models/impressions/weights.py` says why).
- Stay time is learned as its logarithm, as the declaration of the label says.
- The paper tried to update the regularisers in turns with the rest, and does not say how long a turn is: with
  `is_alternating` it is one step.
- What an empty sequence has, which the paper does not say, is learned: a vector for each intention of each domain.
- Two keys that the synthetic configs set add to the model: `history_products` hands the towers products of the mean
  behaviour and the target, and `tower_reads_dynamic` hands the dynamic context to the intra-channel tower (Eq. 11)
  too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax import regularisers
from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.config import ImpressionConfig, require_finite
from lsec_jax.models.impressions.encoders import ENCODERS, EncoderConfig, build_encoder, values_per_row
from lsec_jax.models.impressions.fields import Batch, Behaviours, Fields, history_products, side_by_side
from lsec_jax.models.impressions.ranker import Draws, ImpressionRanker, Represented, read_in_blocks
from lsec_jax.nn.disentangle import EMPTY_STD, Disentangler
from lsec_jax.nn.experts import Experts, MixtureOfExperts
from lsec_jax.nn.towers import Tower

CONTRASTS = ("none", "infonce", "cosine", "euclidean")


@dataclasses.dataclass
class Config(EncoderConfig, ImpressionConfig):
    """eLiveRec; keys of encoders and of all rankers are inherited.

    The paper's: embedding_dim 128, num_heads 8, batches of 2048, Adagrad with learning rate .05, task weights (.3 stay,
    .3 goods bag, .1 product) where they are fixed.

    Attributes:
        channel: the sequence of the target's own domain, V.
        product: the sequence of the other domain, S; "" = single sequence.
        encoder: "transformer", "din", "hgn" or "gru" (Fig. 5).
        is_disentangled: whether vectors of consistent and specific intentions are told apart; else each domain has one.
        prototypes: of the intentions, "pooled" (Eq. 5) or "learned" (Table III).
        retrieval_scale: of the target's attention (Eq. 6): "none" as in the paper, or "sqrt".
        independence: lambda1, weight of the distance correlation between consistent and specific vectors (Eq. 8).
        is_unbiased: whether that is the U-centred estimate; the biased one is mostly bias on groups of few rows.
        contrast: what brings the domains' consistent vectors together (Eq. 9): "infonce", "cosine", "euclidean"
            (Table III), or "none".
        contrast_weight: lambda2.
        temperature: of InfoNCE.
        is_symmetric: whether InfoNCE is also taken the other way round.
        specific_separation: weight of the estimated mutual information of the domains' specific vectors (SR).
        is_alternating: whether odd steps are on the regularisers alone and even ones on the rest, which the paper found
            worse; else every step is on both. Both are computed in every step. Adam's moments go on moving what has no
            part in a step; Adagrad's, which the paper has, do not.
        regulariser_group_size: rows that regularisers compare; a divisor of the batch.
        num_experts: of the mixture of experts.
        expert_widths: hidden and output widths of an expert.
        gate_width: hidden width of each field's net in the embedding gate unit.
        is_gated: whether the dynamic context gates the fields of the in-channel tasks (Eq. 12).
    """

    attention_scale: str = "width"
    channel: str = "watches"
    product: str = ""
    encoder: str = "transformer"
    is_disentangled: bool = True
    prototypes: str = "pooled"
    retrieval_scale: str = "none"
    independence: float = 0.01
    is_unbiased: bool = True
    contrast: str = "infonce"
    contrast_weight: float = 0.01
    temperature: float = 0.5
    is_symmetric: bool = False
    specific_separation: float = 0.0
    is_alternating: bool = False
    regulariser_group_size: int = 256
    num_experts: int = 4
    expert_widths: tuple[int, ...] = (64,)
    gate_width: int = 32
    is_gated: bool = True

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        if self.sequences:
            raise ConfigError(
                f"config.model.sequences = {self.sequences}: eLiveRec has the keys channel and product; leave it ()"
            )
        super().validate()
        self.validate_encoder((self.encoder,))
        declared = tuple(of.name for of in self.features.sequences)
        require_choice("config.model.channel", self.channel, declared)
        require_choice("config.model.product", self.product, ("", *declared))
        if self.product == self.channel:
            raise ConfigError(f"config.model.product = '{self.product}' is the channel's sequence; give another, or ''")
        require_choice("config.model.encoder", self.encoder, ENCODERS)
        require_choice("config.model.prototypes", self.prototypes, ("pooled", "learned"))
        require_choice("config.model.retrieval_scale", self.retrieval_scale, ("none", "sqrt"))
        require_choice("config.model.contrast", self.contrast, CONTRASTS)
        for key in ("independence", "contrast_weight", "specific_separation"):
            require_finite(f"config.model.{key}", getattr(self, key))
        for key in ("num_experts", "gate_width"):
            require_at_least(f"config.model.{key}", getattr(self, key), 1)
        require_at_least("config.model.regulariser_group_size", self.regulariser_group_size, 4)
        require_finite("config.model.temperature", self.temperature)
        if not self.temperature > 0:
            raise ConfigError(f"config.model.temperature = {self.temperature} must be positive")
        if not self.expert_widths or min(self.expert_widths) < 1:
            raise ConfigError(f"config.model.expert_widths = {self.expert_widths} must hold at least one width >= 1")
        if not self.tasks and self.task_weighting != "fixed":
            raise ConfigError("config.model.tasks is empty: set config.model.task_weighting to 'fixed'")

    def uses(self) -> dict[str, bool]:
        """Keys that some settings only read, and whether these do."""
        of_domains = self.is_disentangled and bool(self.product)
        has_contrast = of_domains and self.contrast != "none"
        is_infonce = has_contrast and self.contrast == "infonce" and self.contrast_weight > 0
        has_tasks = bool(self.tasks)
        return {
            **super().uses(),
            **self.encoder_uses((self.encoder,)),
            **dict.fromkeys(("prototypes", "retrieval_scale", "independence"), self.is_disentangled),
            "is_unbiased": self.is_disentangled and self.independence > 0,
            "contrast": of_domains,
            "contrast_weight": has_contrast,
            "temperature": is_infonce or (of_domains and self.specific_separation > 0),
            "is_symmetric": is_infonce,
            "specific_separation": of_domains,
            **dict.fromkeys(("is_alternating", "regulariser_group_size"), self.has_regularisers),
            **dict.fromkeys(("num_experts", "expert_widths", "is_gated"), has_tasks),
            "gate_width": has_tasks and self.is_gated,
        }

    @property
    def declaration(self) -> Any:
        """The features with the one or two sequences of the domains."""
        names = tuple(name for name in (self.channel, self.product) if name)
        chosen = dataclasses.replace(self, sequences=names)
        return super(Config, chosen).declaration

    @property
    def name(self) -> str:
        """For reports."""
        return "eliverec"

    @property
    def rows_together(self) -> int:
        """Rows of a regulariser's group stay on one device."""
        return self.regulariser_group_size if self.has_regularisers else 1

    @property
    def has_regularisers(self) -> bool:
        """Whether rows of a batch are compared with each other."""
        of_domains = (self.contrast != "none" and self.contrast_weight > 0) or self.specific_separation > 0
        return self.is_disentangled and (self.independence > 0 or (bool(self.product) and of_domains))

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that change neither shapes nor meanings."""
        return (
            *self.TRAINING_KEYS,
            *("independence", "is_unbiased", "contrast", "contrast_weight", "temperature", "is_symmetric"),
            *("specific_separation", "is_alternating", "regulariser_group_size"),
        )

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "ELiveRec":
        """Builds the ranker for what an encoder found."""
        return ELiveRec(self, layout, rngs)


class Domain(nnx.Module):
    """One domain's sequence: encoded, then told apart (Eq. 3-7)."""

    def __init__(self, config: Config, sequence: Any, rngs: nnx.Rngs):
        width = config.embedding_dim
        self.encoder = build_encoder(config, config.encoder, sequence, rngs)
        self.disentangler = (
            Disentangler(width, rngs, prototypes=config.prototypes, scale=config.retrieval_scale)
            if config.is_disentangled
            else None
        )
        if self.disentangler is None:
            draw = jax.nn.initializers.normal(EMPTY_STD)
            self.empty = nnx.Param(draw(rngs.params(), (width,), jnp.float32))

    def __call__(
        self, sequence: Behaviours, target: Float[Array, "b d"], draws: Draws | None
    ) -> tuple[Float[Array, "b d"], ...]:
        """(consistent, specific) vectors, [b, d] float32 each, or one pooled vector where they are not told apart."""
        drawn = (None, None) if draws is None else draws
        states = self.encoder(sequence.elements, sequence.mask, target, *drawn)
        if self.disentangler is None:
            pooled = self.encoder.pool(states, sequence.mask, target).astype(jnp.float32)
            has_any = sequence.mask.any(axis=1)[:, None]
            return (jnp.where(has_any, pooled, jnp.broadcast_to(self.empty[...], pooled.shape)),)
        found = self.disentangler(sequence.elements, states, sequence.mask, target)
        return found.consistent.astype(jnp.float32), found.specific.astype(jnp.float32)


class GateUnit(nnx.Module):
    """The embedding gate unit: for each field a two-layer net of the dynamic context, and a sigmoid (Eq. 12)."""

    def __init__(self, dynamic_width: int, hidden: int, num_fields: int, rngs: nnx.Rngs):
        self.nets = Experts(dynamic_width, num_fields, (hidden,), rngs)
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(init(rngs.params(), (num_fields, hidden), jnp.float32))
        self.biases = nnx.Param(jnp.zeros(num_fields))

    def __call__(self, dynamic: Float[Array, "b e"]) -> Float[Array, "b f"]:
        """The weights of the fields, in (0, 1)."""
        found = jnp.einsum("bfh,fh->bf", self.nets(dynamic)[-1], self.weights[...])
        return jax.nn.sigmoid(found + jnp.broadcast_to(self.biases[...], found.shape))


class ELiveRec(ImpressionRanker):
    """The ranker. Shared between the tasks is concat(e_c, e_vt, the domains' vectors)."""

    def __init__(self, config: Config, layout: Layout, rngs: nnx.Rngs):
        super().__init__(config, layout, rngs)
        self.config: Config
        sequences = {of.name: of for of in layout.sequences}
        self.names = tuple(name for name in (config.channel, config.product) if name)
        self.domains = nnx.Dict({name: Domain(config, sequences[name], rngs) for name in self.names})
        self.values_per_row = {
            name: values_per_row(config, config.encoder, sequences[name].length) for name in self.names
        }
        num_vectors = len(self.names) * (2 if config.is_disentangled else 1)
        # Fields of the gate unit: those of the context, the target, and each domain's vectors.
        width = config.embedding_dim
        num_vectors += len(self.names) if config.history_products else 0
        self.field_widths = (*self.fields.part_widths["context"], width, *(num_vectors * (width,)))
        shared, dynamic = sum(self.field_widths), sum(self.fields.part_widths["dynamic"])
        first = shared + (dynamic if config.tower_reads_dynamic else 0)
        self.primary_tower = Tower(first, config.tower_widths, rngs, out_width=1, dtype=self.dtype)
        num_tasks = len(layout.labels) - 1
        is_gated = config.is_gated and dynamic > 0 and num_tasks > 0
        self.gate = GateUnit(dynamic, config.gate_width, len(self.field_widths), rngs) if is_gated else None
        mixture = (shared + dynamic, config.num_experts, config.expert_widths, num_tasks, rngs)
        self.experts = MixtureOfExperts(*mixture, dtype=self.dtype) if num_tasks else None
        width = config.expert_widths[-1]
        self.heads = nnx.List(
            [Tower(width, config.task_tower_widths, rngs, out_width=1, dtype=self.dtype) for _ in range(num_tasks)]
        )

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """Vectors of both domains beside the context and the target, and the regularisers."""
        vectors = {}
        for i, name in enumerate(self.names):
            own = None if draws is None else draws._replace(key=jax.random.fold_in(draws.key, i))
            read = self.domains[name], fields.sequences[name], fields.target_vector, own
            vectors[name] = read_in_blocks(*read, self.values_per_row[name])
        read_of = [of for pair in vectors.values() for of in pair]
        read_of += history_products(fields) if self.config.history_products else []
        shared = side_by_side([fields.context, fields.target_vector, *read_of])
        penalty: Float[Array, ""] | float = 0.0
        metrics: dict[str, Float[Array, ""]] = {}
        if draws is not None and self.config.has_regularisers:
            masks = {name: of.mask.any(axis=1) for name, of in fields.sequences.items()}
            penalty, metrics = self._regularise(vectors, masks, batch["users"])
        return Represented(shared, fields.dynamic, penalty, metrics)

    def intentions(self, fields: Fields) -> dict[str, Float[Array, "b d"]]:
        """The intention vectors by "consistent/DOMAIN" and "specific/DOMAIN" (Eq. 7), for probes."""
        found: dict[str, Float[Array, "b d"]] = {}
        for name in self.names:
            vectors = self.domains[name](fields.sequences[name], fields.target_vector, None)
            kinds = ("consistent", "specific") if self.config.is_disentangled else ("pooled",)
            found |= {f"{kind}/{name}": of for kind, of in zip(kinds, vectors, strict=True)}
        return found

    def outputs(self, represented: Represented, shared: Float[Array, "b D"]) -> Float[Array, "b m"]:
        """The intra-channel tower's logit (Eq. 11), then the in-channel tasks' heads on gated fields (Eq. 12-13)."""
        dynamic = represented.dynamic
        both = jnp.concatenate([shared, dynamic], axis=1)
        first = self.primary_tower(both if self.config.tower_reads_dynamic else shared)
        if self.experts is None:
            return first
        if self.gate is not None:
            weights = jnp.repeat(
                self.gate(dynamic), jnp.array(self.field_widths), axis=1, total_repeat_length=shared.shape[1]
            )
            both = jnp.concatenate([shared * weights, dynamic], axis=1)
        mixed, _ = self.experts(both)
        return jnp.concatenate([first, *(head(mixed[:, i]) for i, head in enumerate(self.heads))], axis=1)

    def trained_part(self, loss: Float[Array, ""], penalty: Float[Array, ""] | float, batch: Batch) -> Float[Array, ""]:
        """Both, or one of them in turns."""
        if not self.config.is_alternating:
            return loss + penalty
        return jnp.where(batch["step"] % 2 == 1, penalty, loss)

    def _regularise(
        self, vectors: dict[str, tuple[Float[Array, "b d"], ...]], masks: dict[str, Bool[Array, " b"]], users: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """lambda1 L_dcor + lambda2 L_contrast (Eq. 8-10) and what to log of them, means over the groups."""
        config = self.config
        penalty = jnp.zeros(())
        metrics: dict[str, Float[Array, ""]] = {}
        groups = {name: tuple(self._groups(of) for of in pair) for name, pair in vectors.items()}
        kept = {name: self._groups(of) for name, of in masks.items()}
        if config.independence:
            for name, (consistent, specific) in groups.items():
                found = regularisers.distance_correlation(consistent, specific, kept[name], config.is_unbiased).mean()
                shuffled = self._shuffled(consistent, specific, self._groups(users), kept[name])
                penalty += config.independence * found
                metrics |= {f"distance_correlation/{name}": found, f"distance_correlation_shuffled/{name}": shuffled}
        if config.product:
            (one, own_specific), (other, other_specific) = groups[config.channel], groups[config.product]
            both = kept[config.channel] & kept[config.product]
            if config.contrast != "none" and config.contrast_weight:
                found = self._contrast(one, other, self._groups(users), both)
                penalty += config.contrast_weight * found
                metrics["contrast"] = found
            if config.specific_separation:
                found = regularisers.mutual_information(
                    own_specific, other_specific, self._groups(users), both, config.temperature
                ).mean()
                penalty += config.specific_separation * found
                metrics["specific_information"] = found
        return penalty, metrics

    def _shuffled(self, consistent: Array, specific: Array, users: Array, mask: Array) -> Float[Array, ""]:
        """The estimate of vectors that have nothing to do with each other: of different users, half a group apart."""
        half = self.config.regulariser_group_size // 2
        others = (jnp.roll(of, half, axis=1) for of in (specific, users, mask))
        other_specific, other_users, other_mask = (jax.lax.stop_gradient(of) for of in others)
        kept = mask & other_mask & (users != other_users)
        own = jax.lax.stop_gradient(consistent)
        return regularisers.distance_correlation(own, other_specific, kept, self.config.is_unbiased).mean()

    def _contrast(self, one: Array, other: Array, users: Array, mask: Array) -> Float[Array, ""]:
        config = self.config
        if config.contrast == "infonce":
            return regularisers.contrastive(one, other, users, mask, config.temperature, config.is_symmetric).mean()
        distance = regularisers.cosine_distance if config.contrast == "cosine" else regularisers.euclidean_distance
        return distance(one, other, mask).mean()

    def _groups(self, rows: Array) -> Array:
        """[b, ...] -> [b / group, group, ...]."""
        size = self.config.regulariser_group_size
        return rows.reshape(-1, size, *rows.shape[1:])
