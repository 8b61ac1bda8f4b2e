"""The dataclasses that every run shares, and their validation. Knows no source and no model.

Annotations here must stay real objects: `from __future__ import annotations` would break every
`--config.x.y=...` override.
"""

import dataclasses
import math
from typing import Any

from lsec_jax.config.errors import ConfigError, require_at_least, require_choice
from lsec_jax.config.parallel import ParallelConfig, check_parallel

__all__ = [
    "BASELINES",
    "EVENT_PROTOCOLS",
    "LIVE_BASELINES",
    "OPTIMIZERS",
    "PROTOCOLS",
    "RELATION_PROTOCOLS",
    "CheckpointConfig",
    "ConfigError",
    "EvaluationConfig",
    "HistoryConfig",
    "NewIdsConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ReplayConfig",
    "RunConfig",
    "SplitConfig",
    "TrainingConfig",
    "ViewConfig",
    "check_parallel",
    "require_at_least",
    "require_choice",
    "validate",
]

RELATION_PROTOCOLS = ("candidates", "full_ranking")
EVENT_PROTOCOLS = ("impressions",)
PROTOCOLS = RELATION_PROTOCOLS + EVENT_PROTOCOLS
BASELINES = ("popularity", "item_knn")
LIVE_BASELINES = ("popularity", "recent_popularity", "watch_rate", "last_watched", "own_counts")
# The optimizers, and which keys of theirs the others do not have.
OPTIMIZERS = {"adam": ("b1", "b2", "eps"), "adagrad": ("eps", "initial_accumulator", "accumulator_decay"), "sgd": ()}


@dataclasses.dataclass
class SplitConfig:
    """How interactions become train / validation / test.

    Attributes:
        method: "auto" (given split if the source has one, else time where there is time, else random), "given",
            "time", "random", or "leave_one_out" (of each user's interactions the last one tests, the one before
            validates).
        fractions: train, validation, test; of the primary relation's edges (first task's relation), by "time" and
            "random".
        seed: of the random split.
    """

    method: str = "auto"
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0


@dataclasses.dataclass
class HistoryConfig:
    """Behaviour sequences to derive from events: what each owner did before each moment.

    Attributes:
        name: of the sequences, e.g. "watches".
        events: table of the behaviours.
        owner: role of those whose histories these are; the moments' tables must have it too.
        item: role of what they acted on.
        where: measured column; events count in which it is true or above 0; "" = all.
        moments: tables of events for whose rows a history is kept.
        delay: time until a behaviour is known to the system, in the data set's unit, >= 0.
        length: items that are stored for each moment with is_materialized, and that readers of events show who do not
            say how many; declared sequences say it (`SequenceFields.length`).
        is_materialized: store the last `length` items of each moment, and not one end offset each.
    """

    name: str = ""
    events: str = "impression"
    owner: str = "user"
    item: str = "streamer"
    where: str = ""
    moments: tuple[str, ...] = ("impression",)
    delay: float = 0.0
    length: int = 50
    is_materialized: bool = False


@dataclasses.dataclass
class ViewConfig:
    """A view of a graph among nodes of one type, to derive from a relation: who is linked to whom.

    Attributes:
        name: of the view, e.g. "friend".
        relation: between nodes of one type. Its links from the time of the first training event on are left out and
            counted: they may be what is to be predicted.
        is_both_ways: whether a link makes each end the other's neighbour; else the targets are the sources'.
        is_timeless: says of a relation without times that its links were there before the first training event; without
            it such a relation is refused.
    """

    name: str = ""
    relation: str = ""
    is_both_ways: bool = True
    is_timeless: bool = False


