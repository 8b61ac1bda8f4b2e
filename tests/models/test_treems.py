"""TREEMS beside a slow transcription of its equations, and what its config refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.declaration import Path
from tests.models.impressions.batches import loss_and_gradients, outputs
from tests.models.sharing.batches import DECLARED, batch_of, config_of, trainable
from tests.models.sharing.slow import SlowBatch, mlp, relu, value
from tests.models.sharing.test_sharing_rankers import randomised
from tests.nn.test_sampled_layers import slow_lstm
from tests.nn.test_view_attention import slow_layer


def ready(**keys):
    """(model, random parameters, batch, the module)."""
    model, params, layout = trainable(config_of("treems", **keys))
    params, batch = randomised(params), batch_of(layout)
    return model, params, batch, model.module(params.dense)


def two_layers(layers, tree, context):
    """Eq. 10-12, twice, of one node and what was drawn for it."""

    def layer(own, near, weights):
        neighbours = np.reshape(near, (len(near), len(own)))
        return slow_layer(weights, own, neighbours, np.ones(len(near), bool), context)

    own, near = tree
    first, second = layers
    new = layer(own, [of for of, _ in near], first)
    of_near = [layer(of, [other for other, _ in far], first) for of, far in near]
    return layer(new, of_near, second)


def slow_gates(module, path, reader):
    """Eq. 4 and 6: a gate for each level, of the state after it or after the path's end."""
    found = []
    for level in range(3):
        upto = path[: min(level + 1, len(path))]
        state = {"lstm": lambda of: slow_lstm(module.experts.reader.cell, of), "sum": sum, "leaf": lambda _: path[-1]}
        scores = np.exp(state[reader](upto) @ value(module.experts.gates)[level])
        found.append(scores / scores.sum())
    return np.array(found)


def slow_outputs(module, slow, reader="lstm"):
    """(logits, gates) of all rows."""
    wanted, gates = [], []
    for row in slow.rows:
        parts = [slow.x(row)]
        for of in module.roles:
            layers_of_views = module.graphs[of.key].layers
            context = slow.fields(row)["dynamic"]
            for layers, near in zip(layers_of_views, of.neighbourhoods, strict=True):
                parts.append(two_layers(layers, slow.tree(row, near.name), context))
        hidden = [np.concatenate(parts)] * 3
        gates.append(slow_gates(module, slow.path(row, "path"), reader))
        mixed = []
        for level, (weights, bias) in enumerate(
            zip(module.experts.experts.weights, module.experts.experts.biases, strict=True)
        ):
            hidden = [relu(of @ value(weights)[k] + value(bias)[k]) for k, of in enumerate(hidden)]
            mixed.append(sum(share * of for share, of in zip(gates[-1][level], hidden, strict=True)))
        wanted.append(mlp(module.primary_tower, np.concatenate(mixed)) + slow.start)
    return np.array(wanted), np.array(gates)


@pytest.mark.parametrize(("reader", "has_graph"), [("lstm", True), ("lstm", False), ("leaf", False), ("sum", False)])
def test_a_prediction_is_that_of_the_equations(reader, has_graph):
    model, params, batch, module = ready(reader=reader, has_graph=has_graph)
    slow = SlowBatch(module, params.tables, batch)
    wanted, gates = slow_outputs(module, slow, reader)
    np.testing.assert_allclose(outputs(model, params, batch)[:, 0], wanted, rtol=1e-4, atol=1e-5)
    paths, mask = params.tables["path"][batch["ids"]["path"]], batch["ids"]["path"] > 0
    np.testing.assert_allclose(module.gates(paths, mask), gates, rtol=1e-4, atol=1e-6)
    assert {len(slow.path(row, "path")) for row in slow.rows} == {1, 2, 3}


