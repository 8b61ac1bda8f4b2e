"""The form of a prepared directory's manifest, checked once and completely, so that reading can rely on it."""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lsec_jax.data.files import quote
from lsec_jax.schema import FEATURE_KINDS, NAME_RULE, SPLITS, DataError, is_name

RELATION_COLUMNS = ("source_ids", "target_ids", "time", "weight", "split")
CANDIDATE_COLUMNS = ("source_ids", "target_ids", "labels")
EVENT_COLUMNS = ("time", "group", "split")
HISTORY_COLUMNS = ("starts", "items", "times", "rows")
VIEW_COLUMNS = ("starts", "neighbours")
OPTIONAL = ("time", "weight", "split")  # of relations
OPTIONAL_OF_EVENTS = ("group", "split")


def check_manifest(manifest: Any, path: Path) -> None:
    """Checks that the description is complete, and names exactly the columns that there are.

    Args:
        manifest: from JSON, of this version of the format.
        path: its file, for messages.

    Raises:
        DataError: for the first thing that is not as `Writer.finish` leaves it, with its key.
    """
    root = _Place(path, "", manifest)
    root.at("source").entries()
    root.at("statistics").entries()
    required: set[str] = set()
    optional: set[str] = set()
    for column, is_required in _columns(root.at("data")):
        (required if is_required else optional).add(column)
    columns = root.at("columns")
    forms = columns.entries()
    for name in sorted(required - forms.keys()):
        columns.fail(f"has no '{name}', which the data needs")
    for name, form in forms.items():
        if name not in required | optional:
            columns.fail(f"has {quote(name)}, which is no column of the data")
        form.at("dtype").text()
        for size in form.at("shape").items():
            size.count()
        if not re.fullmatch("[0-9a-f]{64}", form.at("sha256").text()):
            form.at("sha256").fail("expected a SHA-256, 64 hexadecimal digits")


def check_source(manifest: Any, path: Path) -> None:
    """Checks that the manifest says what the data was prepared from; raises as `check_manifest`."""
    source = _Place(path, "source", manifest["source"])
    source.at("data").entries()
    source.at("split").at("method").text()
    for task in source.at("tasks").items():
        task.text()
    source.at("histories").items()
    if "views" in source.entries():
        source.at("views").items()
    source.at("quarantine").flag()


