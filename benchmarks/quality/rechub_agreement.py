"""Our LSEC-GCN and metrics beside those of the LSEC-GNN authors' package, on the same files.

Example:
  python -m benchmarks.quality.rechub_agreement --peer_python=PEER/bin/python --seeds=0,1,2

Writes a simulated world in the LSEC format with candidate lists; compares both sides' metric functions on the same
scores without ties; trains both on those files and compares validation metrics at equal positives seen per task.
benchmarks/quality/peers/README.md says how to install the peer. Finished runs are not run again.
"""

import dataclasses
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import runs, statistics
from lsec_jax import cli, metrics
from lsec_jax.config import ConfigError, EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.files import write_json
from lsec_jax.data.sources import lsec, synthetic
from lsec_jax.data.splits import assign_splits
from lsec_jax.models import lsec_gnn
from lsec_jax.schema import TEST, TRAIN, VALIDATION, Candidates
from lsec_jax.training import fit, reports

DRIVER = runs.ROOT / "benchmarks" / "quality" / "peers" / "rechub_lsec_gcn.py"
PEER_BATCH = 4096
TOLERANCE = 1e-6
TASK_FILES = {"buy": "user-item-buy", "follow": "user-streamer-follow"}
COMPARED = ("auc", "ndcg@10")
CUTOFFS = (10, 50)
NOTES = (
    "Theirs: an epoch is one random edge of every source node of every relation, mixed in batches of 4,096; 'sell' "
    "edges take part without a loss. Ours: uniform batches of each task's edges, as many per step as theirs on "
    "average.",
    "Theirs: sampled neighbours and unfiltered negatives. Ours: the whole graph, known positives masked.",
    "Ours here as theirs: degrees without the step's own edges, no self-connections, a weight matrix per direction, "
    "no last activation, embeddings N(0, 1), learning rate 5e-4, 4 negatives.",
    "Early in training theirs is at popularity's level; the longer run shows it rise.",
    "Their ranks of equal scores depend on the place in the file, so metric functions are compared on scores without "
    "ties.",
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Both sides' rhythm for equal positives per task.

    Attributes:
        epochs_per_point: of the peer, between two budgets.
        steps_per_epoch: of the peer; ours does as many.
        positives_per_epoch: of the peer, by task.
        batch_size: ours, per task.
        points: budgets.
    """

    epochs_per_point: int
    steps_per_epoch: int
    positives_per_epoch: dict[str, int]
    batch_size: int
    points: int

    @property
    def steps_per_point(self) -> int:
        """Optimizer steps between two budgets, on both sides."""
        return self.epochs_per_point * self.steps_per_epoch


def world(variant: str) -> synthetic.Config:
    """A world at LSEC-Small's proportions."""
    if variant == "tiny":
        return synthetic.tiny()
    edges = {"num_buy": 30_000, "num_follow": 110_000, "num_sell": 76_000}
    return synthetic.Config(num_users=2000, num_items=2000, num_streamers=300, **edges)


def write_data(
    config: synthetic.Config, num_candidates: int, directory: Path, num_users: int | None = None
) -> dict[str, Any]:
    """Writes the world with candidate lists of both held-out splits; returns what the format could not hold.

    Args:
        config: of the world.
        num_candidates: per user.
        directory: new or empty.
        num_users: of each split, at random; None = all. Held-out edges of others are in no file then.
    """
    data = assign_splits(config.load(), SplitConfig(), ("buy", "follow"))
    lists = {("buy", split): generate_candidates(data, "buy", split, num_candidates, 0) for split in (VALIDATION, TEST)}
    if num_users is not None:
        lists = {key: _some_users(of, num_users) for key, of in lists.items()}
    lost = lsec.write(data, directory, lists)
    _add_task(directory / "metadata.json", "follow")
    return {"name": data.name, "not_written": lost, "candidates": lists["buy", VALIDATION].origin}


def _add_task(metadata: Path, relation: str) -> None:
    """Lists a relation that is trained on but has no candidates, which `lsec.write` refuses."""
    content = json.loads(metadata.read_text())
    content["task"].append({**content["task"][0], "filename": f"{TASK_FILES[relation]}.tsv"})
    write_json(metadata, content)


def _some_users(lists: Candidates, num_users: int) -> Candidates:
    rows = np.random.default_rng(0).permutation(len(lists.source_ids))[:num_users]
    rows.sort()
    origin = f"{lists.origin}, of {len(rows)} users at random"
    return Candidates(lists.source_ids[rows], lists.target_ids[rows], lists.labels[rows], origin)


def plan(directory: Path, positives: int, points: int) -> Schedule:
    """Works out the rhythm from the files: the peer's epoch has one training edge of every source node."""
    data = lsec.Config(path=str(directory)).load()
    sources = {name: len(np.unique(relation.edges(TRAIN)[0])) for name, relation in data.relations.items()}
    steps = -(-sum(sources.values()) // PEER_BATCH)
    epochs = max(1, round(positives / points / sources["buy"]))
    tasks = {name: sources[name] for name in ("buy", "follow")}
    return Schedule(epochs, steps, tasks, max(1, round(sources["buy"] / steps)), points)


def our_config(directory: Path, schedule: Schedule, seed: int) -> RunConfig:
    """LSEC-GCN as the authors' code has it."""
    return RunConfig(
        data=lsec.Config(path=str(directory)),
        model=lsec_gnn.Config(self_loop=False, weights_per_direction=True, last_activation="none", embedding_std=1.0),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        training=TrainingConfig(
            num_steps=schedule.points * schedule.steps_per_point,
            batch_size=schedule.batch_size,
            evaluate_every=schedule.steps_per_point,
            patience=0,
            metric="auc",
        ),
        evaluation=EvaluationConfig(protocols=("candidates",), cutoffs=CUTOFFS, baselines=("popularity",)),
        seed=seed,
    )


def train_ours(config: RunConfig, schedule: Schedule, workdir: Path) -> dict[str, Any]:
    """Trains ours; returns the "points" and the "popularity" row of validation."""
    fit.run(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    points = [
        {
            "steps": line["step"],
            "positives": dict.fromkeys(schedule.positives_per_epoch, line["step"] * schedule.batch_size),
            "train_seconds": line["train_seconds"],
            **{metric: line[metric] for metric in COMPARED},
        }
        for line in lines
        if line["kind"] == "validation"
    ]
    rows = reports.read(workdir)["rows"]
    floor = next(row for row in rows if (row["model"], row["split"]) == ("popularity", "validation"))
    return {"points": points, "popularity": floor["metrics"]}


def train_theirs(directory: Path, prefix: Path, seed: int, eval_every: int, *options: Any) -> dict[str, Any]:
    """Trains the peer.

    Args:
        directory: of the data set.
        prefix: of PREFIX.run.json, PREFIX.npy (validation scores) and PREFIX.log, which are written.
        seed: of the run.
        eval_every: its epochs between two points.
        *options: the driver's, with the budget among them.

    Returns:
        The "points".
    """
    output = prefix.with_suffix(".run.json")
    _call_driver(
        prefix.with_suffix(".log"),
        *("--data", directory, "--seed", seed, "--eval-every", eval_every, "--patience", 1_000_000, "--no-test"),
        *("--batch-size", PEER_BATCH, "--output", output, "--scores", prefix.with_suffix(".npy"), *options),
    )
    return {"points": their_points(output)}


def their_points(output: Path) -> list[dict[str, Any]]:
    """The evaluations that the driver wrote, without the one before training."""
    history = json.loads(output.read_text())["history"]
    return [
        {
            "steps": row["steps"],
            "positives": {name: row["positives"][file] for name, file in TASK_FILES.items()},
            "train_seconds": row["seconds_training"],
            "core_seconds": row["core_seconds_training"],
            **{metric: row["val"][metric.upper()] for metric in COMPARED},
        }
        for row in history
        if row["epoch"]
    ]


def check_peer() -> None:
    """Refuses a --peer_python that is not there; raises ConfigError."""
    if not Path(flags.FLAGS.peer_python).expanduser().exists():
        raise ConfigError(f"--peer_python={flags.FLAGS.peer_python}: no such file; see {DRIVER.parent / 'README.md'}")


def peer_versions(log: Path) -> dict[str, str]:
    """Versions of the peer's main packages."""
    names = ("rechub", "dgl", "torch", "numpy", "scikit-learn", "pandas")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    _call_peer(log, "-c", code)
    return json.loads(log.read_text())


def _call_driver(log: Path, *arguments: Any) -> None:
    _call_peer(log, DRIVER, "--threads", flags.FLAGS.peer_threads, *arguments)


def _call_peer(log: Path, *arguments: Any) -> None:
    # Not resolved: the link is what makes the environment.
    python = Path(flags.FLAGS.peer_python).expanduser().absolute()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as file:
        done = subprocess.run([python, *map(str, arguments)], env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n  ".join(log.read_text().splitlines()[-5:])
        raise ConfigError(f"the peer ended with code {done.returncode}; see {log}\n  {tail}")


def compare_metrics(directory: Path, trained_scores: np.ndarray, workdir: Path) -> dict[str, Any]:
    """Both sides' metrics of the same tie-free scores of the validation candidates.

    Args:
        directory: of the data set.
        trained_scores: of the candidate file's rows, from a trained model, [rows].
        workdir: for the files that both read.

    Returns:
        "score_sets" by name and metric, the "largest" absolute difference, and whether it "agrees".
    """
    tsv = directory / "val" / "user-item-buy.tsv"
    users, _, is_positive = np.loadtxt(tsv, dtype=np.int64, delimiter="\t", skiprows=1, unpack=True)
    width = int(np.bincount(users).max())
    assert (users.reshape(-1, width) == users.reshape(-1, width)[:, :1]).all(), "we write the lists user by user"
    labels = is_positive.reshape(-1, width).astype(bool)
    noise = np.random.default_rng(0).normal(size=len(users))
    score_sets = {"random": noise, "informed": noise + is_positive, "the peer's trained model": trained_scores}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for i, (name, scores) in enumerate(score_sets.items()):
        scores = without_ties(scores)
        prefix = workdir / f"scores{i}"
        np.save(prefix.with_suffix(".npy"), scores, allow_pickle=False)
        arguments = (
            "--scores",
            prefix.with_suffix(".npy"),
            "--labels-tsv",
            tsv,
            "--output",
            prefix.with_suffix(".json"),
        )
        _call_driver(prefix.with_suffix(".log"), "--metrics-only", *arguments)
        theirs = json.loads(prefix.with_suffix(".json").read_text())["metrics"]
        per_user = metrics.candidate_metrics(scores.reshape(labels.shape), labels, CUTOFFS)
        ours = {metric: float(np.asarray(values).mean(dtype=np.float64)) for metric, values in per_user.items()}
        result[name] = {
            metric.lower(): {"ours": ours[metric.lower()], "theirs": value, "difference": ours[metric.lower()] - value}
            for metric, value in theirs.items()
        }
    largest = max(abs(row["difference"]) for rows in result.values() for row in rows.values())
    agrees = largest <= TOLERANCE
    return {"score_sets": result, "largest": largest, "tolerance": TOLERANCE, "agrees": agrees, "users": len(labels)}


def without_ties(scores: np.ndarray) -> np.ndarray:
    """Returns the rank of each score among all, [n] float32: the same order, ties broken by place."""
    if len(scores) > 2**24:
        raise ValueError(f"{len(scores)} ranks are not exact in float32; at most {2**24}")
    ranks = np.empty(len(scores), np.float32)
    ranks[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    return ranks


def compare_points(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both sides at each budget, over seeds; differences are ours - theirs."""
    result = []
    for our_points, their_points in zip(
        zip(*(run["points"] for run in ours), strict=True),
        zip(*(run["points"] for run in theirs), strict=True),
        strict=True,
    ):
        sides = {"ours": our_points, "theirs": their_points}
        point: dict[str, Any] = {
            side: {
                "positives": values[0]["positives"],
                "steps": values[0]["steps"],
                **{
                    name: statistics.summary([value[name] for value in values]) for name in (*COMPARED, "train_seconds")
                },
            }
            for side, values in sides.items()
        }
        point["difference"] = {
            metric: statistics.welch_difference(point["ours"][metric]["values"], point["theirs"][metric]["values"])
            for metric in COMPARED
        }
        result.append(point)
    return result


def main() -> None:
    """Runs the command."""
    output, workdir, seeds = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir), runs.parse_seeds(flags.FLAGS.seeds)
    runs.check_output(output)
    check_peer()
    directory, config = workdir / "data", world(flags.FLAGS.variant)
    common = {"world": dataclasses.asdict(config), "num_candidates": flags.FLAGS.num_candidates}
    data = runs.finished_or(
        workdir / "data.json", common, functools.partial(write_data, config, flags.FLAGS.num_candidates, directory)
    )
    schedule = plan(directory, flags.FLAGS.positives, flags.FLAGS.points)
    settings = {**common, "schedule": dataclasses.asdict(schedule), "peer_threads": flags.FLAGS.peer_threads}
    ours, theirs = [], []
    for seed in seeds:
        run_config, prefix = our_config(directory, schedule, seed), workdir / f"theirs_seed{seed}"
        work = functools.partial(train_ours, run_config, schedule, workdir / f"ours_seed{seed}")
        key = {**common, "config": runs.as_json(run_config)}
        ours.append(runs.finished_or(workdir / f"ours_seed{seed}.json", key, work))
        budget = ("--epochs", schedule.points * schedule.epochs_per_point)
        work = functools.partial(train_theirs, directory, prefix, seed, schedule.epochs_per_point, *budget)
        theirs.append(runs.finished_or(prefix.with_suffix(".json"), {**settings, "seed": seed}, work))
        logging.info("seed %d: ours %s, theirs %s", seed, ours[-1]["points"][-1], theirs[-1]["points"][-1])
    scores = np.load(workdir / f"theirs_seed{seeds[0]}.npy", allow_pickle=False)
    agreement = compare_metrics(directory, scores, workdir)
    result = {
        "benchmark": output.stem,
        "seeds": seeds,
        "data": data,
        "metric_functions": agreement,
        "points": compare_points(ours, theirs),
        "popularity": ours[0]["popularity"],
        "settings": settings,
        "config": runs.as_json(our_config(directory, schedule, seeds[0])),
        "peer": peer_versions(workdir / "peer_versions.json"),
        "environments": runs.distinct([run["environment"] for run in (*ours, *theirs)]),
        "command": runs.command(),
    }
    write_json(output, result)
    logging.info("wrote %s", output)
    if not agreement["agrees"]:
        raise AssertionError(f"metric functions differ by {agreement['largest']:.2e}, more than {TOLERANCE}")


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_string("peer_python", None, "Python of the peer's environment.", required=True)
    flags.DEFINE_integer("peer_threads", 1, "Threads of the peer.", lower_bound=1)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the models, on both sides; one world.")
    flags.DEFINE_integer("positives", 1_600_000, "Positives per task seen at the end.", lower_bound=1)
    flags.DEFINE_integer("points", 4, "Equally spaced budgets at which both are compared.", lower_bound=1)
    flags.DEFINE_integer("num_candidates", 100, "Candidates per user.", lower_bound=2)
    flags.DEFINE_string("output", str(runs.QUALITY / "rechub.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/rechub_agreement", "Where data and runs are; reused.")
    flags.DEFINE_enum("variant", "", ["", "tiny"], "'tiny': a world of a few hundred nodes, to try the command.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
