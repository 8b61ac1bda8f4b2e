"""Compiles the C++ kernels for this machine: on first use, or ahead with `python -m lsec_jax.nn.native.build`.

The library lies in the user's cache directory ($XDG_CACHE_HOME or ~/.cache, lsec_jax/), under a name that depends on
everything that it was made from: sources, flags, compiler, jaxlib and the processor, whose instructions it uses. It
ends in a digest of itself, so that a damaged file is seen, and made again, before it is loaded.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import jax
from absl import logging

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fPIC",
    "-shared",
    "-w",
)
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("csr.cc", "attention.cc", "slots.cc"))
_HEADERS = (Path(__file__).with_name("blocks.h"),)
_COMPILER_SECONDS = 300
_DIGEST_BYTES = hashlib.sha256().digest_size


class NativeError(Exception):
    """Why there is no library, in one line."""


def library_path() -> Path:
    """Where the library for this machine lies, whether it exists or not."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    sources = [source.read_text(encoding="utf-8") for source in (*_SOURCES, *_HEADERS)]
    parts = (*sources, *FLAGS, _compiler(), metadata.version("jaxlib"), _processor())
    digest = hashlib.sha256("\0".join(parts).encode())
    return Path(base) / "lsec_jax" / f"csr-{digest.hexdigest()[:24]}.so"


def ensure_library() -> Path:
    """Returns the library's path; compiles it if it is missing or damaged.

    Processes that start together each compile their own and then rename it: the last one stays, and all are alike.

    Raises:
        NativeError: if there is no compiler, it fails, or the cache directory cannot be written.
    """
    path = library_path()
    if not is_intact(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as directory:
                built = Path(directory) / path.name
                _compile(built)
                body = built.read_bytes()
                built.write_bytes(body + hashlib.sha256(body).digest())
                os.replace(built, path)
        except OSError as error:
            raise NativeError(f"cannot write {path.parent}: {error}; point XDG_CACHE_HOME elsewhere") from None
    return path


def is_intact(path: Path) -> bool:
    """Whether a library is there and ends in its own digest."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def _compile(output: Path) -> None:
    compiler = shutil.which(_compiler())
    if compiler is None:
        raise NativeError(f"no C++ compiler '{_compiler()}' on PATH; install one, or name it in the variable CXX")
    command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", "-o", str(output), *map(str, _SOURCES)]
    logging.info("compiling the kernels of %s for this machine (once)", _SOURCES[0].parent)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NativeError(f"{compiler} took more than {_COMPILER_SECONDS} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise NativeError(f"{compiler} failed on {_SOURCES[0].parent}: {errors[0]}")


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


@functools.cache
def _processor() -> str:
    """What decides which instructions -march=native may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model", "model name", "cpu family", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in wanted}))


def main() -> None:
    """Runs the command."""
    try:
        print(ensure_library())
    except NativeError as error:
        sys.exit(f"build: {error}")


if __name__ == "__main__":
    main()
