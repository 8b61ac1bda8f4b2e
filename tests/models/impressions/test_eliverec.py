"""What is eLiveRec's own: intentions, regularisers in groups of rows, the gate unit, and its ablations."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lsec_jax.config import ConfigError
from lsec_jax.nn import replicas
from lsec_jax.training.state import TrainState, make_train_step
from tests.models.impressions.batches import batch, eliverec_config, layout, loss_and_gradients, outputs, trainable

REGULARISERS = ("distance_correlation/watches", "distance_correlation/clicks", "contrast")


def enlarged(params):
    return params._replace(tables=jax.tree.map(lambda of: 50.0 * of, params.tables))


def parts(module, params, own):
    """(fields, what the trunk makes of them) of a batch."""
    rows = {name: replicas.take(params.tables[name], ids) for name, ids in own["ids"].items()}
    fields = module.fields(rows, own)
    return fields, module.represent(fields, own, None)


@pytest.fixture(scope="module")
def built():
    model, params = trainable(eliverec_config())
    return model, enlarged(params), batch()


def test_the_shared_vector_is_context_target_and_the_four_intentions(built):
    model, params, own = built
    module = model.module(params.dense)
    fields, represented = parts(module, params, own)
    vectors = module.intentions(fields)
    assert list(vectors) == ["consistent/watches", "specific/watches", "consistent/clicks", "specific/clicks"]
    expected = np.concatenate([fields.context, fields.target_vector, *vectors.values()], axis=1)
    np.testing.assert_allclose(represented.shared, expected, rtol=1e-6)
    assert sum(module.field_widths) == represented.shared.shape[1]


def test_each_gate_weighs_one_field(built):
    """Eq. 12, slowly: in-channel tasks read sigmoid(net(e_d))_f times field f, and e_d."""
    model, params, own = built
    module = model.module(params.dense)
    _, represented = parts(module, params, own)
    gates = np.asarray(module.gate(represented.dynamic))
    assert gates.shape == (16, len(module.field_widths)) and (gates > 0).all() and (gates < 1).all()
    gated, start = np.array(represented.shared), 0
    for i, width in enumerate(module.field_widths):
        gated[:, start : start + width] *= gates[:, i : i + 1]
        start += width
    read = np.concatenate([gated, represented.dynamic], axis=1)
    mixed, _ = module.experts(jnp.asarray(read))
    found = module.outputs(represented, represented.shared)
    for i, head in enumerate(module.heads):
        np.testing.assert_allclose(found[:, 1 + i], head(mixed[:, i])[:, 0], rtol=1e-4, atol=1e-5)


def test_the_dynamic_context_reaches_the_primary_task_only_if_asked_for():
    own = batch()
    other = own | {"numbers": own["numbers"].at[:, 2:4].add(3.0)}
    for reads in (False, True):
        model, params = trainable(eliverec_config(tower_reads_dynamic=reads))
        plain, changed = (outputs(model, enlarged(params), of) for of in (own, other))
        assert (np.abs(plain - changed)[:, 0].max() > 1e-4) == reads
        assert np.abs(plain - changed)[:, 1:].max() > 1e-4


def test_regularisers_compare_rows_of_their_group_only():
    """A batch of two groups has the mean of the groups' penalties: devices that share it have the same loss."""
    model, params = trainable(eliverec_config(contrast_weight=0.5, independence=0.5))
    whole = batch(users=np.arange(16))
    halves = [jax.tree.map(lambda of, first=first: of[first : first + 8], whole) for first in (0, 8)]
    found = loss_and_gradients(model, enlarged(params), whole)[1]
    apart = [loss_and_gradients(model, enlarged(params), of)[1] for of in halves]
    for name in REGULARISERS:
        expected = np.mean([float(of[name]) for of in apart])
        assert float(found[name]) == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_rows_with_an_empty_sequence_have_no_part_in_the_contrast():
    model, params = trainable(eliverec_config())
    own = batch(users=np.arange(16))
    empty = own["masks"]["watches"].at[3].set(False)
    one = own | {"masks": own["masks"] | {"watches": empty}}
    other = one | {"ids": one["ids"] | {"item": one["ids"]["item"].at[3].set(4)}}
    found = [loss_and_gradients(model, enlarged(params), of)[1]["contrast"] for of in (own, one, other)]
    assert float(found[1]) == pytest.approx(float(found[2]), rel=1e-6)
    assert float(found[0]) != pytest.approx(float(found[1]), rel=1e-6)


def test_regularisers_take_part_in_the_loss_with_their_weights():
    own = batch(users=np.arange(16))
    losses = {}
    for independence, contrast_weight in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.25)):
        config = eliverec_config(independence=independence, contrast_weight=contrast_weight)
        model, params = trainable(config)
        total, metrics, _ = loss_and_gradients(model, enlarged(params), own)
        losses[independence, contrast_weight] = float(total), metrics
    plain = losses[0.0, 0.0][0]
    assert not {*REGULARISERS} & {*losses[0.0, 0.0][1]}
    total, metrics = losses[0.5, 0.0]
    expected = plain + 0.5 * sum(float(metrics[f"distance_correlation/{name}"]) for name in ("watches", "clicks"))
    assert total == pytest.approx(expected, rel=1e-5)
    total, metrics = losses[0.0, 0.25]
    assert total == pytest.approx(plain + 0.25 * float(metrics["contrast"]), rel=1e-5)


