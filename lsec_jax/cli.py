"""What the command lines share: flags with readable errors, and one message instead of a traceback."""

import logging as python_logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from lsec_jax.config import ConfigError, unknown_key_message
from lsec_jax.ranking import NanScoreError
from lsec_jax.schema import DataError
from lsec_jax.training.checkpoints import CheckpointError
from lsec_jax.training.loop import NonFiniteError

USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteError, NanScoreError, OSError)
USER_ERROR_EXIT = 2


def run(main: Callable[[], None]) -> None:
    """Parses flags and calls main; anything a user can get wrong ends in one message and exit code 2."""

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(list(argv))
        except flags.Error as error:
            _fail(str(error))
        except (KeyError, AttributeError, TypeError) as error:
            _fail(_override_message(argv, error))
        except (FileNotFoundError, ImportError) as error:
            _fail(f"--config: {error}")
        except ValueError as error:
            _fail(f"--config: {error}")

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument '{argv[1]}'; flags start with --")
        logging.set_verbosity(logging.INFO)
        for noisy in ("orbax", "jax"):
            python_logging.getLogger(noisy).setLevel(python_logging.WARNING)
        python_logging.getLogger("absl").addFilter(_not_from_orbax)
        warnings.filterwarnings("ignore", message="Sharding info not provided")
        try:
            main()
        except USER_ERRORS as error:
            _fail(str(error))

    # absl prints the docstring of the program's main module in --help.
    app.run(guarded, flags_parser=_with_help(parse))


def _with_help(parse: Callable[[Sequence[str]], list[str]]) -> Callable[[Sequence[str]], list[str]]:
    def parse_or_help(argv: Sequence[str]) -> list[str]:
        app.define_help_flags()
        return parse(argv)

    return parse_or_help


def _not_from_orbax(record: python_logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or record.levelno >= python_logging.WARNING


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR_EXIT)


def _override_message(argv: Sequence[str], error: Exception) -> str:
    """Names the override that could not be applied, with the keys that are valid there."""
    config = _config_without_overrides(argv)
    for argument in argv[1:]:
        match = re.match(r"--(?:no)?config\.([\w.\[\]]+)", argument)
        if match is None or config is None:
            continue
        holder, path = config, "config"
        for name, index in re.findall(r"(\w+)((?:\[\d+\])*)", match.group(1)):
            fields = getattr(holder, "__dataclass_fields__", None)
            if fields is None:
                return f"'{path}' holds a plain value and has no key '{name}'"
            if name not in fields:
                return unknown_key_message(f"{path}.{name}", fields)
            holder, path = getattr(holder, name), f"{path}.{name}{index}"
            for i in re.findall(r"\d+", index):
                if not isinstance(holder, (list, tuple)) or int(i) >= len(holder):
                    return f"'{path}' does not exist; it has {len(holder) if hasattr(holder, '__len__') else 0} entries"
                holder = holder[int(i)]
    return f"--config: {error}"


def _config_without_overrides(argv: Sequence[str]) -> object | None:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    for i, argument in enumerate(argv):
        if re.match(r"--?config(=|$)", argument):
            only = [argument] if "=" in argument else list(argv[i : i + 2])
            try:
                values([argv[0], *only])
            except Exception:  # the config file itself is broken; the caller reports the first error
                return None
            return values["config"].value
    return None


def define_workdir() -> flags.FlagHolder[Any]:
    """The --workdir flag of commands that read a trained run."""
    return flags.DEFINE_string("workdir", None, "Directory that `python -m lsec_jax.train` wrote.", required=True)


def define_data() -> flags.FlagHolder[str | None]:
    """The --data flag: where the data is now, if it moved."""
    return flags.DEFINE_string("data", None, "Path that replaces the data source's path, if the data has moved.")


def define_plugins() -> flags.FlagHolder[list[str]]:
    """The --plugin flag: packages besides lsec_jax whose classes a stored config may name."""
    return flags.DEFINE_multi_string(
        "plugin", [], "Package besides lsec_jax that the stored config may take classes from."
    )


def check_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuses an output path before any work is done.

    Raises:
        ConfigError: if its ending is unknown or its folder does not exist.
    """
    if path.suffix not in suffixes:
        raise ConfigError(f"--output={path}: unknown ending; use one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output={path}: the folder {path.parent} does not exist; create it first")
