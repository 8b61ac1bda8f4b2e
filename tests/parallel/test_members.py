"""Which process of a run this one is."""

import pytest

from lsec_jax.config import ConfigError
from lsec_jax.parallel import members
from lsec_jax.parallel.members import Member
from tests.runs import CONFIG_FILE, refusal

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
KUBERNETES = {
    "JAX_COORDINATOR_ADDRESS": "run-a-workers-0-0.run-a:8476",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "2",
}


@pytest.fixture(autouse=True)
def _outside_of_clusters(monkeypatch):
    others = ("JAX_COORDINATOR_PORT", "JAX_LOCAL_DEVICE_IDS", "CUDA_VISIBLE_DEVICES")
    for name in (*SLURM, *KUBERNETES, *others):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def inside(monkeypatch):
    """Returns inside(variables): from now on the environment has them."""

    def add(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return add


def find(cluster="auto", coordinator=None, num_processes=None, process_id=None):
    return members.find(cluster, coordinator, num_processes, process_id, timeout_seconds=1)


def test_without_flags_and_outside_of_clusters_a_run_is_one_process():
    assert find() is None


def test_flags_say_which_process_this_is_whatever_the_environment_says(inside):
    inside(SLURM | KUBERNETES)
    assert find("auto", "10.0.0.1:99", 2, 1) == find("explicit", "10.0.0.1:99", 2, 1) == Member("10.0.0.1:99", 2, 1)


def test_a_slurm_task_knows_its_number_and_its_gpu(inside):
    inside(SLURM)
    found = find()
    assert (found.num_processes, found.process_id, found.local_device_ids) == (4, 3, (1,))
    assert found.coordinator.startswith("node01:")
    assert find("slurm") == found


def test_a_slurm_task_that_sees_one_gpu_takes_that_one(inside):
    """Where SLURM binds GPUs to tasks, each sees its own as number 0."""
    inside(SLURM | {"CUDA_VISIBLE_DEVICES": "1"})
    assert find().local_device_ids == (0,)


def test_the_only_slurm_task_of_a_node_takes_all_its_gpus(inside):
    inside(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1"})
    assert find().local_device_ids is None


def test_devices_that_the_user_chose_are_kept_under_slurm(inside):
    inside(SLURM | {"JAX_LOCAL_DEVICE_IDS": "3"})
    assert find().local_device_ids is None  # jax reads the variable


def test_address_and_port_of_the_coordinator_can_be_given_under_slurm(inside):
    inside(SLURM | {"JAX_COORDINATOR_PORT": "1234"})
    assert find().coordinator == "node01:1234"
    inside({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"})
    assert find().coordinator == "10.0.0.1:99"


def test_a_pod_of_an_indexed_job_knows_its_number(inside):
    inside(KUBERNETES)
    assert find() == find("kubernetes") == Member("run-a-workers-0-0.run-a:8476", 4, 2)


def test_a_pod_of_a_job_of_independent_runs_is_one_process(inside):
    inside({"JOB_COMPLETION_INDEX": "2"})
    assert find() is None


@pytest.mark.parametrize("variables", [SLURM, KUBERNETES], ids=["slurm", "kubernetes"])
def test_a_cluster_can_be_ignored(inside, variables):
    inside(variables)
    assert find("none") is None


class Pod:
    """Stands for the metadata of a TPU's worker."""

    @classmethod
    def is_env_present(cls):
        return True

    @classmethod
    def get_process_count(cls):
        return 4

    @classmethod
    def get_process_id(cls):
        return 1

    @classmethod
    def get_coordinator_address(cls, timeout_secs, override_coordinator_port):
        return f"t1v-0:{override_coordinator_port or 8482}"


def test_a_tpu_worker_knows_its_number_from_the_metadata(monkeypatch):
    monkeypatch.setattr(members, "_TPU_CLUSTERS", (Pod,))
    assert find() == find("tpu") == Member("t1v-0:8482", 4, 1)
    assert find("none") is None


def test_metadata_of_a_tpu_that_cannot_be_read_are_named(monkeypatch):
    class Broken(Pod):
        @classmethod
        def get_process_id(cls):
            raise RuntimeError("Getting metadata['agent-worker-number'] failed for 6 tries")

    monkeypatch.setattr(members, "_TPU_CLUSTERS", (Broken,))
    with pytest.raises(ConfigError, match=r"agent-worker-number.*--cluster=none"):
        find()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("auto", "h:1", 2, None), "together, or none of them"),
        (("explicit",), "together, or none of them"),
        (("none", "h:1", 2, 1), "--coordinator, --num_processes, --process_id: only for --cluster=explicit"),
        (("auto", "h", 2, 1), "--coordinator=h: give HOST:PORT"),
        (("auto", "h:0", 2, 1), "--coordinator=h:0: give HOST:PORT"),
        (("auto", "h:70000", 2, 1), "from 1 to 65535"),
        (("auto", "h:1", 0, 0), "--num_processes=0 must be at least 1"),
        (("auto", "h:1", 2, 2), "--process_id=2: processes are numbered from 0 to 1"),
        (("auto", "h:1", 2, -1), "--process_id=-1"),
        (("slurm",), "start the command with srun"),
        (("kubernetes",), "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JOB_COMPLETION_INDEX not set"),
        (("tpu",), "this is no TPU machine"),
    ],
)
def test_what_does_not_say_which_process_this_is_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        find(*arguments)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES=four is not a number"),
        ({"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX=4: processes are numbered from 0 to 3"),
        ({"JAX_COORDINATOR_ADDRESS": "run-a"}, "JAX_COORDINATOR_ADDRESS=run-a: give HOST:PORT"),
    ],
)
def test_wrong_variables_of_a_pod_are_named(inside, variables, message):
    inside(KUBERNETES | variables)
    with pytest.raises(ConfigError, match=message):
        find()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_processes=2"], "give --coordinator=HOST:PORT, --num_processes=N and --process_id=I together"),
        (["--cluster=slurm"], "--cluster=slurm: this is no task of a SLURM step"),
        (["--cluster=mpi"], "value should be one of"),
        (["--config.parallel.heartbeat_seconds=0"], "config.parallel.heartbeat_seconds = 0 must be at least 1"),
        (["--config.parallel.initialization_seconds=0"], "config.parallel.initialization_seconds = 0 must be at least"),
    ],
)
def test_train_refuses_them_before_anything_is_written(tmp_path, arguments, message):
    (tmp_path / "config.py").write_text(CONFIG_FILE)
    workdir = tmp_path / "run"
    assert message in refusal("train", f"--config={tmp_path}/config.py", f"--workdir={workdir}", *arguments)
    assert not workdir.exists()
