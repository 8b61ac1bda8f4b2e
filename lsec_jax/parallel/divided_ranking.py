"""Ranking on several devices: the users of a block are divided over them, and the targets as the tables are.

The devices that share the tables work on the same users: each scores its own targets and keeps the best of them, and
all choose among these. No device has all scores of a user, and no vectors but those of a block's users are sent.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsec_jax.nn import replicas
from lsec_jax.nn.divided_graphs import filled_up
from lsec_jax.parallel.strategies import Part, Strategy
from lsec_jax.ranking import Masked, Result
from lsec_jax.scorers import NodeScorer


class DividedRanking:
    """A strategy's compiled functions of blocks, which serve every scorer of one model."""

    def __init__(self, strategy: Strategy, num_targets: int):
        """Takes the number of targets without the rows that fill up the last part."""
        self.strategy, self._num_targets = strategy, num_targets
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def of(self, scorer: NodeScorer) -> "DividedRanker":
        """The ranker of a scorer whose arrays are where the strategy has them."""
        return DividedRanker(self, scorer)

    def all_targets(self, function: "functools.partial[Result]") -> Callable[..., Result]:
        """Compiles (scorer, (ids [b], *by_user), masked, offered) -> a block's results, whole on every device.

        Args:
            function: (scores [b, n], *by_user, masked, offered) -> results; compiled once for equal ones.
        """

        def rank(scorer: Any, rows: Any, masked: Any, offered: Any) -> Any:
            ids, *by_user = replicas.rows_of_group(rows)
            scores = scorer.score_all(ids)
            scores = jnp.where(replicas.global_ids(scores.shape[1]) < self._num_targets, scores, -jnp.inf)
            own = replicas.places_in_group(masked[0], len(ids)), masked[1]
            return replicas.rows_of_all_groups(function(scores, *by_user, own, offered))

        return self._once(rank, function, [Part.SCORER, Part.ROWS, Part.REPLICATED, Part.NODES])

    def pairs(self, function: "functools.partial[Result]") -> Callable[..., Result]:
        """Compiles (scorer, (ids [b], target_ids [b, k], *by_user)) -> a block's results, whole on every device.

        Args:
            function: (scores [b, k], *by_user) -> results; compiled once for equal ones.
        """

        def rank(scorer: Any, rows: Any) -> Any:
            ids, target_ids, *by_user = replicas.rows_of_group(rows)
            return replicas.rows_of_all_groups(function(scorer.score_pairs(ids, target_ids), *by_user))

        return self._once(rank, function, [Part.SCORER, Part.ROWS])

    def _once(
        self, rank: Callable[..., Any], function: "functools.partial[Result]", arguments: list[Part]
    ) -> Callable[..., Any]:
        key = function.func, *function.args, *sorted(function.keywords.items())
        if key not in self._compiled:
            self._compiled[key] = self.strategy.compile(rank, arguments, [Part.REPLICATED])
        return self._compiled[key]


class DividedRanker:
    """A `ranking.Ranker` on several devices.

    Attributes:
        scorer: its arrays with a row per node end with rows that fill up the last part.
        users_together: the number of devices, which share a block's users.
    """

    def __init__(self, ranking: DividedRanking, scorer: NodeScorer):
        self._ranking, self.scorer = ranking, scorer
        self._strategy = ranking.strategy
        self.users_together = self._strategy.num_replicas

    def place(self, offered: np.ndarray | None) -> Any:
        """Divides which targets are ranked, [n] bool or None, as the targets are."""
        if offered is None:
            return None
        return self._strategy.place(filled_up(offered, self._strategy.num_shards), Part.NODES)

    def rank_all(
        self, function: "functools.partial[Result]", ids: np.ndarray, by_user: Any, masked: Masked, offered: Any
    ) -> Result:
        """Ranks all targets for a block of users."""
        rows, pairs = self._strategy.place((ids, *by_user), Part.ROWS), self._strategy.place(masked, Part.REPLICATED)
        return self._strategy.whole(self._ranking.all_targets(function)(self.scorer, rows, pairs, offered))

    def rank_pairs(
        self, function: "functools.partial[Result]", ids: np.ndarray, target_ids: np.ndarray, by_user: Any
    ) -> Result:
        """Ranks a block of users' candidates; every device looks at all of its group's pairs."""
        rows = self._strategy.place((ids, target_ids, *by_user), Part.ROWS)
        return self._strategy.whole(self._ranking.pairs(function)(self.scorer, rows))
