"""Runs that tests start from."""

import shutil

import pytest

from lsec_jax.training import fit
from tests import runs


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(fit.plots, "draw", lambda *args: None)


@pytest.fixture(scope="session")
def earlier(tmp_path_factory):
    """The workdir of a tiny run that has ended."""
    workdir = tmp_path_factory.mktemp("runs") / "yesterday"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.plots, "draw", lambda *args: None)
        fit.run(runs.tiny_config(), workdir)
    return workdir


@pytest.fixture
def copy(earlier, tmp_path):
    """A copy of the earlier run that a test may damage."""
    return shutil.copytree(earlier, tmp_path / "copy")