@dataclasses.dataclass
class OptimizerConfig:
    """An optimizer with an optional schedule.

    Attributes:
        name: "adam", "adagrad" or "sgd" (without momentum).
        tables: updates of the embedding tables: "lazy" (only the rows that a step looks up, with their moments; for
            models that say which these are), "dense", or "auto": lazy for tables that are large enough to gain by it;
            the log says which. With Adam a lazy row's moments do not decay while it is not looked up, and L2 reaches
            the rows looked up alone (`training/tables.py`).
        learning_rate: peak value.
        schedule: "constant" or "cosine" (to zero at `training.num_steps`).
        warmup_steps: linear warm-up from zero.
        b1, b2: decay of Adam's moments.
        eps: added to the denominator of Adam and to the squares of Adagrad.
        initial_accumulator: Adagrad's sum of squares before the first step.
        accumulator_decay: factor of that sum at each step, in (0, 1]; of a lazy row, at each step that looks it up.
    """

    name: str = "adam"
    tables: str = "auto"
    learning_rate: float = 5e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    initial_accumulator: float = 0.1
    accumulator_decay: float = 1.0


@dataclasses.dataclass
class TrainingConfig:
    """Length and batching of training.

    Attributes:
        num_steps: upper bound of optimizer steps.
        batch_size: positive edges per task and step.
        evaluate_every: steps between validations (and checkpoints).
        patience: validations without improvement of `metric` before training stops; 0 = never stop early.
        metric: validation metric that picks the best checkpoint, higher is better. Where the data has no validation
            edges there is nothing to pick by: patience must be 0 and the last checkpoint counts as the best.
        log_every: steps between lines of metrics.
        max_seconds: stop after this much training time (evaluation left out); 0 = no limit. A run that stops for
            this reason is not reproducible step for step. Training time includes compilation, which metrics and
            report give apart as `compile_seconds`.
        prefetch: inputs of steps (batches, and neighbours drawn for sampled training) made ahead while the device works
            on the steps before, and kept on it; 0 = each when its step needs it. Results do not depend on it.
        track_test: also measure the test split at each validation, for learning curves; never used to select anything.
        on_nonfinite: what to do at a step whose loss or gradient is NaN or infinite: "stop", or "skip" it, which leaves
            parameters and optimizer as they were before it and goes on with the next batch.
        max_skipped: steps that may be skipped in the whole run; one more stops it.
    """

    num_steps: int = 2000
    batch_size: int = 4096
    evaluate_every: int = 100
    patience: int = 10
    metric: str = "auc"
    log_every: int = 20
    max_seconds: float = 0.0
    prefetch: int = 2
    track_test: bool = False
    on_nonfinite: str = "stop"
    max_skipped: int = 10


@dataclasses.dataclass
class EvaluationConfig:
    """What is measured, on which candidates, in which blocks.

    Attributes:
        protocols: of the report, any of "candidates" and "full_ranking"; the first one drives early stopping. Models of
            impressions have "impressions": what was shown together is ranked.
        num_candidates: N of generated candidate lists (published lists keep their own).
        candidates_seed: of generated candidate lists.
        cutoffs: K of the @K metrics.
        validation_users: evaluate a fixed random subset of this many users during training; 0 = all.
        block_size: users scored at once; bounds the memory of full ranking and of lists to about 5 x block_size x
            targets x 4 bytes, whatever the number of users. Larger blocks are seldom faster: their scores leave the
            core's caches.
        baselines: reported beside the model, any of "popularity" and "item_knn"; simulated worlds add the oracle. For
            models of impressions any of LIVE_BASELINES (`models/live_baselines.py`).
        knn_neighbors: neighbours kept per item by item-kNN.
        knn_shrinkage: added to the denominator of its cosine; large values prefer neighbours that many users support.
        recent_days: window of "recent_popularity".
        rate_shrinkage: impressions of the mean rate that "watch_rate" adds to those of each streamer.
        scenario: of models of impressions, the role whose nodes are scenarios, e.g. "scenario" or "streamer": the
            report measures each of them, and the head, tail and cold ones together (`training/scenario_groups.py`);
            "" = no such report.
        head_share: head scenarios are the fewest that have at least this share of the training impressions, in (0, 1];
            the others that training shows are the tail, those that it never shows are cold.
        bootstrap_samples: of each interval of scenarios; 0 = no intervals.
    """

    protocols: tuple[str, ...] = ("candidates", "full_ranking")
    num_candidates: int = 1000
    candidates_seed: int = 0
    cutoffs: tuple[int, ...] = (10, 20, 50)
    validation_users: int = 0
    block_size: int = 64
    baselines: tuple[str, ...] = ("popularity", "item_knn")
    knn_neighbors: int = 400
    knn_shrinkage: float = 30.0
    recent_days: float = 1.0
    rate_shrinkage: float = 20.0
    scenario: str = ""
    head_share: float = 0.8
    bootstrap_samples: int = 1000


