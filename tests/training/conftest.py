"""Runs that tests start from."""

import shutil

import pytest

from lsec_jax.training import fit
from tests import runs


@pytest.fixture(scope="module")
def no_pictures():
    with runs.no_pictures():
        yield


@pytest.fixture(scope="session")
def earlier(tmp_path_factory):
    """The workdir of a tiny run that has ended."""
    workdir = tmp_path_factory.mktemp("runs") / "yesterday"
    with runs.no_pictures():
        fit.run(runs.tiny_config(), workdir)
    return workdir


@pytest.fixture
def copy(earlier, tmp_path):
    """A copy of the earlier run that a test may damage."""
    return shutil.copytree(earlier, tmp_path / "copy")
