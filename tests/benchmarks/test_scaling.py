"""The formulas of what steps send, by hand; predictions, tables and the picture made of them."""

import dataclasses
import json

import matplotlib.image
import pytest

from benchmarks import runs, tables
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling import compiled, formulas, plots, predictions, sections
from benchmarks.scaling.formulas import Workload
from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.models import ncf

NCF = ncf.Config(variant="gmf", embedding_dim=10, num_negatives=4)
WORKLOAD = Workload({"item": 200, "user": 400}, {"buy": ("user", "item")}, {"buy": 1000}, 16, num_dense=11)
LAZY = dataclasses.replace(WORKLOAD, lazy=("item", "user"))


def received(parallel, workload=WORKLOAD, model=NCF):
    return formulas.received_bytes(formulas.terms(model, workload, parallel))


def test_one_device_receives_nothing():
    for strategy in ("pmap", "sharded"):
        for model in compiled.models().values():
            if isinstance(model, ncf.Config):
                assert not received(ParallelConfig(strategy, data=1), model=model)


def test_copies_of_tables_receive_all_gradients_or_those_of_the_rows_looked_up():
    pmap = ParallelConfig("pmap", data=4)
    # A ring's all-reduce among 4: 2 * 3/4 of 4 bytes a number; its all-gather: 3/4.
    assert received(pmap) == {"table_gradients": 6 * 600 * 10, "dense_gradients": 6 * 11, "scalars": 6 * 3}
    assert received(pmap, LAZY)["row_gradients"] == 3 * (16 + 80) * (1 + 10)
    assert "table_gradients" not in received(pmap, LAZY)


def test_parts_of_tables_receive_ids_and_rows_and_no_table():
    found = received(ParallelConfig("sharded", data=1, model=4))
    assert found["lookups"] == 3 * (16 + 80) * (1 + 10) and found["lookups_back"] == 3 * (16 + 80) * 10
    assert "table_gradients" not in found
    # Two copies of each part: each looks half as much up, and they add the gradients of their part, half of the table.
    both = received(ParallelConfig("sharded", data=2, model=2))
    assert both["lookups"] == 2 * (8 + 40) * (1 + 10) and both["table_gradients"] == 4 * 300 * 10


def test_parts_of_lazy_tables_receive_the_gradients_of_all_rows_once():
    found = received(ParallelConfig("sharded", data=2, model=2), LAZY)
    assert found["row_gradients"] == 3 * (16 + 80) * (1 + 10) and "lookups_back" not in found


@pytest.mark.parametrize("name", ["LSEC-GCN", "LSEC-LightGCN", "LSEC-GAT", "LSEC-GCN, sampled"])
def test_graphs_send_nothing_between_copies_but_the_ids_of_the_batch(name):
    model = compiled.models()[name]
    workload = predictions.workload_of(model, "LSEC-Large", is_lazy=False)
    assert set(received(ParallelConfig("pmap", 8), workload, model)) == {
        "batch",
        "table_gradients",
        "dense_gradients",
        "scalars",
    }


def test_a_layer_of_a_divided_graph_receives_all_other_parts_in_both_directions():
    model = dataclasses.replace(compiled.models()["LSEC-GCN"], relations=("buy",), tasks=())
    workload = dataclasses.replace(WORKLOAD, num_nodes={"item": 201, "user": 400})
    found = received(ParallelConfig("sharded", data=1, model=2), workload, model)
    # Two layers, 64 wide; 201 rows are filled up to 202.
    assert found["senders"] == found["senders_back"] == 2 * 2 * (202 + 400) * 64


def test_state_is_divided_and_positives_are_not():
    alone, divided = (predictions.memory_bytes(NCF, WORKLOAD, ParallelConfig("sharded", 1, n)) for n in (1, 4))
    assert alone["state"] == 4 * 3 * (600 * 10 + 11) and divided["state"] == 4 * 3 * (150 * 10 + 11)
    assert alone["positives"] == divided["positives"] == 4 * (2 * 1000 + 400)


def test_a_prediction_is_time_in_memory_and_on_the_wire():
    device = predictions.Accelerator(1e6, 1e9, 1e8, "-")
    one = predictions.predicted(NCF, WORKLOAD, predictions.ONE, device)
    assert one["wire_seconds"] == 0 and one["efficiency"] == 1 and one["fits"]
    four = predictions.predicted(NCF, WORKLOAD, ParallelConfig("pmap", 4), device)
    assert four["wire_seconds"] == four["received_bytes"] / 1e8
    assert four["efficiency"] == pytest.approx(
        one["memory_seconds"] / (4 * (four["memory_seconds"] + four["wire_seconds"]))
    )
    assert not predictions.predicted(NCF, WORKLOAD, predictions.ONE, dataclasses.replace(device, memory_bytes=9))[
        "fits"
    ]


def test_counts_that_differ_from_the_formula_are_refused():
    parallel, workload = ParallelConfig("pmap", 8), dataclasses.asdict(WORKLOAD)
    wanted = formulas.terms(compiled.models()["NCF, dense"], WORKLOAD, parallel)
    counted = compiled.by_operation(of for term in wanted.values() for of in term)
    found = {"workload": workload, "by_operation": counted, "largest": 1, "state_bytes": 1, "input_bytes": 1}
    assert scaling.compare("NCF, dense", parallel, found)["formula"] == sum(counted.values())
    wrong = {name: 1.1 * count for name, count in counted.items()}
    with pytest.raises(ConfigError, match=r"NCF, dense, .*all-reduce of 8: \d+ bytes counted, formula \d+"):
        scaling.compare("NCF, dense", parallel, found | {"by_operation": wrong})


@pytest.mark.parametrize(
    "text", ["", "pmap", "pmap-2x4", "sharded-8", "ddp-8", "pmap-0", "pmap-1", "sharded-0x4", "sharded-1x1"]
)
def test_meshes_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="--meshes"):
        compiled.parse_mesh(text)
    assert compiled.parse_mesh("sharded-2x4") == ParallelConfig("sharded", data=2, model=4)


def test_committed_counts_are_those_of_the_formula_and_predictions_are_those_of_the_code():
    result = json.loads((runs.SCALING / "scaling.json").read_text())
    assert {of["model"] for of in result["counts"]} == set(compiled.models())
    for of in result["counts"]:
        assert of["formula"] == pytest.approx(of["counted"], rel=result["tolerance"])
    assert result["predictions"] == json.loads(json.dumps(predictions.predict()))["predictions"]


def test_tables_and_the_picture_are_made_of_the_committed_result(tmp_path):
    result = json.loads((runs.SCALING / "scaling.json").read_text())
    for name, make in sections.TABLES.items():
        filled = tables.fill_markers(f"<!-- results:{name} -->\n<!-- /results -->\n", {"scaling": result})
        assert make(result) in filled and len(make(result).splitlines()) > 2
    assert "not measured" in sections.assumptions_table(result)
    plots.draw(result, tmp_path / "picture.png")
    assert matplotlib.image.imread(tmp_path / "picture.png").std() > 0
