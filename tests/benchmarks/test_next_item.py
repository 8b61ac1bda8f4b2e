"""The benchmark of the next item."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from flax import nnx

from benchmarks.quality import next_item, next_item_section, next_item_training
from benchmarks.quality.next_item_training import NextItem, Settings
from lsec_jax.data.sources import sequences
from lsec_jax.schema import TEST, VALIDATION
from tests.benchmarks.test_suite_section import ENVIRONMENT

SMALL = Settings(
    width=8, num_layers=1, num_heads=2, ffn_width=8, dropout_rate=0.1, max_length=5, places=24, max_epochs=2
)


def outcome(offset):
    found = {"hit_rate@10": 0.07 + offset, "ndcg@10": 0.04 + offset}
    better = {name: value + 0.01 for name, value in found.items()}
    point = {"epoch": 1, "train_seconds": 60.0, "loss": 1.0, **better}
    return {
        "data": "Beauty",
        "users": 9,
        "items": 99,
        "metrics": found,
        "validation": better,
        "best_epoch": 1,
        "curve": [point],
        "train_seconds": 60.0,
        "environment": ENVIRONMENT,
    }


def next_item_result():
    return next_item.collect({}, [0, 1], [outcome(0.0), outcome(0.002)])


def write_cycles(folder, num_users=60, num_items=12):
    """Sequences whose next item is the one after, round and round."""
    generator = np.random.default_rng(0)
    lines = []
    for user in range(num_users):
        first, length = generator.integers(num_items), generator.choice([5, 8])
        lines.append(" ".join(str(of) for of in [user, *(1 + (first + np.arange(length)) % num_items)]))
    path = folder / "cycles.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path):
    data = sequences.Config(path=str(path)).load()
    return next_item_training.sequences_of(data.events_of("interaction"), *(len(of) for of in data.nodes.values()))


def test_the_last_item_tests_the_one_before_validates_and_the_rest_trains(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("1 5 6 7 8\n2 6 5\n3 8 7 6\n")
    found = read(path)
    assert [of.tolist() for of in found.training()] == [[0, 1], [1, 0]]
    assert [of.tolist() for of in found.held_out(VALIDATION)] == [[0, 1, 2], [3, 2]]
    assert [of.tolist() for of in found.held_out(TEST)] == [[0, 1, 2, 3], [3, 2, 1]]
    assert found.num_items == 4


def test_an_epoch_has_every_sequence_once_padded_in_front(tmp_path):
    training = read(write_cycles(tmp_path)).training()
    batches = list(next_item_training.training_batches(training, SMALL, 12, np.random.default_rng(0)))
    rows = [[item for item in row if item != 12] for batch in batches for row in batch.tolist()]
    assert sorted(row for row in rows if row) == sorted(of[-6:].tolist() for of in training)
    for batch in batches:
        assert batch.shape[1] <= SMALL.max_length + 1 and batch.size <= 24 * 1.5
        is_item = batch != 12
        assert (np.diff(is_item.astype(int), axis=1) >= 0).all()


def test_the_loss_is_the_mean_log_softmax_of_the_next_items():
    model = NextItem(7, SMALL, nnx.Rngs(0))
    batch = np.array([[7, 7, 3, 0], [1, 2, 3, 4]], np.int32)
    states, table = np.asarray(model(jnp.asarray(batch[:, :-1]))), np.asarray(model.items[...])
    losses = []
    for b, t in ((0, 2), (1, 0), (1, 1), (1, 2)):
        scores = (states[b, t] @ table.T).astype(np.float64)
        losses.append(np.log(np.exp(scores).sum()) - scores[batch[b, t + 1]])
    model.encoder.dropout_rate = 0.0
    found = next_item_training.loss_of(model, jnp.asarray(batch), jax.random.key(0))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_scores_rank_every_item_that_the_user_did_not_have():
    model = NextItem(30, SMALL, nnx.Rngs(3))
    histories = [np.array([4, 9, 1, 7, 8, 2, 5], np.int32), np.array([3, 3], np.int32), np.array([5, 6, 7], np.int32)]
    graphdef, state = nnx.split(model)
    found = next_item_training.evaluate(graphdef, state, histories, SMALL, 30)
    gains = []
    for of in histories:
        inputs = next_item_training.pad_in_front([of[:-1]], 5, 30, 1)
        scores = np.asarray(model(jnp.asarray(inputs)))[0, -1] @ np.asarray(model.items[...]).T
        others = set(range(30)) - set(of.tolist())
        rank = 1 + sum(scores[other] >= scores[of[-1]] for other in others)
        gains.append((rank <= 10, 1 / np.log2(rank + 1) if rank <= 10 else 0))
    assert list(found.values()) == pytest.approx(np.mean(gains, axis=0).tolist(), rel=1e-6)
    assert 0 < found["ndcg@10"] < 1


def test_what_follows_from_the_item_before_is_learnt_and_the_best_epoch_is_kept(tmp_path):
    settings = dataclasses.replace(SMALL, width=16, dropout_rate=0.0, max_epochs=12, learning_rate=1e-2)
    found = next_item_training.train(read(write_cycles(tmp_path)), settings)
    assert found["users"] == 60
    assert found["curve"][-1]["loss"] < 0.7 * found["curve"][0]["loss"]
    assert found["validation"] == {name: found["curve"][found["best_epoch"] - 1][name] for name in found["validation"]}
    assert found["validation"]["ndcg@10"] == max(point["ndcg@10"] for point in found["curve"])
    assert found["metrics"]["ndcg@10"] > 0.6  # of 12 items; by chance about 0.4


def test_training_ends_after_epochs_without_gain(tmp_path):
    settings = dataclasses.replace(SMALL, learning_rate=1e-12, max_epochs=9, patience=2)
    found = next_item_training.train(read(write_cycles(tmp_path)), settings)
    assert len(found["curve"]) == 3 and found["best_epoch"] == 1


def test_the_command_writes_its_result_and_trains_no_seed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(next_item, "Settings", functools.partial(dataclasses.replace, SMALL))
    before = set(flags.FLAGS)
    next_item._define_flags()
    output = tmp_path / "result.json"
    try:
        arguments = ["--seeds=3", "--max_epochs=1", f"--path={write_cycles(tmp_path)}"]
        flags.FLAGS(["x", *arguments, f"--output={output}", f"--workdir={tmp_path / 'runs'}"])
        next_item.main()
        result = json.loads(output.read_text())
        assert result["data"] == "cycles" and result["users"] == 60 and result["items"] == 12
        assert [(of["seed"], len(of["curve"])) for of in result["seeds"]] == [(3, 1)]
        assert result["settings"]["max_epochs"] == 1 and "seed" not in result["settings"]
        monkeypatch.setattr(next_item, "measure", lambda *args: pytest.fail("measured again"))
        next_item.main()
        assert json.loads(output.read_text())["metrics"] == result["metrics"]
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def test_the_section_has_scores_beside_the_published_ones_and_the_verdict():
    text = next_item_section.section(json.loads(json.dumps(next_item_result())))
    assert "| ICLRec, its repository | 0.0744 | 0.0403 | - |" in text
    assert "| Transformer with full softmax, here | 0.0710 +- 0.0014 | 0.0410 +- 0.0014 | 1.0 +- 0.0 |" in text
    assert "Target hit_rate@10 0.0700, ndcg@10 0.0370: reached." in text
    assert not next_item.collect({}, [0], [outcome(-0.001)])["target"]["reached"]
