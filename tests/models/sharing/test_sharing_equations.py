"""The baselines of TREEMS beside slow transcriptions of their equations, row by row, and what scenarios get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.models.impressions.ranker import Draws
from lsec_jax.models.sharing_baselines.cune import nearest
from tests.models.impressions.batches import loss_and_gradients, outputs
from tests.models.sharing.batches import SCENARIOS, WIDTH, batch_of, config_of, trainable
from tests.models.sharing.slow import SlowBatch, mlp, relu, value
from tests.models.sharing.test_sharing_rankers import randomised


def ready(name, seed=0, **keys):
    """(model, random parameters, batch, the batch as a slow transcription reads it, the module)."""
    model, params, layout = trainable(config_of(name, **keys))
    params, batch = randomised(params), batch_of(layout, seed=seed)
    module = model.module(params.dense)
    return model, params, batch, SlowBatch(module, params.tables, batch), module


def assert_outputs(model, params, batch, wanted):
    np.testing.assert_allclose(outputs(model, params, batch)[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_dnn_is_a_tower_on_all_that_is_declared():
    model, params, batch, slow, module = ready("dnn")
    assert_outputs(model, params, batch, [mlp(module.primary_tower, slow.x(row)) + slow.start for row in slow.rows])


def test_multi_scenario_has_the_scenarios_layer_before_the_prediction():
    model, params, batch, slow, module = ready("multi_scenario")
    own, wanted = module.scenario_layer, []
    for row in slow.rows:
        of, is_known = slow.scenario(row), float(slow.scenario(row) > 0)
        weights = value(own.weights) + is_known * value(own.changes)[of]
        bias = value(own.bias) + is_known * value(own.bias_changes)[of]
        hidden = relu(mlp(module.tower, slow.x(row)) @ weights + bias)
        wanted.append(mlp(module.prediction, hidden) + slow.start)
    assert_outputs(model, params, batch, wanted)


def test_mmoe_mixes_experts_by_the_gate_of_the_scenario():
    model, params, batch, slow, module = ready("scenario_mmoe")
    wanted = []
    for row in slow.rows:
        x, of = slow.x(row), slow.scenario(row)
        scores = np.exp(x @ (value(module.gates.weights) + float(of > 0) * value(module.gates.changes)[of]))
        mixed = 0
        for k, share in enumerate(scores / scores.sum()):
            hidden = x
            for weights, bias in zip(module.experts.weights, module.experts.biases, strict=True):
                hidden = relu(hidden @ value(weights)[k] + value(bias)[k])
            mixed = mixed + share * hidden
        wanted.append(mlp(module.primary_tower, mixed) + slow.start)
    assert_outputs(model, params, batch, wanted)


def pair(module, slow, row, source, target):
    """<p, q> + biases, of the ends' vectors from their graphs."""
    fields = slow.fields(row)
    p = np.concatenate([fields["context"], source]) @ value(module.maps[0]) + slow.history(row)
    q = np.concatenate([fields["target"], target]) @ value(module.maps[1])
    biases = np.concatenate([fields["context"], fields["target"], fields["dynamic"]]) @ value(module.bias_weights)
    return p @ q + biases[0] + slow.start


def test_diffnet_spreads_hop_after_hop():
    model, params, batch, slow, module = ready("diffnet")

    def spread(node):
        own, near = node
        first = own + (np.mean([of for of, _ in near], axis=0) if near else 0)
        later = [of + (np.mean([other for other, _ in far], axis=0) if far else 0) for of, far in near]
        return first + (np.mean(later, axis=0) if near else 0)

    wanted = [
        pair(module, slow, row, *(spread(slow.tree(row, f"friend_of_{end}")) for end in ("user", "target_user")))
        for row in slow.rows
    ]
    assert_outputs(model, params, batch, wanted)


def friends_of(slow, row, end, count):
    """(u, the vectors of her semantic friends)."""
    views = [slow.tree(row, f"{view}_of_{end}") for view in ("friend", "pay")]
    own, near = views[0][0], [of for _, neighbours in views for of, _ in neighbours]
    order = sorted(range(len(near)), key=lambda k: -(own @ near[k]) / np.linalg.norm(near[k]))
    return own, [near[k] for k in order[:count]]


