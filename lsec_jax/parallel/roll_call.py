"""The processes of a run find each other before jax connects them.

jax 0.10 ends a process from C++ (SIGABRT, even SIGSEGV) if its coordinator cannot be reached, if its port is taken or
if a process does not come. So process 0 first takes the coordinator's port itself, waits there until every process has
named its number, and lets all of them go on, or says to all what is wrong. Then jax gets the port.
"""

import contextlib
import json
import os
import socket
import time
from typing import Any

from lsec_jax.parallel.members import Member, split_address
from lsec_jax.parallel.processes import ProcessError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RETRY_SECONDS = 0.2
_LINE_SECONDS = 5.0
_LONGEST_LINE = 10_000
_ALONE = "for a run of one process give --cluster=none"


def hold(member: Member, timeout_seconds: float) -> None:
    """Returns when all processes are there.

    Args:
        member: which of them this is.
        timeout_seconds: how long to wait for the others.

    Raises:
        ProcessError: if the coordinator cannot be reached, its port cannot be had, or a process does not come or
            contradicts the others; on all processes that are there.
    """
    if member.process_id == 0:
        _call(member, timeout_seconds)
    else:
        _answer(member, timeout_seconds)


def bind_address(member: Member) -> str:
    """Where process 0 listens: on all interfaces, but for runs on one machine on that one's loopback alone."""
    host, port = split_address("coordinator", member.coordinator)
    own = member.coordinator if host in _LOOPBACK else f"[::]:{port}"
    return os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", own)


def _call(member: Member, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    present: dict[int, socket.socket] = {}
    connections: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(bind_address(member)))
        while len(present) < member.num_processes - 1:
            connection = _accept(server, deadline)
            if connection is None:
                absent = [i for i in range(1, member.num_processes) if i not in present]
                problem: str | None = (
                    f"{_names(absent)} of {member.num_processes} did not reach {member.coordinator} within "
                    f"{timeout_seconds:.0f} s (config.parallel.initialization_seconds); see their logs, or {_ALONE}"
                )
            else:
                connections.append(stack.enter_context(connection))
                said = _receive(connection, min(deadline, time.monotonic() + _LINE_SECONDS))
                # One that ended while it waited does not count; it may come again.
                present = {number: other for number, other in present.items() if _is_open(other)}
                problem = _admit(said, connection, member, present)
            if problem:
                _tell(connections, {"error": problem})
                raise ProcessError(problem)
        _tell(connections, {"go": True})


def _admit(
    said: dict[str, Any] | None, connection: socket.socket, member: Member, present: dict[int, socket.socket]
) -> str | None:
    """Takes in what a process said of itself; returns what is wrong with it. Strangers on the port are passed over."""
    if said is None or not all(isinstance(said.get(name), int) for name in ("process_id", "num_processes")):
        return None
    number, count = said["process_id"], said["num_processes"]
    if count != member.num_processes:
        problem = f"process {number} counts {count} processes, process 0 counts {member.num_processes}"
    elif not 0 < number < count:
        problem = f"process {number} reached process 0, but the others are numbered from 1 to {count - 1}"
    elif number in present:
        problem = f"two processes have the number {number}"
    else:
        present[number] = connection
        return None
    return f"{problem}; give each process the same number of processes and a number of its own"


def _answer(member: Member, timeout_seconds: float) -> None:
    address = split_address("coordinator", member.coordinator)
    deadline = time.monotonic() + timeout_seconds
    reason = ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=_LINE_SECONDS) as connection:
                said = {"process_id": member.process_id, "num_processes": member.num_processes}
                connection.sendall(json.dumps(said).encode() + b"\n")
                # Process 0 began to wait before it took this connection in, so it answers within its own time limit.
                reply = _receive(connection, time.monotonic() + timeout_seconds + _LINE_SECONDS)
        except OSError as error:  # not there yet, or its name is not known yet
            reason = error.strerror or str(error)
        else:
            if reply is not None and "error" in reply:
                raise ProcessError(str(reply["error"]))
            if reply is not None and reply.get("go") is True:
                return
            reason = "what listens there does not answer as process 0 of a run"
        time.sleep(_RETRY_SECONDS)
    raise ProcessError(
        f"the coordinator {member.coordinator} cannot be reached within {timeout_seconds:.0f} s ({reason}): start "
        "process 0 on that machine, check address, port and firewall, or raise config.parallel.initialization_seconds; "
        + _ALONE
    )


def _listen(address: str) -> socket.socket:
    host, port = split_address("coordinator", address)
    try:
        if host in ("::", "0.0.0.0"):
            if host == "::" and socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", port))
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ProcessError(
            f"process 0 cannot listen on {address} ({os.strerror(error.errno) if error.errno else error}); choose a "
            "free port of this machine for the coordinator"
        ) from error


def _accept(server: socket.socket, deadline: float) -> socket.socket | None:
    """Returns the next connection, or None at the deadline."""
    server.settimeout(max(deadline - time.monotonic(), 0.001))
    try:
        return server.accept()[0]
    except TimeoutError:
        return None


def _receive(connection: socket.socket, deadline: float) -> dict[str, Any] | None:
    """Returns one line of JSON, or None if what came is nothing of the kind."""
    received = b""
    while not received.endswith(b"\n") and len(received) < _LONGEST_LINE:
        connection.settimeout(max(min(deadline - time.monotonic(), _LINE_SECONDS), 0.001))
        try:
            piece = connection.recv(4096)
        except TimeoutError:
            if time.monotonic() < deadline:
                continue
            return None
        except OSError:
            return None
        if not piece:
            return None
        received += piece
    try:
        said = json.loads(received)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end is still there: nothing to read, and no end of file."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _tell(connections: list[socket.socket], said: dict[str, Any]) -> None:
    """Answers all, and waits until they have closed: the side that closes first keeps the port for a while."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.settimeout(_LINE_SECONDS)
            connection.sendall(json.dumps(said).encode() + b"\n")
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.recv(1)


def _names(numbers: list[int]) -> str:
    return ("process " if len(numbers) == 1 else "processes ") + ", ".join(map(str, numbers))
