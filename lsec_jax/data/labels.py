"""The answers of records: declared labels out of the values of events. No jax."""

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.declaration import Declaration, Label
from lsec_jax.schema import Events
from lsec_jax.schema.blocks import blocks


class Answers:
    """Reads the labels of rows of a table of events."""

    def __init__(self, events: Events, declaration: Declaration, key: str):
        """Takes the columns.

        Args:
            events: the table.
            declaration: validated.
            key: of the declaration, for messages.

        Raises:
            DataError: a column that is not there.
            ConfigError: a label that its column cannot answer.
        """
        self._labels = declaration.labels
        self._columns = {}
        for i, label in enumerate(declaration.labels):
            _check(events, label, f"{key}.labels[{i}]")
            for name in (label.column, label.only_if, label.measured):
                if name:
                    self._columns[name] = np.ascontiguousarray(events.value(name))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the answers of rows [b], [b, labels] float32, NaN where one is not defined."""
        values = {name: column.take(rows) for name, column in self._columns.items()}
        found = np.empty((len(rows), len(self._labels)), np.float32)
        for i, label in enumerate(self._labels):
            found[:, i] = _answer(label, values)
        return found


def _answer(label: Label, values: dict[str, np.ndarray]) -> np.ndarray:
    column = values[label.column]
    if label.kind == "regression":
        found = column.astype(np.float32)
        if label.transform:
            found = np.log1p(found)
    else:
        is_flag = column.dtype == bool
        is_positive = column >= label.at_least if label.at_least else column > 0
        found = is_positive.astype(np.float32)
        if not is_flag:
            found[np.isnan(column)] = np.nan
        if label.measured:
            # Also where the measure is NaN.
            is_short = is_positive & ~(values[label.measured] >= label.minimum)
            found[is_short] = np.nan if label.is_short_left_out else 0.0
    if label.only_if:
        found[~(values[label.only_if] > 0)] = np.nan
    return found


def _check(events: Events, label: Label, key: str) -> None:
    column = events.value(label.column)
    is_flag = column.dtype == bool
    for name in (label.only_if, label.measured):
        if name:
            events.value(name)
    if label.measured and events.value(label.measured).dtype == bool:
        raise ConfigError(f"{key}.measured = '{label.measured}' is true or false, not a number; use only_if")
    if label.kind == "regression":
        if is_flag:
            raise ConfigError(f"{key}.kind = 'regression': '{label.column}' is true or false; make it 'binary'")
        if label.transform and any((column[block] < 0).any() for block in blocks(len(column))):
            raise ConfigError(f"{key}.transform = 'log1p': '{label.column}' has numbers below 0; leave it out")
    elif is_flag and label.at_least:
        raise ConfigError(f"{key}.at_least = {label.at_least}: '{label.column}' is true or false; leave it at 0")
