"""Compiles the C++ kernels for this machine: on first use, or ahead with `python -m lsec_jax.nn.native.build`.

The library lies in the user's cache directory ($XDG_CACHE_HOME or ~/.cache, lsec_jax/), under a name that depends on
everything that it was made from: sources, flags, compiler, jaxlib and the processor, whose instructions it uses. It
ends in a digest of itself, so that a damaged file is seen, and made again, before it is loaded.
"""

import functools
import hashlib
import os
import platform
import shlex
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
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fPIC",
    "-shared",
    "-w",
)
_FOR_THIS_PROCESSOR = "-march=native"  # left out where a compiler does not know it
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("csr.cc", "attention.cc", "slots.cc"))
_HEADERS = (Path(__file__).with_name("blocks.h"),)
_COMPILER_SECONDS = 300
_DIGEST_BYTES = hashlib.sha256().digest_size


class NativeError(Exception):
    """Why there is no library, in one line."""


def library_path() -> Path:
    """Where the library for this machine lies, whether it exists or not.

    Raises:
        NativeError: if there is no cache directory, because the user has no home, or CXX cannot be read.
    """
    sources = [source.read_text(encoding="utf-8") for source in (*_SOURCES, *_HEADERS)]
    parts = (*sources, *FLAGS, _FOR_THIS_PROCESSOR, *_compiler(), metadata.version("jaxlib"), _processor())
    digest = hashlib.sha256("\0".join(parts).encode())
    return _cache_directory() / "lsec_jax" / f"csr-{digest.hexdigest()[:24]}.so"


def _cache_directory() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:  # a user without a home directory, as in some containers
        raise NativeError(f"no directory for the library: {error}; set XDG_CACHE_HOME") from None


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
    name, *arguments = _compiler()
    compiler = shutil.which(name)
    if compiler is None:
        raise NativeError(f"no C++ compiler '{name}' on PATH; install one, or name it in the variable CXX")
    command = [compiler, *arguments, *FLAGS, f"-I{jax.ffi.include_dir()}", "-o", str(output), *map(str, _SOURCES)]
    logging.info("compiling the kernels of %s for this machine (once)", _SOURCES[0].parent)
    error = _first_error([*command, _FOR_THIS_PROCESSOR])
    if error and _first_error(command):
        raise NativeError(f"{compiler} failed on {_SOURCES[0].parent}: {error}")
    if error:
        logging.warning("the kernels are slower than they could be: %s %s: %s", compiler, _FOR_THIS_PROCESSOR, error)


def _first_error(command: list[str]) -> str | None:
    """Runs a compiler; returns the first error that it prints, or None if it succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NativeError(f"{command[0]} took more than {_COMPILER_SECONDS} s") from None
    except OSError as error:
        raise NativeError(f"cannot run {command[0]}: {error}; name a C++ compiler in the variable CXX") from None
    if not done.returncode:
        return None
    return next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.partition("\n")[0] or "?")


def _compiler() -> list[str]:
    """The compiler's name, and arguments, as in CXX="ccache g++"."""
    named = os.environ.get("CXX") or ""
    try:
        return shlex.split(named) or ["g++"]
    except ValueError as error:
        raise NativeError(f"the variable CXX = {named!r} cannot be read: {error}") from None


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
