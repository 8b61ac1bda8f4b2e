"""Trees of scenarios from interaction files: both layouts, wrong ones, and events that name their nodes."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.data import cleaning, store, tables
from lsec_jax.data.columns import Workspace
from lsec_jax.data.sources.interactions import (
    ColumnSpec,
    Config,
    EventSpec,
    NodeSpec,
    RelationSpec,
    RoleSpec,
    TreeSpec,
)
from lsec_jax.schema import DataError

SHARED = "user,scenario,time\nann,17,3\nbob,4,1\nann,,2\nbob,17,4\n"
PARENTS = "id,parent\n17,C2C>Sharing>Product\nC2C>Sharing>Product,C2C>Sharing\n4,C2C>Sharing\nC2C,\nC2C>Sharing,C2C\n"
PATHS = "id,path\n17,C2C>Sharing>Product>Makeups\n4,C2C>Sharing>Coupon\n"
LEVELS = "id,a,b,c,d\n4,C2C,Sharing,Coupon,\n17,C2C,Sharing,Product,Makeups\n"
IN_PARENTS = {"parent_column": "parent"}
IN_PATHS = {"path_column": "path"}
IN_LEVELS = {"level_columns": ("a", "b", "c", "d")}
LAYOUTS = {"parents": (PARENTS, IN_PARENTS), "paths": (PATHS, IN_PATHS), "levels": (LEVELS, IN_LEVELS)}


def shares(path="shared.csv"):
    return EventSpec("share", path, (RoleSpec("user"), RoleSpec("scenario", is_optional=True)))


def config(folder, text, changes, events=None, **others):
    """A log of shares with a tree of scenarios."""
    (folder / "tree.csv").write_text(text)
    if not (folder / "shared.csv").exists():
        (folder / "shared.csv").write_text(SHARED)
    tree = TreeSpec("scenario", **{"path": "tree.csv", **changes})
    return Config(str(folder), events=(events or shares(),), name="shop", trees=(tree,), **others)


def parent_of(data):
    """Each node's parent, in the source's own ids; None for a root."""
    ids = data.nodes["scenario"].ids.tolist()
    return {
        own: ids[parent] if parent >= 0 else None
        for own, parent in zip(ids, data.trees["scenario"].parents, strict=True)
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_give_one_tree_level_by_level_and_events_name_its_nodes(tmp_path, layout):
    data = config(tmp_path, *LAYOUTS[layout]).load()
    data.validate()
    nodes = ["C2C", "C2C>Sharing", "4", "C2C>Sharing>Product", "17"]
    assert data.nodes["scenario"].ids.tolist() == nodes
    assert data.trees["scenario"].parents.tolist() == [-1, 0, 1, 1, 3]
    assert data.trees["scenario"].parents.dtype == np.int32
    assert data.events["share"].ids("scenario").tolist() == [2, -1, 4, 4] and data.counts == {}


def slow_tree(paths):
    """From {external id of a leaf: names on its path}: each node's parent, and the order, in external ids."""
    parents = {}
    for own, names in paths.items():
        chain = [">".join(names[: level + 1]) for level in range(len(names) - 1)] + [own]
        for parent, child in zip([None, *chain], chain, strict=False):
            parents[child] = parent

    def depth(node):
        return 0 if parents[node] is None else 1 + depth(parents[node])

    return parents, sorted(parents, key=lambda node: (depth(node), node))


def draw_paths(rng, num_nodes):
    """A random ragged tree: names from the root to every leaf, by the leaf's external id. Cousins share names."""
    parents = [-1] + [int(rng.integers(0, node)) for node in range(1, num_nodes)]
    children = np.bincount([parent for parent in parents if parent >= 0], minlength=num_nodes)
    names, seen = [], {}
    for parent in parents:
        number = seen[parent] = seen.get(parent, 0) + 1
        names.append([*(names[parent] if parent >= 0 else []), f"n{number}"])
    leaves = np.flatnonzero(children == 0)
    own = rng.permutation(10 * num_nodes)[: len(leaves)]
    return {str(of): names[leaf] for of, leaf in zip(own, leaves, strict=True)}


