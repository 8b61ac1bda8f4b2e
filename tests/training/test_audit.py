"""What `train --audit` looks at in a run."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import HistoryConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.schema import DataError
from lsec_jax.training.run import prepare
from tests import runs


@pytest.mark.parametrize("layout", ["ends", "last"])
def test_an_audit_of_a_run_looks_at_its_histories(layout):
    config = runs.tiny_config()
    config.data = synthetic.live_tiny(live=LiveConfig(num_impressions=2000))
    config.histories = (
        HistoryConfig("watches", where="watched", delay=0.5, length=5, is_materialized=layout == "last"),
    )
    run = prepare(config)
    run.audit()
    of = run.data.histories["watches"]
    # What the same moments would see if all were known at once.
    eager = dataclasses.replace(config.histories[0], delay=0.0)
    config.histories = (eager,)
    known_at_once = getattr(prepare(config).data.histories["watches"], layout)
    assert not np.array_equal(known_at_once["impression"], getattr(of, layout)["impression"])
    leaky = dataclasses.replace(of, **{layout: known_at_once})
    run.data = run.data.replace(histories={"watches": leaky})
    with pytest.raises(DataError, match=r"histories 'watches', moments 'impression': \d+ (see|have other)"):
        run.audit()


def test_an_audit_of_a_run_warns_of_relations_that_tell_held_out_pairs(caplog):
    config = runs.tiny_config()
    config.split.method = "random"
    run = prepare(config)
    buy = run.data.relations["buy"]
    run.audit()
    assert "held-out pairs" not in caplog.text
    view = dataclasses.replace(buy, name="view", split=np.zeros_like(buy.split))
    run.data = run.data.replace(relations={**run.data.relations, "view": view})
    run.audit()
    assert "held-out pairs of relation 'buy' train in relation 'view'" in caplog.text
