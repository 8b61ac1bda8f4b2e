"""Runs over a table of events: batches of declared features of its rows, rankings of what was shown together."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from absl import logging

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data import audits
from lsec_jax.data.batches import EventBatches
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.event_columns import EventColumns
from lsec_jax.data.history_audits import audit_all_histories
from lsec_jax.data.neighbours import NO_STEP, Draw
from lsec_jax.data.splits import event_rows, live_event_rows
from lsec_jax.data.views import audit_views
from lsec_jax.models import treems
from lsec_jax.nn import replicas
from lsec_jax.parallel.strategies import Part
from lsec_jax.schema import SPLITS, TRAIN, DataError, LiveCommerceData, NodeTable
from lsec_jax.training import event_cases, event_parts, scenario_groups
from lsec_jax.training.base_run import Run
from lsec_jax.training.event_evaluation import RowScorer
from lsec_jax.training.scenario_gates import GateReader
from lsec_jax.training.scenario_groups import Collector
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params

# Rows that are scored at once: their elements, [rows, t, d], fit the memory of small devices.
SCORED_ROWS = 2048
_STREAM = 1  # of a run's seed, as the first task of relations has it


@dataclasses.dataclass
class EventRun(Run):
    """A run whose model scores rows of a table of events; its evaluator is an `ImpressionEvaluator`.

    Attributes:
        encoder: what the model reads of a row.
    """

    encoder: EventEncoder
    num_reserved_rows: ClassVar[int] = 1  # of all that is unknown

    def has_rows(self, split: str) -> bool:
        """Whether the table has held-out rows in a split."""
        rows = event_rows(self.data, self.data.events[self.task], SPLITS[split])
        return (rows.stop > rows.start) if isinstance(rows, slice) else len(rows) > 0

    def audit(self) -> None:
        """Looks for leaks between training and evaluation; raises DataError with all that it finds."""
        audits.audit_splits(self.data)
        audit_all_histories(self.data)
        declaration = self.encoder.declaration
        roles = declaration.user, declaration.target
        if problems := audit_views(self.data, self.task, roles, declaration.labels[0].column):
            raise DataError("\n".join(problems))

    def embedded_nodes(self) -> list[NodeTable]:
        """What the rows of the embedding tables after the first stand for."""
        return [NodeTable(name, ids) for name, ids in self.encoder.table_ids().items()]

    def streams(self) -> dict[str, EventBatches]:
        """Step -> rows of the table."""
        return {self.task: event_batches(self.config, self.data)}

    def batch_at(self) -> Callable[[int], Mapping[str, Any]]:
        """Returns step -> the declared features of its rows, and where in the batch each is."""
        batches = self.streams()[self.task]
        places = np.arange(batches.batch_size, dtype=np.int32)
        return lambda step: {
            **self._encode_own(self.encoder, batches.rows(step), Draw(step, places)),
            "places": places,
        }

    def _encode_own(self, encoder: EventEncoder, rows: np.ndarray, draw: Draw) -> Mapping[str, Any]:
        """Encodes rows [b] that `place` divides; other processes' rows, which it does not read, are left empty."""
        own = self.strategy.own_rows(len(rows))
        found = encoder.encode(rows[own], Draw(draw.step, draw.places[own]))
        if own == slice(0, len(rows)):
            return found

        def among_others(values: np.ndarray) -> np.ndarray:
            whole = np.zeros((len(rows), *values.shape[1:]), values.dtype)
            whole[own] = values
            return whole

        return jax.tree.map(among_others, found)

    def scorer_function(self) -> Callable[[TrainState], RowScorer]:
        """Returns the function from a state to one from rows, [b] int64, to outputs by task, [b] float32.

        Outputs are logits of binary labels, and expected values of others in the label's transformed unit.
        """
        return lambda state: functools.partial(self.score, state.params)

    def score(self, params: Params, rows: np.ndarray, encoder: EventEncoder | None = None) -> dict[str, np.ndarray]:
        """Outputs by task of rows [b] of the run's table, or of the table that another encoder reads."""
        encoder = self.encoder if encoder is None else encoder
        size = -(-SCORED_ROWS // self.strategy.num_replicas) * self.strategy.num_replicas
        found: list[dict[str, np.ndarray]] = []
        pending: list[tuple[Any, int]] = []  # the device works on these while the host encodes the next ones

        def finish() -> None:
            scores, count = pending.pop()
            scores = jax.device_get(self.strategy.whole(scores))
            found.append({name: np.asarray(values)[:count] for name, values in scores.items()})

        for start in range(0, len(rows), size):
            own = rows[start : start + size]
            padded = np.concatenate([own, np.full(size - len(own), own[-1])])
            batch = self.strategy.place(self._encode_own(encoder, padded, Draw(NO_STEP, padded)), Part.ROWS)
            if pending:
                finish()
            pending.append((self._predict(params, batch), len(own)))
        if pending:
            finish()
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]} if found else {}

    @functools.cached_property
    def _predict(self) -> Callable[..., Any]:
        def predict(params: Params, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            scores = self.model.module(params.dense).predict(params.tables, batch)
            return {name: replicas.all_rows(of) for name, of in scores.items()}

        return self.strategy.compile(predict, [Part.STATE, Part.ROWS], [Part.REPLICATED])

    def state_metrics(self, state: TrainState) -> dict[str, float]:
        """Of a model whose experts a tree guides, how head, tail and cold scenarios use them."""
        return {} if self.gate_reader is None else self.gate_reader.statistics(state.params)

    @functools.cached_property
    def gate_reader(self) -> GateReader | None:
        """Reads the gates of all scenarios, of TREEMS; None of other models."""
        if not isinstance(self.config.model, treems.Config):
            return None
        return GateReader(self.model, self.evaluator, self.encoder, self.strategy)

    def baseline_scorers(self, split: str) -> dict[str, RowScorer]:
        """The config's live baselines, which know the past of each row only, and the oracle of a simulated world."""
        del split  # they are the same for both
        return self.evaluator.baseline_scorers()

    def examined(self, scorers: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Parts and scenarios of the impressions, and how much of what is ranked first had not been shown lately.

        Of the scorers, of the best baseline and of the oracle, on the last held-out split.
        """
        split, baselines = self.held_out()[-1], self.evaluator.baseline_scorers()
        scores = {row["model"]: row["metrics"]["auc"] for row in rows if row["split"] == split}
        best = max(baselines.keys() - {"oracle"}, key=lambda name: scores.get(name, 0.0), default="")
        chosen = {**scorers, **{name: of for name, of in baselines.items() if name in (best, "oracle")}}
        collected = {name: Collector(self.evaluator) for name in chosen if self.config.evaluation.scenario}
        found = {
            name: event_parts.examine(
                self.evaluator, scorer, split, observe=collected[name].add if name in collected else None
            )
            for name, scorer in chosen.items()
        }
        content = {name: of.to_json() for name, of in found.items()}
        cutoffs = [f"ndcg@{k}" for k in self.config.evaluation.cutoffs]
        text = event_parts.markdown(found, ("auc", "gauc", *cutoffs))
        unknown = next(iter(found.values())).unknown  # of the rows, whoever scores them
        text += "".join(f"\n- {line}" for line in unknown_lines(unknown, split, len(_split_rows(self, split))))
        text = f"### {split}, impressions in parts\n\n{text}\n"
        if collected:
            by_scenario = scenario_groups.measure(self.evaluator, collected, split)
            text += f"\n### {split}, impressions by scenario\n\n{scenario_groups.markdown(by_scenario)}\n"
            for name, of in by_scenario.items():
                content[name]["scenarios"] = of.to_json()
        if cases := event_cases.find(self.evaluator, self.encoder, chosen, split):
            text += f"\n### {split}, {len(cases)} requests at full length\n\n{event_cases.markdown(cases)}\n"
        return text, content


def event_batches(config: RunConfig, data: LiveCommerceData) -> EventBatches:
    """Batches of the training rows of the config's table of events; raises ConfigError for sizes that do not fit."""
    if config.replay.window:
        raise ConfigError(
            f"config.replay.window = {config.replay.window}: replay chooses edges of relations, and this model trains "
            "on a table of events; set it to 0"
        )
    table = data.events[config.model.task_tables[0]]
    rows = live_event_rows(data, table, TRAIN, config.model.features.target)
    columns = EventColumns(data, table.name, roles=(), values=(), features=())
    return EventBatches(columns, rows, config.training.batch_size, (config.seed, _STREAM))


def unknown_lines(unknown: Mapping[str, int], split: str, num_rows: int) -> list[str]:
    """Says how many ids of a split's rows are in no vocabulary, by field: they share the first row of their table."""
    return [
        f"{split}: ids of '{field}' that training does not know, in {num_rows} impressions: {count}"
        for field, count in unknown.items()
        if count
    ]


def log_unknown(run: EventRun, split: str) -> None:
    """Logs the same of a run's split."""
    for line in unknown_lines(run.evaluator.unknown(split), split, len(_split_rows(run, split))):
        logging.info(line)


def _split_rows(run: EventRun, split: str) -> np.ndarray | range:
    rows = event_rows(run.data, run.data.events[run.task], SPLITS[split])
    return range(rows.start, rows.stop) if isinstance(rows, slice) else rows
