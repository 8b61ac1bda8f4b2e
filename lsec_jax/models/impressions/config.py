"""The keys that all rankers of impressions have."""

import dataclasses
import math
from typing import Any, ClassVar

from flax import nnx

from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.declaration import Declaration
from lsec_jax.declaration.layout import Layout
from lsec_jax.schema.needs import Needs

WEIGHTINGS = ("fixed", "adaptive", "uncertainty")
LOOK_AHEADS = ("first_order", "one_step")
DTYPES = ("float32", "bfloat16")
ADAPTIVE_KEYS = ("total_task_weight", "weight_entropy", "look_ahead", "look_ahead_rate")


def require_finite(key: str, value: float) -> None:
    """Raises ConfigError unless the value is finite and at least 0."""
    require_at_least(key, value, 0)
    if not value < math.inf:
        raise ConfigError(f"{key} = {value} must be finite")


def _default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@dataclasses.dataclass
class ImpressionConfig:
    """A ranker of impressions. Baselines and eLiveRec share these keys, the features and the training.

    Attributes:
        features: what the model reads of an impression, and its labels; the first label is the primary task.
        sequences: names of the declared sequences that the model reads; () = all, ("none",) = none of them.
        tasks: names of the labels that are learned beside the primary one; () = the primary task alone.
        embedding_dim: d, of the embedding tables that declare no width, of elements and of what encoders return.
        embedding_std: initial standard deviation of the embeddings.
        tower_widths: hidden widths of the primary task's tower.
        task_tower_widths: those of the towers of the other tasks.
        history_products: whether the towers also read, for each sequence, the mean of its elements times the target's
            vector, number by number, as in the code of DIN's authors; eLiveRec's paper has no such thing.
        tower_reads_dynamic: whether the primary task's tower reads the dynamic context as well.
        task_weighting: "fixed" (`task_weights`), "adaptive" (`models/impressions/weights.py`) or "uncertainty"
            (Kendall et al. 2018).
        task_weights: of `tasks`, in their order; with "fixed" one for each.
        total_task_weight: of "adaptive", the sum of the weights; 0 = their number. The paper's fixed ones sum to 0.7.
        weight_entropy: of "adaptive", weight of the entropy of the weights, which keeps them from collapsing.
        look_ahead: of "adaptive", what its net is trained by: "first_order" (gradient cosines) or "one_step" (the
            primary loss after a step of `look_ahead_rate` on the shared representation, which costs more).
        look_ahead_rate: of "one_step".
        dropout: share of what the towers read, and of the units inside Transformers, that a training step leaves out.
        l2: weight of half the squared norm of the embeddings that the batch's fields and behaviours have, mean over its
            rows.
        dtype: of activations: "float32", or "bfloat16", with parameters, softmax, sums and losses in float32.
    """

    features: Declaration = dataclasses.field(default_factory=Declaration)
    sequences: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    embedding_dim: int = 16
    embedding_std: float = 0.01
    tower_widths: tuple[int, ...] = (128, 64)
    task_tower_widths: tuple[int, ...] = (64,)
    history_products: bool = False
    tower_reads_dynamic: bool = False
    task_weighting: str = "fixed"
    task_weights: tuple[float, ...] = ()
    total_task_weight: float = 0.0
    weight_entropy: float = 0.1
    look_ahead: str = "first_order"
    look_ahead_rate: float = 0.1
    dropout: float = 0.0
    l2: float = 0.0
    dtype: str = "float32"

    # Keys that only say how a model trains: a run may start from one that has other values.
    TRAINING_KEYS: ClassVar[tuple[str, ...]] = (
        *("embedding_std", "task_weights", "total_task_weight", "weight_entropy", "look_ahead", "look_ahead_rate"),
        *("dropout", "l2", "dtype"),
    )

    def validate(self) -> None:
        """Checks the keys that all have; raises ConfigError."""
        self.features.validate()
        declared = [of.name for of in self.features.sequences]
        for name in self.sequences if tuple(self.sequences) != ("none",) else ():
            require_choice("config.model.sequences", name, tuple(declared))
        labels = [of.name for of in self.features.labels]
        for name in self.tasks:
            require_choice("config.model.tasks", name, tuple(labels[1:]))
        for key in ("sequences", "tasks"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ConfigError(f"config.model.{key} = {getattr(self, key)}: give each name once")
        require_at_least("config.model.embedding_dim", self.embedding_dim, 1)
        if not 0 < self.embedding_std < math.inf:
            raise ConfigError(
                f"config.model.embedding_std = {self.embedding_std} must be positive and finite: zeros never change"
            )
        for key in ("tower_widths", "task_tower_widths"):
            if not getattr(self, key) or min(getattr(self, key)) < 1:
                raise ConfigError(f"config.model.{key} = {getattr(self, key)} must hold at least one width >= 1")
        require_choice("config.model.task_weighting", self.task_weighting, WEIGHTINGS)
        require_choice("config.model.look_ahead", self.look_ahead, LOOK_AHEADS)
        require_choice("config.model.dtype", self.dtype, DTYPES)
        for key in ("total_task_weight", "weight_entropy", "look_ahead_rate", "l2", "dropout"):
            require_finite(f"config.model.{key}", getattr(self, key))
        if not self.dropout < 1:
            raise ConfigError(f"config.model.dropout = {self.dropout} must be below 1")
        self._check_weights()
        self._check_uses()

    def uses(self) -> dict[str, bool]:
        """Keys that some settings only read, and whether these do."""
        is_ahead = self.task_weighting == "adaptive" and self.look_ahead == "one_step"
        return {
            "task_tower_widths": bool(self.tasks),
            **dict.fromkeys(ADAPTIVE_KEYS, self.task_weighting == "adaptive"),
            "look_ahead_rate": is_ahead,
        }

    def without_unused(self) -> Any:
        """Returns the config with the defaults of all keys that its other keys leave without effect."""
        defaults = {of.name: _default_of(of) for of in dataclasses.fields(self)}
        return dataclasses.replace(self, **{key: defaults[key] for key, is_used in self.uses().items() if not is_used})

    def _check_uses(self) -> None:
        defaults = {of.name: _default_of(of) for of in dataclasses.fields(self)}
        for key, is_used in self.uses().items():
            if not is_used and getattr(self, key) != defaults[key]:
                raise ConfigError(
                    f"config.model.{key} = {getattr(self, key)} has no effect with the other keys of config.model; "
                    f"leave it at {defaults[key]}, or change those that switch it off"
                )

    def _check_weights(self) -> None:
        if self.task_weighting == "fixed":
            if len(self.task_weights) != len(self.tasks):
                raise ConfigError(
                    f"config.model.task_weights = {self.task_weights}: task_weighting 'fixed' needs one weight for "
                    f"each of the {len(self.tasks)} in config.model.tasks = {self.tasks}"
                )
        elif self.task_weights:
            raise ConfigError(
                f"config.model.task_weights = {self.task_weights}: task_weighting '{self.task_weighting}' finds its "
                "own weights; leave it empty"
            )
        elif not self.tasks:
            raise ConfigError(
                f"config.model.task_weighting = '{self.task_weighting}', but config.model.tasks is empty: there is "
                "nothing to weight; name tasks, or set it to 'fixed'"
            )
        for weight in self.task_weights:
            require_finite("config.model.task_weights", weight)

    @property
    def name(self) -> str:
        """For reports."""
        raise NotImplementedError

    @property
    def declaration(self) -> Declaration:
        """The features with the chosen sequences, and with the labels of the model's tasks."""
        chosen = self.sequences or tuple(of.name for of in self.features.sequences)
        labels = (self.features.labels[0].name, *self.tasks)
        found = dataclasses.replace(
            self.features,
            sequences=tuple(of for of in self.features.sequences if of.name in chosen),
            labels=tuple(next(of for of in self.features.labels if of.name == name) for name in labels),
        )
        used = {field.table for _, field in found.all_fields()}
        return dataclasses.replace(
            found,
            tables=tuple(of for of in found.tables if of.name in used),
            neighbourhoods=found.neighbourhoods if self.reads_neighbours else (),
            paths=found.paths if self.reads_paths else (),
        )

    @property
    def reads_neighbours(self) -> bool:
        """Whether the model reads the declared neighbourhoods; what it does not read is not drawn."""
        return False

    @property
    def reads_paths(self) -> bool:
        """Whether the model reads the declared paths."""
        return False

    @property
    def task_tables(self) -> tuple[str, ...]:
        """The table of impressions."""
        return (self.features.events,)

    @property
    def needs(self) -> Needs:
        """The columns that the features are made of."""
        features, used = self.features, self.declaration
        columns = [features.user, features.target]
        for field in used.fields:
            role, _, column = field.source.partition(".")
            columns += [column] if not role else [role] if role != "time" else []
        columns += [of.role for of in used.neighbourhoods] + [of.role for of in used.paths]
        for label in used.labels:
            columns += [label.column, label.only_if, label.measured]
        return Needs(events={features.events: tuple(dict.fromkeys(name for name in columns if name))})

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that change neither shapes nor meanings."""
        return self.TRAINING_KEYS

    @property
    def rows_together(self) -> int:
        """Each row of a batch stands for itself."""
        return 1

    def build(self, layout: Layout, rngs: nnx.Rngs) -> Any:
        """Builds the ranker for what an encoder found."""
        raise NotImplementedError

    def warnings(self, inputs: Any, batch_size: int) -> list[str]:
        """Nothing that could be known beforehand."""
        return []