def write_rows(rng, path, header, rows, is_parquet):
    rows = [rows[i] for i in rng.permutation(len(rows))]
    if is_parquet:
        columns = {name: pa.array([row[i] or None for row in rows], pa.string()) for i, name in enumerate(header)}
        pq.write_table(pa.table(columns), path)
        return
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_random_trees_are_equal_in_every_layout_and_order_of_rows(seed, num_nodes, is_parquet):
    rng = np.random.default_rng(seed)
    paths = draw_paths(rng, num_nodes)
    parents, order = slow_tree(paths)
    depth = max(map(len, paths.values()))
    levels = tuple(f"level_{level}" for level in range(depth + 1))
    named = rng.choice(list(paths), 30)
    suffix = "parquet" if is_parquet else "csv"
    layouts = {
        "parents": (["id", "parent"], [[own, above or ""] for own, above in parents.items()], IN_PARENTS),
        "paths": (["id", "path"], [[own, " > ".join(names)] for own, names in paths.items()], IN_PATHS),
        "levels": (
            ["id", *levels],
            [[own, *names, *[""] * (depth + 1 - len(names))] for own, names in paths.items()],
            {"level_columns": levels},
        ),
    }
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = "".join(f"u{i},{scenario},{i}\n" for i, scenario in enumerate(named))
        (folder / "shared.csv").write_text("user,scenario,time\n" + lines)
        for layout, (header, rows, changes) in layouts.items():
            write_rows(rng, folder / f"{layout}.{suffix}", header, rows, is_parquet)
            data = config(folder, "", {"path": f"{layout}.{suffix}", **changes}).load()
            data.validate()
            found[layout] = data.fingerprint()
            assert parent_of(data) == {
                own if len(parents) > len(paths) else int(own): above for own, above in parents.items()
            }
            if len(parents) > len(paths):
                assert data.nodes["scenario"].ids.tolist() == order
            ids = data.nodes["scenario"].ids
            assert list(map(str, ids[data.events["share"].ids("scenario")])) == named.tolist()
    assert len(set(found.values())) == 1


def test_nodes_of_one_name_under_different_parents_are_different_nodes(tmp_path):
    (tmp_path / "shared.csv").write_text("user,scenario,time\nann,1,3\n")
    data = config(tmp_path, "id,path\n1,r/a/x/p\n2,r/b/x/p\n", {**IN_PATHS, "separator": "/"}).load()
    assert parent_of(data) == {
        "r": None,
        "r/a": "r",
        "r/b": "r",
        "r/a/x": "r/a",
        "r/b/x": "r/b",
        "1": "r/a/x",
        "2": "r/b/x",
    }


def test_a_path_that_others_go_on_from_is_an_inner_node_with_the_id_of_its_row(tmp_path):
    (tmp_path / "shared.csv").write_text("user,scenario,time\nann,9,3\n")
    data = config(tmp_path, "id,path\n7,r>a\n8,r>a>b\n9,r\n", IN_PATHS).load()
    assert parent_of(data) == {9: None, 7: 9, 8: 7} and data.nodes["scenario"].ids.dtype == np.int64


def test_rows_that_are_there_twice_are_counted(tmp_path):
    for text, changes in ((PARENTS + "4,C2C>Sharing\nC2C,\n", IN_PARENTS), (PATHS + PATHS.split("\n", 1)[1], IN_PATHS)):
        data = config(tmp_path, text, changes).load()
        assert len(data.nodes["scenario"]) == 5
        assert data.counts == {"tree of scenario: rows that are there twice, dropped": 2}


def test_several_roots_are_read_where_they_are_allowed(tmp_path):
    for text, changes in (("id,parent\n17,a\na,\n4,\n", IN_PARENTS), ("id,path\n17,a>x\n4,b\n", IN_PATHS)):
        data = config(tmp_path, text, {**changes, "several_roots": True}).load()
        assert parent_of(data) == {"4": None, "a": None, "17": "a"}


def test_a_chain_of_many_thousand_nodes_is_read(tmp_path):
    size = 20_000
    (tmp_path / "shared.csv").write_text("user,scenario,time\nann,0,3\n")
    lines = [f"{i},{i + 1 if i + 1 < size else ''}\n" for i in range(size)]
    parents = config(tmp_path, "id,parent\n" + "".join(lines), IN_PARENTS).load().trees["scenario"].parents
    np.testing.assert_array_equal(parents, np.arange(-1, size - 1))