def test_regularisers_take_turns_with_the_rest_if_asked_for():
    own = batch(users=np.arange(16))

    def found(step, **keys):
        model, params = trainable(eliverec_config(independence=0.5, **keys))
        total, metrics, gradients = loss_and_gradients(model, enlarged(params), {**own, "step": jnp.int32(step)})
        return float(total), float(metrics["loss"]), gradients

    both, rest, alone = found(1), found(0, is_alternating=True), found(1, is_alternating=True)
    assert rest[0] + alone[0] == pytest.approx(both[0], rel=1e-5) and min(rest[0], alone[0]) > 0.01
    assert rest[1] == pytest.approx(both[0], rel=1e-5) == alone[1]
    sums = jax.tree.map(jnp.add, rest[2], alone[2])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6), sums, both[2])
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(alone[2].dense["primary_tower"]))
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(alone[2].dense["weights"]))


def test_the_training_step_says_whose_turn_it_is():
    model, params = trainable(eliverec_config(independence=0.5, is_alternating=True))
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(model, optimizer, jax.random.key(0)))
    state = TrainState(jnp.int32(0), enlarged(params), optimizer.init(params))
    towers = [params.dense["primary_tower"]]
    for _ in range(3):
        state, _ = step(state, (), batch(users=np.arange(16)))
        towers.append(state.params.dense["primary_tower"])
    moved = [
        any(np.any(one != other) for one, other in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
        for old, new in itertools.pairwise(towers)
    ]
    assert moved == [True, False, True]


@functools.cache
def plain_gradients():
    """Of the config that ablations differ from."""
    model, params = trainable(eliverec_config())
    return loss_and_gradients(model, enlarged(params), batch(users=np.arange(16)))[2]


QUICK_ABLATIONS = ({"contrast": "none"}, {"is_disentangled": False}, {"look_ahead": "one_step"}, {"encoder": "hgn"})
ABLATIONS = (
    {"prototypes": "learned"},
    {"independence": 0.0},
    {"contrast": "cosine"},
    {"contrast": "euclidean"},
    {"is_symmetric": True},
    {"is_unbiased": False},
    {"specific_separation": 0.3},
    {"is_gated": False},
    {"retrieval_scale": "sqrt"},
    {"product": ""},
    {"encoder": "din"},
    {"encoder": "gru"},
    {"has_positions": False},
    {"history_products": True},
    {"task_weighting": "fixed", "task_weights": (0.3, 0.1)},
    {"task_weighting": "uncertainty"},
    {"tasks": (), "task_weighting": "fixed"},
)


@pytest.mark.parametrize(
    "keys", [*QUICK_ABLATIONS, *(pytest.param(keys, marks=pytest.mark.slow) for keys in ABLATIONS)], ids=str
)
def test_each_ablation_changes_what_is_learned(keys):
    config = eliverec_config(**keys)
    model, params = trainable(config)
    declared = config.declaration
    sequences, tasks = (tuple(of.name for of in part) for part in (declared.sequences, declared.labels[1:]))
    own = batch(users=np.arange(16), sequences=sequences, tasks=tasks)
    gradients = loss_and_gradients(model, enlarged(params), own)[2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    plain = plain_gradients()
    if jax.tree.structure(plain) == jax.tree.structure(gradients):
        pairs = zip(jax.tree.leaves(plain), jax.tree.leaves(gradients), strict=True)
        assert any(
            one.shape != other.shape or not np.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in pairs
        )


def test_rows_of_a_group_stay_together_only_where_rows_are_compared():
    assert eliverec_config().rows_together == 8
    alone = ({"independence": 0.0, "contrast": "none"}, {"is_disentangled": False})
    alone += ({"independence": 0.0, "contrast_weight": 0.0}, {"independence": 0.0, "product": ""})
    for keys in alone:
        assert eliverec_config(**keys).rows_together == 1, keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channel": "views"}, "config.model.channel"),
        ({"product": "watches"}, "is the channel's sequence"),
        ({"contrast": "kl"}, "config.model.contrast"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "must be finite"),
        ({"sequences": ("watches",)}, "has the keys channel and product"),
        ({"tasks": ()}, "task_weighting"),
        ({"expert_widths": ()}, "expert_widths"),
        ({"is_disentangled": False, "independence": 5.0}, "independence = 5.0 has no effect"),
        ({"product": "", "contrast": "euclidean"}, "contrast = euclidean has no effect"),
        ({"independence": 0.0, "contrast": "none", "is_alternating": True}, "is_alternating = True has no effect"),
        ({"encoder": "gru", "attention_scale": "head"}, "attention_scale = head has no effect"),
        ({"independence": float("inf")}, "must be finite"),
        ({"regulariser_group_size": 1}, "regulariser_group_size"),
    ],
)
def test_what_cannot_work_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        eliverec_config(**keys).validate()


def test_the_config_reads_the_sequences_of_its_domains_only():
    config = eliverec_config(product="")
    assert [of.name for of in config.declaration.sequences] == ["watches"]
    assert [of.name for of in dataclasses.replace(config, tasks=("bag",)).declaration.labels] == ["watched", "bag"]


def test_an_empty_sequence_has_a_learned_vector_without_disentangling_too():
    model, params = trainable(eliverec_config(is_disentangled=False))
    own = batch(users=np.arange(16))
    module = model.module(params.dense)
    vectors = module.intentions(parts(module, params, own)[0])
    for name in ("watches", "clicks"):
        empty = module.domains[name].empty[...]
        assert np.any(empty != 0)
        np.testing.assert_array_equal(vectors[f"pooled/{name}"][0], empty)
        assert np.any(vectors[f"pooled/{name}"][1] != empty)
    gradients = loss_and_gradients(model, enlarged(params), own)[2]
    assert np.any(gradients.dense["domains"]["watches"]["empty"][...] != 0)


def test_a_gru_needs_an_order():
    config = eliverec_config(encoder="gru")
    with pytest.raises(ConfigError, match="'clicks' is declared with is_ordered=False; choose another"):
        config.build(layout(), nnx.Rngs(0))
