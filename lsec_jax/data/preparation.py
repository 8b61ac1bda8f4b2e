"""The whole job of `python -m lsec_jax.prepare`: read, check, split, write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from lsec_jax import config as config_lib
from lsec_jax.config import RunConfig
from lsec_jax.data import store
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import SPLITS, LiveCommerceData


def run(config: RunConfig, directory: Path, quarantine: bool) -> str:
    """Writes a config's data, split as its runs would split it.

    Args:
        config: its source, its split and its model's tasks count.
        directory: new, empty, interrupted, or of the same source and settings.
        quarantine: leave out and count wrong rows instead of refusing them.

    Returns:
        What there is, as text.

    Raises:
        ConfigError, DataError: before anything is written.
    """
    tasks = config.model.task_relations
    settings = config_lib.to_json(config)
    source = {name: settings[name] for name in ("data", "split", "histories")}
    source |= {"tasks": list(tasks), "quarantine": quarantine}
    if store.check_directory(directory, source):
        logging.warning(
            "%s was prepared from this config before and is left as it is; remove it if the source has changed",
            directory,
        )
        return summary(store.read(directory))
    data = config.data.load()
    if quarantine:
        data = data.quarantined()
    data.validate()
    data = assign_splits(data, config.split, tasks)
    data = add_histories(data, config.histories)
    size = sum(values.nbytes for values in store.columns_of(data).values())
    with tqdm(total=size, unit="B", unit_scale=True, desc="writing") as bar:

        def show(path: str, num_bytes: int) -> None:
            bar.set_postfix_str(path, refresh=False)
            bar.update(num_bytes)

        store.write(data, directory, source, show)
    logging.info("wrote %s", directory)
    return summary(store.read(directory))


def summary(data: LiveCommerceData) -> str:
    """Tables with their rows, splits and columns, and the counts, as Markdown."""
    lines = [f"# {data.name}", "", "| table | rows | train / validation / test | columns |", "|---|---|---|---|"]
    for name, table in data.nodes.items():
        lines.append(_line(f"nodes {name}", len(table), None, table.features))
    for name, relation in data.relations.items():
        there = [column for column in ("time", "weight") if getattr(relation, column) is not None]
        ends = f"relation {name}: {relation.source} - {relation.target}"
        lines.append(_line(ends, len(relation), relation.split, dict.fromkeys(there)))
    for name, events in data.events.items():
        columns = {**events.nodes, **events.values, **events.features}
        lines.append(_line(f"events {name}", len(events), events.split, columns))
    for name, of in data.histories.items():
        lines.append(_line(f"histories {name}: {of.owner} - {of.item}", len(of.items), None, {**of.ends, **of.last}))
    for name, tree in data.trees.items():
        lines.append(_line(f"tree of {name}", len(tree.parents), None, {}))
    for name, availability in data.availability.items():
        lines.append(_line(f"availability of {name}", len(availability.start), None, {}))
    counts = [f"- {text}: {count}" for text, count in sorted(data.counts.items()) if count]
    return "\n".join([*lines, "", *counts, ""])


def _line(name: str, num_rows: int, split: np.ndarray | None, columns: Mapping[str, Any]) -> str:
    parts = "-" if split is None else " / ".join(map(str, np.bincount(split, minlength=len(SPLITS))))
    return f"| {name} | {num_rows} | {parts} | {', '.join(columns) or '-'} |"
