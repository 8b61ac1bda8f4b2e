"""One run from its config: data, model, evaluator, and how it is divided over devices."""

from typing import Any

import jax
from absl import logging
from flax import nnx

from lsec_jax import config as config_lib
from lsec_jax import event_metrics
from lsec_jax.config import (
    BASELINES,
    EVENT_PROTOCOLS,
    LIVE_BASELINES,
    RELATION_PROTOCOLS,
    ConfigError,
    HistoryConfig,
    RunConfig,
)
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources.offers import check_needs
from lsec_jax.data.splits import assign_splits
from lsec_jax.data.views import add_views
from lsec_jax.metrics import metric_names
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.parallel import platforms, strategies
from lsec_jax.parallel.mesh import check_batches
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.training import event_evaluation, scenario_groups, vocabulary
from lsec_jax.training.base_run import Run
from lsec_jax.training.evaluation import Evaluator
from lsec_jax.training.event_run import EventRun, event_batches
from lsec_jax.training.relation_run import RelationRun, streams
from lsec_jax.training.state import Keys, TrainableModel


def prepare(config: RunConfig, data: LiveCommerceData | None = None, trains: bool = True) -> Run:
    """Loads, validates and splits the data and builds the model; writes nothing.

    Args:
        config: of the run.
        data: what its source would load, where that is there already.
        trains: whether its batches must suit its devices.

    Raises:
        ConfigError: if the config cannot work, alone or with this data.
        DataError: if the data cannot be used.
    """
    config_lib.validate(config)
    _check_protocols(config)
    _check_metric(config)
    strategy = strategies.make(config.parallel)
    if strategy.num_replicas > 1 and not learns_events(config):
        platforms.host_device()  # refuses processes without one before data are read
    data = config.data.load() if data is None else data
    check_needs(data, config.model.needs)
    data.validate()
    data = assign_splits(data, config.split, config.model.task_tables)
    data = add_histories(data, config.histories)
    data = add_views(data, config.views, config.model.task_tables[0])
    if learns_events(config):
        events = data.events_of(config.model.task_tables[0])
        _check_metric(config, events.group is not None)
        scenario_groups.check_role(events, config.evaluation.scenario)
    vocabulary.check_categories(data, config.new_ids)
    make = _event_run if learns_events(config) else _relation_run
    run = make(config, data, strategy, trains)
    for text, count in sorted(run.data.counts.items()):
        if count:
            logging.info("data: %s: %d", text, count)
    for split in run.held_out():
        for protocol in config.evaluation.protocols:
            run.evaluator.check(split, protocol)  # makes the candidate lists, which are kept for later
    if config.training.patience and not run.has_rows("validation"):
        raise ConfigError(
            f"config.training.patience = {config.training.patience}, but '{run.task}' has no validation edges to stop "
            "by; set it to 0 to train all steps, or hold some edges out (config.split, or the source's "
            "validation_fraction)"
        )
    return run


def learns_events(config: RunConfig) -> bool:
    """Whether the config's model trains on a table of events, and not on relations."""
    return isinstance(config.model, ImpressionConfig)


def _relation_run(config: RunConfig, data: LiveCommerceData, strategy: Strategy, trains: bool) -> RelationRun:
    model_config = config.model
    host = platforms.host_device() if strategy.num_replicas > 1 else None
    evaluator = Evaluator(data, model_config.task_tables[0], config.evaluation)
    model = TrainableModel(model_config.build(data, nnx.Rngs(Keys.from_seed(config.seed).dense)))
    if config.optimizer.tables == "lazy" and not model.has_lookups:
        raise ConfigError(
            f"config.optimizer.tables = 'lazy': {model_config.name} reads whole tables at every step; use 'auto' or "
            "'dense'"
        )
    inputs = _host_inputs(config, data, strategy.num_shards, host)
    for name, num_examples in model_config.streams(inputs).items():
        if num_examples == 0:
            raise DataError(f"'{name}' has no training examples after the split; change config.split")
    # Also refuses a replay window that the edges' times do not allow.
    sizes = {name: stream.batch_size for name, stream in streams(config, data, inputs).items()}
    if trains:
        check_batches(sizes, model_config.rows_together, strategy.num_replicas)
    return RelationRun(config, data, model, strategy.place(inputs, Part.INPUTS), evaluator, strategy)