@dataclasses.dataclass
class CheckpointConfig:
    """When checkpoints are written, and which of them stay on disk.

    Attributes:
        save_every: steps between checkpoints besides those of validations; 0 = only those.
        keep_last: newest checkpoints kept.
        keep_best: checkpoints of the best validations kept besides them; of equals the earlier ones.
        save_seconds: how long writing a checkpoint may take, in all processes; beyond that the run ends.
    """

    save_every: int = 0
    keep_last: int = 2
    keep_best: int = 1
    save_seconds: int = 1200


@dataclasses.dataclass
class ReplayConfig:
    """Of which training edges batches are made, where edges have times. Graphs have all of them, whatever this says.

    Attributes:
        window: batches are of the edges of this much time (the data's unit) before the end of training; 0 = of all.
        share: of each batch that is of older edges, in [0, 1).
    """

    window: float = 0.0
    share: float = 0.0


@dataclasses.dataclass
class NewIdsConfig:
    """How `train --init_from` starts nodes that the earlier run did not know.

    Attributes:
        categories: "TYPE.FEATURE", at most one of each node type, e.g. "item.category": new nodes of the type start
            from the mean of the known ones with the same value of this categorical or ordinal feature; without one, or
            where no known node has the value, from the mean of all known ones of the type.
    """

    categories: tuple[str, ...] = ()


@dataclasses.dataclass
class RunConfig:
    """One run. `data` and `model` hold a source's and a model's own config dataclass.

    Attributes:
        data: a source config with `load() -> LiveCommerceData`.
        model: a model config; `lsec_jax.models` says what it offers.
        histories: behaviour sequences to derive from the source's events.
        views: views of graphs to derive from the source's relations.
        seed: split into named streams (tables, dense parameters, negatives, batches).
    """

    data: Any
    model: Any
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    histories: tuple[HistoryConfig, ...] = ()
    views: tuple[ViewConfig, ...] = ()
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    new_ids: NewIdsConfig = dataclasses.field(default_factory=NewIdsConfig)
    seed: int = 0


def validate(config: RunConfig) -> None:
    """Checks everything that can be checked without data.

    Raises:
        ConfigError: naming the key, its value and the remedy.
    """
    training, optimizer, evaluation = config.training, config.optimizer, config.evaluation
    for name in ("num_steps", "batch_size", "evaluate_every", "log_every"):
        require_at_least(f"config.training.{name}", getattr(training, name), 1)
    for name in ("patience", "max_seconds", "prefetch", "max_skipped"):
        require_at_least(f"config.training.{name}", getattr(training, name), 0)
    require_choice("config.training.on_nonfinite", training.on_nonfinite, ("stop", "skip"))
    _check_optimizer(optimizer)
    _check_evaluation(evaluation)
    for name, minimum in (("save_every", 0), ("keep_last", 1), ("keep_best", 1), ("save_seconds", 1)):
        require_at_least(f"config.checkpoint.{name}", getattr(config.checkpoint, name), minimum)
    check_parallel(config.parallel)
    for key, seed in (("config.seed", config.seed), ("config.evaluation.candidates_seed", evaluation.candidates_seed)):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"{key} = {seed} must be in [0, 2**32)")
    _check_replay(config.replay)
    _check_new_ids(config.new_ids)
    for i, history in enumerate(config.histories):
        _check_history(f"config.histories[{i}]", history, [other.name for other in config.histories[:i]])
    for i, view in enumerate(config.views):
        if not view.name or view.name in [other.name for other in config.views[:i]]:
            raise ConfigError(f"config.views[{i}].name = {view.name!r}: give each a name of its own, e.g. 'friend'")
    for part in (config.data, config.model):
        if hasattr(part, "validate"):
            part.validate()


