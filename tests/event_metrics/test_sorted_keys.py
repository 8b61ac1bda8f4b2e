"""Keys sort as their rows do, in memory and on disk."""

import numpy as np
import pytest

from lsec_jax.event_metrics.sorted_keys import GROUP_SHIFT, MAX_GROUPS, SortedKeys, pack, scores_of

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1.0, -1.0, 3e38, -3e38], np.float32)


def random_keys(num_rows, num_groups, num_scores, seed=0):
    generator = np.random.default_rng(seed)
    groups = generator.integers(num_groups, size=num_rows)
    scores = generator.integers(num_scores, size=num_rows).astype(np.float32)
    return pack(groups, scores, generator.random(num_rows) < 0.3)


def filled(keys, rows_in_memory, block=7):
    found = SortedKeys(rows_in_memory)
    for start in range(0, len(keys), block):
        found.add(keys[start : start + block])
    return found


def test_rising_keys_are_groups_then_falling_scores_then_negatives_first():
    generator = np.random.default_rng(0)
    groups = generator.integers(3, size=400) * (MAX_GROUPS // 3)
    scores = generator.choice(np.concatenate([SPECIAL, generator.normal(size=5).astype(np.float32)]), 400)
    labels = generator.random(400) < 0.5
    order = np.lexsort((labels, -scores, groups))
    ranked = np.argsort(pack(groups, scores, labels), kind="stable")
    for column in (groups, scores, labels):
        np.testing.assert_array_equal(column[order], column[ranked])


def test_scores_come_back_from_keys():
    keys = pack(np.full(len(SPECIAL), MAX_GROUPS - 1), SPECIAL, np.ones(len(SPECIAL), bool))
    np.testing.assert_array_equal(scores_of(keys), SPECIAL)


@pytest.mark.parametrize("shift", [0, GROUP_SHIFT])
@pytest.mark.parametrize(("num_groups", "num_scores"), [(1, 1), (1, 2), (40, 3), (40, 10_000), (1000, 10_000)])
def test_keys_on_disk_come_in_the_order_of_keys_in_memory(num_groups, num_scores, shift):
    keys = random_keys(3000, num_groups, num_scores)
    found = filled(keys, 256)
    blocks = list(found.blocks(shift))
    np.testing.assert_array_equal(np.concatenate(blocks), np.sort(keys))
    assert len(found) == len(keys)
    heads = [block[0] >> np.uint64(shift) for block in blocks]
    largest_group = np.unique(keys >> np.uint64(GROUP_SHIFT), return_counts=True)[1].max()
    assert max(map(len, blocks)) <= 256 + (largest_group if shift else 0)
    if shift:
        assert len(set(heads)) == len(blocks)
        tails = [block[-1] >> np.uint64(shift) for block in blocks]
        assert all(tail < head for tail, head in zip(tails[:-1], heads[1:], strict=True))


def test_keys_that_just_fit_stay_in_memory_and_come_in_one_block():
    keys = random_keys(64, 3, 5)
    found = filled(keys, 64)
    assert len(list(found.blocks())) == 1
    found.add(keys[:1])
    assert len(list(found.blocks())) > 1


def test_blocks_can_be_had_twice_with_keys_added_between():
    keys = random_keys(500, 9, 50)
    for rows_in_memory in (64, 1000):
        found = filled(keys[:300], rows_in_memory)
        np.testing.assert_array_equal(np.concatenate(list(found.blocks())), np.sort(keys[:300]))
        found.add(keys[300:])
        np.testing.assert_array_equal(np.concatenate(list(found.blocks(GROUP_SHIFT))), np.sort(keys))


def test_no_keys_give_no_blocks_and_no_memory_is_refused():
    assert list(SortedKeys(4).blocks()) == []
    with pytest.raises(ValueError, match="rows_in_memory = 0"):
        SortedKeys(0)
