r"""Trains on a TPU pod slice of Google Cloud: queued resources, and the same command on all workers.

Example:
  python -m launch.tpu_pod create --name=pod --zone=us-east5-b --accelerator_type=v6e-16 \
      --runtime_version=v2-alpha-tpuv6e
  python -m launch.tpu_pod install --name=pod --zone=us-east5-b
  python -m launch.tpu_pod train --name=pod --zone=us-east5-b -- --config=FILE.py --workdir=/mnt/shared/runs/a
  python -m launch.tpu_pod delete --name=pod --zone=us-east5-b

`create` asks for the slice and waits until it is there, `install` copies the committed code to its workers and installs
what it needs, `train` runs it and starts it again after a failure, `stop` lets it save and end. See launch/README.md.
"""

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from launch import common

ACTIONS = ("create", "install", "train", "stop", "delete")
_FOLDER = "lsec_jax"  # in the home folder of each worker; the archive and what else is kept there begin with it
_PID_FILE = f"{_FOLDER}.pid"
_PYTHON = f"$HOME/{_FOLDER}_environment/bin/python"
_POLL_SECONDS = 30
# `stop`, which comes from another launcher, and the end of a slice both end training with SIGTERM.
_FINAL_EXITS = (*common.FINAL_EXITS, common.TERMINATED_EXIT)
_WILL_NOT_COME = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns the exit code."""
    own, training = common.split(arguments)
    parser = common.Parser("tpu_pod", __doc__ or "")
    parser.usage = "python -m launch.tpu_pod ACTION --name=NAME --zone=ZONE [options] [-- arguments of lsec_jax.train]"
    parser.add_argument("action", choices=ACTIONS, help="what to do, in this order")
    parser.add_argument("--name", required=True, help="of the slice and of its queued resource")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", help="default: gcloud's")
    parser.add_argument("--accelerator_type", help="for create, e.g. v6e-16")
    parser.add_argument("--runtime_version", help="for create, e.g. v2-alpha-tpuv6e")
    parser.add_argument("--spot", action="store_true", help="for create: cheaper, may be taken away at any time")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for train: a variable; repeatable"
    )
    parser.add_argument("--restarts", type=common.at_least(0), default=3, help="for train: after a failure; default 3")
    options = parser.parse_args(own)
    where = [f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else [])]
    if options.action == "train":
        common.check_training(training)
    elif training:
        common.fail(f"{options.action}: takes no arguments of lsec_jax.train; give them to train")
    commands = {
        "create": lambda: _create(options, where),
        "install": lambda: _install(options.name, where, "TEMPORARY_FOLDER"),
        "train": lambda: [_train(options, where, training)],
        "stop": lambda: [_stop(options.name, where, "TERM")],
        "delete": lambda: [[*_queued("delete"), options.name, *where, "--force", "--quiet"]],
    }[options.action]()
    if options.dry_run:
        print("\n".join(map(common.quoted, commands)))
        return 0
    if shutil.which("gcloud") is None:
        common.fail("there is no gcloud here; install the Google Cloud CLI, or look at --dry-run")
    if options.action == "install":
        with tempfile.TemporaryDirectory() as folder:
            return _run(_install(options.name, where, folder))
    if options.action == "create":
        return _run([commands[0]]) or _wait(commands[1])
    if options.action == "train":
        return _run_again(commands[0], _stop(options.name, where, "KILL"), options.restarts)
    return _run(commands)


def _create(options: object, where: list[str]) -> list[list[str]]:
    """The request, and the question whether it is granted."""
    chosen = vars(options)
    for name in ("accelerator_type", "runtime_version"):
        if not chosen[name]:
            common.fail(f"create: --{name} is missing")
    request = [*_queued("create"), chosen["name"], f"--node-id={chosen['name']}", *where]
    request += [f"--accelerator-type={chosen['accelerator_type']}", f"--runtime-version={chosen['runtime_version']}"]
    state = [*_queued("describe"), chosen["name"], *where, "--format=value(state.state)"]
    return [[*request, *(["--spot"] if chosen["spot"] else [])], state]


def _install(name: str, where: list[str], folder: str) -> list[list[str]]:
    """Packs the last commit in a folder, copies it, and unpacks it in place of an earlier one."""
    archive = f"{_FOLDER}.tar.gz"
    pack = ["git", "-C", str(common.ROOT), "archive", "--format=tar.gz", f"--output={folder}/{archive}", "HEAD"]
    copy = ["gcloud", "compute", "tpus", "tpu-vm", "scp", f"{folder}/{archive}", f"{name}:", *where, "--worker=all"]
    # What this commit and the one before have is replaced whole, so that no deleted file stays; runs and data beside
    # it are left alone.
    names, earlier = f"tar -tzf ~/{archive} | cut -d/ -f1 | sort -u", f"~/{_FOLDER}.installed"
    forget = f"({names}; cat {earlier} 2> /dev/null) | xargs rm -rf -- && {names} > {earlier}"
    unpack = (
        f"mkdir -p {_FOLDER} && cd {_FOLDER} && {forget} && tar -xzf ~/{archive} && rm ~/{archive} && "
        f"python3 -m venv ~/{_FOLDER}_environment && {_PYTHON} -m pip install -q -r requirements.txt 'jax[tpu]'"
    )
    return [pack, copy, _ssh(name, where, unpack)]


def _train(options: object, where: list[str], training: Sequence[str]) -> list[str]:
    chosen = vars(options)
    given = common.parse_environment(chosen["env"])
    environment = {**given, **common.add_environment({"JAX_PLATFORMS": common.TPU_PLATFORMS}, given)}
    exports = "".join(f"export {name}={shlex.quote(value)} && " for name, value in environment.items())
    arguments = shlex.join(["-m", "lsec_jax.train", "--cluster=tpu", *training])
    return _ssh(
        chosen["name"], where, f"cd {_FOLDER} && {exports}echo $$ > ~/{_PID_FILE} && exec {_PYTHON} {arguments}"
    )


def _stop(name: str, where: list[str], signal: str) -> list[str]:
    """Ends training on all workers: where one of them failed, the others may wait for it."""
    return _ssh(
        name, where, f"test ! -e {_PID_FILE} || kill -{signal} $(cat {_PID_FILE}) 2>/dev/null; rm -f {_PID_FILE}"
    )


def _queued(verb: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb]


def _ssh(name: str, where: list[str], command: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, *where, "--worker=all", f"--command={command}"]


def _run(commands: Sequence[Sequence[str]]) -> int:
    for command in commands:
        common.log(common.quoted(command))
        if code := common.exit_code(subprocess.run(command, check=False).returncode):
            return code
    return 0


def _wait(question: Sequence[str]) -> int:
    """Asks until the slice is there; returns 0, or 1 if it will not come."""
    before = ""
    while True:
        answer = subprocess.run(question, capture_output=True, text=True, check=False)
        state = answer.stdout.strip()
        if answer.returncode:
            print(answer.stderr, file=sys.stderr, end="")
            return common.exit_code(answer.returncode)
        if state != before:
            common.log(f"the queued resource is {state}")
        if state == "ACTIVE":
            return 0
        if state in _WILL_NOT_COME:
            common.log("it will not come: delete it and ask again")
            return 1
        before = state
        time.sleep(_POLL_SECONDS)


def _run_again(command: Sequence[str], stop: Sequence[str], restarts: int) -> int:
    for left in range(restarts, -1, -1):
        code = _run([command])
        if code == common.TERMINATED_EXIT:
            common.log("stopped; the same command resumes the run")
        if code == 0 or code in _FINAL_EXITS:
            break
        common.log(f"ended with {code}; " + (f"starting again, {left} left" if left else "no restarts left"))
        _run([stop])
    return code


if __name__ == "__main__":
    common.run(main)