def _check_evaluation(evaluation: EvaluationConfig) -> None:
    if not evaluation.protocols:
        raise ConfigError(f"config.evaluation.protocols is empty; name at least one of: {', '.join(PROTOCOLS)}")
    for name in evaluation.protocols:
        require_choice("config.evaluation.protocols", name, PROTOCOLS)
    for name in evaluation.baselines:
        require_choice("config.evaluation.baselines", name, tuple(dict.fromkeys(BASELINES + LIVE_BASELINES)))
    for name in ("num_candidates", "block_size", "knn_neighbors"):
        require_at_least(f"config.evaluation.{name}", getattr(evaluation, name), 1)
    for name in ("validation_users", "knn_shrinkage", "rate_shrinkage", "bootstrap_samples"):
        require_at_least(f"config.evaluation.{name}", getattr(evaluation, name), 0)
    if not evaluation.recent_days > 0:
        raise ConfigError(f"config.evaluation.recent_days = {evaluation.recent_days} must be above 0")
    if not evaluation.cutoffs or min(evaluation.cutoffs) < 1:
        raise ConfigError(f"config.evaluation.cutoffs = {evaluation.cutoffs} must hold at least one K >= 1")
    if not 0 < evaluation.head_share <= 1:
        raise ConfigError(f"config.evaluation.head_share = {evaluation.head_share} must be above 0 and at most 1")


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    require_choice("config.optimizer.name", optimizer.name, tuple(OPTIMIZERS))
    require_choice("config.optimizer.tables", optimizer.tables, ("auto", "dense", "lazy"))
    require_choice("config.optimizer.schedule", optimizer.schedule, ("constant", "cosine"))
    for name in ("learning_rate", "eps"):
        if not 0 < getattr(optimizer, name) < math.inf:
            raise ConfigError(f"config.optimizer.{name} = {getattr(optimizer, name)} must be positive and finite")
    for name in ("warmup_steps", "initial_accumulator"):
        require_at_least(f"config.optimizer.{name}", getattr(optimizer, name), 0)
    if not 0 < optimizer.accumulator_decay <= 1:
        raise ConfigError(f"config.optimizer.accumulator_decay = {optimizer.accumulator_decay} must be in (0, 1]")
    for name in ("b1", "b2"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise ConfigError(f"config.optimizer.{name} = {getattr(optimizer, name)} must be in [0, 1)")
    defaults = OptimizerConfig()
    for name in sorted({name for names in OPTIMIZERS.values() for name in names} - {*OPTIMIZERS[optimizer.name]}):
        if getattr(optimizer, name) != getattr(defaults, name):
            raise ConfigError(
                f"config.optimizer.{name} = {getattr(optimizer, name)}: '{optimizer.name}' has no such key; leave it "
                f"at {getattr(defaults, name)}"
            )


def _check_replay(replay: ReplayConfig) -> None:
    if not 0 <= replay.window < math.inf:
        raise ConfigError(f"config.replay.window = {replay.window} must be finite and at least 0")
    if not 0 <= replay.share < 1:
        raise ConfigError(f"config.replay.share = {replay.share} must be in [0, 1)")
    if replay.share and not replay.window:
        raise ConfigError(
            f"config.replay.share = {replay.share}: without a window no edge is older; set config.replay.window too"
        )


def _check_new_ids(new_ids: NewIdsConfig) -> None:
    types = [name.partition(".")[0] for name in new_ids.categories]
    for i, name in enumerate(new_ids.categories):
        if not all(name.partition(".")):
            raise ConfigError(f"config.new_ids.categories[{i}] = {name!r}: write TYPE.FEATURE, e.g. 'item.category'")
        if types[i] in types[:i]:
            raise ConfigError(f"config.new_ids.categories[{i}] = {name!r}: '{types[i]}' has one already; give one")


def _check_history(key: str, history: HistoryConfig, taken: list[str]) -> None:
    if not history.name or history.name in taken:
        raise ConfigError(f"{key}.name = {history.name!r}: give each history a name of its own, e.g. 'watches'")
    if not history.moments:
        raise ConfigError(f"{key}.moments is empty; name the tables of events for whose rows a history is kept")
    require_at_least(f"{key}.length", history.length, 1)
    if not 0 <= history.delay < math.inf:
        raise ConfigError(
            f"{key}.delay = {history.delay} must be finite and at least 0: what has not happened is unknown"
        )
