"""Recommendation lists and vectors of a trained run, in the data's own ids."""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from absl import logging

from lsec_jax.config import ConfigError
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.data.table import DATE_EXAMPLES, LOOKS_LIKE_DATE, parse_dates
from lsec_jax.models.popularity import PopularityScorer
from lsec_jax.ranking import Rankable, top_k
from lsec_jax.schema import TRAIN, DataError, LiveCommerceData
from lsec_jax.scorers import Scorer
from lsec_jax.training.relation_run import RelationRun
from lsec_jax.training.state import TrainState

FORMATS = (".parquet", ".csv", ".tsv")
USERS_AT_ONCE = 16384


def read_users(path: Path) -> np.ndarray:
    """Reads external user ids, one a line; duplicates keep their first place.

    Returns:
        [u] int64 if every line is a plain integer, else strings.

    Raises:
        DataError: if the file is missing, empty, not text, or has an empty line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"--users={path}: no such file") from None
    except OSError as error:
        raise DataError(f"--users={path}: cannot be read ({error.strerror}); give a text file, one id a line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"--users={path}: not a text file ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        raise DataError(f"--users={path}: not a text file (a zero byte at character {text.index(chr(0))})")
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")] if text.strip() else []
    if not lines:
        raise DataError(f"--users={path}: the file is empty; write one user id a line")
    if "" in lines:
        raise DataError(f"--users={path}, row {lines.index('') + 1}: empty line; write one user id a line")
    users = list(dict.fromkeys(lines))
    # 007 is not the integer 7, and no user's id has more digits than int64 holds.
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", user, re.ASCII) for user in users):
        return np.array([int(user) for user in users], np.int64)
    return np.array(users)


@dataclasses.dataclass(frozen=True)
class Moment:
    """What --at says.

    Attributes:
        text: as it was given.
        time: in seconds since 1970 UTC if it is a date, else as it is.
        is_date: whether it is one.
    """

    text: str
    time: float
    is_date: bool


def read_time(text: str) -> Moment:
    """Reads --at as sources read times: a number, or an ISO 8601 date (UTC where it has no zone).

    Raises:
        ConfigError: if it is neither, or not finite and >= 0.
    """
    array = pc.utf8_trim_whitespace(pa.array([text], pa.large_string()))
    is_date = LOOKS_LIKE_DATE.match(text) is not None
    try:
        time = parse_dates(array)[0].value / 1e6 if is_date else array.cast(pa.float64())[0].as_py()
    except pa.ArrowInvalid:
        raise ConfigError(f"--at={text}: neither a number nor an ISO 8601 date {DATE_EXAMPLES}") from None
    if not 0 <= time < math.inf:
        raise ConfigError(f"--at={text}: times are finite and >= 0; give one in the unit of the data")
    return Moment(text, time, is_date)


def offered_at(run: RelationRun, at: Moment) -> np.ndarray:
    """Returns which targets of the primary task are available at a time, [n] bool, and logs how many.

    Raises:
        ConfigError: the data does not say when targets are available, or has dates and this is none, or the reverse.
        DataError: none is available then.
    """
    data, name = run.data, run.data.relations[run.task].target
    spans = check_moment(data, name, at)
    offered = data.availability[name].at(at.time)
    if not offered.any():
        raise DataError(f"--at={at.text}: no {name} is available then; {spans}; give a time between")
    read_as = data.time_text(at.time)
    logging.info("--at=%s (%s): %d of %d %ss available", at.text, read_as, offered.sum(), len(offered), name)
    return offered


def check_moment(data: LiveCommerceData, name: str, at: Moment) -> str:
    """Checks that availability of a node type is known and that a time is of the data's kind.

    Returns:
        When the availability's windows start and end, for messages.

    Raises:
        ConfigError: the data does not say when targets are available, or has dates and this is none, or the reverse.
    """
    availability = data.availability.get(name)
    if availability is None:
        raise ConfigError(
            f"--at={at.text}: this run's data does not say when each {name} is available; give the data source "
            "a file that does (docs/data-formats.md), or leave --at out; of a model of impressions, name candidates in "
            "a file (--requests)"
        )
    spans = f"windows start at {_span(data, availability.start)} and end at {_span(data, availability.end)}"
    if at.is_date != data.has_dates:
        found, wanted = ("a date", "numbers") if at.is_date else ("a number", "dates")
        example = f"date {DATE_EXAMPLES}" if data.has_dates else "number in their unit"
        raise ConfigError(f"--at={at.text}: {found}, but this data's times are {wanted}; {spans}; give a {example}")
    return spans


def _span(data: LiveCommerceData, times: np.ndarray) -> str:
    known = times[np.isfinite(times)]
    return f"{data.time_text(known.min())} to {data.time_text(known.max())}" if len(known) else "an unknown time"


def write_recommendations(
    run: RelationRun,
    state: TrainState,
    users: np.ndarray | None,
    k: int,
    output: Path,
    include_seen: bool,
    offered: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes user_id, rank (from 1), item_id, score, source for each user; blocks of users bound the memory.

    Users unknown to the data, and users without any training edge in the model's relations, get the popularity list and
    source "popularity". Fewer than k rows are written for a user who has fewer items left. The ids are of the data's
    own type; only where the data's ids are integers and some of `users` are not, user_id is text. Of the targets, only
    those `offered` ([n] bool, None = all) are listed.

    Returns:
        Counts of what was written.
    """
    relation = run.data.relations[run.task]
    user_table, item_table = run.data.nodes[relation.source], run.data.nodes[relation.target]
    external = user_table.ids if users is None else users
    if external.dtype.kind != user_table.ids.dtype.kind:
        external = external.astype(np.str_)
    internal = np.arange(len(user_table)) if users is None else user_table.index_of(users)
    k = min(k, len(item_table))
    popularity = PopularityScorer.fit(relation.edges(TRAIN)[1], len(item_table))
    is_known = (internal >= 0) & run.config.model.trained_nodes(run.data, relation.source)[np.maximum(internal, 0)]
    # Row m of the seen lists is empty: it stands for users whom the data does not know.
    bought = csr_from_pairs(relation.source_ids, relation.target_ids, len(user_table) + 1)
    seen = None if include_seen else bought
    model = run.scorer_function()(state)
    counts = {"users": len(external), "users_from_popularity": int((~is_known).sum()), "rows": 0}
    with table_writer(output) as write:
        for start in range(0, len(external), USERS_AT_ONCE):
            block = slice(start, start + USERS_AT_ONCE)
            ids, scores = _lists(run, (model, popularity), internal[block], is_known[block], seen, offered, k)
            keep = ids >= 0
            counts["rows"] += int(keep.sum())
            rows = np.nonzero(keep)[0]
            rank = np.broadcast_to(np.arange(1, ids.shape[1] + 1, dtype=np.int32), ids.shape)
            write(
                pa.table(
                    {
                        "user_id": external[block][rows],
                        "rank": rank[keep],
                        "item_id": item_table.ids[ids[keep]],
                        "score": scores[keep].astype(np.float32),
                        "source": np.where(is_known[block], "model", "popularity")[rows],
                    }
                )
            )
    return counts


