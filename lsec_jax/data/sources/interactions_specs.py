"""What the config says about interaction files, and its checks."""

import dataclasses
from collections.abc import Sequence

from lsec_jax.schema import NAME_RULE, DataError, is_name

EVENT_KINDS = ("label", "measure", "categorical", "ordinal", "numeric")
NODE_KINDS = ("categorical", "ordinal", "numeric", "date")


@dataclasses.dataclass
class RelationSpec:
    """Where one relation's interactions are.

    Attributes:
        name: of the relation, e.g. "buy"; letters, digits, _ and -.
        source, target: node types at its two ends, e.g. "user", "item"; likewise.
        path: its file (all interactions, or the training ones), inside `Config.path`, or absolute.
        source_column, target_column: columns with the external ids.
        time_column: column with times >= 0 (numbers) or dates (ISO 8601, read as seconds since 1970 UTC), or None.
        weight_column: column with finite weights > 0, or None.
        validation_path, test_path: files of a given split, same columns, or None.
        column_names: names of all columns of text files that have no header; () = the first line is the header.
        delimiter: of text files, one ASCII character; "" = from the extension (.csv comma; .tsv, .txt, .tab tab).
        format: "text", "parquet", or "" = from the extension.
    """

    name: str = ""
    source: str = ""
    target: str = ""
    path: str = ""
    source_column: str = ""
    target_column: str = ""
    time_column: str | None = None
    weight_column: str | None = None
    validation_path: str | None = None
    test_path: str | None = None
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field that is missing or cannot be used, with its key and the remedy."""
        for field in ("name", "source", "target"):
            require_name(self, place, field)
        columns = {"source_column": f"the {self.source} ids", "target_column": f"the {self.target} ids"}
        _check_file(self, place, columns, ("time_column", "weight_column"))


@dataclasses.dataclass
class AvailabilitySpec:
    """Where it is written when the nodes of one type can be bought; nodes that are not listed always can.

    Attributes:
        node: node type, e.g. "item".
        path: its file, one row per node, inside `Config.path`, or absolute.
        id_column: column with the external ids.
        start_column, end_column: the window [start, end), in the unit of the relations' times: numbers >= 0 or ISO 8601
            dates; an empty start or end is open.
        column_names, delimiter, format: as in `RelationSpec`.
    """

    node: str = ""
    path: str = ""
    id_column: str = "id"
    start_column: str = "start"
    end_column: str = "end"
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field of the file that is missing or cannot be used."""
        columns = {"id_column": f"the {self.node} ids", "start_column": "the starts", "end_column": "the ends"}
        _check_file(self, place, columns)


@dataclasses.dataclass
class RoleSpec:
    """Which nodes take part in events.

    Attributes:
        role: its name, e.g. "user"; a role that a model may rely on has the name of its node type.
        node: node type; "" = the role's name.
        column: with the external ids; "" = the role's name.
        is_optional: whether the column may be empty: the event then has no such node.
    """

    role: str = ""
    node: str = ""
    column: str = ""
    is_optional: bool = False


@dataclasses.dataclass
class ColumnSpec:
    """One further column of events, or a feature of nodes.

    Attributes:
        name: letters, digits, _ and -.
        column: in the file; "" = the name.
        kind: of events, "label" (0 or 1) and "measure" (a number; empty = not defined) are what was measured. The
            others are features: "categorical", "ordinal" (ranges such as 24-30, 5000+, or numbers), "numeric", and, of
            nodes only, "date" (days since 1970); empty = missing.
    """

    name: str = ""
    column: str = ""
    kind: str = "categorical"


