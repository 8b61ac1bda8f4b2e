"""Batches of events: every row once per epoch, processes share them, and a restored stream goes on exactly."""

import subprocess
import sys
import textwrap
import time

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.config import ConfigError
from lsec_jax.data.batches import BatchStream, EventBatches, permute
from lsec_jax.data.event_columns import EventColumns, require_whole
from lsec_jax.schema import EventNodes, Events, LiveCommerceData, NodeTable


def numbered(num_rows):
    """Columns whose one value is the number of the row."""
    events = Events(
        "impression",
        {"user": EventNodes("user", np.arange(num_rows, dtype=np.int32))},
        np.arange(num_rows, dtype=float),
    )
    nodes = {"user": NodeTable("user", np.arange(num_rows))}
    return EventColumns(LiveCommerceData("numbered", nodes, {}, events={"impression": events}), "impression")


def rows_of(batches, steps):
    return np.concatenate([batches.rows(step) for step in steps])


@st.composite
def shapes(draw):
    block_rows, blocks, process_count = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch_size = block_rows * blocks * process_count
    num_rows = draw(st.integers(batch_size, 5 * batch_size + 3))
    return num_rows, batch_size, block_rows, process_count


@settings(max_examples=150, deadline=None)
@given(shapes(), st.integers(0, 5), st.booleans())
def test_every_row_comes_once_per_epoch_whatever_the_sizes(shape, seed, is_range):
    num_rows, batch_size, block_rows, _ = shape
    rows = slice(3, 3 + num_rows) if is_range else 2 * np.arange(num_rows)
    batches = EventBatches(numbered(2 * num_rows + 3), rows, batch_size, (seed,), block_rows=block_rows)
    stream = rows_of(batches, range(-(-3 * num_rows // batch_size)))
    wanted = np.arange(3, 3 + num_rows) if is_range else rows
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(stream[epoch * num_rows : (epoch + 1) * num_rows]), wanted)


@settings(max_examples=100, deadline=None)
@given(shapes(), st.integers(0, 5))
def test_the_shares_of_the_processes_make_up_the_same_batch(shape, seed):
    num_rows, batch_size, block_rows, process_count = shape
    columns = numbered(num_rows)
    alone = EventBatches(columns, slice(None), batch_size, (seed,), block_rows=block_rows)
    shares = [
        EventBatches(columns, slice(None), batch_size, (seed,), index, process_count, block_rows)
        for index in range(process_count)
    ]
    for step in (0, 1, 7):
        found = np.concatenate([share(step)["nodes"]["user"] for share in shares])
        np.testing.assert_array_equal(found, alone(step)["nodes"]["user"])
        assert {len(share.rows(step)) for share in shares} == {batch_size // process_count}


def test_blocks_stay_together_and_are_in_another_order_each_epoch_and_seed():
    batches, other = (EventBatches(numbered(64 * 40), slice(None), 64 * 4, (seed,)) for seed in (0, 1))
    epochs = [rows_of(batches, range(10 * epoch, 10 * (epoch + 1))).reshape(40, 64) for epoch in range(2)]
    orders = [*epochs, rows_of(other, range(10)).reshape(40, 64)]
    for order in orders:
        np.testing.assert_array_equal(order, order[:, :1] + np.arange(64))
    firsts = [order[:, 0].tolist() for order in orders]
    assert len({*map(tuple, firsts)} | {tuple(range(0, 2560, 64))}) == 4


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**32))
def test_a_permutation_is_one(size, seed):
    keys = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    np.testing.assert_array_equal(np.sort(permute(np.arange(size), size, keys)), np.arange(size))


def test_permutations_are_even():
    """Where 40 positions go over 4,000 keys: chi-square with 39 x 39 degrees of freedom, and neighbours part."""
    counts, steps = np.zeros((40, 40)), []
    for seed in range(4_000):
        order = permute(np.arange(40), 40, np.random.SeedSequence(seed).generate_state(4, np.uint64))
        counts[np.arange(40), order] += 1
        steps.append(np.abs(np.diff(order)))
    chi_square, degrees = ((counts - 100) ** 2 / 100).sum(), 39 * 39
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)
    assert abs(np.mean(steps) - 41 / 3) < 0.1


def test_a_permutation_of_a_trillion_blocks_needs_no_table():
    keys = np.random.SeedSequence(0).generate_state(4, np.uint64)
    found = permute(np.arange(10**12 - 5_000, 10**12), 10**12, keys)
    assert len(np.unique(found)) == 5_000 and found.min() >= 0 and found.max() < 10**12
    assert abs(found.mean() / 10**12 - 0.5) < 0.02


