"""All rows of the throughput suite by name."""

import importlib

from benchmarks.throughput.rows.row import Row
from lsec_jax.config import ConfigError

# Kinds of rows: names up to the first slash, and the module of each in rows/.
MODULES = {
    "propagate": "propagation",
    "step": "steps",
    "auc": "ranking",
    "evaluation": "ranking",
    "ranking": "ranking",
    "pipeline": "storage",
    "checkpoint": "storage",
    "ranker": "rankers",
    "sharing": "sharing",
}


def all_rows() -> dict[str, Row]:
    """All rows, by kind."""
    return {name: row for module in dict.fromkeys(MODULES.values()) for name, row in _rows_in(module).items()}


def row(name: str) -> Row:
    """One row; imports no code of other kinds, which an earlier revision may lack.

    Raises:
        ConfigError: there is none of this name.
    """
    module = MODULES.get(name.partition("/")[0])
    rows = {} if module is None else _rows_in(module)
    if name not in rows:
        raise ConfigError(f"there is no row '{name}'; valid: {', '.join(rows or MODULES)}")
    return rows[name]


def _rows_in(module: str) -> dict[str, Row]:
    return importlib.import_module(f"benchmarks.throughput.rows.{module}").ROWS


def chosen(prefixes: list[str]) -> dict[str, Row]:
    """The rows whose names are, or lie below, one of some paths; all of them for none.

    Raises:
        ConfigError: for a path that no row has.
    """
    rows = all_rows()
    for prefix in prefixes:
        if not any(_has(name, prefix) for name in rows):
            near = [name for name in rows if name.partition("/")[0] == prefix.partition("/")[0]]
            raise ConfigError(f"--only: there is no row '{prefix}'; valid: {', '.join(near or MODULES)}")
    return {name: row for name, row in rows.items() if not prefixes or any(_has(name, of) for of in prefixes)}


def _has(name: str, prefix: str) -> bool:
    """Whether a row is, or lies below, a path: step/lsec_gcn names that row and not step/lsec_gcn_sampled."""
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")