BAD_TREES = {
    "no id": ("id,parent\n1,2\n,2\n2,\n", IN_PARENTS, r"line 3, column 'id': empty value where an id is expected"),
    "a word for none": (
        "id,parent\n1,2\n2,NULL\n",
        IN_PARENTS,
        r"line 3, column 'parent': id NULL is how other .*\(a root's parent is left empty\)",
    ),
    "dangling parent": (
        "id,parent\n1,2\n2,\n3,8\n",
        IN_PARENTS,
        r"line 4, column 'parent': 8, the parent of 3, has no row; add it, or correct the parent",
    ),
    "two parents": (
        "id,parent\n1,2\n2,\n3,2\n1,3\n",
        IN_PARENTS,
        r"line 5, column 'parent': the parent of 1 is 3 here and 2 in line 2; a node has one parent; drop one",
    ),
    "a root with a parent": ("id,parent\n1,2\n2,\n2,1\n", IN_PARENTS, "the parent of 2 is 1 here and none in line 3"),
    "cycle": (
        "id,parent\n1,\n5,1\n9,4\n4,7\n7,9\n8,9\n",
        IN_PARENTS,
        r"line 4, column 'parent': 9 is its own ancestor, by 9 -> 4 -> 7 -> 9 \(3 nodes, .*correct one of these par",
    ),
    "its own parent": ("id,parent\n1,\n5,5\n", IN_PARENTS, r"line 3, column 'parent': 5 is its own.* 5 -> 5 \(1 nod"),
    "no root": ("id,parent\n1,2\n2,1\n", IN_PARENTS, r"line 2, column 'parent': 1 is its own ancestor"),
    "two roots": (
        "id,parent\n1,2\n2,\n3,\n",
        IN_PARENTS,
        r"line 4, column 'parent': 3 is a root, and so is 2 in line 3: 2 roots; give all but one a parent, or set "
        r"config key data.trees\[0\].several_roots to True",
    ),
    "two roots of paths": (
        "id,path\n1,a>b\n2,c>d\n",
        IN_PATHS,
        r"line 3, column 'path': c is a root, and so is a in line 2: 2 roots; begin all paths with the same name, or",
    ),
    "no path": ("id,path\n1,a>b\n2,\n", IN_PATHS, r"line 3, column 'path': empty value where a path is expected"),
    "gap in a path": (
        "id,path\n1,a>b\n2,a> >c\n",
        IN_PATHS,
        r"line 3, column 'path': the path 'a> >c' has no name at level 2; fill it in, or take out a separator",
    ),
    "gap in levels": (
        "id,a,b,c,d\n1,a,b,,\n2,a,b,,x\n",
        IN_LEVELS,
        r"line 3, column 'c': empty value, but the path goes on: column 'd' has 'x'; fill it in, or empty the rest",
    ),
    "no first level": ("id,a,b,c,d\n1,a,b,,\n2,,,,\n", IN_LEVELS, r"line 3, column 'a': empty value where a path beg"),
    "separator in a level": (
        "id,a,b,c,d\n1,a,b,,\n2,a,b>c,,\n",
        IN_LEVELS,
        r"line 3, column 'b': 'b>c' has the separator '>' of joined paths in it; set another one, or rename the level",
    ),
    "two paths": (
        "id,path\n1,a>b\n2,a>c\n1,a>d\n",
        IN_PATHS,
        r"line 4, column 'path': the path of 1 is a>d here and a>b in line 2; a scenario has one path; drop one",
    ),
    "one path of two": (
        "id,path\n1,a>b\n2,a>c\n3,a>b\n",
        IN_PATHS,
        r"line 4, column 'path': the path a>b is that of 3 here and of 1 in line 2; make each path end in a name of",
    ),
    "an id like a path": (
        "id,path\n1,a>b>c\na>b,a>d\n",
        IN_PATHS,
        r"line 3, column 'id': the id a>b would be that of two nodes, of this row and on the path of line 2; rename",
    ),
    "a name that is no id": ("id,path\n1,NA>b\n", IN_PATHS, r"line 2, column 'path': id NA is how other tools write"),
    "another column": ("id,pat\n1,a>b\n", IN_PATHS, r"no column 'path' \(did you mean 'pat'\?\)"),
    "no rows": ("id,path\n", IN_PATHS, "empty table"),
}


