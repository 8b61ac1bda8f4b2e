"""How layers read sampled neighbourhoods: hop after hop, so that L layers read L hops."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

# (vectors of nodes [*b, d], of their neighbours [*b, k, d], True = a neighbour [*b, k]) -> vectors of the nodes [*b, d]
HopLayer = Callable[[Array, Array, Array], Array]


def read_hops(layers: Sequence[HopLayer], hops: Sequence[Array], masks: Sequence[Array]) -> Float[Array, "b d"]:
    """Returns the nodes' vectors after the last layer; each layer takes every hop but the last ones one hop further.

    Args:
        layers: L of them; what stands at masked places when they are called is 0, or what they made of 0.
        hops: vectors of the nodes [b, d], of their neighbours [b, k, d], of the neighbours' neighbours [b, k, k', d]
            and so on, L + 1 of them; those that are masked may hold anything.
        masks: True = a neighbour, [b, k], [b, k, k'] and so on; below what is masked everything is.

    Raises:
        ValueError: for other numbers of hops or masks.
    """
    if len(hops) != len(layers) + 1 or len(masks) != len(layers):
        raise ValueError(f"{len(hops)} hops and {len(masks)} masks for {len(layers)} layers; one hop more each")
    states, there = [hops[0]], list[Array]()
    for hop, mask in zip(hops[1:], masks, strict=True):  # below the padding there is padding
        there.append(mask & there[-1][..., None] if there else mask)
        states.append(jnp.where(there[-1][..., None], hop, 0.0))
    for layer in layers:
        states = [layer(states[i], states[i + 1], there[i]) for i in range(len(states) - 1)]
    return states[0]


def merge_views(
    views: Sequence[tuple[Sequence[Array], Sequence[Array]]],
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Returns (hops, masks) of one graph that has the links of all views; who is linked in two of them counts twice.

    Args:
        views: of each view (hops, masks) as of `read_hops`, of the same nodes and as many hops; a neighbour's own
            neighbours are those of the view in which it was drawn. Fewer neighbours are filled up with masked ones.
    """
    hops, masks = [views[0][0][0]], []
    for i in range(len(views[0][1])):
        widest = tuple(max(of[1][i].shape[axis] for of in views) for axis in range(2, i + 2))

        def padded(of: Array, widest: tuple[int, ...] = widest) -> Array:
            missing = [(0, size - own) for size, own in zip(widest, of.shape[2:], strict=False)]
            return jnp.pad(of, [(0, 0), (0, 0), *missing, *[(0, 0)] * (of.ndim - 2 - len(missing))])

        hops.append(jnp.concatenate([padded(of[0][i + 1]) for of in views], axis=1))
        masks.append(jnp.concatenate([padded(of[1][i]) for of in views], axis=1))
    return tuple(hops), tuple(masks)
