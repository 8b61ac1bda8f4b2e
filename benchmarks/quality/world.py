"""The live world's statistics beside those that papers publish of real platforms; its simulation's time and memory.

Example:
  python -m benchmarks.quality.world --output=benchmarks/quality/results/world.json --seeds=0,1,2

For each size and seed a process of its own simulates the world once. "Seconds" are those of the simulation; "peak
memory" is the largest resident size of that process up to its end, the imported libraries (first number) included.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import runs, statistics
from lsec_jax import cli
from lsec_jax.config import SplitConfig, require_choice
from lsec_jax.data.live_statistics import live_statistics
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, LiveCommerceData
from lsec_jax.training import live_report

SIZES = {"tests": synthetic.live_tiny, "million": lambda seed: synthetic.Config(live=LiveConfig(), seed=seed)}
RECENT = 50  # watches; eLiveRec cuts its sequences there


@dataclasses.dataclass(frozen=True)
class Published:
    """A number of a paper.

    Attributes:
        value: in the unit of the statistic.
        data: whose it is.
        source: paper and place, of the number or of those that it is a quotient of.
    """

    value: float
    data: str
    source: str


LSEC, ELIVEREC, TREEMS, MARS = "LSEC-GNN, Table 4", "eLiveRec, Table I", "TREEMS, Table 1", "MARS, Sec. 6"
KUAILIVE, LIVEREC = "counts of the released files", "rows of the set released with LiveRec (RecSys 2021)"
# Statistics by name, with what papers say.
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "users": (Published(29_422, "LSEC-Small", LSEC), Published(202_850, "LSEC-Large", LSEC)),
    "items": (Published(31_630, "LSEC-Small", LSEC), Published(109_502, "LSEC-Large", LSEC)),
    "streamers": (Published(4_633, "LSEC-Small", LSEC), Published(7_395, "LSEC-Large", LSEC)),
    "buy: density, %": (Published(0.0485, "LSEC-Small", LSEC), Published(0.0138, "LSEC-Large", LSEC)),
    "follow: density, %": (Published(1.2178, "LSEC-Small", LSEC), Published(0.3626, "LSEC-Large", LSEC)),
    "sell: density, %": (Published(0.7972, "LSEC-Small", LSEC), Published(0.2413, "LSEC-Large", LSEC)),
    "items bought, per user": (
        Published(451_441 / 29_422, "LSEC-Small", LSEC),
        Published(3_062_463 / 202_850, "LSEC-Large", LSEC),
    ),
    "streamers followed, per user": (
        Published(1_659_943 / 29_422, "LSEC-Small", LSEC),
        Published(5_439_288 / 202_850, "LSEC-Large", LSEC),
    ),
    "goods, per streamer": (
        Published(1_168_165 / 4_633, "LSEC-Small", LSEC),
        Published(1_953_881 / 7_395, "LSEC-Large", LSEC),
    ),
    "impressions, per request": (Published(7.71, "Taobao Live", ELIVEREC),),
    "impressions that are watched, %": (Published(100 * 1.27e8 / 1.08e9, "Taobao Live", ELIVEREC),),
    "watches, per request": (Published(0.91, "Taobao Live", ELIVEREC),),
    "watches, per user and day": (
        Published(4_909_515 / 23_772 / 21, "KuaiLive", KUAILIVE),
        Published(3_051_733 / 100_000 / 43, "Twitch, 100k users", LIVEREC),
    ),
    "watches of a streamer watched before, %": (),
    f"repeats among a user's last {RECENT} watches, %": (
        Published(100 * (1 - 27.78 / 41.29), "Taobao Live", "eLiveRec, Table I and Sec. VI"),
    ),
    f"number of a user's last {RECENT} watches": (Published(41.29, "Taobao Live", ELIVEREC),),
    "rooms, per streamer and day": (Published(11_613_708 / 452_621 / 21, "KuaiLive", KUAILIVE),),
    "friends, per user who has some": (Published(1.3e9 / 3.2e8, "Taobao", TREEMS),),
    "payments, per user who has some": (Published(4.7e7 / 3.6e7, "Taobao", TREEMS),),
    "friends shared with, per user who has some": (Published(7.4e8 / 1.3e8, "Taobao", TREEMS),),
    "scenarios": (Published(200, "Taobao, 'more than'", "TREEMS, Sec. 4.1.1"),),
    "shares in the largest tenth of the scenarios, %": (),
    "gifts, per watch": (Published(72_646 / 4_909_515, "KuaiLive", KUAILIVE),),
    "gifts within a minute after another in the room, %": (Published(94.6, "Douyu", f"{MARS}.2"),),
    "gifts, per user": (
        Published(64.9e6 / 7e6, "Douyu", f"{MARS}.1.2"),
        Published(86e3 / 600e3, "Twitch-Full", f"{MARS}.1.2"),
    ),
    "purchases of the test period of items unseen in training, %": (),
}
NOTES = (
    "The world is made to test models and is not fitted to these platforms. Numbers that agree were chosen as knobs "
    "(edges per node, slate size, scenarios, roughly the watch rate); they are not found.",
    "The larger world has a tenth of LSEC-Small's users, items and streamers and the same edges per node, so its "
    "densities are about ten times as high.",
    "eLiveRec's sequences are those of logged requests, without short stays; ours are one for each user who watched "
    "anything, of all watches. Ours are shorter and nevertheless repeat more. That about two thirds of all watches are "
    "repeats, the aim of the default knobs, stands in none of these papers' tables.",
    "KuaiLive's users watch about ten times as much a day, and its streamers are live three times as often; gifts are "
    "more than twenty times as rare there. Our gifts are frequent so that a world of this size has bursts at all.",
    "Douyu's viewers split their budgets into many small gifts, sent with one key; ours do not, and fewer of our gifts "
    "come within a minute after another.",
    "TREEMS's numbers are edges by covered users, on the whole app; ours are of the first 40% of the period, a "
    "friendship counts for both ends, and shares are those made inside rooms. Our users have more friends and share "
    "with fewer.",
)


def measure(size: str, seed: int) -> dict[str, Any]:
    """Simulates one world in this process; returns its time, memory and statistics."""
    imported = _peak_gib()
    config = SIZES[size](seed=seed)
    start = time.perf_counter()
    data = config.load()
    seconds = time.perf_counter() - start
    peak = _peak_gib()
    found = live_report.summary(live_statistics(data))
    return {
        "seconds": seconds,
        "imported_gib": imported,
        "peak_gib": peak,
        "statistics": world_statistics(data, found),
        "live": found,
    }


def world_statistics(data: LiveCommerceData, found: dict[str, Any]) -> dict[str, float]:
    """Numbers by the names of PUBLISHED.

    Args:
        data: a live world.
        found: the summary of its `live_statistics`.
    """
    sizes = {name: len(table) for name, table in data.nodes.items()}
    edges = {name: len(relation) for name, relation in data.relations.items()}
    watches = found["impressions"] * found["watch_rate"]
    num_recent, distinct = _recent_watches(data)
    assert data.end_time is not None
    values = {
        **{f"{name}s": float(sizes[name]) for name in ("user", "item", "streamer")},
        **{
            f"{name}: density, %": 100 * edges[name] / (sizes[data.relations[name].source] * sizes[of.target])
            for name, of in data.relations.items()
            if name in ("buy", "follow", "sell")
        },
        "items bought, per user": edges["buy"] / sizes["user"],
        "streamers followed, per user": edges["follow"] / sizes["user"],
        "goods, per streamer": edges["sell"] / sizes["streamer"],
        "impressions, per request": found["impressions"] / found["requests"],
        "impressions that are watched, %": 100 * found["watch_rate"],
        "watches, per request": found["watches_per_request"],
        "watches, per user and day": watches / sizes["user"] / data.end_time,
        "watches of a streamer watched before, %": 100 * found["repeat_share"],
        f"repeats among a user's last {RECENT} watches, %": 100 * (1 - distinct / num_recent),
        f"number of a user's last {RECENT} watches": num_recent,
        "rooms, per streamer and day": sizes["room"] / sizes["streamer"] / data.end_time,
        "friends, per user who has some": _per_user(data, "friend"),
        "payments, per user who has some": _per_user(data, "pay"),
        "friends shared with, per user who has some": _per_user(data, "share_view"),
        "scenarios": float((data.trees["scenario"].depths() == data.trees["scenario"].depths().max()).sum()),
        "shares in the largest tenth of the scenarios, %": 100 * found["shares"]["share_of_the_largest_tenth"],
        "gifts, per watch": found["gifts"]["number"] / watches,
        "gifts within a minute after another in the room, %": 100 * found["gifts"]["within_a_minute_of_another"],
        "gifts, per user": found["gifts"]["number"] / sizes["user"],
        "purchases of the test period of items unseen in training, %": 100 * _unseen(data),
    }
    return {name: values[name] for name in PUBLISHED}


def _recent_watches(data: LiveCommerceData) -> tuple[float, float]:
    """(number, number of different streamers) of the last RECENT watches, mean over users who watched."""
    impression = data.events["impression"]
    rows = np.flatnonzero(impression.value("watched"))
    users = impression.ids("user")[rows].astype(np.int64)
    rows, users = rows[order := np.argsort(users, kind="stable")], users[order]
    ends = np.searchsorted(users, users, side="right")
    recent = ends - np.arange(len(users)) <= RECENT
    streamers = impression.ids("streamer")[rows][recent]
    users = users[recent]
    pairs = np.unique(users * (streamers.max() + 1) + streamers)
    num_users = len(np.unique(users))
    return len(users) / num_users, len(pairs) / num_users


def _per_user(data: LiveCommerceData, name: str) -> float:
    """Edges per user with at least one, as a source."""
    relation = data.relations[name]
    return len(relation) / len(np.unique(relation.source_ids))


def _unseen(data: LiveCommerceData) -> float:
    buy = assign_splits(data, SplitConfig(method="time"), ("buy",)).relations["buy"]
    assert buy.split is not None
    return float(np.mean(~np.isin(buy.target_ids[buy.split == TEST], buy.target_ids[buy.split == TRAIN])))


def collect(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and spreads over seeds by size, beside the published numbers."""
    worlds = {}
    for size, of in outcomes.items():
        worlds[size] = {
            "impressions": of[0]["live"]["impressions"],
            "statistics": {
                name: statistics.summary([outcome["statistics"][name] for outcome in of]) for name in PUBLISHED
            },
            **{
                key: statistics.summary([outcome[key] for outcome in of])
                for key in ("seconds", "imported_gib", "peak_gib")
            },
            "of_each_seed": [outcome["live"] for outcome in of],
        }
    published = {name: [dataclasses.asdict(value) for value in values] for name, values in PUBLISHED.items()}
    return {"worlds": worlds, "published": published}


def main() -> None:
    """Runs the command."""
    seeds, sizes, output = runs.parse_seeds(flags.FLAGS.seeds), flags.FLAGS.sizes, Path(flags.FLAGS.output)
    for size in sizes:
        require_choice("--sizes", size, tuple(SIZES))
    runs.check_output(output)
    environment = runs.environment()
    outcomes: dict[str, list[dict[str, Any]]] = {size: [] for size in sizes}
    for size in sizes:
        for seed in seeds:
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                outcomes[size].append(pool.submit(measure, size, seed).result())
            logging.info("%s, seed %d: %.1f s", size, seed, outcomes[size][-1]["seconds"])
    runs.write_result(output, "world", {"seeds": seeds, **collect(outcomes)}, environment)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the worlds.")
    flags.DEFINE_list("sizes", list(SIZES), f"Any of: {', '.join(SIZES)}.")
    flags.DEFINE_string("output", str(runs.QUALITY / "world.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
