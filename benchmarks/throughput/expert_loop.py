"""Tree-guided experts as `nn/tree_experts.py` computes them, together, against a loop over networks of their own."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from benchmarks.throughput.step_times import in_turns
from lsec_jax.nn.dense import dense
from lsec_jax.nn.tree_experts import GuidedExperts, TreeGuidedExperts


class Sizes(NamedTuple):
    """Of what is computed.

    Attributes:
        batch_size: rows.
        in_width: of x.
        widths: of the layers, one for each level of the tree.
        path_width: of the nodes' embeddings.
    """

    batch_size: int
    in_width: int
    widths: tuple[int, ...]
    path_width: int


class LoopedExperts(nnx.Module):
    """The same function with weights apart for each expert, and one expert computed after the other."""

    def __init__(self, guided: TreeGuidedExperts):
        """Takes the weights, the reader of paths and the gates of another one."""
        self.guide = guided
        own, num_experts = guided.experts, guided.gates.shape[2]
        layers = [(weights[...], bias[...]) for weights, bias in zip(own.weights, own.biases, strict=True)]
        self.networks = nnx.List(
            [
                nnx.List([nnx.Dict(weights=nnx.Param(w[k]), bias=nnx.Param(b[k])) for w, b in layers])
                for k in range(num_experts)
            ]
        )
        del guided.experts

    def __call__(self, x: Array, path: Array, mask: Array) -> GuidedExperts:
        """Mixes each layer's outputs."""
        states = self.guide.reader(path, mask)
        gates = self.guide.gates_of(states)
        mixed = [jnp.zeros((len(x), layer["bias"].shape[0])) for layer in self.networks[0]]
        for k, network in enumerate(self.networks):
            hidden = x
            for i, layer in enumerate(network):
                hidden = jax.nn.relu(dense(hidden, layer["weights"][...], layer["bias"][...]))
                mixed[i] = mixed[i] + gates[:, i, k, None] * hidden
        return GuidedExperts(jnp.concatenate(mixed, axis=1), gates, states)


def build(kind: str, num_experts: int, sizes: Sizes) -> nnx.Module:
    """The "batched" or the "loop" of some experts, of equal weights."""
    guided = TreeGuidedExperts(sizes.in_width, num_experts, sizes.widths, sizes.path_width, nnx.Rngs(0))
    return LoopedExperts(guided) if kind == "loop" else guided


def both_ways(kind: str, num_experts: int, sizes: Sizes) -> tuple[Callable[[], object], float]:
    """Forward and backward, of the weights and of what is read, and the seconds to compile them."""
    graph, state = nnx.split(build(kind, num_experts, sizes))
    arrays = inputs(sizes)

    def loss(state: Any, x: Array, path: Array, mask: Array) -> Array:
        return jnp.square(nnx.merge(graph, state)(x, path, mask).mixed).mean()

    started = time.perf_counter()
    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(state, *arrays).compile()
    seconds = time.perf_counter() - started
    return lambda: jax.block_until_ready(function(state, *arrays)), seconds


def inputs(sizes: Sizes) -> tuple[Array, Array, Array]:
    """x, paths of all lengths, and their masks."""
    rng, depth = np.random.default_rng(0), len(sizes.widths)
    x = rng.normal(size=(sizes.batch_size, sizes.in_width)).astype(np.float32)
    path = rng.normal(size=(sizes.batch_size, depth, sizes.path_width)).astype(np.float32)
    mask = np.arange(depth) < rng.integers(1, depth + 1, sizes.batch_size)[:, None]
    return jnp.asarray(x), jnp.asarray(path), jnp.asarray(mask)


def measure(counts: tuple[int, ...], sizes: Sizes, repetitions: int, num_warm_ups: int) -> list[dict[str, Any]]:
    """Both kinds for each number of experts, in turns.

    Returns:
        JSON: "experts", and of "batched" and "loop" "seconds", "cpu_seconds" and "compile_seconds".
    """
    rows = []
    for count in counts:
        made = {kind: both_ways(kind, count, sizes) for kind in ("batched", "loop")}
        times = in_turns({kind: work for kind, (work, _) in made.items()}, repetitions, num_warm_ups)
        compiled = {kind: times[kind] | {"compile_seconds": seconds} for kind, (_, seconds) in made.items()}
        rows.append({"experts": count, **compiled})
    return rows
