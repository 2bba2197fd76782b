import socket
import subprocess
import sys

import pytest

OUTSIDE = ("192.0.2.1", 443)  # reserved for documentation, so nobody answers there


def test_this_process_cannot_leave_the_machine():
    with (
        socket.socket() as connection,
        pytest.raises(ConnectionRefusedError, match="must not use the network"),
    ):
        connection.connect(OUTSIDE)
    with (
        socket.socket() as connection,
        pytest.raises(ConnectionRefusedError, match="must not use the network"),
    ):
        connection.connect_ex(OUTSIDE)


def test_names_are_refused_before_they_are_looked_up():
    with pytest.raises(ConnectionRefusedError), socket.socket() as connection:
        connection.connect(("hub.example", 443))


def test_child_processes_cannot_leave_the_machine():
    code = f"import socket; socket.socket().connect({OUTSIDE!r})"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert outcome.returncode != 0
    assert "tests must not use the network" in outcome.stderr


def test_the_loopback_stays_open():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.socket() as client:
            client.connect(server.getsockname())
