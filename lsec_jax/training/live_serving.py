"""Recommendation lists of a model of impressions: for users at a time, of what can be entered then."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.special
from absl import logging

from lsec_jax import ranking
from lsec_jax.config import ConfigError
from lsec_jax.data.request_files import needed_roles
from lsec_jax.data.requests import CANDIDATES, CandidateEvents, live_candidates
from lsec_jax.event_past import pair_keys
from lsec_jax.schema import DataError
from lsec_jax.schema.blocks import blocks
from lsec_jax.training.event_run import EventRun
from lsec_jax.training.serving import Moment, check_moment, table_writer
from lsec_jax.training.state import TrainState

# Candidate records that are made at once; they are scored in smaller blocks.
_RECORDS_AT_ONCE = 2**17


def candidates_at(run: EventRun, at: Moment) -> np.ndarray:
    """Returns the targets that are available at a time, [k] int32, and logs how many: half-open, [start, end).

    Raises:
        ConfigError: the model reads other roles, which only a file can name; the data does not say when targets are
            available, or has dates and this is none, or the reverse.
        DataError: none is available then.
    """
    name, declaration = _target_type(run), run.encoder.declaration
    if others := [role for role in needed_roles(run.data, declaration) if role != run.evaluator.owner]:
        raise ConfigError(
            f"--at={at.text}: '{run.config.model.name}' also reads the {' and the '.join(others)} of an event, which "
            f"nothing tells of a {name} that is only available; name candidates in a file (--requests)"
        )
    check_moment(run.data, name, at)
    found = live_candidates(run.data, name, at.time)
    if not len(found):
        raise DataError(f"--at={at.text}: no {name} is available then; give another time")
    size = len(run.data.nodes[name])
    logging.info("--at=%s (%s): %d of %d %ss available", at.text, run.data.time_text(at.time), len(found), size, name)
    return found


def write_live_recommendations(
    run: EventRun, state: TrainState, users: np.ndarray | None, k: int, output: Path, at: Moment
) -> dict[str, int]:
    """Writes user_id, rank (from 1), TARGET_id, score, source, and is_repeat for each user.

    Candidates are the targets that are available at the moment. The score is the primary task's probability, from what
    was known before the moment: histories end there, and the dynamic context is that of the target's newest event
    before it, as stale as that is; a target without any has none, and scores from its other features. Users whom the
    data does not know get the list by popularity (of the targets' owners until then), source "popularity".
    `is_repeat`: whether the user had a positive with the target's owner (e.g. its streamer) before the moment.

    Args:
        run: prepared.
        state: of the model.
        users: external ids; None = all users.
        k: rows at most for a user.
        output: .parquet, .csv or .tsv; it appears when all of it has been written.
        at: the moment.

    Returns:
        Counts of what was written.

    Raises:
        ConfigError, DataError: as `candidates_at`.
    """
    declaration, data = run.encoder.declaration, run.data
    candidates = candidates_at(run, at)
    events = data.events[declaration.events]
    user_table, target_table = data.nodes[events.nodes[declaration.user].node_type], data.nodes[_target_type(run)]
    external = user_table.ids if users is None else users
    if external.dtype.kind != user_table.ids.dtype.kind:
        external = external.astype(np.str_)
    internal = np.arange(len(user_table)) if users is None else user_table.index_of(users)
    lister = _Lister(run, state, candidates, at)
    if blank := lister.records.blank_fields:
        logging.warning(
            "no event says yet what these fields of an impression will be, which are shown as missing, or as no: %s",
            ", ".join(blank),
        )
    counts = {"users": len(external), "users_from_popularity": int((internal < 0).sum()), "rows": 0}
    with table_writer(output) as write:
        for block in blocks(len(external), max(1, _RECORDS_AT_ONCE // len(candidates))):
            ids = internal[block]
            scores = lister.scores(ids)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows, chosen = np.repeat(np.arange(len(ids)), order.shape[1]), order.ravel()
            write(
                pa.table(
                    {
                        "user_id": external[block][rows],
                        "rank": np.tile(np.arange(1, order.shape[1] + 1, dtype=np.int32), len(ids)),
                        f"{declaration.target}_id": target_table.ids[candidates[chosen]],
                        "score": scores[rows, chosen].astype(np.float32),
                        "source": np.where(ids[rows] >= 0, "model", "popularity"),
                        "is_repeat": lister.is_repeat(ids[rows], chosen),
                    }
                )
            )
            counts["rows"] += len(rows)
    return counts


class _Lister:
    """Scores of the candidates of one moment."""

    def __init__(self, run: EventRun, state: TrainState, candidates: np.ndarray, at: Moment):
        self._run, self._params, self._candidates, self._time = run, state.params, candidates, at.time
        declaration = run.encoder.declaration
        self._task = declaration.labels[0].name
        self._users = run.data.nodes[run.data.events[declaration.events].nodes[declaration.user].node_type]
        self.records = CandidateEvents(run.data, declaration)
        self._past, self._num_owners = run.evaluator.past, run.evaluator.num_owners
        made = self.records(np.zeros(len(candidates), np.int32), candidates, np.full(len(candidates), self._time))
        self._owners = made.data.events[CANDIDATES].ids(run.evaluator.owner)[made.rows].astype(np.int64)

    def scores(self, user_ids: np.ndarray) -> np.ndarray:
        """[u] internal indices, -1 = unknown -> [u, candidates] float64; of unknown ones the owners' popularity."""
        times = np.full(len(self._candidates), self._time)
        popularity = np.where(self._owners >= 0, self._past.owner_watches.count(self._owners, times), 0)
        scores = np.broadcast_to(popularity, (len(user_ids), len(times))).astype(np.float64)
        known = user_ids >= 0
        if known.any():
            pairs = np.repeat(user_ids[known], len(times)), np.tile(self._candidates, known.sum())
            made = self.records(*pairs, np.full(len(pairs[0]), self._time))
            found = self._run.score(self._params, made.rows, self._run.encoder.reading(made.data, CANDIDATES))
            if np.isnan(found[self._task]).any():
                user = int(pairs[0][np.flatnonzero(np.isnan(found[self._task]))[0]])
                name = self._run.encoder.declaration.user
                raise ranking.NanScoreError(user, f"{name} {self._users.ids[user]}")
            scores[known] = scipy.special.expit(found[self._task].astype(np.float64)).reshape(-1, len(times))
        return scores

    def is_repeat(self, user_ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Whether users [n] had a positive with the owners of candidates (positions, [n]) before the moment."""
        owners = self._owners[chosen]
        is_known = (user_ids >= 0) & (owners >= 0)
        keys = pair_keys(np.maximum(user_ids, 0), np.maximum(owners, 0), self._num_owners)
        return (self._past.pair_watches.count(keys, np.full(len(keys), self._time)) > 0) & is_known


def _target_type(run: EventRun) -> str:
    declaration = run.encoder.declaration
    return run.data.events[declaration.events].nodes[declaration.target].node_type