def test_cune_adds_the_mean_of_semantic_friends_and_draws_users_to_it():
    model, params, batch, slow, module = ready("cune")
    wanted, distances = [], []
    for row in slow.rows:
        ends = []
        for end in ("user", "target_user"):
            own, friends = friends_of(slow, row, end, 2)
            mean = np.mean(friends, axis=0) if friends else np.zeros(WIDTH)
            ends.append(own + mean)
            distances.append(0.5 * np.sum((own - mean) ** 2) if friends else 0.0)
        wanted.append(pair(module, slow, row, *ends))
    assert_outputs(model, params, batch, wanted)
    _, metrics, _ = loss_and_gradients(model, params, batch)
    penalty = 0.1 * np.sum(distances) / len(slow.rows)
    np.testing.assert_allclose(metrics["loss"] - metrics["accepted/loss"], penalty, rtol=1e-4)


def test_friends_are_the_nearest_of_those_who_are_there():
    own = jnp.array([[1.0, 0.0]])
    others = jnp.array([[[5.0, 5.0], [0.1, 0.0], [jnp.nan, 0.0], [-1.0, 0.0], [1.0, 0.1]]])
    mask = jnp.array([[True, True, False, True, True]])
    np.testing.assert_array_equal(nearest(own, others, mask, 2), [[False, True, False, False, True]])
    np.testing.assert_array_equal(nearest(own, others, mask, 9), mask)


def head(module, hidden, changes):
    """The two adapted layers; the last row of each matrix is its bias."""
    first, second = (value(of) + change for of, change in zip(module.initial, changes, strict=True))
    return (np.append(relu(np.append(hidden, 1.0) @ first), 1.0) @ second)[0]


def slow_gradient(module, hidden, answers):
    """Gradient of the mean log loss of some rows at the initial weights, by hand."""
    first, second = (value(of) for of in module.initial)
    found = [np.zeros_like(first), np.zeros_like(second)]
    for row, answer in zip(hidden, answers, strict=True):
        below = np.append(row, 1.0)
        active = below @ first
        top = np.append(relu(active), 1.0)
        logit = (top @ second)[0] + value(module.output_biases)[0]
        error = (1 / (1 + np.exp(-logit)) - answer) / len(hidden)
        found[1] += error * top[:, None]
        found[0] += np.outer(below, error * second[:-1, 0] * (active > 0))
    return found


def test_scenario_meta_adapts_to_the_other_half_of_the_batch_and_keeps_the_gradients():
    model, params, batch, slow, module = ready("scenario_meta", seed=2)
    hidden = np.stack([mlp(module.lower, slow.x(row)) for row in slow.rows])
    answers, scenarios = np.asarray(batch["labels"])[:, 0], np.array([slow.scenario(row) for row in slow.rows])
    rates = [value(of) for of in module.rates]

    def logits(of_row):
        return np.array(
            [
                head(module, hidden[row], [-rate * of for rate, of in zip(rates, of_row(row), strict=True)])
                + slow.start
                for row in slow.rows
            ]
        )

    nothing = [np.zeros_like(of) for of in rates]

    def of_other_half(row):
        there = [i for i in slow.rows if scenarios[i] == scenarios[row] and i % 2 != row % 2]
        return slow_gradient(module, hidden[there], answers[there]) if there and scenarios[row] else nothing

    wanted = logits(of_other_half)
    assert sum(of_other_half(row) is not nothing for row in slow.rows) > 8
    losses = np.logaddexp(0, wanted) - answers * wanted
    total, metrics, gradients = loss_and_gradients(model, params, batch)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(total, losses.mean(), rtol=1e-5)  # the table's own loss is not told
    # What is kept moves towards the gradient of all rows of the scenario in the batch.
    for of in range(2):
        kept = value(module.gradients[of])
        for scenario in range(1, len(kept)):
            there = np.flatnonzero(scenarios == scenario)
            wanted_gradient = kept[scenario] - slow_gradient(module, hidden[there], answers[there])[of]
            found = gradients.dense["gradients"][of][scenario]
            np.testing.assert_allclose(found, wanted_gradient if len(there) else 0 * kept[scenario], atol=1e-5)
        assert not gradients.dense["gradients"][of][0].any()
    # Predictions read what is kept.
    of_table = [[value(of)[scenario] * float(scenario > 0) for of in module.gradients] for scenario in scenarios]
    assert_outputs(model, params, batch, logits(lambda row: of_table[row]))


