"""The whole job of `python -m lsec_jax.analyze`: load, analyse, draw, write."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data import analysis
from lsec_jax.data.files import write_json
from lsec_jax.data.live_statistics import SECONDS, LiveStatistics, live_statistics
from lsec_jax.schema import LiveCommerceData
from lsec_jax.training import analysis_plots, analysis_report, figure4, live_report, reports
from lsec_jax.training.data_records import describe_data
from lsec_jax.training.writers import check_folder, make_directory

FILES = ("analysis.md", "influence.png", "users.png", "items.png", "live.png", "figure4.json", "figure4.png")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is analysed and how much is drawn.

    Attributes:
        purchase, follow, sell: names of the relations.
        num_draws: (user, item) pairs of each repeat of the Monte Carlo method.
        num_pairs: pairs of users, and of items, in each group.
        seed: of all that is drawn.
        time_unit: of the data's times, for stays and bursts: one of `live_statistics.SECONDS`.
    """

    purchase: str = "buy"
    follow: str = "follow"
    sell: str = "sell"
    num_draws: int = 20_000_000
    num_pairs: int = 1_000_000
    seed: int = 0
    time_unit: str = "days"


def run(
    config: RunConfig, settings: Settings, output: Path, workdirs: Mapping[str, Path], plugins: tuple[str, ...] = ()
) -> str:
    """Analyses all edges of the config's data, before any split, as the paper does, and writes into `output`.

    Args:
        config: its data source counts, and nothing else.
        settings: relations and sizes.
        output: new, empty or of an earlier analysis, which is replaced.
        workdirs: of the runs for Figure 4 by role (`figure4.ROLES`), empty for no such figure.
        plugins: packages besides lsec_jax whose classes the runs' configs may name.

    Returns:
        The tables as Markdown.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
    """
    start = time.perf_counter()
    check_folder(output, "analysis.json", analysis_report.MARK, "analysis")
    configs = figure4.read_configs(workdirs, settings.purchase, plugins)
    data = _timed("loaded the data", config.data.load)
    data.validate()
    graph = analysis.tripartite(data, settings.purchase, settings.follow, settings.sell)
    # One stream per part, so that e.g. another number of draws leaves the pairs as they were.
    streams = [np.random.default_rng(part) for part in np.random.SeedSequence(settings.seed).spawn(4)]
    found = figure4.compute(data, graph, workdirs, configs, streams[3]) if workdirs else None
    truth = _true_probabilities(data, settings.purchase)
    influence = _timed(
        "purchases with and without a streamer between",
        lambda: analysis.influence(graph, streams[0], settings.num_draws, true_probabilities=truth),
    )
    users = _timed("pairs of users", lambda: analysis.user_similarity(graph, streams[1], settings.num_pairs))
    items = _timed("pairs of items", lambda: analysis.item_similarity(graph, streams[2], settings.num_pairs))
    live = _timed("what happens in the rooms", lambda: _live_statistics(data, settings.time_unit))
    content = {
        "written_by": analysis_report.MARK,
        "data": describe_data(data),
        "edges": "all, before any split",
        "settings": dataclasses.asdict(settings),
        "influence": analysis_report.influence_summary(influence),
        "users": analysis_report.similarity_summary(users),
        "items": analysis_report.similarity_summary(items),
        "live": None if live is None else live_report.summary(live),
        "environment": reports.environment(),
        "seconds": round(time.perf_counter() - start, 2),
    }
    text = analysis_report.markdown(data.name, graph, content)
    text += "" if live is None else "\n".join(["", *live_report.markdown(live_report.summary(live)), ""])
    pictures = {
        "influence": analysis_plots.influence(influence, graph),
        "users": analysis_plots.similarity(users, f"follow one {graph.follow.target}"),
        "items": analysis_plots.similarity(items, f"sold by one {graph.sell.source}"),
        **({} if live is None else {"live": live_report.figure(live)}),
    }
    _write(output, content, text, pictures)
    if found is not None:
        _write_figure4(output, found, data, graph)
    logging.info("done in %.1f s", time.perf_counter() - start)
    return text


def _write(output: Path, content: Mapping[str, Any], text: str, pictures: Mapping[str, Figure]) -> None:
    """Writes an analysis; what an earlier one left goes first, so that nothing old stands beside the new."""
    make_directory(output, f"--output={output}")
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    write_json(output / "analysis.json", content)
    (output / "analysis.md").write_text(text)
    for name, picture in pictures.items():
        picture.savefig(output / f"{name}.png", dpi=130)


def _write_figure4(output: Path, found: figure4.Figure4, data: LiveCommerceData, graph: analysis.Tripartite) -> None:
    write_json(output / "figure4.json", figure4.summary(found, data, graph))
    streamer = graph.follow.target
    names = [str(name) for name in data.nodes[streamer].ids[found.streamers]]
    analysis_plots.figure4(found.panels, names, streamer).savefig(output / "figure4.png", dpi=130)


def _live_statistics(data: LiveCommerceData, time_unit: str) -> LiveStatistics | None:
    """Of data with impressions."""
    if time_unit not in SECONDS:
        raise ConfigError(f"--time_unit={time_unit}: unknown; use one of {', '.join(SECONDS)}")
    return live_statistics(data, time_unit) if "impression" in data.events else None


def _true_probabilities(data: LiveCommerceData, purchase: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Users [b] -> P(purchase in the observed period) [b, n_items], or None where no truth is known."""
    truth, end = data.truth, data.end_time
    if truth is None or end is None or purchase not in truth.relations:
        return None
    return lambda user_ids: truth.probabilities(purchase, user_ids, 0.0, end)


def _timed(text: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    logging.info("%s: %.1f s", text, time.perf_counter() - start)
    return result