@pytest.mark.parametrize("case", BAD_TREES)
def test_what_is_no_tree_is_refused_with_its_place_even_in_quarantine(tmp_path, case):
    text, changes, message = BAD_TREES[case]
    given = config(tmp_path, text, changes)
    for workspace in (Workspace(), Workspace(is_quarantining=True)):
        with pytest.raises(DataError, match="tree.csv.*" + message):
            given.load_into(workspace)


def test_joined_paths_that_are_longer_than_an_id_may_be_are_refused(tmp_path):
    text = f"id,path\n1,a>b\n2,a>{'b' * 500}>{'c' * 495}>d\n"
    assert len(config(tmp_path, text.replace("1,", "17,").replace("2,", "4,"), IN_PATHS).load().nodes["scenario"]) == 5
    rows = f"id,a,b,c,d\n1,a,b,,\n2,a,{'b' * 500},{'c' * 600},d\n"
    with pytest.raises(DataError, match=r"line 3, column 'a': a text of more than 1000 characters"):
        config(tmp_path, rows, IN_LEVELS).load()


BAD_SPECS = {
    "no layout": ({}, r"data.trees\[0\]: the file's layout is not known; give one of: parent_column, path_column, lev"),
    "two layouts": ({**IN_PARENTS, **IN_LEVELS}, r"data.trees\[0\]: parent_column and level_columns are given; give"),
    "another type": ({"node": "scene", **IN_PATHS}, r"trees\[0\].node = 'scene' is in no relation or events; choose "),
    "no file": ({"path": "", **IN_PATHS}, r"data.trees\[0\].path is empty"),
    "one column": ({"id_column": "path", **IN_PATHS}, r"path_column = 'path' is id_column too; name the column of the"),
    "a level twice": ({"level_columns": ("a", "a")}, r"trees\[0\].level_columns: 'a' is empty, there twice, or id_col"),
    "no name of a level": ({"level_columns": ("a", "")}, r"trees\[0\].level_columns: '' is empty, there twice"),
    "the ids as a level": ({"level_columns": ("id", "a")}, r"trees\[0\].level_columns: 'id' is empty, there twice"),
    "no separator": ({**IN_PATHS, "separator": " "}, r"trees\[0\].separator = ' ': give a character that is no space"),
    "unknown names": (
        {"level_columns": ("a", "x"), "column_names": ("id", "a")},
        r"trees\[0\].level_columns: 'x' is not among column_names \(id, a\)",
    ),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_specs_that_cannot_be_used_are_refused_with_their_key(tmp_path, case):
    changes, message = BAD_SPECS[case]
    given = config(tmp_path, PATHS, {})
    given.trees = (TreeSpec(**{"node": "scenario", "path": "tree.csv", **changes}),)
    for read in (given.load, given.outline):
        with pytest.raises(DataError, match=message):
            read()


def test_a_second_tree_of_one_type_is_refused(tmp_path):
    given = config(tmp_path, PATHS, IN_PATHS)
    given.trees *= 2
    with pytest.raises(DataError, match=r"trees\[1\].node = 'scenario' is given twice; put its nodes into one file"):
        given.load()


UNKNOWN = SHARED + "bob,99,5\nbob,x,6\nann,99,7\nbob,4,0\n"


@pytest.mark.parametrize("block_bytes", [2**20, 12])
def test_events_with_scenarios_that_the_tree_lacks_are_refused_with_the_first_and_their_number(
    tmp_path, monkeypatch, block_bytes
):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", block_bytes)
    (tmp_path / "shared.csv").write_text(UNKNOWN)
    for text, changes in LAYOUTS.values():
        with pytest.raises(DataError) as error:
            config(tmp_path, text, changes).load()
        assert (
            f"{tmp_path}/shared.csv, line 6, column 'scenario': scenario 99 is not in the tree of {tmp_path}/tree.csv; "
            "add it there, or correct or drop the row (2 more rows of this column, 2 different ids)"
        ) in str(error.value)
    data = config(tmp_path, *LAYOUTS["paths"]).load_into(Workspace(is_quarantining=True))
    data.validate()
    assert data.counts == {f"{tmp_path}/shared.csv: rows quarantined, column 'scenario'": 3}
    assert data.events["share"].time.tolist() == [0, 1, 2, 3, 4]
    assert data.events["share"].ids("scenario").tolist() == [2, 2, -1, 4, 4]


def test_what_cannot_be_read_and_what_the_tree_lacks_are_said_together(tmp_path):
    (tmp_path / "shared.csv").write_text(UNKNOWN + "bob,17,soon\n")
    with pytest.raises(DataError, match=r"(?s)line 10, column 'time': 'soon'.*line 6, .* scenario 99 is not in"):
        config(tmp_path, PATHS, IN_PATHS).load()


def test_a_column_of_other_ids_is_refused_at_once_even_in_quarantine(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "_MANY", 3)
    (tmp_path / "shared.csv").write_text(SHARED + "".join(f"bob,{i},5\n" for i in range(100, 110)))
    with pytest.raises(DataError, match=r"scenario 100 is not .*\n.*more than 3 others; check that it is the"):
        config(tmp_path, PATHS, IN_PATHS).load_into(Workspace(is_quarantining=True))


def test_relations_name_nodes_of_the_tree_too(tmp_path):
    (tmp_path / "seen.csv").write_text("user,scenario\nann,17\nbob,C2C>Sharing\n")
    (tmp_path / "later.csv").write_text("user,scenario\nann,4\n")
    seen = RelationSpec("seen", "user", "scenario", "seen.csv", "user", "scenario", validation_path="later.csv")
    given = config(tmp_path, PATHS, IN_PATHS, relations=(seen,))
    data = given.load()
    assert data.relations["seen"].target_ids.tolist() == [4, 1, 2]
    given.events = ()
    data = given.load()
    assert data.relations["seen"].target_ids.tolist() == [4, 1, 2]
    assert data.counts == {"scenario: ids only in validation or test files": 1}  # not the nodes that no file names
    (tmp_path / "later.csv").write_text("user,scenario\nann,5\n")
    with pytest.raises(DataError, match=r"later.csv, line 2, column 'scenario': scenario 5 is not in the tree of"):
        given.load()


def test_nodes_of_a_tree_may_have_features(tmp_path):
    (tmp_path / "nodes.csv").write_text("id,kind\nC2C>Sharing,inner\n17,leaf\n99,leaf\n")
    features = NodeSpec("scenario", "nodes.csv", columns=(ColumnSpec("kind"),))
    data = config(tmp_path, PATHS, IN_PATHS, nodes=(features,)).load()
    data.validate()
    kind = data.nodes["scenario"].features["kind"]
    assert kind.vocabulary == ("inner", "leaf") and kind.values.tolist() == [-1, 0, -1, -1, 1]
    assert data.counts == {
        "scenario: rows of features of ids that nothing else has, dropped": 1,
        "scenario: nodes without a row of features": 3,
    }


def test_ids_of_a_tree_stay_integers_where_all_nodes_have_rows_and_parquet_may_have_nulls(tmp_path):
    table = {"id": [4, 17, 1], "parent": pa.array([1, 1, None], pa.int64())}
    pq.write_table(pa.table(table), tmp_path / "tree.parquet")
    data = config(tmp_path, "", {"path": "tree.parquet", **IN_PARENTS}).load()
    assert data.nodes["scenario"].ids.tolist() == [1, 4, 17] and data.trees["scenario"].parents.tolist() == [-1, 0, 0]
    table = {"id": [4, 17], "a": ["r", "r"], "b": [1.5, None], "c": [None, None], "d": pa.array([None, None], "string")}
    pq.write_table(pa.table(table), tmp_path / "levels.parquet")
    (tmp_path / "shared.csv").write_text("user,scenario,time\nann,4,3\n")
    data = config(tmp_path, "", {"path": "levels.parquet", **IN_LEVELS}).load()
    assert parent_of(data) == {17: None, 4: 17}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_outline_has_the_tree(tmp_path, layout):
    given = config(tmp_path, *LAYOUTS[layout])
    assert store.description_of(given.outline())["trees"] == store.description_of(given.load())["trees"] == ["scenario"]
