"""Rankers read sequences in blocks of rows: nothing changes but the time."""

import jax
import numpy as np
import pytest

from lsec_jax.nn import row_blocks
from tests.models.impressions.batches import baseline_config, batch, eliverec_config, loss_and_gradients, trainable

CONFIGS = {
    "eliverec": eliverec_config(dropout=0.3),
    "din": baseline_config("din"),
    "bst": baseline_config("bst", dropout=0.3),
    "hgn": baseline_config("hgn"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_the_same_in_blocks(name, monkeypatch):
    """With dropout, whose masks belong to the rows' places in the batch, and rows that do not fill the last block."""
    data = batch(24, tasks=("stay", "bag") if name == "eliverec" else ())
    found, counts, count_blocks = {}, [], row_blocks._num_blocks
    monkeypatch.setattr(row_blocks, "_num_blocks", lambda *of: counts.append(count_blocks(*of)) or counts[-1])
    for values in (2**19, 5 * 6 * 32):
        monkeypatch.setattr(row_blocks, "BLOCK_VALUES", values)
        model, params = trainable(CONFIGS[name])
        found[values] = loss_and_gradients(model, params, data)
        assert (max(counts) > 1) == (values < 2**19)
        counts.clear()
    (whole, _, gradients), (loss, _, in_blocks) = found.values()
    np.testing.assert_allclose(loss, whole, rtol=1e-5)
    for mine, plain in zip(jax.tree.leaves(in_blocks), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-4, atol=1e-6)
