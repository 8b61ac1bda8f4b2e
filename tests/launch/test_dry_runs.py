"""What the launchers would run, and what they refuse: nothing is started here."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import kubernetes, local, slurm, tpu_pod

CONFIG = "--config=configs/lsec_gcn_synthetic.py:tiny"
TRAINING = ["--", CONFIG, "--workdir=/shared/runs/a b"]
ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_LOCAL_DEVICE_IDS", "CUDA_VISIBLE_DEVICES")
POD = ["--name=pod", "--zone=us-east5-b"]
JOB_SET = ["--name=run-a", "--image=registry/lsec_jax:1", "--claim=runs"]


@pytest.fixture(autouse=True)
def _in_a_clean_environment(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def dry_run(capsys):
    """Returns run(module, *options): what a dry run prints, and what it logs."""

    def run(module, *options, training=TRAINING):
        assert module.main([*options, "--dry-run", *training]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def refusal(capsys):
    """Returns run(module, *arguments): the one message that a wrong command line ends with."""

    def run(module, *arguments):
        with pytest.raises(SystemExit) as end:
            module.main(arguments)
        assert end.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("error: ") == 1
        return shown.err[shown.err.index("error: ") + len("error: ") :].strip()

    return run


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
    srun = tmp_path / "srun"
    srun.write_text(
        f'#!/bin/bash\necho "$JAX_PLATFORMS" >> {tmp_path}/starts\ncodes=({codes})\n'
        f"exit ${{codes[$(($(wc -l < {tmp_path}/starts) - 1))]}}\n"
    )
    srun.chmod(0o755)
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
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "SLURM_JOB_ID": "7"}
    environment["SLURM_JOB_END_TIME"] = str(1000 + seconds)
    return subprocess.run(["bash"], input=script, text=True, capture_output=True, env=environment)


def test_a_slurm_job_that_begins_at_the_end_of_its_time_is_not_queued_for_ever(dry_run, tmp_path):
    """The partition's limit may be that short."""
    stand_ins = {"srun": f"touch {tmp_path}/ran; exit 143", "date": "echo 1000"}
    ended = run_in_slurm(script_of(dry_run(slurm, "--gpus_per_node=1").out), tmp_path, stand_ins, 170)
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


def test_a_tpu_slice_is_asked_for_as_a_queued_resource(dry_run):
    options = [
        "create",
        *POD,
        "--project=p",
        "--accelerator_type=v6e-16",
        "--runtime_version=v2-alpha-tpuv6e",
        "--spot",
    ]
    where = "--zone=us-east5-b --project=p"
    queued = "gcloud compute tpus queued-resources"
    assert dry_run(tpu_pod, *options, training=[]).out.splitlines() == [
        f"{queued} create pod --node-id=pod {where} --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot",
        f"{queued} describe pod {where} '--format=value(state.state)'",
    ]
    assert dry_run(tpu_pod, "delete", *POD, training=[]).out.startswith(f"{queued} delete pod --zone=us-east5-b ")


def test_all_workers_of_a_tpu_slice_run_the_same_command(dry_run):
    command = shlex.split(dry_run(tpu_pod, "train", *POD, "--env=A=b c").out)
    assert command[:-1] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-east5-b", "--worker=all"]
    assert command[-1].startswith("--command=cd lsec_jax && export A='b c' && export JAX_PLATFORMS=tpu,cpu && ")
    assert command[-1].endswith(f"-m lsec_jax.train --cluster=tpu {CONFIG} '--workdir=/shared/runs/a b'")
    assert dry_run(tpu_pod, "install", *POD, training=[]).out.count("--worker=all") == 2


def test_what_tpu_workers_run_is_valid_shell(dry_run):
    for action, training in (("train", TRAINING), ("install", []), ("stop", [])):
        last = dry_run(tpu_pod, action, *POD, training=training).out.splitlines()[-1]
        flag, _, inner = shlex.split(last)[-1].partition("=")
        assert flag == "--command"
        assert subprocess.run(["bash", "-n", "-c", inner]).returncode == 0


