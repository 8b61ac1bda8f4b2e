"""What the benchmarks share: configs by path, resumable pieces of work, and the circumstances of a result."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lsec_jax import cli, config_json
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.training import reports

ROOT = Path(__file__).resolve().parents[1]
QUALITY = ROOT / "benchmarks" / "quality" / "results"
THROUGHPUT = ROOT / "benchmarks" / "throughput" / "results"
SCALING = ROOT / "benchmarks" / "scaling" / "results"
RESULTS = (QUALITY, THROUGHPUT, SCALING)
SCENARIO_KEYS = ("scenario", "head_share", "bootstrap_samples")  # of config.evaluation
_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS")  # that change how fast things are


def load_config(name: str, variant: str = "") -> RunConfig:
    """Returns get_config(variant) of configs/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"benchmark_config_{name}", ROOT / "configs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def as_json(config: Any) -> dict[str, Any]:
    """The JSON form of a config, as a workdir stores it.

    Without the keys of scenarios where none are measured: pieces of work that were stored before there were such keys
    are found by this form.
    """
    stored = config_json.to_json(config)
    if isinstance(config, RunConfig) and not config.evaluation.scenario:
        for name in SCENARIO_KEYS:
            del stored["evaluation"][name]
    return stored


def finished_or(path: Path, settings: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the stored outcome of a piece of work, or does it and stores it with its environment.

    Args:
        path: JSON file of this piece of work.
        settings: everything that determines the outcome, JSON.
        work: returns the outcome, JSON.

    Returns:
        The outcome with "environment" added.

    Raises:
        ConfigError: if the file belongs to other settings, with the differences.
    """
    if path.exists():
        stored = _read_piece(path)
        if changed := config_json.differences(stored["settings"], settings, "settings"):
            raise ConfigError(
                f"{path} belongs to other settings (stored -> given):\n  "
                + "\n  ".join(changed)
                + "\nUse another --workdir, or give the stored values again."
            )
        return stored["outcome"]
    started_in = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    outcome = {**work(), "environment": started_in}
    write_json(path, {"settings": settings, "outcome": outcome})
    return outcome


def _read_piece(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
        return {"settings": stored["settings"], "outcome": stored["outcome"]}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: damaged; delete it to run this piece again") from None


def environment() -> dict[str, Any]:
    """Versions, device, cores, commit, and those variables that change how fast things are, if they are set."""
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {
        **reports.environment(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "lsec_jax", "configs", "benchmarks/**/*.py")),
        **({"variables": variables} if variables else {}),
    }


def distinct(environments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different ones among the environments of the pieces of one result, in order."""
    return [value for i, value in enumerate(environments) if value not in environments[:i]]


def command() -> str:
    """The command line of this process."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name.removesuffix(".__main__")] if spec is not None else ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])


def parse_seeds(values: Sequence[str]) -> list[int]:
    """Seeds of a list flag.

    Raises:
        ConfigError: for anything but different whole numbers >= 0.
    """
    if not values or not all(value.strip().isdecimal() for value in values):
        raise ConfigError(f"--seeds={','.join(values)}: give whole numbers >= 0, for example --seeds=0,1,2")
    seeds = [int(value) for value in values]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(values)}: name each seed once")
    return seeds


def write_result(path: Path, benchmark: str, content: dict[str, Any], started_in: dict[str, Any]) -> None:
    """Writes a benchmark's JSON with its command and the environment that it started in."""
    write_json(path, {"benchmark": benchmark, **content, "environments": [started_in], "command": command()})
    logging.info("wrote %s", path)


def check_output(path: Path) -> None:
    """Refuses an output path before hours of work; raises ConfigError."""
    cli.check_output(path, (".json",))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
