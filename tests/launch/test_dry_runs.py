"""What the launchers would run, and what they refuse: nothing is started here."""

import subprocess
import sys

import pytest

from launch import kubernetes, local, slurm, tpu_pod
from tests.launch.command_lines import CONFIG, JOB_SET, POD, ROOT, TRAINING


def test_one_process_on_the_cpu_is_a_plain_training_command(dry_run):
    shown = dry_run(local, "--device=cpu")
    assert shown.out == (
        f"JAX_PLATFORMS=cpu {sys.executable} -m lsec_jax.train {CONFIG} '--workdir=/shared/runs/a b' --cluster=none\n"
    )
    assert shown.err == "launch: sets JAX_PLATFORMS=cpu\n"


def test_processes_with_virtual_devices_differ_in_their_number_alone(dry_run):
    lines = dry_run(local, "--processes=2", "--virtual_devices=4", "--port=1234").out.splitlines()
    place = "--coordinator=127.0.0.1:1234 --num_processes=2 --process_id="
    assert [line.endswith(f"{place}{i}") for i, line in enumerate(lines)] == [True, True]
    assert lines[0].startswith("JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 ")
    assert lines[0].removesuffix("0") == lines[1].removesuffix("1")


def test_the_gpus_of_a_machine_are_shared_evenly(dry_run):
    lines = dry_run(local, "--processes=2", "--gpus=4").out.splitlines()
    starts = ["JAX_PLATFORMS=cuda,cpu JAX_LOCAL_DEVICE_IDS=0,1 ", "JAX_PLATFORMS=cuda,cpu JAX_LOCAL_DEVICE_IDS=2,3 "]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True, True]
    assert "JAX_LOCAL_DEVICE_IDS" not in dry_run(local, "--gpus=4").out  # one process takes them all