# 143: `stop` has ended it.
@pytest.mark.parametrize(
    ("codes", "code", "trained"),
    [("0", 0, 1), ("255 0", 0, 2), ("2", 2, 1), ("1 1 1", 1, 3), ("143 0", 143, 1), ("255 143 0", 143, 2)],
)
def test_training_on_a_tpu_slice_starts_again_once_the_others_are_ended(tmp_path, monkeypatch, codes, code, trained):
    """With a gcloud that ends with one given code after the other; ending the others always works."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        f'#!/bin/bash\ncase "$*" in *kill*) echo kill >> {tmp_path}/calls; exit 0; esac\n'
        f"echo train >> {tmp_path}/calls\ncodes=({codes})\n"
        f"exit ${{codes[$(($(grep -c train {tmp_path}/calls) - 1))]}}\n"
    )
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tpu_pod.main(["train", *POD, "--restarts=2", *TRAINING]) == code
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("train") == trained
    assert all(calls[i - 1] == "kill" for i, call in enumerate(calls) if i and call == "train")


def test_a_queued_resource_is_waited_for(tmp_path, monkeypatch, capsys):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        f"#!/bin/bash\n[[ $* == *describe* ]] || exit 0\necho x >> {tmp_path}/asked\n"
        f"states=(WAITING_FOR_RESOURCES PROVISIONING $LAST)\necho ${{states[$(($(wc -l < {tmp_path}/asked) - 1))]}}\n"
    )
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tpu_pod, "_POLL_SECONDS", 0)
    create = ["create", *POD, "--accelerator_type=v6e-16", "--runtime_version=v2-alpha-tpuv6e"]
    for last, code in (("ACTIVE", 0), ("FAILED", 1)):
        (tmp_path / "asked").write_text("")
        monkeypatch.setenv("LAST", last)
        assert tpu_pod.main(create) == code
        assert f"the queued resource is {last}" in capsys.readouterr().err


def manifest_of(text):
    return json.loads(re.fullmatch(r"kubectl apply -f - <<'MANIFEST'\n(.*)MANIFEST\n", text, re.DOTALL)[1])


def pod_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_pods_of_a_job_set_know_process_0_and_their_number(dry_run):
    manifest = manifest_of(dry_run(kubernetes, *JOB_SET, "--pods=4", "--gpus_per_pod=8", "--restarts=5").out)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (4, 4, "Indexed", 0)
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 5
    container = pod_of(manifest)["containers"][0]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    # JobSet's host names are NAME-JOB-INDEX-POD.NAME.
    assert variables["JAX_COORDINATOR_ADDRESS"] == "run-a-workers-0-0.run-a:8476"
    assert variables["JAX_NUM_PROCESSES"] == "4" and variables["JAX_PLATFORMS"] == "cuda,cpu"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["command"][:4] == ["python", "-m", "lsec_jax.train", "--cluster=kubernetes"]
    assert container["command"][4:] == TRAINING[1:]


def test_the_pods_of_a_tpu_slice_are_placed_on_it(dry_run):
    tpu = ["--tpu_chips_per_pod=4", "--tpu_accelerator=tpu-v6e-slice", "--tpu_topology=4x4"]
    pod = pod_of(manifest_of(dry_run(kubernetes, *JOB_SET, "--pods=4", *tpu).out))
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert "--cluster=tpu" in pod["containers"][0]["command"]


def test_kubernetes_replaces_nothing_in_arguments_and_variables(dry_run):
    def replaced(text):
        """As Kubernetes does where HOME is /root."""
        return re.sub(r"\$\$|\$\(HOME\)", lambda found: "$" if found[0] == "$$" else "/root", text)

    assert replaced("$(HOME) $$(HOME) $HOME") == "/root $(HOME) $HOME"
    for text in ("$(HOME)", "$$(HOME)", "a$b", "$$", "$$$", "cost$"):
        options = [*JOB_SET, f"--env=PRICE={text}"]
        manifest = manifest_of(dry_run(kubernetes, *options, training=[*TRAINING, f"--config.data.path={text}"]).out)
        container = pod_of(manifest)["containers"][0]
        assert replaced(container["command"][-1]) == f"--config.data.path={text}"
        assert [replaced(of["value"]) for of in container["env"] if of["name"] == "PRICE"] == [text]


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


def test_a_tpu_slice_needs_its_type(refusal):
    assert "--accelerator_type is missing" in refusal(tpu_pod, "create", *POD)


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
