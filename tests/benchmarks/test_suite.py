"""The throughput suite: its rows, its workers, and what it refuses."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import runs
from benchmarks.throughput import catalogue, contestants, machine, run, summary, targets, workloads
from benchmarks.throughput.contestants import BEFORE, OURS, Contestant, Effort, Worker
from benchmarks.throughput.peers import records
from benchmarks.throughput.rows import propagation, rankers, steps
from benchmarks.throughput.rows.row import Row
from lsec_jax.config import ConfigError
from lsec_jax.data.sources import prepared
from lsec_jax.nn.propagation import bipartite_graph, graphs_tuple
from lsec_jax.schema import TRAIN

PROTOCOL = runs.ROOT / "benchmarks" / "throughput" / "peers"
STAND_IN = """
import sys, os
sys.path.insert(0, {protocol!r})
from pathlib import Path
from protocol import Unavailable, Work, serve

def count(workload, quick):
    def one():
        print("a library says something")
        with open(workload / "turns", "a") as file:
            file.write({name!r})
    return Work(run=one, examples=3, fraction=0.5, notes="quick" if quick else "whole", finish=lambda: {{"left": 1}})

def missing(workload, quick):
    raise Unavailable("not\\nhere")

def broken(workload, quick):
    raise ValueError("a reason")

def killed(workload, quick):
    def one():
        if (workload / "turns").exists():
            os.kill(os.getpid(), 9)
        (workload / "turns").touch()
    return Work(run=one)

