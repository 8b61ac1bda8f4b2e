"""The database of events: names of any kind, groups that are text, interrupts and disks that are full."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from lsec_jax.data import event_log
from lsec_jax.data.columns import in_memory
from lsec_jax.data.event_log import EventLog
from lsec_jax.schema import DataError


@pytest.fixture
def log(tmp_path):
    with EventLog(tmp_path, 2**28) as log:
        yield log


def written(log, table, dtypes, **options):
    return log.write(table, {}, in_memory, dtypes, lambda rows: None, **options)


def test_tables_and_columns_may_have_any_names_and_differ_in_case_only(log):
    for number, table in enumerate(("block", "Gift", "gift", "appended", "codes_0", "events", "ranks")):
        for _ in range(2):
            log.append(
                table, {"time": pa.array([number]), "values/Scene": pa.array([1]), "values/scene": pa.array([2])}
            )
        found = written(log, table, {"time": float, "values/Scene": int, "values/scene": int})
        assert {path: values.tolist() for path, values in found.items()} == {
            "time": [number] * 2,
            "values/Scene": [1] * 2,
            "values/scene": [2] * 2,
        }


def test_ranked_texts_become_their_positions_among_the_sorted_ones(log, monkeypatch):
    monkeypatch.setattr(event_log, "BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    time, texts = rng.integers(0, 40, 100), np.array(["r2", "Ä", "r10", "z", ""])[rng.integers(0, 5, 100)]
    for rows in np.split(np.arange(100), 4):
        log.append("e", {"time": pa.array(time[rows]), "group": pa.array(texts[rows], pa.large_string())})
    found = written(log, "e", {"time": float, "group": np.int64}, ranked=["group"])
    order = np.argsort(time, kind="stable")
    np.testing.assert_array_equal(found["time"], time[order])
    np.testing.assert_array_equal(found["group"], np.unique(texts, return_inverse=True)[1][order])


@pytest.mark.parametrize("error", [RuntimeError("Query interrupted"), duckdb.InterruptException("INTERRUPT Error")])
def test_an_interrupt_while_the_database_works_is_an_interrupt(log, error):
    with pytest.raises(KeyboardInterrupt), log._reporting():
        raise error


def test_an_error_of_another_kind_stays_what_it_is(log):
    with pytest.raises(duckdb.CatalogException), log._reporting():
        log._connection.execute("SELECT * FROM missing")


@pytest.mark.parametrize("error", [duckdb.IOException("full"), pa.ArrowInvalid("Out of Memory Error: full"), OSError()])
def test_a_disk_or_memory_that_is_full_is_an_error_with_its_remedy(log, error):
    with pytest.raises(DataError, match=r"cannot be sorted \(.*\); make room on the disk, or give more memory"):
        with log._reporting():
            raise error


def test_a_database_that_cannot_be_opened_is_an_error_of_the_data(tmp_path):
    with pytest.raises(DataError, match="events cannot be sorted"):
        EventLog(tmp_path / "missing", 2**28)


def test_a_relative_folder_stays_the_same_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with EventLog(event_log.Path("scratch"), 2**28) as log:
        monkeypatch.chdir(tmp_path / "elsewhere")
        log.append("e", {"time": pa.array([1])})
        folder = log._connection.execute("SELECT current_setting('temp_directory')").fetchone()[0]
    assert folder == str(tmp_path / "scratch" / "spilled")
