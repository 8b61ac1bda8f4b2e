"""Youshu: users, books ("item") and book lists ("bundle"), as released with BGCN and CrossCBR; ids are numbers from 0.

    Youshu_data_size.txt    8039 <tab> 4771 <tab> 32770    numbers of users, bundles and items
    user_bundle_train.txt   user <tab> bundle              also user_bundle_tune.txt and user_bundle_test.txt
    user_item.txt           user <tab> item
    bundle_item.txt         bundle <tab> item

A bundle stands where the streamer does in live commerce: users follow it, it offers items, users buy items.
`user_bundle` has the given split, tune being its validation; the other two relations have none and all train.
"""

import dataclasses
from pathlib import Path

from lsec_jax.data import tables
from lsec_jax.data.files import expand_path
from lsec_jax.data.listed import ListedNodes, read_relation
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError, LiveCommerceData

SIZE_FILE = "Youshu_data_size.txt"
NODE_TYPES = ("user", "bundle", "item")
MAX_NODES = 10_000_000  # of a type: all nodes exist, and a number with a digit too many would fill the memory
RELATIONS = {
    "user_bundle": {
        TRAIN: "user_bundle_train.txt",
        VALIDATION: "user_bundle_tune.txt",
        TEST: "user_bundle_test.txt",
    },
    "user_item": {TRAIN: "user_item.txt"},
    "bundle_item": {TRAIN: "bundle_item.txt"},
}


@dataclasses.dataclass
class Config:
    """Reads the released files.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        name: of the data set, for reports; "" = the directory's name.
    """

    path: str = ""
    name: str = ""

    def load(self) -> LiveCommerceData:
        """Reads everything; raises DataError naming file, line and column."""
        root = expand_path(self.path)
        nodes = _read_sizes(root / SIZE_FILE)
        counts: dict[str, int] = {}
        relations = {}
        for name, files in RELATIONS.items():
            source, target = name.split("_")
            parts = {
                split: tables.read_table(
                    root / file,
                    [source, target],
                    column_names=(source, target),
                    expected=f"a line is '{source}<tab>{target}'",
                )
                for split, file in files.items()
            }
            relations[name] = read_relation(name, (nodes[source], nodes[target]), parts, (source, target), counts)
        return LiveCommerceData(
            self.name or root.resolve().name, {name: end.nodes for name, end in nodes.items()}, relations, counts=counts
        )


def _read_sizes(path: Path) -> dict[str, ListedNodes]:
    expected = f"give one line, the numbers of {', '.join(NODE_TYPES)}, tabs between"
    table = tables.read_table(path, NODE_TYPES, column_names=NODE_TYPES, expected=expected)
    if len(table) != 1:
        raise DataError(f"{path}: {len(table)} lines; {expected}")
    sizes = {name: int(table.integers(name)[0]) for name in NODE_TYPES}
    for name, size in sizes.items():
        if not 0 < size <= MAX_NODES:
            table.fail(0, name, f"{size} nodes; give the number of {name} nodes, 1 to {MAX_NODES}")
    return {name: ListedNodes.numbered(name, size, path.name) for name, size in sizes.items()}
