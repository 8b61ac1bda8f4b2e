"""Tree-guided experts beside a slow transcription of TREEMS' equations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.tree_experts import PathReader, TreeGuidedExperts, inconsistency

ROWS, IN_WIDTH, NUM_EXPERTS, WIDTHS, PATH_WIDTH = 6, 5, 3, (7, 4, 2), 4


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, IN_WIDTH)).astype(np.float32)
    path = rng.normal(size=(ROWS, len(WIDTHS), PATH_WIDTH)).astype(np.float32)
    lengths = np.array([3, 2, 1, 0, 3, 2])
    return tuple(map(jnp.asarray, (x, path, np.arange(len(WIDTHS)) < lengths[:, None])))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_lstm(cell, path, mask):
    """One row and one level after the other; the state is held at the padding."""
    kernels, path, mask = {}, np.asarray(path, float), np.asarray(mask)
    for gate in "ifgo":
        kernels[gate] = (
            np.asarray(cell.dense_i.kernel[...], float),
            np.asarray(cell.dense_h.kernel[...], float),
        )
    width = path.shape[2]
    places = {gate: slice(i * width, (i + 1) * width) for i, gate in enumerate("ifgo")}
    bias = np.asarray(cell.dense_h.bias[...], float)
    found = np.zeros(path.shape)
    for row in range(len(path)):
        memory, state = np.zeros(width), np.zeros(width)
        for level in range(path.shape[1]):
            if mask[row, level]:
                sums = {
                    gate: path[row, level] @ kernels[gate][0][:, of] + state @ kernels[gate][1][:, of] + bias[of]
                    for gate, of in places.items()
                }
                memory = sigmoid(sums["f"]) * memory + sigmoid(sums["i"]) * np.tanh(sums["g"])
                state = sigmoid(sums["o"]) * np.tanh(memory)
            found[row, level] = state
    return found


def test_the_reader_is_an_lstm_whose_state_is_held_after_the_end_of_a_path():
    _, path, mask = inputs()
    reader = PathReader(PATH_WIDTH, nnx.Rngs(0))
    reader.cell.dense_h.bias[...] = jax.random.normal(jax.random.key(1), reader.cell.dense_h.bias.shape)
    np.testing.assert_allclose(reader(path, mask), slow_lstm(reader.cell, path, mask), rtol=1e-5, atol=1e-6)


def test_the_sum_reads_all_nodes_so_far():
    _, path, mask = inputs()
    found = PathReader(PATH_WIDTH, nnx.Rngs(0), "sum")(path, mask)
    for row, level in itertools.product(range(ROWS), range(len(WIDTHS))):
        expected = sum((path[row, i] for i in range(level + 1) if mask[row, i]), np.zeros(PATH_WIDTH))
        np.testing.assert_allclose(found[row, level], expected, rtol=1e-5, atol=1e-6)


def slow_guided(module, x, path, mask):
    """(z, gates) expert by expert and row by row (Eq. 5-6)."""
    states = np.asarray(module.reader(path, mask), float)
    weights = [np.asarray(of[...], float) for of in module.experts.weights]
    biases = [np.asarray(of[...], float) for of in module.experts.biases]
    gate_weights = np.asarray(module.gates[...], float)
    mixed, gates, x = [], np.zeros((ROWS, len(WIDTHS), NUM_EXPERTS)), np.asarray(x, float)
    for row in range(ROWS):
        parts = []
        hidden = [x[row]] * NUM_EXPERTS
        for layer, width in enumerate(WIDTHS):
            logits = states[row, layer] @ gate_weights[layer]
            gates[row, layer] = np.exp(logits) / np.exp(logits).sum()
            total = np.zeros(width)
            for k in range(NUM_EXPERTS):
                hidden[k] = np.maximum(hidden[k] @ weights[layer][k] + biases[layer][k], 0)
                total += gates[row, layer, k] * hidden[k]
            parts.append(total)
        mixed.append(np.concatenate(parts))
    return np.stack(mixed), gates


@pytest.mark.parametrize("reader", ["lstm", "sum"])
def test_each_layer_is_mixed_by_its_levels_gate(reader):
    x, path, mask = inputs()
    module = TreeGuidedExperts(IN_WIDTH, NUM_EXPERTS, WIDTHS, PATH_WIDTH, nnx.Rngs(0), reader)
    found = module(x, path, mask)
    mixed, gates = slow_guided(module, x, path, mask)
    np.testing.assert_allclose(found.gates, gates, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mixed, mixed, rtol=1e-5, atol=1e-6)
    assert found.mixed.shape[1] == module.out_width == sum(WIDTHS)


def test_what_stands_after_the_end_of_a_path_changes_nothing_and_an_empty_path_is_uniform():
    x, path, mask = inputs()
    module = TreeGuidedExperts(IN_WIDTH, NUM_EXPERTS, WIDTHS, PATH_WIDTH, nnx.Rngs(0))
    other = jnp.where(mask[:, :, None], path, jnp.nan)

    def total(path):
        return module(x, path, mask).mixed.sum()

    np.testing.assert_array_equal(module(x, path, mask).mixed, module(x, other, mask).mixed)
    assert np.isfinite(jax.grad(total)(other)).all()
    np.testing.assert_allclose(module(x, path, mask).gates[3], 1 / NUM_EXPERTS, rtol=1e-6)


def test_the_closed_form_of_the_inconsistency_is_the_double_sum():
    x, path, mask = inputs()
    gates = np.asarray(TreeGuidedExperts(IN_WIDTH, 3, WIDTHS, PATH_WIDTH, nnx.Rngs(2))(x, path, mask).gates, float)
    expected = -np.mean(
        [sum(g[k] * g[other] for g in row for k in range(3) for other in range(k + 1, 3)) for row in gates]
    )
    assert float(inconsistency(jnp.asarray(gates, jnp.float32))) == pytest.approx(expected, rel=1e-5)
    uniform = jnp.full((2, 3, 4), 0.25)
    one = jnp.zeros((2, 3, 4)).at[:, :, 1].set(1.0)
    assert float(inconsistency(uniform)) == pytest.approx(-3 * 6 / 16) and float(inconsistency(one)) == 0


def test_layers_and_levels_have_to_be_as_many():
    x, path, mask = inputs()
    module = TreeGuidedExperts(IN_WIDTH, NUM_EXPERTS, WIDTHS[:2], PATH_WIDTH, nnx.Rngs(0))
    with pytest.raises(ValueError, match="2 layers, but paths of 3 levels"):
        module(x, path, mask)


def test_a_leaf_is_all_that_a_reader_without_a_tree_reads():
    x, path, mask = inputs()
    states = np.asarray(PathReader(PATH_WIDTH, nnx.Rngs(0), "leaf")(path, mask))
    for row, levels, kept in zip(states, np.asarray(path), np.asarray(mask), strict=True):
        last = levels[kept.sum() - 1] if kept.any() else np.zeros(PATH_WIDTH)
        np.testing.assert_array_equal(row, np.tile(last, (len(kept), 1)))
    module = TreeGuidedExperts(IN_WIDTH, NUM_EXPERTS, WIDTHS, PATH_WIDTH, nnx.Rngs(0), "leaf")
    np.testing.assert_array_equal(module(x, path, mask).states, states)
