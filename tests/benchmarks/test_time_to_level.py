"""The benchmarks of the time to a level of quality: clocks, levels, ratios, and both commands with stand-in peers."""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from benchmarks import runs
from benchmarks.quality import rechub_agreement
from benchmarks.throughput import gowalla_time, level_sections, time_to_auc, time_to_level
from benchmarks.throughput.contestants import Contestant
from lsec_jax.config import ConfigError
from lsec_jax.training.run import prepare
from tests.runs import replace, tiny_config

# Stands in for the driver of the authors' code: writes what that writes, after three epochs of no training.
DRIVER = """
import argparse, json, pathlib, sys
if sys.argv[1:2] == ["--threads"] and "--data" in sys.argv:
    parser = argparse.ArgumentParser()
    for name in ("data", "seed", "core-seconds", "learning-rate", "eval-every", "output"):
        parser.add_argument(f"--{name}", required=True)
    given, _ = parser.parse_known_args()
    assert (pathlib.Path(given.data) / "val" / "user-item-buy.tsv").exists()
    files = ("user-item-buy", "user-streamer-follow")
    history = [
        {
            "epoch": epoch, "steps": 2 * epoch, "positives": dict.fromkeys(files, 9), "seconds_training": 20.0 * epoch,
            "core_seconds_training": 10.0 * epoch, "val": {"AUC": auc, "NDCG@10": 0.1},
        }
        for epoch, auc in enumerate((0.1, 0.3, 0.2, 0.4))
    ]
    pathlib.Path(given.output).write_text(json.dumps({"history": history}))
"""

# Stands in for a worker of the throughput suite.
WORKER = """
import json, sys
assert sys.argv[1] == "step/lightgcn_gowalla", sys.argv
print(json.dumps({"ready": {"edges": 4097, "examples": 2048, "notes": "a stand-in"}}), flush=True)
for i, line in enumerate(sys.stdin):
    if line.strip() == "stop":
        print(json.dumps({"peak_gib": 0.1}), flush=True)
        break
    print(json.dumps({"seconds": 2.0 + i % 2, "cpu_seconds": 1.0}), flush=True)
"""


def point(step, seconds, value):
    return {"step": step, "seconds": 2 * seconds, "core_seconds": seconds, "value": value}


def our_run(*points):
    return {"seed": 0, "compilation": {"seconds": 4.0, "core_seconds": 1.0}, "points": list(points)}


def auc_result():
    """As `time_to_auc` writes it, but for the circumstances."""
    theirs = [{"seed": 0, "learning_rate": "0.0005", "points": [point(16, 30.0, 0.5), point(32, 60.0, 0.9)]}]
    ours = [our_run(point(1, seconds, 0.4), point(2, 2 * seconds, 0.6)) for seconds in (1.0, 2.5, 40.0)]
    return {
        "benchmark": "time_to_auc",
        "seeds": [0, 1, 2],
        "data": {"name": "a world", "candidates": "generated"},
        "target": 4.0,
        "level": 0.9,
        "levels": time_to_auc.compare(ours, theirs),
        "popularity": 0.7,
        "theirs": theirs,
        "ours": ours,
        "learning_rate": 0.01,
        "tuning": {"seed": 100, "runs": [{"learning_rate": 0.01}, {"learning_rate": 0.02}]},
        "peer": {"rechub": "0.0.5"},
    }


def gowalla_outcome(seconds, value=0.18):
    peer = {"edges": 4097, "examples": 2048, "notes": "n", "seconds": [4.0, 6.0], "core_seconds": [2.0, 2.0]}
    return {**our_run(point(1, seconds, 0.1), point(2, 2 * seconds, value)), "peer": peer}


def gowalla_result(*outcomes):
    """As `gowalla_time` writes it, but for the circumstances."""
    seeds = list(range(len(outcomes)))
    return {"seeds": seeds, "level": 0.18, "target": 50.0, **gowalla_time.collect(seeds, outcomes)}


@contextlib.contextmanager
def flags_of(module, *arguments):
    """The flags of a command, as its command line would set them."""
    before = set(flags.FLAGS)
    module._define_flags()
    flags.FLAGS(["command", *map(str, arguments)])
    try:
        yield
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()


@pytest.fixture
def here(monkeypatch):
    """Everything in this process, on all its cores."""
    monkeypatch.setattr(time_to_level, "pin", lambda core: None)
    monkeypatch.setattr(time_to_level, "apart", lambda work, *arguments: work(*arguments))


class FakeTime:
    """A clock that moves only when it is told to; a process has the core for a tenth of the time."""

    now = 5.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now / 10


