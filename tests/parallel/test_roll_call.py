"""Processes find each other, or say what is wrong; threads stand for processes here."""

import contextlib
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lsec_jax.parallel import roll_call
from lsec_jax.parallel.members import Member
from lsec_jax.parallel.processes import ProcessError
from tests.started import free_port


def outcomes(members, seconds=20.0, delays=()):
    """Lets members call the roll at the same time; returns the message of each, "" where all was well."""

    def hold(member, delay):
        time.sleep(delay)
        try:
            roll_call.hold(member, seconds)
        except ProcessError as error:
            return str(error)
        return ""

    delays = delays or [0.0] * len(members)
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(hold, members, delays))


def members_of(num_processes, host="127.0.0.1"):
    port = free_port()
    return [Member(f"{host}:{port}", num_processes, i) for i in range(num_processes)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_processes_find_each_other(host):
    assert outcomes(members_of(3, host)) == ["", "", ""]


@pytest.mark.parametrize("late", [0, 2])
def test_processes_may_come_one_after_the_other(late):
    delays = [0.5 if i == late else 0.0 for i in range(3)]
    assert outcomes(members_of(3), delays=delays) == ["", "", ""]


def test_the_port_is_free_again_after_the_roll_call():
    """jax listens there next."""
    members = members_of(2)
    assert outcomes(members) == ["", ""]
    socket.create_server(("127.0.0.1", int(members[0].coordinator.rpartition(":")[2]))).close()


def test_a_process_that_does_not_come_is_named_to_all_others():
    messages = outcomes(members_of(4)[:2], seconds=1.0)
    assert messages[0] == messages[1]
    assert re.match(r"processes 2, 3 of 4 did not reach 127\.0\.0\.1:\d+ within 1 s", messages[0])
    assert "--cluster=none" in messages[0]


def test_a_coordinator_that_cannot_be_reached_is_named():
    member = members_of(2)[1]
    (message,) = outcomes([member], seconds=0.5)
    assert f"the coordinator {member.coordinator} cannot be reached" in message and "Connection refused" in message


def test_a_host_that_nobody_knows_is_named():
    (message,) = outcomes([Member("nowhere.invalid:1234", 2, 1)], seconds=0.1)
    assert "the coordinator nowhere.invalid:1234 cannot be reached" in message


def test_a_port_that_is_taken_is_named():
    member = members_of(2)[0]
    with socket.create_server(("127.0.0.1", int(member.coordinator.rpartition(":")[2]))):
        (message,) = outcomes([member])
    assert f"process 0 cannot listen on {member.coordinator} (Address already in use)" in message


def test_processes_that_count_differently_are_told():
    first, _ = members_of(2)
    other = Member(first.coordinator, 3, 2)
    messages = outcomes([first, other])
    assert messages[0] == messages[1]
    assert messages[0].startswith("process 2 counts 3 processes, process 0 counts 2")


def test_two_processes_of_one_number_are_told():
    first, second, _ = members_of(3)
    messages = outcomes([first, second, second])
    assert len(set(messages)) == 1
    assert messages[0].startswith("two processes have the number 1")


def test_a_process_that_was_started_again_while_the_others_waited_is_no_second_one():
    first, second, third = members_of(3)
    address = ("127.0.0.1", int(first.coordinator.rpartition(":")[2]))

    def come_and_die():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(address) as connection:
                connection.sendall(b'{"process_id": 1, "num_processes": 3}\n')
                return
            time.sleep(0.02)

    thread = threading.Thread(target=come_and_die)
    thread.start()
    assert outcomes([first, second, third], delays=[0.0, 0.5, 0.5]) == ["", "", ""]
    thread.join()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b""], ids=["http", "list", "empty", "no"]
)
def test_strangers_on_the_port_are_passed_over(said):
    first, second = members_of(2)
    address = ("127.0.0.1", int(first.coordinator.rpartition(":")[2]))

    def call():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(address) as connection:
                connection.sendall(said)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=call)
    thread.start()
    assert outcomes([first, second], delays=[0.0, 0.3]) == ["", ""]
    thread.join()


def test_another_service_on_the_port_is_no_coordinator():
    member = members_of(2)[1]
    with socket.create_server(("127.0.0.1", int(member.coordinator.rpartition(":")[2]))) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail\n")

        thread = threading.Thread(target=serve)
        thread.start()
        (message,) = outcomes([member], seconds=0.1)
        thread.join()
    assert "what listens there does not answer as process 0 of a run" in message


def test_runs_on_one_machine_listen_on_its_loopback_alone(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    assert roll_call.bind_address(Member("127.0.0.1:99", 2, 0)) == "127.0.0.1:99"
    assert roll_call.bind_address(Member("node01:99", 2, 0)) == "[::]:99"
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.1:99")
    assert roll_call.bind_address(Member("node01:99", 2, 0)) == "10.0.0.1:99"
