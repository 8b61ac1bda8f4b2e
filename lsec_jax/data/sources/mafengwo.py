"""Mafengwo: groups of travellers and the places they go to, as released with ConsRec (WWW 2023); ids are numbers.

    groupRatingTrain.txt      group place             groupRatingTest.txt likewise, one line per group
    groupRatingNegative.txt   (group,place) place place ...    the test pair of the same line, and its negatives
    userRatingTrain.txt, userRatingTest.txt, userRatingNegative.txt    the same for users
    groupMember.txt           group user,user,...     lists all groups and users

Relations: `group_place` and `user_place` with the given split and candidate lists for test, and `member` (group to
user), which all trains. There is no validation part. Some of the released negatives are no negatives: the positive
itself, a training positive, or a place twice. `data.counts` says in how many lists, and `Config.negatives` what is done
about it.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.config import ConfigError, require_choice
from lsec_jax.data import candidates, csr, delimited, files, tables
from lsec_jax.data.ids import IdColumn, build_nodes
from lsec_jax.data.listed import ListedNodes, read_relation
from lsec_jax.data.splits import hold_out
from lsec_jax.data.table import Table
from lsec_jax.schema import TEST, TRAIN, Candidates, DataError, LiveCommerceData, NodeTable, Relation

MEMBER_FILE = "groupMember.txt"
RATED = ("group", "user")
NUMBER = r"(?:0|[1-9][0-9]{0,17})"  # an id: what int64 holds, as Python prints it


@dataclasses.dataclass
class Config:
    """Reads the released files.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        negatives: of the candidate lists: "published" as released, with the positive first; or "cleaned", where
            negatives that are none give way to places drawn evenly from those that the group (or user) has in no split
            and not in the list; as many, sorted by id.
        validation_fraction: share of every group's training pairs held out at random to choose settings by, in [0, 1);
            0 = none, as published, and then the validation split is empty. Each group keeps at least one training pair.
        seed: of the replacements and the held-out pairs.
        name: of the data set, for reports; "" = the directory's name.
    """

    path: str = ""
    negatives: str = "published"
    validation_fraction: float = 0.0
    seed: int = 0
    name: str = ""

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        require_choice("config.data.negatives", self.negatives, ("published", "cleaned"))
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ConfigError(f"config.data.validation_fraction = {self.validation_fraction}; must be in [0, 1)")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"config.data.seed = {self.seed}; give a whole number in [0, 2**32)")

    def load(self) -> LiveCommerceData:
        """Reads everything; raises DataError naming file, line and column, ConfigError as `validate`."""
        self.validate()
        root = files.expand_path(self.path)
        ends, members = _read_members(root / MEMBER_FILE)
        rated = {(end, split): _read_ratings(root, end, split) for end in RATED for split in (TRAIN, TEST)}
        places = build_nodes(("place", table.ids("place")) for table in rated.values())[0]["place"]
        ends["place"] = ListedNodes(places, "the rating files")
        counts: dict[str, int] = {}
        relations, lists = {"member": members}, {}
        for i, end in enumerate(RATED):
            parts = {split: rated[end, split] for split in (TRAIN, TEST)}
            relation = read_relation(f"{end}_place", (ends[end], ends["place"]), parts, (end, "place"), counts)
            _check_held_out(parts, (ends[end], ends["place"]), relation)
            published = _read_lists(root / f"{end}RatingNegative.txt", ends[end], ends["place"], parts[TEST])
            is_bad = _collisions(published, relation, len(places), counts)
            if self.negatives == "cleaned":
                rng = np.random.default_rng([self.seed, i])
                published = _clean(published, is_bad, relation, (ends[end].nodes, places), rng, self.seed)
            lists[relation.name, TEST] = published
            relations[relation.name] = relation
        if self.validation_fraction:
            relations["group_place"] = _with_validation(relations["group_place"], self.validation_fraction, self.seed)
        nodes = {name: end.nodes for name, end in ends.items()}
        return LiveCommerceData(self.name or root.resolve().name, nodes, relations, lists, counts=counts)


def _read_members(path: Path) -> tuple[dict[str, ListedNodes], Relation]:
    """Returns the groups and users, and who is in which group."""
    columns, expected = ("group", "members"), "a line is 'group user,user,...', one space between"
    table = tables.read_table(path, columns, delimiter=" ", column_names=columns, expected=expected)
    _require_numbers(table, "group")
    groups = table.unique_ids("group")
    texts = table.columns["members"]
    is_list = pc.match_substring_regex(texts, rf"^{NUMBER}(,{NUMBER})*$").to_numpy(zero_copy_only=False)
    if not is_list.all():
        row = int(np.flatnonzero(~is_list)[0])
        shown = files.quote(texts[row].as_py())
        table.fail(row, "members", f"{shown} is not a list of user numbers 'user,user,...'; correct the row")
    split = pc.split_pattern(texts, ",")
    users = pc.list_flatten(split).cast(pa.int64()).to_numpy()
    sizes = pc.list_value_length(split).to_numpy()
    values, codes = np.unique(users, return_inverse=True)
    nodes, (user_ids, group_ids) = build_nodes(
        [("user", IdColumn(values, codes)), ("group", IdColumn(groups, np.repeat(np.arange(len(groups)), sizes)))]
    )
    keys = np.unique(group_ids.astype(np.int64) * len(values) + user_ids)
    member = Relation(
        "member", "group", "user", (keys // len(values)).astype(np.int32), (keys % len(values)).astype(np.int32)
    )
    return {name: ListedNodes(nodes[name], path.name) for name in ("group", "user")}, member


def _read_ratings(root: Path, end: str, split: int) -> Table:
    path, columns = root / f"{end}Rating{'Train' if split == TRAIN else 'Test'}.txt", (end, "place")
    expected = f"a line is '{end} place', one space between"
    table = tables.read_table(path, columns, delimiter=" ", column_names=columns, has_quotes=False, expected=expected)
    _require_numbers(table, "place")  # places are listed nowhere; the other column's ids are, in MEMBER_FILE
    return table


def _require_numbers(table: Table, column: str) -> None:
    """Refuses a column of ids with one that is no number: as text, all of them would be in another order."""
    found = table.ids(column)
    if found.values.dtype.kind == "i":
        return
    is_number = np.array([re.fullmatch(NUMBER, value) is not None for value in found.values])
    row = int(np.flatnonzero(~is_number[found.codes])[0])
    shown = files.quote(str(found.values[found.codes[row]]))
    table.fail(row, column, f"{column} {shown} is no number (plain digits, 18 at most); correct the row")


def _check_held_out(parts: Mapping[int, Table], ends: tuple[ListedNodes, ListedNodes], relation: Relation) -> None:
    """Refuses a test pair that is a training pair too: the relation has it once, in training."""
    source_ids, target_ids = ends[0].indices(parts[TEST], relation.source), ends[1].indices(parts[TEST], "place")
    trained = set(zip(*(ids.tolist() for ids in relation.edges(TRAIN)), strict=True))
    for row, pair in enumerate(zip(source_ids.tolist(), target_ids.tolist(), strict=True)):
        if pair in trained:
            problem = f"this pair is in {parts[TRAIN].path.name} too; take it out of one of the files"
            parts[TEST].fail(row, "place", problem)


def _read_lists(path: Path, source: ListedNodes, places: ListedNodes, positives: Table) -> Candidates:
    """Reads the candidate lists, each the positive and then the negatives; the lines follow those of the test file."""
    expected = f"a line is '({source.nodes.name},place) place place ...', one space between"
    first = delimited.header_of(path, " ", has_quotes=False)
    if len(first) < 2 or "" in first:
        problem = "two spaces together, or one at the line's end" if "" in first else "no negatives"
        raise DataError(f"{path}, line 1: {problem}; {expected}")
    names = ("positive", *(f"negative {i}" for i in range(1, len(first))))
    table = tables.read_table(path, names, delimiter=" ", column_names=names, has_quotes=False, expected=expected)
    if len(table) != len(positives):
        raise DataError(
            f"{path}: {len(table)} lines, but {positives.path.name} has {len(positives)}; give one line for each pair"
        )
    texts = (pc.utf8_trim_whitespace(positives.columns[name]) for name in (source.nodes.name, "place"))
    open_mark, comma, close_mark, nothing = (pa.scalar(mark, pa.large_string()) for mark in ("(", ",", ")", ""))
    expected = pc.binary_join_element_wise(open_mark, next(texts), comma, next(texts), close_mark, nothing)
    differs = np.flatnonzero(pc.not_equal(table.columns["positive"], expected).to_numpy(zero_copy_only=False))
    if len(differs):
        row = int(differs[0])
        found = files.quote(table.columns["positive"][row].as_py())
        table.fail(row, "positive", f"{found} is not {expected[row]}, the pair of this line of {positives.path.name}")
    source_ids = source.indices(positives, source.nodes.name)
    repeated = np.setdiff1d(np.arange(len(source_ids)), np.unique(source_ids, return_index=True)[1])
    if len(repeated):
        positives.fail(int(repeated[0]), source.nodes.name, "occurs twice; a candidate list needs one line for each")
    columns = [places.indices(positives, "place"), *(places.indices(table, name) for name in names[1:])]
    target_ids = np.stack(columns, axis=1)
    labels = np.zeros(target_ids.shape, bool)
    labels[:, 0] = True
    return Candidates(source_ids, target_ids, labels, f"published ({path.name})")


def _collisions(lists: Candidates, relation: Relation, num_places: int, counts: dict[str, int]) -> np.ndarray:
    """Finds the candidates that are no negatives although they should be, [b, k] bool, and counts their lists."""
    order = np.argsort(lists.target_ids, axis=1, kind="stable")  # the positive, at place 0, is the first of its equals
    ordered = np.take_along_axis(lists.target_ids, order, axis=1)
    repeats = np.zeros(order.shape, bool)
    np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    is_positive = repeats & (lists.target_ids == lists.target_ids[:, :1])
    keys = lists.source_ids[:, None].astype(np.int64) * num_places + lists.target_ids
    known = np.sort(relation.source_ids.astype(np.int64) * num_places + relation.target_ids)
    # What else is an edge is one of training: each source node has one test pair.
    is_trained = csr.contains(known, keys.ravel()).reshape(keys.shape) & (lists.target_ids != lists.target_ids[:, :1])
    for problem, found in (
        ("the positive itself", is_positive),
        ("a training positive", is_trained),
        ("a place twice", repeats & ~is_positive),
    ):
        counts[f"{relation.name}: test lists whose negatives hold {problem}"] = int(found.any(axis=1).sum())
    return repeats | is_trained


def _clean(
    lists: Candidates,
    is_bad: np.ndarray,
    relation: Relation,
    nodes: tuple[NodeTable, NodeTable],
    rng: np.random.Generator,
    seed: int,
) -> Candidates:
    """Draws new places for the bad candidates."""
    num_rows, length = lists.target_ids.shape
    num_places = len(nodes[1])
    indptr, bought = csr.csr_from_pairs(relation.source_ids, relation.target_ids, len(nodes[0]))
    sizes = np.diff(indptr)[lists.source_ids]
    if (short := np.flatnonzero(num_places - sizes + 1 < length)).size:
        name = nodes[0].ids[lists.source_ids[short[0]]]
        raise DataError(
            f"config.data.negatives = 'cleaned': {relation.source} {name} has only {num_places - sizes[short[0]]} "
            f"places to draw {length - 1} negatives from; use 'published'"
        )
    rows = np.arange(num_rows, dtype=np.int64)
    keys = rows[:, None] * num_places + lists.target_ids
    own = np.repeat(rows, sizes) * num_places + bought[csr.expand_ranges(indptr[lists.source_ids], sizes)]
    kept = np.sort(keys[~is_bad])
    taken = np.unique(np.concatenate([own, kept]))
    filled = candidates.fill_lists(rng, num_rows, length, num_places, np.arange(num_places), taken, kept)
    filled = filled.reshape(num_rows, length)
    origin = f"{lists.origin}, cleaned: {is_bad.sum()} collisions replaced, seed {seed}"
    return Candidates(lists.source_ids, (filled % num_places).astype(np.int32), filled == keys[:, :1], origin)


def _with_validation(relation: Relation, fraction: float, seed: int) -> Relation:
    assert relation.split is not None
    return dataclasses.replace(relation, split=hold_out(relation.source_ids, relation.split, fraction, seed))