def stream_of(device=None, first_step=0, num_ahead=2):
    place = None if device is None else lambda batch: jax.device_put(batch, device)
    return BatchStream(EventBatches(numbered(1_000), slice(None), 128, (5,)), first_step, place, num_ahead)


def users(batch):
    return np.asarray(batch["nodes"]["user"])


@pytest.mark.parametrize("num_ahead", [0, 1, 3])
@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_stream_gives_the_batches_in_order_and_goes_on_from_any_state(num_ahead, is_on_device):
    device = jax.devices()[1] if is_on_device else None
    wanted = [EventBatches(numbered(1_000), slice(None), 128, (5,))(step) for step in range(20)]
    with stream_of(device, num_ahead=num_ahead) as stream:
        states = []
        for batch in wanted:
            states.append(stream.iterator.get_state())
            found = next(stream)
            np.testing.assert_array_equal(users(found), users(batch))
            if is_on_device:
                assert found["nodes"]["user"].devices() == {device}
        assert stream.seconds_waited > 0
        for step in (7, 0, 19):
            stream.iterator.set_state(states[step])
            np.testing.assert_array_equal(users(next(stream)), users(wanted[step]))
            with stream_of(device, num_ahead=num_ahead) as fresh:
                fresh.iterator.set_state(states[step])
                np.testing.assert_array_equal(users(next(fresh)), users(wanted[step]))
            with stream_of(device, step, num_ahead) as later:
                np.testing.assert_array_equal(users(next(later)), users(wanted[step]))


def test_batches_are_made_while_the_caller_does_something_else():
    batches = EventBatches(numbered(1_000), slice(None), 128, (5,))
    rows_of_step = batches.rows

    def slowly(step):
        time.sleep(0.05)
        return rows_of_step(step)

    batches.rows = slowly
    with BatchStream(batches) as stream:
        next(stream)
        before = stream.seconds_waited
        for _ in range(10):
            time.sleep(0.1)
            next(stream)
        assert stream.seconds_waited - before < 0.25  # making them takes 0.5


@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_stream_restored_from_a_checkpoint_goes_on_exactly(tmp_path, is_on_device):
    device = jax.devices()[0] if is_on_device else None
    state = {"weights": jax.numpy.arange(3)}
    with (
        stream_of(device) as stream,
        stream_of(device) as restored,
        ocp.CheckpointManager(tmp_path / "checkpoints") as manager,
    ):
        for _ in range(11):  # into the second epoch
            next(stream)
        saved = grain.checkpoint.CheckpointSave(stream.iterator)
        manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave(state), batches=saved))
        manager.wait_until_finished()
        next(restored)
        wanted = grain.checkpoint.CheckpointRestore(restored.iterator)
        manager.restore(1, args=ocp.args.Composite(state=ocp.args.StandardRestore(state), batches=wanted))
        for _ in range(10):
            np.testing.assert_array_equal(users(next(restored)), users(next(stream)))


def test_an_error_while_reading_reaches_whoever_asks_for_the_batch():
    batches = EventBatches(numbered(1_000), slice(None), 128, (5,))

    def fail(step):
        raise OSError("the disk is gone")

    batches.rows = fail
    with BatchStream(batches) as stream, pytest.raises(OSError, match="the disk is gone"):
        next(stream)