def test_visible_gpus_are_counted(dry_run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert "JAX_LOCAL_DEVICE_IDS=1 " in dry_run(local, "--processes=2", "--device=gpu").out


def test_variables_that_the_user_has_set_are_kept(dry_run, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    shown = dry_run(local, "--gpus=1")
    assert "JAX_PLATFORMS" not in shown.out
    assert shown.err == "launch: keeps JAX_PLATFORMS=cuda (it is set already)\n"
    assert "JAX_PLATFORMS=" not in dry_run(tpu_pod, "train", *POD, "--env=A=1").err.replace("sets JAX_PLATFORMS", "")
    shown = dry_run(kubernetes, *JOB_SET, "--env=JAX_PLATFORMS=cpu", "--gpus_per_pod=8")
    assert shown.out.count("JAX_PLATFORMS") == 1 and '"value": "cuda,cpu"' not in shown.out
    assert "keeps JAX_PLATFORMS=cpu" in shown.err


def test_platforms_that_the_user_chose_decide_whether_gpus_are_used(dry_run, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_LOCAL_DEVICE_IDS" not in dry_run(local, "--processes=2", "--gpus=4").out


@pytest.mark.parametrize(
    ("module", "options"),
    [(local, []), (slurm, ["--gpus_per_node=1"]), (tpu_pod, ["train", *POD]), (kubernetes, JOB_SET)],
    ids=["local", "slurm", "tpu_pod", "kubernetes"],
)
@pytest.mark.parametrize(
    ("training", "message"),
    [
        ([], "--config is missing"),
        (["--", "--workdir=/shared/a"], "--config is missing"),
        (["--", CONFIG], "--workdir is missing"),
        (["--", CONFIG, "--workdir=README.md"], "--workdir=README.md is a file"),
        (["--", "--config=none.py:tiny", "--workdir=/shared/a"], "there is no file 'none.py'"),
        (["--", CONFIG, "--workdir=/shared/a", "--process_id=0"], "--process_id: the launcher gives this itself"),
        (["--proceses=2", *TRAINING], "unrecognized arguments: --proceses=2"),
        ([CONFIG, *TRAINING], "arguments of lsec_jax.train come after --"),
        (["--restarts=-1", *TRAINING], "--restarts: -1 must be at least 0"),
        (["--restarts=x", *TRAINING], "invalid whole number value: 'x'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(refusal, module, options, training, message):
    shown = refusal(module, *options, *training)
    assert message in shown and "\n" not in shown


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (local, ["--processes=0"], "--processes: 0 must be at least 1"),
        (local, ["--processes=3", "--gpus=4"], "4 GPUs cannot be shared evenly"),
        (local, ["--device=gpu", "--virtual_devices=2"], "leave --device=gpu out"),
        (local, ["--device=cpu", "--gpus=2"], "--gpus contradicts --device=cpu"),
        (slurm, [], "--gpus_per_node"),
        (slurm, ["--gpus_per_node=1", "--time=soon"], "--time=soon"),
        (slurm, ["--gpus_per_node=1", "--time=9"], "--time=9 is 540 seconds"),
        (slurm, ["--gpus_per_node=1", "--time=9:59"], "--time=9:59 is 599 seconds"),
        (slurm, ["--gpus_per_node=1", "--time=0:03:00"], "--time=0:03:00 is 180 seconds"),
        (slurm, ["--gpus_per_node=1", "--time=0-0:01"], "--time=0-0:01 is 60 seconds"),
        (slurm, ["--gpus_per_node=1", "--sbatch=mem"], "--sbatch='mem'"),
        (slurm, ["--gpus_per_node=1", "--sbatch=--mem=1G\ntouch x"], r"--sbatch='--mem=1G\ntouch x'"),
        (slurm, ["--gpus_per_node=1", "--job_name=a\ntouch x"], r"--job_name='a\ntouch x': give letters"),
        (slurm, ["--gpus_per_node=1", "--job_name="], "--job_name=''"),
        (slurm, ["--gpus_per_node=1", "--partition=gpu --wrap=x"], "--partition='gpu --wrap=x'"),
        (slurm, ["--gpus_per_node=1", "--account=a#b"], "--account='a#b'"),
        (tpu_pod, ["start", *POD], "invalid choice: 'start'"),
        (tpu_pod, ["train", "--zone=z"], "--name"),
        (tpu_pod, ["delete", *POD], "delete: takes no arguments of lsec_jax.train"),
        (tpu_pod, ["train", *POD, "--env=A"], "--env=A: give NAME=VALUE"),
        (kubernetes, [*JOB_SET, "--name=Run"], "--name=Run"),
        (kubernetes, [*JOB_SET, "--mount=/elsewhere"], "is not below --mount=/elsewhere"),
        (kubernetes, [*JOB_SET, "--tpu_topology=4x4"], "together, or none of them"),
        (kubernetes, [*JOB_SET, "--pods=0"], "--pods: 0 must be at least 1"),
    ],
)
def test_wrong_options_are_refused_in_one_line(refusal, module, options, message):
    assert message in refusal(module, *options, *TRAINING)


def test_no_gpu_is_no_training_on_gpus(refusal, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no GPU is found here" in refusal(local, "--device=gpu", *TRAINING)


@pytest.mark.parametrize(
    ("module", "options", "program"),
    [
        (slurm, ["--gpus_per_node=1"], "sbatch"),
        (tpu_pod, ["train", *POD], "gcloud"),
        (kubernetes, JOB_SET, "kubectl"),
    ],
)
def test_a_missing_program_is_named(refusal, monkeypatch, module, options, program):
    monkeypatch.setenv("PATH", "")
    assert f"there is no {program} here" in refusal(module, *options, *TRAINING)


def test_launchers_need_nothing_but_the_standard_library():
    script = (
        "import sys; from launch import kubernetes, local, slurm, tpu_pod; "
        "sys.exit(any(name in sys.modules for name in ('jax', 'numpy', 'absl', 'lsec_jax')))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
