"""The jobs that the SLURM launcher submits; their scripts run with programs that stand in."""

import re
import subprocess

import pytest

from launch import slurm
from tests.launch.command_lines import CONFIG
from tests.programs import ending_with, write_program


def script_of(text):
    return re.fullmatch(r"sbatch <<'SCRIPT'\n(.*)SCRIPT\n", text, re.DOTALL)[1]


def test_a_slurm_job_has_one_task_for_each_gpu(dry_run):
    script = script_of(dry_run(slurm, "--nodes=2", "--gpus_per_node=8", "--time=24:00:00", "--sbatch=--mem=64G").out)
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=24:00:00", "--requeue", "--mem=64G"):
        assert f"\n#SBATCH {line}\n" in script
    command = (
        f"  srun --kill-on-bad-exit=1 python -m lsec_jax.train --cluster=slurm {CONFIG} '--workdir=/shared/runs/a b'"
    )
    assert f"\n{command}\n" in script
    assert "--partition" not in script


def test_a_slurm_job_without_gpus_has_one_task_for_each_node(dry_run):
    script = script_of(dry_run(slurm, "--nodes=3", "--gpus_per_node=0").out)
    assert "--ntasks-per-node=1\n" in script and "--gpus" not in script
    assert "export JAX_PLATFORMS=cpu\n" in script


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [("0", 0, 1), ("2", 2, 1), ("137 0", 0, 2), ("1 1 1 1 1", 1, 3), ("137 2", 2, 2), ("143 0", 0, 2)],
)
def test_a_slurm_job_starts_again_unless_the_same_command_would_fail_again(dry_run, tmp_path, codes, code, starts):
    """With a srun that ends with one given code after the other."""
    write_program(tmp_path / "srun", ending_with(codes, tmp_path / "starts", "$JAX_PLATFORMS"))
    script = script_of(dry_run(slurm, "--gpus_per_node=1", "--restarts=2").out)
    ended = subprocess.run(
        ["bash"], input=script, text=True, capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert ended.returncode == code, ended.stderr
    assert (tmp_path / "starts").read_text() == "cuda,cpu\n" * starts
    assert ended.stderr.startswith("launch: sets JAX_PLATFORMS=cuda,cpu\n")


def run_in_slurm(script, folder, stand_ins, seconds):
    """Runs a job's script that ends so long after second 1000, with programs that stand in."""
    for name, body in {"scontrol": f'echo "$@" > {folder}/queued', **stand_ins}.items():
        write_program(folder / name, body)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "SLURM_JOB_ID": "7"}
    environment["SLURM_JOB_END_TIME"] = str(1000 + seconds)
    return subprocess.run(["bash"], input=script, text=True, capture_output=True, env=environment)


@pytest.mark.parametrize("seconds", [170, 300, 530])
def test_a_slurm_job_that_begins_at_the_end_of_its_time_is_not_queued_for_ever(dry_run, tmp_path, seconds):
    """The partition's limit may be that short."""
    stand_ins = {"srun": f"touch {tmp_path}/ran; exit 143", "date": "echo 1000"}
    ended = run_in_slurm(script_of(dry_run(slurm, "--gpus_per_node=1").out), tmp_path, stand_ins, seconds)
    assert ended.returncode == 2 and "time is too short: ask for at least 10 minutes" in ended.stderr
    assert not (tmp_path / "ran").exists() and not (tmp_path / "queued").exists()


@pytest.mark.parametrize("time", ["0", "10", "10:00", "0:10:00", "1-0", "0-0:10", "24:00:00", "0-00:10:00"])
def test_limits_of_slurm_jobs_are_read_as_slurm_reads_them(dry_run, time):
    assert f"\n#SBATCH --time={time}\n" in script_of(dry_run(slurm, "--gpus_per_node=1", f"--time={time}").out)


@pytest.mark.parametrize(("seconds", "requeues"), [(60, True), (3600, False)])
def test_a_slurm_job_whose_time_is_up_is_queued_again(dry_run, tmp_path, seconds, requeues):
    stand_ins = {"srun": f"touch {tmp_path}/ran; exit 143", "date": f"[[ -e {tmp_path}/ran ]] && echo 1000 || echo 0"}
    ended = run_in_slurm(
        script_of(dry_run(slurm, "--gpus_per_node=1", "--restarts=0").out), tmp_path, stand_ins, seconds
    )
    assert ended.returncode == 143
    assert (tmp_path / "queued").exists() == requeues
    assert not requeues or (tmp_path / "queued").read_text() == "requeue 7\n"
    assert ended.stderr.startswith("launch: keeps JAX_PLATFORMS=cpu (it is set already)\n")
