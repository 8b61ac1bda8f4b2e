"""Launchers whose programs are not started."""

import pytest

from tests.launch.command_lines import ROOT, TRAINING

VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_LOCAL_DEVICE_IDS", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def clean_environment(monkeypatch):
    """In the repository's root, with nothing set that launchers keep."""
    monkeypatch.chdir(ROOT)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def dry_run(capsys, clean_environment):
    """Returns run(module, *options): what a dry run prints, and what it logs."""

    def run(module, *options, training=TRAINING):
        assert module.main([*options, "--dry-run", *training]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def refusal(capsys, clean_environment):
    """Returns run(module, *arguments): the one message that a wrong command line ends with."""

    def run(module, *arguments):
        with pytest.raises(SystemExit) as end:
            module.main(arguments)
        assert end.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("error: ") == 1
        return shown.err[shown.err.index("error: ") + len("error: ") :].strip()

    return run
