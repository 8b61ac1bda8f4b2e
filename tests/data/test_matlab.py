import struct

import numpy as np
import pytest
import scipy.io

from lsec_jax.data.matlab import read_matrix
from lsec_jax.schema import DataError

VALUES = np.arange(1, 13).reshape(4, 3)
COLUMNS = ("a", "b", "c")


def write(path, compress=False, **variables):
    scipy.io.savemat(path, variables, do_compression=compress)
    return path


def values_of(path, name="m"):
    return read_matrix(path, name, COLUMNS).values


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1"])
def test_every_numeric_class_is_read_as_scipy_reads_it(tmp_path, dtype, compress):
    path = write(tmp_path / "m.mat", compress, before=np.eye(3), m=VALUES.astype(dtype), long_name_after="text")
    np.testing.assert_array_equal(values_of(path), VALUES)
    np.testing.assert_array_equal(values_of(path), scipy.io.loadmat(path)["m"])


def test_one_row_in_small_elements_is_read(tmp_path):
    path = write(tmp_path / "m.mat", m=np.array([[1, 2, 3]], np.uint8))  # 3 bytes: they stand in the tag
    assert values_of(path).tolist() == [[1, 2, 3]]


def test_the_other_byte_order_is_read(tmp_path):
    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 3)) + element(1, b"m")
    matrix += element(9, struct.pack(">6d", 1, 4, 2, 5, 3, 6))  # column by column
    path = tmp_path / "m.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + element(14, matrix))
    assert values_of(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(scipy.io.loadmat(path)["m"], [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("compress", [False, True])
def test_of_other_variables_only_the_name_is_looked_at(tmp_path, compress):
    objects = np.array([[1, "a"]], object)
    path = write(tmp_path / "m.mat", compress, objects=objects, structure={"x": 1}, flag=True, m=VALUES)
    np.testing.assert_array_equal(values_of(path), VALUES)
    for name, kind in {"objects": "cell", "structure": "struct", "flag": "logical"}.items():
        with pytest.raises(DataError, match=rf"variable '{name}': class {kind}; expected a matrix of real numbers"):
            values_of(path, name)
    with pytest.raises(DataError, match=r"no variable 'x'; it has: 'objects', 'structure', 'flag', 'm'; rename it"):
        values_of(path, "x")


def test_sparse_and_complex_matrices_are_refused(tmp_path):
    path = write(tmp_path / "m.mat", s=scipy.sparse.eye(3, format="csc"), z=np.array([[1j, 2, 3]]))
    with pytest.raises(DataError, match=r"variable 's': class sparse"):
        values_of(path, "s")
    with pytest.raises(DataError, match=r"variable 'z': class complex"):
        values_of(path, "z")


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, compress):
    path = write(tmp_path / "m.mat", compress, m=VALUES.astype(float))
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"m.mat: (truncated or damaged|not a MATLAB v5|no variable).*copy"):
            values_of(path)


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_bytes_are_refused_or_read_as_other_numbers_but_never_crash(tmp_path, compress):
    path = write(tmp_path / "m.mat", compress, m=VALUES.astype(float))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(124, len(whole)):
        for value in (0, 255, int(rng.integers(256))):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                assert values_of(path).shape == (4, 3)
            except DataError as error:
                assert "m.mat" in str(error)