@dataclasses.dataclass
class EventSpec:
    """Where one table of events is: impressions, purchases, gifts; one row each, in any order.

    Attributes:
        name: of the table, e.g. "impression".
        path: its file, inside `Config.path`, or absolute; a * matches any text: all such files, in order, also
            those that are packed (.gz).
        roles: the nodes that take part.
        time_column: column with times >= 0 (numbers) or dates (ISO 8601, read as seconds since 1970 UTC).
        group_column: column with the ids of requests (what was shown together), or None.
        columns: what was measured, and features.
        column_names, delimiter, format: as in `RelationSpec`.
    """

    name: str = ""
    path: str = ""
    roles: tuple[RoleSpec, ...] = ()
    time_column: str = "time"
    group_column: str | None = None
    columns: tuple[ColumnSpec, ...] = ()
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field that is missing or cannot be used, with its key and the remedy."""
        require_name(self, place, "name")
        if not self.roles:
            raise DataError(f"config key {place}.roles is empty; give a RoleSpec for the user, and for what was shown")
        for i, role in enumerate(self.roles):
            require_name(role, f"{place}.roles[{i}]", "role")
            if role.node and not is_name(role.node):
                raise DataError(f"config key {place}.roles[{i}].node = {role.node!r}: {NAME_RULE}")
        _check_columns(self.columns, f"{place}.columns", EVENT_KINDS)
        names = ["time", "group", "split", "parent", *(role.role for role in self.roles)]
        for i, column in enumerate(self.columns):
            if column.name in names:
                raise DataError(
                    f"config key {place}.columns[{i}].name = '{column.name}' is taken (taken: {', '.join(names)}); "
                    "choose another name, and give the file's in `column`"
                )
            names.append(column.name)
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DataError(f"config key {place}.roles: the role '{repeated[0]}' is used twice; roles must differ")
        _check_file(self, place, {"time_column": "the times"}, ("group_column",))
        _check_among_names(self, f"{place}.roles", [role.column or role.role for role in self.roles])
        _check_among_names(self, f"{place}.columns", [column.column or column.name for column in self.columns])


@dataclasses.dataclass
class NodeSpec:
    """Where features of the nodes of one type are.

    Attributes:
        node: node type, e.g. "user".
        path: its file, one row per node, inside `Config.path`, or absolute; nodes that are not listed have none.
        id_column: column with the external ids.
        columns: the features.
        missing: texts that stand for no value, beside the empty one.
        column_names, delimiter, format: as in `RelationSpec`.
    """

    node: str = ""
    path: str = ""
    id_column: str = "id"
    columns: tuple[ColumnSpec, ...] = ()
    missing: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field that is missing or cannot be used, with its key and the remedy."""
        if not self.columns:
            raise DataError(f"config key {place}.columns is empty; give a ColumnSpec for every feature")
        _check_columns(self.columns, f"{place}.columns", NODE_KINDS)
        _check_file(self, place, {"id_column": f"the {self.node} ids"})
        _check_among_names(self, f"{place}.columns", [column.column or column.name for column in self.columns])