def test_the_penalty_is_the_double_sum_over_pairs_of_gates():
    model, params, batch, module = ready(inconsistency_weight=0.5)
    gates = slow_outputs(module, SlowBatch(module, params.tables, batch))[1]
    total = sum(-gates[:, i, k] * gates[:, i, j] for i in range(3) for k in range(3) for j in range(k + 1, 3))
    metrics = loss_and_gradients(model, params, batch)[1]
    np.testing.assert_allclose(metrics["loss"] - metrics["accepted/loss"], 0.5 * total.mean(), rtol=1e-4)
    mean = gates.mean(axis=0)
    for i in range(3):
        entropy = -(mean[i] * np.log(mean[i])).sum() / np.log(3)
        np.testing.assert_allclose(metrics[f"gates/layer{i + 1}/entropy"], entropy, rtol=1e-4)
        np.testing.assert_allclose(metrics[f"gates/layer{i + 1}/largest"], mean[i].max(), rtol=1e-4)


def test_both_ends_share_the_weights_of_their_views_and_may_have_others():
    *_, module = ready()
    assert len(module.roles) == 2 and len(module.graphs) == 1
    fewer = tuple(of for of in DECLARED.neighbourhoods if of.name != "pay_of_target_user")
    *_, module = ready(features=dataclasses.replace(DECLARED, neighbourhoods=fewer))
    assert len(module.graphs) == 2
    shorter = tuple(
        dataclasses.replace(of, fanouts=(2,)) if of.role == "user" else of for of in DECLARED.neighbourhoods
    )
    model, params, batch, module = ready(features=dataclasses.replace(DECLARED, neighbourhoods=shorter))
    assert len(module.graphs) == 2 and np.isfinite(outputs(model, params, batch)).all()


def test_levels_below_a_paths_end_and_the_row_of_nobody_leak_nothing():
    model, params, batch, _ = ready()
    moved = {name: of.at[0].set(1e6) if name in ("user", "path") else of for name, of in params.tables.items()}
    (first, _, gradients), (second, _, others) = (
        loss_and_gradients(model, params._replace(tables=of), batch) for of in (params.tables, moved)
    )
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, gradients.dense, others.dense)
    assert not gradients.tables["path"][0].any() and not gradients.tables["user"][0].any()


def test_a_scenario_without_fields_of_its_context_has_attention_without_it():
    fields = tuple(of for of in DECLARED.fields if of.part != "dynamic")
    model, params, batch, _ = ready(features=dataclasses.replace(DECLARED, fields=fields))
    found = outputs(model, params, batch)
    assert np.isfinite(found).all() and np.ptp(found) > 0.05


def test_without_its_graph_no_neighbours_are_drawn():
    config = config_of("treems", has_graph=False, features=dataclasses.replace(DECLARED, neighbourhoods=()))
    config.validate()
    assert not config.declaration.neighbourhoods and config.declaration.paths
    assert not config_of("treems", has_graph=False).declaration.neighbourhoods


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "tree"}, "config.model.path = 'tree' is not known; choose one of: path"),
        ({"reader": "gru"}, "config.model.reader = 'gru' is not known"),
        ({"attention": "dot"}, "config.model.attention = 'dot' is not known"),
        ({"num_experts": 0}, "num_experts = 0 must be at least 1"),
        ({"expert_widths": (4, 0, 3)}, "expert_widths = .* must hold a width >= 1 for each level"),
        ({"inconsistency_weight": float("inf")}, "inconsistency_weight = inf must be finite"),
        ({"has_graph": False, "attention": "dynamic"}, "attention = dynamic has no effect"),
        ({"features": dataclasses.replace(DECLARED, neighbourhoods=())}, "has_graph: .*neighbourhoods is empty"),
        (
            {"features": dataclasses.replace(DECLARED, paths=(Path(), Path("other")))},
            "paths: one path says .* there are: path, other",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        config_of("treems", **keys).validate()


def test_widths_that_are_not_one_for_each_level_are_refused():
    with pytest.raises(ConfigError, match=r"expert_widths = \(5, 4\): the tree has 3 levels, .* give 3 widths"):
        trainable(config_of("treems", expert_widths=(5, 4)))


def test_dynamic_attention_is_another_model():
    model, params, batch, _ = ready(attention="dynamic")
    assert np.ptp(outputs(model, params, batch)) > 0.05
    assert jnp.isfinite(loss_and_gradients(model, params, batch)[0])