serve({{"count": count, "missing": missing, "broken": broken, "killed": killed}})
"""


def stand_in(tmp_path, name):
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(STAND_IN.format(protocol=str(PROTOCOL), name=name[0])))
    return Contestant(name, (sys.executable, str(path)), tmp_path)


def measured(tmp_path, row, names, effort=Effort(least=2, most=2)):  # noqa: B008, frozen
    workers = [Worker(stand_in(tmp_path, name), row, tmp_path, effort.is_quick, tmp_path / "log") for name in names]
    try:
        return contestants.measure(workers, effort)
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)


def test_workers_repeat_a_row_in_turns_after_a_run_that_does_not_count(tmp_path):
    found, reasons = measured(tmp_path, "count", [OURS, "rechub"])
    assert (tmp_path / "turns").read_text() == "lr" + "lr" * 2 and not reasons
    assert found.keys() == {OURS, "rechub"} and "a library says something" in (tmp_path / "log").read_text()
    for of in found.values():
        assert len(of["seconds"]) == len(of["cpu_seconds"]) == 2 and of["left"] == 1 and of["peak_gib"] > 0
        assert (of["examples"], of["fraction"], of["notes"]) == (3, 0.5, "whole")
        assert of["versions"]["numpy"] == np.__version__
        assert summary.summarize(of)["p50"] == pytest.approx(2 * np.median(of["seconds"]))


def test_repetitions_end_with_the_time_but_not_before_the_least(tmp_path):
    found, _ = measured(tmp_path, "count", [OURS], Effort(least=3, most=1000, seconds=0.0, is_quick=True))
    assert len(found[OURS]["seconds"]) == 3 and found[OURS]["notes"] == "quick"


@pytest.mark.parametrize(
    ("row", "is_fault", "reason"),
    [
        ("missing", False, "not here"),
        ("nothing", False, "no row 'nothing'; there are count, missing, broken, killed"),
        ("broken", True, "ValueError: a reason"),
        ("killed", True, "was killed, most likely for its memory"),
    ],
)
def test_a_contestant_that_fails_says_why_and_has_no_result(tmp_path, row, is_fault, reason):
    found, reasons = measured(tmp_path, row, ["rechub"])
    assert found == {} and reason in str(reasons["rechub"]) and reasons["rechub"].is_fault == is_fault


def test_without_a_result_of_ours_no_peer_starts(tmp_path):
    found, reasons = measured(tmp_path, "missing", [OURS, "rechub"])
    assert found == {} and reasons.keys() == {OURS}


def test_a_row_that_fails_is_reported_and_tried_again_while_finished_ones_are_kept(tmp_path, monkeypatch):
    asked = []

    def measure_row(name, size, *_):
        asked.append((name, size))
        if name == "b":
            raise run.RowFailedError("b, tiny: because")
        return {"row": name, "size": size}

    monkeypatch.setattr(run, "measure_row", measure_row)
    rows = {name: Row(make=None, sizes=("tiny",)) for name in "abc"}
    for _ in range(2):
        result = run.measure_all(rows, [], [contestants.ours()], Effort(), "", tmp_path)
        assert result["rows"] == [{"row": "a", "size": "tiny"}, {"row": "c", "size": "tiny"}]
        assert result["failed"] == [{"row": "b", "size": "tiny", "reason": "b, tiny: because"}]
    assert [name for name, _ in asked] == ["a", "b", "c", "b"]
    with pytest.raises(ConfigError, match="belongs to other settings"):
        run.measure_all(rows, [], [contestants.ours()], Effort(), "another", tmp_path)
    with pytest.raises(ConfigError, match="belongs to other settings"):
        run.measure_all(rows, [], [contestants.ours()], Effort(seconds=1.0), "", tmp_path)


def test_rows_are_chosen_by_whole_parts_of_their_names():
    assert list(catalogue.chosen(["step/lsec_gcn"])) == ["step/lsec_gcn"]
    assert set(catalogue.chosen(["propagate/buy", "auc"])) == {"auc", *(f"propagate/buy/{w}/{b}" for w, b in BOTH)}
    assert catalogue.chosen([]) == catalogue.all_rows()
    with pytest.raises(ConfigError, match="no row 'step/gcn'; valid: step/lsec_gcn, step/lsec_gcn_bcsr, "):
        catalogue.chosen(["step/gcn"])
    with pytest.raises(ConfigError, match="no row 'steps'; valid: propagate, step, auc"):
        catalogue.chosen(["steps"])


BOTH = [(width, backend) for width in propagation.WIDTHS for backend in propagation.BACKENDS]


def test_the_suite_has_every_kind_of_work():
    rows = catalogue.all_rows()
    assert {name.partition("/")[0] for name in rows} == set(catalogue.MODULES)
    assert sum(name.startswith("propagate/") for name in rows) == 3 * len(BOTH)
    assert {f"step/{model}" for model in steps.MODELS} <= rows.keys()
    assert all(set(row.peers) <= set(contestants.PEERS) for row in rows.values())
    assert all(set(row.sizes) <= set(workloads.sizes_of(row.workload)) for row in rows.values())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "pytorch=/bin/sh",
            "give NAME=PYTHON once for each of: pytorch_csr, rechub, recbole, torch_rechub, deepctr_torch",
        ),
        ("rechub", "give NAME=PYTHON"),
        ("rechub=/nowhere/python", "there is no program /nowhere/python"),
        ("rechub=/bin", "there is no program /bin"),
    ],
)
def test_peers_that_cannot_be_are_refused(value, said):
    with pytest.raises(ConfigError, match=said):
        contestants.parse_peers([value])


def test_peers_run_their_own_python_without_our_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    (peer,) = contestants.parse_peers(["rechub=/bin/sh"])
    assert peer.command == ("/bin/sh", str(PROTOCOL / "rechub.py")) and "PYTHONPATH" not in peer.environment()
    assert contestants.ours().environment()["PYTHONPATH"] == str(runs.ROOT)


def test_stored_commands_name_no_environment_of_this_machine(monkeypatch):
    monkeypatch.setattr(runs, "command", lambda: "python -m x --peers=rechub=/a/b/python,recbole=/c/python --quick")
    assert run.command() == "python -m x --peers=rechub=rechub/bin/python,recbole=recbole/bin/python --quick"


needs_git = pytest.mark.skipif(not (runs.ROOT / ".git").exists(), reason="not a git checkout")


@needs_git
def test_revisions_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="--before=nothing: no revision of this repository"):
        contestants.revision("nothing")


@needs_git
def test_an_earlier_revision_runs_with_the_benchmarks_of_now(tmp_path):
    commit = contestants.revision("HEAD")
    before = contestants.check_out(commit, tmp_path)
    assert contestants.check_out(commit, tmp_path) == before
    shown = subprocess.run(
        [sys.executable, "-c", "import lsec_jax, benchmarks.runs as r; print(lsec_jax.__file__); print(r.ROOT)"],
        cwd=before.directory,
        env=before.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    package, root = map(Path, shown.stdout.split())
    assert package == tmp_path / "before" / commit / "lsec_jax" / "__init__.py" and root == runs.ROOT
    assert before.name == BEFORE


def test_a_pass_reads_a_vector_per_edge_and_writes_one_per_node_both_ways_twice():
    graph = bipartite_graph(graphs_tuple(np.array([0, 1, 1]), np.array([0, 0, 2]), 2, 3), 2)
    assert propagation.moved_bytes(graph, 7) == 2 * (2 * 3 + 5) * 7 * 4


def test_the_steps_are_those_of_the_published_model(tmp_path):
    for name, model in steps.MODELS.items():
        config = steps.config_of(tmp_path, model(), quick=False)
        assert config.training.batch_size * len(config.model.task_tables) == 4096
        if name.startswith("lsec_"):
            assert config.model.embedding_dim == 200 and config.model.predictor_hidden == 128
            assert config.model.layer_dims == ((200, 200) if "lightgcn" in name else (128, 64))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("suite")
    return {kind: workloads.prepare(kind, "tiny", workdir) for kind in workloads.KINDS}


ROWS = ["propagate/buy/64/bcsr", "step/ncf_gmf", "auc", "evaluation/candidates", "ranking/mlp", "ranking/dot"]


@pytest.mark.parametrize("name", [*ROWS, "pipeline/events", "checkpoint/save", "checkpoint/restore"])
def test_rows_run_and_run_again_without_compiling(name, folders):
    row = catalogue.row(name)
    jax.clear_caches()
    compilations = machine.Compilations()
    work = row.make(folders[row.workload], True)
    work.run()
    count = compilations.count
    assert (count > 0) == (compilations.seconds > 0) == (name != "pipeline/events")
    work.run()
    assert compilations.count == count
    facts = json.loads(json.dumps(work.facts()))
    assert facts["examples"] is None or facts["examples"] > 0
    json.dumps(work.finish())


@pytest.mark.parametrize("model", rankers.MODELS)
def test_rankers_train_on_the_same_records_in_every_process_and_learn_to_repeat_them(model, folders, monkeypatch):
    """The layers of the suite, a narrow feed-forward net apart; 4 batches, to see each one twice."""
    monkeypatch.setitem(rankers.MODELS["bst"], "feed_forward_width", 32)
    monkeypatch.setattr(records, "LEARNING_RATE", 0.01)
    again = records.make("tiny")
    for stored, drawn in zip(records.read(folders["records"]), again, strict=True):
        np.testing.assert_array_equal(stored, drawn)
    work = catalogue.row(f"ranker/{model}/16").make(folders["records"], True)
    for _ in range(3 * records.NUM_BATCHES):
        work.run()
    assert work.examples == 64 and work.finish()["last_loss"] < 0.7 * work.finish()["first_loss"]


def test_records_are_padded_in_front_and_rankers_read_them_where_the_layout_says(folders):
    given = records.read(folders["records"])
    is_there = given.history[0] > 0
    assert (is_there[:, 1:] >= is_there[:, :-1]).all() and is_there[:, -1].all() and not is_there.all()
    batch, own = rankers.batches(given, 2)[0], rankers.layout(2)
    (element,) = own.sequences[0].fields
    target = next(of for of in own.fields if of.part == "target")
    ids = np.asarray(batch["ids"][records.TARGET])
    np.testing.assert_array_equal(ids[:, target.start], given.target[0])
    np.testing.assert_array_equal(ids[:, element.start : element.stop], given.history[0])
    assert {name: of.shape[1] for name, of in batch["ids"].items()} == {
        table.name: own.num_slots(table.name) for table in own.tables
    }
    assert ids.max() < own.table(records.TARGET).num_rows


def test_every_target_of_a_ranker_is_of_a_row_that_its_peers_know():
    rows = catalogue.all_rows()
    for target in targets.RANKER_TARGETS:
        assert rows[target.row].peers == target.peers
    assert {of.row for of in targets.RANKER_TARGETS} == {name for name in rows if name.startswith("ranker/")}


@pytest.mark.parametrize(("backend", "times"), [("cpu", 8), ("gpu", 32)])
def test_copies_read_and_write_an_array_several_times(monkeypatch, backend, times):
    monkeypatch.setattr(machine, "_COPIED_BYTES", 2**20)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    run_copies, num_bytes = machine.copies()
    run_copies()
    assert num_bytes == 2 * times * 2**20


def test_steps_state_the_edges_and_bytes_that_every_step_needs(folders):
    full = catalogue.row("step/lsec_gcn").make(folders["graph"], True)
    data = prepared.Config(str(folders["graph"])).load()
    edges = sum(len(relation.edges(TRAIN)[0]) for relation in data.relations.values())
    nodes = sum(len(data.nodes[end]) for of in data.relations.values() for end in (of.source, of.target))
    assert full.edges == edges and full.bytes == 2 * (2 * edges + nodes) * 128 * 4  # of two layers, 128 and 64 wide
    for name in ("lsec_gcn_sampled", "ncf_gmf"):
        other = catalogue.row(f"step/{name}").make(folders["graph"], True)
        assert other.edges is None and other.bytes is None


def test_sizes_multiply_nodes_and_edges():
    small, double, quarter = (workloads.world_of("graph", size) for size in ("small", "double", "quarter"))
    assert double.num_users == 2 * small.num_users and double.num_sell == 2 * small.num_sell
    assert quarter.num_follow == small.num_follow // 4
    assert workloads.world_of("events", "double").live.num_impressions == 2_000_000


def test_a_quick_trial_writes_a_result_with_its_picture(tmp_path):
    """With a peer whose environment lacks what it needs: its row says so, and ours stands."""
    output = tmp_path / "quick.json"
    before = ["--before=HEAD"] if (runs.ROOT / ".git").exists() else []
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.throughput.run", "--quick", "--only=auc", f"--output={output}"),
            *(f"--workdir={tmp_path / 'work'}", f"--peers=rechub={sys.executable}", *before),
        ],
        cwd=runs.ROOT,
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    own = row["results"][OURS]
    assert (row["row"], row["size"], row["workload"]["train_edges"]["buy"]) == ("auc", "tiny", 1920)
    assert len(own["seconds"]) == 3 and own["compile_seconds"] > 0 and own["compilations_after_warm_up"] == 0
    assert len(own["copy_bytes_per_second"]) == 3 and own["peak_gib"] > 0
    assert own["floor_seconds"] == pytest.approx(own["bytes"] / np.median(own["copy_bytes_per_second"]))
    assert "No module named" in row["unavailable"].pop("rechub") and not row["unavailable"]
    assert row["ratios"].keys() == ({BEFORE} if before else set()) and "rechub=rechub/bin/python" in result["command"]
    assert result["environment"]["commit"] and "### AUC from given scores" in done.stdout
    assert output.with_suffix(".png").stat().st_size > 0 and not result["failed"]
