"""Sequences, as SASRec's descendants publish them: a line is a user and the items, in the order of time.

    Beauty.txt    1 1 2 3 4 5
                  2 6 7 8 9 10 4 11

Ids are integers or text, and every user has one line. There are no times, so an interaction's time is its position in
the user's line, from 0: it orders the interactions of one user, and says nothing about who came first of two users.

The split is leave-one-out: the last item tests, the one before it validates, the rest trains. Users with fewer than
three interactions train only, and are counted. Events "interaction" keep a repeated item, the relation keeps its first
occurrence; a test item that the user had before therefore trains and does not test, and is counted.
"""

import dataclasses
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa

from lsec_jax.data import files
from lsec_jax.data.files import expand_path
from lsec_jax.data.ids import IdColumn, build_nodes, distinct_pairs
from lsec_jax.data.table import Table
from lsec_jax.schema import (
    NAME_RULE,
    TEST,
    TRAIN,
    VALIDATION,
    DataError,
    EventNodes,
    Events,
    LiveCommerceData,
    Relation,
    is_name,
)

EVENTS = "interaction"
MIN_INTERACTIONS = 3  # one each to train, validate and test
_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(b" \t\r\n")] = True


@dataclasses.dataclass
class Config:
    """Reads one file.

    Attributes:
        path: the file; `~` and `${VARIABLES}` are expanded, its `.gz` neighbour is found too.
        name: of the data set, for reports; "" = the file's name without extensions.
        relation: the relation's name.
    """

    path: str = ""
    name: str = ""
    relation: str = "interact"

    def load(self) -> LiveCommerceData:
        """Reads the sequences; raises DataError naming file, line and token."""
        if not is_name(self.relation):
            raise DataError(f"config key data.relation = {self.relation!r}: {NAME_RULE}")
        path = files.find_file(expand_path(self.path))
        users, items, lengths = _read_lines(path)
        nodes, (line_users, item_ids) = build_nodes([("user", users), ("item", items)])
        counts = _counts(self.relation, lengths)
        user_ids = np.repeat(line_users, lengths)
        position = np.arange(len(item_ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        split = _leave_one_out(position, np.repeat(lengths, lengths))
        time = position.astype(np.float64)
        keep = distinct_pairs(self.relation, user_ids, item_ids, split, time, counts)
        relation = Relation(
            self.relation, "user", "item", user_ids[keep], item_ids[keep], time=time[keep], split=split[keep]
        )
        roles = {"user": EventNodes("user", user_ids), "item": EventNodes("item", item_ids)}
        events = Events(EVENTS, roles, time, split=split).take(np.argsort(time, kind="stable"))
        return LiveCommerceData(
            self.name or path.name.partition(".")[0],
            nodes,
            {self.relation: relation},
            counts=counts,
            events={EVENTS: events},
        )


@dataclasses.dataclass(frozen=True)
class _Tokens(Table):
    """One column of tokens, each of which has its own line and place there, both from 0."""

    line: np.ndarray = dataclasses.field(kw_only=True)
    place: np.ndarray = dataclasses.field(kw_only=True)

    def fail(self, row: int, column: str | int, problem: str) -> NoReturn:
        place = f"line {self.line[row] + 1}, token {self.place[row] + 1}"
        raise DataError(f"{self.path}, {place} ({column}): {problem}")


def _read_lines(path: Path) -> tuple[IdColumn, IdColumn, np.ndarray]:
    """Returns (users, one per line; items, line after line; [lines] numbers of items). No loop over tokens or lines."""
    data = files.read_text(path)
    raw = np.frombuffer(data, np.uint8)
    is_token = ~_IS_SPACE[raw]
    edges = np.diff(is_token.view(np.int8), prepend=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # the last byte is a newline
    line = np.cumsum(raw == ord("\n"))[starts]
    is_user = np.diff(line, prepend=-1) != 0
    first = np.flatnonzero(is_user)
    if len(first) < data.count(files.NEWLINE):
        number = int(np.flatnonzero(np.append(line[first], -1) != np.arange(len(first) + 1))[0])
        raise DataError(f"{path}, line {number + 1}: a blank line; a line is 'user item item ...'; remove it")
    offsets = np.append(0, np.cumsum(ends - starts))
    tokens = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(raw[is_token]))
    try:
        tokens.validate(full=True)
    except pa.ArrowInvalid:
        files.check_utf_8(path, data)
        raise
    place = np.arange(len(starts)) - first[line]
    columns = {
        name: _Tokens(path, {name: tokens.filter(pa.array(rows))}, 1, "line", line=line[rows], place=place[rows])
        for name, rows in (("user", is_user), ("item", ~is_user))
    }
    if not len(columns["item"]):
        raise DataError(f"{path}: no line has an item; a line is 'user item item ...'")
    users = columns["user"].ids("user")
    _check_once(columns["user"], users)
    return users, columns["item"].ids("item"), np.diff(np.append(first, len(starts))) - 1


def _check_once(table: _Tokens, users: IdColumn) -> None:
    """Raises DataError where a user has two lines: no order is known between them."""
    if len(users.values) == len(users.codes):
        return
    first = np.unique(users.codes, return_index=True)[1]
    row = int(np.setdiff1d(np.arange(len(users.codes)), first)[0])
    table.fail(
        row,
        "user",
        f"{users.values[users.codes[row]]} is the user of line {first[users.codes[row]] + 1} too; put all items of a "
        "user on one line, in the order of time",
    )


def _leave_one_out(position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Split codes, [e] int8, of interactions at a position of sequences of a length, both [e]."""
    left, is_split = length - position, length >= MIN_INTERACTIONS
    split = np.full(len(position), TRAIN, np.int8)
    split[is_split & (left == 1)] = TEST
    split[is_split & (left == 2)] = VALIDATION
    return split


def _counts(relation: str, lengths: np.ndarray) -> dict[str, int]:
    found = {
        "lines without items": int((lengths == 0).sum()),
        f"users with 1 to {MIN_INTERACTIONS - 1} interactions, which all train": int(
            ((lengths > 0) & (lengths < MIN_INTERACTIONS)).sum()
        ),
    }
    return {f"{relation}: {text}": count for text, count in found.items() if count}