WRONG = {
    "no multiple": ((1_000, 100, 0, 1), r"batch_size = 100; .* blocks of 64 rows .* give a multiple of 64"),
    "processes": ((1_000, 64, 0, 2), r"batch_size = 64; .* for each of 2 processes: give a multiple of 128"),
    "zero": ((1_000, 0, 0, 1), r"batch_size = 0; give a whole number of 1 or more"),
    "true": ((1_000, 64, 0, True), r"process_count = True; give a whole number of 1 or more"),
    "negative process": ((1_000, 64, -1, 2), r"process_index = -1; give a whole number of 0 or more"),
    "too few rows": ((100, 128, 0, 1), r"batch_size = 128, but there are only 100 rows of events 'impression'"),
    "no such process": ((1_000, 128, 2, 2), r"process_index = 2 is not one of 2 processes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_sizes_that_do_not_fit_are_refused(case):
    (num_rows, batch_size, index, count), message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        EventBatches(numbered(num_rows), slice(None), batch_size, (0,), index, count)


NO_ROWS = r"rows of events 'impression' are {}; give a slice, or positions \[n\] \(of a mask: np.flatnonzero\)"
WRONG_ARGUMENTS = {
    "no block": ({"block_rows": 0}, "block_rows = 0; give a whole number of 1 or more"),
    "negative block": ({"block_rows": -1}, "block_rows = -1; give a whole number of 1 or more"),
    "negative seed": ({"seed": (0, -1)}, r"an entry of seed = \(0, -1\) = -1; give a whole number of 0 or more"),
    "large seed": ({"seed": (2**32,)}, r"an entry of seed = \(4294967296,\) is 2\*\*32 or more; give numbers below"),
    "mask": ({"rows": np.ones(1_000, bool)}, NO_ROWS.format(r"bool of shape \(1000,\)")),
    "table of rows": ({"rows": np.zeros((64, 2), np.int64)}, NO_ROWS.format(r"int64 of shape \(64, 2\)")),
    "row below": ({"rows": np.arange(-1, 63)}, "impression' go from -1 to 62; the table has 1000 rows from 0"),
    "row beyond": ({"rows": np.arange(937, 1001)}, "impression' go from 937 to 1000; the table has 1000 rows from 0"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_what_is_no_size_no_seed_and_no_row_is_refused(case):
    changes, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ConfigError, match=message):
        EventBatches(numbered(1_000), **{"rows": slice(None), "batch_size": 64, "seed": (0,)} | changes)


@pytest.mark.parametrize(
    ("seed", "other"), [((), (0,)), ((1,), (1, 0)), ((1,), (1, 0, 0)), ((0, 1), (0, 1, 0)), ((2, 1), (1,))]
)
def test_seeds_that_differ_in_their_length_alone_give_other_orders(seed, other):
    first, second = (EventBatches(numbered(64 * 40), slice(None), 64 * 4, of) for of in (seed, other))
    for epoch in range(3):
        steps = range(10 * epoch, 10 * epoch + 10)
        for later in range(3):
            assert not np.array_equal(rows_of(first, steps), rows_of(second, range(10 * later, 10 * later + 10)))


def test_a_stream_can_be_closed_again_and_gives_nothing_afterwards():
    with stream_of() as stream:
        next(stream)
        stream.close()
        stream.close()
        with pytest.raises(ValueError, match="this stream of batches is closed; make another one, with first_step"):
            next(stream)
    unused = stream_of()
    unused.close()
    unused.close()
    for name, value in (("first_step", -1), ("num_ahead", -1), ("num_ahead", True)):
        with pytest.raises(ConfigError, match=f"{name} = {value}; give a whole number of 0 or more"):
            stream_of(**{name: value})


@pytest.mark.parametrize("value", [64.0, "64", None, True, np.float32(1.0), np.bool_(True), 0])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"^batch_size = .*; give a whole number of 1 or more$"):
        require_whole("batch_size", value, 1)
    require_whole("batch_size", np.int32(1), 1)


def test_memory_does_not_grow_with_the_log(tmp_path):
    """Anonymous memory, as mapped files are the page cache's; in a process of its own, where nothing else allocates."""
    script = """
    import sys
    import numpy as np
    from lsec_jax.data.batches import EventBatches
    from lsec_jax.data.event_columns import EventColumns, HistoryView
    from lsec_jax.schema import EventNodes, Events, Histories, LiveCommerceData, NodeTable

    def column(name, dtype, shape):
        return np.lib.format.open_memmap(f"{sys.argv[1]}/{name}.npy", "w+", dtype, shape)

    def anonymous_mib():
        lines = open("/proc/self/status").read().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024

    n = 5_000_000
    starts = np.array([0, n // 2, n])
    ends, items = column("ends", np.int64, (n,)), column("items", np.int32, (n,))
    watches = Histories("user", "room", starts, items, items, items, ends={"impression": ends})
    roles = {"user": EventNodes("user", column("user", np.int32, (n,)))}
    values = {f"v{i}": column(f"v{i}", np.float32, (n,)) for i in range(4)}
    shown = Events("impression", roles, column("time", np.float64, (n,)), values)
    users = NodeTable("user", np.arange(2))
    data = LiveCommerceData("log", {"user": users}, {}, events={"impression": shown}, histories={"watches": watches})
    before = anonymous_mib()
    columns = EventColumns(data, "impression", histories=[HistoryView("watches", 50)])
    batches = EventBatches(columns, slice(n // 10, n), 2048, (0,))
    for step in range(n // 2048):
        batches(step)
    print(anonymous_mib() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 8  # one column of the log is 20 MB
