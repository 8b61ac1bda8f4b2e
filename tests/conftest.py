"""Eight virtual CPU devices, strict broadcasting, run-time checks of annotations; fixtures for every test."""

import dataclasses
import functools
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Both are read when jax is first imported. GPU tests: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
# Most of the tests' time is compilation, which takes about half as long without LLVM's optimisations.
if os.environ["JAX_PLATFORMS"] == "cpu" and "--xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import beartype
import jax
import jaxtyping
import matplotlib
import pytest

matplotlib.use("Agg")
jax.config.update("jax_numpy_rank_promotion", "raise")

# An int is a float here, as in PEP 484: learning_rate=1 is no error.
_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check_call(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """Checks the calls of a function of the package, but not the construction of dataclasses.

    jax rebuilds a pytree dataclass with tracers, shapes or None in its fields, and what a user's config holds is for
    its own validation to refuse.
    """
    checked = _beartype(function)
    if function.__name__ != "__init__":
        return checked

    @functools.wraps(function)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        (function if dataclasses.is_dataclass(self) else checked)(self, *args, **kwargs)

    return construct


# Must come before the first import of the package.
jaxtyping.install_import_hook("lsec_jax", f"{__name__}.check_call")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, or a skip that says how to set it."""
    path = os.environ.get("LSEC_JAX_DATA")
    if not path:
        pytest.skip("LSEC_JAX_DATA is not set: point it at the folder of real data sets (gowalla/, youshu/, ...)")
    if not Path(path).is_dir():
        pytest.fail(f"LSEC_JAX_DATA={path} is not a folder")
    return Path(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which(shlex.split(os.environ.get("CXX") or "g++")[0]) is None:
        for item in items:
            if "compiled" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a C++ compiler: g++, or the one that CXX names"))
    if jax.default_backend() != "cpu":
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator; jax sees only the CPU"))
