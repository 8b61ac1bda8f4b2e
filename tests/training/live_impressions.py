"""The live world's impressions with their answers, and evaluators of them; shared by tests."""

import dataclasses

import numpy as np

from lsec_jax.config import LIVE_BASELINES, EvaluationConfig, SplitConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.declaration import Declaration, Field, Label
from lsec_jax.training.event_evaluation import ImpressionEvaluator
from tests.data.live_world.live_worlds import loaded

CONFIG = EvaluationConfig(cutoffs=(1, 3, 10), baselines=LIVE_BASELINES)
LABELS = (
    Label("watched", "watched"),
    Label("stay", "stay_seconds", "regression", "log1p", only_if="watched"),
    Label("bag", "goods_bag_click", only_if="watched"),
)


class Answers:
    """Answers of the live world's impressions, and ids of rooms that are not in training."""

    def __init__(self, data, labels=LABELS):
        self.declaration = Declaration(fields=(Field("room", "room", "target"),), labels=labels)
        self._events = data.events["impression"]
        self._known = np.unique(self._events.ids("room")[self._events.split == 0])

    def answers(self, rows):
        events = self._events
        watched = events.value("watched")[rows]
        columns = [watched, np.log1p(events.value("stay_seconds")[rows]), events.value("goods_bag_click")[rows]]
        columns[1:] = [np.where(watched, column, np.nan) for column in columns[1:]]
        return np.stack(columns[: len(self.declaration.labels)], axis=1).astype(np.float32)

    def unknown(self, rows):
        return {"room": int((~np.isin(self._events.ids("room")[rows], self._known)).sum())}


def split_world():
    return assign_splits(loaded(), SplitConfig(method="time"), ["buy"])


def evaluator_of(data, config=CONFIG, labels=LABELS):
    return ImpressionEvaluator(data, Answers(data, labels), config)


def scores_of(rows, seed=0):
    """Scores that depend on the row alone, with ties."""
    uniform = np.random.default_rng(seed).random((3, 50_000))[:, rows].astype(np.float32)
    return {"watched": np.round(uniform[0], 2), "stay": 5 * uniform[1], "bag": uniform[2]}


def with_column(data, **changes):
    impression = dataclasses.replace(data.events["impression"], **changes)
    return data.replace(events={**data.events, "impression": impression})
