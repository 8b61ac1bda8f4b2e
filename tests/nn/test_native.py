"""The compiled kernels: how they are made, kept and done without."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.config_json import to_json
from lsec_jax.nn import rows
from lsec_jax.nn.native import build, kernels
from lsec_jax.training.workdirs import load_config
from tests import runs
from tests.programs import write_program


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory, and a process that has not loaded the kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    functions = (kernels.load, kernels.is_available)
    for function in functions:
        function.cache_clear()
    yield tmp_path
    for function in functions:
        function.cache_clear()


@pytest.fixture
def quick_compiler(cache, monkeypatch):
    """The compiler without its optimisations, which take most of its time; the last -O counts."""
    compiler = write_program(cache / "quick", f'exec {os.environ.get("CXX") or "g++"} "$@" -O0')
    monkeypatch.setenv("CXX", str(compiler))
    return compiler


@pytest.fixture
def without_compiler(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    return cache


def test_without_a_compiler_auto_takes_the_next_backend_and_says_why(without_compiler, caplog):
    with caplog.at_level("INFO", logger="absl"):
        assert rows.default_backend() == "bcsr"
        assert rows.default_backend() == "bcsr"
    lines = [record.getMessage() for record in caplog.records if "without the compiled kernels" in record.getMessage()]
    assert len(lines) == 1
    assert "no C++ compiler 'no-such-compiler' on PATH" in lines[0]


def test_without_a_compiler_the_compiled_backend_is_refused_with_a_remedy(without_compiler):
    with pytest.raises(ConfigError, match=r"config\.model\.backend = 'compiled': no C\+\+ compiler .* to 'auto'"):
        rows.check_backend("config.model.backend", "compiled")


def test_a_run_of_the_compiled_backend_can_be_read_where_there_is_no_compiler(without_compiler, tmp_path, caplog):
    config = runs.replace(runs.tiny_config(), model={"backend": "compiled"})
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    with caplog.at_level("WARNING", logger="absl"):
        assert load_config(tmp_path, None, ()).model.backend == "auto"
    assert "set it to 'auto': this is done here" in caplog.text


def test_a_cache_that_cannot_be_written_is_reported_with_its_place(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    with pytest.raises(build.NativeError, match=r"cannot write .*file.*XDG_CACHE_HOME"):
        build.ensure_library()


def test_a_compiler_that_fails_is_reported_with_its_first_error(cache, monkeypatch):
    compiler = write_program(cache / "compiler", "echo 'x.cc:1: error: no such thing' >&2\nexit 1")
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.NativeError, match=r"failed on .*: x\.cc:1: error: no such thing"):
        build.ensure_library()
    assert list((cache / "lsec_jax").iterdir()) == []


def test_a_compiler_that_cannot_run_is_reported_as_that(cache, monkeypatch):
    compiler = cache / "compiler"
    compiler.write_bytes(b"\0")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.NativeError, match=r"cannot run .*compiler: .*CXX"):
        build.ensure_library()


def test_a_compiler_setting_with_an_open_quote_is_reported_and_done_without(cache, monkeypatch):
    monkeypatch.setenv("CXX", 'g++ "-O2')
    with pytest.raises(build.NativeError, match=r"CXX = .* No closing quotation"):
        build.ensure_library()
    assert rows.default_backend() == "bcsr"


@pytest.mark.compiled
def test_a_compiler_that_does_not_know_the_processor_builds_for_any(cache):
    """In a process of its own, because a process keeps the kernels that it has registered."""
    refuse = "case \"$*\" in *-march=native*) echo 'error: bad value for -march' >&2; exit 1;; esac"
    compiler = write_program(cache / "compiler", f'{refuse}\nexec {os.environ.get("CXX") or "g++"} "$@" -O1')
    environment = {**os.environ, "CXX": str(compiler), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _SUM_BY_TWO_BACKENDS], env=environment, capture_output=True, text=True, check=True
    )
    assert "slower than they could be" in done.stderr
    np.testing.assert_allclose(*json.loads(done.stdout), rtol=1e-5, atol=1e-5)


# 20 wide: with and without AVX-512 the last vector overlaps the one before.
_SUM_BY_TWO_BACKENDS = """
import json
import jax
import numpy as np
from lsec_jax.nn.propagation import bipartite_graph, graphs_tuple, propagate
ids = np.arange(60) % 7, np.arange(60) % 5
graph = bipartite_graph(graphs_tuple(*ids, 7, 5), 7)
vectors = jax.random.normal(jax.random.key(0), (7, 20)), jax.random.normal(jax.random.key(1), (5, 20))
print(json.dumps([propagate(graph, *vectors, backend)[0].tolist() for backend in ("compiled", "segment")]))
"""


@pytest.mark.compiled
def test_a_compiler_may_be_named_with_arguments(quick_compiler, monkeypatch):
    monkeypatch.setenv("CXX", f"env {quick_compiler}")
    assert build.is_intact(build.ensure_library())


def test_a_user_without_a_home_gets_no_library_and_a_remedy(cache, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", no_home)
    with pytest.raises(build.NativeError, match=r"home directory.*set XDG_CACHE_HOME"):
        build.ensure_library()
    assert rows.default_backend() == "bcsr"


def test_another_processor_or_compiler_has_a_library_of_its_own(cache, monkeypatch):
    path = build.library_path()
    monkeypatch.setattr(build, "_processor", lambda: "flags : none")
    other = build.library_path()
    monkeypatch.setenv("CXX", "other")
    assert len({path, other, build.library_path()}) == 3


@pytest.mark.compiled
def test_a_damaged_library_is_made_again(quick_compiler):
    path = build.ensure_library()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert not build.is_intact(path)
    assert build.is_intact(build.ensure_library())
    made = path.stat().st_mtime_ns
    assert build.ensure_library().stat().st_mtime_ns == made


@pytest.mark.compiled
def test_processes_that_start_together_all_get_a_library(cache, quick_compiler):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "lsec_jax.nn.native.build"]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed == [str(build.library_path())] * 2
    assert build.is_intact(build.library_path())
    assert [path.name for path in (cache / "lsec_jax").iterdir()] == [build.library_path().name]


@pytest.mark.compiled
@pytest.mark.parametrize("width", [1, 15, 16, 17, 40, 200, 257, 530])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_width_gives_the_sums_and_inner_products_of_a_slow_loop(width, dtype):
    generator = np.random.default_rng(width)
    degrees = np.array([0, 1, 40, 0, 3])
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int32)
    senders = generator.integers(0, 7, degrees.sum()).astype(np.int32)
    weights = generator.normal(size=len(senders)).astype(np.float32)
    vectors, own = (jnp.asarray(generator.normal(size=(count, width)), dtype) for count in (7, 5))
    sums, dots = np.zeros((5, width)), np.zeros(len(senders))
    for r in range(5):
        for i in range(indptr[r], indptr[r + 1]):
            sums[r] += weights[i] * np.asarray(vectors, np.float64)[senders[i]]
            dots[i] = np.asarray(own, np.float64)[r] @ np.asarray(vectors, np.float64)[senders[i]]
    found = jax.jit(kernels.neighbor_sum)(indptr, senders, weights, vectors)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-8  # of the result's rounding alone: sums are in float32
    np.testing.assert_allclose(np.asarray(found, np.float64), sums, rtol=tolerance, atol=1e-5)
    np.testing.assert_allclose(jax.jit(kernels.edge_dots)(indptr, senders, own, vectors), dots, rtol=1e-4, atol=1e-4)


@pytest.mark.compiled
def test_kernels_refuse_vectors_of_two_types_instead_of_reading_past_the_shorter(monkeypatch):
    monkeypatch.setattr(kernels, "_padded", lambda vectors, *_: vectors)
    own, vectors = jnp.ones((2, 16), jnp.bfloat16), jnp.ones((2, 16))
    attention = kernels.Attention(jnp.ones(2), jnp.ones(2), jnp.ones(2), own, vectors, 0.2, False, 1.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="one type"):
        jax.block_until_ready(kernels.attend(jnp.array([0, 1, 2]), jnp.array([0, 1]), jnp.ones(2), attention))
