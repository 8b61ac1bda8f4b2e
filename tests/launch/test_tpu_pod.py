"""What the launcher of TPU slices runs on them, with a gcloud that stands in."""

import shlex
import subprocess

import pytest

from launch import tpu_pod
from tests.launch.command_lines import CONFIG, POD, TRAINING
from tests.programs import ending_with, write_program

pytestmark = pytest.mark.usefixtures("clean_environment")


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
    ends_others = f'case "$*" in *kill*) echo kill >> {tmp_path}/calls; exit 0; esac'
    trains = ending_with(codes, tmp_path / "calls", "train")
    write_program(tmp_path / "gcloud", f"{ends_others}\n{trains}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tpu_pod.main(["train", *POD, "--restarts=2", *TRAINING]) == code
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("train") == trained
    assert all(calls[i - 1] == "kill" for i, call in enumerate(calls) if i and call == "train")


def test_a_queued_resource_is_waited_for(tmp_path, monkeypatch, capsys):
    write_program(
        tmp_path / "gcloud",
        f"[[ $* == *describe* ]] || exit 0\necho x >> {tmp_path}/asked\n"
        f"states=(WAITING_FOR_RESOURCES PROVISIONING $LAST)\necho ${{states[$(($(wc -l < {tmp_path}/asked) - 1))]}}",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tpu_pod, "_POLL_SECONDS", 0)
    create = ["create", *POD, "--accelerator_type=v6e-16", "--runtime_version=v2-alpha-tpuv6e"]
    for last, code in (("ACTIVE", 0), ("FAILED", 1)):
        (tmp_path / "asked").write_text("")
        monkeypatch.setenv("LAST", last)
        assert tpu_pod.main(create) == code
        assert f"the queued resource is {last}" in capsys.readouterr().err


def test_a_tpu_slice_needs_its_type(refusal):
    assert "--accelerator_type is missing" in refusal(tpu_pod, "create", *POD)


def git(folder, *arguments):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True)


def test_install_replaces_an_earlier_commit_and_leaves_runs_and_the_checkout_alone(tmp_path, monkeypatch):
    """From another folder, on one worker whose home folder is here; no packages are installed."""
    checkout, home, programs = (tmp_path / name for name in ("checkout", "home", "programs"))
    stand_ins = {
        "gcloud": '[[ $4 == ssh ]] || exec cp "$5" $HOME\ncd && last="${@: -1}" && bash -c "${last#--command=}"',
        "python3": 'mkdir -p "$3/bin" && cp /bin/true "$3/bin/python"',
    }
    for folder in (checkout / "lsec_jax", home, programs):
        folder.mkdir(parents=True)
    for name, body in stand_ins.items():
        write_program(programs / name, body)
    monkeypatch.setenv("HOME", str(home))
    (checkout / "lsec_jax" / "old.py").write_text("")
    (checkout / "README.md").write_text("first")
    (checkout / "setup.py").write_text("")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "first")
    monkeypatch.setattr(tpu_pod.common, "ROOT", checkout)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert tpu_pod.main(["install", *POD]) == 0
    assert (home / "lsec_jax" / "lsec_jax" / "old.py").exists()
    (home / "lsec_jax" / "runs").mkdir()
    git(checkout, "mv", "lsec_jax/old.py", "lsec_jax/new.py")
    git(checkout, "rm", "-q", "setup.py")
    (checkout / "README.md").write_text("second")
    git(checkout, "commit", "-qam", "second")
    assert tpu_pod.main(["install", *POD]) == 0
    assert [path.name for path in (home / "lsec_jax" / "lsec_jax").iterdir()] == ["new.py"]
    assert (home / "lsec_jax" / "README.md").read_text() == "second" and (home / "lsec_jax" / "runs").is_dir()
    assert sorted(path.name for path in home.iterdir()) == ["lsec_jax", "lsec_jax.installed", "lsec_jax_environment"]
    assert sorted(path.name for path in (home / "lsec_jax").iterdir()) == ["README.md", "lsec_jax", "runs"]
    assert sorted(path.name for path in checkout.iterdir()) == [".git", "README.md", "lsec_jax"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkout", "home", "programs"]
