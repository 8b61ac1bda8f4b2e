"""Imports point one way (docs: the layout in the README): walks every module with ast, so nothing is executed."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_FOUNDATION = {"schema", "config", "config_json", "declaration"}
_LAYERS = {"nn", "losses", "regularisers", "metrics", "event_metrics", "event_past"}
_MODELS = {"models", "ranking", "scorers", "user_blocks", "bandits"}
_TRAINING = {"training", "parallel"}
_COMMANDS = {"cli", "train", "evaluate", "recommend", "analyze", "figures", "prepare", "prequential"}
# What each first-level module or folder of the package may import of the package; "" is the package's __init__.
ALLOWED: dict[str, set[str]] = {"": set(), "data": _FOUNDATION | {"data"}}
ALLOWED |= {name: {name} for name in _FOUNDATION}
ALLOWED["config_json"] |= {"config"}
ALLOWED["declaration"] |= {"config"}
ALLOWED |= {name: _FOUNDATION | _LAYERS for name in _LAYERS}
ALLOWED |= {name: _FOUNDATION | _LAYERS | _MODELS for name in _MODELS}
ALLOWED |= {name: _FOUNDATION | _LAYERS | _MODELS | _TRAINING | {"data"} for name in _TRAINING}
ALLOWED |= {name: ALLOWED["training"] | _COMMANDS for name in _COMMANDS}
WITHOUT_JAX = _FOUNDATION | {"", "data"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "jraph"}
UNSAFE = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute dotted name) of every import, at any depth; `from a import b` yields a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                parent = here[: len(here) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def direction_problems(root: Path, package: str = "lsec_jax") -> list[str]:
    """Returns one line for each import of `root/package` that points the wrong way."""
    problems = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        layer = parts[1] if len(parts) > 1 else ""
        where = path.relative_to(root).as_posix()
        if layer not in ALLOWED:
            problems.append(f"{where}: '{layer}' has no place in ALLOWED of tests/test_imports.py; give it one")
            continue
        for line, name in _imports(_parse(path), ".".join(parts), is_package):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top in ("configs", "benchmarks"):
                problems.append(f"{where}:{line}: imports {name}; nothing in the package imports {top}")
            elif top in JAX and layer in WITHOUT_JAX:
                problems.append(f"{where}:{line}: imports {name}; {layer or package} must not import jax")
            elif top == package and target in ALLOWED.keys() - {""} and target not in ALLOWED[layer]:
                problems.append(f"{where}:{line}: imports {name}; {layer or package} must not import {target}")
            elif top == package and target == "*":
                problems.append(f"{where}:{line}: imports everything of {package}; name what is needed")
    return problems


def safety_problems(root: Path) -> list[str]:
    """Returns one line for each way to run code from a data file, and each import of a config, in root's Python."""
    problems = []
    for folder in ("lsec_jax", "configs", "benchmarks", "launch", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            tree, where = _parse(path), path.relative_to(root).as_posix()
            parts = path.relative_to(root).with_suffix("").parts
            for line, name in _imports(tree, ".".join(parts), is_package=False):
                top = name.partition(".")[0]
                if top in UNSAFE:
                    problems.append(f"{where}:{line}: imports {name}; unpickling runs code")
                elif top == "configs":
                    problems.append(f"{where}:{line}: imports {name}; configs are loaded by path, never imported")
            for node in ast.walk(tree):
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                        problems.append(f"{where}:{node.value.lineno}: allow_pickle; unpickling runs code")
    return problems


def test_imports_point_one_way():
    assert (ROOT / "lsec_jax" / "__init__.py").exists()
    assert direction_problems(ROOT) == []


def test_grain_is_imported_where_batches_are_streamed_and_only_when_they_are():
    """It imports jax, which the other modules of data must not."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lsec_jax").rglob("*.py")
        for _, name in _imports(_parse(path), "", is_package=False)
        if name.partition(".")[0] == "grain"
    }
    assert importing == {"lsec_jax/data/batches.py"}
    script = "import sys, lsec_jax.data.batches; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_nothing_unpickles_and_nothing_imports_configs():
    assert safety_problems(ROOT) == []


@pytest.fixture
def package(tmp_path):
    """Returns write(path, source): adds a module to an otherwise clean temporary lsec_jax."""
    clean = {
        "__init__.py": "__version__ = '0'",
        "schema.py": "import numpy as np",
        "data/__init__.py": "",
        "data/splits.py": "from lsec_jax import schema\nfrom lsec_jax.config import SplitConfig",
        "nn/__init__.py": "",
        "nn/towers.py": "import jax\nfrom lsec_jax import losses\nfrom . import other",
        "training/__init__.py": "",
        "training/loop.py": "from lsec_jax import __version__\nfrom lsec_jax.data import batches",
        "train.py": "from lsec_jax.training import loop",
    }

    def write(path: str, source: str) -> Path:
        target = tmp_path / "lsec_jax" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(source))
        return tmp_path

    for path, source in clean.items():
        write(path, source)
    return write


def test_allowed_imports_are_not_reported(package):
    root = package("data/graphs.py", "import scipy.sparse\nfrom . import splits\nfrom .splits import assign")
    assert direction_problems(root) == []
    assert safety_problems(root) == []


@pytest.mark.parametrize(
    ("path", "source", "reported"),
    [
        ("schema.py", "from lsec_jax import config", "lsec_jax/schema.py:1: imports lsec_jax.config"),
        ("config.py", "import lsec_jax.data.splits", "config must not import data"),
        ("__init__.py", "from lsec_jax.nn import towers", "lsec_jax must not import nn"),
        ("data/graphs.py", "\nimport jax.numpy as jnp", "lsec_jax/data/graphs.py:2: imports jax.numpy"),
        ("data/graphs.py", "def f():\n    from jax import Array", "lsec_jax/data/graphs.py:2: imports jax.Array"),
        ("data/sources/lsec.py", "from ...nn import towers", "imports lsec_jax.nn.towers; data must not import nn"),
        ("data/sources/__init__.py", "from ... import losses", "imports lsec_jax.losses; data must not import"),
        ("nn/__init__.py", "from ..models import lsec_gnn", "nn must not import models"),
        ("losses.py", "from lsec_jax import data", "losses must not import data"),
        ("metrics.py", "import importlib\nimportlib.import_module('lsec_jax.training')", "metrics must not import"),
        ("models/a.py", "if True:\n    import lsec_jax.data.graphs", "models must not import data"),
        ("models/a.py", "from lsec_jax.training import loop", "models must not import training"),
        ("ranking.py", "from lsec_jax import parallel", "ranking must not import parallel"),
        ("training/loop.py", "from lsec_jax import train", "training must not import train"),
        ("train.py", "from configs import lsec_gcn_synthetic", "nothing in the package imports configs"),
        ("train.py", "import benchmarks.quality", "nothing in the package imports benchmarks"),
        ("train.py", "from lsec_jax import *", "imports everything"),
        ("helpers.py", "", "'helpers' has no place"),
    ],
)
def test_a_forbidden_import_is_reported(package, path, source, reported):
    problems = direction_problems(package(path, source))
    assert len(problems) == 1, problems
    assert reported in problems[0]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import cloudpickle as c",
        "from dill.source import getsource",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "import numpy as np\nallowed = True\nnp.load('a.npy', allow_pickle=allowed)",
        "from configs import base",
    ],
)
def test_unpickling_and_imported_configs_are_reported(package, source):
    assert len(safety_problems(package("data/graphs.py", source))) == 1
