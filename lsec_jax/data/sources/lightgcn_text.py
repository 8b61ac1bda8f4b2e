"""The text format of the LightGCN and NGCF benchmarks: a line is a user and the items, all integers >= 0.

    train.txt     0 17 4 250        user 0 has items 17, 4 and 250
    test.txt      0 3 99

`.gz` files are found too. Where user_list.txt and item_list.txt exist (header, then `org_id remap_id` a line), they
name the external ids and all nodes; else the numbers in the files are the external ids. A user's item is kept once
and the others are counted, and so are validation and test pairs that are also in an earlier split: training keeps them.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data import ids, tables
from lsec_jax.data.files import expand_path, find_file, read_text
from lsec_jax.data.splits import hold_out
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError, LiveCommerceData, NodeTable, Relation

_IS_DIGIT = np.zeros(256, bool)
_IS_DIGIT[list(b"0123456789")] = True
_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(b" \t\r\n")] = True
MAX_DIGITS = 10  # of an id: enough for int32, which the indices are


@dataclasses.dataclass
class Config:
    """Reads one relation in LightGCN's text format.

    Attributes:
        path: directory of the files; `~` and `${VARIABLES}` are expanded.
        relation: the relation's name.
        source: node type of a line's first number.
        target: node type of the other numbers.
        train_file, test_file: inside `path`.
        validation_file: inside `path`; "" = none.
        validation_fraction: share of every source's training pairs held out at random for early stopping, in [0, 1);
            0 = none, as in LightGCN's protocol, and then the validation split is empty. Each source keeps at least one
            training pair. Only without validation_file.
        seed: of the held-out pairs.
        name: of the data set, for reports; "" = the directory's name.
    """

    path: str = ""
    relation: str = "buy"
    source: str = "user"
    target: str = "item"
    train_file: str = "train.txt"
    test_file: str = "test.txt"
    validation_file: str = ""
    validation_fraction: float = 0.0
    seed: int = 0
    name: str = ""

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ConfigError(f"data.validation_fraction = {self.validation_fraction}; must be in [0, 1)")
        if self.validation_fraction and self.validation_file:
            raise ConfigError("data.validation_fraction and data.validation_file are both given; keep one of them")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data.seed = {self.seed}; give a whole number in [0, 2**32)")

    def load(self) -> LiveCommerceData:
        """Reads the files; raises DataError naming file, line and token, ConfigError as `validate`."""
        self.validate()
        root = expand_path(self.path)
        files = {TRAIN: self.train_file, VALIDATION: self.validation_file, TEST: self.test_file}
        parts = {split: _parse(root / file) for split, file in files.items() if file}
        counts: dict[str, int] = {}
        if without := sum(part.num_without_targets for part in parts.values()):
            counts[f"{self.relation}: lines without {self.target} ids"] = without
        source_table = _nodes(self.source, root / f"{self.source}_list.txt", list(parts.values()), 0)
        target_table = _nodes(self.target, root / f"{self.target}_list.txt", list(parts.values()), 1)
        source_numbers, target_numbers = (np.concatenate([part.pairs[i] for part in parts.values()]) for i in (0, 1))
        split = np.concatenate([np.full(len(part.pairs[0]), code, np.int8) for code, part in parts.items()])
        source_ids = source_table.by_number[source_numbers]
        target_ids = target_table.by_number[target_numbers]
        keep = ids.distinct_pairs(self.relation, source_ids, target_ids, split, None, counts)
        source_ids, target_ids, split = source_ids[keep], target_ids[keep], split[keep]
        if self.validation_fraction:
            split = hold_out(source_ids, split, self.validation_fraction, self.seed)
        relation = Relation(self.relation, self.source, self.target, source_ids, target_ids, split=split)
        nodes = {self.source: source_table.nodes, self.target: target_table.nodes}
        return LiveCommerceData(self.name or root.resolve().name, nodes, {self.relation: relation}, counts=counts)


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """One file: `pairs` = (source numbers, target numbers), `sources` = every line's first number."""

    path: Path
    pairs: tuple[np.ndarray, np.ndarray]
    sources: np.ndarray
    num_without_targets: int


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A node table, and the internal index of each number in the files (-1 where unused), [largest number + 1]."""

    nodes: NodeTable
    by_number: np.ndarray


def _parse(path: Path) -> _Parsed:
    """Parses all numbers at once; a line's first number is the source of the others."""
    path = find_file(path)
    raw = np.frombuffer(read_text(path), np.uint8)
    is_digit = _IS_DIGIT[raw]
    bad = np.flatnonzero(~(is_digit | _IS_SPACE[raw]))
    if len(bad):
        _refuse(path, raw, int(bad[0]), "is not an integer >= 0; a line is 'user item item ...'")
    edges = np.diff(is_digit.astype(np.int8), prepend=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # the last byte is a newline
    long = np.flatnonzero(ends - starts > MAX_DIGITS)
    if len(long):
        _refuse(path, raw, int(starts[long[0]]), "is too large for an id; renumber the ids from 0")
    # Horner over digit positions: at most MAX_DIGITS passes, all numbers at once.
    numbers = np.zeros(len(starts), np.int64)
    for i in range(int((ends - starts).max())):
        inside = starts + i < ends
        digits = raw[np.minimum(starts + i, len(raw) - 1)].astype(np.int64) - ord("0")
        numbers = np.where(inside, numbers * 10 + digits, numbers)
    large = np.flatnonzero(numbers > 100_000_000)
    if len(large):
        _refuse(path, raw, int(starts[large[0]]), "is too large for an id; renumber the ids from 0")
    line = np.cumsum(raw == ord("\n"))[starts]
    is_first = np.diff(line, prepend=-1) != 0
    per_line = np.diff(np.append(np.flatnonzero(is_first), len(numbers)))
    sources = numbers[is_first]
    pairs = (np.repeat(sources, per_line - 1), numbers[~is_first])
    if not len(pairs[0]):
        raise DataError(f"{path}: no line has an item; a line is 'user item item ...'")
    return _Parsed(path, pairs, sources, int((per_line == 1).sum()))


def _refuse(path: Path, raw: np.ndarray, position: int, problem: str) -> None:
    """Raises DataError for the token at a byte position."""
    data = raw.tobytes()
    start = data.rfind(b"\n", 0, position) + 1
    line = data[start : data.find(b"\n", position)]
    number = data.count(b"\n", 0, start) + 1
    before = data[start:position].split()
    is_new = position == start or data[position - 1 : position].isspace()
    index = len(before) if is_new else len(before) - 1
    token = line.split()[index].decode(errors="replace")
    raise DataError(f"{path}, line {number}, token {index + 1}: '{token[:40]}' {problem}")


def _nodes(name: str, list_path: Path, parts: list[_Parsed], end: int) -> _Numbered:
    """Builds a node table from its list file, else from the numbers that occur."""
    used = np.concatenate([numbers for part in parts for numbers in ((part.pairs[1],) if end else (part.sources,))])
    if not any(map(os.path.exists, (list_path, list_path.with_name(list_path.name + ".gz")))):
        numbers = np.flatnonzero(np.bincount(used))
        by_number = np.full(numbers[-1] + 1, -1, np.int32)
        by_number[numbers] = np.arange(len(numbers))
        return _Numbered(NodeTable(name, numbers), by_number)
    expected = "the first line is the header 'org_id remap_id', one space between"
    table = tables.read_table(list_path, ["org_id", "remap_id"], delimiter=" ", has_quotes=False, expected=expected)
    rule = f"; remap_id must hold every number of 0..{len(table) - 1} once; correct the file"
    listed, numbers = table.unique_ids("org_id"), table.integers("remap_id", len(table), rule)
    position = np.argsort(numbers, kind="stable")
    repeated = position[1:][np.diff(numbers[position]) == 0]
    if len(repeated):
        row = int(repeated.min())
        table.fail(row, "remap_id", f"{numbers[row]} occurs twice{rule}")
    if used.max() >= len(listed):
        _refuse_unlisted(parts, end, len(listed), table.path)
    return _Numbered(NodeTable(name, listed[position]), np.arange(len(listed), dtype=np.int32))


def _refuse_unlisted(parts: list[_Parsed], end: int, size: int, list_path: Path) -> None:
    """Raises DataError for the first number that the list file does not have."""
    for part in parts:
        raw = read_text(part.path)
        for number, line in enumerate(raw.splitlines(), 1):
            for index, token in enumerate(line.split()):
                if (index > 0) == bool(end) and int(token) >= size:
                    raise DataError(
                        f"{part.path}, line {number}, token {index + 1}: {int(token)} is not in {list_path.name}, "
                        f"which ends at {size - 1}; add it there, or remove the list file"
                    )