@dataclasses.dataclass(frozen=True)
class _Place:
    """A key of the manifest and what stands there; whatever is not as expected raises DataError."""

    path: Path
    key: str
    value: Any

    def fail(self, problem: str) -> NoReturn:
        remedy = "prepare the data again into a new directory"
        raise DataError(f"{self.path}: damaged: {self.key or 'the whole'} {problem}; {remedy}")

    def _be(self, kind: type | tuple[type, ...], wanted: str) -> Any:
        if not isinstance(self.value, kind) or (isinstance(self.value, bool) and kind is not bool):
            self.fail(f"is {quote(repr(self.value))}, expected {wanted}")
        return self.value

    def at(self, name: str) -> "_Place":
        """What stands at a key that must be there."""
        if name not in self._be(dict, "a table"):
            self.fail(f"has no '{name}'")
        return self._below(name, self.value[name])

    def _below(self, name: str, value: Any) -> "_Place":
        return _Place(self.path, f"{self.key}.{name}" if self.key else name, value)

    def entries(self) -> dict[str, "_Place"]:
        return {name: self._below(name, value) for name, value in self._be(dict, "a table").items()}

    def named(self) -> dict[str, "_Place"]:
        """Entries whose keys are names of tables or columns."""
        for name in self.entries():
            if not is_name(name):
                self.fail(f"has {quote(name)}: {NAME_RULE}")
        return self.entries()

    def items(self, length: int | None = None) -> list["_Place"]:
        values = self._be(list, "a list")
        if length not in (None, len(values)):
            self.fail(f"is {quote(repr(values))}, expected {length} values")
        return [_Place(self.path, f"{self.key}[{i}]", value) for i, value in enumerate(values)]

    def text(self) -> str:
        value = self._be(str, "text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.fail("is no text: it has half of a surrogate pair")
        return value

    def name(self) -> str:
        if not is_name(self.text()):
            self.fail(f"is {quote(self.value)}: {NAME_RULE}")
        return self.value

    def names(self) -> list[str]:
        names = [item.name() for item in self.items()]
        if len(set(names)) < len(names):
            self.fail("has a name twice")
        return names

    def one_of(self, valid: Any) -> Any:
        if self.text() not in valid:
            self.fail(f"is {quote(self.value)}, expected one of: {', '.join(sorted(valid)) or 'nothing'}")
        return self.value

    def count(self) -> int:
        if not 0 <= self._be(int, "a whole number") < 2**63:
            self.fail(f"is {quote(repr(self.value))}, expected a whole number of 0 or more")
        return self.value

    def number(self) -> float:
        value = self._be((int, float), "a number")
        if not -(2.0**1023) < value < 2.0**1023 or math.isnan(value):
            self.fail(f"is {quote(repr(value))}, expected a finite number")
        return value

    def flag(self) -> bool:
        return self._be(bool, "true or false")


def _columns(data: _Place) -> Iterator[tuple[str, bool]]:
    """Checks the description; yields each column that it asks for (True) or allows."""
    data.at("name").text()
    nodes = data.at("nodes").named()
    for name, features in nodes.items():
        yield f"nodes/{name}/ids", True
        yield from _features(f"nodes/{name}", features)
    relations = data.at("relations").named()
    for name, relation in relations.items():
        for end in ("source", "target"):
            relation.at(end).one_of(nodes)
        yield from ((f"relations/{name}/{column}", column not in OPTIONAL) for column in RELATION_COLUMNS)
    yield from _event_columns(data.at("events"), nodes)
    yield from _history_columns(data.at("histories"), nodes, data.at("events").entries())
    if "views" in data.entries():
        for name, node_type in data.at("views").named().items():
            node_type.one_of(nodes)
            yield from ((f"views/{name}/{column}", True) for column in VIEW_COLUMNS)
    for kind, columns in (("trees", ("parents",)), ("availability", ("start", "end"))):
        for name in data.at(kind).names():
            yield from ((f"{kind}/{name}/{column}", True) for column in columns)
    yield from _candidate_columns(data.at("candidates"), relations)
    if data.at("cut_times").value is not None:
        for time in data.at("cut_times").items(2):
            time.number()
    if data.at("end_time").value is not None:
        data.at("end_time").number()
    for key in ("has_dates", "has_event_truth"):
        data.at(key).flag()
    for count in data.at("counts").entries().values():
        count.count()
    for relation in data.at("truth").items():
        relation.text()


def _features(at: str, features: _Place) -> Iterator[tuple[str, bool]]:
    for name, feature in features.named().items():
        feature.at("kind").one_of(FEATURE_KINDS)
        for word in feature.at("vocabulary").items():
            word.text()
        yield f"{at}/features/{name}", True


def _event_columns(events: _Place, nodes: dict[str, _Place]) -> Iterator[tuple[str, bool]]:
    tables = events.named()
    for name, table in tables.items():
        at = f"events/{name}"
        yield from ((f"{at}/{column}", column not in OPTIONAL_OF_EVENTS) for column in EVENT_COLUMNS)
        for role, node_type in table.at("nodes").named().items():
            node_type.one_of(nodes)
            yield f"{at}/nodes/{role}", True
        yield from ((f"{at}/values/{column}", True) for column in table.at("values").names())
        yield from _features(at, table.at("features"))
        if table.at("parent").value is not None:
            table.at("parent").one_of(tables)
            yield f"{at}/parent", True


def _history_columns(
    histories: _Place, nodes: dict[str, _Place], events: dict[str, _Place]
) -> Iterator[tuple[str, bool]]:
    for name, table in histories.named().items():
        at = f"histories/{name}"
        for end in ("owner", "item"):
            table.at(end).one_of(nodes)
        table.at("owner_role").text()
        table.at("events").one_of({*events, ""})
        if table.at("delay").number() < 0:
            table.at("delay").fail("is negative")
        yield from ((f"{at}/{column}", True) for column in HISTORY_COLUMNS)
        for layout in ("ends", "last"):
            table.at(layout).names()
            for moments in table.at(layout).items():
                yield f"{at}/{layout}/{moments.one_of(events)}", True


def _candidate_columns(candidates: _Place, relations: dict[str, _Place]) -> Iterator[tuple[str, bool]]:
    found = set()
    for item in candidates.items():
        name, split, origin = item.items(3)
        key = name.one_of(relations), split.count()
        if key[1] not in SPLITS.values() or key in found:
            item.fail("is no split, or there already")
        found.add(key)
        origin.text()
        yield from ((f"candidates/{key[0]}.{key[1]}/{column}", True) for column in CANDIDATE_COLUMNS)
