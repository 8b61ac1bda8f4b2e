"""Lists of a model of impressions for requests that a file names, whatever their candidates are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.special
from absl import logging

from lsec_jax import ranking
from lsec_jax.config import ConfigError
from lsec_jax.data.request_files import TIME, RequestRows, read_requests
from lsec_jax.data.requests import CANDIDATES, CandidateEvents
from lsec_jax.data.tables import DELIMITERS, PARQUET_SUFFIXES
from lsec_jax.declaration import Declaration
from lsec_jax.schema.blocks import blocks
from lsec_jax.training.event_run import EventRun
from lsec_jax.training.serving import Moment, table_writer
from lsec_jax.training.state import TrainState

# Candidate records that are made at once; they are scored in smaller blocks.
_RECORDS_AT_ONCE = 2**17


def asked_of(run: EventRun, path: Path, at: Moment | None) -> RequestRows:
    """Reads the candidates of a file.

    Args:
        run: prepared.
        path: of the file.
        at: the moment of all candidates; None = the file has their times.

    Raises:
        ConfigError: an ending that is none of a table; a moment that is a date where the data have numbers, or the
            reverse.
        DataError: as `read_requests`; times both in the file and of `at`.
    """
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in (*DELIMITERS, *PARQUET_SUFFIXES):
        raise ConfigError(f"--requests={path}: unknown ending; use one of .csv, .tsv, .parquet")
    data, declaration = run.data, run.encoder.declaration
    if at is not None and at.is_date != data.has_dates:
        found, wanted = ("a date", "numbers") if at.is_date else ("a number", "dates")
        raise ConfigError(f"--at={at.text}: {found}, but this data's times are {wanted}; give the time as they are")
    asked = read_requests(path, data, declaration, None if at is None else at.time)
    if asked.unread:
        logging.info("%s: columns that the model does not read, left out: %s", path, ", ".join(asked.unread))
    return asked


def score_requests(run: EventRun, state: TrainState, asked: RequestRows) -> np.ndarray:
    """The primary task's probability of each candidate, from what was known before its moment, [n] float64.

    Logs which features the file does not give, and what stands for them.

    Raises:
        NanScoreError: a score is not a number.
    """
    declaration = run.encoder.declaration
    records, task = CandidateEvents(run.data, declaration), declaration.labels[0].name
    _log_absent(asked, records, declaration)
    users, targets = asked.roles[declaration.user], asked.roles[declaration.target]
    others = {role: ids for role, ids in asked.roles.items() if role not in (declaration.user, declaration.target)}
    known = {**others, **asked.given}
    scores = np.empty(len(asked), np.float64)
    for block in blocks(len(asked), _RECORDS_AT_ONCE):
        given = {name: column[block] for name, column in known.items()}
        made = records(users[block], targets[block], asked.times[block], given)
        found = run.score(state.params, made.rows, run.encoder.reading(made.data, CANDIDATES))[task]
        if np.isnan(found).any():
            user = int(users[block][np.flatnonzero(np.isnan(found))[0]])
            table = run.data.nodes[run.data.events[declaration.events].nodes[declaration.user].node_type]
            raise ranking.NanScoreError(user, f"{declaration.user} {table.ids[user]}")
        scores[block] = scipy.special.expit(found.astype(np.float64))
    return scores


def _log_absent(asked: RequestRows, records: CandidateEvents, declaration: Declaration) -> None:
    blank = {field.source[1:] for field in declaration.fields if field.name in records.blank_fields}
    if missing := [name for name in asked.absent if name in blank]:
        logging.warning(
            "the requests have no columns of these, which are shown as missing, or as no: %s", ", ".join(missing)
        )
    if stale := [name for name in asked.absent if name not in blank]:
        logging.warning(
            "the requests have no columns of these, which are as in the newest event of the same %s before the "
            "request, of whatever %s, or missing: %s",
            declaration.target,
            declaration.user,
            ", ".join(stale),
        )


def write_requests(run: EventRun, state: TrainState, asked: RequestRows, k: int, output: Path) -> dict[str, int]:
    """Writes the user, the other roles, time, rank (from 1), target and score of the first k of each request.

    Columns of roles have their names. Requests come in the order of their first rows in the file, equal scores in the
    order of the file. Times are numbers, or dates in UTC, as the data's.

    Args:
        run: prepared.
        state: of the model.
        asked: the candidates.
        k: rows at most for a request.
        output: .parquet, .csv or .tsv; it appears when all of it has been written.

    Returns:
        Counts of what was written.

    Raises:
        NanScoreError: as `score_requests`.
    """
    scores = score_requests(run, state, asked)
    order, ranks = ranked(scores, asked.requests, k)
    events, target = run.data.events[run.encoder.declaration.events], run.encoder.declaration.target
    with table_writer(output) as write:
        for block in blocks(len(order), _RECORDS_AT_ONCE):
            rows = order[block]
            names = {
                role: run.data.nodes[events.nodes[role].node_type].ids[ids[rows]] for role, ids in asked.roles.items()
            }
            targets, times = names.pop(target), asked.times[rows]
            if run.data.has_dates:
                times = pa.array(np.round(times * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
            ranked_columns = {"rank": ranks[block], target: targets, "score": scores[rows].astype(np.float32)}
            write(pa.table({**names, TIME: times, **ranked_columns}))
    return {"requests": int(asked.requests.max()) + 1, "candidates": len(asked), "rows": len(order)}


def ranked(scores: np.ndarray, requests: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks candidates within their requests.

    Args:
        scores: [n]; equal ones keep their order.
        requests: numbers from 0 on, each there, [n] int64.
        k: candidates at most of a request.

    Returns:
        The candidates by request and rank, [m] int64; their ranks from 1 on, [m] int32.
    """
    order = np.lexsort((-scores, requests))
    starts = np.cumsum(np.bincount(requests)) - np.bincount(requests)
    ranks = np.arange(1, len(order) + 1) - starts[requests[order]]
    return order[ranks <= k], ranks[ranks <= k].astype(np.int32)