def test_scenario_meta_trains_its_weights_through_adapted_ones_and_its_rates():
    model, params, batch, _, _ = ready("scenario_meta")
    _, _, gradients = loss_and_gradients(model, params, batch)

    def told(rate):
        moved = jax.tree.map(lambda of: of, params.dense)
        moved["rates"][1] = moved["rates"][1] + rate
        of = model.module(moved).loss(params.tables, (), batch, jax.random.key(0))[1]["loss"]
        return float(of)

    slope = (told(1e-2) - told(-1e-2)) / 2e-2
    np.testing.assert_allclose(gradients.dense["rates"][1].sum(), slope, rtol=0.02)
    assert slope != 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_unknown_scenario_has_the_weights_that_all_share(name):
    model, params, batch, _, _ = ready(name)
    unknown = {**batch, "ids": {**batch["ids"], "scenario": jnp.zeros_like(batch["ids"]["scenario"])}}
    own = {"multi_scenario": ("scenario_layer", "changes"), "scenario_mmoe": ("gates", "changes")}
    dense = jax.tree.map(lambda of: of, params.dense)
    if name == "scenario_meta":
        dense["gradients"] = jax.tree.map(lambda of: of + 3.0, dense["gradients"])
    else:
        module, parameter = own[name]
        noise = np.random.default_rng(5).normal(size=dense[module][parameter].shape)
        dense[module][parameter] = dense[module][parameter] + noise.astype(np.float32)
    other = params._replace(dense=dense)
    np.testing.assert_array_equal(outputs(model, params, unknown), outputs(model, other, unknown))
    assert np.abs(outputs(model, params, batch) - outputs(model, other, batch)).max() > 0.05


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_that_no_step_showed_has_the_shared_weights_as_well(name):
    """Its changes begin at 0, and only rows of the scenario move them."""
    model, params, layout = trainable(config_of(name))
    batch = batch_of(layout)
    batch["ids"]["scenario"] = jnp.where(batch["ids"]["scenario"] == 2, 3, batch["ids"]["scenario"])
    _, _, gradients = loss_and_gradients(model, params, batch)
    tables = {
        "multi_scenario": lambda dense: [dense["scenario_layer"]["changes"], dense["scenario_layer"]["bias_changes"]],
        "scenario_mmoe": lambda dense: [dense["gates"]["changes"]],
        "scenario_meta": lambda dense: list(dense["gradients"].values()),
    }[name]
    for of, start in zip(tables(gradients.dense), tables(params.dense), strict=True):
        assert not of[2].any() and of[3].any()
        assert not start.any()


def test_answers_move_adapted_weights_in_training_only_and_do_not_reach_their_own_row():
    """The answer of a row is in the support of the other half alone."""
    _, params, batch, _, module = ready("scenario_meta")

    def changes(labels):
        own = {**batch, "labels": labels}
        rows = {name: params.tables[name][ids] for name, ids in own["ids"].items()}
        draws = Draws(jax.random.key(0), own["places"])
        represented = module._represent(rows, own, draws)
        return np.asarray(module._biased_outputs(represented, represented.shared))[:, 0]

    plain = changes(batch["labels"])
    moved = changes(batch["labels"].at[4, 0].set(1 - batch["labels"][4, 0]))
    scenarios = np.asarray(batch["ids"]["scenario"])[:, 0]
    expected = (scenarios == scenarios[4]) & (np.arange(16) % 2 != 0)
    assert expected.any()
    np.testing.assert_array_equal(np.abs(moved - plain) > 1e-7, expected)
