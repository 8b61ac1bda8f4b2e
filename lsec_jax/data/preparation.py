"""The whole job of `python -m lsec_jax.prepare`: read, check, split, derive histories, write."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from lsec_jax import config as config_lib
from lsec_jax import config_json
from lsec_jax.config import RunConfig
from lsec_jax.data import candidates, event_statistics, store
from lsec_jax.data.columns import Workspace
from lsec_jax.data.files import expand_path
from lsec_jax.data.sequences import add_histories, check_histories
from lsec_jax.data.sources.offers import check_needs
from lsec_jax.data.splits import assign_splits, check_tasks
from lsec_jax.data.views import add_views, check_views
from lsec_jax.data.writer import Writer, check_directory
from lsec_jax.schema import LiveCommerceData


def run(
    config: RunConfig,
    directory: Path,
    quarantine: bool = False,
    freeze_candidates: bool = False,
    memory_bytes: int = 2**30,
) -> str:
    """Writes a config's data, split as its runs would split it, with its histories and views.

    Args:
        config: its source, its split, its histories, its views and its model's tasks count.
        directory: new, empty, interrupted, or of the same source and settings.
        quarantine: leave out and count wrong rows instead of refusing them.
        freeze_candidates: draw the candidate lists of the config's evaluation and keep them with the data.
        memory_bytes: what sorting events may take before it uses the disk, for sources that read in blocks.

    Returns:
        What there is, as text.

    Raises:
        ConfigError, DataError: and the directory is as it was.
    """
    config_lib.validate(config)
    tasks = config.model.task_tables
    if hasattr(config.data, "outline"):
        _check_settings(config.data.outline(), config)
    settings = config_json.to_json(config)
    if getattr(config.data, "path", ""):
        settings["data"]["path"] = str(expand_path(config.data.path).resolve())
    source = {name: settings[name] for name in ("data", "split", "histories")}
    source |= {"views": settings["views"]} if config.views else {}
    source |= {"tasks": list(tasks), "quarantine": quarantine, "frozen_candidates": None}
    if freeze_candidates:
        source["frozen_candidates"] = {
            name: settings["evaluation"][name] for name in ("num_candidates", "candidates_seed")
        }
    if check_directory(directory, source):
        logging.warning(
            "%s was prepared from this config before and is left as it is; remove it if the source has changed",
            directory,
        )
        return summary(store.read(directory))
    with Writer(directory, source) as writer, _Progress() as progress:
        progress.show("reading", 0.0)
        workspace = Workspace(writer.new_column, writer.scratch, memory_bytes, quarantine, progress.show)
        data = config.data.load_into(workspace) if hasattr(config.data, "load_into") else config.data.load()
        progress.show("checking", 0.0)
        _check_settings(data, config)
        if quarantine:
            data = data.quarantined()
        else:
            data.validate()
        progress.show("splitting", 0.0)
        data = assign_splits(data, config.split, tasks, writer.new_column)
        if freeze_candidates:
            data = candidates.freeze_candidates(data, tasks[0], config.evaluation)
        progress.show("histories", 0.0)
        data = add_histories(data, config.histories, writer.new_column)
        data = add_views(data, config.views, tasks[0], writer.new_column)
        progress.show("statistics", 0.0)
        statistics = event_statistics.describe(data)
        size = sum(values.nbytes for values in store.columns_of(data).values())
        writer.finish(data, statistics, lambda num_bytes: progress.show("writing", num_bytes / max(size, 1)))
    logging.info("wrote %s", directory)
    return summary(store.read(directory))


def _check_settings(data: LiveCommerceData, config: RunConfig) -> None:
    """Raises ConfigError or DataError for what the config asks of tables that the data has not."""
    check_needs(data, config.model.needs)
    check_tasks(data, config.model.task_tables)
    check_histories(data, config.histories)
    check_views(data, config.views, config.model.task_tables[0])


class _Progress:
    """One bar for each stage, with the time it took."""

    def __init__(self) -> None:
        self._stage, self._start = "", 0.0
        self._bar: tqdm | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        self._close()

    def show(self, stage: str, share: float) -> None:
        """Adds a share of a stage to what is done; another stage ends the one before."""
        if stage != self._stage:
            self._close()
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            self._stage, self._start = stage, time.monotonic()
            self._bar = tqdm(total=1.0, desc=stage, bar_format=form)
        assert self._bar is not None
        self._bar.update(min(share, 1.0 - self._bar.n))  # shares may add up to a little more than one

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            logging.info("%s: %.1f s", self._stage, time.monotonic() - self._start)


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
    for name, view in data.views.items():
        lines.append(_line(f"view {name}: {view.node_type} - {view.node_type}", len(view.neighbours), None, {}))
    for name, tree in data.trees.items():
        lines.append(_line(f"tree of {name}", len(tree.parents), None, {}))
    for name, availability in data.availability.items():
        lines.append(_line(f"availability of {name}", len(availability.start), None, {}))
    counts = [f"- {text}: {count}" for text, count in sorted(data.counts.items()) if count]
    return "\n".join([*lines, "", *counts, ""])


def _line(name: str, num_rows: int, split: np.ndarray | None, columns: Mapping[str, Any]) -> str:
    parts = "-" if split is None else " / ".join(map(str, event_statistics.split_sizes(split)))
    return f"| {name} | {num_rows} | {parts} | {', '.join(columns) or '-'} |"
