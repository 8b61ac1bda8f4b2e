"""Generated candidate lists: all positives of one split and uniform targets that the user has in no split.

This is the `candidates` protocol of LSEC-GNN (Sec. 6.2). The paper does not state how many candidates it uses, so N is
part of every list's `origin` and numbers for different N do not compare. Numpy only.
"""

import dataclasses

import numpy as np

from lsec_jax import schema
from lsec_jax.config import ConfigError, EvaluationConfig
from lsec_jax.config_json import differences, to_json
from lsec_jax.data import csr

_BLOCK_PAIRS = 200_000  # candidate pairs drawn at once, meant to stay in a core's cache
_FROZEN = "frozen, "  # how the origin of lists begins that were kept with prepared data
_DENSE_SHARE = 0.5  # a user for whom this share of the targets is drawn or taken gets a permutation instead


def generate_candidates(
    data: schema.LiveCommerceData, relation: str, split: int, num_candidates: int, seed: int
) -> schema.Candidates:
    """Draws one candidate list for every source node with an edge in the split.

    Rows are sorted by target id, so that the place of a candidate says nothing about its label. The same data, N and
    seed give the same lists (for one version of numpy's generator). Negatives are of the targets that are available in
    the split's period, as far as the data knows (`LiveCommerceData.offered`).

    Args:
        data: with splits assigned.
        relation: its name.
        split: schema.VALIDATION or schema.TEST.
        num_candidates: N, positives included. Where some user has fewer targets to offer, N shrinks for all users to
            the largest possible and `origin` says so.
        seed: of the draw.

    Returns:
        Lists of equal length for all evaluated users, ascending by user.

    Raises:
        DataError: the split has no edges, a user has more positives than N, or nothing is available in the period.
    """
    edges = data.relation(relation)
    num_targets = len(data.nodes[edges.target])
    source_ids, positive_targets = edges.edges(split)
    if len(source_ids) == 0:
        where = f"relation '{relation}' of data set '{data.name}' has no edges in split {split}"
        raise schema.DataError(f"{where}; evaluate another split or give this one a share (config.split.fractions)")
    users, num_positives = np.unique(source_ids, return_counts=True)
    indptr, bought = csr.csr_from_pairs(edges.source_ids, edges.target_ids, len(data.nodes[edges.source]))
    in_period = data.offered(edges.target, split)
    is_offered = np.ones(num_targets, bool) if in_period is None else in_period
    offered = np.flatnonzero(is_offered)
    num_bought = np.bincount(edges.source_ids[is_offered[edges.target_ids]], minlength=len(indptr))[users]
    feasible = int((len(offered) - num_bought + num_positives).min())
    length = min(num_candidates, feasible)
    _check_positives(data, edges, users, num_positives, length, num_candidates)

    positive_indptr = np.concatenate([[0], np.cumsum(num_positives)])
    dense = num_bought + length > _DENSE_SHARE * len(offered)
    target_ids = np.empty((len(users), length), np.int32)
    labels = np.empty((len(users), length), bool)
    generator = np.random.default_rng(seed)
    for chosen, draw, row_cost in ((~dense, fill_lists, length), (dense, _draw_dense, num_targets)):
        rows = np.flatnonzero(chosen)
        for block in np.array_split(rows, max(1, -(-len(rows) * row_cost // _BLOCK_PAIRS))):
            taken = _keys((indptr, bought), users[block], num_targets)
            positive = _keys((positive_indptr, positive_targets), block, num_targets)
            if len(block):
                keys = draw(generator, len(block), length, num_targets, offered, taken, positive)
                target_ids[block] = (keys % num_targets).reshape(-1, length)
                labels[block] = csr.contains(positive, keys).reshape(-1, length)
    origin = f"generated, N={length}, seed {seed}"
    if length < num_candidates:
        origin += f" (N={num_candidates} asked; some {edges.source} has only {feasible} candidates to offer)"
    if len(offered) < num_targets:
        origin += f", of the {len(offered)} available in the period"
    return schema.Candidates(users.astype(np.int32), target_ids, labels, origin)


def freeze_candidates(
    data: schema.LiveCommerceData, relation: str, config: EvaluationConfig
) -> schema.LiveCommerceData:
    """Returns the data with the lists that an evaluation would generate as its candidate lists, which the store keeps.

    Every model and every later version then ranks the same candidates, whatever numpy's generator does. Published lists
    of the relation stay, and held-out splits without edges get none.

    Args:
        data: with splits assigned.
        relation: that is evaluated.
        config: number and seed of the candidates.

    Raises:
        DataError: as `generate_candidates`.
    """
    edges = data.relation(relation)
    assert edges.split is not None
    lists = dict(data.candidates)
    for split in (schema.VALIDATION, schema.TEST):
        if (relation, split) not in lists and (edges.split == split).any():
            made = generate_candidates(data, relation, split, config.num_candidates, config.candidates_seed)
            lists[relation, split] = dataclasses.replace(made, origin=f"{_FROZEN}{made.origin}")
    return data.replace(candidates=lists)


def check_frozen(data: schema.LiveCommerceData, lists: schema.Candidates, config: EvaluationConfig) -> None:
    """Refuses settings that would have no effect on lists that are kept with prepared data.

    Args:
        data: that has the lists.
        lists: published or frozen; only the latter depend on settings.
        config: that asks for them.

    Raises:
        ConfigError: another number or seed of candidates than the lists were drawn with.
    """
    frozen = (data.prepared_with or {}).get("frozen_candidates")
    if frozen is None or not lists.origin.startswith(_FROZEN):
        return
    given = {name: value for name, value in to_json(config).items() if name in frozen}
    if changed := differences(frozen, given, "config.evaluation"):
        raise ConfigError(
            f"data set '{data.name}' holds candidate lists that were frozen with other settings (frozen -> given):\n  "
            + "\n  ".join(changed)
            + "\nGive the frozen values, or prepare the data into another directory with these or without "
            "--freeze_candidates."
        )


def _check_positives(
    data: schema.LiveCommerceData,
    edges: schema.Relation,
    users: np.ndarray,
    num_positives: np.ndarray,
    length: int,
    num_candidates: int,
) -> None:
    worst = int(np.argmax(num_positives))
    if num_positives[worst] <= length:
        return
    name = data.nodes[edges.source].ids[users[worst]]
    problem = f"relation '{edges.name}': {edges.source} {name} has {num_positives[worst]} positives but a list of "
    if length == num_candidates:
        raise schema.DataError(
            f"{problem}{length} candidates; set config.evaluation.num_candidates to at least {num_positives[worst]}"
        )
    raise schema.DataError(
        f"{problem}at most {length} candidates is possible for all ({num_candidates} asked), because another "
        f"{edges.source} has nearly every {edges.target}, or few are available in the period; evaluate with "
        "the full_ranking protocol"
    )


def fill_lists(
    generator: np.random.Generator,
    num_rows: int,
    length: int,
    num_targets: int,
    offered: np.ndarray,
    taken: np.ndarray,
    positive: np.ndarray,
) -> np.ndarray:
    """Rejection sampling: every round draws exactly what is missing, so that no draw is ever cut off by its id.

    Keys are row * num_targets + target, int64.

    Args:
        generator: of the draws.
        num_rows: of lists.
        length: of every list; each row must have that many targets to offer.
        num_targets: n, of the keys.
        offered: targets to draw from, [o] int64.
        taken: sorted keys that are never drawn, the positive ones among them.
        positive: sorted keys that every list begins with, each once.

    Returns:
        The sorted keys of all candidates, [num_rows * length].
    """
    missing = length - np.bincount(positive // num_targets, minlength=num_rows)
    chosen = positive
    while missing.any():
        starts = np.repeat(np.arange(num_rows, dtype=np.int64) * num_targets, missing)
        drawn = np.sort(starts + offered[generator.integers(0, len(offered), len(starts))])
        drawn = drawn[np.diff(drawn, prepend=-1) > 0]  # sorted already: np.unique would work on it again
        drawn = drawn[~csr.contains(taken, drawn)]
        missing = missing - np.bincount(drawn // num_targets, minlength=num_rows)
        # Stable sorts are merges here: both parts are sorted already.
        taken = np.sort(np.concatenate([taken, drawn]), kind="stable")
        chosen = np.sort(np.concatenate([chosen, drawn]), kind="stable")
    return chosen


def _draw_dense(
    generator: np.random.Generator,
    num_rows: int,
    length: int,
    num_targets: int,
    offered: np.ndarray,
    taken: np.ndarray,
    positive: np.ndarray,
) -> np.ndarray:
    """The same for users with few targets to spare: the `length` smallest of one random number per target."""
    priority = generator.random(num_rows * num_targets)
    priority[taken] = 2.0
    if len(offered) < num_targets:
        priority.reshape(num_rows, num_targets)[:, np.setdiff1d(np.arange(num_targets), offered)] = 2.0
    priority[positive] = -1.0
    chosen = np.argpartition(priority.reshape(num_rows, num_targets), length - 1, axis=1)[:, :length]
    return (np.sort(chosen, axis=1) + np.arange(num_rows)[:, None] * num_targets).ravel()


def _keys(pairs: tuple[np.ndarray, np.ndarray], rows: np.ndarray, num_targets: int) -> np.ndarray:
    """Sorted keys (position in `rows`) * num_targets + target of some rows of a CSR pair, int64."""
    indptr, indices = pairs
    counts = indptr[rows + 1] - indptr[rows]
    positions = np.repeat(np.arange(len(rows), dtype=np.int64), counts)
    return positions * num_targets + indices[csr.expand_ranges(indptr[rows], counts)]
