"""What the launchers share: readable errors, the training command, and an environment that keeps what the user set."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130
TERMINATED_EXIT = 143  # after SIGTERM, with everything saved
# Ends that the same command would only repeat: they are not started again.
FINAL_EXITS = (USER_ERROR_EXIT, INTERRUPTED_EXIT)
# JAX_PLATFORMS: lsec_jax.train ends where the first one cannot be used; jax alone would go on with the next. The CPU
# makes the arrays that several devices share.
GPU_PLATFORMS, TPU_PLATFORMS = "cuda,cpu", "tpu,cpu"
# The launcher says which process is which.
_OF_LAUNCHERS = ("cluster", "coordinator", "num_processes", "process_id")


def fail(message: str) -> NoReturn:
    """Prints one message and ends with exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR_EXIT)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a launcher on the program's arguments and ends with its exit code."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        log("interrupted")
        sys.exit(INTERRUPTED_EXIT)


def log(message: str) -> None:
    """Prints a line of the launcher's own."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """Options of a launcher, then `--`, then the arguments of `python -m lsec_jax.train`."""

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m launch.{name}",
            usage=f"python -m launch.{name} [options] -- --config=FILE.py --workdir=DIR [more of lsec_jax.train]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--dry-run", action="store_true", help="check everything and print what would be run; run nothing"
        )

    def error(self, message: str) -> NoReturn:
        """Prints one message instead of the usage."""
        hint = "; arguments of lsec_jax.train come after --" if message.startswith("unrecognized") else ""
        fail(f"{message}{hint}; --help lists the options")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the launcher's options and the training's arguments, which `--` separates."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def at_least(minimum: int) -> type:
    """An argparse type: a whole number not below `minimum`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} must be at least {minimum}")
        return value

    parse.__name__ = "whole number"  # argparse names it in its message
    return parse  # type: ignore[return-value]


def check_training(arguments: Sequence[str]) -> dict[str, str]:
    """Checks the arguments of lsec_jax.train as far as a machine without jax can; ends the program if they are wrong.

    Returns:
        The flags' values by name.
    """
    values = {}
    for i, argument in enumerate(arguments):
        match = re.fullmatch(r"--?([A-Za-z_]+)(?:=(.*))?", argument, re.DOTALL)
        if match is not None:
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            values[match[1]] = following if match[2] is None else match[2]
    for name in _OF_LAUNCHERS:
        if name in values:
            fail(f"--{name}: the launcher gives this itself; leave it out")
    if not values.get("config"):
        fail(
            "--config is missing: give the arguments of lsec_jax.train after --, e.g. -- --config=FILE.py --workdir=DIR"
        )
    file = values["config"].partition(":")[0]
    if not Path(file).is_file():
        fail(f"--config={values['config']}: there is no file '{file}'; give FILE.py or FILE.py:VARIANT")
    if not values.get("workdir"):
        fail("--workdir is missing: a run that is started again goes on from there; all its processes must see it")
    if Path(values["workdir"]).is_file():
        fail(f"--workdir={values['workdir']} is a file; choose a new or empty directory, or that of the run to resume")
    return values


def add_environment(wanted: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Returns those wanted variables that are not given already, and logs which are set and which are kept."""
    for name, value in wanted.items():
        log(f"keeps {name}={given[name]} (it is set already)" if name in given else f"sets {name}={value}")
    return {name: value for name, value in wanted.items() if name not in given}


def parse_environment(pairs: Sequence[str]) -> dict[str, str]:
    """Returns the variables of repeated --env=NAME=VALUE options."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            fail(f"--env={pair}: give NAME=VALUE")
        found[name] = value
    return found


def quoted(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """One command as a shell takes it, with variables in front."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([*variables, shlex.join(command)])


def exit_code(returncode: int) -> int:
    """The exit code of a shell for what `subprocess` returns: 128 + N for a process that signal N ended."""
    return 128 - returncode if returncode < 0 else returncode
