"""What the command lines share: flags with readable errors, and one message instead of a traceback."""

import importlib.util
import logging as python_logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from lsec_jax.config import ConfigError, ParallelConfig, RunConfig, check_parallel
from lsec_jax.config_json import from_dict, to_dict, unknown_key_message
from lsec_jax.parallel import members, platforms, processes, startup
from lsec_jax.parallel.processes import ProcessError
from lsec_jax.ranking import NanScoreError
from lsec_jax.schema import DataError
from lsec_jax.training import compilation
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.loop import NonFiniteError
from lsec_jax.training.termination import Terminated

USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteError, NanScoreError, ProcessError, OSError)
USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130
# That of a process which SIGTERM ends, as shells report it: also where the run saves its state first.
TERMINATED_EXIT = 143

# Flags defined here belong to the command line that asks for them, so that its --help shows them.
flags.disclaim_key_flags()


def run(main: Callable[[], None]) -> None:
    """Parses flags and calls main; anything a user can get wrong ends in one message and exit code 2."""

    def parse(argv: Sequence[str]) -> list[str]:
        # absl's --help prints the docstring of the program's main module, and exits.
        app.define_help_flags()
        try:
            if "config" in flags.FLAGS:
                _check_config_arguments(flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False))
            return flags.FLAGS(list(argv))
        except SystemExit:  # --help, which absl counts as a failure
            sys.exit(0)
        except (ConfigError, flags.Error) as error:
            _fail(str(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # ml_collections on a strange override
            _fail(f"a --config override cannot be applied: {error}")

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument '{argv[1]}'; flags start with --")
        _quiet_logging()
        try:
            _use_compilation_cache()
            main()
        except USER_ERRORS as error:
            _fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            _end(INTERRUPTED_EXIT)
        except Terminated as end:
            print(f"terminated: {end}", file=sys.stderr)
            sys.exit(TERMINATED_EXIT)
        except Exception:
            if not processes.are_connected():
                raise
            traceback.print_exc()
            print(f"{_own_name()}ended; if a connection broke, another process ended first", file=sys.stderr)
            _end(1)

    app.run(guarded, flags_parser=parse)


class _Formatter(python_logging.Formatter):
    def format(self, record: python_logging.LogRecord) -> str:
        level = "" if record.levelno < python_logging.WARNING else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {_own_name()}{level}{record.getMessage()}"


def _quiet_logging() -> None:
    """Shows this package's own lines as `time message`, and of the libraries only what went wrong."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(_Formatter())
    for noisy in ("orbax", "jax"):
        python_logging.getLogger(noisy).setLevel(python_logging.WARNING)
    python_logging.getLogger("absl").addFilter(_is_wanted)


def _is_wanted(record: python_logging.LogRecord) -> bool:
    if "orbax" not in record.pathname:
        return True
    # Orbax clears away what a killed process left of a checkpoint, and warns of it. Its errors are raised besides.
    return record.levelno == python_logging.WARNING and "temporary directory" not in record.getMessage()


def _fail(message: str) -> NoReturn:
    print(f"{_own_name()}error: {message}", file=sys.stderr)
    _end(USER_ERROR_EXIT)


def _own_name() -> str:
    """Which process speaks, where it is not the first one."""
    return "" if processes.is_first() else f"process {processes.index()}: "


def _end(code: int) -> NoReturn:
    """Ends this process; if it is connected with others of its run at once, as Python's normal end waits for them."""
    if processes.are_connected():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _check_config_arguments(argv: Sequence[str]) -> None:
    """Loads the config file and looks up every override in it, because the flag's own messages name neither.

    Raises:
        ConfigError: for the first argument that cannot be used.
    """
    path, overrides, wants_help = None, [], False
    for i, argument in enumerate(argv[1:], 1):
        match = re.match(r"--?(?P<no>no)?config(?P<key>\.[^=]+)?(?P<value>=.*)?$", argument, re.DOTALL)
        wants_help |= re.match(r"--?help", argument) is not None
        if match is None:
            continue
        if match["key"]:
            overrides.append((argument, "config" + match["key"]))
        elif not match["no"]:
            path = match["value"][1:] if match["value"] else next(iter(argv[i + 1 :]), "")
    if wants_help:
        return
    if path is None:
        raise ConfigError("--config is missing; for example --config=configs/lsec_gcn_synthetic.py:tiny")
    config = _load_config_file(path)
    for argument, key in overrides:
        _look_up(config, argument, key)


def _load_config_file(argument: str) -> RunConfig:
    """Returns what get_config of FILE.py[:VARIANT] returns; raises ConfigError naming file and line."""
    file, _, variant = argument.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"--config={argument}: there is no file '{file}'; give FILE.py or FILE.py:VARIANT")
    spec = importlib.util.spec_from_file_location("checked_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={argument}: '{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"--config={argument}: '{file}' has no function get_config(variant='')")
        config = module.get_config(*([variant] if variant else []))
    except ConfigError:
        raise
    except Exception as error:  # a config file is Python: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        text = f"--config={argument}: {file}{f', line {line}' if line else ''}: "
        is_message = type(error) is ValueError  # what configs raise for an unknown variant
        raise ConfigError(text + (str(error) if is_message else f"{type(error).__name__}: {error}")) from error
    if not isinstance(config, RunConfig):
        raise ConfigError(f"--config={argument}: get_config returned {config!r}, not a lsec_jax.config.RunConfig")
    return config


def _look_up(config: object, argument: str, key: str) -> None:
    """Raises ConfigError unless `key`, e.g. "config.model.tasks[0].weight", names one value of the config."""
    holder, path = config, "config"
    for part in key.split(".")[1:]:
        match = re.fullmatch(r"(\w+)((?:\[-?\d+\])*)", part)
        if match is None:
            raise ConfigError(f"{argument}: cannot read '{part}'; write --config.KEY.KEY[0].KEY=VALUE")
        name, indices = match.groups()
        fields = getattr(holder, "__dataclass_fields__", None)
        if fields is None:
            hint = "; it is switched off: switch it on in the config file" if holder is None else ""
            raise ConfigError(f"{argument}: '{path}' = {holder!r} is a value and has no keys{hint}")
        if name not in fields:
            raise ConfigError(unknown_key_message(f"{path}.{name}", fields))
        holder, path = getattr(holder, name), f"{path}.{name}"
        for i in map(int, re.findall(r"-?\d+", indices)):
            if not isinstance(holder, (list, tuple)):
                raise ConfigError(f"{argument}: '{path}' = {holder!r} is not a list")
            if not 0 <= i < len(holder):
                raise ConfigError(f"{argument}: '{path}' has {len(holder)} entries, numbered from 0; there is no [{i}]")
            holder, path = holder[i], f"{path}[{i}]"
    value = argument.partition("=")[2]
    is_names = isinstance(holder, tuple) and any(isinstance(item, str) for item in holder)
    if is_names and "," in value and not re.search(r"['\"]", value):
        flag = argument.partition("=")[0]
        raise ConfigError(
            f"{argument}: repeat the flag for each name: {' '.join(f'{flag}={x}' for x in value.split(','))}"
        )
    if hasattr(holder, "__dataclass_fields__"):
        keys = ", ".join(sorted(holder.__dataclass_fields__))
        raise ConfigError(f"{argument}: '{path}' is a group of keys; set one of them: {keys}")


def check_types(config: Any) -> RunConfig:
    """Returns the config if every value has its declared type (overrides of lists are parsed without it).

    Raises:
        ConfigError: naming the key and the value.
    """
    own = tuple({type(part).__module__.split(".")[0] for part in (config.data, config.model)})
    return from_dict(RunConfig, to_dict(config), plugins=own)


def define_workdir() -> flags.FlagHolder[Any]:
    """The --workdir flag of commands that read a trained run."""
    return flags.DEFINE_string("workdir", None, "Directory that `python -m lsec_jax.train` wrote.", required=True)


def define_data() -> flags.FlagHolder[str | None]:
    """The --data flag: where the data is now, if it moved."""
    return flags.DEFINE_string("data", None, "Path that replaces the data source's path, if the data has moved.")


def define_mesh() -> flags.FlagHolder[str | None]:
    """The --mesh flag of commands that score and rank; `read_mesh` reads it."""
    return flags.DEFINE_string(
        "mesh",
        None,
        "DATAxMODEL, such as 2x4: users are divided over all these devices, vectors of nodes over MODEL of them; "
        "default: one device.",
    )


def read_mesh(text: str | None) -> ParallelConfig | None:
    """Reads --mesh.

    Raises:
        ConfigError: if it is no mesh, or larger than what there is.
    """
    if text is None:
        return None
    along_data, along_model = parse_mesh("--mesh", text)
    if along_data * along_model > (count := jax.device_count()):
        raise ConfigError(
            f"--mesh={text} needs {along_data * along_model} devices, and there are {count} "
            f"({jax.default_backend()}); give a smaller one, or leave the flag out"
        )
    return ParallelConfig("sharded", along_data, along_model)


def parse_mesh(flag: str, text: str) -> tuple[int, int]:
    """Reads "DATAxMODEL", two numbers of devices; raises ConfigError naming the flag."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text, re.ASCII)
    if found is None:
        raise ConfigError(f"{flag}={text}: write DATAxMODEL, two whole numbers from 1, such as 2x4")
    return int(found[1]), int(found[2])


def define_plugins() -> flags.FlagHolder[list[str]]:
    """The --plugin flag: packages besides lsec_jax whose classes a stored config may name."""
    return flags.DEFINE_multi_string(
        "plugin", [], "Package besides lsec_jax that the stored config may take classes from."
    )


def define_compilation_cache() -> None:
    """The --compilation_cache flag of commands that compile; `run` reads it."""
    flags.DEFINE_string(
        "compilation_cache", None, "Directory that keeps compiled programs for later processes; default: none are kept."
    )


def define_processes() -> None:
    """The flags of commands that several processes can run together; `start_processes` reads them."""
    flags.DEFINE_enum(
        "cluster",
        "auto",
        members.CLUSTERS,
        "Where a run of several processes is described; auto: the next three flags, else the environment of a TPU, of "
        "srun or of a Kubernetes job, else one process.",
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, as the other processes reach it.")
    flags.DEFINE_integer("num_processes", None, "How many processes run this command together.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def start_devices() -> None:
    """Starts the devices of this process before a command reads anything.

    Raises:
        ConfigError: if JAX_PLATFORMS names some that are not there.
    """
    platforms.require_devices()


def start_processes(config: RunConfig, **arguments: Any) -> None:
    """Connects the processes of a run, if there are several; from then on only the first one says more than errors.

    Args:
        config: of the run.
        **arguments: other arguments of the command, which must be the same for all processes; JSON values.

    Raises:
        ConfigError: if flags or environment do not say which process this is, or as `start_devices`.
        ProcessError: if the processes do not find each other or differ.
    """
    check_parallel(config.parallel)
    given = flags.FLAGS
    member = members.find(
        given.cluster,
        given.coordinator,
        given.num_processes,
        given.process_id,
        config.parallel.initialization_seconds,
    )
    if member is not None:
        if member.process_id > 0:
            _silence()
        startup.start(member, config, arguments)
    if processes.count() == 1:
        start_devices()
    else:
        logging.info("%d processes, %s", processes.count(), startup.describe_devices())


def _silence() -> None:
    """Leaves errors alone, on stderr."""
    logging.set_verbosity(logging.ERROR)
    for noisy in ("orbax", "jax"):
        python_logging.getLogger(noisy).setLevel(python_logging.ERROR)
    warnings.simplefilter("ignore")
    sys.stdout.flush()
    # Libraries in C++ write to the descriptor.
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)


def _use_compilation_cache() -> None:
    if "compilation_cache" not in flags.FLAGS or flags.FLAGS.compilation_cache is None:
        return
    if not flags.FLAGS.compilation_cache:
        raise ConfigError("--compilation_cache is empty; give a directory, or leave the flag out")
    directory = Path(flags.FLAGS.compilation_cache)
    workdir = flags.FLAGS.workdir if "workdir" in flags.FLAGS else None
    if workdir and directory.resolve().is_relative_to(Path(workdir).resolve()):
        # Training would find its new workdir not empty.
        raise ConfigError(f"--compilation_cache={directory} lies in --workdir={workdir}; choose another directory")
    compilation.use_cache(directory)


def check_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuses an output path before any work is done.

    Raises:
        ConfigError: if its ending is unknown, its folder does not exist, or it is a folder itself.
    """
    if path.suffix not in suffixes:
        raise ConfigError(f"--output={path}: unknown ending; use one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output={path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise ConfigError(f"--output={path}: this is a folder; give a file name")
