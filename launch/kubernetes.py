r"""Trains on Kubernetes: a JobSet whose pods are the processes of one run.

Example:
  python -m launch.kubernetes --name=run-a --image=REGISTRY/lsec_jax:1 --claim=runs --pods=2 --gpus_per_pod=8 -- \
      --config=configs/lsec_gcn_synthetic.py --workdir=/shared/runs/a

Needs JobSet (sigs.k8s.io/jobset) on the cluster, an image that has this repository as its working directory, and a
volume claim that all pods may write to. All pods start again after a failure. launch/README.md says more.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from launch import common

_PORT = 8476
_JOB = "workers"
_CONTAINER = "train"


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns the exit code."""
    own, training = common.split(arguments)
    parser = common.Parser("kubernetes", __doc__ or "")
    number = common.at_least(1)
    parser.add_argument("--name", required=True, help="of the JobSet: lower-case letters, digits and -")
    parser.add_argument("--image", required=True, help="has this repository as its working directory")
    parser.add_argument("--claim", required=True, help="persistent volume claim for the workdir, ReadWriteMany")
    parser.add_argument("--mount", default="/shared", help="where the pods see it; default /shared")
    parser.add_argument("--namespace")
    parser.add_argument(
        "--pods", type=number, default=1, help="processes; a TPU slice has one for each host; default 1"
    )
    parser.add_argument("--gpus_per_pod", type=number)
    parser.add_argument("--tpu_chips_per_pod", type=number)
    parser.add_argument("--tpu_accelerator", help="GKE's name, e.g. tpu-v6e-slice")
    parser.add_argument("--tpu_topology", help="e.g. 4x4")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable; repeatable")
    parser.add_argument("--restarts", type=common.at_least(0), default=3, help="of all pods after a failure; default 3")
    parser.add_argument(
        "--grace_seconds", type=number, default=120, help="for saving, between SIGTERM and killing; default 120"
    )
    options = parser.parse_args(own)
    flags = common.check_training(training)
    _check(options, flags["workdir"])
    text = json.dumps(_manifest(options, training), indent=2)
    command = ["kubectl", "apply", "-f", "-"]
    if options.dry_run:
        print(f"{common.quoted(command)} <<'MANIFEST'\n{text}\nMANIFEST")
        return 0
    if shutil.which("kubectl") is None:
        common.fail("there is no kubectl here; install it, or look at --dry-run")
    return common.exit_code(subprocess.run(command, input=text, text=True, check=False).returncode)


def _check(options: Any, workdir: str) -> None:
    """Ends the program if options contradict each other."""
    # It becomes part of the pods' host names, which have 63 characters at the most.
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", options.name):
        common.fail(f"--name={options.name}: give at most 40 lower-case letters, digits and -, the first one a letter")
    if not workdir.startswith(options.mount.rstrip("/") + "/"):
        common.fail(f"--workdir={workdir} is not below --mount={options.mount}: it would end with its pod")
    tpu = (options.tpu_chips_per_pod, options.tpu_accelerator, options.tpu_topology)
    if any(tpu) and not all(tpu):
        common.fail("give --tpu_chips_per_pod, --tpu_accelerator and --tpu_topology together, or none of them")
    if any(tpu) and options.gpus_per_pod:
        common.fail("--gpus_per_pod and the options of TPUs contradict each other; leave one of them out")


def _manifest(options: Any, training: Sequence[str]) -> dict[str, Any]:
    """The JobSet: one indexed job, and a headless service that gives its pod 0 a name."""
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_seconds,
        "containers": [_container(options, training)],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": options.claim}}],
    }
    if _has_several_gpus(options):
        pod["volumes"].append({"name": "memory", "emptyDir": {"medium": "Memory"}})
    if options.tpu_topology:
        pod["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu_accelerator,
            "cloud.google.com/gke-tpu-topology": options.tpu_topology,
        }
    final = {"containerName": _CONTAINER, "operator": "In", "values": [common.USER_ERROR_EXIT]}
    job = {
        "parallelism": options.pods,
        "completions": options.pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name, **({"namespace": options.namespace} if options.namespace else {})},
        "spec": {
            "failurePolicy": {
                "maxRestarts": options.restarts,
                # Wrong input is not tried again.
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


def _container(options: Any, training: Sequence[str]) -> dict[str, Any]:
    given = common.parse_environment(options.env)
    cluster, wanted = (
        "kubernetes",
        {
            "JAX_COORDINATOR_ADDRESS": f"{options.name}-{_JOB}-0-0.{options.name}:{_PORT}",
            "JAX_NUM_PROCESSES": str(options.pods),
        },
    )
    limits: dict[str, int] = {}
    if options.tpu_topology:
        limits = {"google.com/tpu": options.tpu_chips_per_pod}
        cluster, wanted = "tpu", {"JAX_PLATFORMS": common.TPU_PLATFORMS}
    elif options.gpus_per_pod:
        limits = {"nvidia.com/gpu": options.gpus_per_pod}
        wanted["JAX_PLATFORMS"] = common.GPU_PLATFORMS
    else:
        wanted["JAX_PLATFORMS"] = "cpu"
    environment = {**given, **common.add_environment(wanted, given)}
    command = ["python", "-m", "lsec_jax.train", f"--cluster={cluster}", *training]
    mounts = [{"name": "shared", "mountPath": options.mount}]
    if _has_several_gpus(options):
        mounts.append({"name": "memory", "mountPath": "/dev/shm"})
    return {
        "name": _CONTAINER,
        "image": options.image,
        "command": [_escaped(part) for part in command],
        "env": [{"name": name, "value": _escaped(value)} for name, value in environment.items()],
        "ports": [{"containerPort": _PORT}],
        "resources": {"limits": limits},
        "volumeMounts": mounts,
    }


def _has_several_gpus(options: Any) -> bool:
    """Then NCCL shares more memory between them than the 64 MB that a container has at /dev/shm."""
    return (options.gpus_per_pod or 0) > 1


def _escaped(text: str) -> str:
    """Kubernetes would replace $(NAME) by a variable, and $$ by $."""
    return text.replace("$", "$$")


if __name__ == "__main__":
    common.run(main)
