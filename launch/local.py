"""Trains on this machine: on the CPU, on virtual devices, or on all GPUs; in one process or several.

Example:
  python -m launch.local -- --config=configs/lsec_gcn_synthetic.py --workdir=runs/a
  python -m launch.local --processes=2 --virtual_devices=4 -- --config=configs/lsec_gcn_synthetic.py --workdir=runs/a

When a process fails, all are ended and started again, --restarts times at the most; training resumes from its newest
checkpoint. SIGTERM and Ctrl-C are passed on, and nothing is started again. launch/README.md says more.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from launch import common

_POLL_SECONDS = 0.1
# Once a process is dead, the others can finish neither a step nor a checkpoint.
_FAILED_SECONDS = 5.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns the exit code."""
    own, training = common.split(arguments)
    parser = common.Parser("local", __doc__ or "")
    number = common.at_least(1)
    parser.add_argument("--processes", type=number, default=1, help="how many processes train together; default 1")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: all GPUs if there are any, else the CPU"
    )
    parser.add_argument(
        "--virtual_devices", type=number, help="split the CPU of each process into so many devices, for trials"
    )
    parser.add_argument("--gpus", type=number, help="how many GPUs there are; default: nvidia-smi counts them")
    parser.add_argument(
        "--restarts", type=common.at_least(0), default=3, help="how often to start again after a failure; default 3"
    )
    parser.add_argument(
        "--port", type=common.at_least(1), help="where processes meet; default: a free one at every start"
    )
    parser.add_argument(
        "--grace_seconds", type=number, default=30, help="between passing SIGTERM on and killing; default 30"
    )
    options = parser.parse_args(own)
    common.check_training(training)
    environments = _environments(options.processes, options.device, options.virtual_devices, options.gpus)
    command = [sys.executable, "-m", "lsec_jax.train", *training]
    if options.dry_run:
        port = options.port or "FREE_PORT"
        for place, environment in zip(_places(options.processes, port), environments, strict=True):
            print(common.quoted([*command, *place], environment))
        return 0
    return Supervisor(command, environments, options.port, options.grace_seconds).run(options.restarts)


def _environments(
    num_processes: int, device: str, virtual_devices: int | None, gpus: int | None
) -> list[dict[str, str]]:
    """Returns the variables to set for each process; refuses what cannot be."""
    if virtual_devices and device == "gpu":
        common.fail("--virtual_devices splits the CPU; leave --device=gpu out")
    if gpus and device == "cpu":
        common.fail("--gpus contradicts --device=cpu; leave one of them out")
    counted = 0 if device == "cpu" or virtual_devices or not _may_use_gpus() else gpus or _count_gpus()
    if device == "gpu" and not counted:
        common.fail(
            "--device=gpu: no GPU is found here (CUDA_VISIBLE_DEVICES, JAX_PLATFORMS, nvidia-smi); use --device=cpu"
        )
    wanted = {"JAX_PLATFORMS": common.GPU_PLATFORMS if counted else "cpu"}
    if virtual_devices:
        wanted["JAX_NUM_CPU_DEVICES"] = str(virtual_devices)
    shared = common.add_environment(wanted, os.environ)
    if not counted or num_processes == 1:
        return [shared] * num_processes
    if counted % num_processes:
        common.fail(
            f"--processes={num_processes}: {counted} GPUs cannot be shared evenly; choose a divisor of {counted}"
        )
    each = counted // num_processes
    environments = []
    for i in range(num_processes):
        devices = ",".join(str(i * each + k) for k in range(each))
        environments.append(shared | common.add_environment({"JAX_LOCAL_DEVICE_IDS": devices}, os.environ))
    return environments


def _may_use_gpus() -> bool:
    return any(name in os.environ.get("JAX_PLATFORMS", "cuda") for name in ("cuda", "gpu"))


def _count_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def _places(num_processes: int, port: int | str) -> list[list[str]]:
    """Returns the flags by which each process knows its place; a single one needs none."""
    if num_processes == 1:
        return [["--cluster=none"]]
    shared = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={num_processes}"]
    return [[*shared, f"--process_id={i}"] for i in range(num_processes)]


class Supervisor:
    """Keeps the processes of a run going together: they end together, and start again together."""

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        port: int | None = None,
        grace_seconds: float = 30,
    ):
        """Prepares; `run` starts.

        Args:
            command: of every process, without the flags of its place.
            environments: variables to set, one dict for each process.
            port: of the coordinator; None = a free one at every start.
            grace_seconds: between passing a signal on and SIGKILL.
        """
        self._command, self._environments, self._port, self._grace = command, environments, port, grace_seconds
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signal: int | None = None  # passed on
        self._asked_at = 0.0

    def run(self, restarts: int) -> int:
        """Runs to the end; returns the exit code: 0, or that of the process that failed first at the last try."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        for attempt in range(restarts + 1):
            code = self._run_once()
            if code == 0 or self._signal is not None or code in common.FINAL_EXITS:
                break
            left = restarts - attempt
            common.log(f"starting again, {left} left" if left else "no restarts left; the same command resumes the run")
        return code

    def _run_once(self) -> int:
        places = _places(len(self._environments), self._port or _free_port())
        self._processes = []
        try:
            for place, environment in zip(places, self._environments, strict=True):
                # In a session of its own a process hears of Ctrl-C from here alone, and takes its children along.
                own = {**os.environ, **environment}
                self._processes.append(
                    subprocess.Popen(
                        [*self._command, *place], env=own, start_new_session=True, preexec_fn=_end_with_launcher
                    )
                )
            common.log("started " + ", ".join(f"process {i} (pid {p.pid})" for i, p in enumerate(self._processes)))
            if self._signal is not None:  # it came while they were being started
                self._send_all(self._signal)
            return self._wait()
        finally:
            self._end_all()

    def _wait(self) -> int:
        """Returns 0 when all have ended well, else the code of the first that failed."""
        while True:
            codes = [process.poll() for process in self._processes]
            failed = [(i, common.exit_code(code)) for i, code in enumerate(codes) if code]
            if failed:
                # Of several that ended at once, the one that says why.
                index, code = next(((i, code) for i, code in failed if code in common.FINAL_EXITS), failed[0])
                common.log(f"process {index} ended with {code}")
                return code
            if all(code == 0 for code in codes):
                return 0
            if self._signal is not None and time.monotonic() > self._asked_at + self._grace:
                common.log(f"not ended {self._grace:.0f} s after signal {self._signal}: killed")
                return 128 + self._signal
            time.sleep(_POLL_SECONDS)

    def _end_all(self) -> None:
        """Ends what still runs: asks, unless a signal has been passed on already, waits, kills."""
        deadline = self._asked_at + self._grace
        if self._signal is None:
            deadline = time.monotonic() + min(_FAILED_SECONDS, self._grace)
            self._send_all(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
        self._send_all(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Passes a signal on; the second one kills."""
        if self._signal is None:
            self._signal, self._asked_at = number, time.monotonic()
            self._send_all(number)
        else:
            self._send_all(signal.SIGKILL)

    def _send_all(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


def _end_with_launcher() -> None:
    """Runs in a new process: it gets SIGTERM also where the launcher is killed and can pass nothing on (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    common.run(main)