def _event_run(config: RunConfig, data: LiveCommerceData, strategy: Strategy, trains: bool) -> EventRun:
    model_config = config.model
    if config.new_ids.categories:
        raise ConfigError(
            f"config.new_ids.categories = {config.new_ids.categories}: these are of nodes, and the tables of "
            f"'{model_config.name}' hold declared ids, whose new ones start from the mean of the known; leave it empty"
        )
    _check_history_lengths(config, data)
    encoder = EventEncoder(data, model_config.declaration, seed=config.seed)
    model = TrainableModel(model_config.build(encoder.layout, nnx.Rngs(Keys.from_seed(config.seed).dense)))
    if trains:
        size = event_batches(config, data).batch_size
        if size % model_config.rows_together:
            raise ConfigError(
                f"a batch has {size} rows (config.training.batch_size, or all there are), which cannot be divided into "
                f"the groups of config.model.regulariser_group_size = {model_config.rows_together} rows whose vectors "
                "are compared; set that to a divisor of the batch"
            )
        check_batches({model_config.task_tables[0]: size}, model_config.rows_together, strategy.num_replicas)
    evaluator = event_evaluation.ImpressionEvaluator(data, encoder, config.evaluation)
    return EventRun(config, data, model, strategy.place((), Part.INPUTS), evaluator, strategy, encoder)


def _check_history_lengths(config: RunConfig, data: LiveCommerceData) -> None:
    """A declared sequence says itself how long it is: a history's length is for what is stored with each moment."""
    stored = {of["name"] for of in (data.prepared_with or {}).get("histories", ())}
    for i, history in enumerate(config.histories):
        if not history.is_materialized and history.length != HistoryConfig.length and history.name not in stored:
            raise ConfigError(
                f"config.histories[{i}].length = {history.length} has no effect: nothing is stored for each moment "
                "(is_materialized), and declared sequences have lengths of their own; leave it out, and set "
                "config.model.features.sequences[...].length"
            )


def _host_inputs(config: RunConfig, data: LiveCommerceData, num_shards: int, host: jax.Device | None) -> Any:
    """The model's big arrays; those of several devices are made on the host: no device could hold them whole."""
    if host is None:
        return config.model.inputs(data)
    with jax.default_device(host):
        inputs = config.model.inputs(data)
        return inputs if num_shards == 1 else config.model.divide(inputs, num_shards)


def require_relations(config: RunConfig) -> None:
    """Refuses a model of events, for commands that are for models of relations; raises ConfigError."""
    if learns_events(config):
        raise ConfigError(
            f"'{config.model.name}' trains on the table of events '{config.model.task_tables[0]}'; this command is for "
            "models of relations (docs/papers.md)"
        )


def prepare_relations(config: RunConfig, data: LiveCommerceData | None = None, trains: bool = True) -> RelationRun:
    """As `prepare`, of a model of relations; raises ConfigError for another one before anything is loaded."""
    require_relations(config)
    run = prepare(config, data, trains)
    assert isinstance(run, RelationRun)
    return run


def _check_protocols(config: RunConfig) -> None:
    """Models of relations and of events have protocols and baselines of their own."""
    kind = "a table of events" if learns_events(config) else "relations"
    protocols: tuple[str, ...] = EVENT_PROTOCOLS if learns_events(config) else RELATION_PROTOCOLS
    baselines: tuple[str, ...] = LIVE_BASELINES if learns_events(config) else BASELINES
    for key, given, known in (
        ("protocols", config.evaluation.protocols, protocols),
        ("baselines", config.evaluation.baselines, baselines),
    ):
        if wrong := [name for name in given if name not in known]:
            raise ConfigError(
                f"config.evaluation.{key} = {tuple(given)}: '{wrong[0]}' is not for models of {kind}, as "
                f"'{config.model.name}' is; choose from: {', '.join(known)}"
            )
    if config.evaluation.scenario and not learns_events(config):
        raise ConfigError(
            f"config.evaluation.scenario = '{config.evaluation.scenario}': scenarios are of impressions, and "
            f"'{config.model.name}' is a model of relations; leave it empty"
        )


def _check_metric(config: RunConfig, has_requests: bool = True) -> None:
    """Early stopping needs a metric that the first protocol measures; some need to know what was shown together."""
    protocol, cutoffs = config.evaluation.protocols[0], config.evaluation.cutoffs
    if learns_events(config):
        labels = config.model.declaration.labels
        measured = event_metrics.metric_names(labels, cutoffs, has_requests)
        if config.training.metric in {*event_metrics.metric_names(labels, cutoffs)} - {*measured}:
            raise ConfigError(
                f"config.training.metric = '{config.training.metric}' is of rows that were shown together, and the "
                f"events '{config.model.task_tables[0]}' have no groups; choose auc or gauc, or give the events groups"
            )
        known = tuple(name for name in measured if event_metrics.is_higher_better(name))
        if config.training.metric in measured and config.training.metric not in known:
            raise ConfigError(
                f"config.training.metric = '{config.training.metric}': the best checkpoint is that of the highest "
                f"value, and of this metric a high one is no good; choose one of: {', '.join(known)}"
            )
    else:
        known = metric_names(protocol, cutoffs)
    if config.training.metric not in known:
        raise ConfigError(
            f"config.training.metric = '{config.training.metric}' is not measured by protocol '{protocol}' with "
            f"config.evaluation.cutoffs = {cutoffs}; choose one of: {', '.join(known)}"
        )
