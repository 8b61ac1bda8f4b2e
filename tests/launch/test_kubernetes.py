"""The manifests that the launcher for Kubernetes applies."""

import json
import re

from launch import kubernetes
from tests.launch.command_lines import JOB_SET, TRAINING


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


def test_pods_have_time_to_save_and_gpus_memory_to_share(dry_run):
    pod = pod_of(manifest_of(dry_run(kubernetes, *JOB_SET, "--gpus_per_pod=2", "--grace_seconds=90").out))
    assert pod["terminationGracePeriodSeconds"] == 90
    mounted = {of["mountPath"]: of["name"] for of in pod["containers"][0]["volumeMounts"]}
    volumes = {of["name"]: of for of in pod["volumes"]}
    assert mounted.keys() == {"/shared", "/dev/shm"} and volumes.keys() == set(mounted.values())
    assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
    pod = pod_of(manifest_of(dry_run(kubernetes, *JOB_SET, "--gpus_per_pod=1").out))
    assert pod["terminationGracePeriodSeconds"] == 120
    assert len(pod["volumes"]) == len(pod["containers"][0]["volumeMounts"]) == 1


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
