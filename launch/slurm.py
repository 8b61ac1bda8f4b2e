r"""Submits a SLURM job: one task for each GPU, or for each node without GPUs.

Example:
  python -m launch.slurm --nodes=2 --gpus_per_node=8 --time=24:00:00 -- --config=configs/lsec_gcn_synthetic.py \
      --workdir=/shared/runs/a

The job starts again by itself after a failure, --restarts times at the most, and is queued again after the failure of a
node and when its time is up: shortly before, SLURM asks it to save and end. launch/README.md says more.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from launch import common

_SIGNAL_SECONDS = 120
# What is saved and queued again must have trained in between.
_LEAST_SECONDS = 600

_SCRIPT = """#!/bin/bash
{directives}

{environment}cd {directory} || exit 1
final=({final})

ends_within() {{
  [[ -v SLURM_JOB_END_TIME ]] && ((SLURM_JOB_END_TIME - $(date +%s) <= $1))
}}

if ends_within {least_left}; then
  echo "launch: the job's time is too short: ask for at least {least_minutes} minutes with --time" >&2
  exit {user_error}
fi
for ((left = {restarts}; ; left--)); do
  {command}
  code=$?
  for known in 0 "${{final[@]}}"; do
    ((code != known)) || exit "$code"
  done
  if ((code == {terminated})) && ends_within {over_seconds}; then
    echo "launch: the job's time is up; everything is saved, and the job is queued again" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit "$code"
  fi
  ((left > 0)) || break
  echo "launch: ended with $code; starting again, $left left" >&2
done
echo "launch: ended with $code; no restarts left; the same command resumes the run" >&2
exit "$code"
"""

_UNLESS_SET = """if [[ -v {name} ]]; then
  echo "launch: keeps {name}=${name} (it is set already)" >&2
else
  export {name}={value}
  echo "launch: sets {name}={value}" >&2
fi
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns the exit code."""
    own, training = common.split(arguments)
    parser = common.Parser("slurm", __doc__ or "")
    number = common.at_least(1)
    parser.add_argument("--nodes", type=number, default=1, help="default 1")
    parser.add_argument("--gpus_per_node", type=common.at_least(0), required=True, help="0 trains on the CPU")
    parser.add_argument("--cpus_per_task", type=number, help="default: the cluster's")
    parser.add_argument("--time", help="limit, e.g. 24:00:00; default: the partition's")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--job_name", default="lsec_jax")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="another of sbatch; repeatable")
    parser.add_argument("--restarts", type=common.at_least(0), default=3, help="within the job; default 3")
    options = parser.parse_args(own)
    common.check_training(training)
    _check(options)
    script = _script(options, training)
    if options.dry_run:
        print("sbatch <<'SCRIPT'\n" + script + "SCRIPT")
        return 0
    if shutil.which("sbatch") is None:
        common.fail("there is no sbatch here; run this where jobs are submitted, or look at --dry-run")
    return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode


def _check(options: object) -> None:
    """Ends the program if an option is none: in a directive, a comment of a shell script, nothing can be quoted."""
    chosen = vars(options)
    for name in ("job_name", "partition", "account"):
        value = chosen[name]
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.,@+-]+", value):
            common.fail(f"--{name}={value!r}: give letters, digits and any of _ . , @ + -")
    for option in chosen["sbatch"]:
        if not option.startswith("--") or not option.isprintable():
            common.fail(f"--sbatch={option!r}: give one option of sbatch, e.g. --sbatch=--mem=64G")
    seconds = None if chosen["time"] is None else _seconds(chosen["time"])
    if seconds and seconds < _LEAST_SECONDS:
        common.fail(
            f"--time={chosen['time']} is {seconds} seconds: the job would be asked to save {_SIGNAL_SECONDS} seconds "
            f"before its end, and be queued again and again; give at least {_LEAST_SECONDS // 60} minutes"
        )


def _seconds(text: str) -> int:
    """Reads MINUTES[:SECONDS], HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]], as SLURM does; 0 = none."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text, re.ASCII)
    if found is None:
        common.fail(f"--time={text}: give MINUTES, HH:MM:SS or D-HH:MM:SS")
    days, *numbers = (int(number or 0) for number in found.groups())
    starts_with_hours = found[1] is not None or found[4] is not None
    hours, minutes, seconds = numbers if starts_with_hours else (0, *numbers[:2])
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _script(options: object, training: Sequence[str]) -> str:
    chosen = vars(options)
    directives = {
        "job-name": chosen["job_name"],
        "nodes": chosen["nodes"],
        "ntasks-per-node": chosen["gpus_per_node"] or 1,
        "gpus-per-node": chosen["gpus_per_node"] or None,
        "cpus-per-task": chosen["cpus_per_task"],
        "time": chosen["time"],
        "partition": chosen["partition"],
        "account": chosen["account"],
        "output": "%x-%j.log",
        "open-mode": "append",
        "signal": f"TERM@{_SIGNAL_SECONDS}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in chosen["sbatch"])]
    platform = common.GPU_PLATFORMS if chosen["gpus_per_node"] else "cpu"
    srun = ["srun", "--kill-on-bad-exit=1", "python", "-m", "lsec_jax.train", "--cluster=slurm", *training]
    return _SCRIPT.format(
        directives="\n".join(lines),
        environment=_UNLESS_SET.format(name="JAX_PLATFORMS", value=platform),
        directory=shlex.quote(os.getcwd()),
        final=" ".join(map(str, common.FINAL_EXITS)),
        terminated=common.TERMINATED_EXIT,
        over_seconds=_SIGNAL_SECONDS + 60,  # the signal, and what saving took
        least_left=_LEAST_SECONDS - 60,  # a minute may pass between the job's start and its script
        least_minutes=_LEAST_SECONDS // 60,
        user_error=common.USER_ERROR_EXIT,
        restarts=chosen["restarts"],
        command=shlex.join(srun),
    )


if __name__ == "__main__":
    common.run(main)
