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

_SCRIPT = """#!/bin/bash
{directives}

{environment}cd {directory} || exit 1
final=({final})

is_nearly_over() {{
  [[ -v SLURM_JOB_END_TIME ]] && ((SLURM_JOB_END_TIME - $(date +%s) <= {signal_seconds} + 60))
}}

for ((left = {restarts}; ; left--)); do
  {command}
  code=$?
  for known in 0 "${{final[@]}}"; do
    ((code != known)) || exit "$code"
  done
  if ((code == {terminated})) && is_nearly_over; then
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
    if options.time and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", options.time):
        common.fail(f"--time={options.time}: give MINUTES, HH:MM:SS or D-HH:MM:SS")
    if wrong := [option for option in options.sbatch if not option.startswith("--") or "\n" in option]:
        common.fail(f"--sbatch={wrong[0]}: give one option of sbatch, e.g. --sbatch=--mem=64G")
    script = _script(options, training)
    if options.dry_run:
        print("sbatch <<'SCRIPT'\n" + script + "SCRIPT")
        return 0
    if shutil.which("sbatch") is None:
        common.fail("there is no sbatch here; run this where jobs are submitted, or look at --dry-run")
    return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode


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
        signal_seconds=_SIGNAL_SECONDS,
        restarts=chosen["restarts"],
        command=shlex.join(srun),
    )


if __name__ == "__main__":
    common.run(main)
