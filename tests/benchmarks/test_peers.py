"""What peers of the throughput suite need apart from their own packages, which are not here."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import runs
from benchmarks.throughput.peers import prepared, training
from lsec_jax.config import RunConfig
from lsec_jax.data import preparation
from lsec_jax.data.sources import prepared as prepared_source
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.schema import SPLITS

PEERS = runs.ROOT / "benchmarks" / "throughput" / "peers"


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workload") / "tiny"
    preparation.run(RunConfig(data=synthetic.tiny(), model=lsec_gnn.Config()), folder)
    return folder


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=PEERS, capture_output=True, text=True)


def test_peers_read_the_edges_and_nodes_that_our_runs_read(workload):
    data = prepared_source.Config(str(workload)).load()
    assert prepared.num_nodes(workload) == {name: len(table) for name, table in data.nodes.items()}
    for (name, relation), code in itertools.product(data.relations.items(), SPLITS.values()):
        edges = prepared.edges(workload, name, code)
        assert (edges.source, edges.target) == (relation.source, relation.target)
        for theirs, ours in zip(edges[2:], relation.edges(code), strict=True):
            np.testing.assert_array_equal(theirs, ours)


def test_the_authors_code_is_given_the_training_edges_alone(workload, tmp_path):
    write = "import runpy, sys; from pathlib import Path; of = runpy.run_path('rechub.py')"
    done = python("-c", f"{write}; of['write_training_files'](*map(Path, sys.argv[1:]))", workload, tmp_path)
    assert done.returncode == 0, done.stderr
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert [task["filename"] for task in metadata["task"]] == ["user-item-buy.tsv", "user-streamer-follow.tsv"]
    assert [edge["filename"].split("-")[2] for edge in metadata["graph"]["edge"]] == [
        "buy.tsv",
        "follow.tsv",
        "sell.tsv",
    ]
    for file in (edge["filename"] for edge in metadata["graph"]["edge"]):
        edges = prepared.edges(workload, Path(file).stem.split("-")[2])
        pairs = np.loadtxt(tmp_path / "train" / file, np.int64, skiprows=1)
        np.testing.assert_array_equal(pairs, np.stack(edges[2:], axis=1))
    for node in metadata["graph"]["node"]:
        lines = (tmp_path / "train" / node["filename"]).read_text().split()
        assert lines[1:] == [str(i) for i in range(prepared.num_nodes(workload)[lines[0]])]


def test_a_peer_says_that_it_does_not_have_a_row(workload):
    done = python("rechub.py", "step/none", workload, "--quick")
    assert done.returncode == 0 and "step/lsec_gat" in json.loads(done.stdout)["unavailable"]


def test_a_training_loop_in_lockstep_makes_a_batch_and_trains_on_it_once_a_run():
    events = []

    def loader():
        for number in range(3):
            events.append(f"batch {number}")
            yield number

    def train(lockstep):
        for batch in lockstep.batches(Again(loader), is_wanted=lambda number: number != 1):
            events.append(f"step {batch}")

    work = training.Lockstep(train)
    assert events == []
    done = []
    for _ in range(4):
        work.run()
        done.append(events[-1])
    assert done == ["step 0", "step 2", "step 0", "step 2"]
    assert events[:3] == ["batch 0", "step 0", "batch 1"] and len(events) == 10


class Again:
    """Calls a generator function each time that it is iterated, as a loader does."""

    def __init__(self, function):
        self.function = function

    def __iter__(self):
        return self.function()


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda lockstep: None, "has ended"),
        (lambda lockstep: sys.exit("no such task"), "no such task"),
        (lambda lockstep: list(lockstep.batches([])), "no whole batch"),
    ],
)
def test_a_training_loop_that_fails_or_ends_is_an_error_of_the_run(train, said):
    with pytest.raises(RuntimeError, match=said):
        training.Lockstep(train).run()


def test_losses_that_are_not_finite_are_refused():
    assert training.loss_report([0.5, 0.4, 0.3]) == {"first_loss": 0.5, "last_loss": 0.3}
    with pytest.raises(ValueError, match="not finite"):
        training.loss_report([0.5, float("nan")])
