"""Pictures of an analysis."""

import numpy as np
import pytest

from lsec_jax.data import analysis
from lsec_jax.training import analysis_plots
from tests import worlds


def picture_of(buys):
    edges = {**worlds.random_edges(), "buy": tuple(np.array(buys).T)}
    graph = analysis.tripartite(worlds.world(edges), "buy", "follow", "sell")
    return analysis_plots.similarity(analysis.user_similarity(graph, np.random.default_rng(0), 1000), "joined")


@pytest.mark.parametrize(
    ("buys", "texts"),
    [
        ([(u, u) for u in range(9)], ["no drawn pair has anything in common"]),
        ([(u, i) for u in range(12) for i in (u % 9, (u + 1) % 9)], []),
    ],
)
def test_shares_of_pairs_end_at_one_and_pairs_with_nothing_in_common_are_named(buys, texts):
    for panel in picture_of(buys).axes:
        bottom, top = panel.get_ylim()
        assert 0 < bottom < top == 1
        assert [text.get_text() for text in panel.texts] == texts