def _lists(
    run: RelationRun,
    scorers: tuple[Rankable, Scorer],
    internal: np.ndarray,
    is_known: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray] | None,
    offered: np.ndarray | None,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of the first scorer for known users and of the second for the others."""
    ids = np.full((len(internal), k), -1, np.int64)
    scores = np.full((len(internal), k), -np.inf, np.float32)
    no_user = len(run.data.nodes[run.data.relations[run.task].source])
    user_ids = np.where(internal >= 0, internal, no_user).astype(np.int32)
    for scorer, chosen in zip(scorers, (is_known, ~is_known), strict=True):
        if chosen.any():
            found, values = top_k(scorer, user_ids[chosen], seen, k, run.config.evaluation.block_size, offered)
            ids[chosen, : found.shape[1]], scores[chosen, : found.shape[1]] = found, values
    return ids, scores


@contextlib.contextmanager
def table_writer(output: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yields write(table); the file gets its name only when all of it has been written."""
    temporary = output.with_name(output.name + ".tmp")
    writer = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            if output.suffix == ".parquet":
                writer = pa_parquet.ParquetWriter(temporary, table.schema)
            else:
                options = pa_csv.WriteOptions(delimiter="\t" if output.suffix == ".tsv" else ",")
                writer = pa_csv.CSVWriter(temporary, table.schema, write_options=options)
        writer.write_table(table)

    try:
        yield write
        if writer is not None:
            writer.close()
        os.replace(temporary, output)
    except BaseException:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
        raise


def export_embeddings(run: RelationRun, state: TrainState, directory: Path) -> None:
    """Writes the final vectors (Eq. 7) of each node type as TYPE.npy [n, d] float32 and its ids as TYPE.ids.txt.

    The directory, new or empty, gets its files only when all of them have been written.
    """
    vectors = run.final_vectors(state)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}.", dir=directory.parent) as temporary:
        complete = Path(temporary) / "complete"
        complete.mkdir()
        for node_type, values in vectors.items():
            np.save(complete / f"{node_type}.npy", values, allow_pickle=False)
            ids = "".join(f"{external}\n" for external in run.data.nodes[node_type].ids)
            (complete / f"{node_type}.ids.txt").write_text(ids, encoding="utf-8")
        os.replace(complete, directory)