@dataclasses.dataclass
class TreeSpec:
    """Where the tree over the nodes of one type is, e.g. of scenarios: a row per node, or a row per path.

    Give `parent_column` where every node has a row that names its parent (empty = a root). Give `path_column` or
    `level_columns` where a row has a path, root first, of any length: the node at its end has the row's id, a node
    above that has no row of its own has the joined path to it, e.g. "C2C>Sharing".

    Attributes:
        node: node type, e.g. "scenario"; its nodes are those of the tree, and no others.
        path: its file, inside `Config.path`, or absolute.
        id_column: column with the external ids.
        parent_column: column with the parents' external ids, or None.
        path_column: column with whole paths, names between separators, or None.
        level_columns: columns with the names of each level, empty after a path's end.
        separator: of the names in `path_column`, and in joined paths.
        several_roots: whether there may be more than one root.
        column_names, delimiter, format: as in `RelationSpec`.
    """

    node: str = ""
    path: str = ""
    id_column: str = "id"
    parent_column: str | None = None
    path_column: str | None = None
    level_columns: tuple[str, ...] = ()
    separator: str = ">"
    several_roots: bool = False
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field that is missing or cannot be used, with its key and the remedy."""
        layouts = ("parent_column", "path_column", "level_columns")
        given = [field for field in layouts if getattr(self, field)]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given" if given else "the file's layout is not known"
            raise DataError(f"config key {place}: {problem}; give one of: {', '.join(layouts)}")
        columns = {"id_column": f"the {self.node} ids", "parent_column": "the parents", "path_column": "the paths"}
        _check_file(self, place, {field: columns[field] for field in ("id_column", *given) if field in columns})
        _check_among_names(self, f"{place}.level_columns", list(self.level_columns))
        taken = [self.id_column, *self.level_columns]
        if repeated := [column for column in taken if not column or taken.count(column) > 1]:
            raise DataError(
                f"config key {place}.level_columns: '{repeated[0]}' is empty, there twice, or id_column; name the "
                "column of each level, root first"
            )
        if not self.separator.strip():
            raise DataError(f"config key {place}.separator = {self.separator!r}: give a character that is no space")


FileSpec = RelationSpec | AvailabilitySpec | EventSpec | NodeSpec | TreeSpec
Spec = FileSpec | RoleSpec | ColumnSpec


def check_specs(relations: tuple[RelationSpec, ...], events: tuple[EventSpec, ...]) -> None:
    """Raises DataError for the first relation or table of events that cannot be used, or if there is none."""
    if not relations and not events:
        raise DataError("config key data.relations is empty; give a RelationSpec for every interaction file")
    kinds: dict[str, tuple[RelationSpec | EventSpec, ...]] = {"relations": relations, "events": events}
    for key, specs in kinds.items():
        for i, spec in enumerate(specs):
            spec.check(f"data.{key}[{i}]")
        names = [spec.name for spec in specs]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DataError(f"config key data.{key}: the name '{repeated[0]}' is used twice; names must differ")


def require_name(spec: Spec, place: str, field: str) -> None:
    """Raises DataError unless a field is given and can be the name of a file."""
    require_given(spec, place, field)
    if not is_name(getattr(spec, field)):
        raise DataError(f"config key {place}.{field} = {getattr(spec, field)!r}: {NAME_RULE}")


def require_given(spec: Spec, place: str, field: str) -> None:
    """Raises DataError unless a field is given."""
    if not getattr(spec, field):
        raise DataError(f"config key {place}.{field} is empty; give it, e.g. --config.{place}.{field}=...")


def _check_columns(specs: tuple[ColumnSpec, ...], place: str, kinds: tuple[str, ...]) -> None:
    for i, spec in enumerate(specs):
        require_name(spec, f"{place}[{i}]", "name")
        if spec.kind not in kinds:
            raise DataError(f"config key {place}[{i}].kind = '{spec.kind}'; choose one of: {', '.join(kinds)}")
        if spec.name in [other.name for other in specs[:i]]:
            raise DataError(f"config key {place}[{i}].name = '{spec.name}' is used twice; names must differ")


def _check_among_names(spec: FileSpec, place: str, columns: list[str]) -> None:
    for column in columns:
        if spec.column_names and column not in spec.column_names:
            listed = ", ".join(spec.column_names)
            raise DataError(f"config key {place}: '{column}' is not among column_names ({listed})")


def _check_file(spec: FileSpec, place: str, columns: dict[str, str], optional: tuple[str, ...] = ()) -> None:
    """Checks the fields that say where a file is and how it is read.

    Args:
        spec: with the fields.
        place: its config key.
        columns: fields of columns that must be given and differ, and what each column holds.
        optional: fields of other columns.

    Raises:
        DataError: for the first field that is missing or cannot be used, with its key and the remedy.
    """
    taken: dict[str, str] = {}
    for field in ("path", *columns):
        require_given(spec, place, field)
    for field, content in columns.items():
        column = getattr(spec, field)
        if column in taken:
            problem = f"'{column}' is {taken[column]} too; name the column of {content}"
            raise DataError(f"config key {place}.{field} = {problem}")
        taken[column] = field
    for field in (*columns, *optional):
        if column := getattr(spec, field):
            _check_among_names(spec, f"{place}.{field}", [column])
    if spec.delimiter and (len(spec.delimiter) > 1 or not spec.delimiter.isascii() or spec.delimiter in '"\r\n\0'):
        raise DataError(
            f"config key {place}.delimiter = {spec.delimiter!r}: must be one ASCII character, no quote or line "
            f"break (for a tab on the command line: --config.{place}.delimiter=$'\\t'); convert other files"
        )


def check_availability(
    specs: tuple[AvailabilitySpec, ...], relations: tuple[RelationSpec, ...], events: tuple[EventSpec, ...]
) -> None:
    """Raises DataError for the first spec that has no effect, is there twice or cannot be used."""
    offered = {spec.target for spec in relations} | {role.node or role.role for spec in events for role in spec.roles}
    for i, spec in enumerate(specs):
        place = f"data.availability[{i}]"
        if spec.node not in offered:
            raise DataError(
                f"config key {place}.node = '{spec.node}' is the target of no relation, and in no events, so that its "
                f"windows would have no effect; choose one of: {', '.join(sorted(offered))}"
            )
        if spec.node in [other.node for other in specs[:i]]:
            raise DataError(f"config key {place}.node = '{spec.node}' is given twice; put its windows into one file")
        spec.check(place)
    if specs and not events and not any(spec.time_column for spec in relations):
        raise DataError(
            "config key data.availability: no relation has times to compare the windows with; name a time_column, or "
            "leave the availability out"
        )


def check_nodes(
    specs: tuple[NodeSpec, ...], relations: tuple[RelationSpec, ...], events: tuple[EventSpec, ...]
) -> None:
    """Raises DataError for the first spec whose nodes are not there, that is there twice or cannot be used."""
    _check_of_nodes("nodes", "features", specs, relations, events)


def check_trees(
    specs: tuple[TreeSpec, ...], relations: tuple[RelationSpec, ...], events: tuple[EventSpec, ...]
) -> None:
    """Raises DataError for the first spec whose nodes are not there, that is there twice or cannot be used."""
    _check_of_nodes("trees", "nodes", specs, relations, events)


def _check_of_nodes(
    key: str,
    content: str,
    specs: Sequence[NodeSpec | TreeSpec],
    relations: tuple[RelationSpec, ...],
    events: tuple[EventSpec, ...],
) -> None:
    there = {end for spec in relations for end in (spec.source, spec.target)}
    there |= {role.node or role.role for spec in events for role in spec.roles}
    for i, spec in enumerate(specs):
        place = f"data.{key}[{i}]"
        if spec.node not in there:
            listed = ", ".join(sorted(there))
            raise DataError(
                f"config key {place}.node = '{spec.node}' is in no relation or events; choose one of: {listed}"
            )
        if spec.node in [other.node for other in specs[:i]]:
            raise DataError(f"config key {place}.node = '{spec.node}' is given twice; put its {content} into one file")
        spec.check(place)
