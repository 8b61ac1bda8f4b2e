"""What a model cannot do without, and what of it a data set lacks. No jax here."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lsec_jax.schema.validation import HasTables

KINDS = ("relations", "events", "features", "trees", "availability")


@dataclasses.dataclass(frozen=True)
class Needs:
    """The tables that a model reads; everything else of a data set may be missing.

    Attributes:
        relations: their names.
        events: columns (roles, values, features) by table of events; () = the table, whatever its columns.
        features: names by node type.
        trees, availability: node types.
    """

    relations: tuple[str, ...] = ()
    events: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    features: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    trees: tuple[str, ...] = ()
    availability: tuple[str, ...] = ()


class Missing(NamedTuple):
    """Something that a data set lacks.

    Attributes:
        kind: one of KINDS.
        table: its name, or the node type.
        column: "" where the whole table is missing.
        needed: all columns that are needed of it.
        there: what there is instead.
    """

    kind: str
    table: str
    column: str
    needed: tuple[str, ...]
    there: tuple[str, ...]

    def __str__(self) -> str:
        """The subject and verb of a sentence."""
        names = {"relations": "relation", "events": "events", "features": "features of", "trees": "tree of"}
        text = f"{names.get(self.kind, 'availability of')} '{self.table}'"
        if self.column:
            return f"column '{self.column}' of {text} is"
        return f"{text} {'are' if self.kind in ('events', 'features') else 'is'}"


def missing(data: HasTables, needs: Needs) -> list[Missing]:
    """Returns all that a data set lacks."""
    columns = {name: (*of.nodes, *of.values, *of.features) for name, of in data.events.items()}
    features = {name: tuple(table.features) for name, table in data.nodes.items() if table.features}
    return [
        *_without("relations", needs.relations, data.relations),
        *_without_columns("events", needs.events, columns),
        *_without_columns("features", needs.features, features),
        *_without("trees", needs.trees, data.trees),
        *_without("availability", needs.availability, data.availability),
    ]


def _without(kind: str, wanted: tuple[str, ...], there: Mapping[str, object]) -> Iterator[Missing]:
    yield from (Missing(kind, name, "", (), tuple(sorted(there))) for name in wanted if name not in there)


def _without_columns(
    kind: str, wanted: Mapping[str, tuple[str, ...]], there: Mapping[str, tuple[str, ...]]
) -> Iterator[Missing]:
    for table, columns in wanted.items():
        if table not in there:
            yield Missing(kind, table, "", columns, tuple(sorted(there)))
        else:
            lacking = [name for name in columns if name not in there[table]]
            yield from (Missing(kind, table, name, columns, there[table]) for name in lacking)