def test_measuring_more_often_changes_no_value_and_takes_no_time_of_training():
    run, called = prepare(tiny_config()), []

    def wait():
        called.append(time.sleep(1.0))

    often = time_to_level.train_measured(run, 4, lambda step: True, wait)
    once = time_to_level.train_measured(run, 4, lambda step: step == 4)
    assert [point["step"] for point in often["points"]] == [1, 2, 3, 4] and len(called) == 4
    assert often["points"][3]["value"] == once["points"][0]["value"] != often["points"][0]["value"]
    seconds = [point["seconds"] for point in often["points"]]
    assert sorted(seconds) == seconds and seconds[0] > 0
    assert seconds[3] < 4.0 and often["compilation"]["seconds"] > 0


def test_the_stopwatch_stands_still_between_stop_and_start(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(time_to_level, "time", fake)
    watch = time_to_level.Stopwatch()
    for _ in range(2):
        watch.start()
        fake.now += 1.0
        watch.stop()
        fake.now += 7.0
    assert watch.read() == pytest.approx({"seconds": 2.0, "core_seconds": 0.2})


def test_the_clock_of_the_authors_code_stands_still_during_evaluations(monkeypatch):
    monkeypatch.syspath_prepend(runs.ROOT / "benchmarks" / "quality" / "peers")  # as when Python starts it
    driver, fake = importlib.import_module("rechub_lsec_gcn"), FakeTime()
    monkeypatch.setattr(driver, "time", fake)
    clock = driver.Clock()
    fake.now += 3.0  # loading
    assert clock.training() == (0.0, 0.0)
    for _ in range(2):
        clock.stop()
        fake.now += 7.0
        evaluated = clock.start()
        fake.now += 1.0
    assert evaluated == 7.0 + 7.0 and clock.training() == pytest.approx((2.0, 0.2))


def test_a_core_that_is_not_ours_is_refused():
    with pytest.raises(ConfigError, match="--core=100000: this process may use "):
        time_to_level.pin(100_000)


def test_levels_are_the_best_so_far_of_all_runs_in_the_order_of_core_time():
    first = {"points": [point(1, 10.0, 0.5), point(2, 20.0, 0.4), point(3, 30.0, 0.7)]}
    second = {"points": [point(1, 15.0, 0.6), point(2, 40.0, 0.65)]}
    found = [(level["core_seconds"], level["value"]) for level in time_to_auc.levels_of([first, second])]
    assert found == [(10.0, 0.5), (15.0, 0.6), (30.0, 0.7)]


def test_ratios_are_of_the_median_seed_and_none_where_a_seed_did_not_get_there():
    reached, missed = auc_result()["levels"]
    assert [found["core_seconds"] for found in reached["ours"]] == [2.0, 5.0, 80.0]
    assert reached["ratios"]["core_seconds"] == {"without_compilation": 30 / 5, "with_compilation": 30 / 6}
    assert reached["ratios"]["seconds"] == {"without_compilation": 60 / 10, "with_compilation": 60 / 14}
    assert missed["ours"] == [None] * 3 and missed["ratios"] is None


def test_the_learning_rate_is_the_first_at_the_level_and_else_the_best_in_the_end():
    tuning = [
        {"learning_rate": 0.1, **our_run(point(1, 3.0, 0.5), point(2, 9.0, 0.6))},
        {"learning_rate": 0.2, **our_run(point(1, 1.0, 0.2), point(2, 2.0, 0.5))},
    ]
    assert [time_to_auc.fastest(tuning, level) for level in (0.5, 0.6, 0.7)] == [0.2, 0.1, 0.1]


@pytest.mark.parametrize("values", [[], ["0"], ["a:0.1"], ["0:x"], ["0:0"], ["0:nan"]])
def test_bad_runs_of_the_peer_are_refused(values):
    with pytest.raises(ConfigError, match=r"--peer_runs.* SEED:LEARNING_RATE, for example 0:0.0005"):
        time_to_auc.parse_peer_runs(values)


@pytest.mark.parametrize("values", [[], ["x"], ["0.1", "-1"], ["nan"]])
def test_bad_learning_rates_are_refused(values):
    with pytest.raises(ConfigError, match=r"--learning_rates=.*: give numbers above 0"):
        time_to_auc.parse_rates(values)


def test_the_models_of_both_sides_are_of_one_shape():
    config = time_to_auc.our_config(Path("x"), time_to_auc.SIZES[""], 10, 0.005, 0)
    model = config.model
    assert (model.aggregator, model.training_graph, model.predictor) == ("gcn", "full", "mlp")
    assert (model.embedding_dim, model.layer_dims, model.predictor_hidden) == (200, (128, 64), 128)
    assert [(task.relation, task.num_negatives, task.weight) for task in model.tasks] == [
        ("buy", 4, 0.5),
        ("follow", 4, 0.5),
    ]


def test_the_command_compares_both_sides_on_the_same_files_and_its_section_says_so(here, monkeypatch, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    monkeypatch.setattr(rechub_agreement, "DRIVER", driver)
    monkeypatch.setattr(rechub_agreement, "peer_versions", lambda log: {"rechub": "a stand-in"})
    output, workdir = tmp_path / "time_to_auc.json", tmp_path / "work"
    arguments = [f"--peer_python={sys.executable}", "--variant=tiny", f"--output={output}", f"--workdir={workdir}"]
    arguments += ["--seeds=0", "--learning_rates=0.01", "--peer_runs=0:0.0005,1:0.002"]
    with flags_of(time_to_auc, *arguments):
        time_to_auc.main()
        first = output.read_text()
        monkeypatch.setattr(time_to_auc, "train_ours", pytest.fail)
        time_to_auc.main()  # nothing is left to be done
    assert output.read_text() == first and (tmp_path / "time_to_auc_curve.png").stat().st_size > 10_000
    result = json.loads(first)
    assert result["level"] == 0.4 and [level["value"] for level in result["levels"]] == [0.3, 0.4]
    assert [run["learning_rate"] for run in result["theirs"]] == ["0.0005", "0.002"]
    assert result["levels"][1]["theirs"]["core_seconds"] == 30.0
    users = {line.split("\t")[0] for line in (workdir / "data/val/user-item-buy.tsv").read_text().splitlines()[1:]}
    assert len(users) == time_to_auc.SIZES["tiny"].num_users
    assert len(result["ours"][0]["points"]) == 4 and result["tuning"]["runs"][0]["seed"] == 100
    section = level_sections.time_to_auc_section(result)
    assert "seed 1 with learning rate 0.002" in section and "| 0.4000 | 30 (6) |" in section


def test_the_tuning_seed_is_not_among_the_reported_ones(tmp_path):
    arguments = [f"--peer_python={sys.executable}", f"--output={tmp_path}/x.json", "--tuning_seed=1"]
    with flags_of(time_to_auc, *arguments), pytest.raises(ConfigError, match="--tuning_seed=1 is one of --seeds"):
        time_to_auc.main()


def test_the_peers_time_is_its_step_times_the_steps_of_an_epoch_times_the_epochs():
    result = gowalla_result(*(gowalla_outcome(seconds) for seconds in (1.0, 1.5, 9.0)))
    assert result["peer"]["steps_per_epoch"] == 3
    found = result["ratios"]["core_seconds"]
    assert found["without_compilation"] == 1000 * 3 * 2.0 / 3.0 and found["with_compilation"] == 1000 * 3 * 2.0 / 4.0
    assert found["epochs_at_target"] == 50 * 4.0 / 6.0
    assert result["ratios"]["seconds"]["without_compilation"] == 1000 * 3 * 5.0 / 6.0


def test_a_seed_below_the_level_leaves_no_ratio():
    result = gowalla_result(gowalla_outcome(1.0), gowalla_outcome(1.0, 0.1799))
    assert result["ratios"] is None and result["ours"][1]["reached"] is None
    section = level_sections.gowalla_time_section({**result, "environments": [], "command": "x"})
    assert "NOT REACHED by all seeds" in section


def test_the_peers_steps_lie_between_ours_and_the_section_shows_both(here, monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    config = replace(tiny_config(metric="recall@10"), training={"num_steps": 3})
    stand_in = Contestant("pytorch_csr", (sys.executable, str(worker)), tmp_path)
    monkeypatch.setattr(gowalla_time, "parse_peers", lambda values: [stand_in])
    monkeypatch.setattr(gowalla_time, "LEVEL", 0.01)
    monkeypatch.setattr(runs, "load_config", lambda name, variant: config)
    output = tmp_path / "gowalla_time.json"
    arguments = [f"--peer_python={sys.executable}", "--variant=tiny", f"--output={output}", "--seeds=0"]
    with flags_of(gowalla_time, *arguments, f"--workdir={tmp_path / 'work'}"):
        gowalla_time.main()
    result = json.loads(output.read_text())
    assert result["peer"]["seconds"] == [2.0, 3.0] * 7 + [2.0]
    assert [point["step"] for point in result["ours"][0]["points"]] == [1, 2, 3]
    section = level_sections.gowalla_time_section(result)
    assert "15 of its steps" in section and "| by the clock |" in section and "a stand-in" in section


@pytest.mark.parametrize(
    ("program", "message"),
    [('print(\'{"error": "no torch"}\')', "no torch"), ("pass", "its process ended with exit code 0; see .*peer.txt")],
)
def test_a_peer_that_cannot_work_is_named_with_its_reason(here, program, message, tmp_path):
    (tmp_path / "worker.py").write_text(program)
    peer = Contestant("pytorch_csr", (sys.executable, str(tmp_path / "worker.py")), tmp_path)
    with pytest.raises(ConfigError, match=f"the peer pytorch_csr, step/lightgcn_gowalla: {message}"):
        gowalla_time.train(tiny_config(metric="recall@10"), peer, tmp_path / "peer.txt", [1])
